//! The newest entries in memory, so that followers need no query for what was just written.

use std::collections::VecDeque;

use foghorn_core::entry::Entry;
use parking_lot::Mutex;

use crate::record::event_bytes;

/// Most bytes of a shard's tail; the oldest entries make room, and are read from the database instead.
const TAIL_BYTES: usize = 4 * 1024 * 1024;
/// Most entries handed over at once.
const CHUNK: usize = 256;

#[derive(Default)]
pub(super) struct Tail(Mutex<Entries>);

#[derive(Default)]
struct Entries {
    /// Without gaps in their seqs: every committed entry passes through here.
    entries: VecDeque<Entry>,
    bytes: usize,
}

impl Tail {
    pub(super) fn push(&self, new: impl IntoIterator<Item = Entry>) {
        let mut tail = self.0.lock();
        for entry in new {
            tail.bytes += bytes(&entry);
            tail.entries.push_back(entry);
        }
        while tail.bytes > TAIL_BYTES {
            let Some(oldest) = tail.entries.pop_front() else { break };
            tail.bytes -= bytes(&oldest);
        }
    }

    /// The next entries after `after`; none when they are not (or no longer) here.
    pub(super) fn after(&self, after: u64) -> Vec<Entry> {
        let tail = self.0.lock();
        let Some(first) = tail.entries.front().map(|entry| entry.seq) else { return Vec::new() };
        let Some(skip) = (after + 1).checked_sub(first) else { return Vec::new() };
        let skip = usize::try_from(skip).unwrap_or(usize::MAX).min(tail.entries.len());
        tail.entries.range(skip..).take(CHUNK).cloned().collect()
    }
}

fn bytes(entry: &Entry) -> usize {
    entry.event.as_ref().map_or(96, event_bytes)
}

#[cfg(test)]
mod tests {
    use foghorn_core::channel::Channel;
    use foghorn_core::event::Event;
    use foghorn_core::position::Digest;
    use foghorn_core::time::Timestamp;

    use super::*;

    fn entry(seq: u64, bytes: usize) -> Entry {
        let event = Event::new(Channel::parse("a").unwrap(), "x".repeat(bytes));
        Entry {
            seq,
            time: Timestamp::default(),
            key: None,
            digest: Digest(seq),
            traceparent: None,
            event: Ok(event),
        }
    }

    #[test]
    fn the_oldest_make_room_and_are_not_passed_over_in_silence() {
        let tail = Tail::default();
        assert!(tail.after(0).is_empty());
        tail.push((1..=10).map(|seq| entry(seq, TAIL_BYTES / 4)));
        assert!(tail.after(0).is_empty(), "1 is gone, so 2 must not be next");
        assert_eq!(tail.after(7).iter().map(|e| e.seq).collect::<Vec<_>>(), [8, 9, 10]);
        assert!(tail.after(10).is_empty());
    }
}
