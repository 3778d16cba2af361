//! What the writer is compared with: the same rows, in transactions of the same size, by nothing but
//! `INSERT … SELECT … FROM UNNEST`.

use anyhow::{Context as _, ensure};
use foghorn_core::entry::Entry;
use foghorn_core::event::Event;
use sqlx::PgConnection;

/// Where a batch of the log's writer ends (`crates/eventlog/src/postgres/append.rs`): at so many entries or
/// so many bytes, of which each event counts its texts and a constant.
const BATCH_ENTRIES: usize = 1000;
const BATCH_BYTES: usize = 4 * 1024 * 1024;
const EVENT_BYTES: usize = 96;

/// The age up to which the rows are kept, in seconds: that of events without a policy.
const CLASS: i32 = 86_400;

/// Makes a table with the columns and indexes of the product's, in a database that has been migrated.
pub(super) async fn make_table(connection: &mut PgConnection) -> anyhow::Result<()> {
    let made = sqlx::query("CREATE TABLE foghorn.bare (LIKE foghorn.events INCLUDING ALL)");
    made.execute(connection).await.context("can't make the table to compare with")?;
    Ok(())
}

/// The columns of a transaction's rows.
#[derive(Default)]
struct Columns<'a> {
    seq: Vec<i64>,
    time: Vec<i64>,
    class: Vec<i32>,
    channel: Vec<&'a str>,
    event_type: Vec<Option<&'a str>>,
    id: Vec<Option<&'a str>>,
    key: Vec<Option<&'a [u8]>>,
    ttl: Vec<Option<i32>>,
    data: Vec<&'a [u8]>,
}

/// Inserts all entries.
pub(super) async fn insert(connection: &mut PgConnection, entries: &[Entry]) -> anyhow::Result<()> {
    let mut stored = 0;
    for batch in batches(entries) {
        let columns = Columns::of(batch);
        let inserted = sqlx::query(
            "INSERT INTO foghorn.bare (shard, epoch, seq, time_us, class, channel, type, id, key, ttl, data)
             SELECT 0, 1, r.* FROM UNNEST(
                 $1::bigint[], $2::bigint[], $3::integer[], $4::text[], $5::text[], $6::text[],
                 $7::bytea[], $8::integer[], $9::bytea[]
             ) r",
        )
        .bind(&columns.seq)
        .bind(&columns.time)
        .bind(&columns.class)
        .bind(&columns.channel)
        .bind(&columns.event_type)
        .bind(&columns.id)
        .bind(&columns.key)
        .bind(&columns.ttl)
        .bind(&columns.data)
        .execute(&mut *connection)
        .await
        .context("the bare loop failed")?;
        stored += inserted.rows_affected();
    }
    ensure!(stored == entries.len() as u64, "the bare loop stored {stored} of {} rows", entries.len());
    Ok(())
}

/// Cut as the writer cuts them.
fn batches(entries: &[Entry]) -> impl Iterator<Item = &[Entry]> {
    let mut rest = entries;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let full = rest.iter().take(BATCH_ENTRIES).position(|entry| {
            bytes += entry.event.as_ref().map_or(0, event_bytes);
            bytes >= BATCH_BYTES
        });
        let end = full.map_or(rest.len().min(BATCH_ENTRIES), |last| last + 1);
        let (batch, after) = rest.split_at(end);
        rest = after;
        (!batch.is_empty()).then_some(batch)
    })
}

fn event_bytes(event: &Event) -> usize {
    EVENT_BYTES
        + event.data.len()
        + event.channel.as_str().len()
        + event.event_type.as_ref().map_or(0, |text| text.as_str().len())
        + event.id.as_ref().map_or(0, |text| text.as_str().len())
}

impl<'a> Columns<'a> {
    fn of(entries: &'a [Entry]) -> Self {
        let mut columns = Columns::default();
        for entry in entries {
            let Ok(event) = &entry.event else { continue };
            columns.seq.push(i64::try_from(entry.seq).unwrap_or(i64::MAX));
            columns.time.push(entry.time.as_micros());
            columns.class.push(CLASS);
            columns.channel.push(event.channel.as_str());
            columns.event_type.push(event.event_type.as_ref().map(|text| text.as_str()));
            columns.id.push(event.id.as_ref().map(|text| text.as_str()));
            columns.key.push(entry.key.as_ref().map(|key| &key.as_bytes()[..]));
            columns.ttl.push(event.ttl.map(|ttl| i32::try_from(ttl.seconds()).unwrap_or(i32::MAX)));
            columns.data.push(event.data.as_bytes());
        }
        columns
    }
}

#[cfg(test)]
mod tests {
    use foghorn_core::time::Timestamp;

    use super::super::journal::entries;
    use super::*;

    fn sizes(count: usize, size: usize) -> Vec<usize> {
        batches(&entries(count, size, 1, Timestamp::default()).unwrap()).map(<[Entry]>::len).collect()
    }

    #[test]
    fn batches_end_at_so_many_entries_or_bytes() {
        assert_eq!(sizes(2500, 200), [1000, 1000, 500]);
        assert!(sizes(0, 200).is_empty());
        // 42 of 100 kB and their overhead are over 4 MiB; the one that is goes with them.
        assert_eq!(sizes(100, 100_000), [42, 42, 16]);
        assert_eq!(sizes(2, BATCH_BYTES), [1, 1]);
    }

    #[test]
    fn every_row_has_every_column() {
        let entries = entries(3, 10, 2, Timestamp::default()).unwrap();
        let columns = Columns::of(&entries);
        assert_eq!((columns.seq, columns.channel), (vec![1, 2, 3], vec!["bench.0", "bench.1", "bench.0"]));
        assert!(columns.key.iter().all(|key| key.is_some_and(|key| key.len() == 16)));
        let others = [columns.time.len(), columns.class.len(), columns.ttl.len(), columns.data.len()];
        assert_eq!(others, [3; 4]);
    }
}
