//! The event log of a cluster, on PostgreSQL.
//!
//! [`writer::Writer`] copies a shard's journal into it, [`retention::Retention`] drops what is no longer
//! kept, and [`PostgresLog`] answers readers: from PostgreSQL and, for what is not committed yet, from the
//! journal. Any number of processes may run all three; leases keep work from being done twice, and
//! compare-and-set in SQL keeps it from being wrong when they don't.

mod append;
mod breaker;
mod chores;
mod connection;
mod doubts;
mod explain;
mod log;
mod measure;
mod migrate;
mod partitions;
mod recent;
mod regress;
mod replay;
mod resend;
mod rows;
mod state;

pub mod retention;
pub mod tables;
pub mod writer;

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use foghorn_core::position::Epoch;
use foghorn_core::shard::{SHARDS_MAX, Shard};
use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use tokio::sync::watch;

use breaker::Breaker;
use connection::Store;

pub use explain::words;
pub use log::PostgresLog;
pub use migrate::{MigrateError, Migrated, is_passing, migrate, migrate_by};

/// Longest that a reader waits for a connection. This and [`READ_DEADLINE`] together leave time to ask the
/// journal instead, within the 5 s that clients give a replica.
const READ_ACQUIRE: Duration = Duration::from_millis(500);
/// Longest that a reader's statement may take, in PostgreSQL.
const READ_STATEMENT: Duration = Duration::from_millis(2500);
/// Longest that a reader waits for all of its statements: PostgreSQL may not be there to end them.
const READ_DEADLINE: Duration = Duration::from_secs(3);
/// Longest that a writer waits for a connection.
const WRITE_ACQUIRE: Duration = Duration::from_secs(5);
/// Longest that a statement of the writer's may take, in PostgreSQL and as seen from here.
const WRITE_STATEMENT: Duration = Duration::from_secs(20);
const WRITE_DEADLINE: Duration = Duration::from_secs(25);
/// Longest that the end of a process waits for its connections to be closed.
const CLOSE_MOST: Duration = Duration::from_secs(2);

/// How to reach PostgreSQL.
#[derive(Debug, Clone)]
pub struct PostgresOptions {
    /// `postgres://user:password@host:port/database?sslmode=…`
    pub url: String,
    /// Most connections for readers. Writers have one each besides, retention one.
    pub readers: u32,
}

/// Connections to PostgreSQL, made when needed, and what this process knows of the log's heads. Clones
/// share them.
#[derive(Debug, Clone)]
pub struct Database {
    store: Store,
    breaker: Arc<Breaker>,
    heads: Arc<Vec<watch::Sender<Head>>>,
}

/// How far the log is known to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Head {
    epoch: Epoch,
    seq: u64,
}

impl PostgresOptions {
    /// With 16 connections for readers.
    pub fn new(url: impl Into<String>) -> Self {
        PostgresOptions { url: url.into(), readers: 16 }
    }

    /// Where the database is, as errors name it: host and port, or socket, and the database's name. Never
    /// the user or the password.
    pub fn place(&self) -> String {
        let Ok(options) = PgConnectOptions::from_str(&self.url) else {
            return "an unreadable URL".to_owned();
        };
        let server = match options.get_socket() {
            Some(socket) => socket.display().to_string(),
            None => format!("{}:{}", options.get_host(), options.get_port()),
        };
        format!("{server} (database {})", options.get_database().unwrap_or(options.get_username()))
    }
}

impl Database {
    /// Does not connect yet; an error means that the URL makes no sense.
    pub fn new(options: &PostgresOptions) -> Result<Self, sqlx::Error> {
        let base = PgConnectOptions::from_str(&options.url)?;
        let pool = |application: &str, acquire: Duration, statement: Duration, most: u32| {
            let connect = base.clone().application_name(application).options([
                ("statement_timeout", format!("{}ms", statement.as_millis())),
                ("lock_timeout", format!("{}ms", statement.as_millis() / 2)),
                ("idle_in_transaction_session_timeout", "60s".to_owned()),
            ]);
            PgPoolOptions::new()
                .max_connections(most)
                .acquire_timeout(acquire)
                .max_lifetime(Duration::from_secs(30 * 60))
                .connect_lazy_with(connect)
        };
        Ok(Database::on(Store::Postgres {
            write: pool("foghorn-eventlog-writer", WRITE_ACQUIRE, WRITE_STATEMENT, u32::from(SHARDS_MAX) + 2),
            read: pool("foghorn-eventlog-reader", READ_ACQUIRE, READ_STATEMENT, options.readers.max(1)),
        }))
    }

    fn on(store: Store) -> Self {
        let none = Head { epoch: Epoch::new(0), seq: 0 };
        let heads = Arc::new((0..SHARDS_MAX).map(|_| watch::Sender::new(none)).collect());
        Database { store, breaker: Arc::default(), heads }
    }

    /// PostgreSQL itself, for what only it can do.
    fn pool(&self) -> sqlx::Result<&PgPool> {
        match &self.store {
            Store::Postgres { write, .. } => Ok(write),
            Store::Memory(_) => Err(sqlx::Error::Configuration("these tables are in memory".into())),
        }
    }

    /// Closes every connection; those that a PostgreSQL which hangs keeps busy end with the process.
    pub async fn close(&self) {
        if let Store::Postgres { write, read } = &self.store {
            let both = async { tokio::join!(read.close(), write.close()) };
            if tokio::time::timeout(CLOSE_MOST, both).await.is_err() {
                tracing::warn!("PostgreSQL does not let go of its connections; leaving them open");
            }
        }
    }

    fn head(&self, shard: Shard) -> &watch::Sender<Head> {
        // There are as many as there can be shards.
        &self.heads[shard.index().min(self.heads.len() - 1)]
    }

    /// Takes the head for what PostgreSQL says now, also where that is less: it may have been restored from
    /// a backup.
    fn set_head(&self, shard: Shard, now: Head) {
        self.head(shard).send_if_modified(|head| std::mem::replace(head, now) != now);
    }

    /// Takes note of a head that was seen. It only goes forward.
    fn saw_head(&self, shard: Shard, seen: Head) {
        self.head(shard).send_if_modified(|head| {
            let newer = (seen.epoch, seen.seq) > (head.epoch, head.seq);
            if newer {
                *head = seen;
            }
            newer
        });
    }
}
