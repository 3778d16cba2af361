//! Ports for tests, in memory: they can be told to fail, to wait and to lie still.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use foghorn_bus::Future;
use foghorn_bus::journal::{AppendError, Appended, Bounds, Journal, JournalError, JournalPage};
use foghorn_bus::live::{LiveError, LiveFeed, LiveSubscription};
use foghorn_bus::log::{
    Committed, EventLog, HistoryPage, HistoryQuery, Located, LogError, NewestQuery, Replay, ReplayQuery,
};
use foghorn_core::batch::Batch;
use foghorn_core::entry::{Entry, InvalidEntry, Key, NewEntry};
use foghorn_core::event::{Event, FRAME_BYTES_DEFAULT};
use foghorn_core::pattern::Pattern;
use foghorn_core::policy::{Policies, Policy, Presence};
use foghorn_core::position::{Digest, Epoch, Position};
use foghorn_core::shard::{Shard, ShardCount};
use foghorn_core::time::Timestamp;
use foghorn_telemetry::shutdown::{self, Trigger};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use tokio::sync::{Semaphore, watch};

use crate::config::Config;
use crate::metrics::Metrics;
use crate::publish::Publisher;

/// Milliseconds of the journal's time between two entries.
pub(crate) const STEP_MS: i64 = 100;

/// A journal of one shard. A clone is the same journal.
#[derive(Clone)]
pub(crate) struct TestJournal(Arc<Inner>);

pub(crate) struct Inner {
    state: Mutex<State>,
    changed: watch::Sender<()>,
    cuts: watch::Sender<u64>,
    /// Appends that may go on; by default all.
    pub(crate) gate: Semaphore,
    /// What appends fail with, by their channel or by their data.
    pub(crate) failing: Mutex<HashMap<String, AppendError>>,
    /// Appends of a channel under way, and the most there ever were.
    under_way: Mutex<HashMap<String, (usize, usize)>>,
    /// Calls of `append_in_order`.
    runs: AtomicUsize,
    /// Tails give nothing any more.
    pub(crate) still: AtomicBool,
    /// Tails opened.
    pub(crate) tails: AtomicUsize,
}

impl std::ops::Deref for TestJournal {
    type Target = Inner;
    fn deref(&self) -> &Inner {
        &self.0
    }
}

struct Tail {
    journal: TestJournal,
    changed: watch::Receiver<()>,
    shard: Shard,
    at: u64,
    epoch: Epoch,
    cuts: u64,
}

struct State {
    epoch: Epoch,
    first_seq: u64,
    /// The seq that was given out again last.
    replaced: Option<u64>,
    first: u64,
    last: u64,
    entries: Vec<(Shard, Entry)>,
    keys: HashMap<[u8; 16], u64>,
}

impl TestJournal {
    pub(crate) fn new() -> Self {
        TestJournal(Arc::new(Inner {
            state: Mutex::new(State {
                epoch: Epoch::new(1),
                first_seq: 1,
                replaced: None,
                first: 1,
                last: 0,
                entries: Vec::new(),
                keys: HashMap::new(),
            }),
            changed: watch::Sender::new(()),
            cuts: watch::Sender::new(0),
            gate: Semaphore::new(Semaphore::MAX_PERMITS),
            failing: Mutex::default(),
            under_way: Mutex::default(),
            runs: AtomicUsize::new(0),
            still: AtomicBool::new(false),
            tails: AtomicUsize::new(0),
        }))
    }

    /// Appends to shard 0, past all checks.
    pub(crate) fn put(&self, event: Result<Event, InvalidEntry>) -> u64 {
        let mut state = self.state.lock();
        let seq = state.store(event, None);
        drop(state);
        self.changed.send_replace(());
        seq
    }

    /// Begins another epoch, empty.
    pub(crate) fn restart(&self, epoch: u64) {
        let mut state = self.state.lock();
        (state.epoch, state.first_seq, state.first, state.last) = (Epoch::new(epoch), 1, 1, 0);
        state.entries.clear();
        drop(state);
        self.changed.send_replace(());
    }

    /// Removes one entry from the middle.
    pub(crate) fn delete(&self, seq: u64) {
        self.state.lock().entries.retain(|(_, entry)| entry.seq != seq);
    }

    /// Gives out a seq again: another entry is there now.
    pub(crate) fn replace(&self, seq: u64) {
        let mut state = self.state.lock();
        state.replaced = Some(seq);
        for (_, entry) in state.entries.iter_mut().filter(|(_, entry)| entry.seq == seq) {
            entry.digest = Digest(entry.digest.0 + 1000);
        }
    }

    /// Has every tail end with an error.
    pub(crate) fn cut_tails(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
        self.changed.send_replace(());
    }

    pub(crate) fn set_still(&self, still: bool) {
        self.still.store(still, Ordering::SeqCst);
        self.changed.send_replace(());
    }

    /// The channels and data of everything stored, in order.
    pub(crate) fn stored(&self) -> Vec<(String, String)> {
        let state = self.state.lock();
        let events = state.entries.iter().filter_map(|(_, entry)| entry.event.as_ref().ok());
        events.map(|event| (event.channel.to_string(), event.data.to_string())).collect()
    }

    /// The most appends of one channel that were ever under way at a time.
    pub(crate) fn most_at_once(&self) -> usize {
        self.under_way.lock().values().map(|(_, most)| *most).max().unwrap_or(0)
    }

    /// How often events were given to append.
    pub(crate) fn runs(&self) -> usize {
        self.runs.load(Ordering::SeqCst)
    }

    fn after(&self, shard: Shard, after: u64) -> Vec<Entry> {
        let state = self.state.lock();
        let entries = state.entries.iter().filter(|(s, entry)| *s == shard && entry.seq > after);
        entries.map(|(_, entry)| entry.clone()).collect()
    }
}

impl State {
    fn bounds(&self) -> Bounds {
        let continues = None;
        Bounds { epoch: self.epoch, first_seq: self.first_seq, continues, first: self.first, last: self.last }
    }

    fn store(&mut self, event: Result<Event, InvalidEntry>, key: Option<Key>) -> u64 {
        self.last += 1;
        let seq = self.last;
        let time = Timestamp::from_micros(i64::try_from(seq).unwrap() * STEP_MS * 1000);
        self.entries
            .push((Shard::ZERO, Entry { seq, time, key, digest: Digest(seq), traceparent: None, event }));
        seq
    }
}

impl TestJournal {
    async fn store(&self, entry: NewEntry) -> Result<Appended, AppendError> {
        let channel = entry.event.channel.to_string();
        {
            let mut under_way = self.under_way.lock();
            let (now, most) = under_way.entry(channel.clone()).or_default();
            *now += 1;
            *most = (*most).max(*now);
        }
        self.gate.acquire().await.unwrap().forget();
        // Others get their turn, as they would over a network.
        tokio::task::yield_now().await;
        self.under_way.lock().get_mut(&channel).unwrap().0 -= 1;
        let failing = self.failing.lock();
        if let Some(error) = failing.get(&channel).or_else(|| failing.get(&entry.event.data.to_string())) {
            return Err(error.clone());
        }
        drop(failing);
        let mut state = self.state.lock();
        let known = state.keys.get(entry.key.as_bytes()).copied();
        let seq = known.unwrap_or_else(|| state.store(Ok(entry.event), Some(entry.key)));
        state.keys.insert(*entry.key.as_bytes(), seq);
        let position = Position { shard: Shard::ZERO, epoch: state.epoch, seq };
        drop(state);
        self.changed.send_replace(());
        Ok(Appended { position, duplicate: known.is_some() })
    }
}

impl Journal for TestJournal {
    fn shards(&self) -> ShardCount {
        ShardCount::ONE
    }

    fn frame_bytes(&self) -> usize {
        FRAME_BYTES_DEFAULT
    }

    fn append_in_order(&self, entries: Vec<NewEntry>) -> BoxStream<'static, Result<Appended, AppendError>> {
        self.runs.fetch_add(1, Ordering::SeqCst);
        let start = (self.clone(), entries.into_iter());
        futures::stream::unfold(start, |(journal, mut entries)| async move {
            let result = journal.store(entries.next()?).await;
            if result.as_ref().is_err_and(AppendError::may_pass) {
                entries = Vec::new().into_iter();
            }
            Some((result, (journal, entries)))
        })
        .boxed()
    }

    fn tail(&self, after: Position) -> BoxStream<'static, Result<Entry, JournalError>> {
        self.tails.fetch_add(1, Ordering::SeqCst);
        let start = Tail {
            journal: self.clone(),
            changed: self.changed.subscribe(),
            shard: after.shard,
            at: after.seq,
            epoch: after.epoch,
            cuts: *self.cuts.borrow(),
        };
        futures::stream::unfold(start, |mut tail| async move {
            loop {
                tail.changed.mark_unchanged();
                let now = tail.journal.state.lock().epoch;
                if now != tail.epoch {
                    return Some((Err(JournalError::Epoch { shard: tail.shard, epoch: now }), tail));
                }
                if *tail.journal.cuts.borrow() != tail.cuts {
                    return Some((Err(JournalError::Unavailable("cut".to_owned())), tail));
                }
                let still = tail.journal.still.load(Ordering::SeqCst);
                let next = tail.journal.after(tail.shard, tail.at).into_iter().next();
                match next.filter(|_| !still) {
                    Some(entry) => {
                        tail.at = entry.seq;
                        return Some((Ok(entry), tail));
                    }
                    None => tail.changed.changed().await.ok()?,
                }
            }
        })
        .boxed()
    }

    fn read(
        &self,
        shard: Shard,
        after: u64,
        events: usize,
        _bytes: usize,
    ) -> Future<'_, Result<JournalPage, JournalError>> {
        Box::pin(async move {
            let entries: Vec<Entry> = self.after(shard, after).into_iter().take(events).collect();
            let state = self.state.lock();
            let full = entries.len() == events;
            let to = if full { entries[entries.len() - 1].seq } else { state.last };
            let from = after.max(state.first - 1);
            Ok(JournalPage { epoch: state.epoch, from, to: to.max(from), tip: state.last, entries })
        })
    }

    fn bounds(&self, _shard: Shard) -> Future<'_, Result<Bounds, JournalError>> {
        let state = self.state.lock();
        let bounds = state.bounds();
        Box::pin(async move { Ok(bounds) })
    }

    fn seek(&self, _shard: Shard, time: Timestamp) -> Future<'_, Result<u64, JournalError>> {
        let state = self.state.lock();
        let found = state.entries.iter().find(|(_, entry)| entry.time >= time);
        let seq = found.map_or(state.last, |(_, entry)| entry.seq - 1);
        Box::pin(async move { Ok(seq) })
    }

    fn begin_anew(
        &self,
        _shard: Shard,
        old: Epoch,
        first_seq: Option<u64>,
    ) -> Future<'_, Result<Epoch, JournalError>> {
        let mut state = self.state.lock();
        assert_eq!(state.epoch, old);
        state.epoch = Epoch::new(old.get() + 1);
        // As if it were known: seqs are given out again from the one replaced last.
        state.first_seq = first_seq.or(state.replaced).unwrap_or(state.first);
        let epoch = state.epoch;
        Box::pin(async move { Ok(epoch) })
    }

    fn trim(&self, through: Position) -> Future<'_, Result<(), JournalError>> {
        let mut state = self.state.lock();
        state.entries.retain(|(_, entry)| entry.seq > through.seq);
        state.first = through.seq + 1;
        Box::pin(async { Ok(()) })
    }
}

/// Answers `committed` as it is told, or never.
#[derive(Default)]
pub(crate) struct TestLog {
    pub(crate) answer: Mutex<Option<Result<Committed, LogError>>>,
}

impl EventLog for TestLog {
    fn replay(&self, _query: ReplayQuery) -> Future<'_, Result<Replay, LogError>> {
        unasked()
    }

    fn newest(&self, _query: NewestQuery) -> Future<'_, Result<Vec<Batch>, LogError>> {
        unasked()
    }

    fn locate(&self, _shard: Shard, _time: Timestamp) -> Future<'_, Result<Located, LogError>> {
        unasked()
    }

    fn history(&self, _query: HistoryQuery) -> Future<'_, Result<HistoryPage, LogError>> {
        unasked()
    }

    fn committed(
        &self,
        _position: Position,
        _key: Key,
        _deadline: Duration,
    ) -> Future<'_, Result<Committed, LogError>> {
        let answer = self.answer.lock().clone();
        Box::pin(async move {
            match answer {
                Some(answer) => answer,
                None => std::future::pending().await,
            }
        })
    }
}

fn unasked<T: Send + 'static>() -> Future<'static, Result<T, LogError>> {
    Box::pin(async { Err(LogError("not part of this test".to_owned())) })
}

/// Keeps what was sent.
#[derive(Default)]
pub(crate) struct TestFeed {
    pub(crate) failures: AtomicUsize,
    sent: Mutex<Vec<Arc<Batch>>>,
    changed: watch::Sender<()>,
    batch_bytes: Option<usize>,
}

impl TestFeed {
    /// With batches of at most so many bytes.
    pub(crate) fn of(batch_bytes: usize) -> Self {
        TestFeed { batch_bytes: Some(batch_bytes), ..TestFeed::default() }
    }

    /// Takes what was sent so far.
    pub(crate) fn take(&self) -> Vec<Arc<Batch>> {
        std::mem::take(&mut self.sent.lock())
    }

    /// Waits until `enough` of what was sent.
    pub(crate) async fn until(&self, enough: impl Fn(&[Arc<Batch>]) -> bool) {
        let mut changed = self.changed.subscribe();
        while !enough(&self.sent.lock()) {
            changed.changed().await.unwrap();
        }
    }
}

impl LiveFeed for TestFeed {
    fn send(&self, batch: Arc<Batch>) -> Future<'_, Result<(), LiveError>> {
        let failures = self.failures.load(Ordering::SeqCst);
        if failures > 0 {
            self.failures.store(failures - 1, Ordering::SeqCst);
            return Box::pin(async { Err(LiveError("told so".to_owned())) });
        }
        self.sent.lock().push(batch);
        self.changed.send_replace(());
        Box::pin(async { Ok(()) })
    }

    fn batch_bytes(&self) -> usize {
        self.batch_bytes.unwrap_or(1 << 20)
    }

    fn subscribe(&self, _shard: Shard) -> Future<'_, Result<Box<dyn LiveSubscription>, LiveError>> {
        Box::pin(async { Err(LiveError("not part of this test".to_owned())) })
    }
}

/// A publisher on a test journal, and what belongs to it.
pub(crate) struct Bench {
    pub(crate) journal: TestJournal,
    pub(crate) log: Arc<TestLog>,
    pub(crate) publisher: Arc<Publisher>,
    pub(crate) trigger: Trigger,
    pub(crate) registry: Registry,
}

/// With a policy of 1,000 bytes for `small.>`.
pub(crate) fn bench(config: Config) -> Bench {
    let (journal, log) = (TestJournal::new(), Arc::new(TestLog::default()));
    let (trigger, shutdown) = shutdown::channel();
    let mut registry = Registry::default();
    let small = Policy { event_bytes: Some(1000), ..Policy::new(Pattern::parse("small.>").unwrap()) };
    let told = Policy { presence: Presence::Events, ..Policy::new(Pattern::parse("told.>").unwrap()) };
    let publisher = Publisher::new(
        Arc::new(journal.clone()),
        log.clone(),
        Policies::new(vec![small, told]).unwrap().into(),
        Arc::new(foghorn_auth::Authenticator::open()),
        config,
        Metrics::register(&mut registry),
        shutdown,
    );
    Bench { journal, log, publisher: Arc::new(publisher), trigger, registry }
}

impl Bench {
    /// The metrics as they would be scraped.
    pub(crate) fn metrics(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        text
    }
}
