//! Journal entries into batches: contiguous ranges, within a bound of bytes, every event encoded once.
//! Pure; when to send is the relay's business.

use foghorn_core::batch::{Batch, FeedEvent, TRACED_MAX, Traced};
use foghorn_core::entry::{Entry, InvalidEntry};
use foghorn_core::position::{Digest, Epoch, Position};
use foghorn_core::shard::Shard;
use foghorn_core::trace::TraceContext;

/// Gathers the next batch of a shard.
#[derive(Debug)]
pub(crate) struct Batching {
    /// What has been gathered; its range ends with the last entry taken.
    batch: Batch,
    bytes: usize,
    entries: usize,
    /// Most bytes of a batch on the wire.
    limit: usize,
}

/// What taking an entry led to.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Taken {
    /// The batch before the entry, which had no room for it; to be sent first.
    pub(crate) full: Option<Batch>,
    /// Why the entry is skipped.
    pub(crate) invalid: Option<InvalidEntry>,
    /// It is at the position of the last entry taken and is another one: the journal has lost that one
    /// and given its seq out again.
    pub(crate) differs: bool,
}

impl Batching {
    /// Begins after `after`. Batches take at most `limit` bytes on the wire, see
    /// `LiveFeed::batch_bytes`; an event that exceeds it alone has a batch of its own.
    pub(crate) fn new(shard: Shard, epoch: Epoch, after: u64, limit: usize) -> Self {
        let batch = Batch::empty(shard, epoch, after, after);
        let bytes = batch.wire_len();
        Batching { batch, bytes, entries: 0, limit }
    }

    /// The last seq that has been taken.
    pub(crate) fn to(&self) -> u64 {
        self.batch.to
    }

    /// How many entries wait to be sent, invalid ones included.
    pub(crate) fn entries(&self) -> usize {
        self.entries
    }

    /// Takes the next entry of the journal. One that has been taken before is only looked at.
    pub(crate) fn push(&mut self, entry: Entry) -> Taken {
        if entry.seq <= self.batch.to {
            let known = self.batch.to_digest;
            let differs = entry.seq == self.batch.to && known != Digest::NONE && entry.digest != known;
            return Taken { differs, ..Taken::default() };
        }
        let (full, invalid) = match entry.event {
            Ok(event) => {
                let Batch { shard, epoch, .. } = self.batch;
                let position = Position { shard, epoch, seq: entry.seq };
                let event = FeedEvent::encode(position, entry.time, &event);
                let traced = entry.traceparent.filter(|context| context.sampled);
                // As if it were the first that is: only where the batch is full is that a few bytes too much.
                let bytes = event.wire_len() + traced.map_or(0, |_| Traced::wire_len(1));
                let no_room = self.bytes + bytes > self.limit && self.entries > 0;
                let full = no_room.then(|| self.take());
                self.bytes += bytes;
                self.batch.events.push(event);
                if let Some(context) = traced {
                    self.trace(entry.seq, context);
                }
                (full, None)
            }
            Err(why) => (None, Some(why)),
        };
        self.batch.to = entry.seq;
        self.batch.to_digest = entry.digest;
        self.entries += 1;
        Taken { full, invalid, differs: false }
    }

    /// The event at `seq` is traced. The batch's span isn't known yet: that of its first will do until then.
    fn trace(&mut self, seq: u64, context: TraceContext) {
        let none = || Box::new(Traced { batch: context, events: Vec::new() });
        let traced = self.batch.traced.get_or_insert_with(none);
        if traced.events.len() < TRACED_MAX {
            traced.events.push((seq, context));
        }
    }

    /// The journal holds nothing more up to and including `to`.
    pub(crate) fn cover(&mut self, to: u64) {
        if to > self.batch.to {
            self.batch.to = to;
            self.batch.to_digest = Digest::NONE;
            self.entries += 1;
        }
    }

    /// What has been gathered, or an empty batch that says where the shard is. The next one begins where
    /// it ends.
    pub(crate) fn take(&mut self) -> Batch {
        let Batch { shard, epoch, to, to_digest, .. } = self.batch;
        let next = Batch { from_digest: to_digest, to_digest, ..Batch::empty(shard, epoch, to, to) };
        let mut taken = std::mem::replace(&mut self.batch, next);
        // The next one is likely to be as large.
        self.batch.events.reserve(taken.events.len());
        taken.tip = taken.tip.max(taken.to);
        self.bytes = self.batch.wire_len();
        self.entries = 0;
        taken
    }

    /// Goes on after `after`, past a range that is not covered: nothing may be waiting.
    pub(crate) fn jump(&mut self, after: u64) {
        let Batch { shard, epoch, .. } = self.batch;
        *self = Batching::new(shard, epoch, after, self.limit);
    }
}

#[cfg(test)]
mod tests {
    use foghorn_core::channel::Channel;
    use foghorn_core::event::{Event, EventError};
    use foghorn_core::time::Timestamp;
    use proptest::prelude::*;

    use super::*;

    fn entry(seq: u64, data: Option<usize>) -> Entry {
        let event = match data {
            Some(bytes) => Ok(Event::new(Channel::parse("a").unwrap(), "x".repeat(bytes))),
            None => Err(InvalidEntry::Event(EventError::Ttl)),
        };
        Entry {
            seq,
            time: Timestamp::from_micros(7),
            key: None,
            digest: Digest(seq + 1),
            traceparent: None,
            event,
        }
    }

    proptest! {
        /// Steps between seqs (gaps where entries were purged), sizes (none: invalid), and whether
        /// what has been gathered is sent then.
        #[test]
        fn every_event_is_in_one_batch_and_ranges_are_contiguous(
            start in 0u64..1000,
            entries in prop::collection::vec((1u64..4, prop::option::of(0usize..300), any::<bool>()), 0..80),
            limit in 150usize..1500,
        ) {
            let epoch = Epoch::new(3);
            let mut batching = Batching::new(Shard::ZERO, epoch, start, limit);
            let (mut batches, mut valid, mut invalid, mut seq) = (Vec::new(), Vec::new(), 0, start);
            for (step, data, send) in entries {
                seq += step;
                let taken = batching.push(entry(seq, data));
                batches.extend(taken.full);
                prop_assert_eq!(taken.invalid.is_some(), data.is_none());
                if data.is_some() { valid.push(seq) } else { invalid += 1 }
                if send {
                    batches.push(batching.take());
                }
                prop_assert_eq!(batching.push(entry(seq, Some(1))), Taken::default(), "taken before");
            }
            batches.push(batching.take());
            let beacon = batching.take();
            prop_assert_eq!((beacon.from, beacon.to, beacon.events.len()), (seq, seq, 0));

            let (mut at, mut digest) = (start, Digest::NONE);
            for batch in &batches {
                prop_assert_eq!((batch.from, batch.from_digest), (at, digest));
                prop_assert!(batch.to >= batch.from && batch.tip >= batch.to);
                prop_assert!(batch.wire_len() <= limit || batch.events.len() == 1);
                prop_assert!(batch.events.iter().all(|e| e.seq > batch.from && e.seq <= batch.to));
                (at, digest) = (batch.to, batch.to_digest);
            }
            prop_assert_eq!(at, seq);
            let sent: Vec<u64> = batches.iter().flat_map(|b| b.events.iter().map(|e| e.seq)).collect();
            prop_assert_eq!(&sent, &valid);
            prop_assert!(invalid + sent.len() <= 80);
            for batch in batches {
                let bytes = batch.encode();
                prop_assert_eq!(Batch::decode(bytes, foghorn_core::shard::ShardCount::ONE), Ok(batch));
            }
        }
    }

    #[test]
    fn what_is_traced_is_said_of_the_batch_that_it_is_in() {
        let context = TraceContext::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").unwrap();
        let traced = |seq, traceparent| Entry { traceparent, ..entry(seq, Some(100)) };
        let mut batching = Batching::new(Shard::ZERO, Epoch::new(1), 0, 700);
        batching.push(traced(1, None));
        batching.push(traced(2, Some(context)));
        batching.push(traced(3, Some(context.unsampled())));
        let full = batching.push(traced(4, Some(context))).full.unwrap();
        assert!(full.wire_len() <= 700);
        assert_eq!(full.traced.unwrap().events, [(2, context)]);
        assert_eq!(batching.take().traced.unwrap().events, [(4, context)]);
        batching.push(traced(5, None));
        assert_eq!(batching.take().traced, None);
    }

    #[test]
    fn a_range_without_valid_entries_is_covered_and_a_jump_is_not() {
        let mut batching = Batching::new(Shard::ZERO, Epoch::new(1), 10, 1000);
        batching.push(entry(11, None));
        batching.cover(20);
        assert_eq!(batching.entries(), 2);
        let batch = batching.take();
        assert_eq!((batch.from, batch.to, batch.to_digest), (10, 20, Digest::NONE));
        batching.jump(30);
        batching.push(entry(31, Some(1)));
        let batch = batching.take();
        assert_eq!((batch.from, batch.to, batch.from_digest), (30, 31, Digest::NONE));
    }

    #[test]
    fn another_entry_at_the_last_position_is_noticed() {
        let mut batching = Batching::new(Shard::ZERO, Epoch::new(1), 10, 1000);
        assert!(!batching.push(entry(10, None)).differs, "nothing is known of it");
        batching.push(entry(11, Some(1)));
        batching.take();
        assert!(!batching.push(entry(11, Some(1))).differs);
        assert!(batching.push(Entry { digest: Digest(99), ..entry(11, Some(1)) }).differs);
    }
}
