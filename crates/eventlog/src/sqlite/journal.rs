//! [`Journal`] on SQLite.

use std::collections::VecDeque;
use std::sync::Arc;

use foghorn_bus::Future;
use foghorn_bus::journal::{AppendError, Appended, Bounds, Journal, JournalError, JournalPage};
use foghorn_bus::log::LogError;
use foghorn_core::entry::{Entry, NewEntry};
use foghorn_core::position::Position;
use foghorn_core::shard::{Shard, ShardCount};
use foghorn_core::time::Timestamp;
use futures::FutureExt;
use futures::stream::{self, BoxStream, StreamExt};
use tokio::sync::watch;

use super::rows::Snapshot;
use super::{Inner, SqliteLog};
use crate::pages;
use crate::record::Record;
use crate::source::{Limit, Source, Span};

impl Journal for SqliteLog {
    fn shards(&self) -> ShardCount {
        self.inner.shards
    }

    fn frame_bytes(&self) -> usize {
        self.inner.frame_bytes
    }

    /// In one transaction.
    fn append_in_order(&self, entries: Vec<NewEntry>) -> BoxStream<'static, Result<Appended, AppendError>> {
        let inner = Arc::clone(&self.inner);
        stream::once(async move { stream::iter(append_in_order(&inner, entries).await) }).flatten().boxed()
    }

    fn tail(&self, position: Position) -> BoxStream<'static, Result<Entry, JournalError>> {
        let Position { shard, seq: after, .. } = position;
        if let Err(error) = self.inner.check_epoch(position) {
            return stream::once(futures::future::ready(Err(error))).boxed();
        }
        let last = self.inner.head(shard).last.subscribe();
        let follower =
            Follower { inner: Arc::clone(&self.inner), shard, after, last, ready: VecDeque::new() };
        stream::try_unfold(
            follower,
            |mut follower| async move { Ok(Some((follower.next().await?, follower))) },
        )
        .boxed()
    }

    fn read(
        &self,
        shard: Shard,
        after: u64,
        events: usize,
        bytes: usize,
    ) -> Future<'_, Result<JournalPage, JournalError>> {
        read(&self.inner, shard, after, Limit::new(events, bytes)).boxed()
    }

    fn bounds(&self, shard: Shard) -> Future<'_, Result<Bounds, JournalError>> {
        async move {
            let (epoch, span) = whole(&self.inner, shard);
            let first = first(&mut snapshot(&self.inner).await?, span).await?;
            Ok(Bounds { epoch, first_seq: span.after + 1, continues: None, first, last: span.upto })
        }
        .boxed()
    }

    fn seek(&self, shard: Shard, time: Timestamp) -> Future<'_, Result<u64, JournalError>> {
        async move {
            let (_, span) = whole(&self.inner, shard);
            pages::locate(&mut snapshot(&self.inner).await?, span, time).await.map_err(unavailable)
        }
        .boxed()
    }

    /// Nothing to do: journal and log are one table, which retention owns.
    fn trim(&self, through: Position) -> Future<'_, Result<(), JournalError>> {
        futures::future::ready(self.inner.check_epoch(through)).boxed()
    }
}

impl Inner {
    /// An error when a position is of another epoch: the one of a database changes only while it is closed.
    fn check_epoch(&self, position: Position) -> Result<(), JournalError> {
        let Position { shard, epoch, .. } = position;
        match self.head(shard).epoch {
            now if now == epoch => Ok(()),
            now => Err(JournalError::Epoch { shard, epoch: now }),
        }
    }
}

/// The answers, up to the first error that a retry can heal.
async fn append_in_order(inner: &Inner, entries: Vec<NewEntry>) -> Vec<Result<Appended, AppendError>> {
    let refusals: Vec<Option<AppendError>> = entries
        .iter()
        .map(|entry| entry.event.check_size(inner.frame_bytes).err())
        .map(|refusal| refusal.map(|error| AppendError::Refused(error.to_string())))
        .collect();
    let good = entries.into_iter().zip(&refusals).filter(|(_, refusal)| refusal.is_none());
    let run: Vec<(Shard, NewEntry)> =
        good.map(|(entry, _)| (inner.shards.shard_of(&entry.event.channel), entry)).collect();
    let mut stored = match inner.queue.append(run).await {
        Ok(stored) => stored.into_iter(),
        Err(error) => return vec![Err(error)],
    };
    let answer = |refusal: Option<AppendError>| match refusal {
        Some(refusal) => Some(Err(refusal)),
        None => stored.next().map(Ok),
    };
    refusals.into_iter().map_while(answer).collect()
}

/// Follows a shard: from memory when it keeps up, from the database when it doesn't.
struct Follower {
    inner: Arc<Inner>,
    shard: Shard,
    after: u64,
    last: watch::Receiver<u64>,
    ready: VecDeque<Entry>,
}

impl Follower {
    async fn next(&mut self) -> Result<Entry, JournalError> {
        loop {
            if let Some(entry) = self.ready.pop_front() {
                self.after = entry.seq;
                return Ok(entry);
            }
            let after = self.after;
            if self.last.wait_for(|last| *last > after).await.is_err() {
                return Err(JournalError::Unavailable("the database is closed".into()));
            }
            self.ready = self.inner.head(self.shard).tail.after(after).into();
            if self.ready.is_empty() {
                let page = read(&self.inner, self.shard, after, Limit::new(1024, 1 << 20)).await?;
                // The whole page may have been deleted already.
                self.after = page.to;
                self.ready = page.entries.into();
            }
        }
    }
}

async fn read(inner: &Inner, shard: Shard, after: u64, limit: Limit) -> Result<JournalPage, JournalError> {
    let (epoch, mut span) = whole(inner, shard);
    let tip = span.upto;
    let mut source = snapshot(inner).await?;
    let from = after.max(first(&mut source, span).await? - 1).min(tip.max(after));
    span.after = from;
    let rows = source.journal(span, limit).await.map_err(unavailable)?;
    let to = match rows.records.last() {
        Some(last) if rows.cut => last.seq,
        _ => tip.max(from),
    };
    let entries = rows.records.into_iter().map(Record::entry).collect();
    // A caller ahead of the journal sees it by the tip.
    Ok(JournalPage { epoch, from, to, tip, entries })
}

/// The epoch and the range that it spans now.
fn whole(inner: &Inner, shard: Shard) -> (foghorn_core::position::Epoch, Span) {
    let head = inner.head(shard);
    (head.epoch, Span { shard, epoch: head.epoch, after: head.start, upto: head.last() })
}

async fn snapshot(inner: &Inner) -> Result<Snapshot, JournalError> {
    Snapshot::new(inner).await.map_err(unavailable)
}

/// The first seq there is; past the last when there is none.
async fn first(source: &mut Snapshot, span: Span) -> Result<u64, JournalError> {
    Ok(source.first(span).await.map_err(unavailable)?.map_or(span.upto + 1, |(seq, _)| seq))
}

fn unavailable(error: LogError) -> JournalError {
    JournalError::Unavailable(error.0)
}
