//! What is about to be written to all members of a view: the same bytes for each, one after the other.
//!
//! Events lie behind one another as HTTP chunks, so that one write covers however many a member lacks, and
//! where a member stopped is a number. Once the last member is past them they are forgotten.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::gzip::Sum;
use crate::ring::RingEvent;
use crate::traced::Writes;

/// An event, and the index of its shard.
pub(super) type Offered = (usize, Arc<RingEvent>);

/// What lies in an outbox.
#[derive(Debug, Clone)]
pub(super) enum Item {
    /// An event.
    Event(Offered),
    /// Several in one block.
    Batch(Vec<Offered>),
    /// `stream-stale`, or `stream-live` when it is over.
    Stale(bool),
}

impl Item {
    /// The events in it.
    pub(super) fn events(&self) -> &[Offered] {
        match self {
            Item::Event(event) => std::slice::from_ref(event),
            Item::Batch(events) => events,
            Item::Stale(_) => &[],
        }
    }

    fn count_deliveries(&self, members: u64) {
        for (_, event) in self.events() {
            event.count_deliveries(members);
        }
    }
}

#[derive(Debug)]
struct Mark {
    /// The offset at which the item ends.
    end: u64,
    item: Item,
    /// Of the view's text until there, where it is compressed.
    sum: Sum,
}

/// Bytes of a view between two offsets. Offsets only grow; what was written to nobody yet begins at `end`.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    bytes: Vec<u8>,
    /// The offset behind the last byte.
    end: u64,
    marks: VecDeque<Mark>,
    /// Of the view's text before what is held, where it is compressed.
    before: Sum,
    passed: Passed,
    /// Where the last traced event ends; 0 as a rule.
    traced_until: u64,
}

/// Members that went the same way, counted together: nearly all of them do.
#[derive(Debug, Default, Clone, Copy)]
struct Passed {
    from: u64,
    to: u64,
    members: u64,
}

impl Outbox {
    /// An empty one goes on at another offset, behind a text with this sum.
    pub(super) fn begin(&mut self, at: u64, before: Sum) {
        debug_assert!(self.is_empty());
        (self.end, self.before) = (at, before);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn end(&self) -> u64 {
        self.end
    }

    fn start(&self) -> u64 {
        self.end - self.bytes.len() as u64
    }

    /// What a member at this offset lacks.
    pub(super) fn after(&self, offset: u64) -> &[u8] {
        &self.bytes[self.index(offset)..]
    }

    fn index(&self, offset: u64) -> usize {
        // Never more than what is held, which is in memory.
        usize::try_from(offset.saturating_sub(self.start())).unwrap_or(usize::MAX).min(self.bytes.len())
    }

    /// Appends an item as one HTTP chunk that `write` writes; it returns the sum of the view's text with it.
    pub(super) fn push(&mut self, item: Item, write: impl FnOnce(&mut Vec<u8>) -> Sum) {
        let (before, mut sum) = (self.bytes.len(), Sum::default());
        put_chunk(&mut self.bytes, |out| sum = write(out));
        self.end += (self.bytes.len() - before) as u64;
        if item.events().iter().any(|(_, event)| event.writes().is_some()) {
            self.traced_until = self.end;
        }
        self.marks.push_back(Mark { end: self.end, item, sum });
    }

    /// The sum of the view's text until this offset, or, where that lies within an item, until the item's end.
    pub(super) fn sum_until(&self, offset: u64) -> Sum {
        if offset <= self.start() {
            return self.before;
        }
        let at = self.marks.partition_point(|mark| mark.end < offset);
        self.marks.get(at).map_or(self.before, |mark| mark.sum)
    }

    /// A member was written what lies between two offsets.
    pub(super) fn passed(&mut self, from: u64, to: u64) {
        if (self.passed.from, self.passed.to) != (from, to) {
            self.count();
            self.passed = Passed { from, to, members: 0 };
            if from < self.traced_until {
                self.note_begun(from, to);
            }
        }
        self.passed.members += 1;
    }

    /// The first of several members was written what lies between two offsets; the others are counted later.
    fn note_begun(&self, from: u64, to: u64) {
        let written = self.marks.range(self.first_after(from)..).take_while(|mark| mark.end <= to);
        let events = written.flat_map(|mark| mark.item.events());
        events.filter_map(|(_, event)| event.writes()).for_each(Writes::begun);
    }

    /// Counts the deliveries of those who passed.
    fn count(&mut self) {
        let Passed { from, to, members } = std::mem::take(&mut self.passed);
        let first = self.first_after(from);
        for mark in self.marks.range(first..).take_while(|mark| mark.end <= to) {
            mark.item.count_deliveries(members);
        }
    }

    fn first_after(&self, offset: u64) -> usize {
        self.marks.partition_point(|mark| mark.end <= offset)
    }

    /// The first event that ends by this offset.
    pub(super) fn first_event(&self, upto: u64) -> Option<&RingEvent> {
        let marks = self.marks.iter().take_while(|mark| mark.end <= upto);
        marks.flat_map(|mark| mark.item.events()).map(|(_, event)| &**event).next()
    }

    /// Everybody is past this offset.
    pub(super) fn forget(&mut self, upto: u64) {
        self.count();
        let gone = self.index(upto);
        if gone == self.bytes.len() {
            self.bytes.clear();
        } else {
            self.bytes.drain(..gone);
        }
        let first = self.first_after(upto);
        if let Some(last) = self.marks.drain(..first).next_back() {
            self.before = last.sum;
        }
    }

    /// The rest of the item in which `offset` lies, for a member that stopped there; empty between two.
    pub(super) fn take_rest_of_item(&self, offset: u64) -> Vec<u8> {
        let first = self.first_after(offset);
        let begins = if first == 0 { self.start() } else { self.marks[first - 1].end };
        let Some(mark) = self.marks.get(first).filter(|_| offset > begins) else { return Vec::new() };
        mark.item.count_deliveries(1);
        self.bytes[self.index(offset)..self.index(mark.end)].to_vec()
    }

    /// The items that begin at this offset or later.
    pub(super) fn items_after(&self, offset: u64) -> impl Iterator<Item = &Item> {
        let first = self.first_after(offset);
        let begins = if first == 0 { self.start() } else { self.marks[first - 1].end };
        self.marks
            .range((first + usize::from(offset > begins)).min(self.marks.len())..)
            .map(|mark| &mark.item)
    }

    /// Gives memory back that a burst took.
    pub(super) fn shrink(&mut self, bytes: usize) {
        self.bytes.shrink_to(bytes);
        self.marks.shrink_to(bytes / 64);
    }
}

/// Appends an HTTP chunk (RFC 9112, 7.1) of what `write` appends. Its length is known afterwards: room for
/// eight digits is left, and leading zeros are allowed.
pub(super) fn put_chunk(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let begin = out.len();
    out.extend_from_slice(b"00000000\r\n");
    let data = out.len();
    write(out);
    let mut length = out.len() - data;
    for digit in out[begin..begin + 8].iter_mut().rev() {
        *digit = b"0123456789abcdef"[length & 15];
        length >>= 4;
    }
    out.extend_from_slice(b"\r\n");
}

/// Bytes that a chunk takes beside its data.
pub(super) const CHUNK_FRAME_BYTES: usize = 12;

/// What ends a chunked body.
pub(super) const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;

    use super::*;
    use crate::testing::batch;

    #[test]
    fn the_first_event_is_the_oldest_that_all_of_is_written() {
        let event = |seq: u64| {
            let event = batch(1, seq - 1, seq, "a", None, "data").events.remove(0);
            Item::Event((0, Arc::new(RingEvent::new(event, Counter::default()))))
        };
        let mut outbox = Outbox::default();
        let text = |text: &'static str| {
            move |out: &mut Vec<u8>| {
                out.extend_from_slice(text.as_bytes());
                Sum::default()
            }
        };
        outbox.push(Item::Stale(true), text("stale"));
        let begin = outbox.end();
        outbox.push(event(1), text("one"));
        let first = outbox.end();
        outbox.push(event(2), text("two"));
        let seq = |outbox: &Outbox, upto| outbox.first_event(upto).map(|event| event.feed.seq);
        assert_eq!([begin, first - 1, first].map(|upto| seq(&outbox, upto)), [None, None, Some(1)]);
        outbox.forget(first);
        assert_eq!([first, outbox.end()].map(|upto| seq(&outbox, upto)), [None, Some(2)]);
    }
}
