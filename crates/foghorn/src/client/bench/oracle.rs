//! What should have been heard, against what was.

use std::collections::{BTreeMap, HashSet};

/// Gaps that one listener remembers. Beyond that the oldest counts as lost for good.
const GAPS_MAX: usize = 1024;

/// What was published on one channel: numbers from 0.
#[derive(Debug, Default, Clone)]
pub(super) struct Published {
    next: u64,
    /// Those without an ack: stored or not, nobody owes them.
    unacked: HashSet<u64>,
}

impl Published {
    /// The number of the next event.
    pub(super) fn number(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    /// The event's publishing was not acknowledged.
    pub(super) fn unacked(&mut self, number: u64) {
        self.unacked.insert(number);
    }

    /// How many were acknowledged.
    pub(super) fn acked(&self) -> u64 {
        self.next - self.unacked.len() as u64
    }

    /// How many were not.
    pub(super) fn unacked_count(&self) -> u64 {
        self.unacked.len() as u64
    }

    fn owed(&self, from: u64, to: u64) -> u64 {
        let unacked = self.unacked.iter().filter(|number| (from..to).contains(number)).count();
        to.saturating_sub(from) - unacked as u64
    }
}

/// What one listener heard of its channel.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// Everything below was heard, but for the gaps.
    next: u64,
    /// Ranges not heard yet: begin, and end (exclusive).
    gaps: BTreeMap<u64, u64>,
    forgotten: u64,
    unique: u64,
    duplicated: u64,
    reordered: u64,
}

/// Faults over all listeners.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub(super) struct Faults {
    /// Acknowledged and never heard.
    pub(super) lost: u64,
    /// Heard again.
    pub(super) duplicated: u64,
    /// Heard after a later one.
    pub(super) reordered: u64,
}

impl Heard {
    /// An event was heard. True when it is heard for the first time.
    pub(super) fn hear(&mut self, number: u64) -> bool {
        if number >= self.next {
            if number > self.next {
                self.gaps.insert(self.next, number);
                if self.gaps.len() > GAPS_MAX {
                    self.forgotten += self.gaps.pop_first().map_or(0, |(from, to)| to - from);
                }
            }
            self.next = number + 1;
            self.unique += 1;
            return true;
        }
        let gap = self.gaps.range(..=number).next_back().map(|(from, to)| (*from, *to));
        let Some((from, to)) = gap.filter(|(_, to)| number < *to) else {
            self.duplicated += 1;
            return false;
        };
        self.gaps.remove(&from);
        if from < number {
            self.gaps.insert(from, number);
        }
        if number + 1 < to {
            self.gaps.insert(number + 1, to);
        }
        self.reordered += 1;
        self.unique += 1;
        true
    }

    /// How many different events it heard.
    pub(super) fn unique(&self) -> u64 {
        self.unique
    }

    /// Judges, at the end.
    pub(super) fn faults(&self, published: &Published) -> Faults {
        let gaps: u64 = self.gaps.iter().map(|(from, to)| published.owed(*from, *to)).sum();
        let lost = self.forgotten + gaps + published.owed(self.next, published.next);
        Faults { lost, duplicated: self.duplicated, reordered: self.reordered }
    }
}

impl std::ops::AddAssign for Faults {
    fn add_assign(&mut self, other: Faults) {
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn published(count: u64, unacked: &[u64]) -> Published {
        Published { next: count, unacked: unacked.iter().copied().collect() }
    }

    fn judge(heard: &[u64], published: &Published) -> (u64, u64, u64) {
        let mut all = Heard::default();
        for number in heard {
            all.hear(*number);
        }
        let faults = all.faults(published);
        (faults.lost, faults.duplicated, faults.reordered)
    }

    #[test]
    fn each_fault_is_counted_as_what_it_is() {
        for (heard, unacked, expected) in [
            (&[0, 1, 2, 3][..], &[][..], (0, 0, 0)),
            (&[0, 3], &[], (2, 0, 0)),
            (&[0, 1], &[], (2, 0, 0)),
            (&[0, 1], &[3], (1, 0, 0)),
            (&[0, 2, 3], &[1], (0, 0, 0)),
            (&[0, 1, 2, 3], &[1], (0, 0, 0)),
            (&[0, 3, 1, 2], &[], (0, 0, 2)),
            (&[0, 1, 1, 2, 3, 0], &[], (0, 2, 0)),
            (&[], &[], (4, 0, 0)),
        ] {
            assert_eq!(judge(heard, &published(4, unacked)), expected, "{heard:?} {unacked:?}");
        }
    }

    #[test]
    fn gaps_are_bounded_and_forgotten_ones_stay_lost() {
        let odd: Vec<u64> = (0..4000).filter(|n| n % 2 == 1).collect();
        assert_eq!(judge(&odd, &published(4000, &[])), (2000, 0, 0));
        let mut heard = Heard::default();
        odd.iter().for_each(|n| assert!(heard.hear(*n)));
        assert!(heard.gaps.len() <= GAPS_MAX);
    }

    proptest! {
        /// Against the plainest possible bookkeeping.
        #[test]
        fn agrees_with_sets(heard in prop::collection::vec(0u64..30, 0..60), unacked in prop::collection::vec(0u64..30, 0..10)) {
            let published = published(30, &unacked);
            let (mut seen, mut highest) = (HashSet::new(), None);
            let (mut duplicated, mut reordered) = (0, 0);
            for number in &heard {
                if !seen.insert(*number) {
                    duplicated += 1;
                } else if highest.is_some_and(|h| *number < h) {
                    reordered += 1;
                }
                highest = highest.max(Some(*number));
            }
            let lost = (0..30).filter(|n| !seen.contains(n) && !unacked.contains(n)).count() as u64;
            prop_assert_eq!(judge(&heard, &published), (lost, duplicated, reordered));
        }
    }
}
