//! The ring: one shard's recent events.
//!
//! It holds every event of the contiguous range `(floor, head]`, so a position in that range can be
//! continued from memory. Bounded in bytes: at the bound the oldest events go and `floor` rises;
//! whoever is behind it reads the log.
//!
//! It remembers the digests of its batches' boundaries, so a batch that comes from another history than
//! what it holds is noticed, and not taken.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use prometheus_client::metrics::counter::Counter;

use foghorn_core::batch::{Batch, FeedEvent};
use foghorn_core::channel::Channel;
use foghorn_core::policy::Policies;
use foghorn_core::position::{Digest, Epoch};
use foghorn_core::sse;
use foghorn_core::time::Timestamp;

use crate::gzip::Deflated;
use crate::subscription::Topics;
use crate::traced::Writes;

/// An event in the ring, shared by all who are being sent it.
#[derive(Debug)]
pub struct RingEvent {
    /// The event and its frame.
    pub feed: FeedEvent,
    /// Counts its deliveries, by type as the policy lists them.
    pub delivered: Counter,
    /// The envelope form, made when the first listener wants it.
    envelope: OnceLock<Bytes>,
    /// Both forms compressed, made when the first compressed stream wants one of them; none where that isn't worth it.
    deflated: [OnceLock<Option<Box<Deflated>>>; 2],
    /// Its writes, if it is traced.
    writes: OnceLock<Arc<Writes>>,
    /// Where the bytes of what is made here are counted, in a ring.
    made_bytes: Option<Arc<AtomicUsize>>,
    /// Bytes that its ring was given before it.
    offset: usize,
}

impl RingEvent {
    /// Wraps an event of the log, which no ring holds.
    pub fn new(feed: FeedEvent, delivered: Counter) -> Self {
        let (envelope, deflated, writes) = Default::default();
        RingEvent { feed, delivered, envelope, deflated, writes, made_bytes: None, offset: 0 }
    }

    fn counted(feed: FeedEvent, delivered: Counter, made_bytes: Arc<AtomicUsize>, offset: usize) -> Self {
        let (envelope, deflated, writes) = Default::default();
        RingEvent { feed, delivered, envelope, deflated, writes, made_bytes: Some(made_bytes), offset }
    }

    /// So many streams have been written it.
    pub(crate) fn count_deliveries(&self, streams: u64) {
        self.delivered.inc_by(streams);
        if let Some(writes) = self.writes.get() {
            writes.wrote(streams);
        }
    }

    /// Its writes, if it is traced.
    pub(crate) fn writes(&self) -> Option<&Writes> {
        self.writes.get().map(|writes| &**writes)
    }

    /// The block without its `id:` line, in the form asked for.
    pub fn block(&self, envelope: bool) -> &[u8] {
        if !envelope {
            return self.feed.frame.without_id();
        }
        self.envelope.get_or_init(|| {
            let feed = &self.feed;
            let made =
                sse::envelope(&feed.channel, feed.event_type.as_ref(), feed.time, feed.frame.without_id());
            if let Some(made_bytes) = &self.made_bytes {
                made_bytes.fetch_add(made.len(), Ordering::Relaxed);
            }
            made
        })
    }

    /// The same compressed, if its policy says that it is worth it, and it becomes smaller. Never of an event that no
    /// ring holds: it would be compressed for one stream alone.
    pub(crate) fn deflated(&self, envelope: bool, policies: &Policies) -> Option<&Deflated> {
        let counted = self.made_bytes.as_ref()?;
        let made = self.deflated[usize::from(envelope)].get_or_init(|| {
            let (block, least) =
                (self.block(envelope), policies.of(self.feed.channel.as_str()).compress_from);
            let deflated =
                if least > 0 && block.len() >= least { Deflated::of(block)? } else { return None };
            counted.fetch_add(deflated.len(), Ordering::Relaxed);
            Some(Box::new(deflated))
        });
        made.as_deref()
    }

    /// Bytes of what was made here.
    fn made_len(&self) -> usize {
        let deflated = self.deflated.iter().filter_map(|made| made.get()?.as_deref());
        self.envelope.get().map_or(0, Bytes::len) + deflated.map(Deflated::len).sum::<usize>()
    }
}

impl Drop for RingEvent {
    fn drop(&mut self) {
        if let Some(made_bytes) = &self.made_bytes {
            made_bytes.fetch_sub(self.made_len(), Ordering::Relaxed);
        }
    }
}

/// The recent events of one shard.
#[derive(Debug)]
pub struct Ring {
    epoch: Epoch,
    floor: u64,
    head: u64,
    tip: u64,
    /// Entries whose digests are known, in order of their seqs: the ends of batches.
    digests: VecDeque<(u64, Digest)>,
    events: VecDeque<Arc<RingEvent>>,
    channels: HashMap<Channel, VecDeque<Arc<RingEvent>>>,
    bytes: usize,
    /// Bytes of all events that it was given.
    pushed: usize,
    /// Bytes of the envelopes and compressed forms that listeners asked for.
    made_bytes: Arc<AtomicUsize>,
    bytes_max: usize,
}

/// How far a read got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reached {
    /// Everything wanted at or below this seq was given.
    pub at: u64,
    /// Whether there is more to look at.
    pub more: bool,
}

/// What became of a batch.
#[derive(Debug, PartialEq, Eq)]
pub enum Applied {
    /// The head moved on.
    Advanced,
    /// It was known already.
    Known,
    /// It begins after the head: what is between must be had first.
    Gap,
    /// It is of another epoch.
    OtherEpoch,
    /// It has another entry than the ring at a position of both: the journal gave a seq out again.
    Differs,
}

/// How often a topic may be compared with an event's channel in one read: it holds the ring, and whoever
/// takes in the live feed waits.
const COMPARED_MAX: usize = 20_000;

/// Most digests that are remembered, 16 bytes each. With the least of what relays send at a time, an event,
/// they go back further than most feeds lose at once.
const DIGESTS: usize = 4096;

/// Book-keeping that each event costs beside its frame: two shared pointers, the struct, index space.
const EVENT_OVERHEAD: usize = 256;

impl Ring {
    /// An empty ring at a position, with a bound in bytes.
    pub fn new(epoch: Epoch, after: u64, bytes_max: usize) -> Self {
        Ring {
            epoch,
            floor: after,
            head: after,
            tip: after,
            digests: VecDeque::new(),
            events: VecDeque::new(),
            channels: HashMap::new(),
            bytes: 0,
            pushed: 0,
            made_bytes: Arc::default(),
            bytes_max,
        }
    }

    /// Forgets everything and goes on after another position.
    pub fn restart(&mut self, epoch: Epoch, after: u64) {
        *self = Ring::new(epoch, after, self.bytes_max);
    }

    /// The incarnation that all its seqs are of.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Everything after this seq is held.
    pub fn floor(&self) -> u64 {
        self.floor
    }

    /// The last seq it covers.
    pub fn head(&self) -> u64 {
        self.head
    }

    /// The last seq that the journal is known to have.
    pub fn tip(&self) -> u64 {
        self.tip
    }

    /// The newest entry whose digest is known; at the head more often than not.
    pub fn newest_digest(&self) -> Option<(u64, Digest)> {
        self.digests.back().copied()
    }

    /// How many events it holds.
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// Bytes it takes, envelopes and book-keeping included.
    pub fn bytes(&self) -> usize {
        self.bytes + self.made_bytes.load(Ordering::Relaxed)
    }

    /// The oldest event it holds.
    pub fn oldest(&self) -> Option<&Arc<RingEvent>> {
        self.events.front()
    }

    /// The events after `seq`, in order.
    pub fn after(&self, seq: u64) -> impl Iterator<Item = &Arc<RingEvent>> {
        after(&self.events, seq)
    }

    /// The seq before the first event that it holds of this time or later. The journal's times rise with its seqs.
    pub fn before(&self, time: Timestamp) -> u64 {
        let first = self.events.partition_point(|event| event.feed.time < time);
        self.events.get(first).map_or(self.head, |event| event.feed.seq - 1)
    }

    /// Whether it has had to let go nothing of this time or later.
    pub fn reaches(&self, time: Timestamp) -> bool {
        self.events.front().is_none_or(|first| first.offset == 0 || first.feed.time < time)
    }

    /// Bytes of the events after `seq`, as far as they are held.
    pub fn bytes_after(&self, seq: u64) -> usize {
        self.after(seq).next().map_or(0, |event| self.pushed - event.offset)
    }

    /// Takes in what is new of a batch. `counter` gives the delivery counter of an event.
    pub fn apply(&mut self, batch: &Batch, counter: impl Fn(&FeedEvent) -> Counter) -> Applied {
        if batch.epoch != self.epoch {
            return Applied::OtherEpoch;
        }
        if self.differs(batch) {
            return Applied::Differs;
        }
        self.tip = self.tip.max(batch.tip);
        if batch.to <= self.head {
            if batch.to == self.head && self.digests.is_empty() {
                // A ring that has just begun has nothing else to compare, and its listeners have come further.
                self.remember(batch.to, batch.to_digest);
            }
            return Applied::Known;
        }
        if batch.from > self.head {
            return Applied::Gap;
        }
        let head = self.head;
        for feed in batch.events.iter().filter(|event| event.seq > head) {
            let made_bytes = self.made_bytes.clone();
            self.push(Arc::new(RingEvent::counted(feed.clone(), counter(feed), made_bytes, self.pushed)));
        }
        self.head = batch.to;
        self.remember(batch.to, batch.to_digest);
        self.evict();
        Applied::Advanced
    }

    /// Has the writes of an event noted, if it is held and they aren't yet.
    pub(crate) fn note_writes(&self, seq: u64, writes: &Arc<Writes>) {
        if let Ok(at) = self.events.binary_search_by_key(&seq, |event| event.feed.seq) {
            self.events[at].writes.get_or_init(|| writes.clone());
        }
    }

    /// Whether a batch has another entry than the ring where both have one.
    fn differs(&self, batch: &Batch) -> bool {
        // The rest of what it repeats, if anything: a batch begins at the head as a rule.
        self.other_digest(batch).is_some() || self.first_other(batch).is_some()
    }

    /// The first boundary of a batch at which it has another digest than the ring.
    pub fn other_digest(&self, batch: &Batch) -> Option<u64> {
        let boundaries = [(batch.from, batch.from_digest), (batch.to, batch.to_digest)];
        boundaries.into_iter().filter(|(_, digest)| *digest != Digest::NONE).find_map(|(seq, digest)| {
            let known = self.digests.binary_search_by_key(&seq, |(seq, _)| *seq).ok()?;
            (self.digests[known].1 != digest).then_some(seq)
        })
    }

    /// The first seq at which a batch has another event than the ring.
    pub fn first_other(&self, batch: &Batch) -> Option<u64> {
        let other = |event: &&FeedEvent| {
            let known = self.events.binary_search_by_key(&event.seq, |known| known.feed.seq);
            known.is_ok_and(|at| self.events[at].feed != **event)
        };
        batch.events.iter().take_while(|event| event.seq <= self.head).find(other).map(|event| event.seq)
    }

    fn remember(&mut self, seq: u64, digest: Digest) {
        if digest == Digest::NONE {
            return;
        }
        self.digests.push_back((seq, digest));
        if self.digests.len() > DIGESTS {
            self.digests.pop_front();
        }
    }

    /// Gives the events that `topics` want after `seq`, in order, to `take` until it returns false.
    /// May stop before that, having looked at much and found little.
    ///
    /// The caller checks that `seq` is within `floor..=head`.
    pub fn read(&self, topics: &Topics, seq: u64, mut take: impl FnMut(&Arc<RingEvent>) -> bool) -> Reached {
        let head = Reached { at: self.head.max(seq), more: false };
        let stopped_at = |seq: u64| Reached { at: seq, more: seq < self.head };
        match topics {
            Topics::Channels(channels) => {
                let mut heads: Vec<_> = channels
                    .iter()
                    .filter_map(|channel| Some(after(self.channels.get(channel)?, seq).peekable()))
                    .collect();
                loop {
                    let next = heads.iter_mut().filter_map(|h| h.peek().map(|e| e.feed.seq)).min();
                    let Some(next) = next else { return head };
                    let event = heads.iter_mut().find_map(|h| h.next_if(|e| e.feed.seq == next));
                    let Some(event) = event else { return head };
                    if !take(event) {
                        return stopped_at(event.feed.seq);
                    }
                }
            }
            Topics::Mixed { .. } => {
                let most = COMPARED_MAX / (topics.channels().len() + topics.patterns().len()).max(1);
                for (looked_at, event) in self.after(seq).enumerate() {
                    let wanted = topics.want(event.feed.channel.as_str());
                    if wanted && !take(event) || looked_at >= most {
                        return stopped_at(event.feed.seq);
                    }
                }
                head
            }
        }
    }

    fn push(&mut self, event: Arc<RingEvent>) {
        self.bytes += cost(&event);
        self.pushed += cost(&event);
        match self.channels.get_mut(&event.feed.channel) {
            Some(of_channel) => of_channel.push_back(event.clone()),
            None => {
                // A key of its own, or it would keep the whole batch's bytes alive.
                self.channels.insert(event.feed.channel.detached(), VecDeque::from([event.clone()]));
            }
        }
        self.events.push_back(event);
    }

    fn evict(&mut self) {
        // Looked at once: an envelope's bytes are only given back when nobody sends it any more.
        let mut made_bytes = self.made_bytes.load(Ordering::Relaxed);
        while self.bytes + made_bytes > self.bytes_max
            && let Some(event) = self.events.pop_front()
        {
            self.bytes -= cost(&event);
            made_bytes = made_bytes.saturating_sub(event.made_len());
            self.floor = event.feed.seq;
            if let Some(of_channel) = self.channels.get_mut(&event.feed.channel) {
                of_channel.pop_front();
                if of_channel.is_empty() {
                    self.channels.remove(&event.feed.channel);
                }
            }
        }
    }
}

fn cost(event: &RingEvent) -> usize {
    event.feed.wire_len() + EVENT_OVERHEAD
}

fn after(events: &VecDeque<Arc<RingEvent>>, seq: u64) -> impl Iterator<Item = &Arc<RingEvent>> {
    events.range(events.partition_point(|event| event.feed.seq <= seq)..)
}

#[cfg(test)]
mod tests {
    use foghorn_core::event::Event;
    use foghorn_core::pattern::Pattern;
    use foghorn_core::position::Position;
    use foghorn_core::shard::Shard;
    use foghorn_core::time::Timestamp;
    use proptest::prelude::*;

    use super::*;

    const EPOCH: Epoch = Epoch::new(1);

    /// A batch over `(from, to]` with an event at each of `seqs`, on channel `c<seq % 3>`.
    fn batch(from: u64, to: u64, seqs: impl IntoIterator<Item = u64>) -> Batch {
        let mut batch = Batch::empty(Shard::ZERO, EPOCH, from, to);
        batch.events = seqs
            .into_iter()
            .map(|seq| {
                let event = Event::new(Channel::parse(format!("c{}", seq % 3)).unwrap(), seq.to_string());
                let position = Position { shard: Shard::ZERO, epoch: EPOCH, seq };
                FeedEvent::encode(position, Timestamp::default(), &event)
            })
            .collect();
        batch
    }

    fn read(ring: &Ring, topics: &[&str], seq: u64, most: usize) -> (Vec<u64>, u64) {
        let topics = Topics::new(topics.iter().map(|t| Pattern::parse(*t).unwrap()));
        let mut seqs = Vec::new();
        let reached = ring.read(&topics, seq, |event| {
            seqs.push(event.feed.seq);
            seqs.len() < most
        });
        (seqs, reached.at)
    }

    #[test]
    fn envelopes_count_towards_the_bound() {
        let mut ring = Ring::new(EPOCH, 0, 1 << 20);
        ring.apply(&batch(0, 100, 1..=100), |_| Counter::default());
        let plain = ring.bytes();
        let made: usize = ring.after(0).map(|event| event.block(true).len()).sum();
        assert_eq!(ring.bytes(), plain + made);
        let mut small = Ring::new(EPOCH, 0, plain);
        small.apply(&batch(0, 100, 1..=100), |_| Counter::default());
        let made: usize = small.after(0).map(|event| event.block(true).len()).sum();
        assert_eq!(made, small.bytes() - plain);
        small.apply(&batch(100, 101, [101]), |_| Counter::default());
        assert!(small.bytes() <= plain && small.len() > 50, "{} of {plain}", small.bytes());
    }

    #[test]
    fn a_read_that_finds_nothing_stops_and_says_so() {
        let mut ring = Ring::new(EPOCH, 0, 16 << 20);
        ring.apply(&batch(0, 5000, 1..=5000), |_| Counter::default());
        let topics = Topics::new((0..100).map(|n| Pattern::parse(format!("none.{n}.*")).unwrap()));
        let (mut at, mut reads) = (0, 0);
        loop {
            let reached = ring.read(&topics, at, |_| unreachable!("nothing is wanted"));
            assert!(reached.at > at);
            (at, reads) = (reached.at, reads + 1);
            if !reached.more {
                break;
            }
        }
        assert_eq!(at, 5000);
        assert!(reads > 10, "{reads} reads");
    }

    #[test]
    fn a_gap_is_never_stepped_over() {
        let mut ring = Ring::new(EPOCH, 10, 1 << 20);
        assert_eq!(ring.apply(&batch(12, 13, [13]), |_| Counter::default()), Applied::Gap);
        assert_eq!(ring.head(), 10);
        assert_eq!(ring.apply(&batch(10, 12, [11]), |_| Counter::default()), Applied::Advanced);
        assert_eq!(ring.apply(&batch(12, 13, [13]), |_| Counter::default()), Applied::Advanced);
        assert_eq!(ring.apply(&batch(9, 13, [11, 13]), |_| Counter::default()), Applied::Known);
        let mut other = batch(13, 14, []);
        other.epoch = Epoch::new(2);
        assert_eq!(ring.apply(&other, |_| Counter::default()), Applied::OtherEpoch);
        assert_eq!(read(&ring, &[">"], 10, 9), (vec![11, 13], 13));
    }

    #[test]
    fn a_batch_of_another_history_is_not_taken() {
        let digests = |mut batch: Batch, from: u64, to: u64| {
            (batch.from_digest, batch.to_digest) = (Digest(from), Digest(to));
            batch
        };
        let ring = || {
            let mut ring = Ring::new(EPOCH, 10, 1 << 20);
            ring.apply(&digests(batch(10, 12, [11]), 0, 120), |_| Counter::default());
            ring.apply(&digests(batch(12, 15, [13, 14]), 120, 150), |_| Counter::default());
            ring
        };
        let applied = |batch: Batch| ring().apply(&batch, |_| Counter::default());
        // What follows, and what has been there.
        assert_eq!(applied(digests(batch(15, 16, [16]), 150, 160)), Applied::Advanced);
        assert_eq!(applied(digests(batch(15, 16, [16]), 0, 160)), Applied::Advanced);
        assert_eq!(applied(digests(batch(15, 15, []), 150, 150)), Applied::Known);
        assert_eq!(applied(digests(batch(12, 16, [13, 14, 16]), 120, 160)), Applied::Advanced);
        assert_eq!(
            applied(digests(batch(11, 14, [13, 14]), 7, 7)),
            Applied::Known,
            "of these nothing is known"
        );
        // What begins after, or ends with, another entry than the ring's.
        assert_eq!(applied(digests(batch(15, 16, [16]), 151, 160)), Applied::Differs);
        assert_eq!(applied(digests(batch(15, 15, []), 0, 151)), Applied::Differs);
        assert_eq!(applied(digests(batch(10, 12, [11]), 0, 121)), Applied::Differs);
        // What has another event in the middle.
        let mut other = batch(11, 16, [13, 14, 16]);
        other.events[1].time = Timestamp::from_micros(1);
        assert_eq!(applied(other), Applied::Differs);
        let mut ring = ring();
        let beyond = digests(batch(15, 16, [16]), 151, 160);
        ring.apply(&beyond, |_| Counter::default());
        assert_eq!((ring.head(), ring.tip(), ring.newest_digest()), (15, 15, Some((15, Digest(150)))));
        // One that has just begun learns from a beacon what is where it begins.
        let mut begun = Ring::new(EPOCH, 15, 1 << 20);
        begun.apply(&digests(batch(15, 15, []), 150, 150), |_| Counter::default());
        assert_eq!(begun.newest_digest(), Some((15, Digest(150))));
    }

    #[test]
    fn at_the_bound_the_oldest_go_and_the_floor_says_so() {
        let mut ring = Ring::new(EPOCH, 0, 2000);
        for seq in 1..=100 {
            ring.apply(&batch(seq - 1, seq, [seq]), |_| Counter::default());
        }
        assert!(ring.bytes() <= 2000 && ring.len() > 2);
        assert_eq!(ring.floor() + 1, ring.oldest().unwrap().feed.seq);
        assert_eq!(read(&ring, &[">"], ring.floor(), 1000).0, (ring.floor() + 1..=100).collect::<Vec<_>>());
    }

    proptest! {
        /// However a shard is cut into overlapping batches, whatever the topics and wherever a reader
        /// stops, it gets every wanted event once and in order.
        #[test]
        fn reading_in_steps_gives_every_wanted_event_once(
            cuts in prop::collection::vec(0u64..40, 0..8), overlap in 0u64..4,
            most in 1usize..5, start in 0u64..40,
            topics in prop::sample::subsequence(vec!["c0", "c1", "c2", "*"], 1..4),
        ) {
            let mut cuts = cuts;
            cuts.extend([0, 40]);
            cuts.sort_unstable();
            let mut ring = Ring::new(EPOCH, 0, 1 << 20);
            for pair in cuts.windows(2) {
                let from = pair[0].saturating_sub(overlap);
                // Every fourth seq is an entry without an event.
                ring.apply(&batch(from, pair[1], (from + 1..=pair[1]).filter(|s| s % 4 != 0)), |_| Counter::default());
            }
            prop_assert_eq!(ring.head(), 40);
            let wanted: Vec<u64> = (start + 1..=40)
                .filter(|s| s % 4 != 0 && (topics.contains(&"*") || topics.contains(&&*format!("c{}", s % 3))))
                .collect();
            let (mut at, mut got) = (start, Vec::new());
            while at < 40 {
                let (seqs, reached) = read(&ring, &topics, at, most);
                prop_assert!(reached > at);
                got.extend(seqs);
                at = reached;
            }
            prop_assert_eq!(got, wanted);
        }
    }
}
