//! A journal with faults to be had at will.

use std::sync::atomic::{AtomicU64, Ordering};

use foghorn_bus::Future;
use foghorn_bus::journal::{AppendError, Appended, Bounds, Journal, JournalError, JournalPage};
use foghorn_core::entry::{Entry, NewEntry};
use foghorn_core::position::{Epoch, Position};
use foghorn_core::shard::{Shard, ShardCount};
use foghorn_core::time::Timestamp;
use foghorn_eventlog::sqlite::SqliteLog;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt, TryStreamExt};

/// A journal that can lose what it has and become another one.
pub(crate) struct FaultyJournal {
    pub(crate) inner: parking_lot::RwLock<SqliteLog>,
    /// Entries up to here are gone.
    pub(crate) lost: AtomicU64,
    /// The leader has not applied entries after this one yet.
    pub(crate) behind: AtomicU64,
    /// Added to the epoch.
    pub(crate) later: AtomicU64,
    /// The epoch that this one continues, and its first seq: as the journal says, or else as set here.
    pub(crate) continues: parking_lot::Mutex<Option<(Epoch, u64)>>,
    /// So often it does not begin a new epoch when asked to, and says that it can't be reached.
    pub(crate) unwilling: AtomicU64,
    /// What it becomes when it is followed next, and what is added to that one's epoch.
    pub(crate) becomes: parking_lot::Mutex<Option<(SqliteLog, u64)>>,
    /// The number of times a new epoch was begun.
    pub(crate) begun: AtomicU64,
}

impl FaultyJournal {
    pub(crate) fn new(inner: SqliteLog) -> Self {
        FaultyJournal {
            inner: inner.into(),
            lost: 0.into(),
            behind: u64::MAX.into(),
            later: 0.into(),
            continues: None.into(),
            unwilling: 0.into(),
            becomes: None.into(),
            begun: 0.into(),
        }
    }

    fn inner(&self) -> SqliteLog {
        self.inner.read().clone()
    }

    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::SeqCst)
    }

    fn epoch(&self, epoch: Epoch) -> Epoch {
        Epoch::new(epoch.get() + self.later.load(Ordering::SeqCst))
    }
}

impl Journal for FaultyJournal {
    fn shards(&self) -> ShardCount {
        self.inner().shards()
    }

    fn frame_bytes(&self) -> usize {
        self.inner().frame_bytes()
    }

    fn append_in_order(&self, entries: Vec<NewEntry>) -> BoxStream<'static, Result<Appended, AppendError>> {
        let later = self.later.load(Ordering::SeqCst);
        let answers = self.inner().append_in_order(entries);
        answers
            .map_ok(move |mut appended| {
                appended.position.epoch = Epoch::new(appended.position.epoch.get() + later);
                appended
            })
            .boxed()
    }

    fn tail(&self, after: Position) -> BoxStream<'static, Result<Entry, JournalError>> {
        if let Some((other, later)) = self.becomes.lock().take() {
            *self.inner.write() = other;
            self.later.store(later, Ordering::SeqCst);
        }
        let (inner, later, lost) = (self.inner(), self.later.load(Ordering::SeqCst), self.lost());
        let opened = async move {
            let own = inner.bounds(after.shard).await.map(|bounds| bounds.epoch);
            let now = own.map(|own| (own, Epoch::new(own.get() + later)));
            match now {
                Ok((own, now)) if now == after.epoch => {
                    inner.tail(Position { epoch: own, seq: after.seq.max(lost), ..after })
                }
                Ok((_, epoch)) => {
                    stream::iter([Err(JournalError::Epoch { shard: after.shard, epoch })]).boxed()
                }
                Err(error) => stream::iter([Err(error)]).boxed(),
            }
        };
        opened.flatten_stream().boxed()
    }

    fn read(
        &self,
        shard: Shard,
        after: u64,
        events: usize,
        bytes: usize,
    ) -> Future<'_, Result<JournalPage, JournalError>> {
        async move {
            let mut page = self.inner().read(shard, after.max(self.lost()), events, bytes).await?;
            page.epoch = self.epoch(page.epoch);
            Ok(page)
        }
        .boxed()
    }

    fn bounds(&self, shard: Shard) -> Future<'_, Result<Bounds, JournalError>> {
        async move {
            let bounds = self.inner().bounds(shard).await?;
            let first = bounds.first.max(self.lost() + 1);
            let last = bounds.last.min(self.behind.load(Ordering::SeqCst));
            let set = self.continues.lock().map(|(epoch, first_seq)| (Some(epoch), first_seq));
            let (continues, first_seq) = set.unwrap_or((bounds.continues, bounds.first_seq));
            Ok(Bounds { epoch: self.epoch(bounds.epoch), first, last, first_seq, continues })
        }
        .boxed()
    }

    fn seek(&self, shard: Shard, time: Timestamp) -> Future<'_, Result<u64, JournalError>> {
        async move { self.inner().seek(shard, time).await }.boxed()
    }

    fn begin_anew(
        &self,
        shard: Shard,
        old: Epoch,
        first_seq: Option<u64>,
    ) -> Future<'_, Result<Epoch, JournalError>> {
        async move {
            let less = |times: u64| times.checked_sub(1);
            if self.unwilling.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_ok() {
                return Err(JournalError::Unavailable("no leader answers".to_owned()));
            }
            let now = self.bounds(shard).await?.epoch;
            if now == old {
                self.later.fetch_add(1, Ordering::SeqCst);
                *self.continues.lock() = Some((old, first_seq.unwrap_or(1)));
                self.begun.fetch_add(1, Ordering::SeqCst);
            }
            Ok(self.bounds(shard).await?.epoch)
        }
        .boxed()
    }

    fn trim(&self, through: Position) -> Future<'_, Result<(), JournalError>> {
        self.lost.fetch_max(through.seq, Ordering::SeqCst);
        futures::future::ready(Ok(())).boxed()
    }
}
