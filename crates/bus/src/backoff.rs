//! Waiting between attempts, and seldom saying so.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// How often the same complaint is logged.
const COMPLAIN_EVERY: Duration = Duration::from_secs(5);

/// Exponential backoff with full jitter: each wait is random between zero and a bound that doubles
/// from `first` to `most`, so that many clients of a thing that came back don't come back together.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    bound: Duration,
}

impl Backoff {
    /// From `first` up to `most`.
    pub fn new(first: Duration, most: Duration) -> Self {
        Backoff { first, most, bound: first }
    }

    /// How long to wait before the next attempt.
    pub fn next_wait(&mut self) -> Duration {
        let wait = self.bound.mul_f64(fastrand::f64());
        self.bound = (self.bound * 2).min(self.most);
        wait
    }

    /// Waits that long.
    pub async fn wait(&mut self) {
        tokio::time::sleep(self.next_wait()).await;
    }

    /// The last attempt succeeded: begin anew.
    pub fn reset(&mut self) {
        self.bound = self.first;
    }
}

impl Default for Backoff {
    /// From 100 ms up to 5 s.
    fn default() -> Self {
        Backoff::new(Duration::from_millis(100), Duration::from_secs(5))
    }
}
/// Says when to log what would otherwise be logged too often.
#[derive(Debug, Default)]
pub struct Rarely(Mutex<Option<Instant>>);

impl Rarely {
    /// Whether it has not been said for 5 s; then it counts as said now.
    pub fn now(&self) -> bool {
        let mut said = self.0.lock();
        let due = said.is_none_or(|said| said.elapsed() >= COMPLAIN_EVERY);
        if due {
            *said = Some(Instant::now());
        }
        due
    }
}
