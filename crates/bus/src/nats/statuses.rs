//! Statuses over NATS's core: `foghorn.status`, on which all processes say how they are. Who shows them subscribes while
//! somebody looks.

use bytes::Bytes;
use futures::FutureExt as _;

use super::Bus;
use super::pump::{Pumped, Shared};
use crate::Future;
use crate::gateways::{AskError, GatewayName, Notices};
use crate::statuses::Statuses;

const SUBJECT: &str = "foghorn.status";
/// Bytes of statuses that wait to be looked at; what doesn't fit is dropped and counted.
const QUEUE_BYTES: usize = 1 << 20;

/// The statuses of a cluster. Cheap to clone.
#[derive(Debug, Clone)]
pub struct NatsStatuses(Bus);

impl NatsStatuses {
    pub(super) fn new(bus: Bus) -> Self {
        NatsStatuses(bus)
    }

    async fn tell_now(&self, status: Bytes) -> Result<(), AskError> {
        // Not into a broken connection: by the time that it stands again this is no longer so.
        let client = self.0.0.main.connected_client();
        let client = client.ok_or_else(|| AskError::Unavailable("no connection to NATS".to_owned()))?;
        client.publish(SUBJECT, status).await.map_err(|error| AskError::Unavailable(error.to_string()))
    }

    async fn hear_now(&self) -> Result<Box<dyn Notices>, AskError> {
        let unavailable = |error: &dyn std::fmt::Display| AskError::Unavailable(error.to_string());
        // A connection of its own: whoever may send here could make it break.
        let link = self.0.requests_link().await.map_err(|error| unavailable(&error))?.clone();
        // A group of its own, or one of several would hear it.
        let shared = Shared { link, subject: SUBJECT.to_owned(), group: GatewayName::random().to_string() };
        let statuses = Pumped::lasting(shared, QUEUE_BYTES, self.0.0.metrics.statuses_dropped.clone());
        Ok(Box::new(Heard(statuses.await.map_err(|error| unavailable(&error))?)))
    }
}

impl Statuses for NatsStatuses {
    fn tell(&self, status: Bytes) -> Future<'_, Result<(), AskError>> {
        self.tell_now(status).boxed()
    }

    fn hear(&self) -> Future<'_, Result<Box<dyn Notices>, AskError>> {
        self.hear_now().boxed()
    }
}

struct Heard(Pumped);

impl Notices for Heard {
    fn next(&mut self) -> Future<'_, Option<Bytes>> {
        async { self.0.next().await.map(|message| message.payload) }.boxed()
    }
}
