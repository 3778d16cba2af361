//! What the relay is compared with: reading the same stream by the plain client, and nothing else.

use std::time::Duration;

use anyhow::{Context as _, bail};
use async_nats::jetstream;
use async_nats::jetstream::consumer::{AckPolicy, push};
use futures::{FutureExt as _, StreamExt as _};
use tokio::time::timeout;

/// How long nothing may come.
const SILENCE_MOST: Duration = Duration::from_secs(10);
/// How often the server says that it is there while there is nothing to send.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// How long the server keeps the consumer when we are gone.
const ABANDONED_AFTER: Duration = Duration::from_secs(10);

/// Reads the first `count` messages of a stream, by a consumer like that of a journal's tail.
pub(super) async fn read(jetstream: &jetstream::Context, stream: &str, count: u64) -> anyhow::Result<()> {
    let config = push::Config {
        deliver_subject: jetstream.client().new_inbox(),
        ack_policy: AckPolicy::None,
        flow_control: true,
        idle_heartbeat: HEARTBEAT,
        inactive_threshold: ABANDONED_AFTER,
        memory_storage: true,
        num_replicas: 1,
        ..push::Config::default()
    };
    let consumer = jetstream.create_consumer_on_stream(config, stream).await;
    let consumer = consumer.context("can't make the plain consumer")?;
    let mut messages = consumer.messages().await.context("can't read by the plain consumer")?;
    for read in 0..count {
        // Without a timer while there is something to read, as in a tail.
        let message = match messages.next().now_or_never() {
            Some(message) => message,
            None => timeout(SILENCE_MOST, messages.next())
                .await
                .with_context(|| format!("the plain consumer gave {read} of {count} messages"))?,
        };
        match message {
            Some(message) => drop(message.context("the plain consumer broke")?),
            None => bail!("the plain consumer ended after {read} of {count} messages"),
        }
    }
    Ok(())
}
