//! A view: all streams of a reactor that asked for the same. What they are sent is the same, byte by byte.

use std::sync::Arc;

use foghorn_core::channel::Channel;
use foghorn_core::cursor::Cursor;
use foghorn_core::policy::{COMPRESS_FROM_DEFAULT, Policies};
use foghorn_core::position::{Epoch, Position};
use foghorn_core::shard::Shard;

use super::outbox::{Item, Offered, Outbox};
use crate::connection::Course;
use crate::gathering::Gathering;
use crate::gzip::{Coder, Deflated, Sum};
use crate::ring::RingEvent;
use crate::subscription::Subscription;

/// A key of the reactor's.
pub(super) type Key = u32;

/// How far a reactor has read the rings: where every view of it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) epoch: Epoch,
    pub(super) at: u64,
}

/// Streams with one subscription.
#[derive(Debug)]
pub(super) struct View {
    pub(super) subscription: Arc<Subscription>,
    /// Those before `visited` have been visited in this round.
    members: Vec<Key>,
    visited: usize,
    /// Where the round began: everyone visited in it is there at least, unless stuck.
    round: u64,
    /// Where the next item begins.
    end: u64,
    outbox: Option<Box<Outbox>>,
    /// Of all that was ever pushed, if its members are sent it compressed.
    sum: Sum,
    /// Events that are to be one item, the next one.
    gathered: Option<Box<Gathered>>,
    /// Members whose sockets were full when they were visited.
    stuck: Vec<Key>,
    /// Whether it waits for its turn to be swept.
    pub(super) waits: bool,
    /// What the last item of that kind said.
    pub(super) stale: bool,
    /// The last event that was offered: it may be wanted for several reasons.
    pub(super) offered: u64,
}

/// Events on their way to become one item.
#[derive(Debug)]
struct Gathered {
    /// When they have to be one, in milliseconds of the reactor's time.
    due_ms: u64,
    block: Gathering,
    events: Vec<Offered>,
}

impl View {
    pub(super) fn new(subscription: Arc<Subscription>, stale: bool) -> Self {
        View {
            subscription,
            members: Vec::new(),
            visited: 0,
            round: 0,
            end: 0,
            outbox: None,
            sum: Sum::default(),
            gathered: None,
            stuck: Vec::new(),
            waits: false,
            stale,
            offered: 0,
        }
    }

    /// Where the next item begins.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    pub(super) fn members(&self) -> &[Key] {
        &self.members
    }

    pub(super) fn outbox(&mut self) -> Option<&mut Outbox> {
        self.outbox.as_deref_mut()
    }

    /// Bytes that are not written to everybody yet.
    pub(super) fn pending(&self) -> usize {
        self.outbox.as_ref().map_or(0, |outbox| outbox.len())
    }

    /// Adds a member that has been written everything; its index.
    pub(super) fn join(&mut self, key: Key) -> usize {
        self.members.push(key);
        self.members.len() - 1
    }

    /// Takes the member at an index away. Returns who got another index, and which: up to two.
    pub(super) fn leave(&mut self, index: usize) -> [Option<(Key, usize)>; 2] {
        let mut index = index;
        let mut moved = [None, None];
        if index < self.visited {
            // The gap goes to the end of those who were visited, and then to the end of all.
            self.visited -= 1;
            self.members.swap(index, self.visited);
            if index != self.visited {
                moved[0] = Some((self.members[index], index));
            }
            index = self.visited;
        }
        self.members.swap_remove(index);
        if let Some(key) = self.members.get(index) {
            moved[1] = Some((*key, index));
        }
        moved
    }

    /// The next member to be visited in this round.
    pub(super) fn visit(&mut self) -> Option<Key> {
        if self.visited == 0 {
            self.round = self.end;
        }
        let key = *self.members.get(self.visited)?;
        self.visited += 1;
        Some(key)
    }

    /// A member's socket was full when it was visited.
    pub(super) fn is_stuck(&mut self, key: Key) {
        self.stuck.push(key);
    }

    /// Those found stuck in this round.
    pub(super) fn take_stuck(&mut self) -> Vec<Key> {
        std::mem::take(&mut self.stuck)
    }

    /// Everyone has been written all there is.
    pub(super) fn skip_round(&mut self) {
        self.round = self.end;
    }

    /// Where everybody is that was visited in this round and is not stuck.
    pub(super) fn round(&self) -> u64 {
        self.round
    }

    /// The oldest event that nobody lacks any longer when the round ends.
    pub(super) fn first_event_of_round(&self) -> Option<&RingEvent> {
        self.outbox.as_ref()?.first_event(self.round)
    }

    /// Ends a round: everyone is past where it began. Returns the outbox when nothing is left of it.
    pub(super) fn end_round(&mut self) -> Option<Box<Outbox>> {
        self.visited = 0;
        let outbox = self.outbox.as_mut()?;
        outbox.forget(self.round);
        if outbox.is_empty() { self.outbox.take() } else { None }
    }

    /// Appends an event, with the id that it has for everybody here.
    pub(super) fn push_event(
        &mut self,
        shard: Shard,
        event: &Arc<RingEvent>,
        seen: &[Seen],
        policies: &Policies,
        empty: impl FnOnce() -> Box<Outbox>,
    ) {
        let subscription = self.subscription.clone();
        self.push(Item::Event((shard.index(), event.clone())), empty, |coder| {
            put_event(coder, event, &subscription, policies, || id_of(&subscription, shard, event, seen));
        });
    }

    /// Keeps an event until [`push_gathered`](View::push_gathered); of its channel only this one, if it is to be the
    /// `latest`. Whether it takes the place of an older one.
    pub(super) fn gather(
        &mut self,
        shard: Shard,
        event: &Arc<RingEvent>,
        seen: &[Seen],
        due_ms: u64,
        latest: bool,
    ) -> bool {
        let id = id_of(&self.subscription, shard, event, seen);
        let gathered = self.gathered.get_or_insert_with(|| {
            Box::new(Gathered { due_ms, block: Gathering::default(), events: Vec::new() })
        });
        let superseded = gathered.block.push(event, id, latest);
        if superseded {
            gathered.events.retain(|(_, older)| older.feed.channel != event.feed.channel);
        }
        gathered.events.push((shard.index(), event.clone()));
        superseded
    }

    /// Bytes of what is gathered.
    pub(super) fn gathered_bytes(&self) -> usize {
        self.gathered.as_ref().map_or(0, |gathered| gathered.block.len())
    }

    /// When what is gathered has to be written, if anything is.
    pub(super) fn due_ms(&self) -> Option<u64> {
        self.gathered.as_ref().map(|gathered| gathered.due_ms)
    }

    /// Appends what is gathered as one item. Whether there was anything.
    pub(super) fn push_gathered(&mut self, policies: &Policies, empty: impl FnOnce() -> Box<Outbox>) -> bool {
        let Some(gathered) = self.gathered.take() else { return false };
        let Gathered { mut block, events, .. } = *gathered;
        // Not even beside others: the length of the whole would tell of it.
        let never = |channel: &Channel| policies.of(channel.as_str()).compress_from == 0;
        let compress = self.subscription.gzip
            && block.len() >= COMPRESS_FROM_DEFAULT
            && !events.iter().any(|(_, event)| never(&event.feed.channel));
        self.push(Item::Batch(events), empty, |coder| match compress {
            true => put_deflated(coder, |out| block.write(out)),
            false => coder.write(|out| block.write(out)),
        });
        true
    }

    /// Appends `stream-stale`, or `stream-live` when that is over.
    pub(super) fn push_stale(&mut self, stale: bool, text: &[u8], empty: impl FnOnce() -> Box<Outbox>) {
        self.stale = stale;
        self.push(Item::Stale(stale), empty, |coder| coder.text(text));
    }

    fn push(&mut self, item: Item, empty: impl FnOnce() -> Box<Outbox>, write: impl FnOnce(&mut Coder<'_>)) {
        let (end, sum) = (self.end, &mut self.sum);
        let outbox = self.outbox.get_or_insert_with(|| {
            let mut outbox = empty();
            outbox.begin(end, *sum);
            outbox
        });
        let gzip = self.subscription.gzip;
        outbox.push(item, |out| {
            write(&mut Coder::new(out, gzip.then_some(&mut *sum)));
            *sum
        });
        self.end = outbox.end();
    }

    /// The sum of the text until this offset, or, where that lies within an item, until the item's end.
    pub(super) fn sum_until(&self, offset: u64) -> Sum {
        self.outbox.as_ref().map_or(self.sum, |outbox| outbox.sum_until(offset))
    }

    /// Where a member with this offset is once the item in which it lies is written, and whether it was
    /// told that it is stale by then. What is gathered has to be pushed before.
    pub(super) fn position(&self, offset: u64, seen: &[Seen]) -> (Vec<Course>, bool) {
        let mut courses = self.courses(seen);
        let mut owed = vec![false; courses.len()];
        let mut told_stale = None;
        for item in self.outbox.iter().flat_map(|outbox| outbox.items_after(offset)) {
            if let Item::Stale(stale) = item {
                told_stale.get_or_insert(!stale);
            }
            for (shard, event) in item.events() {
                let at = courses.iter().position(|course| course.shard.index() == *shard);
                if let Some(at) = at
                    && !std::mem::replace(&mut owed[at], true)
                {
                    courses[at] = courses[at].moved_to(event.feed.seq - 1);
                }
            }
        }
        (courses, told_stale.unwrap_or(self.stale))
    }

    /// Where a member is that has been written everything, when nothing is gathered.
    pub(super) fn courses(&self, seen: &[Seen]) -> Vec<Course> {
        let course = |shard: Shard| Course::level(shard, seen[shard.index()].epoch, seen[shard.index()].at);
        self.subscription.shards.iter().map(|(shard, _)| course(*shard)).collect()
    }

    /// The same as a cursor.
    pub(super) fn cursor(&self, seen: &[Seen]) -> Cursor {
        self.subscription.cursor(&self.courses(seen))
    }
}

/// The cursor of a listener that was given everything until this event.
pub(super) fn id_of(subscription: &Subscription, shard: Shard, event: &RingEvent, seen: &[Seen]) -> Cursor {
    let mut id = Cursor::default().of(subscription.id());
    for (other, _) in &subscription.shards {
        let Seen { epoch, at } = seen[other.index()];
        let seq = if *other == shard { event.feed.seq } else { at };
        id.set(Position { shard: *other, epoch, seq });
    }
    id
}

/// Appends an event's block. `id` is the cursor of a listener that was given everything until it.
pub(super) fn put_event(
    coder: &mut Coder<'_>,
    event: &RingEvent,
    subscription: &Subscription,
    policies: &Policies,
    id: impl FnOnce() -> Cursor,
) {
    let envelope = subscription.form.is_envelope();
    let deflated = if coder.compresses() { event.deflated(envelope, policies) } else { None };
    if deflated.is_none() && subscription.has_common_ids() && !envelope {
        return coder.text(event.feed.frame.with_id());
    }
    coder.write(|out| {
        out.extend_from_slice(b"id: ");
        id().write(out);
        out.push(b'\n');
    });
    match deflated {
        Some(deflated) => coder.deflated(deflated),
        None => coder.text(event.block(envelope)),
    }
}

/// Appends what `write` writes, compressed if it becomes smaller by that.
fn put_deflated(coder: &mut Coder<'_>, write: impl FnOnce(&mut Vec<u8>)) {
    let mut text = Vec::new();
    write(&mut text);
    match Deflated::of(&text) {
        Some(deflated) => coder.deflated(&deflated),
        None => coder.text(&text),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use foghorn_core::pattern::Pattern;
    use foghorn_core::policy::Policy;
    use foghorn_core::shard::ShardCount;
    use prometheus_client::metrics::counter::Counter;
    use proptest::prelude::*;

    use super::*;
    use crate::subscription::Form;
    use crate::testing::batch;

    #[derive(Debug, Clone)]
    enum Step {
        Join,
        Leave(usize),
        Event,
        /// Visits so many members. Every so many of them is stuck, and leaves when the round ends.
        Visit(usize, usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            2 => Just(Step::Join),
            1 => (0usize..20).prop_map(Step::Leave),
            3 => Just(Step::Event),
            5 => (1usize..8, 1usize..9).prop_map(|(visits, stuck)| Step::Visit(visits, stuck)),
        ]
    }

    /// Members by key: index, offset and what they have been written.
    type Members = HashMap<Key, (usize, u64, Vec<u8>)>;

    fn leave(view: &mut View, members: &mut Members, key: Key) {
        let (index, ..) = members.remove(&key).unwrap();
        for (moved, index) in view.leave(index).into_iter().flatten() {
            members.get_mut(&moved).unwrap().0 = index;
        }
    }

    fn end_round(view: &mut View, members: &mut Members) {
        let round = view.round();
        for key in view.take_stuck() {
            if members.get(&key).is_some_and(|(_, offset, _)| *offset < round) {
                leave(view, members, key);
            }
        }
        view.end_round();
    }

    #[test]
    fn what_is_never_to_be_compressed_is_not_beside_others_in_a_batch_either() {
        let never = Policy { compress_from: 0, ..Policy::new(Pattern::parse("secret.*").unwrap()) };
        let policies = Policies::new(vec![never]).unwrap();
        let sent = |channels: [&str; 2]| {
            let subscription = Subscription {
                gzip: true,
                form: Form::Batch { millis: 10 },
                ..Subscription::new(&[Pattern::parse(">").unwrap()], ShardCount::ONE)
            };
            let mut view = View::new(Arc::new(subscription), false);
            let seen = [Seen { epoch: Epoch::new(1), at: 0 }];
            for (seq, channel) in (1..).zip(channels) {
                let event = batch(1, seq - 1, seq, channel, None, &"x".repeat(4000)).events.remove(0);
                let event = Arc::new(RingEvent::new(event, Counter::default()));
                view.gather(Shard::ZERO, &event, &seen, 0, false);
            }
            assert!(view.push_gathered(&policies, Box::default));
            view.outbox().unwrap().after(0).len()
        };
        assert!(sent(["a", "b"]) < 1000);
        assert!(sent(["a", "secret.b"]) > 8000);
    }

    proptest! {
        /// Whoever comes and goes, and wherever a sweep stops: a round visits everybody who is there for all
        /// of it, whoever joined has got every byte since, and what nobody lacks is forgotten.
        #[test]
        fn everybody_gets_every_byte(steps in prop::collection::vec(step(), 1..200)) {
            let subscription = Subscription::new(&[Pattern::parse("a").unwrap()], ShardCount::ONE);
            let mut view = View::new(Arc::new(subscription), false);
            let seen = [Seen { epoch: Epoch::new(1), at: 0 }];
            let delivered = Counter::default();
            let (mut members, mut next, mut seq) = (Members::new(), 0, 0);
            let (mut all, mut counted) = (Vec::new(), 0);
            for step in steps {
                match step {
                    Step::Join => {
                        let index = view.join(next);
                        members.insert(next, (index, view.end(), all.clone()));
                        next += 1;
                    }
                    Step::Leave(nth) => {
                        let mut keys: Vec<Key> = members.keys().copied().collect();
                        keys.sort_unstable();
                        if let Some(key) = keys.get(nth) {
                            leave(&mut view, &mut members, *key);
                        }
                    }
                    Step::Event => {
                        seq += 1;
                        let event = batch(1, seq - 1, seq, "a", None, &seq.to_string()).events.remove(0);
                        let event = Arc::new(RingEvent::new(event, delivered.clone()));
                        let before = view.end();
                        view.push_event(Shard::ZERO, &event, &seen, &Policies::default(), Box::default);
                        all.extend_from_slice(view.outbox().unwrap().after(before));
                    }
                    Step::Visit(visits, stuck) => for visit in 1..=visits {
                        let Some(key) = view.visit() else {
                            end_round(&mut view, &mut members);
                            break;
                        };
                        let (_, offset, written) = members.get_mut(&key).unwrap();
                        let end = view.end();
                        if *offset == end {
                            continue;
                        }
                        if visit % stuck == 0 && stuck > 1 {
                            view.is_stuck(key);
                            continue;
                        }
                        let outbox = view.outbox().unwrap();
                        written.extend_from_slice(outbox.after(*offset));
                        outbox.passed(*offset, end);
                        *offset = end;
                        counted += 1;
                    }
                }
                prop_assert_eq!(view.members().len(), members.len());
                for (key, (index, ..)) in &members {
                    prop_assert_eq!(view.members()[*index], *key);
                }
            }
            // Two whole rounds without anything new.
            for _ in 0..2 {
                while let Some(key) = view.visit() {
                    let (_, offset, written) = members.get_mut(&key).unwrap();
                    let end = view.end();
                    if let Some(outbox) = view.outbox() {
                        written.extend_from_slice(outbox.after(*offset));
                        outbox.passed(*offset, end);
                        counted += u64::from(*offset < end);
                        *offset = end;
                    }
                }
                end_round(&mut view, &mut members);
            }
            prop_assert_eq!(view.pending(), 0);
            for (.., written) in members.values() {
                prop_assert!(*written == all);
            }
            prop_assert!(delivered.get() >= counted, "each write covered an event at least");
        }
    }
}
