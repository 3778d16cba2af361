//! Partitions: one table per retention class and slice of time.

use foghorn_core::policy::RetentionClass;
use foghorn_core::time::Timestamp;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use super::state::{Known, class_number};

const MICROS: i64 = 1_000_000;
/// A slice is a 24th of the class's age, so that no more than that is kept too long, within these bounds
/// in seconds.
const SLICE_SECONDS: (u32, u32) = (60, 86_400);
/// Held while partitions are made or dropped. The number is arbitrary, and only ours in this database.
const LOCK: i64 = 0x666f_6768_6f72_6e31;

/// The slice `[from, to)` that a time lies in, in microseconds.
pub(super) fn slice(class: RetentionClass, time: Timestamp) -> (i64, i64) {
    let size = MICROS * i64::from((class.0 / 24).clamp(SLICE_SECONDS.0, SLICE_SECONDS.1));
    let from = time.as_micros().div_euclid(size) * size;
    (from, from + size)
}

/// Makes the partitions for events of `class` at `time`, and the next ones, unless they are there.
pub(super) async fn ensure(
    connection: &mut PgConnection,
    known: &Known,
    class: RetentionClass,
    time: Timestamp,
) -> sqlx::Result<()> {
    let (from, next) = slice(class, time);
    for from in [from, next] {
        if known.lock().contains(&(class, from)) {
            continue;
        }
        create(connection, class, from).await?;
        known.lock().insert((class, from));
    }
    Ok(())
}

async fn create(connection: &mut PgConnection, class: RetentionClass, from: i64) -> sqlx::Result<()> {
    let (_, to) = slice(class, Timestamp::from_micros(from));
    let of_class = table_of(class);
    let name = format!("{of_class}_{}", from / MICROS);
    let mut tx = connection.begin().await?;
    sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(LOCK).execute(&mut *tx).await?;
    let there: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM foghorn.partitions WHERE class = $1 AND from_us = $2)",
    )
    .bind(class_number(class))
    .bind(from)
    .fetch_one(&mut *tx)
    .await?;
    if !there {
        // Made apart and then attached: CREATE ... PARTITION OF would lock out every reader and writer.
        let sql = format!(
            "DO $$ BEGIN
                 IF to_regclass('foghorn.{of_class}') IS NULL THEN
                     CREATE TABLE foghorn.{of_class} (LIKE foghorn.events) PARTITION BY RANGE (time_us);
                     ALTER TABLE foghorn.events ATTACH PARTITION foghorn.{of_class} FOR VALUES IN ({class});
                 END IF;
             END $$;
             CREATE TABLE foghorn.{name} (LIKE foghorn.events);
             ALTER TABLE foghorn.{of_class} ATTACH PARTITION foghorn.{name} FOR VALUES FROM ({from}) TO ({to});
             INSERT INTO foghorn.partitions (class, from_us, to_us, name) VALUES ({class}, {from}, {to}, '{name}')",
            class = class.0
        );
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *tx).await?;
        tracing::info!(partition = %name, "made a partition of the event log");
    }
    tx.commit().await
}

/// Drops a partition, recording in the same transaction the highest seqs that go with it. False when
/// readers or another process are in the way: the next round is soon.
pub(super) async fn drop_one(
    connection: &mut PgConnection,
    class: RetentionClass,
    from: i64,
    name: &str,
) -> sqlx::Result<bool> {
    let of_class = table_of(class);
    let mut tx = connection.begin().await?;
    // Readers queue behind whoever waits for an exclusive lock, so not for long.
    sqlx::query("SET LOCAL lock_timeout = '500ms'").execute(&mut *tx).await?;
    let locked = async {
        sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(LOCK).execute(&mut *tx).await?;
        let lock = format!(
            "LOCK TABLE ONLY foghorn.{of_class} IN ACCESS EXCLUSIVE MODE;
             LOCK TABLE foghorn.{name} IN ACCESS EXCLUSIVE MODE"
        );
        sqlx::raw_sql(AssertSqlSafe(lock)).execute(&mut *tx).await
    };
    match locked.await {
        Ok(_) => {}
        // lock_not_available
        Err(error) if error.as_database_error().is_some_and(|e| e.code().as_deref() == Some("55P03")) => {
            return Ok(false);
        }
        Err(error) => return Err(error),
    }
    // The index finds the last seq of each shard's current epoch: no scan under the lock.
    let floors = format!(
        "INSERT INTO foghorn.floors (shard, epoch, class, seq)
         SELECT shard, epoch, {class}, last.seq FROM foghorn.shards s CROSS JOIN LATERAL (
             SELECT max(seq) AS seq FROM foghorn.{name} e WHERE e.shard = s.shard AND e.epoch = s.epoch
         ) last WHERE last.seq IS NOT NULL
         ON CONFLICT (shard, epoch, class) DO UPDATE SET seq = greatest(floors.seq, excluded.seq)",
        class = class.0
    );
    sqlx::query(AssertSqlSafe(floors)).execute(&mut *tx).await?;
    sqlx::query(AssertSqlSafe(format!("DROP TABLE foghorn.{name}"))).execute(&mut *tx).await?;
    sqlx::query("DELETE FROM foghorn.partitions WHERE class = $1 AND from_us = $2")
        .bind(class_number(class))
        .bind(from)
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(true)
}

fn table_of(class: RetentionClass) -> String {
    format!("events_c{}", class.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_a_24th_of_the_age_within_bounds() {
        let time = Timestamp::from_micros(1_000_000_000 * MICROS + 5);
        for (age, seconds) in [(60, 60), (86_400, 3600), (400 * 86_400, 86_400)] {
            let (from, to) = slice(RetentionClass(age), time);
            assert_eq!(to - from, seconds * MICROS);
            assert!(from <= time.as_micros() && time.as_micros() < to && from % (seconds * MICROS) == 0);
        }
    }
}
