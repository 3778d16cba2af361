//! The queries of `source` on PostgreSQL. Each is a statement, and so a snapshot, of its own: what was
//! dropped between two of them is found by looking at the standing again afterwards.

use std::collections::BTreeSet;

use foghorn_bus::log::LogError;
use foghorn_core::policy::RetentionClass;
use foghorn_core::position::Digest;
use foghorn_core::shard::Shard;
use foghorn_core::time::Timestamp;
use sqlx::pool::PoolConnection;
use sqlx::postgres::PgArguments;
use sqlx::{AssertSqlSafe, Postgres};

use super::state::{self, log_error, number};
use crate::record::{Columns, to_i64, to_u64};
use crate::source::{Limit, Order, Rows, Source, Span};
use crate::standing::{Ancestor, Standing};
use crate::topics::Topics;

/// Reads over a connection to PostgreSQL.
pub(super) struct Reader {
    inner: PoolConnection<Postgres>,
    /// What is added to every condition, see [`Reader::only`].
    classes: String,
    /// The epochs that the current one continues, as last read.
    ancestors: Vec<Ancestor>,
}

/// What queries of one epoch begin with: $1 to $4 are the span.
const SPAN: &str = "e.shard = $1 AND e.epoch = $2 AND e.seq > $3 AND e.seq <= $4";
const COLUMNS: &str = "e.seq, e.time_us, e.channel, e.type, e.id, e.ttl::bigint AS ttl, e.key, e.data";

#[derive(sqlx::FromRow)]
struct Row {
    #[sqlx(flatten)]
    columns: Columns,
    /// How many rows there were before bytes were counted.
    found: i64,
}

type Query<'q> = sqlx::query::QueryAs<'q, Postgres, Row, PgArguments>;

impl Reader {
    pub(super) fn new(inner: PoolConnection<Postgres>) -> Self {
        Reader { inner, classes: String::new(), ancestors: Vec::new() }
    }

    /// From now on reads events of these classes only (of all when not known), and of these epochs beside
    /// the current one.
    ///
    /// The numbers of classes are part of the statement and not bound to it. So PostgreSQL prunes the partitions of all
    /// other classes while planning, before it locks anything: `EXPLAIN` shows only those that are left. Bound
    /// ones would be pruned at execution once the plan is generic, and by then every partition is locked, with
    /// its indexes, out of `max_locks_per_transaction` for all together. Time can't prune: readers know seqs.
    pub(super) fn only(&mut self, classes: Option<BTreeSet<RetentionClass>>, ancestors: Vec<Ancestor>) {
        self.ancestors = ancestors;
        self.classes = classes.map_or_else(String::new, |classes| {
            let numbers: Vec<String> = classes.iter().map(|class| class.0.to_string()).collect();
            format!(" AND e.class IN ({})", numbers.join(","))
        });
    }

    pub(super) async fn standing(&mut self, shard: Shard) -> Result<Option<(Standing, Digest)>, LogError> {
        let found = state::standing(&mut self.inner, shard).await?;
        self.ancestors = found.as_ref().map_or_else(Vec::new, |(standing, _)| standing.ancestors.clone());
        Ok(found)
    }

    /// What queries begin with: $1 to $4 are the span. Where it reaches back into the epochs that the
    /// current one continues, their rows count too. Their numbers are part of the statement: few ever are
    /// different. Seqs rise with epochs, so by both there is an order that the indexes have.
    fn within_span(&self, span: Span) -> String {
        let reached: Vec<_> = self.ancestors.iter().filter(|ancestor| ancestor.upto > span.after).collect();
        let Some(Ancestor { epoch: oldest, .. }) = reached.first() else { return SPAN.to_owned() };
        let mut condition = format!(
            "e.shard = $1 AND e.epoch >= {oldest} AND e.epoch <= $2 AND e.seq > $3 AND e.seq <= $4 AND (e.epoch = $2"
        );
        for Ancestor { epoch, upto, .. } in reached {
            condition.push_str(&format!(" OR e.epoch = {epoch} AND e.seq <= {upto}"));
        }
        condition + ")"
    }

    /// The key at a position, if there is a row: outer none means that there is no row.
    pub(super) async fn key_at(&mut self, span: Span) -> Result<Option<Option<Vec<u8>>>, LogError> {
        let sql = format!("SELECT e.key FROM foghorn.events e WHERE {SPAN}");
        bind_span_scalar(sqlx::query_scalar(AssertSqlSafe(sql)), span)
            .fetch_optional(&mut *self.inner)
            .await
            .map_err(|error| log_error("reading an event", &error))
    }

    /// Whether the log knows that the journal lost this position.
    pub(super) async fn is_in_hole(&mut self, span: Span) -> Result<bool, LogError> {
        sqlx::query_scalar(
            "SELECT EXISTS (SELECT FROM foghorn.holes
             WHERE shard = $1 AND epoch = $2 AND after < $3 AND upto >= $3)",
        )
        .bind(number(span.shard))
        .bind(to_i64(span.epoch.get()))
        .bind(to_i64(span.upto))
        .fetch_one(&mut *self.inner)
        .await
        .map_err(|error| log_error("reading holes", &error))
    }

    /// It may be in the middle of anything: closed, and not used again.
    pub(super) fn give_up(&mut self) {
        self.inner.close_on_drop();
    }

    async fn fetch(&mut self, query: Query<'_>, limit: Limit) -> Result<Rows, LogError> {
        let rows =
            query.fetch_all(&mut *self.inner).await.map_err(|error| log_error("reading events", &error))?;
        let found = rows.first().map_or(0, |row| row.found);
        let mut records = Vec::with_capacity(rows.len());
        for row in rows {
            records.push(row.columns.check()?);
        }
        records.truncate(limit.events);
        Ok(Rows { cut: found > to_i64(records.len() as u64), records })
    }
}

/// Wraps a query for rows in order: of these, as many as the bytes (`$5`) allow, and at least one. Only
/// lengths are read of the rows that are left out.
fn within_bytes(rows: &str, order: Order) -> String {
    let by = direction(order);
    format!(
        "SELECT * FROM (
             SELECT p.*, count(*) OVER () AS found, row_number() OVER (ORDER BY p.seq {by}) AS nth,
                 sum(96 + octet_length(p.data) + octet_length(p.channel)) OVER (ORDER BY p.seq {by}) AS bytes
             FROM ({rows}) p
         ) q WHERE nth = 1 OR bytes <= $5 ORDER BY seq {by}"
    )
}

/// The order of positions, which is that of the indexes.
fn by_position(order: Order) -> &'static str {
    match order {
        Order::Oldest => "e.epoch, e.seq",
        Order::Newest => "e.epoch DESC, e.seq DESC",
    }
}

fn direction(order: Order) -> &'static str {
    match order {
        Order::Oldest => "ASC",
        Order::Newest => "DESC",
    }
}

/// $1 to $6: the span, the bytes, and one row more than wanted, which shows whether there are more.
fn bind(query: Query<'_>, span: Span, limit: Limit) -> Query<'_> {
    query
        .bind(number(span.shard))
        .bind(to_i64(span.epoch.get()))
        .bind(to_i64(span.after))
        .bind(to_i64(span.upto))
        .bind(to_i64(limit.bytes as u64))
        .bind(to_i64(limit.events as u64 + 1))
}

fn bind_span_scalar<O>(
    query: sqlx::query::QueryScalar<'_, Postgres, O, PgArguments>,
    span: Span,
) -> sqlx::query::QueryScalar<'_, Postgres, O, PgArguments> {
    query
        .bind(number(span.shard))
        .bind(to_i64(span.epoch.get()))
        .bind(to_i64(span.after))
        .bind(to_i64(span.upto))
}

impl Source for Reader {
    async fn of_channels(
        &mut self,
        span: Span,
        channels: &[(String, u64)],
        limit: Limit,
    ) -> Result<Rows, LogError> {
        let (classes, within) = (self.classes.clone(), self.within_span(span));
        let (names, afters): (Vec<String>, Vec<i64>) =
            channels.iter().map(|(channel, after)| (channel.clone(), to_i64(*after))).unzip();
        let rows = format!(
            "SELECT e.* FROM UNNEST($7::text[], $8::bigint[]) AS c (channel, after) CROSS JOIN LATERAL (
                 SELECT {COLUMNS} FROM foghorn.events e
                 WHERE {within}{classes} AND e.channel = c.channel AND e.seq > c.after ORDER BY e.epoch, e.seq LIMIT $6
             ) e ORDER BY e.seq LIMIT $6"
        );
        let sql = within_bytes(&rows, Order::Oldest);
        let query = bind(sqlx::query_as(AssertSqlSafe(sql)), span, limit).bind(names).bind(afters);
        self.fetch(query, limit).await
    }

    async fn of_range(
        &mut self,
        span: Span,
        topics: &Topics,
        order: Order,
        limit: Limit,
    ) -> Result<Rows, LogError> {
        let (classes, within) = (self.classes.clone(), self.within_span(span));
        let matching =
            if topics.is_everything() { "" } else { "AND (e.channel = ANY($7) OR e.channel ~ ANY($8))" };
        let rows = format!(
            "SELECT {COLUMNS} FROM foghorn.events e WHERE {within}{classes} {matching} ORDER BY {} LIMIT $6",
            by_position(order)
        );
        let mut query = bind(sqlx::query_as(AssertSqlSafe(within_bytes(&rows, order))), span, limit);
        if !topics.is_everything() {
            query = query.bind(topics.channels.clone()).bind(topics.regexes());
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
        let (classes, within) = (self.classes.clone(), self.within_span(span));
        let rows = format!(
            "SELECT {COLUMNS} FROM foghorn.events e WHERE {within}{classes} AND e.channel = $7 ORDER BY {} LIMIT $6",
            by_position(order)
        );
        let sql = within_bytes(&rows, order);
        let query = bind(sqlx::query_as(AssertSqlSafe(sql)), span, limit).bind(channel.to_owned());
        self.fetch(query, limit).await
    }

    async fn channels_between(
        &mut self,
        span: Span,
        from: &str,
        below: &str,
        most: usize,
    ) -> Result<Vec<String>, LogError> {
        let (classes, within) = (self.classes.clone(), self.within_span(span));
        // From one channel to the next by the index: the cost is that of the channels, not of their events.
        let sql = format!(
            "WITH RECURSIVE names (channel) AS (
                 (SELECT e.channel FROM foghorn.events e WHERE e.channel >= $5{classes} ORDER BY e.channel LIMIT 1)
                 UNION ALL
                 SELECT (SELECT e.channel FROM foghorn.events e WHERE e.channel > n.channel{classes}
                     ORDER BY e.channel LIMIT 1)
                 FROM names n WHERE n.channel < $6
             )
             SELECT channel FROM names n
             WHERE channel < $6 AND EXISTS (SELECT FROM foghorn.events e WHERE {within}{classes} AND e.channel = n.channel)
             LIMIT $7"
        );
        bind_span_scalar(sqlx::query_scalar(AssertSqlSafe(sql)), span)
            .bind(from.to_owned())
            .bind(below.to_owned())
            .bind(to_i64(most as u64))
            .fetch_all(&mut *self.inner)
            .await
            .map_err(|error| log_error("listing channels", &error))
    }

    async fn nth_newest(&mut self, span: Span, channels: &[(String, u32)]) -> Result<Vec<u64>, LogError> {
        let (classes, within) = (self.classes.clone(), self.within_span(span));
        let (names, nths): (Vec<String>, Vec<i64>) =
            channels.iter().map(|(channel, nth)| (channel.clone(), i64::from(*nth) - 1)).unzip();
        let sql = format!(
            "SELECT coalesce((
                 SELECT e.seq FROM foghorn.events e WHERE {within}{classes} AND e.channel = c.channel
                 ORDER BY e.epoch DESC, e.seq DESC OFFSET c.skip LIMIT 1
             ), 0) FROM UNNEST($5::text[], $6::bigint[]) WITH ORDINALITY AS c (channel, skip, nth) ORDER BY c.nth"
        );
        let seqs: Vec<i64> = bind_span_scalar(sqlx::query_scalar(AssertSqlSafe(sql)), span)
            .bind(names)
            .bind(nths)
            .fetch_all(&mut *self.inner)
            .await
            .map_err(|error| log_error("counting events", &error))?;
        Ok(seqs.into_iter().map(to_u64).collect())
    }

    async fn first(&mut self, span: Span) -> Result<Option<(u64, Timestamp)>, LogError> {
        let (classes, within) = (self.classes.clone(), self.within_span(span));
        let sql = format!(
            "SELECT e.seq, e.time_us FROM foghorn.events e WHERE {within}{classes} ORDER BY e.epoch, e.seq LIMIT 1"
        );
        let found: Option<(i64, i64)> = sqlx::query_as(AssertSqlSafe(sql))
            .bind(number(span.shard))
            .bind(to_i64(span.epoch.get()))
            .bind(to_i64(span.after))
            .bind(to_i64(span.upto))
            .fetch_optional(&mut *self.inner)
            .await
            .map_err(|error| log_error("looking for a time", &error))?;
        Ok(found.map(|(seq, time)| (to_u64(seq), Timestamp::from_micros(time))))
    }
}
