//! What the journal lost and the log has comes back: it is appended to the journal once more, and so it is
//! heard, at a position of the new epoch. `durable` promises no less.
//!
//! What is to come back is written down in the transaction in which the log follows the journal into a new
//! epoch (`foghorn.lost`), and crossed out when the log has got it from the journal again. A crash in between
//! begins with the same events anew: those that are in the log again by then are left out, and the others the
//! journal knows by their keys.

use std::convert::Infallible;
use std::future::pending;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use foghorn_bus::backoff::Backoff;
use foghorn_bus::journal::{AppendError, Appended};
use foghorn_core::entry::{Key, NewEntry};
use foghorn_core::event::Event;
use foghorn_core::position::Epoch;
use foghorn_core::shard::Shard;
use foghorn_core::time::Timestamp;
use sqlx::PgConnection;
use tokio::time::{Instant, sleep};

use super::state::{WriteError, WriterHead, number};
use super::writer::{Ended, Writer, answer, on_database};
use crate::record::{Columns, Record, to_i64, to_u64};

/// What comes back is at most so much older than the last event that the log had. JetStream syncs every two
/// minutes, so a loss of power takes no more than that; what is older had been heard by whoever listened, and
/// would come to them a second time, after what has happened since.
const SPAN: Duration = Duration::from_secs(300);
/// Most events at a time.
pub(super) const PAGE: usize = 64;
/// How long the log may take to have what the journal has.
const CATCH_UP: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A range of rows that are to come back.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lost {
    pub(super) epoch: Epoch,
    pub(super) after: u64,
    pub(super) upto: u64,
    /// Older ones are not.
    pub(super) since: Timestamp,
}

/// One of them.
#[derive(Debug)]
pub(super) struct LostRow {
    pub(super) record: Record,
    /// Whether the log has got it back already, or its publisher has published it again.
    pub(super) there: bool,
}

impl Writer {
    /// How old an event may be that is to come back if the journal lost it: by the last one that the log has.
    pub(super) async fn resent_since(&self, head: WriterHead) -> Result<Option<Timestamp>, Ended> {
        let newest = on_database(self, async |c| c.newest_row(self.shard, 0, head.seq).await).await?;
        Ok(newest.map(|record| record.time.minus(SPAN)))
    }
}

/// Brings back what is written down, for as long as the tenure is in `epoch`; `head` is the tenure's own.
pub(super) async fn resend(writer: &Writer, epoch: Epoch, head: &AtomicU64) -> Infallible {
    let mut backoff = Backoff::default();
    loop {
        match resend_page(writer, epoch, head).await {
            Ok(true) => backoff.reset(),
            Ok(false) => return pending().await,
            Err(error) => {
                writer.metrics.failed("resend");
                tracing::warn!(shard = %writer.shard, %error, "events that the journal lost can't be appended again yet; trying again");
                backoff.wait().await;
            }
        }
    }
}

/// Whether there was anything.
async fn resend_page(writer: &Writer, epoch: Epoch, head: &AtomicU64) -> Result<bool, Ended> {
    let shard = writer.shard;
    let Some(lost) = on_database(writer, async |c| c.lost(shard).await).await? else { return Ok(false) };
    // What was published again since, or came back before a crash, shows only in a log that has all of it.
    let bounds = answer(writer.journal.bounds(shard)).await?;
    if bounds.epoch != epoch {
        return Err(other_epoch(shard, bounds.epoch));
    }
    reached(head, bounds.last).await?;
    let rows = on_database(writer, async |c| c.lost_rows(shard, lost).await).await?;
    let upto = match rows.last() {
        Some(last) if rows.len() == PAGE => last.record.seq,
        _ => lost.upto,
    };
    let (mut last, mut count) = (0, 0);
    for row in rows.into_iter().filter(|row| !row.there) {
        if let Some(appended) = append(writer, lost.epoch, row.record).await? {
            if appended.position.epoch != epoch {
                return Err(other_epoch(shard, appended.position.epoch));
            }
            last = last.max(appended.position.seq);
            count += usize::from(!appended.duplicate);
        }
    }
    writer.metrics.resent(shard, count);
    reached(head, last).await?;
    on_database(writer, async |c| c.came_back(shard, lost, upto).await).await?;
    tracing::warn!(%shard, %epoch, lost_in = %lost.epoch, upto, count, "events that the journal had lost are in it again");
    Ok(true)
}

/// Appends an event of an earlier epoch once more, unless it has expired, is not this shard's or is refused.
async fn append(writer: &Writer, lost_in: Epoch, record: Record) -> Result<Option<Appended>, Ended> {
    let (shard, seq, now) = (writer.shard, record.seq, writer.clock.now());
    // With another number of shards an event may be another's, whose writer knows nothing of this.
    let is_ours = writer.journal.shards().shard_of(&record.event.channel) == shard;
    if !is_ours || record.is_expired(now) {
        return Ok(None);
    }
    let place = (u128::from(lost_in.get()) << 64) | u128::from(seq);
    let key = record.key.unwrap_or_else(|| Key::invented(place));
    let event = Event { ttl: record.rest_of_ttl(now), ..record.event };
    match writer.journal.append(NewEntry { event, key, traceparent: None }).await {
        Ok(appended) => Ok(Some(appended)),
        Err(AppendError::Refused(why)) => {
            writer.metrics.failed("resend");
            tracing::error!(%shard, epoch = %lost_in, seq, why, "an event that the journal lost is refused by it now: it stays in the log, and nobody hears it");
            Ok(None)
        }
        Err(error) => Err(Ended::Journals(error.to_string())),
    }
}

fn other_epoch(shard: Shard, epoch: Epoch) -> Ended {
    Ended::Journals(format!("the journal of shard {shard} is in epoch {epoch} by now"))
}

/// Waits until the tenure's head has come to `seq`.
async fn reached(head: &AtomicU64, seq: u64) -> Result<(), Ended> {
    let end = Instant::now() + CATCH_UP;
    while head.load(Ordering::Relaxed) < seq {
        if Instant::now() >= end {
            return Err(Ended::Journals(format!("the log has not come to {seq} within {CATCH_UP:?}")));
        }
        sleep(LOOK_EVERY).await;
    }
    Ok(())
}

/// Writes down what the log has of epochs before `epoch` beyond `through`.
pub(super) async fn write_down(
    tx: &mut PgConnection,
    head: WriterHead,
    epoch: Epoch,
    through: u64,
    since: Timestamp,
) -> Result<(), WriteError> {
    sqlx::query(
        "INSERT INTO foghorn.lost (shard, epoch, after, upto, since_us)
         SELECT $1, epoch, $4, upto, $6 FROM (
             SELECT epoch, upto FROM foghorn.ancestors WHERE shard = $1
             UNION ALL SELECT $2, $5
         ) had WHERE epoch < $3 AND epoch > 0 AND upto > $4
         ON CONFLICT DO NOTHING",
    )
    .bind(number(head.shard))
    .bind(to_i64(head.epoch.get()))
    .bind(to_i64(epoch.get()))
    .bind(to_i64(through))
    .bind(to_i64(head.seq))
    .bind(since.as_micros())
    .execute(tx)
    .await?;
    Ok(())
}

#[derive(sqlx::FromRow)]
struct Row {
    #[sqlx(flatten)]
    columns: Columns,
    there: bool,
}

/// The oldest range that is to come back.
pub(super) async fn lost(connection: &mut PgConnection, shard: Shard) -> Result<Option<Lost>, WriteError> {
    let range: Option<(i64, i64, i64, i64)> = sqlx::query_as(
        "SELECT epoch, after, upto, since_us FROM foghorn.lost WHERE shard = $1 ORDER BY epoch, after LIMIT 1",
    )
    .bind(number(shard))
    .fetch_optional(connection)
    .await?;
    Ok(range.map(|(epoch, after, upto, since)| Lost {
        epoch: Epoch::new(to_u64(epoch)),
        after: to_u64(after),
        upto: to_u64(upto),
        since: Timestamp::from_micros(since),
    }))
}

/// The first of its rows, [`PAGE`] at most.
pub(super) async fn lost_rows(
    connection: &mut PgConnection,
    shard: Shard,
    lost: Lost,
) -> Result<Vec<LostRow>, WriteError> {
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT e.seq, e.time_us, e.channel, e.type, e.id, e.ttl::bigint AS ttl, e.key, e.data, EXISTS (
             SELECT FROM foghorn.events n
             WHERE n.channel = e.channel AND n.epoch > e.epoch AND n.shard = e.shard AND n.key = e.key AND (
                 n.epoch = (SELECT epoch FROM foghorn.shards WHERE shard = $1)
                 OR EXISTS (
                     SELECT FROM foghorn.ancestors a
                     WHERE a.shard = $1 AND a.epoch = n.epoch AND a.upto >= n.seq
                 )
             )
         ) AS there
         FROM foghorn.events e
         WHERE e.shard = $1 AND e.epoch = $2 AND e.seq > $3 AND e.seq <= $4 AND e.time_us >= $5
         ORDER BY e.seq LIMIT $6",
    )
    .bind(number(shard))
    .bind(to_i64(lost.epoch.get()))
    .bind(to_i64(lost.after))
    .bind(to_i64(lost.upto))
    .bind(lost.since.as_micros())
    .bind(to_i64(PAGE as u64))
    .fetch_all(connection)
    .await?;
    rows.into_iter().map(|row| Ok(LostRow { record: row.columns.check()?, there: row.there })).collect()
}

/// Crosses out what came back: of `lost` all up to `upto`.
pub(super) async fn came_back(
    connection: &mut PgConnection,
    shard: Shard,
    lost: Lost,
    upto: u64,
) -> Result<(), WriteError> {
    let sql = if upto >= lost.upto {
        "DELETE FROM foghorn.lost WHERE shard = $1 AND epoch = $2 AND after = $3 AND upto <= $4"
    } else {
        "UPDATE foghorn.lost SET after = $4 WHERE shard = $1 AND epoch = $2 AND after = $3"
    };
    sqlx::query(sql)
        .bind(number(shard))
        .bind(to_i64(lost.epoch.get()))
        .bind(to_i64(lost.after))
        .bind(to_i64(upto))
        .execute(connection)
        .await?;
    Ok(())
}
