//! Which incarnation of its journal each shard is in.
//!
//! A record per shard says which stream (by its time of creation) an epoch belongs to. Whoever finds the
//! record missing, the stream to be another, or seqs gone that it has seen, begins a new epoch by
//! compare-and-set; everybody else hears of it by the bucket's own subject, and looks again every few
//! seconds in case that was missed.
//!
//! The record also says of how many shards it is one. Another number means that channels have moved
//! between shards, so the first process that starts with it begins new epochs in all of them: a cursor of
//! the old layout would miss what went elsewhere.
//!
//! A journal that lost its tail and has grown past it since looks sound from here. Digests tell it
//! apart; whoever compares them calls [`Epochs::begin_anew`].
//!
//! A new epoch of the same stream begins with the first entry that differs, as far as whoever begins it
//! can tell: what is before it is the same, and nobody needs to be sent it again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_nats::Subscriber;
use futures::StreamExt;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use foghorn_core::entry::Entry;
use foghorn_core::position::{Epoch, Position};
use foghorn_core::shard::{Shard, ShardCount};

use super::Bus;
use super::api::ApiError;
use super::bucket::{Bucket, Put, Record};
use super::message::Rules;
use super::read::Reader;
use super::seen::Seen;
use super::stream::{self, Info, subject_prefix};
use crate::backoff::{Backoff, Rarely};
use crate::journal::Bounds;

const BUCKET: &str = "FOGHORN_epochs";
/// How often the records are looked at without a reason.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Seqs are gone when they are missing in this many looks in a row. A new leader, and a replica that is
/// ahead of it in applying what is committed, can look like a loss for a moment.
const REGRESS_LOOKS: usize = 3;
/// The same where servers elect: a new leader on a busy machine takes seconds to apply all that it has. All
/// looks together take less than relay and writer wait for them; readers of the log give up sooner, and leave
/// it to these.
const REGRESS_LOOKS_ELECTED: usize = 8;
const REGRESS_PAUSE: Duration = Duration::from_millis(400);
/// Compare-and-sets lost in a row before the caller is told to come back.
const CONFLICTS_MOST: usize = 8;

/// The epochs of all shards, as this process knows them.
#[derive(Debug, Clone)]
pub(super) struct Epochs(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    bus: Bus,
    bucket: Bucket,
    shards: Vec<Known>,
    count: ShardCount,
    /// Something looks wrong: look soon.
    suspicion: Notify,
}

#[derive(Debug)]
struct Known {
    shard: Shard,
    /// The current epoch; 0 before the first look. Also in `state`; here to be read per entry.
    epoch: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The stream that the epoch belongs to.
    stream_created: String,
    /// The first seq of the epoch.
    first_seq: u64,
    /// The epoch whose entries before that are this one's too.
    continues: Option<Epoch>,
    /// What this process has seen of the epoch.
    seen: Seen,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Stored {
    epoch: u64,
    /// The first seq of the epoch.
    first_seq: u64,
    /// The epoch whose entries before `first_seq` are this one's too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    continues: Option<u64>,
    stream_created: String,
    /// How many shards there are in the epoch; earlier versions didn't say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    shards: Option<u8>,
}

/// An epoch that is over, and the first seq that differs from what it had; none when that isn't known.
#[derive(Debug, Clone, Copy)]
struct Over {
    epoch: Epoch,
    first_seq: Option<u64>,
    /// Whether channels have moved between shards since: what the record says is over, whoever hears of it.
    moved: bool,
}

impl Over {
    /// Whether the record's epoch comes after it. So does itself where this process, which has only `known`
    /// of earlier ones, hears of it from somebody else: then there is none to begin.
    fn is_before(&self, stored: Epoch, known: Epoch) -> bool {
        stored > self.epoch || stored == self.epoch && known < self.epoch && !self.moved
    }
}

impl Epochs {
    pub(super) fn new(bus: &Bus, shards: ShardCount) -> Self {
        let known = |shard| Known { shard, epoch: AtomicU64::new(0), state: Mutex::default() };
        Epochs(Arc::new(Inner {
            bucket: Bucket::new(bus.0.api.clone(), BUCKET, bus.0.options.replicas),
            bus: bus.clone(),
            shards: shards.shards().map(known).collect(),
            count: shards,
            suspicion: Notify::new(),
        }))
    }

    /// The current epoch, as far as this process knows.
    pub(super) fn current(&self, shard: Shard) -> Epoch {
        Epoch::new(self.known(shard).epoch.load(Ordering::Relaxed))
    }

    /// The current epoch and the highest seq seen in it.
    pub(super) fn seen(&self, shard: Shard) -> (Epoch, u64) {
        let state = self.known(shard).state.lock();
        (self.current(shard), state.seen.last())
    }

    /// Takes note that `seq` exists in `epoch`.
    pub(super) fn saw(&self, shard: Shard, epoch: Epoch, seq: u64) {
        let mut state = self.known(shard).state.lock();
        if self.current(shard) == epoch {
            state.seen.note(seq);
        }
    }

    /// Takes note of entries that were read in `epoch`.
    pub(super) fn saw_entries<'a>(
        &self,
        shard: Shard,
        epoch: Epoch,
        entries: impl IntoIterator<Item = &'a Entry>,
    ) {
        let mut state = self.known(shard).state.lock();
        if self.current(shard) == epoch {
            entries.into_iter().for_each(|entry| state.seen.entry(entry));
        }
    }

    /// Has the records looked at soon, by whoever keeps them (see [`keep`](Self::keep)).
    pub(super) fn suspect(&self) {
        self.0.suspicion.notify_one();
    }

    /// What the leader holds now, and in which epoch. Creates what is missing.
    pub(super) async fn look(&self, shard: Shard) -> Result<(Bounds, Info), ApiError> {
        self.look_from(Position { shard, epoch: Epoch::new(0), seq: 0 }).await
    }

    /// The same. `after` is a position that the caller has been given: when the journal ends before it,
    /// the epoch is new.
    pub(super) async fn look_from(&self, after: Position) -> Result<(Bounds, Info), ApiError> {
        let shard = after.shard;
        let mut looks = (Epoch::new(0), 0);
        loop {
            // Before asking: what is appended meanwhile may be seen before the answer comes.
            let (epoch, seen) = self.seen(shard);
            let seen = if after.epoch == epoch { seen.max(after.seq) } else { seen };
            let info = stream::ensure(&self.0.bus.0.api, shard, &self.0.bus.0.options).await?;
            let same_stream = self.known(shard).state.lock().stream_created == info.created;
            if !same_stream {
                self.find(shard, &info).await?;
                return Ok((self.bounds(shard, &info), info));
            }
            if info.last() >= seen {
                return Ok((self.bounds(shard, &info), info));
            }
            // Of an epoch that began meanwhile the looks before say nothing.
            looks = (epoch, if looks.0 == epoch { looks.1 + 1 } else { 1 });
            if looks.1 >= self.regress_looks() {
                tracing::error!(
                    %shard, %epoch, seen, last = info.last(),
                    "the journal lost entries that were stored (restored from a backup, or an outage of a quorum)"
                );
                self.begin_anew(shard, epoch, &info).await?;
                return Ok((self.bounds(shard, &info), info));
            }
            tokio::time::sleep(REGRESS_PAUSE).await;
        }
    }

    fn regress_looks(&self) -> usize {
        if self.0.bus.0.options.replicas > 1 { REGRESS_LOOKS_ELECTED } else { REGRESS_LOOKS }
    }

    /// Begins a new epoch after `old`, unless somebody did already; answers the current one.
    pub(super) async fn begin_anew(&self, shard: Shard, old: Epoch, info: &Info) -> Result<Epoch, ApiError> {
        self.begin_anew_from(shard, old, info, None).await
    }

    /// The same, of whoever knows that nothing before `first_seq` differs.
    pub(super) async fn begin_anew_from(
        &self,
        shard: Shard,
        old: Epoch,
        info: &Info,
        first_seq: Option<u64>,
    ) -> Result<Epoch, ApiError> {
        self.settle(shard, info, Some(Over { epoch: old, first_seq, moved: false })).await
    }

    /// The epoch of this stream by the record, a new one if the record is of another.
    async fn find(&self, shard: Shard, info: &Info) -> Result<Epoch, ApiError> {
        self.settle(shard, info, None).await
    }

    async fn settle(&self, shard: Shard, info: &Info, over: Option<Over>) -> Result<Epoch, ApiError> {
        let key = shard.to_string();
        let mut info = info.clone();
        for _ in 0..CONFLICTS_MOST {
            let record = self.record(shard).await?;
            let known = self.current(shard);
            let stored = record.value.as_ref().map(|stored| Epoch::new(stored.epoch));
            if let (Some(value), Some(stored)) = (&record.value, stored)
                && value.stream_created == info.created
                && stored >= known
                && over.is_none_or(|over| over.is_before(stored, known))
                && self.is_ours(value)?
            {
                if value.shards.is_none() {
                    // Of an earlier version: the same, and its layout. Somebody else may do it first.
                    let value = Stored { shards: Some(self.0.count.get()), ..value.clone() };
                    self.0.bucket.put(&key, &value, record.revision).await?;
                }
                self.adopt(shard, value);
                return Ok(stored);
            }
            // The record may be newer than what we compare it with. And what is read meanwhile is not lost
            // because an earlier answer hasn't it.
            let seen = self.seen(shard).1;
            let again = stream::info(&self.0.bus.0.api, shard).await?;
            let same = again.created == info.created;
            info = again;
            if !same {
                continue;
            }
            // The record may be lost together with the journal: what we remember counts too.
            let last = stored.max(over.map(|over| over.epoch)).max((known.get() > 0).then_some(known));
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            let next = Epoch::next(last, now);
            // Of the same stream in the same layout, what is before the first entry that differs is the same.
            let count = self.0.count.get();
            let same_past = record.value.filter(|value| {
                value.stream_created == info.created && value.shards.is_none_or(|shards| shards == count)
            });
            let continues = same_past.map(|value| value.epoch);
            let differs = match over.filter(|_| continues.is_some()) {
                Some(Over { epoch, first_seq: None, .. }) => {
                    self.first_differing(shard, epoch, &info, seen).await?
                }
                over => over.and_then(|over| over.first_seq),
            };
            let value = Stored {
                epoch: next.get(),
                first_seq: match differs {
                    Some(seq) => seq.min(info.last() + 1),
                    // Nor is known what has been trimmed since: nothing counts as the same.
                    None if continues.is_some() => 1,
                    None => info.first(),
                },
                continues,
                stream_created: info.created.clone(),
                shards: Some(count),
            };
            if let Put::Done(_) = self.0.bucket.put(&key, &value, record.revision).await? {
                self.adopt(shard, &value);
                return Ok(next);
            }
        }
        Err(ApiError::Unreachable(format!("the epoch of shard {shard} keeps changing")))
    }

    /// The first seq at which the journal may differ from what this process has read of it in `epoch`; none
    /// when it remembers nothing that is still the same, or only what the journal has now: then nothing counts
    /// as the same.
    ///
    /// `seen` is the last seq that had been read when `info` was asked for.
    ///
    /// A search by halves: what is lost of a journal is its end, so up to some entry all are the same and
    /// after it none is.
    async fn first_differing(
        &self,
        shard: Shard,
        epoch: Epoch,
        info: &Info,
        seen: u64,
    ) -> Result<Option<u64>, ApiError> {
        let (known, lost) = {
            let state = self.known(shard).state.lock();
            if self.current(shard) != epoch {
                return Ok(None);
            }
            (state.seen.comparable(info.first(), info.last()), seen > info.last())
        };
        let bus = &self.0.bus.0;
        // No digest depends on what makes an entry valid.
        let rules =
            Rules { shard, shards: self.0.count, frame_bytes: usize::MAX, prefix: subject_prefix(shard) };
        let reader = Reader { link: &bus.main, api: &bus.api, metrics: &bus.metrics, rules };
        let (mut same, mut differ) = (0, known.len());
        while same < differ {
            let middle = same + (differ - same) / 2;
            let (seq, digest) = known[middle];
            match reader.at(seq).await? {
                Some(entry) if entry.digest == digest => same = middle + 1,
                _ => differ = middle,
            }
        }
        if same == known.len() && !lost {
            return Ok(None);
        }
        Ok(same.checked_sub(1).map(|last| known[last].0 + 1))
    }

    fn adopt(&self, shard: Shard, record: &Stored) {
        let (known, epoch) = (self.known(shard), Epoch::new(record.epoch));
        let mut state = known.state.lock();
        let before = known.epoch.load(Ordering::Relaxed);
        if epoch.get() < before {
            return;
        }
        record.stream_created.clone_into(&mut state.stream_created);
        state.first_seq = record.first_seq;
        state.continues = record.continues.map(Epoch::new);
        if epoch.get() > before {
            known.epoch.store(epoch.get(), Ordering::Relaxed);
            state.seen = Seen::default();
            if before > 0 {
                self.0.bus.0.metrics.epoch_changes.inc();
                tracing::warn!(%shard, %epoch, before, "the journal is in a new epoch: listeners will be reset");
            } else {
                tracing::info!(%shard, %epoch, "journal found");
            }
        }
    }

    async fn record(&self, shard: Shard) -> Result<Record<Stored>, ApiError> {
        match self.0.bucket.get(&shard.to_string()).await {
            Err(error) if error.is_no_stream() => {
                self.0.bucket.ensure().await?;
                self.0.bucket.get(&shard.to_string()).await
            }
            record => record,
        }
    }

    /// Whether the record is of our number of shards. An error in a process that runs already, when
    /// another one has begun anew with another number: the two would take turns for ever.
    fn is_ours(&self, record: &Stored) -> Result<bool, ApiError> {
        let ours = self.0.count.get();
        match record.shards {
            Some(theirs) if theirs != ours && self.current(Shard::ZERO).get() > 0 => {
                let text = format!("the cluster runs {theirs} shards now, this process {ours}: restart it");
                Err(ApiError::Unreachable(text))
            }
            theirs => Ok(theirs.is_none_or(|theirs| theirs == ours)),
        }
    }

    /// Compares every shard with its record, and creates what is missing.
    pub(super) async fn look_at_all(&self) -> Result<(), ApiError> {
        // The first shard's record, which every layout has, is the last to change.
        let first = self.record(Shard::ZERO).await?.value;
        let moved = match &first {
            Some(first) => !self.is_ours(first)?,
            None => false,
        };
        if moved {
            let shards = self.0.count.get();
            tracing::warn!(shards, "the number of shards has changed: beginning new epochs");
        }
        for known in self.0.shards.iter().rev() {
            let info = stream::ensure(&self.0.bus.0.api, known.shard, &self.0.bus.0.options).await?;
            // When channels have moved, also over a record that looks like ours: this layout may be the one
            // before the last.
            let over = if moved { self.record(known.shard).await?.value } else { None };
            let over =
                over.map(|stored| Over { epoch: Epoch::new(stored.epoch), first_seq: None, moved: true });
            self.settle(known.shard, &info, over).await?;
        }
        Ok(())
    }

    /// Keeps all epochs current, for ever: looks when the connection comes back, when a record changes,
    /// upon [suspicion](Self::suspect), and every few seconds.
    pub(super) async fn keep(self) {
        let rarely = Rarely::default();
        let mut gone = self.0.bus.0.gone.clone();
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
        let mut changes = None;
        loop {
            if changes.is_none() {
                changes = self.changes().await;
            }
            tokio::select! {
                // Only a hint that something changed: puts that lose their compare-and-set come over it too.
                change = next(&mut changes) => if change.is_none() { changes = None },
                () = self.0.suspicion.notified() => {}
                changed = gone.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            while self.0.bus.connected() {
                match self.look_at_all().await {
                    Ok(()) => {
                        backoff.reset();
                        break;
                    }
                    Err(error) => {
                        self.0.bus.0.metrics.setup_retries.inc();
                        if rarely.now() {
                            tracing::warn!(%error, "can't look at the journal's epochs; trying again");
                        }
                        backoff.wait().await;
                    }
                }
            }
        }
    }

    /// What is put into the bucket; none when it can't be heard of now, which only makes it known late.
    /// Over the reader's connection: others may write there too.
    async fn changes(&self) -> Option<Subscriber> {
        let client = self.0.bus.reader_link().await.ok()?.client()?;
        client.subscribe(self.0.bucket.subject()).await.ok()
    }

    fn bounds(&self, shard: Shard, info: &Info) -> Bounds {
        let state = self.known(shard).state.lock();
        Bounds {
            epoch: self.current(shard),
            first_seq: state.first_seq,
            continues: state.continues,
            first: info.first(),
            last: info.last(),
        }
    }

    fn known(&self, shard: Shard) -> &Known {
        &self.0.shards[shard.index()]
    }
}

/// The next message; never, while there is no subscription.
async fn next(changes: &mut Option<Subscriber>) -> Option<async_nats::Message> {
    match changes {
        Some(changes) => changes.next().await,
        None => std::future::pending().await,
    }
}
