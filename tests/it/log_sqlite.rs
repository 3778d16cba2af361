//! The event log on SQLite: the common behaviour, and what only a data directory can do.

use std::collections::BTreeMap;
use std::time::Duration;

use foghorn_bus::journal::{AppendError, Journal};
use foghorn_bus::log::EventLog;
use foghorn_bus::policies::SharedPolicies;
use foghorn_core::policy::Policies;
use foghorn_core::reason::ResetReason;
use foghorn_core::shard::{Shard, ShardCount};
use foghorn_eventlog::sqlite::{OpenError, SqliteLog, SqliteOptions};
use foghorn_tests::PATIENCE;
use foghorn_tests::wait::until;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use tempfile::TempDir;

use crate::log_suite::{
    Subject, TestClock, append, at, event, kept, new_entry, page, policies, publish, replay_all, with_id,
};

pub(crate) struct Sqlite {
    log: SqliteLog,
    clock: TestClock,
    policies: SharedPolicies,
    directory: Option<TempDir>,
}

impl Subject for Sqlite {
    fn journal(&self) -> &dyn Journal {
        &self.log
    }

    fn log(&self) -> &dyn EventLog {
        &self.log
    }

    fn clock(&self) -> &TestClock {
        &self.clock
    }

    fn policies(&self) -> &SharedPolicies {
        &self.policies
    }

    /// What is acked is stored.
    fn settle(&self) -> BoxFuture<'_, ()> {
        futures::future::ready(()).boxed()
    }

    fn retain(&self) -> BoxFuture<'_, ()> {
        async { assert!(self.log.retain().await.is_ok()) }.boxed()
    }
}

impl Sqlite {
    async fn open(directory: Option<TempDir>, clock: TestClock, options: SqliteOptions) -> Self {
        let policies = options.policies.clone();
        let log = SqliteLog::open(SqliteOptions { clock: clock.clock(), ..options }).await.unwrap();
        Sqlite { log, clock, policies, directory }
    }

    async fn reopen(self, change: impl FnOnce(&mut SqliteOptions)) -> Self {
        self.log.close().await;
        let directory = self.directory.unwrap();
        let mut options = SqliteOptions::at(directory.path());
        options.policies = self.policies;
        change(&mut options);
        drop(self.log);
        Sqlite::open(Some(directory), self.clock, options).await
    }
}

async fn in_memory(shards: ShardCount, policies: Policies) -> Sqlite {
    let options = SqliteOptions { shards, policies: policies.into(), ..SqliteOptions::in_memory() };
    Sqlite::open(None, TestClock::new(), options).await
}

async fn on_disk(shards: ShardCount, policies: Policies) -> Sqlite {
    let directory = tempfile::tempdir().unwrap();
    let options = SqliteOptions { shards, policies: policies.into(), ..SqliteOptions::at(directory.path()) };
    Sqlite::open(Some(directory), TestClock::new(), options).await
}

mod memory {
    crate::log_suite::suite!(super::in_memory);
}

mod disk {
    crate::log_suite::suite!(super::on_disk);
}

#[tokio::test]
async fn a_data_directory_goes_on_where_it_stopped() {
    let subject = on_disk(ShardCount::ONE, Policies::default()).await;
    let first = append(&subject, with_id("a", "1", "one")).await;
    let subject = subject.reopen(|_| {}).await;
    let again = append(&subject, with_id("a", "1", "one")).await;
    assert_eq!((again.position, again.duplicate), (first.position, true));
    let second = publish(&subject, "a", "2").await;
    assert_eq!((second.epoch, second.seq), (first.position.epoch, 2));
    assert_eq!(replay_all(&subject, 0, &["a"], 10, 1 << 20).await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_seq_is_never_given_out_twice() {
    let subject = on_disk(ShardCount::ONE, policies(vec![kept(">", 60)])).await;
    publish(&subject, "a", "1").await;
    subject.clock.pass(Duration::from_secs(600));
    subject.retain().await;
    let subject = subject.reopen(|_| {}).await;
    assert_eq!(publish(&subject, "a", "2").await.seq, 2);
    assert_eq!(page(&subject, 0, &["a"], 10, 1 << 20).await, Err(ResetReason::Expired));
}

#[tokio::test]
async fn another_number_of_shards_is_refused_and_changes_nothing() {
    let Sqlite { log, directory, clock, .. } = on_disk(ShardCount::ONE, Policies::default()).await;
    let old = log.append(new_entry(event("a", "old"))).await.unwrap().position;
    log.close().await;
    drop(log);
    let directory = directory.unwrap();
    let contents = || {
        let files = std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().path());
        files.map(|path| (path.clone(), std::fs::read(path).unwrap())).collect::<BTreeMap<_, _>>()
    };
    let before = contents();
    let two = SqliteOptions { shards: ShardCount::new(2).unwrap(), ..SqliteOptions::at(directory.path()) };
    // A process that another test is just starting has inherited the lock until it becomes that process.
    let error = until("the lock to be let go", PATIENCE, async || {
        SqliteLog::open(two.clone()).await.err().filter(|error| !matches!(error, OpenError::Locked(..)))
    })
    .await;
    assert!(matches!(error, OpenError::Shards { found: 1, .. }), "{error}");
    assert!(error.to_string().contains("--shards 1") && error.to_string().contains("--data"), "{error}");
    assert!(contents() == before, "the refused start changed the directory");
    let options = SqliteOptions::at(directory.path());
    let kept = Sqlite::open(Some(directory), clock, options).await;
    assert_eq!(publish(&kept, "a", "more").await.epoch, old.epoch);
    assert_eq!(replay_all(&kept, 0, &["a"], 10, 1 << 20).await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_data_directory_has_one_process() {
    let subject = on_disk(ShardCount::ONE, Policies::default()).await;
    let path = subject.directory.as_ref().unwrap().path();
    let second = SqliteLog::open(SqliteOptions::at(path)).await;
    assert!(matches!(second.err(), Some(OpenError::Locked(locked)) if locked == path));
}

#[tokio::test]
async fn a_database_of_a_later_version_is_refused() {
    use sqlx::Connection;
    let subject = on_disk(ShardCount::ONE, Policies::default()).await;
    let Sqlite { log, directory, .. } = subject;
    log.close().await;
    drop(log);
    let path = directory.as_ref().unwrap().path();
    let url = format!("sqlite://{}", path.join("foghorn.db").display());
    let mut connection = sqlx::SqliteConnection::connect(&url).await.unwrap();
    sqlx::query("PRAGMA user_version = 99").execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    let error = SqliteLog::open(SqliteOptions::at(path)).await.err().unwrap();
    assert!(matches!(error, OpenError::Newer { found: 99, .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_and_recovers_by_itself() {
    let directory = tempfile::tempdir().unwrap();
    let options = SqliteOptions {
        max_bytes: Some(2 << 20),
        policies: policies(vec![kept(">", 60)]).into(),
        ..SqliteOptions::at(directory.path())
    };
    let subject = Sqlite::open(Some(directory), TestClock::new(), options).await;
    let big = "x".repeat(100_000);
    let mut stored = 0;
    let refused = loop {
        match subject.log.append(new_entry(event("a", &big))).await {
            Ok(appended) => stored = appended.position.seq,
            Err(error) => break error,
        }
        assert!(stored < 100, "2 MiB hold no 100 events of 100 kB");
    };
    assert_eq!(refused, AppendError::Full(Shard::ZERO));
    assert_eq!(subject.log.bounds(Shard::ZERO).await.unwrap().last, stored, "what failed left nothing");
    let all = replay_all(&subject, 0, &["a"], 10, 1 << 20).await.unwrap();
    assert_eq!(all.len() as u64, stored, "what was acked is there");
    subject.clock.pass(Duration::from_secs(600));
    subject.retain().await;
    assert_eq!(publish(&subject, "a", &big).await.seq, stored + 1);
}

#[tokio::test]
async fn in_memory_the_oldest_make_room_and_that_is_told() {
    let options = SqliteOptions { max_bytes: Some(4 << 20), ..SqliteOptions::in_memory() };
    let subject = Sqlite::open(None, TestClock::new(), options).await;
    let big = "x".repeat(50_000);
    for _ in 0..4 {
        for _ in 0..40 {
            publish(&subject, "a", &big).await;
        }
        subject.retain().await;
    }
    assert_eq!(page(&subject, 0, &["a"], 10, 1 << 20).await, Err(ResetReason::Expired));
    assert_eq!(publish(&subject, "a", "last").await.seq, 161);
}

#[tokio::test]
async fn ids_are_forgotten_after_their_window() {
    let subject = in_memory(ShardCount::ONE, Policies::default()).await;
    append(&subject, with_id("a", "x", "1")).await;
    subject.clock.pass(Duration::from_secs(119));
    assert!(append(&subject, with_id("a", "x", "1")).await.duplicate);
    subject.clock.pass(Duration::from_secs(2));
    assert!(!append(&subject, with_id("a", "x", "1")).await.duplicate);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_falls_behind_reads_the_database() {
    let subject = in_memory(ShardCount::ONE, Policies::default()).await;
    let mut tail = subject.log.tail(at(&subject, 0).await);
    // More than the tail in memory holds.
    let big = "x".repeat(100_000);
    let all = (0..100).map(|_| publish(&subject, "a", &big));
    let mut seqs: Vec<u64> = futures::future::join_all(all).await.iter().map(|at| at.seq).collect();
    seqs.sort_unstable();
    assert_eq!(seqs, (1..=100).collect::<Vec<_>>());
    for seq in seqs {
        assert_eq!(tail.next().await.unwrap().unwrap().seq, seq);
    }
}

#[tokio::test]
async fn times_never_go_back() {
    let subject = on_disk(ShardCount::ONE, Policies::default()).await;
    publish(&subject, "a", "1").await;
    let before = subject.clock.now();
    let subject = Sqlite { clock: TestClock::new(), ..subject };
    let subject = subject.reopen(|_| {}).await;
    publish(&subject, "a", "2").await;
    let mut tail = subject.log.tail(at(&subject, 0).await);
    let (first, second) = (tail.next().await.unwrap().unwrap(), tail.next().await.unwrap().unwrap());
    assert!(first.time <= second.time && first.time == before);
}
