//! Publish requests over NATS, as they come: unchecked.

use async_nats::{HeaderMap, Message, Subject};
use bytes::Bytes;

use foghorn_core::entry::{HEADER_ACK, HEADER_EVENT, HEADER_ID, HEADER_TTL};
use foghorn_core::secret::Secret;
use foghorn_core::trace::{HEADER_TRACEPARENT, TraceContext};

use super::announce::answer;
use super::link::Link;
use super::pump::{Pumped, Shared};
use super::{Bus, BusError};
use crate::announce::AnnounceError;
use crate::metrics::Metrics;

/// Where publishers send them.
pub(super) const PREFIX: &str = "foghorn.publish.";

/// Requests to `foghorn.publish.<channel>`, or of gateways to `foghorn.presence.<channel>` or
/// `foghorn.canary.<gateway>.<lane>`. At most once: a request that doesn't fit the queue, or is
/// taken by a process that dies, is never answered, and its sender has to retry it with the same id.
#[derive(Debug)]
pub struct Requests {
    prefix: &'static str,
    messages: Pumped,
    /// Answers go over the main connection: this one's can be made to break by whoever may publish.
    answers: Link,
    metrics: Metrics,
}

/// A request. Everything in it is the sender's word.
#[derive(Debug)]
pub struct NatsRequest {
    /// The subject after `foghorn.publish.`, `foghorn.presence.` or `foghorn.canary.`.
    pub channel: String,
    /// The header `Foghorn-Event`.
    pub event_type: Option<String>,
    /// The header `Foghorn-Id`.
    pub id: Option<String>,
    /// The header `Foghorn-Ttl`.
    pub ttl: Option<String>,
    /// The header `Foghorn-Ack`.
    pub ack: Option<String>,
    /// The header `traceparent`, if it is valid.
    pub traceparent: Option<TraceContext>,
    /// The header `Authorization`.
    pub authorization: Option<Secret>,
    /// A header that begins with `Foghorn-`, in any case, and is none of these. Their names, as all in
    /// NATS, are told apart by case.
    pub unknown_header: Option<String>,
    /// The body.
    pub data: Bytes,
    reply: Option<Subject>,
    answers: Link,
}

impl Requests {
    /// Answers go over this connection.
    pub(super) async fn open(
        bus: &Bus,
        prefix: &'static str,
        group: &str,
        answers: Link,
    ) -> Result<Self, BusError> {
        let subject = format!("{prefix}>");
        let what = format!("subscribe to {subject} in the group {group:?}");
        let shared = Shared { link: bus.requests_link().await?.clone(), subject, group: group.to_owned() };
        let (bytes, dropped) = (bus.0.options.request_queue_bytes, bus.0.metrics.requests_dropped.clone());
        let messages = Pumped::lasting(shared, bytes, dropped)
            .await
            .map_err(|error| BusError::Refused { what, why: error.to_string() })?;
        Ok(Requests { prefix, messages, answers, metrics: bus.0.metrics.clone() })
    }

    /// The next request; `None` when there will be none any more. Cancel-safe.
    pub async fn next(&mut self) -> Option<NatsRequest> {
        let message = self.next_answerable().await?;
        let text = |name: &str| {
            let headers: &HeaderMap = message.headers.as_ref()?;
            headers.get(name).map(|value| value.as_str().to_owned())
        };
        let unknown_header = message.headers.as_ref().and_then(unknown_header);
        Some(NatsRequest {
            unknown_header,
            channel: message.subject.strip_prefix(self.prefix).unwrap_or_default().to_owned(),
            event_type: text(HEADER_EVENT),
            id: text(HEADER_ID),
            ttl: text(HEADER_TTL),
            ack: text(HEADER_ACK),
            traceparent: text(HEADER_TRACEPARENT).as_deref().and_then(TraceContext::parse),
            authorization: text(HEADER_TOKEN).map(Secret::from),
            data: message.payload,
            reply: message.reply,
            answers: self.answers.clone(),
        })
    }

    /// The next message that may be answered where it asks for it. Others are not even published: who
    /// sends them is up to no good.
    async fn next_answerable(&mut self) -> Option<Message> {
        loop {
            let message = self.messages.next().await?;
            match message.reply.as_deref().filter(|reply| !may_answer(reply)) {
                None => return Some(message),
                Some(reply) => {
                    self.metrics.requests_refused.inc();
                    tracing::debug!(
                        subject = %message.subject,
                        reply,
                        "refused a publish request that wants its answer where it may not write itself"
                    );
                }
            }
        }
    }

    /// Takes no more requests; those that came already are still given out, then [`next`](Self::next)
    /// answers `None`.
    pub fn drain(&self) {
        self.messages.drain();
    }
}

impl NatsRequest {
    /// Whether anybody waits for an answer.
    pub fn wants_answer(&self) -> bool {
        self.reply.is_some()
    }

    /// Answers what a gateway wanted published.
    pub async fn announced(self, announced: &Result<(), AnnounceError>) {
        self.respond(answer(announced).into()).await;
    }

    /// Answers with JSON. At most once, like the request: when the answer is lost the sender asks again.
    pub async fn respond(self, json: Bytes) {
        let Some(reply) = self.reply else { return };
        let Some(client) = self.answers.client() else { return };
        if let Err(error) = client.publish(reply, json).await {
            tracing::debug!(%error, channel = self.channel, "a publish request can't be answered");
        }
    }
}

/// Where a request carries its token.
const HEADER_TOKEN: &str = "Authorization";

/// The names of the headers that are read.
pub const REQUEST_HEADERS: &[&str] = &[HEADER_EVENT, HEADER_ID, HEADER_TTL, HEADER_ACK, HEADER_TOKEN];

/// The first by name, so that the same request is always answered alike.
fn unknown_header(headers: &HeaderMap) -> Option<String> {
    const OURS: &str = "foghorn-";
    let is_ours = |name: &&str| {
        let begins = name.get(..OURS.len()).is_some_and(|start| start.eq_ignore_ascii_case(OURS));
        // A token in another case would be taken for none.
        begins || name.eq_ignore_ascii_case(HEADER_TOKEN)
    };
    let names = headers.iter().map(|(name, _)| AsRef::<str>::as_ref(name));
    names.filter(is_ours).filter(|name| !REQUEST_HEADERS.contains(name)).min().map(str::to_owned)
}

/// Whether an answer may go to this subject. We may write where the sender of a request may not: to the
/// journal, the live feed, buckets and the server's API.
pub(super) fn may_answer(reply: &str) -> bool {
    !reply.starts_with('$') && !reply.starts_with("foghorn.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_header_of_ours_is_noticed_and_others_are_theirs() {
        let unknown = |names: &[&str]| {
            let mut headers = HeaderMap::new();
            for name in names {
                headers.insert(*name, "x");
            }
            unknown_header(&headers)
        };
        assert_eq!(unknown(&["Foghorn-Event", "Foghorn-Id", "Foghorn-Ttl", "Foghorn-Ack"]), None);
        assert_eq!(unknown(&["traceparent", "Nats-Msg-Id", "Foghorn", "X-Foghorn-Id"]), None);
        assert_eq!(unknown(&["Foghorn-Id", "Foghorn-Evnt"]).as_deref(), Some("Foghorn-Evnt"));
        assert_eq!(unknown(&["Authorization"]), None);
        assert_eq!(unknown(&["authorization"]).as_deref(), Some("authorization"));
        assert_eq!(unknown(&["foghorn-id"]).as_deref(), Some("foghorn-id"), "names are told apart by case");
    }

    #[test]
    fn answers_go_to_nobody_elses_subjects() {
        for reply in ["_INBOX.x.1", "_R_.x", "answers", "Foghorn.x", "foghorn", "a.foghorn.journal"] {
            assert!(may_answer(reply), "{reply}");
        }
        for reply in [
            "foghorn.journal.0.victim",
            "foghorn.live.0",
            "foghorn.publish.a",
            "$KV.FOGHORN_epochs.0",
            "$JS.API.X",
        ] {
            assert!(!may_answer(reply), "{reply}");
        }
    }
}
