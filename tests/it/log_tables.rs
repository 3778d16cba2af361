//! The tables in memory that simulations run on do what PostgreSQL does: the common behaviour, with the same
//! writer and the same readers.

use std::sync::Arc;

use foghorn_bus::Future;
use foghorn_bus::journal::Journal;
use foghorn_bus::log::EventLog;
use foghorn_bus::memory::MemoryLeases;
use foghorn_bus::policies::SharedPolicies;
use foghorn_core::policy::Policies;
use foghorn_core::shard::ShardCount;
use foghorn_eventlog::metrics::Metrics;
use foghorn_eventlog::postgres::PostgresLog;
use foghorn_eventlog::postgres::tables::{Link, Tables};
use foghorn_eventlog::postgres::writer::{TRIM_BEHIND_DEFAULT, Writer};
use foghorn_eventlog::sqlite::{SqliteLog, SqliteOptions};
use futures::FutureExt;
use futures::future::{BoxFuture, ready};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::log_suite::{Subject, TestClock, settled};

struct InTables {
    tables: Tables,
    journal: Arc<SqliteLog>,
    log: PostgresLog,
    clock: TestClock,
    policies: SharedPolicies,
    _writers: JoinSet<()>,
}

/// A way without delays and faults.
#[derive(Debug)]
struct Straight;

impl Link for Straight {
    fn ask(&self, _statement: &'static str) -> Future<'_, Result<(), String>> {
        ready(Ok(())).boxed()
    }

    fn answer(&self, _statement: &'static str) -> Future<'_, Result<(), String>> {
        ready(Ok(())).boxed()
    }
}

impl Subject for InTables {
    fn journal(&self) -> &dyn Journal {
        &*self.journal
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

    fn settle(&self) -> BoxFuture<'_, ()> {
        settled(&*self.journal, &self.log).boxed()
    }

    fn retain(&self) -> BoxFuture<'_, ()> {
        self.tables.expire(self.clock.now());
        ready(()).boxed()
    }
}

async fn writing(shards: ShardCount, policies: Policies) -> InTables {
    let (clock, policies, tables) = (TestClock::new(), SharedPolicies::from(policies), Tables::default());
    // The journal keeps everything, whatever the log's policies are.
    let options = SqliteOptions { shards, clock: clock.clock(), ..SqliteOptions::in_memory() };
    let journal = Arc::new(SqliteLog::open(options).await.unwrap());
    let database = tables.database(Arc::new(Straight));
    let mut writers = JoinSet::new();
    for shard in shards.shards() {
        let writer = Writer {
            shard,
            journal: journal.clone(),
            database: database.clone(),
            leases: Arc::new(MemoryLeases::new()),
            policies: policies.clone(),
            trim_behind: TRIM_BEHIND_DEFAULT,
            clock: clock.clock(),
            metrics: Metrics::default(),
        };
        writers.spawn(async move { writer.run(&CancellationToken::new()).await });
    }
    let log =
        PostgresLog::new(database, journal.clone(), policies.clone(), clock.clock(), Metrics::default());
    InTables { tables, journal, log, clock, policies, _writers: writers }
}

crate::log_suite::suite!(writing);
