//! A batch: journal entries on their way into PostgreSQL, and the statement that takes them there.

use std::collections::{BTreeMap, BTreeSet};

use foghorn_core::entry::{Entry, InvalidEntry};
use foghorn_core::policy::{Policies, RetentionClass};
use foghorn_core::position::Digest;
use foghorn_core::time::Timestamp;
use sqlx::PgConnection;

use super::partitions;
use super::state::{Known, WriteError, WriterHead, class_number, number};
use crate::metrics::Metrics;
use crate::record::{Record, to_i64};
use crate::standing::era_text;

/// Most entries in a batch. A commit costs the same for few as for many, and what waits while it is under
/// way makes the next batch: so this bounds only how much of a backlog goes at a time.
pub(super) const BATCH_ENTRIES: usize = 4000;
/// Most bytes in a batch, unless it is one entry.
pub(super) const BATCH_BYTES: usize = 4 * 1024 * 1024;
/// Most changes of policies that are remembered per shard; older cursors are judged more strictly.
const ERAS: i64 = 32;

/// Entries that follow the head.
#[derive(Debug, Default)]
pub(super) struct Batch {
    records: Vec<Record>,
    entries: usize,
    bytes: usize,
    last: Option<(u64, Digest)>,
}

impl Batch {
    /// Takes an entry in. Invalid ones are counted and covered, but not stored.
    pub(super) fn push(&mut self, entry: Entry, metrics: &Metrics) {
        self.entries += 1;
        self.last = Some((entry.seq, entry.digest));
        if let Err(invalid) = &entry.event {
            metrics.invalid(kind(invalid));
            tracing::debug!(seq = entry.seq, error = %invalid, "an entry of the journal is no valid event: skipped");
        }
        if let Some(record) = Record::of(entry) {
            self.bytes += record.bytes();
            self.records.push(record);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries == 0
    }

    pub(super) fn is_full(&self) -> bool {
        self.entries >= BATCH_ENTRIES || self.bytes >= BATCH_BYTES
    }

    pub(super) fn entries(&self) -> usize {
        self.entries
    }

    /// Where its last entry is.
    pub(super) fn last(&self) -> Option<(u64, Digest)> {
        self.last
    }

    /// What of it is kept at `now`, and in which class.
    pub(super) fn sorted(&self, policies: &Policies, now: Timestamp) -> Sorted<'_> {
        let mut sorted = Sorted { kept: Vec::with_capacity(self.records.len()), late: BTreeMap::new() };
        for record in &self.records {
            let class = policies.class_of(&record.event);
            if class == RetentionClass::NONE {
                continue;
            }
            if record.time < now.minus(class.age()) {
                // The log was down for longer than these are kept. They are gone like any expired event.
                sorted.late.insert(class, record.seq);
                continue;
            }
            sorted.kept.push((record, class));
        }
        sorted
    }
}

/// A batch's records by what becomes of them.
pub(super) struct Sorted<'a> {
    pub(super) kept: Vec<(&'a Record, RetentionClass)>,
    /// Per class the last seq that is gone already.
    pub(super) late: BTreeMap<RetentionClass, u64>,
}

fn kind(invalid: &InvalidEntry) -> &'static str {
    match invalid {
        InvalidEntry::Event(error) => error.code(),
        InvalidEntry::WrongShard { .. } => "wrong-shard",
    }
}

/// The columns of the rows to store.
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

impl<'a> Columns<'a> {
    fn push(&mut self, record: &'a Record, class: RetentionClass) {
        let event = &record.event;
        self.seq.push(to_i64(record.seq));
        self.time.push(record.time.as_micros());
        self.class.push(class_number(class));
        self.channel.push(event.channel.as_str());
        self.event_type.push(event.event_type.as_ref().map(|text| text.as_str()));
        self.id.push(event.id.as_ref().map(|text| text.as_str()));
        self.key.push(record.key.as_ref().map(|key| &key.as_bytes()[..]));
        self.ttl.push(event.ttl.map(|ttl| i32::try_from(ttl.seconds()).unwrap_or(i32::MAX)));
        self.data.push(event.data.as_bytes().as_ref());
    }
}

/// Stores a batch and moves the head over it, in one statement: all of it or nothing.
pub(super) async fn append(
    connection: &mut PgConnection,
    known: &Known,
    head: WriterHead,
    batch: &Batch,
    policies: &Policies,
    now: Timestamp,
) -> Result<WriterHead, WriteError> {
    let Some((seq, digest)) = batch.last else { return Ok(head) };
    let Sorted { kept, late } = batch.sorted(policies, now);
    let mut columns = Columns::default();
    let mut slices = BTreeSet::new();
    for (record, class) in kept {
        slices.insert((class, partitions::slice(class, record.time)));
        columns.push(record, class);
    }
    for (class, (from, _)) in slices {
        partitions::ensure(connection, known, class, Timestamp::from_micros(from)).await?;
    }
    let moved = statement(connection, head, seq, digest, &columns, &late, &era_text(policies)?).await?;
    if !moved {
        return Err(WriteError::Fenced);
    }
    Ok(WriterHead { seq, digest, ..head })
}

async fn statement(
    connection: &mut PgConnection,
    head: WriterHead,
    seq: u64,
    digest: Digest,
    columns: &Columns<'_>,
    late: &BTreeMap<RetentionClass, u64>,
    era: &str,
) -> Result<bool, WriteError> {
    let (late_classes, late_seqs): (Vec<i32>, Vec<i64>) =
        late.iter().map(|(class, seq)| (class_number(*class), to_i64(*seq))).unzip();
    let moved: i64 = sqlx::query_scalar(
        "WITH moved AS (
             UPDATE foghorn.shards SET head = $6, head_digest = $7
             WHERE shard = $1 AND epoch = $2 AND head = $3 AND head_digest = $4 AND term = $5
             RETURNING 1
         ), stored AS (
             INSERT INTO foghorn.events (shard, epoch, seq, time_us, class, channel, type, id, key, ttl, data)
             SELECT $1, $2, r.* FROM UNNEST(
                 $8::bigint[], $9::bigint[], $10::integer[], $11::text[], $12::text[], $13::text[],
                 $14::bytea[], $15::integer[], $16::bytea[]
             ) r WHERE EXISTS (SELECT FROM moved)
         ), expired AS (
             INSERT INTO foghorn.floors (shard, epoch, class, seq)
             SELECT $1, $2, l.* FROM UNNEST($17::integer[], $18::bigint[]) l WHERE EXISTS (SELECT FROM moved)
             ON CONFLICT (shard, epoch, class) DO UPDATE SET seq = greatest(floors.seq, excluded.seq)
         ), era AS (
             INSERT INTO foghorn.eras (shard, epoch, since, policies)
             SELECT $1, $2, $3, $19 FROM moved WHERE $19 IS DISTINCT FROM (
                 SELECT policies FROM foghorn.eras WHERE shard = $1 AND epoch = $2 ORDER BY since DESC LIMIT 1
             )
             ON CONFLICT (shard, epoch, since) DO UPDATE SET policies = excluded.policies
             RETURNING 1
         ), forgotten AS (
             DELETE FROM foghorn.eras WHERE shard = $1 AND epoch = $2 AND EXISTS (SELECT FROM era) AND since NOT IN (
                 SELECT since FROM foghorn.eras WHERE shard = $1 AND epoch = $2 ORDER BY since DESC LIMIT $20
             )
         )
         SELECT count(*) FROM moved",
    )
    .bind(number(head.shard))
    .bind(to_i64(head.epoch.get()))
    .bind(to_i64(head.seq))
    .bind(head.digest.0.cast_signed())
    .bind(to_i64(head.term))
    .bind(to_i64(seq))
    .bind(digest.0.cast_signed())
    .bind(&columns.seq)
    .bind(&columns.time)
    .bind(&columns.class)
    .bind(&columns.channel)
    .bind(&columns.event_type)
    .bind(&columns.id)
    .bind(&columns.key)
    .bind(&columns.ttl)
    .bind(&columns.data)
    .bind(&late_classes)
    .bind(&late_seqs)
    .bind(era)
    .bind(ERAS)
    .fetch_one(connection)
    .await?;
    Ok(moved > 0)
}
