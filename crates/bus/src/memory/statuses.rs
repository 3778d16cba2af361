//! Statuses within one process.

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::ready;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use crate::Future;
use crate::gateways::{AskError, Notices};
use crate::statuses::Statuses;

/// Statuses that wait to be heard; the oldest go first. There is one a second.
const WAITING_MAX: usize = 16;

/// What the process says to itself.
#[derive(Debug, Clone)]
pub struct MemoryStatuses(broadcast::Sender<Bytes>);

impl Default for MemoryStatuses {
    fn default() -> Self {
        MemoryStatuses(broadcast::channel(WAITING_MAX).0)
    }
}

impl Statuses for MemoryStatuses {
    fn tell(&self, status: Bytes) -> Future<'_, Result<(), AskError>> {
        // An error is that nobody listens.
        _ = self.0.send(status).is_ok();
        ready(Ok(())).boxed()
    }

    fn hear(&self) -> Future<'_, Result<Box<dyn Notices>, AskError>> {
        ready(Ok(Box::new(Heard(self.0.subscribe())) as Box<dyn Notices>)).boxed()
    }
}

struct Heard(broadcast::Receiver<Bytes>);

impl Notices for Heard {
    fn next(&mut self) -> Future<'_, Option<Bytes>> {
        async {
            loop {
                match self.0.recv().await {
                    Ok(status) => return Some(status),
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return None,
                }
            }
        }
        .boxed()
    }
}
