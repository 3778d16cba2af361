//! Journal and event log of standalone: one SQLite database, or one in memory.
//!
//! An event is acked when its transaction is synced (`synchronous=FULL`); what waits meanwhile goes
//! into the next transaction, so the cost of a sync is shared. Readers have connections of their own
//! and see committed events only.

mod journal;
mod log;
mod open;
mod queue;
mod retention;
mod rows;
mod script;
mod tail;
mod transaction;
mod writer;

use std::path::PathBuf;
use std::sync::Arc;

use foghorn_core::position::Epoch;
use foghorn_core::shard::{Shard, ShardCount};
use sqlx::SqlitePool;
use tokio::sync::watch;

use crate::metrics::Metrics;
use foghorn_bus::clock::Clock;
use foghorn_bus::policies::SharedPolicies;

pub use open::OpenError;
pub use transaction::TransactError;

/// How to open a [`SqliteLog`].
#[derive(Debug, Clone)]
pub struct SqliteOptions {
    /// The data directory, made when it isn't there. None: in memory, gone with the process.
    pub path: Option<PathBuf>,
    /// How many sequences. A data directory made for another number is refused.
    pub shards: ShardCount,
    /// Most bytes of an encoded frame; longer events are refused.
    pub frame_bytes: usize,
    /// How long events are kept, and what is replayed.
    pub policies: SharedPolicies,
    /// Most bytes of the database. On disk, appends are refused at the bound until retention has made
    /// room; in memory, retention also drops the oldest events when little is left. None: what the disk
    /// holds.
    pub max_bytes: Option<u64>,
    /// Where journal times come from.
    pub clock: Clock,
    /// What is counted.
    pub metrics: Metrics,
}

/// Bounds an in-memory database unless set otherwise: 512 MiB.
pub const MEMORY_BYTES_DEFAULT: u64 = 512 * 1024 * 1024;

/// Journal and event log of standalone. Clones share it; the last one to go ends it.
#[derive(Clone)]
pub struct SqliteLog {
    inner: Arc<Inner>,
}

struct Inner {
    shards: ShardCount,
    frame_bytes: usize,
    policies: SharedPolicies,
    clock: Clock,
    metrics: Metrics,
    /// In memory one connection is the database, for writer and readers alike.
    write: SqlitePool,
    read: SqlitePool,
    in_memory: bool,
    queue: queue::Queue,
    heads: Vec<Head>,
    /// Keeps other processes out of the data directory.
    _lock: Option<std::fs::File>,
}

/// The end of a shard's journal, as readers see it.
struct Head {
    epoch: Epoch,
    /// The seq before the first of the epoch.
    start: u64,
    last: watch::Sender<u64>,
    tail: tail::Tail,
}

impl SqliteOptions {
    /// In memory, one shard, everything else by default.
    pub fn in_memory() -> Self {
        SqliteOptions {
            path: None,
            shards: ShardCount::ONE,
            frame_bytes: foghorn_core::event::FRAME_BYTES_DEFAULT,
            policies: SharedPolicies::default(),
            max_bytes: Some(MEMORY_BYTES_DEFAULT),
            clock: Clock::default(),
            metrics: Metrics::default(),
        }
    }

    /// In a data directory, everything else by default.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        SqliteOptions { path: Some(path.into()), max_bytes: None, ..SqliteOptions::in_memory() }
    }
}

impl SqliteLog {
    /// Opens the database, makes or migrates it as needed, and starts its writer.
    pub async fn open(options: SqliteOptions) -> Result<Self, OpenError> {
        open::open(options).await
    }

    /// Deletes what retention no longer keeps, until dropped. One task should run it, always.
    pub async fn run_retention(&self) {
        retention::run(&self.inner).await;
    }

    /// One round of retention, as [`run_retention`](Self::run_retention) does every few seconds; how many
    /// events it deleted.
    pub async fn retain(&self) -> Result<u64, foghorn_bus::log::LogError> {
        retention::round(&self.inner).await.map_err(|error| rows::log_error("retention", &error))
    }

    /// Refuses further appends, finishes those that wait, and closes the database.
    pub async fn close(&self) {
        self.inner.queue.close().await;
        self.inner.read.close().await;
        self.inner.write.close().await;
    }
}

impl Inner {
    fn head(&self, shard: Shard) -> &Head {
        // A `Shard` is below the cluster's count by construction; a foreign one reads the last.
        &self.heads[shard.index().min(self.heads.len() - 1)]
    }
}

impl Head {
    fn last(&self) -> u64 {
        *self.last.borrow()
    }
}
