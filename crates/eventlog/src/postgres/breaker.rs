//! Whether PostgreSQL is worth a try: after a failure it is left alone for a moment, so that readers who
//! can be served from the journal don't wait for it first.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// How long it is left alone after a failure, before jitter of a quarter.
const REST: Duration = Duration::from_secs(1);
/// How long the one who tries it afterwards does so alone.
const PROBE: Duration = Duration::from_millis(500);

/// One for all readers of a process.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    /// Until when nobody tries; none while it works.
    until: Mutex<Option<Instant>>,
    /// Connections that readers have.
    in_hand: AtomicU32,
}

/// A connection that a reader has.
#[derive(Debug)]
pub(super) struct InHand(std::sync::Arc<Breaker>);

impl Breaker {
    /// Whether to try now. After a failure, one at a time may.
    pub(super) fn admits(&self, now: Instant) -> bool {
        let mut until = self.until.lock();
        match *until {
            None => true,
            Some(until) if now < until => false,
            Some(_) => {
                *until = Some(now + PROBE);
                true
            }
        }
    }

    /// It answered.
    pub(super) fn worked(self: &std::sync::Arc<Self>) -> InHand {
        *self.until.lock() = None;
        self.in_hand.fetch_add(1, Ordering::Relaxed);
        InHand(std::sync::Arc::clone(self))
    }

    /// It gave no connection. That readers have all `most` of them is no sign that it is away.
    pub(super) fn failed(&self, now: Instant, most: u32) {
        if self.in_hand.load(Ordering::Relaxed) < most {
            *self.until.lock() = Some(now + REST.mul_f64(0.75 + 0.5 * fastrand::f64()));
        }
    }
}

impl Drop for InHand {
    fn drop(&mut self) {
        self.0.in_hand.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn after_a_failure_one_tries_at_a_time_until_it_works() {
        let (breaker, begin) = (Arc::new(Breaker::default()), Instant::now());
        assert!(breaker.admits(begin) && breaker.admits(begin));
        breaker.failed(begin, 16);
        assert!(!breaker.admits(begin + REST / 2));
        let later = begin + 2 * REST;
        assert!(breaker.admits(later) && !breaker.admits(later));
        assert!(breaker.admits(later + PROBE), "who tried may have gone away");
        let in_hand = breaker.worked();
        assert!(breaker.admits(later) && breaker.admits(later));
        breaker.failed(later, 1);
        assert!(breaker.admits(later), "it is only busy");
        drop(in_hand);
        breaker.failed(later, 1);
        assert!(!breaker.admits(later));
    }
}
