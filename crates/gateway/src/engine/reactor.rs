//! The loop that serves level streams.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Registry, Token};
use slab::Slab;
use socket2::SockRef;
use tokio::runtime::Handle;

use foghorn_core::channel::Channel;
use foghorn_core::cursor::Cursor;
use foghorn_core::position::Epoch;
use foghorn_core::reason::StreamEnd;
use foghorn_core::shard::{Shard, ShardCount};
use foghorn_core::time::Timestamp;
use foghorn_http::connections::Open;
use foghorn_http::problem::Problem;

use super::READ_BYTES;
use super::catch_up::resume;
use super::inbox::{Handed, Inbox, WAKE};
use super::outbox::{LAST_CHUNK, Outbox, put_chunk};
use super::view::{Key, Seen, View, id_of, put_event};
use super::wheel::{Entry, Wheel};
use crate::change::{self, Ask, Changed};
use crate::connection::{Course, Shared, Stream, expiring, keep_alive, notice, stream_end};
use crate::gathering::Gathering;
use crate::gzip::{Coder, Sum};
use crate::hub::{Hub, Membership};
use crate::index::PatternIndex;
use crate::keep_alive::{KeepAlive, millis};
use crate::latest::Newest;
use crate::ring::{Ring, RingEvent};
use crate::seat::{Due, Seat};
use crate::subscription::Subscription;
use crate::survey::{Question, Survey};

/// Writes, and bytes written, after which another view has its turn.
const SLICE_WRITES: usize = 256;
const SLICE_BYTES: usize = 1 << 20;
/// Bytes that a view may hold for members that the sweep has not reached. Whoever is further behind reads
/// the ring by itself.
const VIEW_BYTES: usize = 1 << 20;
/// Bytes of events after which a batch is not waited for any longer.
const BATCH_BYTES: usize = 64 * 1024;
/// Events, and bytes of events, read from a ring at a time.
const RING_EVENTS: usize = 512;
const RING_BYTES: usize = VIEW_BYTES / 2;
/// What a stream that joins may lack; one that lacks more goes on by itself.
const JOIN_BYTES: usize = 64 * 1024;
/// Outboxes kept for their memory, and how much of it each may keep.
const POOL: usize = 256;
const POOLED_BYTES: usize = 16 * 1024;
/// Streams of one user that hear the own channel by themselves. They are written to at once: more share a view, which has
/// its turns.
const OWN_MOST: usize = 64;
const NO_VIEW: Key = Key::MAX;
/// The epoch of a ring that has not begun.
const NOWHERE: Epoch = Epoch::new(0);
/// Of a stream that isn't behind: later than any time.
const LEVEL: u64 = u64::MAX;

/// One stream. What a write looks at stands first, in one line of the cache: by the time that a thousand others were
/// written to, each line has to be had from far away again.
#[repr(C, align(64))]
struct Listener {
    socket: TcpStream,
    view: Key,
    /// How far into the view's bytes it has been written.
    offset: u64,
    /// Milliseconds of the reactor's time.
    last_write: u64,
    /// Since when its socket has been full, or it is behind for that; [`LEVEL`] when it isn't.
    behind_ms: u64,
    rest: Option<Box<Rest>>,
    keep_alive: KeepAlive,
    /// Whether its socket took less than it was given.
    full: bool,
    /// Whether it hears its user's own channel too, which its view doesn't.
    own: bool,
    /// Its index among the view's members.
    member: u32,
    /// Which of the bearers of its key it is.
    bearer: u32,
    overlooked: u32,
    seat: Seat,
    open: Open,
    /// What it was written, if it is compressed.
    gzip: Option<Box<Written>>,
}

// With debug assertions mio's sockets know more of themselves, and are larger.
const _: () = assert!(
    cfg!(debug_assertions) || std::mem::offset_of!(Listener, full) < 64,
    "a write looks at more than one line"
);

/// The text that a compressed stream was written, and the view's where the two were compared last: what the view
/// was given since is the stream's too.
struct Written {
    sum: Sum,
    view: Sum,
}

/// Bytes for one stream alone, before anything else.
struct Rest {
    bytes: Vec<u8>,
    sent: usize,
    then: Then,
}

enum Then {
    /// It goes on where it is in its view.
    GoOn,
    /// It is behind its view: a task has to see to it.
    CatchUp(Arc<Subscription>, Vec<Course>, bool),
    /// It ends.
    End(StreamEnd),
}

impl Listener {
    fn ends(&self) -> bool {
        self.rest.as_ref().is_some_and(|rest| matches!(rest.then, Then::End(_)))
    }
}

/// A thread's streams.
pub(super) struct Reactor {
    shared: Weak<Shared>,
    hub: Arc<Hub>,
    inbox: Arc<Inbox>,
    runtime: Handle,
    registry: Arc<Registry>,
    listeners: Slab<Listener>,
    views: Slab<View>,
    by_subscription: HashMap<Arc<Subscription>, Key>,
    /// The streams that hear a user's own channel beside their views.
    by_own: HashMap<Channel, Vec<Key>>,
    /// Per shard.
    topics: Vec<Topics>,
    seen: Vec<Seen>,
    /// Which shards are stale, after so many changes.
    stale: Vec<bool>,
    stale_changes: u64,
    end_looks: u64,
    /// How many surveys it has looked at its streams for.
    surveyed: u64,
    /// How many changes had been asked for when it last looked.
    asks_made: u64,
    /// Views with something to be written, in turn.
    waiting: VecDeque<Key>,
    /// When views have to push what they have gathered, unless they have done so already.
    gathering: BinaryHeap<Reverse<(u64, Key)>>,
    wheel: Wheel,
    began: Instant,
    now_ms: u64,
    /// When the slow were looked at.
    looked_ms: u64,
    bearers: u32,
    offered: u64,
    leaving: usize,
    /// Where to look for the next stream to leave.
    next_to_leave: usize,
    /// How long a socket may take nothing, and how much streams with full sockets may hold together.
    slow_ms: u64,
    lag_ms: u64,
    slow_bytes: usize,
    rests_bytes: usize,
    #[expect(clippy::vec_box, reason = "a view without one is to be small: it holds a pointer")]
    pool: Vec<Box<Outbox>>,
    /// When the journal took the oldest event that was written to the last of its streams since this was counted.
    written: Option<Timestamp>,
    events: Vec<Arc<RingEvent>>,
    found: Vec<Key>,
    /// Bytes that several streams are sent alone.
    alone: Vec<u8>,
}

struct Topics {
    channels: HashMap<Channel, Vec<Key>>,
    patterns: PatternIndex<Key, Key>,
}

impl Reactor {
    pub(super) fn new(
        shared: &Arc<Shared>,
        inbox: Arc<Inbox>,
        runtime: Handle,
        registry: Arc<Registry>,
    ) -> Self {
        let hub = shared.hub.clone();
        let shards = hub.shard_count();
        let none = |_| Topics { channels: HashMap::new(), patterns: PatternIndex::new() };
        let now = Instant::now();
        Reactor {
            shared: Arc::downgrade(shared),
            inbox,
            runtime,
            registry,
            listeners: Slab::new(),
            views: Slab::new(),
            by_subscription: HashMap::new(),
            by_own: HashMap::new(),
            topics: shards.shards().map(none).collect(),
            seen: shards.shards().map(|shard| head(&hub, shard)).collect(),
            stale: vec![false; usize::from(shards.get())],
            // Looked at before anything is told.
            stale_changes: u64::MAX,
            end_looks: hub.end_looks(),
            surveyed: hub.surveys.made(),
            asks_made: hub.directory.asks_made(),
            hub,
            waiting: VecDeque::new(),
            gathering: BinaryHeap::new(),
            wheel: Wheel::new(now),
            began: now,
            now_ms: 0,
            looked_ms: 0,
            bearers: 0,
            offered: 0,
            leaving: 0,
            next_to_leave: 0,
            slow_ms: u64::from(millis(shared.config.slow_time)),
            lag_ms: u64::from(millis(shared.config.lag_time)),
            slow_bytes: shared.config.slow_bytes / shared.config.reactors(),
            rests_bytes: 0,
            pool: Vec::new(),
            written: None,
            events: Vec::with_capacity(RING_EVENTS),
            found: Vec::new(),
            alone: Vec::new(),
        }
    }

    /// Serves until it is told to stop. Fails when its sockets can't be waited for.
    pub(super) fn run(mut self, poll: &mut Poll) -> io::Result<()> {
        let mut happened = Events::with_capacity(1024);
        let (mut adoptees, mut due) = (Vec::new(), Vec::new());
        while !self.inbox.is_stopped() {
            // Before looking, so that what happens meanwhile wakes.
            self.inbox.listen();
            self.tick(&mut due);
            let mut more = false;
            for shard in self.hub.shard_count().shards() {
                more |= self.advance(shard);
            }
            self.push_due();
            self.say_stale();
            self.inbox.adoptees(&mut adoptees);
            for (handed, membership) in adoptees.drain(..) {
                self.adopt(handed, membership);
            }
            self.let_go();
            self.shed();
            self.answer_asked();
            self.answer_surveys();
            self.end_due();
            self.inbox.set_staying(self.listeners.len() - self.leaving);
            self.sweep_waiting();
            let busy = more || !self.waiting.is_empty();
            let idle = self.next().saturating_duration_since(Instant::now());
            let timeout = if busy { Duration::ZERO } else { idle };
            match poll.poll(&mut happened, Some(timeout)) {
                Ok(()) => happened.iter().for_each(|event| self.happened(event)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.listeners.drain().for_each(|listener| listener.seat.end(StreamEnd::Drain));
        Ok(())
    }

    /// When it has to look again by itself.
    fn next(&self) -> Instant {
        let gathered =
            self.gathering.peek().map(|Reverse((due, _))| self.began + Duration::from_millis(*due));
        gathered.map_or(self.wheel.next(), |due| due.min(self.wheel.next()))
    }

    // What comes in

    /// Reads on in a shard's ring. Whether there is more.
    fn advance(&mut self, shard: Shard) -> bool {
        let seen = self.seen[shard.index()];
        let mut events = std::mem::take(&mut self.events);
        let reached = self.hub.with_ring(shard, |ring| Some(read_on(ring?, seen, &mut events)));
        if let Some(Reached::Lost(_)) = reached {
            // The ring left us behind, or began anew: everybody here has to ask where to go on.
            self.expel_all(shard);
        }
        let now = self.hub.clock.now();
        for event in events.drain(..) {
            // Whoever leaves a view for this event lacks it.
            self.seen[shard.index()].at = event.feed.seq - 1;
            if !event.feed.is_expired(now) {
                self.offer(shard, &event);
                self.offer_own(shard, &event);
            }
        }
        self.events = events;
        let (Some(Reached::Head(at)) | Some(Reached::Lost(at)) | Some(Reached::More(at))) = reached else {
            return false;
        };
        self.seen[shard.index()] = at;
        matches!(reached, Some(Reached::More(_)))
    }

    /// Puts an event into every view that wants it.
    fn offer(&mut self, shard: Shard, event: &Arc<RingEvent>) {
        self.offered += 1;
        let mut found = std::mem::take(&mut self.found);
        let topics = &self.topics[shard.index()];
        if let Some(views) = topics.channels.get(&event.feed.channel) {
            found.extend_from_slice(views);
        }
        topics.patterns.matching(event.feed.channel.as_str(), &mut |view| found.push(*view));
        // Once: many views may want it.
        let policies = self.hub.policies();
        for key in found.drain(..) {
            let Some(view) = self.views.get_mut(key as usize) else { continue };
            if view.offered == self.offered || !view.subscription.wants_type(&event.feed) {
                continue;
            }
            view.offered = self.offered;
            if let Some(time) = view.subscription.form.gathered_for() {
                self.gather(key, shard, event, time);
                continue;
            }
            let pool = &mut self.pool;
            view.push_event(shard, event, &self.seen, &policies, || pool.pop().unwrap_or_default());
            self.pushed(key);
        }
        self.found = found;
    }

    /// Sends an event to those who hear it on their own channels. What their views have for them comes before it.
    fn offer_own(&mut self, shard: Shard, event: &Arc<RingEvent>) {
        let Some(streams) = self.by_own.get(&event.feed.channel) else { return };
        let mut found = std::mem::take(&mut self.found);
        found.extend_from_slice(streams);
        // Once: a user may have many streams.
        let policies = self.hub.policies();
        for key in found.drain(..) {
            self.go_on(key);
            let Some(listener) = self.listeners.get_mut(key as usize) else { continue };
            let Some(view) = self.views.get(listener.view as usize) else { continue };
            if !view.subscription.wants_type(&event.feed) {
                continue;
            }
            if listener.full || listener.rest.is_some() || listener.offset != view.end() {
                // It is sent this once its socket takes something, from where it stopped.
                self.expel(key);
                continue;
            }
            listener.keep_alive.active();
            let subscription = view.subscription.clone();
            let id = id_of(&subscription, shard, event, &self.seen);
            self.say(key, |coder| put_event(coder, event, &subscription, &policies, || id));
            event.count_deliveries(1);
            self.note_written(event.feed.time);
        }
        self.found = found;
    }

    /// There is something new in a view's outbox.
    fn pushed(&mut self, key: Key) {
        self.wait_for_turn(key);
        if self.views[key as usize].pending() > VIEW_BYTES {
            self.expel_laggards(key);
        }
    }

    fn gather(&mut self, key: Key, shard: Shard, event: &Arc<RingEvent>, time: Duration) {
        let view = &mut self.views[key as usize];
        let due_ms = self.now_ms + u64::from(millis(time));
        if view.due_ms().is_none() {
            self.gathering.push(Reverse((due_ms, key)));
        }
        let latest = self.hub.policies().keeps_latest(event.feed.channel.as_str());
        if view.gather(shard, event, &self.seen, due_ms, latest) {
            self.hub.metrics.superseded.inc_by(view.members().len() as u64);
        }
        if view.gathered_bytes() >= BATCH_BYTES {
            self.push_gathered(key);
            self.pushed(key);
        }
    }

    /// Puts what a view has gathered into its outbox: after this its members lack nothing that is not there.
    fn push_gathered(&mut self, key: Key) {
        let pool = &mut self.pool;
        let Some(view) = self.views.get_mut(key as usize) else { return };
        if view.push_gathered(&self.hub.policies(), || pool.pop().unwrap_or_default()) {
            self.wait_for_turn(key);
        }
    }

    /// Pushes what was gathered for long enough.
    fn push_due(&mut self) {
        while let Some(Reverse((due_ms, key))) = self.gathering.peek().copied()
            && due_ms <= self.now_ms
        {
            self.gathering.pop();
            let is_due = |view: &View| view.due_ms().is_some_and(|due| due <= self.now_ms);
            if self.views.get(key as usize).is_some_and(is_due) {
                self.push_gathered(key);
                self.pushed(key);
            }
        }
    }

    fn wait_for_turn(&mut self, key: Key) {
        if !std::mem::replace(&mut self.views[key as usize].waits, true) {
            self.waiting.push_back(key);
        }
    }

    fn say_stale(&mut self) {
        let changes = self.hub.stale_changes();
        if changes == self.stale_changes {
            return;
        }
        self.stale_changes = changes;
        self.stale = self.hub.shard_count().shards().map(|shard| self.hub.is_stale([shard])).collect();
        let keys: Vec<Key> = self.views.iter().map(|(key, _)| narrow(key)).collect();
        for key in keys {
            let stale = self.is_stale(&self.views[key as usize].subscription);
            if stale == self.views[key as usize].stale {
                continue;
            }
            self.push_gathered(key);
            let view = &mut self.views[key as usize];
            let text = notice(stale, &view.cursor(&self.seen));
            let pool = &mut self.pool;
            view.push_stale(stale, &text, || pool.pop().unwrap_or_default());
            self.wait_for_turn(key);
        }
    }

    /// As far as views were told.
    fn is_stale(&self, subscription: &Subscription) -> bool {
        subscription.shards.iter().any(|(shard, _)| self.stale[shard.index()])
    }

    /// Takes a stream on, or gives it back when it is not level after all.
    fn adopt(&mut self, handed: Handed, membership: Membership) {
        let Some((lacks, sum)) = self.lacks(&handed.stream) else { return self.give_back(handed) };
        // From here on it is let go with all that are here.
        drop(membership);
        let Handed { stream, socket, open } = handed;
        // Whoever was behind still is, until it has been written what it lacks.
        let behind = stream.behind_since.filter(|_| !lacks.is_empty());
        let behind_ms = behind.map_or(LEVEL, |since| self.ms(since.into_std()));
        let mut socket = TcpStream::from_std(socket);
        let entry = self.listeners.vacant_entry();
        let key = narrow(entry.key());
        let both = Interest::READABLE | Interest::WRITABLE;
        if let Err(error) = self.registry.register(&mut socket, Token(entry.key()), both) {
            tracing::warn!(%error, "a stream's socket can't be watched; the stream ends");
            return;
        }
        self.bearers = self.bearers.wrapping_add(1);
        let entry = entry.insert(Listener {
            socket,
            seat: stream.seat,
            open,
            bearer: self.bearers,
            own: false,
            view: NO_VIEW,
            member: 0,
            offset: 0,
            last_write: self.now_ms,
            keep_alive: stream.keep_alive,
            overlooked: 0,
            full: false,
            behind_ms,
            rest: None,
            gzip: sum.map(|sum| Box::new(Written { sum, view: Sum::default() })),
        });
        // While it was on its way here nobody could have it look.
        let withdrawn = entry.seat.keep_granted(&stream.subscription);
        self.join(key, stream.subscription);
        self.due_in(key, self.until_term(key, stream.keep_alive.least()));
        self.send_alone(key, &lacks);
        if let Some(end) = withdrawn
            && self.listeners.get(key as usize).is_some_and(|listener| !listener.ends())
        {
            self.finish(key, end);
        }
        // Nor could anybody see that it was meant, nor look at it.
        self.look_at_adopted(key, stream.surveyed);
        self.answer(key);
    }

    /// What a stream lacks to be where its view ends, if the rings have it and it is not much; with the sum of what it
    /// is written with that, if it is compressed.
    fn lacks(&mut self, stream: &Stream) -> Option<(Vec<u8>, Option<Sum>)> {
        let (subscription, mut courses) = (&stream.subscription, stream.courses.clone());
        let mut sum = stream.gzip;
        for course in &courses {
            while self.seen[course.shard.index()].at < course.at && self.advance(course.shard) {}
        }
        let (mut bytes, mut gathering) = (Vec::new(), Gathering::default());
        let now = self.hub.clock.now();
        for at in 0..courses.len() {
            let (course, topics) = (courses[at], &subscription.shards[at].1);
            let seen = self.seen[course.shard.index()];
            if course.epoch != seen.epoch || course.at > seen.at {
                return None;
            }
            let policies = self.hub.policies();
            let mut events = Newest::new(&policies);
            let mut room = JOIN_BYTES.saturating_sub(bytes.len());
            let mut much = false;
            let reached = self.hub.with_ring(course.shard, |ring| {
                let ring = ring.filter(|ring| course.check(ring).is_ok())?;
                let reached = ring.read(topics, course.at, |event| {
                    much = room == 0;
                    if event.feed.seq > seen.at || much {
                        return false;
                    }
                    room = room.saturating_sub(event.feed.wire_len());
                    if subscription.wants_type(&event.feed) && !event.feed.is_expired(now) {
                        events.push(&event.feed.channel, event.clone());
                    }
                    true
                });
                Some(reached.at)
            })?;
            if much || reached < seen.at {
                return None;
            }
            self.hub.metrics.superseded.inc_by(events.superseded());
            for event in events.into_events() {
                courses[at] = course.moved_to(event.feed.seq);
                if subscription.form.gathered_for().is_some() {
                    gathering.push(&event, subscription.cursor(&courses), false);
                } else {
                    put_coded(&mut bytes, sum.as_mut(), |coder| {
                        let id = || subscription.cursor(&courses);
                        put_event(coder, &event, subscription, &policies, id);
                    });
                }
                event.count_deliveries(1);
            }
            courses[at] = course.moved_to(seen.at);
        }
        if !gathering.is_empty() {
            put_coded(&mut bytes, sum.as_mut(), |coder| coder.write(|out| gathering.write(out)));
        }
        let stale = self.is_stale(subscription);
        if stale != stream.told_stale {
            let said = notice(stale, &subscription.cursor(&courses));
            put_coded(&mut bytes, sum.as_mut(), |coder| coder.text(&said));
        }
        Some((bytes, sum))
    }

    // What goes out

    /// Gives each view that waits a turn, until so much has been written that others should be looked after.
    /// Where most views have one member, a turn alone would be too little between two looks at everything.
    fn sweep_waiting(&mut self) {
        let mut writes = 0;
        for _ in 0..self.waiting.len() {
            if writes >= SLICE_WRITES {
                break;
            }
            if let Some(view) = self.waiting.pop_front() {
                writes += self.sweep(view);
            }
        }
        // Once for all that: reactors share the histogram, and a look at the clock is not free either.
        if let Some(time) = self.written.take() {
            self.hub.metrics.written(self.hub.clock.now().since(time));
        }
    }

    /// Writes to some of a view's members what they lack.
    fn sweep(&mut self, key: Key) -> usize {
        let Some(view) = self.views.get_mut(key as usize).filter(|view| view.waits) else { return 0 };
        let end = view.end();
        let (mut writes, mut written) = (0, 0);
        let mut gone = Vec::new();
        while writes < SLICE_WRITES && written < SLICE_BYTES {
            let Some(member) = view.visit() else {
                self.end_round(key);
                break;
            };
            let listener = &mut self.listeners[member as usize];
            if listener.offset == end {
                continue;
            }
            if listener.full || listener.rest.is_some() {
                view.is_stuck(member);
                continue;
            }
            let Some(outbox) = view.outbox() else { break };
            writes += 1;
            match write_from(outbox, listener, self.now_ms) {
                Ok(count) => written += count,
                Err(_) => gone.push(member),
            }
            if listener.full {
                view.is_stuck(member);
            }
        }
        for member in gone {
            self.end(member, StreamEnd::ClientGone);
        }
        if let Some(view) = self.views.get_mut(key as usize)
            && view.waits
        {
            self.waiting.push_back(key);
        }
        writes
    }

    /// Everybody was visited: those who got nothing leave, and what the others have is forgotten.
    fn end_round(&mut self, key: Key) {
        let view = &mut self.views[key as usize];
        let round = view.round();
        for member in view.take_stuck() {
            let behind =
                self.listeners.get(member as usize).is_some_and(|l| l.view == key && l.offset < round);
            if behind {
                self.expel(member);
            }
        }
        // The last member may have been among them.
        let Some(view) = self.views.get_mut(key as usize) else { return };
        let first = view.first_event_of_round().map(|event| event.feed.time);
        let spare = view.end_round();
        view.waits = view.pending() > 0;
        self.keep(spare);
        first.into_iter().for_each(|time| self.note_written(time));
    }

    /// An event of then was written to the last of its streams.
    fn note_written(&mut self, time: Timestamp) {
        self.written = Some(self.written.map_or(time, |oldest| oldest.min(time)));
    }

    fn keep(&mut self, spare: Option<Box<Outbox>>) {
        if let Some(mut outbox) = spare
            && self.pool.len() < POOL
        {
            outbox.shrink(POOLED_BYTES);
            self.pool.push(outbox);
        }
    }

    /// A view holds too much for members that have not been reached: they go their own ways.
    fn expel_laggards(&mut self, key: Key) {
        // Now, and not when one of them is taken out: it is then something that everybody lacks.
        self.push_gathered(key);
        let view = &self.views[key as usize];
        let end = view.end();
        let behind = |member: &Key| self.listeners[*member as usize].offset < end;
        let laggards: Vec<Key> = view.members().iter().copied().filter(behind).collect();
        for member in laggards {
            self.expel(member);
        }
        if self.views.get(key as usize).is_some_and(|view| view.waits) {
            self.views[key as usize].skip_round();
            self.end_round(key);
        }
    }

    fn expel_all(&mut self, shard: Shard) {
        let of_shard = |view: &View| view.subscription.shards.iter().any(|(other, _)| *other == shard);
        let keys: Vec<Key> =
            self.views.iter().filter(|(_, view)| of_shard(view)).map(|(key, _)| narrow(key)).collect();
        for key in keys {
            let members = self.views[key as usize].members().to_vec();
            members.into_iter().for_each(|member| self.expel(member));
        }
    }

    /// Takes a member out of its view; it goes on by itself.
    fn expel(&mut self, key: Key) {
        self.detach(key);
        self.write_rest(key);
    }

    /// Takes a member out of its view. It is left the rest of the item in which it stopped, and its
    /// positions, for when its socket has taken that.
    fn detach(&mut self, key: Key) {
        let Some(view) = self.listeners.get(key as usize).map(|listener| listener.view) else { return };
        self.push_gathered(view);
        let Some(listener) = self.listeners.get_mut(key as usize) else { return };
        let Some(view) = self.views.get_mut(listener.view as usize) else { return };
        let offset = listener.offset;
        let (courses, told_stale) = view.position(offset, &self.seen);
        let subscription = whole(self.hub.shard_count(), listener, view);
        let rest = view.outbox().map(|outbox| outbox.take_rest_of_item(offset)).unwrap_or_default();
        // Of the item in which it stopped it is written the rest.
        self.count_written(key);
        self.leave_view(key);
        self.append_rest(key, &rest, Then::CatchUp(subscription, courses, told_stale));
    }

    /// Looks how far a compressed stream's text has come, which is where the item ends that it is being written.
    fn count_written(&mut self, key: Key) {
        let Some(listener) = self.listeners.get_mut(key as usize) else { return };
        let Some(written) = listener.gzip.as_mut() else { return };
        let Some(view) = self.views.get(listener.view as usize) else { return };
        let now = view.sum_until(listener.offset);
        written.sum = written.sum.then(now.since(written.view));
        written.view = now;
    }

    /// What one stream alone is to be written, behind all that it is being written: a chunk, as its client takes it.
    fn coded(&mut self, key: Key, write: impl FnOnce(&mut Coder<'_>)) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.put_for(key, &mut bytes, write);
        bytes
    }

    fn put_for(&mut self, key: Key, out: &mut Vec<u8>, write: impl FnOnce(&mut Coder<'_>)) {
        self.count_written(key);
        let listener = self.listeners.get_mut(key as usize);
        let written = listener.and_then(|listener| listener.gzip.as_mut());
        put_coded(out, written.map(|written| &mut written.sum), write);
    }

    /// Writes one stream that has been written everything what is for it alone.
    fn say(&mut self, key: Key, write: impl FnOnce(&mut Coder<'_>)) {
        let mut bytes = std::mem::take(&mut self.alone);
        self.put_for(key, &mut bytes, write);
        self.send_alone(key, &bytes);
        bytes.clear();
        bytes.shrink_to(POOLED_BYTES);
        self.alone = bytes;
    }

    /// The same with bytes that are as its client takes them. Keeps a copy only of what its socket doesn't take.
    fn send_alone(&mut self, key: Key, bytes: &[u8]) {
        let Some(listener) = self.listeners.get_mut(key as usize).filter(|_| !bytes.is_empty()) else {
            return;
        };
        let mut sent = 0;
        if !listener.full && listener.rest.is_none() {
            match send(&mut listener.socket, bytes) {
                Ok(count) => sent = count,
                Err(_) => return self.end(key, StreamEnd::ClientGone),
            }
            listener.last_write = if sent > 0 { self.now_ms } else { listener.last_write };
        }
        if sent < bytes.len() {
            self.append_rest(key, &bytes[sent..], Then::GoOn);
            return self.write_rest(key);
        }
        self.go_on(key);
    }

    /// Appends bytes to what a stream is to get before all else, and says what comes then.
    fn append_rest(&mut self, key: Key, bytes: &[u8], then: Then) {
        let listener = &mut self.listeners[key as usize];
        match &mut listener.rest {
            None => {
                listener.rest = Some(Box::new(Rest { bytes: bytes.to_vec(), sent: 0, then }));
            }
            Some(rest) => {
                rest.bytes.extend_from_slice(bytes);
                rest.then = then;
            }
        }
        self.rests_bytes += bytes.len();
    }

    /// Writes a stream's own bytes, and does what comes then.
    fn write_rest(&mut self, key: Key) {
        let Some(listener) = self.listeners.get_mut(key as usize) else { return };
        let Some(rest) = listener.rest.as_mut() else { return };
        while rest.sent < rest.bytes.len() {
            match send(&mut listener.socket, &rest.bytes[rest.sent..]) {
                Ok(0) => {
                    listener.full = true;
                    listener.behind_ms = listener.behind_ms.min(self.now_ms);
                    if self.rests_bytes > self.slow_bytes {
                        self.abort(key);
                    }
                    return;
                }
                Ok(count) => {
                    rest.sent += count;
                    listener.last_write = self.now_ms;
                }
                Err(_) => return self.end(key, StreamEnd::ClientGone),
            }
        }
        listener.full = false;
        self.rests_bytes -= rest.bytes.len();
        let Some(rest) = listener.rest.take() else { return };
        match rest.then {
            Then::GoOn => self.go_on(key),
            Then::CatchUp(subscription, courses, told_stale) => {
                self.return_to_task(key, subscription, courses, told_stale);
            }
            Then::End(end) => {
                self.leaving -= 1;
                if let Some(listener) = self.remove(key) {
                    _ = listener.socket.shutdown(Shutdown::Write).is_ok();
                    listener.seat.end(end);
                }
            }
        }
    }

    /// Writes what a member lacks, now that its socket takes something.
    fn go_on(&mut self, key: Key) {
        let Some(listener) = self.listeners.get_mut(key as usize) else { return };
        let Some(view) = self.views.get_mut(listener.view as usize) else { return };
        if listener.full || listener.rest.is_some() {
            return;
        }
        if listener.offset == view.end() {
            listener.behind_ms = LEVEL;
            return;
        }
        let Some(outbox) = view.outbox() else { return };
        if write_from(outbox, listener, self.now_ms).is_err() {
            self.end(key, StreamEnd::ClientGone);
        }
    }

    fn happened(&mut self, event: &Event) {
        let Token(at) = event.token();
        let Some(listener) = self.listeners.get_mut(at).filter(|_| event.token() != WAKE) else { return };
        if event.is_readable() || event.is_read_closed() || event.is_error() {
            match read(&mut listener.socket, &mut listener.overlooked) {
                Ok(true) => {}
                Ok(false) | Err(_) => return self.end(narrow(at), StreamEnd::ClientGone),
            }
        }
        if event.is_writable() && listener.full {
            listener.full = false;
            if listener.rest.is_some() { self.write_rest(narrow(at)) } else { self.go_on(narrow(at)) }
        }
    }

    // What time brings

    fn tick(&mut self, due: &mut Vec<Entry>) {
        let now = Instant::now();
        self.now_ms = self.ms(now);
        if now < self.wheel.next() {
            return;
        }
        self.wheel.turn(now, due);
        for Entry { key, bearer } in due.drain(..) {
            if self.listeners.get(key as usize).is_some_and(|listener| listener.bearer == bearer) {
                self.is_due(key);
            }
        }
        if self.now_ms >= self.looked_ms + 1000 {
            self.looked_ms = self.now_ms;
            self.look_at_slow();
        }
    }

    /// Counts the streams whose sockets are full, and gives those up that took nothing for too long.
    fn look_at_slow(&mut self) {
        let (mut slow, mut stalled) = (0, Vec::new());
        for (key, listener) in self.listeners.iter().filter(|(_, listener)| listener.full) {
            let quiet = self.now_ms - listener.last_write;
            slow += usize::from(quiet > 1000);
            // Also one that takes a little from time to time.
            let behind = self.now_ms.saturating_sub(listener.behind_ms);
            if quiet >= self.slow_ms || behind >= self.lag_ms {
                stalled.push(narrow(key));
            }
        }
        stalled.into_iter().for_each(|key| self.abort(key));
        self.inbox.set_slow(slow);
    }

    /// Keeps a quiet stream alive.
    fn is_due(&mut self, key: Key) {
        let listener = &self.listeners[key as usize];
        let quiet = Duration::from_millis(self.now_ms - listener.last_write);
        let (after, least) = (listener.keep_alive.after(), listener.keep_alive.least());
        // Not later: should something be sent meanwhile, the next keep-alive is due that soon.
        let wait = if quiet < after { (after - quiet).min(least) } else { least };
        if !self.keep_term(key) {
            return;
        }
        self.due_in(key, self.until_term(key, wait));
        let listener = &mut self.listeners[key as usize];
        let Some(view) = self.views.get(listener.view as usize) else { return };
        let lacks = listener.offset < view.end() || view.due_ms().is_some();
        if quiet < after || lacks || listener.full || listener.rest.is_some() {
            return;
        }
        listener.keep_alive.sent();
        let heartbeat = view.subscription.heartbeat.then(|| self.hub.clock.now());
        let text = keep_alive(&view.cursor(&self.seen), heartbeat);
        self.say(key, |coder| coder.text(&text));
    }

    /// Tells a stream that its token ends, or ends it with its token. False when it is not to be looked at again.
    fn keep_term(&mut self, key: Key) -> bool {
        let listener = &self.listeners[key as usize];
        if listener.ends() {
            return false;
        }
        match listener.seat.due() {
            Due::Nothing(_) => true,
            Due::End(end) => {
                self.finish(key, end);
                false
            }
            Due::Telling(ends) => {
                self.go_on(key);
                let Some(listener) = self.listeners.get_mut(key as usize) else { return false };
                let end = self.views.get(listener.view as usize).map(View::end);
                // One that lacks something is told a little later, or by its task.
                if !listener.full && listener.rest.is_none() && end == Some(listener.offset) {
                    listener.seat.told();
                    self.say(key, |coder| coder.text(&expiring(ends)));
                }
                self.listeners.contains(key as usize)
            }
        }
    }

    /// `wait`, or until the term asks for something if that is sooner.
    fn until_term(&self, key: Key, wait: Duration) -> Duration {
        match self.listeners[key as usize].seat.due() {
            Due::Nothing(term) => term.map_or(wait, |term| term.min(wait)),
            Due::Telling(_) | Due::End(_) => Duration::ZERO,
        }
    }

    fn due_in(&mut self, key: Key, wait: Duration) {
        let bearer = self.listeners[key as usize].bearer;
        let now = self.began + Duration::from_millis(self.now_ms);
        self.wheel.insert(now + wait, Entry { key, bearer });
    }

    // Changes of one stream

    /// Makes the changes that are asked for of streams here.
    fn answer_asked(&mut self) {
        let made = self.hub.directory.asks_made();
        if std::mem::replace(&mut self.asks_made, made) == made {
            return;
        }
        let asked = self.hub.directory.asked();
        if asked.is_empty() {
            return;
        }
        let is_meant = |listener: &Listener| asked.binary_search(&listener.seat.client_id().key()).is_ok();
        let meant = self.listeners.iter().filter(|(_, listener)| is_meant(listener));
        let keys: Vec<Key> = meant.map(|(key, _)| narrow(key)).collect();
        keys.into_iter().for_each(|key| self.answer(key));
    }

    fn answer(&mut self, key: Key) {
        while self.is_asked(key) {
            // What was there before it was asked is heard by the old set.
            for shard in self.hub.shard_count().shards() {
                while self.advance(shard) {}
            }
            // It may have been left behind; whoever has it then makes the change.
            let Some(listener) = self.listeners.get(key as usize).filter(|listener| !listener.ends()) else {
                return;
            };
            let Some(ask) = self.hub.directory.take(listener.seat.client_id()) else { return };
            let changed = self.change(key, &ask).unwrap_or_else(|| Err(change::unknown()));
            ask.answer(changed);
        }
    }

    fn is_asked(&self, key: Key) -> bool {
        let listener = self.listeners.get(key as usize).filter(|listener| !listener.ends());
        listener.is_some_and(|listener| self.hub.directory.is_asked(listener.seat.client_id()))
    }

    /// None when it is gone.
    fn change(&mut self, key: Key, ask: &Ask) -> Option<Result<Changed, Problem>> {
        let listener = self.listeners.get_mut(key as usize)?;
        let now = match listener.rest.as_ref().map(|rest| &rest.then) {
            Some(Then::CatchUp(subscription, ..)) => subscription,
            _ => &whole(self.hub.shard_count(), listener, self.views.get(listener.view as usize)?),
        };
        let before = now.kept.clone();
        let granted = match ask.grant(&self.hub, &listener.seat, now) {
            Ok(granted) => granted,
            Err(problem) => return Some(Err(problem)),
        };
        let begun = |(shard, _): &(Shard, _)| self.seen[shard.index()].epoch != NOWHERE;
        if granted.subscription.as_ref().is_some_and(|wanted| !wanted.shards.iter().all(begun)) {
            return Some(Err(change::unreachable("the gateway is starting")));
        }
        if let Some(term) = granted.term {
            listener.seat.limit(Some(term));
            // What is in the wheel for it is for another time.
            self.bearers = self.bearers.wrapping_add(1);
            listener.bearer = self.bearers;
            let least = listener.keep_alive.least();
            self.due_in(key, self.until_term(key, least));
        }
        let expires = self.listeners.get(key as usize)?.seat.identity().map(|identity| identity.expires);
        ask.made(&self.hub, before.as_deref(), granted.subscription.as_deref());
        let kept = granted.subscription.as_ref().map_or(before, |wanted| wanted.kept.clone());
        let cursor = match granted.subscription {
            Some(subscription) => self.listen_to(key, subscription)?,
            None => self.cursor_of(key)?,
        };
        Some(Ok(Changed { cursor, expires, kept }))
    }

    /// Where a stream is once it has been written what it has been given already.
    fn cursor_of(&mut self, key: Key) -> Option<Cursor> {
        let listener = self.listeners.get(key as usize)?;
        if let Some(Then::CatchUp(subscription, courses, _)) = listener.rest.as_ref().map(|rest| &rest.then) {
            return Some(subscription.cursor(courses));
        }
        let (view, offset) = (listener.view, listener.offset);
        self.push_gathered(view);
        let view = self.views.get(view as usize)?;
        Some(view.subscription.cursor(&view.position(offset, &self.seen).0))
    }

    /// Has a stream hear something else from where it is; returns where that is. It is told too: with shards that it
    /// had nothing in before, its last cursor doesn't say it.
    fn listen_to(&mut self, key: Key, subscription: Arc<Subscription>) -> Option<Cursor> {
        let view = self.listeners.get(key as usize)?.view;
        if view != NO_VIEW {
            self.push_gathered(view);
            self.go_on(key);
            let (listener, view) = (self.listeners.get(key as usize)?, self.views.get(view as usize)?);
            if !listener.full && listener.rest.is_none() && listener.offset == view.end() {
                return Some(self.change_view(key, subscription));
            }
            // Its socket is full: it is changed where it stops, and goes on by itself from there.
            self.detach(key);
        }
        let head = |shard: Shard| {
            let seen = self.seen[shard.index()];
            Some(Course::level(shard, seen.epoch, seen.at))
        };
        let listener = self.listeners.get(key as usize)?;
        let Some(Then::CatchUp(_, courses, told_stale)) = listener.rest.as_ref().map(|rest| &rest.then)
        else {
            return None;
        };
        let (courses, told_stale) = (change::go_on(&subscription, courses, head)?, *told_stale);
        let heartbeat = subscription.heartbeat.then(|| self.hub.clock.now());
        let cursor = subscription.cursor(&courses);
        let bytes = self.coded(key, |coder| coder.text(&keep_alive(&cursor, heartbeat)));
        self.append_rest(key, &bytes, Then::CatchUp(subscription, courses, told_stale));
        self.write_rest(key);
        Some(cursor)
    }

    /// Moves a member that has been written everything to another view.
    fn change_view(&mut self, key: Key, subscription: Arc<Subscription>) -> Cursor {
        let told_stale = self.views[self.listeners[key as usize].view as usize].stale;
        self.count_written(key);
        self.leave_view(key);
        self.join(key, subscription);
        let view = &self.views[self.listeners[key as usize].view as usize];
        let (cursor, stale) = (view.cursor(&self.seen), view.stale);
        let heartbeat = view.subscription.heartbeat.then(|| self.hub.clock.now());
        self.say(key, |coder| {
            coder.text(&keep_alive(&cursor, heartbeat));
            if stale != told_stale {
                coder.text(&notice(stale, &cursor));
            }
        });
        cursor
    }

    // What operators ask

    /// Looks at its streams for the surveys that have begun.
    fn answer_surveys(&mut self) {
        let made = self.hub.surveys.made();
        let before = std::mem::replace(&mut self.surveyed, made);
        if before == made {
            return;
        }
        for survey in self.hub.surveys.after(before) {
            match &survey.question {
                Question::User { .. } => self.look_at_streams(&survey),
                Question::Listeners(channels) => self.count_listeners(&survey, channels),
            }
        }
    }

    /// Looks at a stream for the surveys that it has missed. Those that begin later look at all.
    fn look_at_adopted(&self, key: Key, surveyed: u64) {
        let Some(listener) = self.listeners.get(key as usize).filter(|_| surveyed < self.surveyed) else {
            return;
        };
        for survey in self.hub.surveys.after(surveyed) {
            if survey.is_of_users() && survey.number <= self.surveyed {
                self.look_at(listener, &survey);
                survey.looked_at(1);
            }
        }
    }

    fn look_at_streams(&self, survey: &Survey) {
        self.listeners.iter().for_each(|(_, listener)| self.look_at(listener, survey));
        survey.looked_at(self.listeners.len());
    }

    fn look_at(&self, listener: &Listener, survey: &Survey) {
        match listener.rest.as_ref().map(|rest| &rest.then) {
            Some(Then::CatchUp(subscription, courses, _)) => {
                survey.look_at(&listener.seat, subscription, || courses.clone(), false);
            }
            rest => {
                let Some(view) = self.views.get(listener.view as usize) else { return };
                // Before the whole subscription is made of its two parts.
                let apart = listener.seat.own_channel().filter(|_| listener.own);
                if !survey.concerns(&listener.seat, |own| apart == Some(own) || view.subscription.names(own))
                {
                    return;
                }
                let written = listener.offset == view.end() && !listener.full && rest.is_none();
                let level = written && view.due_ms().is_none();
                let courses = || view.position(listener.offset, &self.seen).0;
                let hears = whole(self.hub.shard_count(), listener, view);
                survey.look_at(&listener.seat, &hears, courses, level);
            }
        }
    }

    fn count_listeners(&self, survey: &Survey, channels: &[Channel]) {
        for (at, channel) in channels.iter().enumerate() {
            let topics = &self.topics[self.hub.shard_count().shard_of(channel).index()];
            let mut views: Vec<Key> = topics.channels.get(channel).cloned().unwrap_or_default();
            topics.patterns.matching(channel.as_str(), &mut |view| views.push(*view));
            // A view may hear it for several reasons.
            views.sort_unstable();
            views.dedup();
            let members = |key: &Key| self.views.get(*key as usize).map_or(0, |view| view.members().len());
            let own = self.by_own.get(channel).map_or(0, Vec::len);
            survey.hear(at, own + views.iter().map(members).sum::<usize>());
        }
        survey.looked_at(1);
    }

    // Leaving

    /// Tells as many streams as may not stay that they end, and where to go on.
    fn let_go(&mut self) {
        let may_stay = self.inbox.may_stay();
        let most = self.listeners.capacity();
        for _ in 0..most {
            if self.listeners.len() - self.leaving <= may_stay {
                return;
            }
            let at = self.next_to_leave % most.max(1);
            self.next_to_leave = at + 1;
            if self.listeners.get(at).is_some_and(|listener| !listener.ends()) {
                self.finish(narrow(at), StreamEnd::Drain);
            }
        }
    }

    /// Has as many streams begin again elsewhere as it was told since it looked last.
    fn shed(&mut self) {
        let mut left = self.inbox.take_shed();
        let most = self.listeners.capacity();
        for _ in 0..most {
            if left == 0 {
                return;
            }
            let at = self.next_to_leave % most.max(1);
            self.next_to_leave = at + 1;
            let may_go = |listener: &Listener| !listener.ends() && !listener.seat.is_own();
            if self.listeners.get(at).is_some_and(may_go) {
                self.finish(narrow(at), StreamEnd::Rebalance);
                left -= 1;
            }
        }
    }

    /// Ends the streams that are to end.
    fn end_due(&mut self) {
        let looks = self.hub.end_looks();
        if std::mem::replace(&mut self.end_looks, looks) == looks {
            return;
        }
        let (views, shards) = (&self.views, self.hub.shard_count());
        let ended = |(key, listener): (usize, &mut Listener)| {
            if listener.ends() {
                return None;
            }
            // One that has no view is on its way to a task, which looks.
            let hears = views.get(listener.view as usize).map(|view| whole(shards, listener, view));
            let due = listener.seat.due_end();
            let end = due.or_else(|| listener.seat.keep_granted(hears.as_deref()?))?;
            Some((narrow(key), end))
        };
        let ended: Vec<(Key, StreamEnd)> = self.listeners.iter_mut().filter_map(ended).collect();
        ended.into_iter().for_each(|(key, end)| self.finish(key, end));
    }

    /// Ends a stream after what it is being written, saying why and where to go on.
    fn finish(&mut self, key: Key, end: StreamEnd) {
        let Some(shared) = self.shared.upgrade() else { return };
        // What is there for it already, if its socket takes that.
        if let Some(listener) = self.listeners.get(key as usize) {
            self.push_gathered(listener.view);
        }
        self.go_on(key);
        self.detach(key);
        let Some(listener) = self.listeners.get(key as usize) else { return };
        let cursor = match listener.rest.as_ref().map(|rest| &rest.then) {
            Some(Then::CatchUp(subscription, courses, _)) => subscription.cursor(courses),
            _ => Cursor::default(),
        };
        let mut bytes = self.coded(key, |coder| {
            coder.text(&stream_end(end, shared.config.retry_ms(), &cursor));
            coder.end();
        });
        bytes.extend_from_slice(LAST_CHUNK);
        self.leaving += 1;
        self.append_rest(key, &bytes, Then::End(end));
        self.write_rest(key);
    }

    /// Resets a connection whose peer took nothing for too long: the kernel would go on offering it what
    /// is in its buffer.
    fn abort(&mut self, key: Key) {
        if let Some(listener) = self.remove(key) {
            if let Err(error) = SockRef::from(&listener.socket).set_linger(Some(Duration::ZERO)) {
                tracing::debug!(%error, "could not have a stalled connection reset");
            }
            listener.seat.end(StreamEnd::Slow);
        }
    }

    fn end(&mut self, key: Key, end: StreamEnd) {
        if let Some(listener) = self.remove(key) {
            listener.seat.end(end);
        }
    }

    fn return_to_task(
        &mut self,
        key: Key,
        subscription: Arc<Subscription>,
        courses: Vec<Course>,
        told_stale: bool,
    ) {
        let Some(mut listener) = self.remove(key) else { return };
        if let Err(error) = self.registry.deregister(&mut listener.socket) {
            tracing::debug!(%error, "could not stop watching a stream's socket");
        }
        self.give_back(Handed {
            stream: Stream {
                seat: listener.seat,
                subscription,
                courses,
                told_stale,
                keep_alive: listener.keep_alive,
                behind_since: self.since(listener.behind_ms),
                surveyed: self.surveyed,
                gzip: listener.gzip.map(|written| written.sum),
            },
            socket: listener.socket.into(),
            open: listener.open,
        });
    }

    /// A moment in milliseconds of the reactor's time, and back.
    fn ms(&self, moment: Instant) -> u64 {
        u64::try_from(moment.saturating_duration_since(self.began).as_millis()).unwrap_or(LEVEL)
    }

    fn since(&self, ms: u64) -> Option<tokio::time::Instant> {
        (ms != LEVEL).then(|| (self.began + Duration::from_millis(ms)).into())
    }

    fn give_back(&self, handed: Handed) {
        self.hub.metrics.given_back.inc();
        if let Some(shared) = self.shared.upgrade() {
            self.runtime.spawn(resume(shared, handed));
        }
    }

    fn remove(&mut self, key: Key) -> Option<Listener> {
        self.leave_view(key);
        let listener = self.listeners.try_remove(key as usize)?;
        if let Some(rest) = &listener.rest {
            self.rests_bytes -= rest.bytes.len();
        }
        self.leaving -= usize::from(listener.ends());
        Some(listener)
    }

    // Views

    /// Lets a stream in with those that hear the same. What only its user hears is left to itself, lest streams of
    /// different users have views of their own; not where events are gathered, which they are together.
    fn join(&mut self, key: Key, subscription: Arc<Subscription>) {
        let listener = &mut self.listeners[key as usize];
        let own = listener.seat.own_channel().filter(|_| subscription.form.gathered_for().is_none());
        let few = |own: &&Channel| self.by_own.get(*own).is_none_or(|streams| streams.len() < OWN_MOST);
        let common = own.filter(few).and_then(|own| Some((own, subscription.without(own)?)));
        listener.own = common.is_some();
        let subscription = match common {
            Some((own, common)) => {
                self.by_own.entry(own.detached()).or_default().push(key);
                Arc::new(common)
            }
            None => subscription,
        };
        let view = match self.by_subscription.get(&subscription) {
            Some(view) => *view,
            None => self.open_view(subscription),
        };
        // Who joins has been written what is gathered.
        self.push_gathered(view);
        let member = self.views[view as usize].join(key);
        let listener = &mut self.listeners[key as usize];
        (listener.view, listener.member) = (view, narrow(member));
        listener.offset = self.views[view as usize].end();
        if let Some(written) = &mut listener.gzip {
            written.view = self.views[view as usize].sum_until(listener.offset);
        }
    }

    fn open_view(&mut self, subscription: Arc<Subscription>) -> Key {
        let stale = self.is_stale(&subscription);
        let key = narrow(self.views.insert(View::new(subscription.clone(), stale)));
        for (shard, topics) in &subscription.shards {
            let here = &mut self.topics[shard.index()];
            for channel in topics.channels() {
                here.channels.entry(channel.detached()).or_default().push(key);
            }
            for pattern in topics.patterns() {
                here.patterns.insert(pattern, key, key);
            }
        }
        self.by_subscription.insert(subscription, key);
        key
    }

    fn leave_view(&mut self, key: Key) {
        let Some(listener) = self.listeners.get_mut(key as usize) else { return };
        if std::mem::take(&mut listener.own)
            && let Some(own) = listener.seat.own_channel()
            && let Some(streams) = self.by_own.get_mut(own)
        {
            streams.retain(|other| *other != key);
            if streams.is_empty() {
                self.by_own.remove(own);
            }
        }
        let view_key = std::mem::replace(&mut listener.view, NO_VIEW);
        let Some(view) = self.views.get_mut(view_key as usize) else { return };
        for (moved, member) in view.leave(listener.member as usize).into_iter().flatten() {
            self.listeners[moved as usize].member = narrow(member);
        }
        if view.members().is_empty() {
            self.close_view(view_key);
        }
    }

    fn close_view(&mut self, key: Key) {
        let mut view = self.views.remove(key as usize);
        view.skip_round();
        self.keep(view.end_round());
        self.by_subscription.remove(&view.subscription);
        for (shard, topics) in &view.subscription.shards {
            let here = &mut self.topics[shard.index()];
            for channel in topics.channels() {
                if let Some(views) = here.channels.get_mut(channel) {
                    views.retain(|other| *other != key);
                    if views.is_empty() {
                        here.channels.remove(channel);
                    }
                }
            }
            for pattern in topics.patterns() {
                here.patterns.remove(pattern, &key);
            }
        }
    }
}

/// All that a member of a view hears.
fn whole(shards: ShardCount, listener: &Listener, view: &View) -> Arc<Subscription> {
    match listener.seat.own_channel().filter(|_| listener.own) {
        Some(own) => Arc::new(view.subscription.with(own, shards.shard_of(own))),
        None => view.subscription.clone(),
    }
}

/// Writes a member what it lacks, in one piece; how many bytes its socket took.
fn write_from(outbox: &mut Outbox, listener: &mut Listener, now_ms: u64) -> io::Result<usize> {
    let lacks = outbox.after(listener.offset);
    let count = send(&mut listener.socket, lacks)?;
    listener.full = count < lacks.len();
    listener.behind_ms = if listener.full { listener.behind_ms.min(now_ms) } else { LEVEL };
    if count > 0 {
        let from = listener.offset;
        listener.offset += count as u64;
        listener.last_write = now_ms;
        listener.keep_alive.active();
        outbox.passed(from, listener.offset);
    }
    Ok(count)
}

/// Appends a chunk of what `write` writes; compressed where there is a sum of what the stream was written before.
fn put_coded(out: &mut Vec<u8>, sum: Option<&mut Sum>, write: impl FnOnce(&mut Coder<'_>)) {
    put_chunk(out, |out| write(&mut Coder::new(out, sum)));
}

/// How much of some bytes a socket takes; 0 when it is full.
fn send(socket: &mut TcpStream, bytes: &[u8]) -> io::Result<usize> {
    loop {
        match socket.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            written => return written,
        }
    }
}

/// Reads what nobody asked the client for. False when it has gone away, or says too much.
fn read(socket: &mut TcpStream, overlooked: &mut u32) -> io::Result<bool> {
    let mut waste = [0; 1024];
    loop {
        match socket.read(&mut waste) {
            Ok(0) => return Ok(false),
            Ok(count) => {
                *overlooked += narrow(count);
                if *overlooked as usize > READ_BYTES {
                    return Ok(false);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// How far a ring was read.
#[derive(Clone, Copy)]
enum Reached {
    Head(Seen),
    More(Seen),
    /// It doesn't hold what comes next.
    Lost(Seen),
}

fn read_on(ring: &Ring, seen: Seen, events: &mut Vec<Arc<RingEvent>>) -> Reached {
    let head = Seen { epoch: ring.epoch(), at: ring.head() };
    if ring.epoch() != seen.epoch || ring.floor() > seen.at {
        return Reached::Lost(head);
    }
    // A ring that begins anew before what it had goes on past here in time: nothing is sent twice.
    let head = Seen { at: head.at.max(seen.at), ..head };
    let mut bytes = 0;
    for event in ring.after(seen.at) {
        if events.len() == RING_EVENTS || bytes > RING_BYTES {
            return Reached::More(Seen { at: events.last().map_or(seen.at, |e| e.feed.seq), ..seen });
        }
        bytes += event.feed.wire_len();
        events.push(event.clone());
    }
    Reached::Head(head)
}

/// A ring that has not begun is left behind by whatever it begins with.
fn head(hub: &Hub, shard: Shard) -> Seen {
    let nowhere = Seen { epoch: NOWHERE, at: 0 };
    hub.with_ring(shard, |ring| ring.map_or(nowhere, |ring| Seen { epoch: ring.epoch(), at: ring.head() }))
}

/// Keys and counts of what is open: bounded by open files, far below this type's bound.
fn narrow(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
