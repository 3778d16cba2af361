//! Publishers at a set pace, each with channels of its own.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::door::{Door, Outgoing};
use super::oracle::Published;
use super::scan::Stamp;

/// How long a publisher rests after a failed request.
const REST: Duration = Duration::from_millis(100);

/// What one publisher is to do.
pub(super) struct Publisher {
    pub(super) door: Door,
    /// Its channels, which nobody else publishes on: names, and their numbers in the benchmark.
    pub(super) channels: Vec<(usize, String)>,
    /// Events a second; none for as fast as acks come.
    pub(super) rate: Option<f64>,
    /// How long it waits before its first event, so that publishers don't move in step.
    pub(super) phase: Duration,
    /// Most events in one request.
    pub(super) batch: usize,
    pub(super) size: usize,
    pub(super) until: Instant,
    /// When the benchmark began: stamps count from there.
    pub(super) epoch: Instant,
}

/// What it did.
pub(super) struct Done {
    pub(super) channels: Vec<(usize, Published)>,
    pub(super) failed_requests: u64,
    /// The first failure.
    pub(super) why: Option<String>,
}

impl Publisher {
    /// Publishes until the time is over. What is due while a request is under way goes with the next one.
    ///
    /// An event is stamped with when it was due if the publisher could not send it then because the
    /// server had not answered yet, or a stalled server would look fast; else with when it is sent.
    pub(super) async fn run(mut self) -> Done {
        let begin = Instant::now() + self.phase;
        let mut published = vec![Published::default(); self.channels.len()];
        let mut done = Done { channels: Vec::new(), failed_requests: 0, why: None };
        let mut sent = 0;
        let mut free = begin;
        while Instant::now() < self.until {
            let due_at = |number: u64| self.rate.map_or(begin, |rate| begin + seconds(number, rate));
            sleep_until(due_at(sent).min(self.until)).await;
            let now = Instant::now();
            let mut events = Vec::new();
            let mut numbers = Vec::new();
            while events.len() < self.batch && due_at(sent) <= now.min(self.until) {
                let at = usize::try_from(sent).unwrap_or_default() % self.channels.len();
                let number = published[at].number();
                let due = if self.rate.is_some() && due_at(sent) < free { due_at(sent) } else { now };
                let mut data = Vec::with_capacity(self.size);
                Stamp { seq: number, sent: nanos(due - self.epoch) }.write(&mut data, self.size);
                events.push(Outgoing { channel: self.channels[at].1.clone(), data });
                numbers.push((at, number));
                sent += 1;
            }
            if events.is_empty() {
                continue;
            }
            let (acks, why) = match self.door.publish(&events).await {
                Ok(answered) => answered,
                Err(why) => {
                    done.failed_requests += 1;
                    tokio::time::sleep(REST).await;
                    (Vec::new(), Some(why))
                }
            };
            done.why = done.why.or(why);
            for (place, (at, number)) in numbers.into_iter().enumerate() {
                if acks.get(place) != Some(&true) {
                    published[at].unacked(number);
                }
            }
            free = Instant::now();
        }
        done.channels = self.channels.iter().map(|(channel, _)| *channel).zip(published).collect();
        done
    }
}

/// Nanoseconds as a stamp holds them.
pub(super) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// After how long the event of this number is due.
pub(super) fn seconds(number: u64, rate: f64) -> Duration {
    #[expect(clippy::cast_precision_loss, reason = "a count of events")]
    Duration::from_secs_f64(number as f64 / rate)
}
