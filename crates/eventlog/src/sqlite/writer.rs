//! The one writer: takes all that waits, commits it in one transaction, then acks it.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use foghorn_bus::journal::{AppendError, Appended};
use foghorn_core::entry::{Entry, Key, NewEntry};
use foghorn_core::event::EventType;
use foghorn_core::policy::{Policies, RetentionClass};
use foghorn_core::position::{Epoch, Position};
use foghorn_core::shard::Shard;
use foghorn_core::time::Timestamp;
use foghorn_core::trace::TraceContext;
use sqlx::SqliteConnection;
use tokio::sync::{mpsc, oneshot};

use super::Inner;
use super::queue::{Change, Message, Run, Work};
use super::rows::{position, seq_of};
use super::script::Script;
use crate::record::{Record, to_i64, to_u64};
use crate::standing::era_text;

/// Most events and bytes in one transaction.
const GROUP_EVENTS: usize = 4096;
const GROUP_BYTES: usize = 8 * 1024 * 1024;
/// How long a publisher's id is remembered.
const DEDUPE_WINDOW: Duration = Duration::from_secs(120);
/// Ids past their window are forgotten this often, and only so many in one transaction.
const KEYS_SWEPT_EVERY: Duration = Duration::from_secs(1);
const KEYS_SWEPT: u64 = 2_000;
/// Most changes of policies that are remembered per shard; older cursors are judged more strictly.
pub(crate) const ERAS: i64 = 32;
/// How often it is said that transactions fail.
const COMPLAINT_EVERY: Duration = Duration::from_secs(1);
/// Rows per statement, most first: each size is prepared once.
const CHUNKS: [usize; 3] = [64, 8, 1];

/// The end of a shard as the writer has committed it.
#[derive(Debug, Clone)]
pub(super) struct ShardEnd {
    pub(super) epoch: Epoch,
    pub(super) start: u64,
    pub(super) last: u64,
    pub(super) time_us: i64,
}

pub(super) struct Writer {
    inner: Weak<Inner>,
    queue: mpsc::UnboundedReceiver<Message>,
    ends: Vec<ShardEnd>,
    /// The policies that `era` is the text of.
    policies: Arc<Policies>,
    era: String,
    /// The era that each shard's newest events were written under, as far as it is on record.
    recorded: Vec<Option<String>>,
    /// Classes that have a row among the floors.
    classes: HashSet<(Shard, RetentionClass)>,
    swept: Instant,
    complaint: Complaint,
}

/// What a transaction did, to be told when it is committed.
struct Done {
    ends: Vec<ShardEnd>,
    recorded: Vec<Option<String>>,
    classes: HashSet<(Shard, RetentionClass)>,
    records: Vec<(Shard, Record, Option<TraceContext>)>,
    answers: Vec<Appended>,
}

/// What is done next, in this order.
#[derive(Default)]
struct Taken {
    group: Vec<Run>,
    work: Option<Work>,
    flushes: Vec<oneshot::Sender<()>>,
}

impl Writer {
    pub(super) fn new(
        inner: Weak<Inner>,
        queue: mpsc::UnboundedReceiver<Message>,
        ends: Vec<ShardEnd>,
        era: String,
    ) -> Self {
        let policies = inner.upgrade().map(|inner| inner.policies.get()).unwrap_or_default();
        let recorded = vec![None; ends.len()];
        Writer {
            inner,
            queue,
            ends,
            policies,
            era,
            recorded,
            classes: HashSet::new(),
            swept: Instant::now(),
            complaint: Complaint::default(),
        }
    }

    pub(super) async fn run(mut self) {
        while let Some(first) = self.queue.recv().await {
            let Taken { group, work, flushes } = self.take(first);
            let Some(inner) = self.inner.upgrade() else { return };
            if !group.is_empty() {
                self.write(&inner, group).await;
            }
            if let Some(work) = work {
                self.work(&inner, work).await;
            }
            for flush in flushes {
                // Nobody waits any more: fine.
                let _gone = flush.send(());
            }
        }
    }

    /// The first message and all that waits behind it, within a transaction's bounds, up to one of others'.
    fn take(&mut self, first: Message) -> Taken {
        let mut taken = Taken::default();
        let Taken { group, work, flushes } = &mut taken;
        let (mut events, mut bytes) = (0, 0);
        let mut next = Some(first);
        while let Some(message) = next {
            match message {
                Message::Work(theirs) => *work = Some(theirs),
                Message::Append(run) => {
                    (events, bytes) = (events + run.entries.len(), bytes + run.bytes());
                    group.push(run);
                }
                Message::Flush(done) => flushes.push(done),
            }
            let full = events >= GROUP_EVENTS || bytes >= GROUP_BYTES || work.is_some();
            next = if full { None } else { self.queue.try_recv().ok() };
        }
        taken
    }

    async fn write(&mut self, inner: &Inner, group: Vec<Run>) {
        let begun = Instant::now();
        let events: usize = group.iter().map(|run| run.entries.len()).sum();
        let now = inner.clock.now();
        match self.commit(inner, &group, now).await {
            Ok(done) => {
                inner.metrics.committed(events, begun.elapsed());
                let mut answers = self.committed(inner, done).into_iter();
                for run in group {
                    // The publisher went away: its events are stored all the same.
                    let _gone = run.ack.send(Ok(answers.by_ref().take(run.entries.len()).collect()));
                }
            }
            Err(error) => {
                self.complain(inner, &error, events);
                for run in group {
                    let shard = run.entries.first().map_or(Shard::ZERO, |(shard, _)| *shard);
                    let _gone = run.ack.send(Err(not_stored(&error, shard)));
                }
            }
        }
    }

    /// A transaction of others'.
    async fn work(&mut self, inner: &Inner, Work { change, ack, .. }: Work) {
        let begun = Instant::now();
        let ended = match self.commit_work(inner, change, inner.clock.now()).await {
            Ok(Some(done)) => {
                inner.metrics.committed(done.answers.len(), begun.elapsed());
                self.committed(inner, done);
                Ok(())
            }
            // As it wanted.
            Ok(None) => Ok(()),
            Err(error) => {
                self.complain(inner, &error, 0);
                Err(not_stored(&error, Shard::ZERO))
            }
        };
        // Whoever asked went away: it is done all the same.
        let _gone = ack.send(ended);
    }

    async fn commit_work(
        &mut self,
        inner: &Inner,
        change: Change,
        now: Timestamp,
    ) -> sqlx::Result<Option<Done>> {
        let mut connection = inner.write.acquire().await?;
        sqlx::query("BEGIN IMMEDIATE").execute(&mut *connection).await?;
        let Some(entries) = change(&mut connection).await else {
            roll_back(&mut connection).await;
            return Ok(None);
        };
        let of_shard = |entry: NewEntry| (inner.shards.shard_of(&entry.event.channel), entry);
        let entries: Vec<(Shard, NewEntry)> = entries.into_iter().map(of_shard).collect();
        let entries: Vec<_> = entries.iter().collect();
        let done = self.insert(&mut connection, inner, Script::default(), &entries, now).await;
        if done.is_err() {
            roll_back(&mut connection).await;
        }
        done.map(Some)
    }

    /// Tells readers of what is committed; answers where it is.
    fn committed(&mut self, inner: &Inner, done: Done) -> Vec<Appended> {
        (self.ends, self.recorded, self.classes) = (done.ends, done.recorded, done.classes);
        for (shard, record, traceparent) in done.records {
            inner.head(shard).tail.push([Entry { traceparent, ..record.entry() }]);
        }
        for (head, end) in inner.heads.iter().zip(&self.ends) {
            head.last.send_if_modified(|last| std::mem::replace(last, end.last) != end.last);
        }
        done.answers
    }

    fn complain(&mut self, inner: &Inner, error: &sqlx::Error, events: usize) {
        inner.metrics.failed(if is_full(error) { "full" } else { "commit" });
        if let Some(unsaid) = self.complaint.due(Instant::now()) {
            tracing::error!(%error, events, unsaid, "events could not be stored; their publishers were told to retry");
        }
    }

    async fn commit(&mut self, inner: &Inner, group: &[Run], now: Timestamp) -> sqlx::Result<Done> {
        let mut connection = inner.write.acquire().await?;
        let entries: Vec<_> = group.iter().flat_map(|run| &run.entries).collect();
        let mut script = Script::default();
        script.add("BEGIN IMMEDIATE");
        let done = self.insert(&mut connection, inner, script, &entries, now).await;
        if done.is_err() {
            roll_back(&mut connection).await;
        }
        done
    }

    /// Ends the transaction that `script` begins, or that has begun.
    async fn insert(
        &mut self,
        connection: &mut SqliteConnection,
        inner: &Inner,
        mut script: Script,
        entries: &[&(Shard, NewEntry)],
        now: Timestamp,
    ) -> sqlx::Result<Done> {
        self.follow_policies(inner);
        let mut done = Done {
            ends: self.ends.clone(),
            recorded: self.recorded.clone(),
            classes: self.classes.clone(),
            records: Vec::new(),
            answers: Vec::new(),
        };
        let mut keys: HashMap<Key, Position> = HashMap::new();
        for (shard, entry) in entries {
            let end = &mut done.ends[shard.index()];
            let given = entry.event.id.is_some();
            if given {
                let known = keys.get(&entry.key).copied();
                let first = match known {
                    Some(position) => Some(position),
                    None => find_key(connection, &entry.key, *shard, end.epoch, now).await?,
                };
                if let Some(position) = first {
                    done.answers.push(Appended { position, duplicate: true });
                    continue;
                }
            }
            end.last += 1;
            end.time_us = end.time_us.max(now.as_micros());
            let position = Position { shard: *shard, epoch: end.epoch, seq: end.last };
            if given {
                keys.insert(entry.key, position);
            }
            done.answers.push(Appended { position, duplicate: false });
            let record = Record {
                seq: end.last,
                time: Timestamp::from_micros(end.time_us),
                key: Some(entry.key),
                event: entry.event.clone(),
            };
            done.records.push((*shard, record, entry.traceparent));
        }
        // What was looked up until here can't change meanwhile: nobody else writes it.
        self.insert_events(connection, &mut script, &mut done).await?;
        self.insert_keys(connection, &mut script, &keys, now).await?;
        self.record_ends(connection, &mut script, &mut done).await?;
        script.add("COMMIT");
        script.run(connection).await?;
        Ok(done)
    }

    /// Policies that differ only in what no class depends on are the same era.
    fn follow_policies(&mut self, inner: &Inner) {
        let policies = inner.policies.get();
        if Arc::ptr_eq(&policies, &self.policies) {
            return;
        }
        match era_text(&policies) {
            Ok(era) => (self.policies, self.era) = (policies, era),
            Err(error) => tracing::error!(%error, "new policies are not in force for storage"),
        }
    }

    async fn insert_events(
        &self,
        connection: &mut SqliteConnection,
        script: &mut Script,
        done: &mut Done,
    ) -> sqlx::Result<()> {
        const HEAD: &str =
            "INSERT INTO events (position, time_us, class, channel, type, id, ttl, key, traceparent, data)";
        let class_of =
            |(_, record, _): &(Shard, Record, Option<TraceContext>)| self.policies.class_of(&record.event);
        let classes: Vec<RetentionClass> = done.records.iter().map(class_of).collect();
        for ((shard, ..), class) in done.records.iter().zip(&classes) {
            if done.classes.insert((*shard, *class)) {
                // Retention goes by the floors: from now on it looks after this class.
                script.add("INSERT OR IGNORE INTO floors (shard, class, floor, swept) VALUES (?, ?, 0, 0)");
                script.bind(i64::from(shard.get()))?;
                script.bind(i64::from(class.0))?;
                script.run(connection).await?;
            }
        }
        let (mut rest, mut classes) = (done.records.as_slice(), classes.iter());
        while let Some(chunk) = next_chunk(&mut rest) {
            script.add(&insert_sql(HEAD, 10, chunk.len()));
            for ((shard, record, traceparent), class) in chunk.iter().zip(classes.by_ref()) {
                let event = &record.event;
                script.bind(position(*shard, record.seq))?;
                script.bind(record.time.as_micros())?;
                script.bind(i64::from(class.0))?;
                script.bind(event.channel.as_str())?;
                script.bind(event.event_type.as_ref().map(EventType::as_str))?;
                script.bind(event.id.as_ref().map(|id| id.as_str()))?;
                script.bind(event.ttl.map(|ttl| i64::from(ttl.seconds())))?;
                script.bind(record.key.as_ref().map(|key| &key.as_bytes()[..]))?;
                script.bind(traceparent.map(|context| context.to_string()))?;
                script.bind(event.data.as_bytes().as_ref())?;
            }
            if !rest.is_empty() {
                script.run(connection).await?;
            }
        }
        Ok(())
    }

    async fn insert_keys(
        &mut self,
        connection: &mut SqliteConnection,
        script: &mut Script,
        keys: &HashMap<Key, Position>,
        now: Timestamp,
    ) -> sqlx::Result<()> {
        let all: Vec<(&Key, &Position)> = keys.iter().collect();
        let mut rest = all.as_slice();
        while let Some(chunk) = next_chunk(&mut rest) {
            script.add(&insert_sql("INSERT OR REPLACE INTO keys (key, position, time_us)", 3, chunk.len()));
            for (key, at) in chunk {
                script.bind(&key.as_bytes()[..])?;
                script.bind(position(at.shard, at.seq))?;
                script.bind(now.as_micros())?;
            }
            if !rest.is_empty() {
                script.run(connection).await?;
            }
        }
        if self.swept.elapsed() >= KEYS_SWEPT_EVERY {
            self.swept = Instant::now();
            script.add(
                "DELETE FROM keys WHERE key IN (SELECT key FROM keys WHERE time_us <= ? ORDER BY time_us LIMIT ?)",
            );
            script.bind(now.minus(DEDUPE_WINDOW).as_micros())?;
            // At least as many as come in, so that the table can't grow without end.
            script.bind(to_i64(KEYS_SWEPT.max(2 * keys.len() as u64)))?;
        }
        Ok(())
    }

    async fn record_ends(
        &self,
        connection: &mut SqliteConnection,
        script: &mut Script,
        done: &mut Done,
    ) -> sqlx::Result<()> {
        for (index, (end, before)) in done.ends.iter().zip(&self.ends).enumerate() {
            if end.last == before.last {
                continue;
            }
            let shard = to_i64(index as u64);
            script.add("UPDATE shards SET last = ?, time_us = ? WHERE shard = ?");
            script.bind(to_i64(end.last))?;
            script.bind(end.time_us)?;
            script.bind(shard)?;
            if done.recorded[index].as_ref() != Some(&self.era) {
                script.run(connection).await?;
                record_era(connection, shard, before.last, &self.era).await?;
                done.recorded[index] = Some(self.era.clone());
            }
        }
        Ok(())
    }
}

async fn roll_back(connection: &mut SqliteConnection) {
    if let Err(error) = sqlx::query("ROLLBACK").execute(connection).await {
        // SQLite rolls back by itself after some errors, and then there is nothing to roll back.
        tracing::debug!(%error, "nothing to roll back");
    }
}

/// What whoever wanted something stored is told. Of a transaction that found no room, nothing is left.
fn not_stored(error: &sqlx::Error, shard: Shard) -> AppendError {
    if is_full(error) {
        return AppendError::Full(shard);
    }
    AppendError::Unavailable(format!("the database could not store it: {error}"))
}

/// Says something at most once a second: a full disk fails every transaction.
#[derive(Debug, Default)]
struct Complaint {
    said: Option<Instant>,
    unsaid: u64,
}

impl Complaint {
    /// How many were left unsaid since the last, if it is time to say something again.
    fn due(&mut self, now: Instant) -> Option<u64> {
        if self.said.is_some_and(|said| now.duration_since(said) < COMPLAINT_EVERY) {
            self.unsaid += 1;
            return None;
        }
        self.said = Some(now);
        Some(std::mem::take(&mut self.unsaid))
    }
}

/// Whether SQLite found no room, on the disk or within its bound. (SQLITE_FULL has no extended codes.)
fn is_full(error: &sqlx::Error) -> bool {
    const SQLITE_FULL: &str = "13";
    error.as_database_error().is_some_and(|error| error.code().as_deref() == Some(SQLITE_FULL))
}

/// Records the policies of what comes after `since`, unless they are those of what came before.
async fn record_era(
    connection: &mut SqliteConnection,
    shard: i64,
    since: u64,
    era: &str,
) -> sqlx::Result<()> {
    let newest: Option<String> =
        sqlx::query_scalar("SELECT policies FROM eras WHERE shard = ? ORDER BY since DESC LIMIT 1")
            .bind(shard)
            .fetch_optional(&mut *connection)
            .await?;
    if newest.as_deref() == Some(era) {
        return Ok(());
    }
    sqlx::query("INSERT OR REPLACE INTO eras (shard, since, policies) VALUES (?, ?, ?)")
        .bind(shard)
        .bind(to_i64(since))
        .bind(era)
        .execute(&mut *connection)
        .await?;
    sqlx::query(
        "DELETE FROM eras WHERE shard = ?1 AND since NOT IN
         (SELECT since FROM eras WHERE shard = ?1 ORDER BY since DESC LIMIT ?2)",
    )
    .bind(shard)
    .bind(ERAS)
    .execute(connection)
    .await?;
    Ok(())
}

async fn find_key(
    connection: &mut SqliteConnection,
    key: &Key,
    shard: Shard,
    epoch: Epoch,
    now: Timestamp,
) -> sqlx::Result<Option<Position>> {
    let found: Option<i64> = sqlx::query_scalar("SELECT position FROM keys WHERE key = ? AND time_us > ?")
        .bind(&key.as_bytes()[..])
        .bind(now.minus(DEDUPE_WINDOW).as_micros())
        .fetch_optional(connection)
        .await?;
    Ok(found.map(|at| Position { shard, epoch, seq: seq_of(to_u64(at)) }))
}

/// The next rows for one statement; the statement for a size is always the same.
fn next_chunk<'a, T>(rest: &mut &'a [T]) -> Option<&'a [T]> {
    let size = CHUNKS.into_iter().find(|size| *size <= rest.len())?;
    let (chunk, after) = rest.split_at(size);
    *rest = after;
    Some(chunk)
}

fn insert_sql(head: &str, columns: usize, rows: usize) -> String {
    let row = format!("({})", vec!["?"; columns].join(","));
    format!("{head} VALUES {}", vec![row.as_str(); rows].join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_said_once_a_second_and_counted() {
        let (mut complaint, begin) = (Complaint::default(), Instant::now());
        assert_eq!(complaint.due(begin), Some(0));
        assert_eq!(complaint.due(begin), None);
        assert_eq!(complaint.due(begin + COMPLAINT_EVERY / 2), None);
        assert_eq!(complaint.due(begin + COMPLAINT_EVERY), Some(2));
        assert_eq!(complaint.due(begin + 2 * COMPLAINT_EVERY), Some(0));
    }
}
