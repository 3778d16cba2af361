//! Small things that every adapter needs: patience, tasks that end with their owner.

use tokio::task::JoinHandle;

use super::BusError;
use super::api::ApiError;
use crate::backoff::{Backoff, Rarely};
use crate::metrics::Metrics;

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
