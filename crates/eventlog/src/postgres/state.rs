//! A shard's row: who may write, how far the log is, what is gone.

use std::sync::Arc;

use foghorn_bus::log::LogError;
use foghorn_core::policy::RetentionClass;
use foghorn_core::position::{Digest, Epoch};
use foghorn_core::shard::Shard;
use sqlx::PgConnection;

use crate::record::{to_i64, to_u64};
use crate::standing::{Standing, parse_era};

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
    #[error("PostgreSQL: {0}")]
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

/// Records that the journal is in a new epoch, whose first seq comes after `start`.
pub(super) async fn begin_epoch(
    connection: &mut PgConnection,
    head: WriterHead,
    epoch: Epoch,
    start: u64,
) -> Result<WriterHead, WriteError> {
    let mut tx = sqlx::Connection::begin(connection).await?;
    let moved = sqlx::query(
        "UPDATE foghorn.shards SET epoch = $4, start = $5, head = $5, head_digest = 0
         WHERE shard = $1 AND epoch = $2 AND term = $3",
    )
    .bind(number(head.shard))
    .bind(to_i64(head.epoch.get()))
    .bind(to_i64(head.term))
    .bind(to_i64(epoch.get()))
    .bind(to_i64(start))
    .execute(&mut *tx)
    .await?;
    if moved.rows_affected() == 0 {
        return Err(WriteError::Fenced);
    }
    // Of older epochs nobody can ask any more. Their holes stay: they are evidence.
    for sql in [
        "DELETE FROM foghorn.floors WHERE shard = $1 AND epoch < $2",
        "DELETE FROM foghorn.eras WHERE shard = $1 AND epoch < $2",
    ] {
        sqlx::query(sql).bind(number(head.shard)).bind(to_i64(epoch.get())).execute(&mut *tx).await?;
    }
    tx.commit().await?;
    Ok(WriterHead { epoch, seq: start, digest: Digest::NONE, ..head })
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
        "SELECT epoch, start, head, head_digest,
             ARRAY(SELECT class FROM foghorn.floors f WHERE (f.shard, f.epoch) = (s.shard, s.epoch) ORDER BY class) AS classes,
             ARRAY(SELECT seq FROM foghorn.floors f WHERE (f.shard, f.epoch) = (s.shard, s.epoch) ORDER BY class) AS floors,
             ARRAY(SELECT after FROM foghorn.holes h WHERE (h.shard, h.epoch) = (s.shard, s.epoch) ORDER BY after) AS hole_from,
             ARRAY(SELECT upto FROM foghorn.holes h WHERE (h.shard, h.epoch) = (s.shard, s.epoch) ORDER BY after) AS hole_to,
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

#[derive(sqlx::FromRow)]
struct Row {
    epoch: i64,
    start: i64,
    head: i64,
    head_digest: i64,
    classes: Vec<i32>,
    floors: Vec<i64>,
    hole_from: Vec<i64>,
    hole_to: Vec<i64>,
    since: Vec<i64>,
    policies: Vec<String>,
}

impl Row {
    fn standing(self) -> Result<(Standing, Digest), LogError> {
        let eras = self.since.iter().zip(&self.policies);
        let standing = Standing {
            tip: to_u64(self.head),
            floors: self.classes.into_iter().map(class).zip(self.floors.into_iter().map(to_u64)).collect(),
            holes: self.hole_from.into_iter().map(to_u64).zip(self.hole_to.into_iter().map(to_u64)).collect(),
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
    LogError(format!("{what} failed on PostgreSQL: {error}"))
}

/// The partitions that are known to be there; shared between a writer's batches.
pub(super) type Known = Arc<parking_lot::Mutex<std::collections::HashSet<(RetentionClass, i64)>>>;
