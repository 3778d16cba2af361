//! Whether this process may still publish.

use std::future::poll_fn;
use std::pin::pin;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Until when the lease surely holds, by this process's own clock: as counted from before it was asked for.
#[derive(Debug)]
pub(crate) struct Authority(Mutex<Instant>);

/// The lease may be over.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the lease may be another's by now")]
pub(crate) struct Expired;

impl Authority {
    pub(crate) fn until(instant: Instant) -> Self {
        Authority(Mutex::new(instant))
    }

    pub(crate) fn extend(&self, until: Instant) {
        *self.0.lock() = until;
    }

    /// The end of it as it is now.
    pub(crate) fn ends(&self) -> Instant {
        *self.0.lock()
    }

    /// Does `work`, but takes no step of it once the lease may be over: a process that was stopped in the
    /// middle must not go on with what another has done meanwhile. A timeout would take one more step first.
    pub(crate) async fn guard<F: Future>(&self, work: F) -> Result<F::Output, Expired> {
        let mut work = pin!(work);
        poll_fn(|context| {
            if Instant::now() >= self.ends() {
                return std::task::Poll::Ready(Err(Expired));
            }
            work.as_mut().poll(context).map(Ok)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn no_step_is_taken_once_the_lease_may_be_over() {
        let authority = Authority::until(Instant::now() + Duration::from_secs(5));
        assert_eq!(authority.guard(async { 1 }).await, Ok(1));
        let mut steps = 0;
        let stopped = authority.guard(async {
            tokio::time::sleep(Duration::from_secs(4)).await;
            steps += 1;
            tokio::time::sleep(Duration::from_secs(4)).await;
            steps += 1;
        });
        assert_eq!(stopped.await, Err(Expired));
        assert_eq!(steps, 1);
        authority.extend(Instant::now() + Duration::from_secs(5));
        assert_eq!(authority.guard(async { 2 }).await, Ok(2));
    }
}
