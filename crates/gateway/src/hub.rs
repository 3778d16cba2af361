//! The hub: the rings of all shards, and who is to be woken when something happens on a channel.
//!
//! An event only marks those who listen to its channel; each then reads what it lacks from the ring, by
//! its own position. So a mark can be lost to nobody but itself, and a thousand events are one mark.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use futures::task::AtomicWaker;
use parking_lot::{Mutex, RwLock};

use foghorn_auth::Authenticator;
use foghorn_auth::revocation::Revocations;
use foghorn_bus::clock::Clock;
use foghorn_bus::policies::SharedPolicies;
use foghorn_core::batch::{Batch, FeedEvent};
use foghorn_core::channel::Channel;
use foghorn_core::policy::Policies;
use foghorn_core::position::Epoch;
use foghorn_core::reason::StreamEnd;
use foghorn_core::shard::{Shard, ShardCount};
use foghorn_core::time::Timestamp;
use prometheus_client::metrics::counter::Counter;

use crate::change::Ask;
use crate::client_id::ClientId;
use crate::directory::{Directory, NotAsked};
use crate::engine::Inbox;
use crate::grants::Grants;
use crate::index::PatternIndex;
use crate::kept::Here;
use crate::metrics::Metrics;
use crate::places::Places;
use crate::presence::Presence;
use crate::ring::{Applied, Ring};
use crate::subscription::{Subscription, Topics};
use crate::survey::{Opened, Surveys};
use crate::traced::Watched;

/// Identifies a connection within the process.
type ConnectionId = u64;

/// Wakes one connection.
#[derive(Debug)]
pub struct Waiter {
    id: ConnectionId,
    marked: AtomicBool,
    /// Milliseconds since the hub began when it was marked and has not looked since; 0 for never.
    marked_since: AtomicU64,
    leaving: AtomicBool,
    shed: AtomicBool,
    waker: AtomicWaker,
    /// Of who waits for its socket meanwhile: events are no reason to wake that.
    asker: AtomicWaker,
}

impl Waiter {
    /// Takes the mark off; whether there was one. To be called before looking, so that what happens
    /// meanwhile marks again.
    pub fn unmark(&self) -> bool {
        self.marked_since.store(0, Ordering::Relaxed);
        self.marked.swap(false, Ordering::SeqCst)
    }

    /// Whether it is marked.
    pub fn is_marked(&self) -> bool {
        self.marked.load(Ordering::SeqCst)
    }

    /// Returns once it is marked.
    pub async fn marked(&self) {
        std::future::poll_fn(|context| {
            if self.marked.load(Ordering::SeqCst) {
                return std::task::Poll::Ready(());
            }
            self.waker.register(context.waker());
            if self.marked.load(Ordering::SeqCst) {
                std::task::Poll::Ready(())
            } else {
                std::task::Poll::Pending
            }
        })
        .await;
    }

    /// Returns once `is_asked` says so, looking whenever something is asked of the stream.
    pub(crate) async fn asked(&self, is_asked: impl Fn() -> bool) {
        std::future::poll_fn(|context| {
            if is_asked() {
                return std::task::Poll::Ready(());
            }
            self.asker.register(context.waker());
            if is_asked() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
        })
        .await;
    }

    /// Why the stream is to end because of its gateway, if it is.
    pub fn leaves(&self) -> Option<StreamEnd> {
        if self.leaving.load(Ordering::SeqCst) {
            return Some(StreamEnd::Drain);
        }
        self.shed.load(Ordering::SeqCst).then_some(StreamEnd::Rebalance)
    }

    fn mark(&self, now_ms: u64) {
        if !self.marked.swap(true, Ordering::SeqCst) {
            self.marked_since.store(now_ms.max(1), Ordering::Relaxed);
            self.waker.wake();
        }
    }
}

#[derive(Debug)]
struct Listeners {
    channels: HashMap<Channel, BTreeMap<ConnectionId, Arc<Waiter>>>,
    patterns: PatternIndex<ConnectionId, Arc<Waiter>>,
}

#[derive(Debug)]
struct ShardHub {
    /// None until the gateway knows where to begin.
    ring: RwLock<Option<Ring>>,
    listeners: Mutex<Listeners>,
    stale: AtomicBool,
    /// Listeners of everything up to this seq of the ring's epoch have been marked.
    marked_through: AtomicU64,
}

/// All shards of a gateway and all its connections.
#[derive(Debug)]
pub struct Hub {
    shards: Vec<ShardHub>,
    count: ShardCount,
    ring_bytes: usize,
    policies: SharedPolicies,
    /// Who knows what streams may hear when policies change; none where nothing is checked.
    auth: Option<Arc<Authenticator>>,
    /// Streams, whoever serves them.
    open: AtomicUsize,
    /// Those of them that are the gateway's own.
    own: AtomicUsize,
    /// Those that are served in tasks.
    connections: Mutex<BTreeMap<ConnectionId, Arc<Waiter>>>,
    /// All of them by their ids.
    pub(crate) directory: Directory,
    /// What some of them were changed to hear.
    pub(crate) kept: Here,
    /// Those who serve the others.
    reactors: RwLock<Vec<Arc<Inbox>>>,
    stale_changes: AtomicU64,
    end_looks: AtomicU64,
    next_id: AtomicU64,
    draining: AtomicBool,
    began: Instant,
    began_at: Timestamp,
    /// What operators want to know of all streams.
    pub(crate) surveys: Surveys,
    /// What was revoked.
    pub(crate) revocations: Arc<Revocations>,
    /// How many streams users have.
    pub(crate) places: Arc<Places>,
    /// Who listens, where that is to be known.
    pub(crate) presence: Presence,
    /// What some of them hear by the word of the webhook.
    pub(crate) grants: Grants,
    /// What counts as now.
    pub clock: Clock,
    /// What the gateway counts.
    pub metrics: Metrics,
}

impl Hub {
    /// A hub whose rings take `ring_bytes` together.
    pub fn new(
        count: ShardCount,
        ring_bytes: usize,
        policies: impl Into<SharedPolicies>,
        clock: Clock,
        metrics: Metrics,
    ) -> Self {
        let shard = |_| ShardHub {
            ring: RwLock::new(None),
            listeners: Mutex::new(Listeners { channels: HashMap::new(), patterns: PatternIndex::new() }),
            stale: AtomicBool::new(false),
            marked_through: AtomicU64::new(0),
        };
        count.shards().for_each(|shard| metrics.stale(shard, false));
        Hub {
            shards: count.shards().map(shard).collect(),
            count,
            ring_bytes: ring_bytes / usize::from(count.get()),
            policies: policies.into(),
            auth: None,
            open: AtomicUsize::new(0),
            own: AtomicUsize::new(0),
            connections: Mutex::default(),
            directory: Directory::default(),
            kept: Here::default(),
            reactors: RwLock::default(),
            stale_changes: AtomicU64::new(0),
            end_looks: AtomicU64::new(0),
            next_id: AtomicU64::new(1),
            draining: AtomicBool::new(false),
            began: Instant::now(),
            began_at: clock.now(),
            surveys: Surveys::default(),
            revocations: Arc::default(),
            presence: Presence::default(),
            grants: Grants::default(),
            places: Arc::new(Places::unlimited(metrics.clone())),
            clock,
            metrics,
        }
    }

    /// The same, whose streams end when they are revoked, or when policies no longer grant what they hear.
    pub(crate) fn with_auth(self, auth: Arc<Authenticator>) -> Self {
        Hub { revocations: auth.revocations().clone(), auth: Some(auth), ..self }
    }

    /// The same, whose users may have only so many streams.
    pub(crate) fn with_places(self, places: Arc<Places>) -> Self {
        Hub { places, ..self }
    }

    /// How many shards there are.
    pub fn shard_count(&self) -> ShardCount {
        self.count
    }

    /// What holds for which channels now.
    pub fn policies(&self) -> Arc<Policies> {
        self.policies.get()
    }

    /// Who knows what streams may hear.
    pub(crate) fn auth(&self) -> Option<&Authenticator> {
        self.auth.as_deref()
    }

    /// Looks at a shard's ring; `None` until it has begun. No waiting inside: writers wait for readers.
    pub fn with_ring<T>(&self, shard: Shard, look: impl FnOnce(Option<&Ring>) -> T) -> T {
        look(self.shards[shard.index()].ring.read().as_ref())
    }

    /// The delivery counter of an event.
    pub fn counter(&self, event: &FeedEvent) -> Counter {
        self.metrics.delivered(&self.policies(), event)
    }

    /// Takes in a batch and marks those who listen to its channels.
    pub fn apply(&self, batch: &Batch) -> Applied {
        let here = &self.shards[batch.shard.index()];
        let (applied, before, watched) = {
            let mut guard = here.ring.write();
            let Some(ring) = guard.as_mut() else { return Applied::Gap };
            let before = ring.head();
            let applied = ring.apply(batch, |event| self.counter(event));
            self.metrics.ring(batch.shard, ring);
            let traced = batch.traced.as_ref().filter(|_| applied == Applied::Advanced);
            (applied, before, traced.map(|traced| Watched::new(traced, before, ring)))
        };
        if applied == Applied::Advanced {
            let now = self.clock.now();
            let fresh = batch.events.iter().filter(|event| event.seq > before);
            self.mark(here, fresh.inspect(|event| self.metrics.arrived(now.since(event.time))));
            here.marked_through.store(batch.to, Ordering::SeqCst);
            self.wake_reactors();
        }
        if let Some(watched) = watched {
            watched.told();
        }
        applied
    }

    /// These are woken from now on whenever something changes.
    pub(crate) fn attach(&self, reactors: &[Arc<Inbox>]) {
        self.reactors.write().extend_from_slice(reactors);
    }

    fn wake_reactors(&self) {
        self.reactors.read().iter().for_each(|reactor| reactor.wake());
    }

    /// A stream was opened.
    pub(crate) fn opened(&self, id: ClientId) {
        self.directory.opened(id);
        self.open.fetch_add(1, Ordering::SeqCst);
        self.metrics.connections.inc();
        self.metrics.opened.inc();
    }

    /// One of the gateway's own was, that no client has.
    pub(crate) fn opened_own(&self, id: ClientId) {
        self.own.fetch_add(1, Ordering::SeqCst);
        self.directory.opened(id);
        self.open.fetch_add(1, Ordering::SeqCst);
    }

    /// One of those is over.
    pub(crate) fn closed_own(&self, id: ClientId) {
        self.directory.closed(id);
        self.open.fetch_sub(1, Ordering::SeqCst);
        self.own.fetch_sub(1, Ordering::SeqCst);
    }

    /// A stream is over.
    pub(crate) fn closed(&self, id: ClientId) {
        self.directory.closed(id);
        self.places.closed(id);
        self.presence.closed(id);
        self.grants.closed(id);
        self.open.fetch_sub(1, Ordering::SeqCst);
        self.metrics.connections.dec();
    }

    /// Begins a shard's ring after a position, forgetting what it held. Everyone looks anew.
    pub fn restart(&self, shard: Shard, epoch: Epoch, after: u64) {
        let mut guard = self.shards[shard.index()].ring.write();
        match guard.as_mut() {
            Some(ring) => ring.restart(epoch, after),
            None => *guard = Some(Ring::new(epoch, after, self.ring_bytes)),
        }
        drop(guard);
        self.mark_all();
        self.shards[shard.index()].marked_through.store(after, Ordering::SeqCst);
        self.wake_reactors();
    }

    /// Whoever owed nothing when it last looked, and has not been marked since this was read, owes
    /// nothing up to this seq of the ring's epoch: events are in the ring before they mark, and this is
    /// set when they have.
    pub fn marked_through(&self, shard: Shard) -> u64 {
        self.shards[shard.index()].marked_through.load(Ordering::SeqCst)
    }

    /// Says whether a shard's live feed is silent. Everyone on it hears of a change.
    pub fn set_stale(&self, shard: Shard, stale: bool) {
        if self.shards[shard.index()].stale.swap(stale, Ordering::SeqCst) != stale {
            self.metrics.stale(shard, stale);
            self.stale_changes.fetch_add(1, Ordering::SeqCst);
            self.mark_all();
            self.wake_reactors();
        }
    }

    /// Has every stream look whether it is to end.
    pub(crate) fn look_for_endings(&self) {
        self.end_looks.fetch_add(1, Ordering::SeqCst);
        self.mark_all();
        self.wake_reactors();
    }

    /// Grows each time that streams are to look.
    pub(crate) fn end_looks(&self) -> u64 {
        self.end_looks.load(Ordering::SeqCst)
    }

    /// Grows with every change of what is stale.
    pub(crate) fn stale_changes(&self) -> u64 {
        self.stale_changes.load(Ordering::SeqCst)
    }

    /// Whether the live feed of any of these shards is silent.
    pub fn is_stale(&self, shards: impl IntoIterator<Item = Shard>) -> bool {
        shards.into_iter().any(|shard| self.shards[shard.index()].stale.load(Ordering::SeqCst))
    }

    /// Registers a connection: from now on events on its topics mark it.
    pub(crate) fn join(self: &Arc<Self>, subscription: &Subscription, client_id: ClientId) -> Membership {
        let waiter = Arc::new(Waiter {
            id: self.next_id.fetch_add(1, Ordering::Relaxed),
            marked: AtomicBool::new(false),
            marked_since: AtomicU64::new(0),
            leaving: AtomicBool::new(false),
            shed: AtomicBool::new(false),
            waker: AtomicWaker::new(),
            asker: AtomicWaker::new(),
        });
        self.enlist(&waiter, &subscription.shards);
        self.connections.lock().insert(waiter.id, waiter.clone());
        self.directory.taken_on(client_id, &waiter);
        Membership { hub: self.clone(), client_id, waiter, topics: subscription.shards.clone() }
    }

    fn enlist(&self, waiter: &Arc<Waiter>, topics: &[(Shard, Topics)]) {
        for (shard, topics) in topics {
            let mut listeners = self.shards[shard.index()].listeners.lock();
            for channel in topics.channels() {
                listeners.channels.entry(channel.detached()).or_default().insert(waiter.id, waiter.clone());
            }
            for pattern in topics.patterns() {
                listeners.patterns.insert(pattern, waiter.id, waiter.clone());
            }
        }
    }

    fn strike_off(&self, id: ConnectionId, topics: &[(Shard, Topics)]) {
        for (shard, topics) in topics {
            let mut listeners = self.shards[shard.index()].listeners.lock();
            for channel in topics.channels() {
                if let Some(waiters) = listeners.channels.get_mut(channel) {
                    waiters.remove(&id);
                    if waiters.is_empty() {
                        listeners.channels.remove(channel);
                    }
                }
            }
            for pattern in topics.patterns() {
                listeners.patterns.remove(pattern, &id);
            }
        }
    }

    /// Asks something of a stream; whoever serves it is told.
    pub(crate) fn ask(&self, ask: Ask) -> Result<(), NotAsked> {
        match self.directory.ask(ask)? {
            Some(waiter) => {
                waiter.mark(self.now_ms());
                waiter.asker.wake();
            }
            // A reactor serves it, or takes it on and looks then.
            None => self.wake_reactors(),
        }
        Ok(())
    }

    /// How many streams clients have.
    pub fn clients(&self) -> usize {
        self.connections().saturating_sub(self.own.load(Ordering::SeqCst))
    }

    /// How many streams are open, those of the gateway's own among them.
    pub fn connections(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    /// New streams are from now on told to come back elsewhere.
    pub fn begin_drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
        self.metrics.draining.set(1);
    }

    /// Whether the gateway drains.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    /// Lets up to `most` streams go; returns how many are still there to be told.
    pub fn let_go(&self, most: usize) -> usize {
        let stays = |waiter: &&Arc<Waiter>| !waiter.leaving.load(Ordering::SeqCst);
        let waiting: Vec<_> = self.connections.lock().values().filter(stays).cloned().collect();
        // Those in tasks first, and of each the oldest first: one order is as good as another.
        for waiter in waiting.iter().take(most) {
            waiter.leaving.store(true, Ordering::SeqCst);
            waiter.mark(self.now_ms());
        }
        let (mut left, mut most) = (waiting.len().saturating_sub(most), most.saturating_sub(waiting.len()));
        for reactor in self.reactors.read().iter() {
            let (going, staying) = reactor.let_go(most);
            most -= going;
            left += staying;
        }
        left
    }

    /// Has up to `most` streams end that are to begin again elsewhere, of each who serves them in proportion to how many.
    pub(crate) fn shed(&self, most: usize) {
        if most == 0 {
            return;
        }
        let connections = self.connections.lock();
        let stays = |waiter: &&Arc<Waiter>| waiter.leaves().is_none();
        let in_tasks = connections.values().filter(stays).count();
        let reactors = self.reactors.read();
        let staying: Vec<usize> = reactors.iter().map(|reactor| reactor.staying()).collect();
        let total = in_tasks + staying.iter().sum::<usize>();
        let most = most.min(total);
        let share = |streams: usize| most * streams / total.max(1);
        let mut of_reactors: Vec<usize> = staying.iter().map(|streams| share(*streams)).collect();
        let mut of_tasks = share(in_tasks);
        // What is left of rounding goes to where most are.
        let left = most - of_tasks - of_reactors.iter().sum::<usize>();
        let fullest = staying.iter().zip(&mut of_reactors).max_by_key(|(streams, _)| **streams);
        match fullest.filter(|(streams, _)| **streams > in_tasks) {
            Some((_, share)) => *share += left,
            None => of_tasks += left,
        }
        // From anywhere on, or the oldest would always be the ones to go.
        let from = fastrand::usize(..in_tasks.max(1));
        for waiter in connections.values().filter(stays).cycle().skip(from).take(of_tasks) {
            waiter.shed.store(true, Ordering::SeqCst);
            waiter.mark(self.now_ms());
        }
        for (reactor, most) in reactors.iter().zip(of_reactors).filter(|(_, most)| *most > 0) {
            reactor.shed(most);
        }
    }

    /// Has everybody who serves streams look at the surveys.
    pub(crate) fn look_at_surveys(&self) {
        self.mark_all();
        self.wake_reactors();
    }

    /// How many threads serve streams.
    pub(crate) fn reactors(&self) -> usize {
        self.reactors.read().len()
    }

    /// How many of the streams that tasks serve hear a channel.
    pub(crate) fn listeners_in_tasks(&self, channel: &Channel) -> usize {
        let listeners = self.shards[self.count.shard_of(channel).index()].listeners.lock();
        let named = listeners.channels.get(channel).into_iter().flat_map(BTreeMap::values);
        let mut found: Vec<_> = named.map(Arc::as_ptr).collect();
        listeners.patterns.matching(channel.as_str(), &mut |waiter| found.push(Arc::as_ptr(waiter)));
        // One may hear it for several reasons.
        found.sort_unstable();
        found.dedup();
        found.len()
    }

    /// The mark of a stream that is opened now.
    pub(crate) fn opened_now(&self) -> Opened {
        Opened::after(self.began.elapsed())
    }

    /// When a stream with this mark was opened.
    pub(crate) fn opened_at(&self, opened: Opened) -> Timestamp {
        opened.at(self.began_at)
    }

    /// Counts the streams whose socket has not taken what is there for over a second.
    pub fn count_slow(&self) {
        let limit = self.now_ms().saturating_sub(1000);
        let slow = |waiter: &&Arc<Waiter>| (1..limit).contains(&waiter.marked_since.load(Ordering::Relaxed));
        let in_tasks = self.connections.lock().values().filter(slow).count();
        let in_reactors: usize = self.reactors.read().iter().map(|reactor| reactor.slow()).sum();
        self.metrics.slow_connections.set(i64::try_from(in_tasks + in_reactors).unwrap_or(i64::MAX));
    }

    fn mark<'a>(&self, shard: &ShardHub, events: impl Iterator<Item = &'a FeedEvent>) {
        let now_ms = self.now_ms();
        let mut last: Option<&Channel> = None;
        for event in events {
            // Events come in runs of one channel more often than not.
            if last.replace(&event.channel) == Some(&event.channel) {
                continue;
            }
            // Let go between channels: whoever joins or leaves need not wait for a whole batch.
            let listeners = shard.listeners.lock();
            if let Some(waiters) = listeners.channels.get(&event.channel) {
                waiters.values().for_each(|waiter| waiter.mark(now_ms));
            }
            listeners.patterns.matching(event.channel.as_str(), &mut |waiter| waiter.mark(now_ms));
        }
    }

    fn mark_all(&self) {
        let now_ms = self.now_ms();
        self.connections.lock().values().for_each(|waiter| waiter.mark(now_ms));
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// A connection's registration; dropping it leaves.
#[derive(Debug)]
pub struct Membership {
    hub: Arc<Hub>,
    client_id: ClientId,
    /// Wakes the connection.
    pub waiter: Arc<Waiter>,
    topics: Vec<(Shard, Topics)>,
}

impl Membership {
    /// It is marked by other events from now on. What came meanwhile may not have marked it.
    pub(crate) fn listen_to(&mut self, subscription: &Subscription) {
        self.hub.strike_off(self.waiter.id, &self.topics);
        self.topics.clone_from(&subscription.shards);
        self.hub.enlist(&self.waiter, &self.topics);
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.hub.strike_off(self.waiter.id, &self.topics);
        self.hub.directory.let_off(self.client_id, &self.waiter);
        self.hub.connections.lock().remove(&self.waiter.id);
    }
}
