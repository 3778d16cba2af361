//! When to come back.

use std::time::Duration;

/// Before any server has said otherwise.
const BASE: Duration = Duration::from_secs(1);
/// Waits grow up to this (or the server's `retry:`, if that is more).
const MOST: Duration = Duration::from_secs(60);
/// No server can send us away for longer.
const TOLD_MOST: Duration = Duration::from_secs(300);

/// Exponential backoff with jitter, on top of what the server asks for. A server's `retry:` is jittered
/// by the server and is waited in full; the random part begins with the second failure in a row.
#[derive(Debug, Default)]
pub(super) struct Retry {
    told: Option<Duration>,
    failures: u32,
}

impl Retry {
    /// The server's `retry:`.
    pub(super) fn told(&mut self, milliseconds: u64) {
        self.told = Some(Duration::from_millis(milliseconds).min(TOLD_MOST));
    }

    /// A stream was opened and said so.
    pub(super) fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// How long to wait now; `random` is in `0..1`.
    pub(super) fn next_wait(&mut self, random: f64) -> Duration {
        let base = self.told.unwrap_or(BASE);
        let bound = base.saturating_mul(1 << self.failures.min(16)).min(MOST.max(base));
        self.failures = self.failures.saturating_add(1);
        let floor = self.told.unwrap_or_default();
        floor + (bound - floor).mul_f64(random)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(retry: &mut Retry, random: f64) -> u128 {
        retry.next_wait(random).as_millis()
    }

    #[test]
    fn waits_double_are_jittered_and_bounded() {
        let mut retry = Retry::default();
        assert_eq!([1.0, 1.0, 0.5, 0.0].map(|random| millis(&mut retry, random)), [1000, 2000, 2000, 0]);
        for _ in 0..100 {
            assert!(retry.next_wait(1.0) <= MOST);
        }
        retry.succeeded();
        assert_eq!(millis(&mut retry, 1.0), 1000);
    }

    #[test]
    fn the_servers_retry_is_waited_in_full() {
        let mut retry = Retry::default();
        retry.told(3000);
        assert_eq!([0.9, 0.0, 0.5].map(|random| millis(&mut retry, random)), [3000, 3000, 7500]);
        retry.told(u64::MAX);
        assert_eq!(retry.next_wait(1.0), TOLD_MOST);
    }
}
