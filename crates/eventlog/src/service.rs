//! The event log's service: writers, retention, and the log for others to ask.

use std::sync::Arc;
use std::time::Duration;

use foghorn_bus::backoff::{Backoff, Rarely};
use foghorn_bus::journal::Journal;
use foghorn_bus::lease::Leases;
use foghorn_bus::log::EventLog;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::postgres::retention::Retention;
use crate::postgres::writer::Writer;
use crate::postgres::{Database, MigrateError, PostgresLog, PostgresOptions, is_passing, migrate, words};
use foghorn_bus::clock::Clock;
use foghorn_bus::policies::SharedPolicies;

/// What an event log service works on.
#[derive(Clone)]
pub struct Service {
    /// Where events are kept.
    pub postgres: PostgresOptions,
    /// Where they come from.
    pub journal: Arc<dyn Journal>,
    /// Which process does what.
    pub leases: Arc<dyn Leases>,
    /// What is kept, and how long.
    pub policies: SharedPolicies,
    /// How far behind the log the journal is trimmed.
    pub trim_behind: Duration,
    /// What is counted.
    pub metrics: Metrics,
}

/// A service that runs.
pub struct Running {
    log: Arc<PostgresLog>,
    tasks: JoinSet<()>,
    stop: CancellationToken,
    database: Database,
}

impl Service {
    /// Migrates the database, waiting for it as long as it takes, and starts a writer per shard and
    /// retention. Fails when the database can't be this binary's: of a later version, or not to be changed.
    pub async fn start(self) -> Result<Running, MigrateError> {
        let database = Database::new(&self.postgres)
            .map_err(|error| MigrateError::Database { place: self.postgres.place(), error })?;
        self.metrics.of_shards(self.journal.shards());
        self.migrate().await?;
        let clock = Clock::default();
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        for shard in self.journal.shards().shards() {
            let writer = Writer {
                shard,
                journal: Arc::clone(&self.journal),
                database: database.clone(),
                leases: Arc::clone(&self.leases),
                policies: self.policies.clone(),
                trim_behind: self.trim_behind,
                clock: clock.clone(),
                metrics: self.metrics.clone(),
            };
            let stop = stop.clone();
            tasks.spawn(async move { writer.run(&stop).await });
        }
        let retention = Retention {
            database: database.clone(),
            leases: self.leases,
            clock: clock.clone(),
            metrics: self.metrics.clone(),
        };
        let stopped = stop.clone();
        tasks.spawn(async move { retention.run(&stopped).await });
        let log = PostgresLog::new(database.clone(), self.journal, self.policies, clock, self.metrics);
        Ok(Running { log: Arc::new(log), tasks, stop, database })
    }

    async fn migrate(&self) -> Result<(), MigrateError> {
        let mut backoff = Backoff::default();
        let rarely = Rarely::default();
        loop {
            let error = match migrate(&self.postgres.url).await {
                Ok(_) => return Ok(()),
                // Not there yet, as when everything starts at once. What it refuses, it will refuse again.
                Err(MigrateError::Database { error, .. }) if is_passing(&error) => error,
                Err(error) => return Err(error),
            };
            self.metrics.failed("migrate");
            if rarely.now() {
                let (place, error) = (self.postgres.place(), words(&error));
                tracing::warn!(place, error, "PostgreSQL can't be reached yet; trying again");
            }
            backoff.wait().await;
        }
    }
}

impl Running {
    /// The log that this service answers from.
    pub fn log(&self) -> Arc<dyn EventLog> {
        Arc::clone(&self.log) as Arc<dyn EventLog>
    }

    /// Gives up the leases, so that others go on at once, and closes the connections.
    pub async fn stop(mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
        self.database.close().await;
    }
}
