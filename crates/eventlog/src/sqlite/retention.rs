//! Deletes what is no longer kept, in bounded steps, and records in the same transaction what is gone.

use std::time::Duration;

use foghorn_core::policy::{RETENTION_MIN, RetentionClass};
use foghorn_core::shard::{SHARDS_MAX, Shard, ShardCount};
use foghorn_core::time::Timestamp;
use sqlx::SqliteConnection;

use super::Inner;
use super::rows::{position, seq_of};
use crate::record::{to_i64, to_u64};
use crate::source::SEQ_MAX;

/// How often.
const EVERY: Duration = Duration::from_secs(5);
/// Seqs that one transaction looks at and at most deletes: appends wait that long and no longer.
const STEP: u64 = 2_000;
/// In memory, the oldest events go when more than this share of the bound is used, in percent.
const MEMORY_PERCENT: i64 = 85;

pub(super) async fn run(inner: &Inner) {
    loop {
        tokio::time::sleep(EVERY.mul_f64(0.75 + 0.5 * fastrand::f64())).await;
        if let Err(error) = round(inner).await {
            tracing::warn!(%error, "retention failed and is tried again; old events stay until then");
            inner.metrics.failed("retention");
        }
    }
}

/// One round over everything; how many events are gone.
pub(super) async fn round(inner: &Inner) -> sqlx::Result<u64> {
    let now = inner.clock.now();
    let classes: Vec<(i64, i64)> =
        sqlx::query_as("SELECT shard, class FROM floors").fetch_all(&inner.read).await?;
    let mut deleted = 0;
    for (shard, class) in classes {
        let age = RetentionClass(u32::try_from(class).unwrap_or(u32::MAX)).age().max(RETENTION_MIN);
        while let Some(step) = age_step(inner, shard, class, now.minus(age)).await? {
            inner.metrics.retained(class, step);
            deleted += step;
        }
    }
    if inner.in_memory {
        deleted += make_room(inner).await?;
    }
    Ok(deleted)
}

/// Deletes expired events of a class among the next seqs; none when there are no older seqs left.
async fn age_step(inner: &Inner, shard: i64, class: i64, before: Timestamp) -> sqlx::Result<Option<u64>> {
    let mut tx = inner.write.begin_with("BEGIN IMMEDIATE").await?;
    let swept: i64 = sqlx::query_scalar("SELECT swept FROM floors WHERE shard = ? AND class = ?")
        .bind(shard)
        .bind(class)
        .fetch_one(&mut *tx)
        .await?;
    let swept = to_u64(swept);
    // The last of the next seqs whose time is past: times don't decrease, so all before it are past too.
    let end: Option<(i64, i64)> = sqlx::query_as(
        "SELECT position, time_us FROM events WHERE position > ? AND position <= ? ORDER BY position LIMIT 1 OFFSET ?",
    )
    .bind(at(shard, swept))
    .bind(at(shard, SEQ_MAX))
    .bind(to_i64(STEP - 1))
    .fetch_optional(&mut *tx)
    .await?;
    let full = end.filter(|(_, time)| *time < before.as_micros()).map(|(position, _)| position);
    let upto: Option<i64> = match full {
        Some(position) => Some(position),
        None => {
            sqlx::query_scalar(
                "SELECT max(position) FROM (SELECT position, time_us FROM events
                 WHERE position > ? AND position <= ? ORDER BY position LIMIT ?) WHERE time_us < ?",
            )
            .bind(at(shard, swept))
            .bind(at(shard, SEQ_MAX))
            .bind(to_i64(STEP))
            .bind(before.as_micros())
            .fetch_one(&mut *tx)
            .await?
        }
    };
    let Some(upto) = upto else { return Ok(None) };
    let upto = seq_of(to_u64(upto));
    let deleted = delete(&mut tx, shard, Some(class), swept, upto).await?;
    tx.commit().await?;
    Ok(Some(deleted))
}

/// Deletes the oldest events of a channel, for who asks. No floor is raised: listeners go on without them.
pub(super) async fn erase(inner: &Inner, channel: &str) -> sqlx::Result<u64> {
    let erased = sqlx::query(
        "DELETE FROM events WHERE position IN
         (SELECT position FROM events WHERE channel = ? ORDER BY position LIMIT ?)",
    )
    .bind(channel)
    .bind(to_i64(STEP))
    .execute(&inner.write)
    .await?;
    Ok(erased.rows_affected())
}

/// Deletes the oldest events of all classes until the in-memory database is within its share.
async fn make_room(inner: &Inner) -> sqlx::Result<u64> {
    let mut deleted = 0;
    loop {
        let mut tx = inner.write.begin_with("BEGIN IMMEDIATE").await?;
        let mut pages = [0i64; 3];
        for (of, sql) in
            pages.iter_mut().zip(["PRAGMA page_count", "PRAGMA freelist_count", "PRAGMA max_page_count"])
        {
            *of = sqlx::query_scalar(sql).fetch_one(&mut *tx).await?;
        }
        if pages[0] - pages[1] <= pages[2] / 100 * MEMORY_PERCENT {
            return Ok(deleted);
        }
        let Some((shard, first)) = oldest(&mut tx).await? else { return Ok(deleted) };
        let step = delete(&mut tx, shard, None, first - 1, first + STEP).await?;
        tx.commit().await?;
        inner.metrics.retained(0, step);
        deleted += step;
    }
}

/// The shard with the oldest event, and its seq.
async fn oldest(connection: &mut SqliteConnection) -> sqlx::Result<Option<(i64, u64)>> {
    let mut oldest: Option<(i64, i64, u64)> = None;
    for shard in (0..SHARDS_MAX).map(i64::from) {
        let first: Option<(i64, i64)> = sqlx::query_as(
            "SELECT time_us, position FROM events WHERE position > ? AND position <= ? ORDER BY position LIMIT 1",
        )
        .bind(at(shard, 0))
        .bind(at(shard, SEQ_MAX))
        .fetch_optional(&mut *connection)
        .await?;
        if let Some((time, position)) = first
            && oldest.is_none_or(|(earliest, ..)| time < earliest)
        {
            oldest = Some((time, shard, seq_of(to_u64(position))));
        }
    }
    Ok(oldest.map(|(_, shard, seq)| (shard, seq)))
}

/// Deletes a class, or all, in `(after, upto]`, and raises the floors to the highest seqs deleted.
async fn delete(
    connection: &mut SqliteConnection,
    shard: i64,
    class: Option<i64>,
    after: u64,
    upto: u64,
) -> sqlx::Result<u64> {
    let (low, high) = (at(shard, after), at(shard, upto));
    sqlx::query(
        "INSERT INTO floors (shard, class, floor, swept)
         SELECT ?1, class, max(position & 72057594037927935), 0 FROM events
         WHERE position > ?2 AND position <= ?3 AND (?4 IS NULL OR class = ?4) GROUP BY class
         ON CONFLICT (shard, class) DO UPDATE SET floor = max(floor, excluded.floor)",
    )
    .bind(shard)
    .bind(low)
    .bind(high)
    .bind(class)
    .execute(&mut *connection)
    .await?;
    let deleted = sqlx::query(
        "DELETE FROM events WHERE position > ?1 AND position <= ?2 AND (?3 IS NULL OR class = ?3)",
    )
    .bind(low)
    .bind(high)
    .bind(class)
    .execute(&mut *connection)
    .await?
    .rows_affected();
    sqlx::query("UPDATE floors SET swept = max(swept, ?1) WHERE shard = ?2 AND (?3 IS NULL OR class = ?3)")
        .bind(to_i64(upto))
        .bind(shard)
        .bind(class)
        .execute(connection)
        .await?;
    Ok(deleted)
}

/// The row of a seq, also in shards that the cluster no longer has: their rows expire too.
fn at(shard: i64, seq: u64) -> i64 {
    let known = ShardCount::new(u64::from(SHARDS_MAX)).ok().and_then(|all| all.shard(to_u64(shard)));
    position(known.unwrap_or(Shard::ZERO), seq)
}
