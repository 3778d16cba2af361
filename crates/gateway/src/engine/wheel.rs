//! A timer wheel: what comes due, in steps of [`TICK`].
//!
//! Whoever is in it looks, when its time comes, whether there is something to do, and says when to come
//! again. So nothing is ever moved or taken out: a write costs the wheel nothing.

use std::time::{Duration, Instant};

/// The step. Everything comes due up to so much late.
pub(super) const TICK: Duration = Duration::from_millis(250);
/// Steps in a round, two minutes: what is due later comes round again.
const SLOTS: u64 = 480;

/// Whom an entry is for: a key and which of its bearers, since keys are used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) key: u32,
    pub(super) bearer: u32,
}

/// Entries by when they are due.
#[derive(Debug)]
pub(super) struct Wheel {
    began: Instant,
    /// The last step whose entries were given out.
    at: u64,
    slots: Vec<Vec<Entry>>,
}

impl Wheel {
    pub(super) fn new(now: Instant) -> Self {
        Wheel { began: now, at: 0, slots: (0..SLOTS).map(|_| Vec::new()).collect() }
    }

    fn step(&self, time: Instant) -> u64 {
        let ticks = time.saturating_duration_since(self.began).as_nanos() / TICK.as_nanos();
        u64::try_from(ticks).unwrap_or(u64::MAX)
    }

    /// Comes due at `time` or up to a step later, or after a whole round if that is sooner.
    pub(super) fn insert(&mut self, time: Instant, entry: Entry) {
        let step = (self.step(time) + 1).clamp(self.at + 1, self.at + SLOTS - 1);
        self.slot(step).push(entry);
    }

    fn slot(&mut self, step: u64) -> &mut Vec<Entry> {
        &mut self.slots[(step % SLOTS) as usize]
    }

    /// Moves everything that is due at `now` to `due`.
    pub(super) fn turn(&mut self, now: Instant, due: &mut Vec<Entry>) {
        let target = self.step(now);
        // A round gives out everything, however long nobody turned it.
        let steps = (target.saturating_sub(self.at)).min(SLOTS);
        for step in self.at + 1..=self.at + steps {
            due.append(self.slot(step));
        }
        self.at = self.at.max(target);
    }

    /// When the next step is.
    pub(super) fn next(&self) -> Instant {
        let ticks = u32::try_from(self.at + 1).unwrap_or(u32::MAX);
        self.began + TICK * ticks
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Everything comes due once: not before its time (but for what lies beyond a round), and within a
        /// step of it as long as somebody turns the wheel.
        #[test]
        fn everything_comes_due_once_and_in_time(
            times in prop::collection::vec(0u64..100_000, 1..60),
            turns in prop::collection::vec(1u64..20_000, 1..60),
        ) {
            let began = Instant::now();
            let mut wheel = Wheel::new(began);
            for (key, time) in times.iter().enumerate() {
                let entry = Entry { key: u32::try_from(key).unwrap(), bearer: 0 };
                wheel.insert(began + Duration::from_millis(*time), entry);
            }
            let (mut now, mut due, mut seen) = (0, Vec::new(), vec![false; times.len()]);
            for turn in turns.into_iter().chain([100_000, 1_000]) {
                let before = now;
                now += turn;
                wheel.turn(began + Duration::from_millis(now), &mut due);
                for entry in due.drain(..) {
                    let key = usize::try_from(entry.key).unwrap();
                    prop_assert!(!seen[key]);
                    seen[key] = true;
                    prop_assert!(times[key] <= now, "{} at {now}", times[key]);
                    prop_assert!(times[key] + 500 >= before, "{} at {now}, looked at {before}", times[key]);
                }
            }
            prop_assert!(seen.into_iter().all(|seen| seen));
        }
    }
}
