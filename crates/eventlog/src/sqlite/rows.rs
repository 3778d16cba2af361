//! The queries of `source` on SQLite, all in one read transaction: what they answer is of one moment.

use futures::TryStreamExt;
use sqlx::{AssertSqlSafe, Sqlite, Transaction};

use foghorn_bus::log::LogError;
use foghorn_core::policy::RetentionClass;
use foghorn_core::position::Epoch;
use foghorn_core::shard::Shard;
use foghorn_core::time::Timestamp;

use super::Inner;
use crate::record::{Columns, to_i64, to_u64};
use crate::source::{Limit, Order, Rows, SEQ_MAX, Source, Span};
use crate::standing::{Standing, parse_era};
use crate::topics::Topics;

const COLUMNS: &str =
    "SELECT position & 72057594037927935 AS seq, time_us, channel, type, id, ttl, key, data FROM events";

/// The key of an event's row: its shard above, its seq below.
pub(super) fn position(shard: Shard, seq: u64) -> i64 {
    to_i64(u64::from(shard.get()) << 56 | seq.min(SEQ_MAX))
}

/// The seq in a row's key.
pub(super) fn seq_of(position: u64) -> u64 {
    position & SEQ_MAX
}

pub(super) fn log_error(what: &str, error: &sqlx::Error) -> LogError {
    LogError(format!("{what} failed on the SQLite database: {error}"))
}

/// A read transaction.
pub(super) struct Snapshot(Transaction<'static, Sqlite>);

type Query<'q> = sqlx::query::QueryAs<'q, Sqlite, Columns, sqlx::sqlite::SqliteArguments>;

impl Snapshot {
    pub(super) async fn new(inner: &Inner) -> Result<Self, LogError> {
        Ok(Snapshot(inner.read.begin().await.map_err(|error| log_error("reading", &error))?))
    }

    /// What is there of a shard and what is gone.
    pub(super) async fn standing(&mut self, shard: Shard) -> Result<Standing, LogError> {
        let failed = |error: sqlx::Error| log_error("reading the shard's state", &error);
        let shard = i64::from(shard.get());
        let (epoch, start, last): (i64, i64, i64) =
            sqlx::query_as("SELECT epoch, start, last FROM shards WHERE shard = ?")
                .bind(shard)
                .fetch_one(&mut *self.0)
                .await
                .map_err(failed)?;
        let floors: Vec<(i64, i64)> =
            sqlx::query_as("SELECT class, floor FROM floors WHERE shard = ? AND floor > 0 AND class > 0")
                .bind(shard)
                .fetch_all(&mut *self.0)
                .await
                .map_err(failed)?;
        let eras: Vec<(i64, String)> =
            sqlx::query_as("SELECT since, policies FROM eras WHERE shard = ? ORDER BY since")
                .bind(shard)
                .fetch_all(&mut *self.0)
                .await
                .map_err(failed)?;
        let class = |class| RetentionClass(u32::try_from(class).unwrap_or(u32::MAX));
        Ok(Standing {
            tip: to_u64(last),
            floors: floors.into_iter().map(|(of, floor)| (class(of), to_u64(floor))).collect(),
            eras: eras
                .into_iter()
                .map(|(since, text)| parse_era(to_u64(since), &text))
                .collect::<Result<_, _>>()?,
            ..Standing::empty(Epoch::new(to_u64(epoch)), to_u64(start))
        })
    }

    /// Everything in the span, replayable or not: what the journal answers.
    pub(super) async fn journal(&mut self, span: Span, limit: Limit) -> Result<Rows, LogError> {
        let sql = format!("{COLUMNS} WHERE position > ? AND position <= ? ORDER BY position LIMIT ?");
        let query = sqlx::query_as(AssertSqlSafe(sql)).bind(low(span)).bind(high(span)).bind(rows(limit));
        self.fetch(query, limit).await
    }

    /// Reads until a limit ends it: a row past the bytes is looked at and left.
    async fn fetch(&mut self, query: Query<'_>, limit: Limit) -> Result<Rows, LogError> {
        let mut rows = Rows::default();
        let mut bytes = 0;
        let mut stream = query.fetch(&mut *self.0);
        while let Some(columns) =
            stream.try_next().await.map_err(|error| log_error("reading events", &error))?
        {
            let record = columns.check()?;
            bytes += record.bytes();
            let full = rows.records.len() >= limit.events || bytes > limit.bytes;
            if full && !rows.records.is_empty() {
                rows.cut = true;
                break;
            }
            rows.records.push(record);
        }
        Ok(rows)
    }
}

/// One more than wanted, so that it shows whether there are more.
fn rows(limit: Limit) -> i64 {
    to_i64(limit.events as u64 + 1)
}

fn low(span: Span) -> i64 {
    position(span.shard, span.after)
}

fn high(span: Span) -> i64 {
    position(span.shard, span.upto)
}

fn direction(order: Order) -> &'static str {
    match order {
        Order::Oldest => "ASC",
        Order::Newest => "DESC",
    }
}

impl Source for Snapshot {
    async fn of_channels(
        &mut self,
        span: Span,
        channels: &[(String, u64)],
        limit: Limit,
    ) -> Result<Rows, LogError> {
        if channels.is_empty() {
            return Ok(Rows::default());
        }
        // The index alone finds each channel's next positions; then the first of them all are read.
        const NEXT: &str = "SELECT position FROM (SELECT position FROM events \
             WHERE channel = ? AND position > ? AND position <= ? AND class > 0 ORDER BY position LIMIT ?)";
        let next = vec![NEXT; channels.len()].join(" UNION ALL ");
        let sql = format!(
            "{COLUMNS} WHERE position IN (SELECT position FROM ({next}) ORDER BY position LIMIT ?) ORDER BY position"
        );
        let mut query = sqlx::query_as(AssertSqlSafe(sql));
        for (channel, after) in channels {
            query = query.bind(channel).bind(position(span.shard, *after)).bind(high(span)).bind(rows(limit));
        }
        self.fetch(query.bind(rows(limit)), limit).await
    }

    async fn of_range(
        &mut self,
        span: Span,
        topics: &Topics,
        order: Order,
        limit: Limit,
    ) -> Result<Rows, LogError> {
        let matching = if topics.is_everything() {
            ""
        } else {
            "AND (channel IN (SELECT value FROM json_each(?4)) \
             OR EXISTS (SELECT 1 FROM json_each(?5) WHERE channel GLOB value))"
        };
        let sql = format!(
            "{COLUMNS} WHERE position > ?1 AND position <= ?2 AND class > 0 {matching} ORDER BY position {} LIMIT ?3",
            direction(order)
        );
        let mut query = sqlx::query_as(AssertSqlSafe(sql)).bind(low(span)).bind(high(span)).bind(rows(limit));
        if !topics.is_everything() {
            query = query.bind(topics.channels_json()).bind(topics.globs_json());
        }
        self.fetch(query, limit).await
    }

    async fn of_channel(
        &mut self,
        span: Span,
        channel: &str,
        order: Order,
        limit: Limit,
    ) -> Result<Rows, LogError> {
        let sql = format!(
            "{COLUMNS} WHERE channel = ? AND position > ? AND position <= ? AND class > 0 ORDER BY position {} LIMIT ?",
            direction(order)
        );
        let query = sqlx::query_as(AssertSqlSafe(sql))
            .bind(channel)
            .bind(low(span))
            .bind(high(span))
            .bind(rows(limit));
        self.fetch(query, limit).await
    }

    async fn channels_between(
        &mut self,
        span: Span,
        from: &str,
        below: &str,
        most: usize,
    ) -> Result<Vec<String>, LogError> {
        // From one channel to the next by the index: the cost is that of the channels, not of their events.
        sqlx::query_scalar(
            "WITH RECURSIVE names (channel) AS (
                 SELECT min(channel) FROM events WHERE channel >= ?1
                 UNION ALL
                 SELECT (SELECT min(channel) FROM events WHERE channel > names.channel)
                 FROM names WHERE names.channel < ?2
             )
             SELECT channel FROM names WHERE channel < ?2 AND EXISTS (
                 SELECT 1 FROM events e WHERE e.channel = names.channel AND position > ?3 AND position <= ?4
             ) LIMIT ?5",
        )
        .bind(from)
        .bind(below)
        .bind(low(span))
        .bind(high(span))
        .bind(to_i64(most as u64))
        .fetch_all(&mut *self.0)
        .await
        .map_err(|error| log_error("listing channels", &error))
    }

    async fn nth_newest(&mut self, span: Span, channels: &[(String, u32)]) -> Result<Vec<u64>, LogError> {
        let mut seqs = Vec::with_capacity(channels.len());
        for (channel, nth) in channels {
            let found: Option<i64> = sqlx::query_scalar(
                "SELECT position FROM events WHERE channel = ? AND position > ? AND position <= ? AND class > 0
                 ORDER BY position DESC LIMIT 1 OFFSET ?",
            )
            .bind(channel)
            .bind(low(span))
            .bind(high(span))
            .bind(i64::from(*nth) - 1)
            .fetch_optional(&mut *self.0)
            .await
            .map_err(|error| log_error("counting events", &error))?;
            seqs.push(found.map_or(0, |at| seq_of(to_u64(at))));
        }
        Ok(seqs)
    }

    async fn first(&mut self, span: Span) -> Result<Option<(u64, Timestamp)>, LogError> {
        let found: Option<(i64, i64)> = sqlx::query_as(
            "SELECT position, time_us FROM events WHERE position > ? AND position <= ? ORDER BY position LIMIT 1",
        )
        .bind(low(span))
        .bind(high(span))
        .fetch_optional(&mut *self.0)
        .await
        .map_err(|error| log_error("looking for a time", &error))?;
        Ok(found.map(|(at, time)| (seq_of(to_u64(at)), Timestamp::from_micros(time))))
    }
}
