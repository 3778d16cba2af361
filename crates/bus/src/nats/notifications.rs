//! Gateways ask for the number of unread notifications over NATS's core: `foghorn.notifications.unread`, which one of the
//! processes that keep notifications answers. The body is the user's id; the answer is the number, or nothing.

use std::time::Duration;

use async_nats::Subject;
use bytes::Bytes;
use futures::FutureExt as _;
use tokio::time::timeout;

use super::link::Link;
use super::pump::{Pumped, Shared};
use super::request::may_answer;
use super::{Bus, BusError};
use crate::Future;
use crate::metrics::Metrics;
use crate::notifications::{Unread, UnreadError};

const SUBJECT: &str = "foghorn.notifications.unread";
const GROUP: &str = "foghorn-notifications";
/// How long an answer is waited for.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// Bytes of questions that wait; what doesn't fit is dropped and counted.
const QUEUE_BYTES: usize = 4 << 20;
/// Digits of the largest number, and most bytes of an answer.
const ANSWER_BYTES_MAX: usize = 20;

/// Who keeps the notifications of a cluster. Cheap to clone.
#[derive(Debug, Clone)]
pub struct NatsUnread(Bus);

impl NatsUnread {
    pub(super) fn new(bus: Bus) -> Self {
        NatsUnread(bus)
    }

    async fn ask(&self, user: &str) -> Result<u64, UnreadError> {
        let unknown = |why: &dyn std::fmt::Display| UnreadError(why.to_string());
        // Not sent into a broken connection: it would be answered long after it was given up.
        let client = self.0.0.main.connected_client().ok_or_else(|| unknown(&"no connection to NATS"))?;
        let asked = client.request(SUBJECT, Bytes::copy_from_slice(user.as_bytes()));
        let answer = timeout(ANSWER_TIMEOUT, asked).await.map_err(|_| unknown(&"no answer in time"))?;
        let payload = answer.map_err(|error| unknown(&error))?.payload;
        let number = std::str::from_utf8(&payload).ok().filter(|text| text.len() <= ANSWER_BYTES_MAX);
        number
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| unknown(&"whoever keeps them doesn't know now"))
    }
}

impl Unread for NatsUnread {
    fn unread<'a>(&'a self, user: &'a str) -> Future<'a, Result<u64, UnreadError>> {
        self.ask(user).boxed()
    }
}

/// What gateways ask. At most once: who hears nothing gives up.
#[derive(Debug)]
pub struct UnreadQuestions {
    messages: Pumped,
    answers: Link,
    metrics: Metrics,
}

/// A gateway wants to know how many are unread.
#[derive(Debug)]
pub struct UnreadQuestion {
    /// Of the user of this id.
    pub user: String,
    reply: Subject,
    answers: Link,
}

impl UnreadQuestions {
    pub(super) async fn open(bus: &Bus) -> Result<Self, BusError> {
        let what = format!("subscribe to {SUBJECT} in the group {GROUP:?}");
        let shared = Shared {
            link: bus.requests_link().await?.clone(),
            subject: SUBJECT.to_owned(),
            group: GROUP.to_owned(),
        };
        let messages = Pumped::lasting(shared, QUEUE_BYTES, bus.0.metrics.requests_dropped.clone())
            .await
            .map_err(|error| BusError::Refused { what, why: error.to_string() })?;
        Ok(UnreadQuestions { messages, answers: bus.0.main.clone(), metrics: bus.0.metrics.clone() })
    }

    /// The next question; `None` when there will be none any more. Cancel-safe.
    pub async fn next(&mut self) -> Option<UnreadQuestion> {
        loop {
            let message = self.messages.next().await?;
            let reply = message.reply.filter(|reply| may_answer(reply));
            let user = String::from_utf8(message.payload.to_vec()).ok();
            match (reply, user) {
                (Some(reply), Some(user)) => {
                    return Some(UnreadQuestion { user, reply, answers: self.answers.clone() });
                }
                _ => {
                    self.metrics.requests_refused.inc();
                }
            }
        }
    }
}

impl UnreadQuestion {
    /// Answers with the number; none when it isn't known now.
    pub async fn answer(self, unread: Option<u64>) {
        let Some(client) = self.answers.client() else { return };
        let answer = unread.map(|unread| unread.to_string()).unwrap_or_default();
        if let Err(error) = client.publish(self.reply, answer.into()).await {
            tracing::debug!(%error, "a gateway's question about notifications can't be answered");
        }
    }
}
