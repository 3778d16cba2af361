//! [`EventLog`] on SQLite.

use std::sync::Arc;
use std::time::Duration;

use foghorn_bus::Future;
use foghorn_bus::log::{
    Committed, EventLog, HistoryPage, HistoryQuery, Located, LogError, NewestQuery, Replay, ReplayQuery,
};
use foghorn_core::batch::Batch;
use foghorn_core::channel::Channel;
use foghorn_core::entry::Key;
use foghorn_core::policy::Policies;
use foghorn_core::position::Position;
use foghorn_core::shard::Shard;
use foghorn_core::time::Timestamp;
use futures::FutureExt;

use super::rows::{Snapshot, log_error, position as row_of};
use super::{Inner, SqliteLog, retention};
use crate::metrics::PageSource;
use crate::pages::{self, HISTORY_BYTES, Page, Reader};
use crate::source::{Limit, Span};
use crate::standing::Verdict;
use crate::topics::Topics;

impl EventLog for SqliteLog {
    fn replay(&self, query: ReplayQuery) -> Future<'_, Result<Replay, LogError>> {
        replay(&self.inner, query).boxed()
    }

    fn newest(&self, query: NewestQuery) -> Future<'_, Result<Vec<Batch>, LogError>> {
        newest(&self.inner, query).boxed()
    }

    fn locate(&self, shard: Shard, time: Timestamp) -> Future<'_, Result<Located, LogError>> {
        async move {
            let mut source = Snapshot::new(&self.inner).await?;
            let standing = source.standing(shard).await?;
            let span = Span { shard, epoch: standing.epoch, after: standing.start, upto: standing.tip };
            let after = pages::locate(&mut source, span, time).await?;
            Ok(Located { epoch: standing.epoch, after, tip: standing.tip })
        }
        .boxed()
    }

    fn history(&self, query: HistoryQuery) -> Future<'_, Result<HistoryPage, LogError>> {
        history(&self.inner, query).boxed()
    }

    fn committed(
        &self,
        position: Position,
        key: Key,
        deadline: Duration,
    ) -> Future<'_, Result<Committed, LogError>> {
        committed(&self.inner, position, key, deadline).boxed()
    }

    fn erase(&self, channel: Channel) -> Future<'_, Result<u64, LogError>> {
        async move {
            let erased = retention::erase(&self.inner, channel.as_str()).await;
            erased.map_err(|error| log_error("erasing events", &error))
        }
        .boxed()
    }
}

async fn replay(inner: &Inner, query: ReplayQuery) -> Result<Replay, LogError> {
    let ReplayQuery { shard, epoch, after: asked, .. } = query;
    let topics = Topics::new(&query.topics);
    let mut source = Snapshot::new(inner).await?;
    let standing = source.standing(shard).await?;
    let (after, upto) = match standing.judge(epoch, asked, &topics) {
        Verdict::Serve { after, upto } => (after, upto),
        Verdict::Reset { reason, after } => {
            inner.metrics.reset(reason.as_str());
            return Ok(Replay::Reset { reason, epoch: standing.epoch, after });
        }
    };
    let policies = inner.policies.get();
    let span = Span { shard, epoch, after, upto };
    let limit = Limit::new(query.events, query.bytes);
    let reader = reader(inner, &policies);
    let page = if query.fill {
        let rows = source.journal(span, limit).await?;
        let to = rows.records.last().filter(|_| rows.cut).map_or(span.upto, |last| last.seq);
        let mut records = rows.records;
        records.retain(|record| topics.matches(record.event.channel.as_str()));
        reader.keep_fresh(&mut records);
        Page { records, to }
    } else {
        reader.page(&mut source, span, &topics, limit).await?
    };
    inner.metrics.page(PageSource::Sqlite);
    let mut batch = Batch::empty(shard, epoch, asked, page.to.max(asked));
    batch.tip = standing.tip;
    batch.events = page.records.iter().map(|record| record.feed(shard, epoch)).collect();
    if let Some(last) = page.records.last().filter(|last| last.seq == page.to) {
        batch.to_digest = last.digest();
    }
    Ok(Replay::Page(batch))
}

async fn newest(inner: &Inner, query: NewestQuery) -> Result<Vec<Batch>, LogError> {
    let policies = inner.policies.get();
    let reader = reader(inner, &policies);
    let limit = Limit::new(query.total, query.bytes);
    let mut source = Snapshot::new(inner).await?;
    let mut found = Vec::with_capacity(query.shards.len());
    for (shard, topics) in &query.shards {
        let standing = source.standing(*shard).await?;
        let span = Span { shard: *shard, epoch: standing.epoch, after: standing.start, upto: standing.tip };
        let records = reader.newest(&mut source, span, &Topics::new(topics), query.each, limit).await?;
        found.push((span, records));
    }
    Ok(pages::newest_batches(found, limit))
}

async fn history(inner: &Inner, query: HistoryQuery) -> Result<HistoryPage, LogError> {
    let shard = inner.shards.shard_of(&query.channel);
    let mut source = Snapshot::new(inner).await?;
    let standing = source.standing(shard).await?;
    let (order, span) = pages::history_span(shard, &standing, &query);
    let policies = inner.policies.get();
    let limit = Limit::new(query.limit, HISTORY_BYTES);
    let channel = query.channel.as_str();
    let past = reader(inner, &policies).history(&mut source, span, channel, order, limit).await?;
    Ok(pages::history_page(standing.epoch, past, limit))
}

/// What is acked here is committed, so all that can be found out is whether the position is of this
/// epoch and still holds the same event.
async fn committed(
    inner: &Arc<Inner>,
    position: Position,
    key: Key,
    deadline: Duration,
) -> Result<Committed, LogError> {
    let head = inner.head(position.shard);
    if position.epoch != head.epoch {
        return Ok(Committed::Replaced);
    }
    let mut last = head.last.subscribe();
    let wait = tokio::time::timeout(deadline, last.wait_for(|last| *last >= position.seq));
    let reached = matches!(wait.await, Ok(Ok(_)));
    if !reached {
        return Ok(Committed::NotYet);
    }
    let stored: Option<Option<Vec<u8>>> = sqlx::query_scalar("SELECT key FROM events WHERE position = ?")
        .bind(row_of(position.shard, position.seq))
        .fetch_optional(&inner.read)
        .await
        .map_err(|error| log_error("reading an event", &error))?;
    Ok(match stored {
        Some(stored) if stored.as_deref() != Some(&key.as_bytes()[..]) => Committed::Replaced,
        // Its own row, or retention has taken it already.
        _ => Committed::Yes,
    })
}

fn reader<'a>(inner: &Inner, policies: &'a Policies) -> Reader<'a> {
    Reader { policies, now: inner.clock.now() }
}
