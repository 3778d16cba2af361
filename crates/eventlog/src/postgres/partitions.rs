//! Partitions: one table per retention class and slice of time.

use foghorn_core::policy::RetentionClass;
use foghorn_core::time::Timestamp;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use super::state::{Known, class_number};

const MICROS: i64 = 1_000_000;
/// A class has about so many slices, so that no more than a 24th of its age is kept too long; and, whatever
/// the age, no statement has more than their tables and indexes to lock.
const SLICES: u32 = 24;
/// No slice is shorter, in seconds.
const SLICE_SECONDS_MIN: u32 = 60;
/// Held while partitions are made or dropped. The number is arbitrary, and only ours in this database.
pub(super) const LOCK: i64 = 0x666f_6768_6f72_6e31;

/// The slice `[from, to)` that a time lies in, in microseconds.
pub(super) fn slice(class: RetentionClass, time: Timestamp) -> (i64, i64) {
    let size = MICROS * i64::from((class.0 / SLICES).max(SLICE_SECONDS_MIN));
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
    let mut tx = connection.begin().await?;
    sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(LOCK).execute(&mut *tx).await?;
    let there: Vec<(i64, i64)> = sqlx::query_as(
        "SELECT from_us, to_us FROM foghorn.partitions
         WHERE class = $1 AND to_us > $2 AND from_us < $3 ORDER BY from_us",
    )
    .bind(class_number(class))
    .bind(from)
    .bind(to)
    .fetch_all(&mut *tx)
    .await?;
    for (from, to) in gaps(from, to, &there) {
        create_one(&mut tx, class, from, to).await?;
    }
    tx.commit().await
}

/// What of `[from, to)` none of these covers, which are in order: an older version may have cut slices
/// differently, and partitions can't overlap.
fn gaps(from: i64, to: i64, there: &[(i64, i64)]) -> Vec<(i64, i64)> {
    let mut gaps = Vec::new();
    let mut at = from;
    for &(begin, end) in there {
        if at < begin {
            gaps.push((at, begin.min(to)));
        }
        at = at.max(end);
    }
    if at < to {
        gaps.push((at, to));
    }
    gaps
}

async fn create_one(
    connection: &mut PgConnection,
    class: RetentionClass,
    from: i64,
    to: i64,
) -> sqlx::Result<()> {
    let of_class = table_of(class);
    let name = format!("{of_class}_{}", from / MICROS);
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
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await?;
    tracing::info!(partition = %name, "made a partition of the event log");
    Ok(())
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
    // The index finds the last seq of each shard's epochs: no scan under the lock.
    let floors = format!(
        "INSERT INTO foghorn.floors (shard, epoch, class, seq)
         SELECT shard, epoch, {class}, last.seq FROM foghorn.shards s CROSS JOIN LATERAL (
             SELECT max(seq) AS seq FROM (
                 SELECT max(e.seq) AS seq FROM foghorn.{name} e WHERE e.shard = s.shard AND e.epoch = s.epoch
                 UNION ALL
                 SELECT (SELECT max(e.seq) FROM foghorn.{name} e
                     WHERE e.shard = a.shard AND e.epoch = a.epoch AND e.seq <= a.upto)
                 FROM foghorn.ancestors a WHERE a.shard = s.shard
             ) of_epoch
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
    fn slices_are_a_24th_of_the_age_and_so_are_never_many() {
        let time = Timestamp::from_micros(1_000_000_000 * MICROS + 5);
        const YEAR: u32 = 365 * 86_400;
        for (age, seconds) in
            [(60, 60), (1440, 60), (86_400, 3600), (YEAR, YEAR / 24), (10 * YEAR, 10 * YEAR / 24)]
        {
            let (from, to) = slice(RetentionClass(age), time);
            assert_eq!(to - from, i64::from(seconds) * MICROS);
            assert!(from <= time.as_micros() && time.as_micros() < to && from % (to - from) == 0);
            // All that are kept, the one being dropped, and the next one.
            assert!(i64::from(age) * MICROS / (to - from) + 3 <= 60, "{age}");
        }
    }

    #[test]
    fn slices_are_made_around_what_is_there() {
        assert_eq!(gaps(10, 20, &[]), [(10, 20)]);
        assert_eq!(gaps(10, 20, &[(10, 20)]), []);
        assert_eq!(gaps(10, 20, &[(0, 30)]), []);
        assert_eq!(gaps(10, 20, &[(5, 12), (14, 16), (16, 18)]), [(12, 14), (18, 20)]);
        assert_eq!(gaps(10, 20, &[(12, 30)]), [(10, 12)]);
    }
}
