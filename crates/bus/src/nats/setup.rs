//! Small things that every adapter needs: patience, complaining rarely, tasks that end with their owner.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::BusError;
use super::api::ApiError;
use crate::backoff::Backoff;
use crate::metrics::Metrics;

/// How often the same complaint is logged.
const COMPLAIN_EVERY: Duration = Duration::from_secs(5);

/// Tries `attempt` until it succeeds or is refused for good. What passes by itself (no connection, no
/// leader, JetStream still starting) is waited for, for ever: whoever starts a cluster need not care
/// for the order.
pub(super) async fn patiently<T, F: Future<Output = Result<T, ApiError>>>(
    what: &str,
    metrics: &Metrics,
    mut attempt: impl FnMut() -> F,
) -> Result<T, BusError> {
    let rarely = Rarely::default();
    let mut backoff = Backoff::default();
    loop {
        match attempt().await {
            Ok(done) => return Ok(done),
            Err(error) if error.may_pass() => {
                metrics.setup_retries.inc();
                if rarely.now() {
                    tracing::warn!(%error, "waiting for NATS to {what} (is JetStream enabled there?)");
                }
            }
            Err(error) => return Err(BusError::Refused { what: what.to_owned(), why: error.to_string() }),
        }
        backoff.wait().await;
    }
}

/// Says when to log what would otherwise be logged too often.
#[derive(Debug, Default)]
pub(super) struct Rarely(Mutex<Option<Instant>>);

impl Rarely {
    /// Whether it has not been said for a while; then it counts as said now.
    pub(super) fn now(&self) -> bool {
        let mut said = self.0.lock();
        let due = said.is_none_or(|said| said.elapsed() >= COMPLAIN_EVERY);
        if due {
            *said = Some(Instant::now());
        }
        due
    }
}

/// A task that is aborted when this is dropped.
#[derive(Debug)]
pub(super) struct Aborted(JoinHandle<()>);

impl Aborted {
    pub(super) fn spawn(task: impl Future<Output = ()> + Send + 'static) -> Self {
        Aborted(tokio::spawn(task))
    }
}

impl Drop for Aborted {
    fn drop(&mut self) {
        self.0.abort();
    }
}
