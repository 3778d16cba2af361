//! Gateways report over NATS's core: `foghorn.rollout`, which whoever leads the operators answers. Without anybody there
//! the server says so at once.

use std::time::Duration;

use async_nats::{Request, RequestErrorKind, Subject};
use futures::FutureExt as _;
use tokio::time::timeout;

use super::link::Link;
use super::pump::{Pumped, Shared};
use super::request::may_answer;
use super::{Bus, BusError};
use crate::Future;
use crate::gateways::{AskError, GatewayName};
use crate::metrics::Metrics;
use crate::rollout::{Order, Pacer, Report};

const SUBJECT: &str = "foghorn.rollout";
/// How long an order is waited for.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes of reports that wait; what doesn't fit is dropped and counted.
const QUEUE_BYTES: usize = 4 << 20;

/// Whoever paces the gateways of a cluster. Cheap to clone.
#[derive(Debug, Clone)]
pub struct NatsPacer(Bus);

impl NatsPacer {
    pub(super) fn new(bus: Bus) -> Self {
        NatsPacer(bus)
    }

    async fn report_now(&self, report: &Report) -> Result<Order, AskError> {
        let unavailable = |why: &dyn std::fmt::Display| AskError::Unavailable(why.to_string());
        let body = serde_json::to_vec(report).map_err(|error| unavailable(&error))?;
        // Not sent into a broken connection: by the time that it stands again this is no longer so.
        let client = self.0.0.main.connected_client();
        let client = client.ok_or_else(|| unavailable(&"no connection to NATS"))?;
        let request = Request::new().payload(body.into()).timeout(None);
        match timeout(ANSWER_TIMEOUT, client.send_request(SUBJECT, request)).await {
            Ok(Ok(answer)) => {
                Order::parse(&answer.payload).ok_or_else(|| unavailable(&"an order that can't be read here"))
            }
            Ok(Err(error)) if error.kind() == RequestErrorKind::NoResponders => Err(AskError::Nobody),
            Ok(Err(error)) => Err(unavailable(&error)),
            Err(_) => Err(unavailable(&"no answer in time")),
        }
    }
}

impl Pacer for NatsPacer {
    fn report<'a>(&'a self, report: &'a Report) -> Future<'a, Result<Order, AskError>> {
        self.report_now(report).boxed()
    }
}

/// What gateways report. At most once: who hears nothing reports again.
#[derive(Debug)]
pub struct Reports {
    messages: Pumped,
    answers: Link,
    metrics: Metrics,
}

/// A report that waits for its order.
#[derive(Debug)]
pub struct Reported {
    /// What the gateway says.
    pub report: Report,
    reply: Subject,
    answers: Link,
}

impl Reports {
    pub(super) async fn open(bus: &Bus) -> Result<Self, BusError> {
        let what = format!("subscribe to {SUBJECT}");
        let link = bus.requests_link().await?.clone();
        // A group of its own: one who leads no more, and whose machine is gone without a word, is not to take what another
        // would have answered. While there are two for a moment, either's word will do.
        let group = GatewayName::random().to_string();
        let shared = Shared { link: link.clone(), subject: SUBJECT.to_owned(), group };
        let messages = Pumped::lasting(shared, QUEUE_BYTES, bus.0.metrics.requests_dropped.clone())
            .await
            .map_err(|error| BusError::Refused { what, why: error.to_string() })?;
        // Only the connection that was asked may answer.
        Ok(Reports { messages, answers: link, metrics: bus.0.metrics.clone() })
    }

    /// The next report; `None` when there will be none any more. Cancel-safe.
    pub async fn next(&mut self) -> Option<Reported> {
        loop {
            let message = self.messages.next().await?;
            let reply = message.reply.filter(|reply| may_answer(reply));
            if let (Some(reply), Some(report)) = (reply, Report::parse(&message.payload)) {
                return Some(Reported { report, reply, answers: self.answers.clone() });
            }
            self.metrics.requests_refused.inc();
        }
    }
}

impl Reported {
    /// Tells the gateway what to do.
    pub async fn answer(self, order: &Order) {
        let Some(client) = self.answers.client() else { return };
        let order = serde_json::to_vec(order).unwrap_or_default();
        if let Err(error) = client.publish(self.reply, order.into()).await {
            tracing::debug!(%error, "a gateway can't be told what to do");
        }
    }
}
