//! The journal as a process sees it: late, over a connection that may be cut, with what it knows of epochs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use foghorn_bus::Future;
use foghorn_bus::backoff::Backoff;
use foghorn_bus::journal::{AppendError, Appended, Bounds, Journal, JournalError, JournalPage, Size};
use foghorn_core::entry::{Entry, NewEntry};
use foghorn_core::event::FRAME_BYTES_DEFAULT;
use foghorn_core::position::{Digest, Epoch, Position};
use foghorn_core::shard::{Shard, ShardCount};
use foghorn_core::time::Timestamp;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::servers::{EpochRecord, Info, Servers, Took};
use crate::mutant::Mutant;
use crate::process::Process;
use crate::world::World;

/// As `foghorn_bus::nats` has them.
const APPEND_DEADLINE: Duration = Duration::from_secs(15);
const ACK_TIMEOUT: Duration = Duration::from_millis(2500);
const OPERATION_TIMEOUT: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_secs(5);
const REGRESS_LOOKS: usize = 3;
const REGRESS_PAUSE: Duration = Duration::from_millis(400);
const SILENCE_MOST: Duration = Duration::from_secs(3);

/// A process's journal. Cheap to clone.
#[derive(Clone)]
pub struct SimJournal(Arc<View>);

struct View {
    world: Arc<World>,
    process: Arc<Process>,
    servers: Arc<Servers>,
    known: Vec<Mutex<Known>>,
    suspicion: Notify,
    /// Whose tip is hidden by a mutant.
    relays: bool,
    /// What relays were first given at a seq, for a mutant.
    given: Mutex<BTreeMap<(Shard, u64), Digest>>,
}

#[derive(Debug, Default, Clone)]
struct Known {
    epoch: u64,
    created: u64,
    first_seq: u64,
    continues: Option<Epoch>,
    /// The highest seq that is known to exist.
    last: u64,
    /// What was read.
    seen: Vec<(u64, Digest)>,
}

/// An epoch that is over, and the first seq that differs from what it had, if that is known.
#[derive(Debug, Clone, Copy)]
struct Over {
    epoch: Epoch,
    first_seq: Option<u64>,
}

impl Over {
    fn is_before(&self, found: Epoch, known: Epoch) -> bool {
        found > self.epoch || found == self.epoch && known < self.epoch
    }
}

fn unavailable(text: impl Into<String>) -> JournalError {
    JournalError::Unavailable(text.into())
}

impl SimJournal {
    /// The journal of a process. [`keep`](Self::keep) is to run in it.
    pub fn new(process: &Arc<Process>, servers: &Arc<Servers>, relays: bool) -> Self {
        let known = process.world.shards.shards().map(|_| Mutex::default()).collect();
        SimJournal(Arc::new(View {
            world: process.world.clone(),
            process: process.clone(),
            servers: servers.clone(),
            known,
            suspicion: Notify::new(),
            relays,
            given: Mutex::default(),
        }))
    }

    /// Finds the epochs, however long it takes.
    pub async fn open(&self) {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
        while self.0.look_at_all().await.is_err() {
            backoff.wait().await;
        }
    }

    /// Keeps the epochs current, for ever.
    pub async fn keep(self) {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
        loop {
            tokio::select! {
                biased;
                () = self.0.suspicion.notified() => {}
                () = self.heard() => {}
                () = sleep(LOOK_EVERY) => {}
            }
            while self.0.look_at_all().await.is_err() {
                backoff.wait().await;
            }
            backoff.reset();
        }
    }

    /// A record was written, and word of it came through.
    async fn heard(&self) {
        loop {
            self.0.servers.recorded.notified().await;
            self.0.world.hop().await;
            if !self.0.process.flags().no_nats && !self.0.world.chance(0.1) {
                return;
            }
        }
    }
}

impl View {
    fn current(&self, shard: Shard) -> Epoch {
        Epoch::new(self.known[shard.index()].lock().epoch)
    }

    fn saw(&self, shard: Shard, epoch: Epoch, seq: u64) {
        let mut known = self.known[shard.index()].lock();
        if known.epoch == epoch.get() {
            known.last = known.last.max(seq);
        }
    }

    fn saw_entries(&self, shard: Shard, epoch: Epoch, entries: &[Entry]) {
        let mut known = self.known[shard.index()].lock();
        if known.epoch != epoch.get() {
            return;
        }
        for entry in entries {
            known.last = known.last.max(entry.seq);
            if known.seen.last().is_none_or(|(newest, _)| *newest < entry.seq) {
                known.seen.push((entry.seq, entry.digest));
            }
        }
    }

    fn bounds(&self, shard: Shard, info: Info) -> Bounds {
        let known = self.known[shard.index()].lock();
        let (epoch, first_seq, continues) = (Epoch::new(known.epoch), known.first_seq, known.continues);
        Bounds { epoch, first_seq, continues, first: info.first, last: info.last }
    }

    /// What the leader says, once there is one, or not in time.
    async fn info(&self, shard: Shard) -> Result<Info, JournalError> {
        self.process.hop_to_nats().await.map_err(unavailable)?;
        let Some(info) = self.servers.info(shard) else {
            sleep(self.world.millis(5..800)).await;
            return Err(unavailable("no leader answers"));
        };
        self.process.hop_to_nats().await.map_err(unavailable)?;
        Ok(info)
    }

    async fn look(&self, shard: Shard) -> Result<Bounds, JournalError> {
        self.look_from(Position { shard, epoch: Epoch::new(0), seq: 0 }).await
    }

    async fn look_from(&self, after: Position) -> Result<Bounds, JournalError> {
        let shard = after.shard;
        let mut looks = (Epoch::new(0), 0);
        loop {
            let (epoch, last) = {
                let known = self.known[shard.index()].lock();
                (Epoch::new(known.epoch), known.last)
            };
            let last = if after.epoch == epoch { last.max(after.seq) } else { last };
            let info = self.info(shard).await?;
            if self.known[shard.index()].lock().created != info.created {
                self.settle(shard, info, None).await?;
                return Ok(self.bounds(shard, info));
            }
            if info.last >= last || self.world.is(Mutant::EpochsForgotten) {
                return Ok(self.bounds(shard, info));
            }
            looks = (epoch, if looks.0 == epoch { looks.1 + 1 } else { 1 });
            if looks.1 >= REGRESS_LOOKS || self.world.is(Mutant::LooksOnce) {
                self.settle(shard, info, Some(Over { epoch, first_seq: None })).await?;
                return Ok(self.bounds(shard, info));
            }
            sleep(REGRESS_PAUSE).await;
        }
    }

    /// The first seq at which the journal may differ from what was read here in an epoch.
    async fn first_differing(
        &self,
        shard: Shard,
        epoch: Epoch,
        info: Info,
        seen: u64,
    ) -> Result<Option<u64>, JournalError> {
        let known = {
            let known = self.known[shard.index()].lock();
            if known.epoch != epoch.get() {
                return Ok(None);
            }
            let comparable = known.seen.iter().filter(|(seq, _)| (info.first..=info.last).contains(seq));
            comparable.copied().collect::<Vec<_>>()
        };
        self.process.hop_to_nats().await.map_err(unavailable)?;
        let is_same = |(seq, digest): &&(u64, Digest)| {
            let entry = self.servers.next(shard, seq.saturating_sub(1));
            entry.is_some_and(|entry| entry.seq == *seq && entry.digest == *digest)
        };
        let same = known.iter().take_while(is_same).count();
        self.process.hop_to_nats().await.map_err(unavailable)?;
        if same == known.len() && seen <= info.last {
            return Ok(None);
        }
        Ok(same.checked_sub(1).map(|last| known[last].0 + 1))
    }

    /// The epoch by the record, or a new one: when the record is of another stream, or is `over`.
    async fn settle(&self, shard: Shard, info: Info, over: Option<Over>) -> Result<Epoch, JournalError> {
        let mut info = info;
        for _ in 0..8 {
            self.process.hop_to_nats().await.map_err(unavailable)?;
            let record = self.servers.record(shard);
            self.process.hop_to_nats().await.map_err(unavailable)?;
            let known = self.current(shard);
            if let Some(found) = record
                && found.created == info.created
                && found.epoch >= known
                && over.is_none_or(|over| over.is_before(found.epoch, known))
            {
                self.adopt(found);
                return Ok(found.epoch);
            }
            let seen = self.known[shard.index()].lock().last;
            let again = self.info(shard).await?;
            let same = again.created == info.created;
            info = again;
            if !same {
                continue;
            }
            let last = record.map(|record| record.epoch).max(over.map(|over| over.epoch));
            let last = last.max((known.get() > 0).then_some(known));
            let seconds = u64::try_from(self.process.now().as_micros() / 1_000_000).unwrap_or(0);
            let epoch = Epoch::next(last, seconds);
            let created = info.created;
            let continues = record.filter(|record| record.created == created).map(|record| record.epoch);
            let differs = match over.filter(|_| continues.is_some()) {
                Some(Over { epoch, first_seq: None }) => {
                    self.first_differing(shard, epoch, info, seen).await?
                }
                over => over.and_then(|over| over.first_seq),
            };
            let mut first_seq = match differs {
                Some(seq) => seq.min(info.last + 1),
                None if continues.is_some() => 1,
                None => info.first,
            };
            if self.world.is(Mutant::EpochsBeginLate) && continues.is_some() {
                first_seq = info.last + 1;
            }
            let at = Duration::ZERO;
            let next = EpochRecord { shard, epoch, created, life: 0, first_seq, continues, at };
            self.process.hop_to_nats().await.map_err(unavailable)?;
            if self.servers.put_record(record, next) {
                self.process.hop_to_nats().await.map_err(unavailable)?;
                self.adopt(next);
                return Ok(epoch);
            }
        }
        Err(unavailable("the epoch keeps changing"))
    }

    fn adopt(&self, record: EpochRecord) {
        let mut known = self.known[record.shard.index()].lock();
        let epoch = record.epoch.get();
        if epoch < known.epoch {
            return;
        }
        (known.created, known.first_seq, known.continues) =
            (record.created, record.first_seq, record.continues);
        if epoch > known.epoch {
            (known.epoch, known.last, known.seen) = (epoch, 0, Vec::new());
        }
        drop(known);
        // Whoever waits for an entry looks at the epoch too.
        self.servers.changed.notify_waiters();
    }

    async fn look_at_all(&self) -> Result<(), JournalError> {
        for shard in self.world.shards.shards() {
            let info = self.info(shard).await?;
            self.settle(shard, info, None).await?;
        }
        Ok(())
    }

    async fn append(&self, entry: &NewEntry) -> Result<Appended, AppendError> {
        let shard = self.world.shards.shard_of(&entry.event.channel);
        let deadline = Instant::now() + APPEND_DEADLINE;
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
        loop {
            let why = match timeout(ACK_TIMEOUT, self.try_append(shard, entry)).await {
                Ok(Err(AppendError::Unavailable(why))) => why,
                Ok(answer) => return answer,
                Err(_) => "no ack in time".to_owned(),
            };
            let wait = backoff.next_wait();
            if Instant::now() + wait >= deadline {
                return Err(AppendError::Unavailable(why));
            }
            sleep(wait).await;
        }
    }

    async fn try_append(&self, shard: Shard, entry: &NewEntry) -> Result<Appended, AppendError> {
        self.process.hop_to_nats().await.map_err(AppendError::Unavailable)?;
        let (before, last) = {
            let known = self.known[shard.index()].lock();
            (Epoch::new(known.epoch), known.last)
        };
        let acked = match self.servers.append(shard, entry, before) {
            Took::Acked(acked) => acked,
            Took::Full => return Err(AppendError::Full(shard)),
            Took::NoLeader => {
                self.suspicion.notify_one();
                sleep(self.world.millis(1..50)).await;
                return Err(AppendError::Unavailable("no leader answers".to_owned()));
            }
        };
        if self.world.chance(self.world.weather().ack_loss) {
            return std::future::pending().await;
        }
        self.process.hop_to_nats().await.map_err(AppendError::Unavailable)?;
        let seq = acked.position.seq;
        if !acked.duplicate && seq <= last && !self.world.is(Mutant::EpochsForgotten) {
            let failed = |error: JournalError| AppendError::Unavailable(error.to_string());
            let info = self.info(shard).await.map_err(failed)?;
            let over = Some(Over { epoch: before, first_seq: None });
            self.settle(shard, info, over).await.map_err(failed)?;
        }
        let epoch = self.current(shard);
        self.saw(shard, epoch, seq);
        let position = Position { shard, epoch, seq };
        Ok(Appended { position, duplicate: acked.duplicate })
    }

    async fn read(&self, shard: Shard, after: u64, events: usize) -> Result<JournalPage, JournalError> {
        let bounds = self.look(shard).await?;
        let from = after.max(bounds.first.saturating_sub(1));
        let (epoch, tip) = (bounds.epoch, bounds.last);
        if from >= bounds.last {
            return Ok(JournalPage { epoch, from, to: from, tip, entries: Vec::new() });
        }
        self.process.hop_to_nats().await.map_err(unavailable)?;
        let entries = self.servers.entries(shard, from, bounds.last, events.max(1));
        self.process.hop_to_nats().await.map_err(unavailable)?;
        let cut = entries.len() >= events.max(1);
        let to = entries.last().filter(|_| cut).map_or(bounds.last, |last| last.seq);
        self.saw_entries(shard, epoch, &entries);
        self.saw(shard, epoch, to);
        let page = JournalPage { epoch, from, to, tip: tip.max(to), entries };
        if page.is_dense() {
            return Ok(page);
        }
        Ok(page.begun_at(self.look(shard).await?.first))
    }
}

async fn in_time<T>(
    operation: impl std::future::Future<Output = Result<T, JournalError>>,
) -> Result<T, JournalError> {
    match timeout(OPERATION_TIMEOUT, operation).await {
        Ok(result) => result,
        Err(_) => Err(unavailable("no answer in time")),
    }
}

/// A tail on its way.
struct Tail {
    view: Arc<View>,
    shard: Shard,
    epoch: Epoch,
    at: u64,
    consumers: u64,
    reconnects: u64,
    dead: u64,
    /// The entry that is on its way, and when it arrives.
    coming: u64,
    due: Instant,
    /// Whether nothing came yet.
    first: bool,
}

impl Tail {
    async fn open(view: Arc<View>, after: Position) -> Result<Tail, JournalError> {
        let bounds = view.look_from(after).await?;
        let Position { shard, epoch, seq: after } = after;
        if bounds.epoch != epoch {
            return Err(JournalError::Epoch { shard, epoch: bounds.epoch });
        }
        let flags = view.process.flags();
        let consumers = view.servers.consumers(shard);
        let (reconnects, dead, due) = (flags.reconnects, flags.tails_dead, Instant::now());
        Ok(Tail { view, shard, epoch, at: after, consumers, reconnects, dead, coming: 0, due, first: true })
    }

    async fn next(&mut self) -> Result<Entry, JournalError> {
        loop {
            let changed = self.view.servers.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let flags = self.view.process.flags();
            if flags.tails_dead != self.dead {
                // A consumer that nobody feeds any more.
                return std::future::pending().await;
            }
            let gone = self.view.servers.consumers(self.shard) != self.consumers;
            if gone || flags.no_nats || flags.reconnects != self.reconnects {
                let silent = if flags.reconnects != self.reconnects { Duration::ZERO } else { SILENCE_MOST };
                sleep(silent).await;
                return Err(unavailable("the tail ended"));
            }
            let epoch = self.view.current(self.shard);
            if epoch != self.epoch {
                return Err(JournalError::Epoch { shard: self.shard, epoch });
            }
            let Some(entry) = self.view.servers.next(self.shard, self.at) else {
                tokio::select! {
                    biased;
                    () = changed => {}
                    // Cut off, it hears nothing of that.
                    () = sleep(Duration::from_secs(1)) => {}
                }
                continue;
            };
            if entry.seq != self.coming {
                // In order: none arrives before the one before it.
                let age = self.view.world.now().since(entry.time);
                let left = self.view.world.latency().saturating_sub(age);
                self.due = self.due.max(Instant::now() + left);
                self.coming = entry.seq;
                sleep_until(self.due).await;
                continue;
            }
            self.at = entry.seq;
            self.view.saw_entries(self.shard, self.epoch, std::slice::from_ref(&entry));
            let first = std::mem::take(&mut self.first);
            return Ok(self.as_given(entry, first));
        }
    }
}

impl Tail {
    /// The entry; by a mutant the first of a tail has the digest that a relay was given before at its seq.
    fn as_given(&self, mut entry: Entry, first: bool) -> Entry {
        if self.view.relays && self.view.world.is(Mutant::RelaysDontCompare) {
            let mut given = self.view.given.lock();
            let known = *given.entry((self.shard, entry.seq)).or_insert(entry.digest);
            if first {
                entry.digest = known;
            }
            given.insert((self.shard, entry.seq), entry.digest);
        }
        entry
    }
}

impl Journal for SimJournal {
    fn shards(&self) -> ShardCount {
        self.0.world.shards
    }

    fn frame_bytes(&self) -> usize {
        FRAME_BYTES_DEFAULT
    }

    fn append_in_order(&self, entries: Vec<NewEntry>) -> BoxStream<'static, Result<Appended, AppendError>> {
        let start = (self.0.clone(), entries.into_iter());
        futures::stream::unfold(start, |(view, mut entries)| async move {
            let entry = entries.next()?;
            let result = view.append(&entry).await;
            if result.as_ref().is_err_and(AppendError::may_pass) {
                entries = Vec::new().into_iter();
            }
            Some((result, (view, entries)))
        })
        .boxed()
    }

    fn tail(&self, after: Position) -> BoxStream<'static, Result<Entry, JournalError>> {
        enum State {
            Closed(Arc<View>),
            Open(Box<Tail>),
            Ended,
        }
        futures::stream::unfold(State::Closed(self.0.clone()), move |state| async move {
            let mut tail = match state {
                State::Open(tail) => tail,
                State::Ended => return None,
                State::Closed(view) => match in_time(Tail::open(view, after)).await {
                    Ok(tail) => Box::new(tail),
                    Err(error) => return Some((Err(error), State::Ended)),
                },
            };
            match tail.next().await {
                Ok(entry) => Some((Ok(entry), State::Open(tail))),
                Err(error) => Some((Err(error), State::Ended)),
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
        Box::pin(in_time(self.0.read(shard, after, events)))
    }

    fn bounds(&self, shard: Shard) -> Future<'_, Result<Bounds, JournalError>> {
        Box::pin(async move {
            let mut bounds = in_time(self.0.look(shard)).await?;
            if self.0.relays && self.0.world.is(Mutant::TipHidden) {
                bounds.last = bounds.first.saturating_sub(1);
            }
            Ok(bounds)
        })
    }

    fn size(&self, shard: Shard) -> Future<'_, Result<Option<Size>, JournalError>> {
        Box::pin(async move {
            in_time(self.0.look(shard)).await?;
            Ok(Some(self.0.servers.size(shard)))
        })
    }

    fn seek(&self, shard: Shard, time: Timestamp) -> Future<'_, Result<u64, JournalError>> {
        Box::pin(in_time(async move {
            self.0.look(shard).await?;
            Ok(self.0.servers.seek(shard, time))
        }))
    }

    fn begin_anew(
        &self,
        shard: Shard,
        old: Epoch,
        first_seq: Option<u64>,
    ) -> Future<'_, Result<Epoch, JournalError>> {
        Box::pin(in_time(async move {
            self.0.look(shard).await?;
            let info = self.0.info(shard).await?;
            let ahead = self.0.servers.record(shard).is_some_and(|record| old > record.epoch);
            if self.0.world.is(Mutant::EpochsForgotten) || ahead && self.0.world.is(Mutant::AheadForever) {
                return Err(unavailable("nobody begins an epoch"));
            }
            self.0.settle(shard, info, Some(Over { epoch: old, first_seq })).await
        }))
    }

    fn trim(&self, through: Position) -> Future<'_, Result<(), JournalError>> {
        Box::pin(in_time(async move {
            let Position { shard, epoch, seq: through } = through;
            let bounds = self.0.look(shard).await?;
            if bounds.epoch != epoch {
                return Err(JournalError::Epoch { shard, epoch: bounds.epoch });
            }
            let far = if self.0.world.is(Mutant::TrimsTooFar) { u64::MAX } else { through };
            let through = far.min(bounds.last);
            if through >= bounds.first {
                self.0.servers.trim(shard, through);
            }
            Ok(())
        }))
    }
}
