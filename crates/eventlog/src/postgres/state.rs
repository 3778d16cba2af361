//! A shard's row: who may write, how far the log is, what is gone.

use std::sync::Arc;

use foghorn_bus::log::LogError;
use foghorn_core::policy::RetentionClass;
use foghorn_core::position::{Digest, Epoch};
use foghorn_core::shard::Shard;
use foghorn_core::time::Timestamp;
use sqlx::PgConnection;

use super::explain::words;
use super::partitions::LOCK;
use super::resend::write_down;
use crate::record::{Columns, Record, to_i64, to_u64};
use crate::standing::{Ancestor, Standing, parse_era};

/// The head as its writer knows it, with everything a compare-and-set compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WriterHead {
    pub(super) shard: Shard,
    pub(super) epoch: Epoch,
    pub(super) seq: u64,
    pub(super) digest: Digest,
    pub(super) term: u64,
}

/// Why a writer could not write.
#[derive(Debug, thiserror::Error)]
pub(super) enum WriteError {
    /// Another writer has written or taken over. It goes on; we begin anew.
    #[error("another writer has taken over")]
    Fenced,
    /// PostgreSQL; whether it was committed is found out by reading the head again.
    #[error("PostgreSQL: {}", words(.0))]
    Database(#[from] sqlx::Error),
    /// PostgreSQL does not answer.
    #[error("PostgreSQL did not answer within {0:?}")]
    Slow(std::time::Duration),
    #[error("{0}")]
    Log(#[from] LogError),
}

/// Makes this writer the one that may write, and reads where to go on. The term comes from here and
/// not from the lease alone: leases may be lost with all their history, this row is what they protect.
pub(super) async fn take_over(
    connection: &mut PgConnection,
    shard: Shard,
    lease_term: u64,
) -> Result<WriterHead, WriteError> {
    sqlx::query(
        "INSERT INTO foghorn.shards (shard, epoch, start, head, head_digest, term)
         VALUES ($1, 0, 0, 0, 0, 0) ON CONFLICT DO NOTHING",
    )
    .bind(number(shard))
    .execute(&mut *connection)
    .await?;
    let (epoch, head, digest, term): (i64, i64, i64, i64) = sqlx::query_as(
        "UPDATE foghorn.shards SET term = greatest(term + 1, $2) WHERE shard = $1
         RETURNING epoch, head, head_digest, term",
    )
    .bind(number(shard))
    .bind(to_i64(lease_term))
    .fetch_one(connection)
    .await?;
    Ok(WriterHead {
        shard,
        epoch: Epoch::new(to_u64(epoch)),
        seq: to_u64(head),
        digest: Digest(digest.cast_unsigned()),
        term: to_u64(term),
    })
}

/// What stays of the log in a new epoch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kept {
    /// Up to this seq the log's rows are those of the new epoch.
    pub(super) through: u64,
    /// Up to this seq the epoch before and the new one are the same, whoever has read it. Less where the
    /// log has only seen what the journal has now, and somebody else what it had before.
    pub(super) common: u64,
    /// The last seq of these that the log has taken over.
    pub(super) head: u64,
    /// The digest of that one, if it is known.
    pub(super) digest: Digest,
}

/// Records that the journal is in a new epoch: it has to do with the one before as far as `kept` says, or
/// else nothing, and then its first seq comes after `start`. What the journal lost comes back to it, as far
/// as it isn't older than `resent_since`.
pub(super) async fn begin_epoch(
    connection: &mut PgConnection,
    head: WriterHead,
    epoch: Epoch,
    start: u64,
    kept: Option<Kept>,
    resent_since: Option<Timestamp>,
) -> Result<WriterHead, WriteError> {
    let mut tx = sqlx::Connection::begin(connection).await?;
    // Retention drops partitions and raises floors under the same lock: of the epoch that it sees.
    sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(LOCK).execute(&mut *tx).await?;
    let (seq, digest) = kept.map_or((start, Digest::NONE), |kept| (kept.head, kept.digest));
    let moved = sqlx::query(
        "UPDATE foghorn.shards SET epoch = $4, start = coalesce($5, least(start, $6)), head = $6, head_digest = $7
         WHERE shard = $1 AND epoch = $2 AND term = $3 AND head = $8 AND head_digest = $9",
    )
    .bind(number(head.shard))
    .bind(to_i64(head.epoch.get()))
    .bind(to_i64(head.term))
    .bind(to_i64(epoch.get()))
    .bind(kept.is_none().then_some(to_i64(start)))
    .bind(to_i64(seq))
    .bind(digest.0.cast_signed())
    // The database may have been put back under this writer: then it has not all that the writer knows of.
    .bind(to_i64(head.seq))
    .bind(head.digest.0.cast_signed())
    .execute(&mut *tx)
    .await?;
    if moved.rows_affected() == 0 {
        return Err(WriteError::Fenced);
    }
    if let Some(since) = resent_since {
        let through = kept.map_or(0, |kept| kept.through);
        write_down(&mut tx, head, epoch, through, since).await?;
    }
    if let Some(kept) = kept {
        inherit(&mut tx, head, epoch, kept).await?;
    }
    // Of what is not kept nobody can ask any more. Holes stay: they are evidence.
    let forget = [
        "DELETE FROM foghorn.floors WHERE shard = $1 AND epoch < $2",
        "DELETE FROM foghorn.eras WHERE shard = $1 AND epoch < $2",
    ];
    for sql in forget {
        sqlx::query(sql).bind(number(head.shard)).bind(to_i64(epoch.get())).execute(&mut *tx).await?;
    }
    if kept.is_none() {
        let sql = "DELETE FROM foghorn.ancestors WHERE shard = $1";
        sqlx::query(sql).bind(number(head.shard)).execute(&mut *tx).await?;
    }
    tx.commit().await?;
    Ok(WriterHead { epoch, seq, digest, ..head })
}

/// Takes over into a new epoch what is known about the seqs up to `kept`. Rows stay where they are.
async fn inherit(
    tx: &mut PgConnection,
    head: WriterHead,
    epoch: Epoch,
    kept: Kept,
) -> Result<(), WriteError> {
    let inherited = [
        // Also what an earlier epoch had in common with the last one is that only up to here.
        "UPDATE foghorn.ancestors SET upto = least(upto, $4), common = least(common, $5)
         WHERE shard = $1 AND epoch < $3 AND $2 < $3",
        "INSERT INTO foghorn.ancestors (shard, epoch, upto, common) SELECT $1, $2, $4, $5 WHERE $2 < $3",
        "UPDATE foghorn.floors SET epoch = $3, seq = least(seq, $4) WHERE shard = $1 AND epoch = $2",
        "INSERT INTO foghorn.holes (shard, epoch, after, upto, found_at)
         SELECT shard, $3, after, least(upto, $4), found_at FROM foghorn.holes
         WHERE shard = $1 AND epoch = $2 AND after < $4",
        "UPDATE foghorn.eras SET epoch = $3 WHERE shard = $1 AND epoch = $2 AND since <= $4",
    ];
    for sql in inherited {
        sqlx::query(sql)
            .bind(number(head.shard))
            .bind(to_i64(head.epoch.get()))
            .bind(to_i64(epoch.get()))
            .bind(to_i64(kept.through))
            .bind(to_i64(kept.common))
            .execute(&mut *tx)
            .await?;
    }
    Ok(())
}

/// The newest row of the current epoch in `(after, upto]`, those of its ancestors included. Of expired
/// events there may be none.
pub(super) async fn newest_row(
    connection: &mut PgConnection,
    shard: Shard,
    after: u64,
    upto: u64,
) -> Result<Option<Record>, WriteError> {
    let row: Option<Columns> = sqlx::query_as(
        "SELECT e.seq, e.time_us, e.channel, e.type, e.id, e.ttl::bigint AS ttl, e.key, e.data
         FROM (
             SELECT shard, epoch, 9223372036854775807 AS upto FROM foghorn.shards WHERE shard = $1
             UNION ALL
             SELECT shard, epoch, upto FROM foghorn.ancestors WHERE shard = $1
         ) epochs CROSS JOIN LATERAL (
             SELECT * FROM foghorn.events e
             WHERE e.shard = epochs.shard AND e.epoch = epochs.epoch AND e.seq > $2 AND e.seq <= least(epochs.upto, $3)
             ORDER BY e.seq DESC LIMIT 1
         ) e ORDER BY e.seq DESC LIMIT 1",
    )
    .bind(number(shard))
    .bind(to_i64(after))
    .bind(to_i64(upto))
    .fetch_optional(connection)
    .await?;
    Ok(row.map(Columns::check).transpose()?)
}

/// Records that the journal has lost everything after the head up to `upto`.
pub(super) async fn record_hole(
    connection: &mut PgConnection,
    head: WriterHead,
    upto: u64,
) -> Result<WriterHead, WriteError> {
    let moved: i64 = sqlx::query_scalar(
        "WITH moved AS (
             UPDATE foghorn.shards SET head = $6, head_digest = 0
             WHERE shard = $1 AND epoch = $2 AND head = $3 AND head_digest = $4 AND term = $5 RETURNING 1
         ), hole AS (
             INSERT INTO foghorn.holes (shard, epoch, after, upto)
             SELECT $1, $2, $3, $6 FROM moved
         )
         SELECT count(*) FROM moved",
    )
    .bind(number(head.shard))
    .bind(to_i64(head.epoch.get()))
    .bind(to_i64(head.seq))
    .bind(head.digest.0.cast_signed())
    .bind(to_i64(head.term))
    .bind(to_i64(upto))
    .fetch_one(connection)
    .await?;
    if moved == 0 {
        return Err(WriteError::Fenced);
    }
    Ok(WriterHead { seq: upto, digest: Digest::NONE, ..head })
}

/// What the log has of a shard, and the digest of its head. None when no writer has been at it yet.
pub(super) async fn standing(
    connection: &mut PgConnection,
    shard: Shard,
) -> Result<Option<(Standing, Digest)>, LogError> {
    // One statement is one snapshot: floors and heads are of one moment.
    let found: Option<Row> = sqlx::query_as(
        "SELECT epoch, start, head, head_digest, term,
             ARRAY(SELECT class FROM foghorn.floors f WHERE (f.shard, f.epoch) = (s.shard, s.epoch) ORDER BY class) AS classes,
             ARRAY(SELECT seq FROM foghorn.floors f WHERE (f.shard, f.epoch) = (s.shard, s.epoch) ORDER BY class) AS floors,
             ARRAY(SELECT after FROM foghorn.holes h WHERE (h.shard, h.epoch) = (s.shard, s.epoch) ORDER BY after) AS hole_from,
             ARRAY(SELECT upto FROM foghorn.holes h WHERE (h.shard, h.epoch) = (s.shard, s.epoch) ORDER BY after) AS hole_to,
             ARRAY(SELECT epoch FROM foghorn.ancestors a WHERE a.shard = s.shard ORDER BY epoch) AS ancestors,
             ARRAY(SELECT upto FROM foghorn.ancestors a WHERE a.shard = s.shard ORDER BY epoch) AS ancestors_to,
             ARRAY(SELECT common FROM foghorn.ancestors a WHERE a.shard = s.shard ORDER BY epoch) AS common,
             ARRAY(SELECT since FROM foghorn.eras e WHERE (e.shard, e.epoch) = (s.shard, s.epoch) ORDER BY since) AS since,
             ARRAY(SELECT policies FROM foghorn.eras e WHERE (e.shard, e.epoch) = (s.shard, s.epoch) ORDER BY since) AS policies
         FROM foghorn.shards s WHERE shard = $1 AND epoch > 0",
    )
    .bind(number(shard))
    .fetch_optional(connection)
    .await
    .map_err(|error| log_error("reading the shard's state", &error))?;
    found.map(Row::standing).transpose()
}

/// Most events that are erased in one transaction, but for those of one position in several shards.
const ERASED: i64 = 5_000;

/// Deletes a channel's oldest events, of all epochs; how many.
pub(super) async fn erase(connection: &mut PgConnection, channel: &str) -> Result<u64, WriteError> {
    let beyond: Option<(i64, i64)> = sqlx::query_as(
        "SELECT epoch, seq FROM foghorn.events WHERE channel = $1 ORDER BY epoch, seq LIMIT 1 OFFSET $2",
    )
    .bind(channel)
    .bind(ERASED)
    .fetch_optional(&mut *connection)
    .await?;
    let (epoch, seq) = beyond.unwrap_or((i64::MAX, i64::MAX));
    let erased = sqlx::query("DELETE FROM foghorn.events WHERE channel = $1 AND (epoch, seq) < ($2, $3)")
        .bind(channel)
        .bind(epoch)
        .bind(seq)
        .execute(connection)
        .await?;
    Ok(erased.rows_affected())
}

#[derive(sqlx::FromRow)]
struct Row {
    epoch: i64,
    start: i64,
    head: i64,
    head_digest: i64,
    term: i64,
    classes: Vec<i32>,
    floors: Vec<i64>,
    hole_from: Vec<i64>,
    hole_to: Vec<i64>,
    ancestors: Vec<i64>,
    ancestors_to: Vec<i64>,
    common: Vec<i64>,
    since: Vec<i64>,
    policies: Vec<String>,
}

impl Row {
    fn standing(self) -> Result<(Standing, Digest), LogError> {
        let ancestors = self.ancestors.iter().zip(&self.ancestors_to).zip(&self.common);
        let ancestors = ancestors.map(|((epoch, upto), common)| Ancestor {
            epoch: Epoch::new(to_u64(*epoch)),
            upto: to_u64(*upto),
            common: to_u64(*common),
        });
        let eras = self.since.iter().zip(&self.policies);
        let standing = Standing {
            tip: to_u64(self.head),
            term: to_u64(self.term),
            floors: self.classes.into_iter().map(class).zip(self.floors.into_iter().map(to_u64)).collect(),
            holes: self.hole_from.into_iter().map(to_u64).zip(self.hole_to.into_iter().map(to_u64)).collect(),
            ancestors: ancestors.collect(),
            eras: eras.map(|(since, text)| parse_era(to_u64(*since), text)).collect::<Result<_, _>>()?,
            ..Standing::empty(Epoch::new(to_u64(self.epoch)), to_u64(self.start))
        };
        Ok((standing, Digest(self.head_digest.cast_unsigned())))
    }
}

pub(super) fn class(seconds: i32) -> RetentionClass {
    RetentionClass(u32::try_from(seconds).unwrap_or(0))
}

/// A class as SQL keeps it. Ten years are below 2^31 seconds.
pub(super) fn class_number(class: RetentionClass) -> i32 {
    i32::try_from(class.0).unwrap_or(i32::MAX)
}

/// A shard as SQL keeps it.
pub(super) fn number(shard: Shard) -> i16 {
    i16::from(shard.get())
}

pub(super) fn log_error(what: &str, error: &sqlx::Error) -> LogError {
    LogError(format!("{what} failed on PostgreSQL: {}", words(error)))
}

/// The partitions that are known to be there; shared between a writer's batches.
pub(super) type Known = Arc<parking_lot::Mutex<std::collections::HashSet<(RetentionClass, i64)>>>;
