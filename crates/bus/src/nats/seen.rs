//! What this process has read of a shard's journal: by it, an epoch's first entry that differs is found
//! without asking anybody else.

use std::collections::VecDeque;

use foghorn_core::entry::Entry;
use foghorn_core::position::Digest;

/// The last entries, all of them remembered: 16 bytes each.
const DENSE: usize = 8192;
/// Of those before, every so many-th is remembered, and at most so many. Together they reach back eight
/// million entries in a quarter of a megabyte; the less is remembered, the earlier the new epoch begins.
const SPARSE_EVERY: u64 = 1024;
const SPARSE: usize = 8192;

/// What has been seen of one epoch.
#[derive(Debug, Default)]
pub(super) struct Seen {
    last: u64,
    dense: VecDeque<(u64, Digest)>,
    sparse: VecDeque<(u64, Digest)>,
    /// Entries that have left `dense`.
    left: u64,
}

impl Seen {
    /// The highest seq that is known to exist.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// Takes note that there is something at `seq`.
    pub(super) fn note(&mut self, seq: u64) {
        self.last = self.last.max(seq);
    }

    /// Takes note of what is there. Of what is read out of order, only the newest counts.
    pub(super) fn entry(&mut self, entry: &Entry) {
        self.note(entry.seq);
        if self.dense.back().is_some_and(|(newest, _)| *newest >= entry.seq) {
            return;
        }
        self.dense.push_back((entry.seq, entry.digest));
        if self.dense.len() <= DENSE {
            return;
        }
        let oldest = self.dense.pop_front();
        self.left += 1;
        if self.left.is_multiple_of(SPARSE_EVERY) {
            self.sparse.extend(oldest);
            if self.sparse.len() > SPARSE {
                self.sparse.pop_front();
            }
        }
    }

    /// The entries remembered that a journal of `first..=last` can be compared with, in order.
    pub(super) fn comparable(&self, first: u64, last: u64) -> Vec<(u64, Digest)> {
        let all = self.sparse.iter().chain(&self.dense);
        all.filter(|(seq, _)| (first..=last).contains(seq)).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use foghorn_core::entry::InvalidEntry;
    use foghorn_core::event::EventError;
    use foghorn_core::time::Timestamp;

    use super::*;

    fn entry(seq: u64) -> Entry {
        let event = Err(InvalidEntry::Event(EventError::Ttl));
        Entry { seq, time: Timestamp::default(), key: None, digest: Digest(seq), traceparent: None, event }
    }

    #[test]
    fn the_last_entries_are_remembered_and_fewer_of_those_before() {
        let mut seen = Seen::default();
        let count = (DENSE + SPARSE) as u64 * SPARSE_EVERY;
        for seq in 1..=count {
            seen.entry(&entry(seq));
        }
        seen.entry(&entry(5));
        seen.note(count + 7);
        assert_eq!(seen.last(), count + 7);
        let known = seen.comparable(0, u64::MAX);
        assert!(known.len() <= DENSE + SPARSE);
        assert!(known.is_sorted_by_key(|(seq, _)| *seq));
        assert_eq!(known.last(), Some(&(count, Digest(count))));
        assert!(known[known.len() - DENSE..].windows(2).all(|pair| pair[1].0 == pair[0].0 + 1));
        assert!(known[0].0 < count - SPARSE as u64 * (SPARSE_EVERY - 1));
        assert_eq!(seen.comparable(count - 2, count - 1).len(), 2);
    }
}
