//! The plain JetStream client: what Foghorn's publishing and relaying are compared with, and what fills
//! a journal for a benchmark.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::{Context as _, bail};
use async_nats::jetstream::context::ContextBuilder;
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, StorageType};
use async_nats::jetstream::{self, context::PublishAckFuture};
use async_nats::{Client, ConnectOptions, HeaderMap, ServerAddr, header};
use bytes::Bytes;
use foghorn_core::entry::Key;
use futures::TryStreamExt as _;
use tokio::time::timeout;

use super::door::REQUEST_DEADLINE;

/// Most messages of a subscription that the client holds; as many as Foghorn's own tails allow for.
const QUEUE_MESSAGES: usize = 1024 * 1024;
/// Bytes that a stored message takes beside its data, at most: subject, headers and the record itself.
const MESSAGE_BYTES: u64 = 512;
/// How long ids are remembered: as in a journal's stream.
const DEDUPE_WINDOW: Duration = Duration::from_secs(120);

/// A NATS server on the command line: `nats://[user:password@ or token@]host:port`.
pub(super) fn server(text: &str) -> Result<ServerAddr, String> {
    let server: Option<ServerAddr> = text.parse().ok();
    server.filter(|server| !server.is_websocket()).ok_or_else(|| "it is nats://host:port".to_owned())
}

/// Connects, with the credentials in the URL as Foghorn does, or says why not.
async fn connect(server: &ServerAddr) -> anyhow::Result<Client> {
    let options = match (server.username(), server.password()) {
        (Some(user), Some(password)) => {
            ConnectOptions::with_user_and_password(user.to_owned(), password.to_owned())
        }
        (Some(token), None) => ConnectOptions::with_token(token.to_owned()),
        _ => ConnectOptions::new(),
    };
    let options = options.name("foghorn-bench").subscription_capacity(QUEUE_MESSAGES);
    let connected = options.connect(server.clone()).await;
    connected.with_context(|| format!("can't connect to NATS at {}:{}", server.host(), server.port()))
}

/// JetStream on a connection of its own, with room for so many unacknowledged messages.
pub(super) async fn context(server: &ServerAddr, in_flight: usize) -> anyhow::Result<jetstream::Context> {
    let client = connect(server).await?;
    let context = ContextBuilder::new().timeout(REQUEST_DEADLINE).max_ack_inflight(in_flight);
    Ok(context.build(client))
}

/// The names of all streams there are.
pub(super) async fn stream_names(jetstream: &jetstream::Context) -> anyhow::Result<Vec<String>> {
    let names = timeout(REQUEST_DEADLINE, jetstream.stream_names().try_collect()).await;
    names
        .context("no answer in time")?
        .context("can't list the streams; is JetStream enabled on that server?")
}

/// Deletes a stream.
pub(super) async fn delete(jetstream: &jetstream::Context, stream: &str) -> anyhow::Result<()> {
    let deleted = jetstream.delete_stream(stream).await;
    let deleted =
        deleted.with_context(|| format!("the stream {stream} is left behind; delete it by hand"))?;
    if !deleted.success {
        bail!("the stream {stream} is left behind: the server did not delete it");
    }
    Ok(())
}

/// The room that so many messages take in a stream.
pub(super) fn stream_bytes(count: u64, size: usize) -> u64 {
    count.saturating_mul((size as u64).saturating_add(MESSAGE_BYTES))
}

/// A stream with the settings of a journal's.
pub(super) fn like_a_journal(name: &str, replicas: usize, bytes: u64) -> Config {
    Config {
        name: name.to_owned(),
        description: Some("Foghorn: made by a benchmark, which deletes it".to_owned()),
        subjects: vec![format!("{name}.>")],
        retention: RetentionPolicy::Limits,
        storage: StorageType::File,
        num_replicas: replicas,
        discard: DiscardPolicy::New,
        max_bytes: i64::try_from(bytes).unwrap_or(i64::MAX),
        duplicate_window: DEDUPE_WINDOW,
        allow_direct: true,
        ..Config::default()
    }
}

/// Messages to publish, all with the same data.
#[derive(Debug)]
pub(super) struct Load {
    /// What they are published on, in turn.
    pub(super) subjects: Vec<String>,
    pub(super) data: Bytes,
    pub(super) count: u64,
    /// Most messages without an ack at a time.
    pub(super) in_flight: usize,
}

impl Load {
    /// Publishes all of them, each with an id of its own as a journal's entries have. The first that is
    /// not acknowledged ends it.
    pub(super) async fn publish(&self, jetstream: &jetstream::Context) -> anyhow::Result<()> {
        let mut unacked: VecDeque<PublishAckFuture> = VecDeque::with_capacity(self.in_flight);
        for (_, subject) in (0..self.count).zip(self.subjects.iter().cycle()) {
            if unacked.len() >= self.in_flight
                && let Some(oldest) = unacked.pop_front()
            {
                oldest.await.context("a plain publish was not acknowledged")?;
            }
            let mut headers = HeaderMap::new();
            headers.insert(header::NATS_MESSAGE_ID, Key::invented(rand::random()).to_string());
            let sent = jetstream.publish_with_headers(subject.clone(), headers, self.data.clone()).await;
            unacked.push_back(sent.context("a plain publish could not be sent")?);
        }
        for ack in unacked {
            ack.await.context("a plain publish was not acknowledged")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_checked() {
        assert_eq!(server("127.0.0.1:4333").unwrap().port(), 4333);
        assert_eq!(server("nats://example.org").unwrap().host(), "example.org");
        for bad in ["http://host", "ws://host", "nats://host:port"] {
            assert!(server(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_stream_has_room_for_what_is_published() {
        assert!(stream_bytes(1000, 200) > 1000 * 200);
        let config = like_a_journal("x", 3, stream_bytes(u64::MAX, usize::MAX));
        assert_eq!((config.max_bytes, config.num_replicas), (i64::MAX, 3));
        assert_eq!(config.subjects, ["x.>"]);
    }
}
