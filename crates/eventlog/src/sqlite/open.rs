//! Opening a data directory: its lock, its schema, its epochs.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use foghorn_core::position::Epoch;
use foghorn_core::shard::ShardCount;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Connection as _, SqliteConnection, SqlitePool};
use tokio::sync::watch;

use super::queue::Queue;
use super::tail::Tail;
use super::writer::{ShardEnd, Writer};
use super::{Head, Inner, SqliteLog, SqliteOptions};
use crate::record::{to_i64, to_u64};
use crate::standing::era_text;
use foghorn_bus::clock::Clock;

const SCHEMA: &str = include_str!("schema.sql");
const SCHEMA_VERSION: i64 = 1;
/// Connections for readers; a replay holds one for a page.
const READERS: u32 = 4;

/// Why a data directory can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error(
        "the data directory {0} is in use by another process: stop that one, or give this one a directory of its own with --data"
    )]
    Locked(PathBuf),
    /// It was written by a later Foghorn.
    #[error(
        "the database {path} has schema version {found}, this binary knows version {known}: run the Foghorn that wrote it, or a later one"
    )]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The binary's.
        known: i64,
    },
    /// Its events are in another number of shards, and no position of these would mean anything.
    #[error(
        "the data directory {path} has {found} shard(s), and {asked} are asked for: start with --shards {found}, or give this number a directory of its own with --data. Nothing was changed"
    )]
    Shards {
        /// The directory.
        path: PathBuf,
        /// How many it has.
        found: i64,
        /// How many were asked for.
        asked: u8,
    },
    /// The directory or the lock can't be used.
    #[error("the data directory {path} can't be used: {error}")]
    Io {
        /// The directory.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// SQLite says no.
    #[error("the database {path} can't be opened: {error}")]
    Sqlite {
        /// The database.
        path: PathBuf,
        /// Why.
        error: sqlx::Error,
    },
    /// The policies can't be stored.
    #[error(transparent)]
    Policies(#[from] foghorn_bus::log::LogError),
}

pub(super) async fn open(options: SqliteOptions) -> Result<SqliteLog, OpenError> {
    let lock = options.path.as_deref().map(lock).transpose()?;
    let path =
        options.path.as_ref().map_or_else(|| PathBuf::from("in memory"), |path| path.join("foghorn.db"));
    let sqlite = |error: sqlx::Error| OpenError::Sqlite { path: path.clone(), error };

    let found = match options.path.as_deref().filter(|_| path.exists()) {
        Some(directory) => look(&path, directory).await.map_err(sqlite)?,
        None => Found::default(),
    };
    if found.version > SCHEMA_VERSION {
        return Err(OpenError::Newer { path, found: found.version, known: SCHEMA_VERSION });
    }
    if let (Some(shards), Some(directory)) = (found.shards, &options.path)
        && shards != i64::from(options.shards.get())
    {
        return Err(OpenError::Shards {
            path: directory.clone(),
            found: shards,
            asked: options.shards.get(),
        });
    }

    let (write, read) = connect(&options).await.map_err(sqlite)?;
    let mut connection = write.acquire().await.map_err(sqlite)?;
    let era = era_text(&options.policies.get())?;
    let ends = prepare(&mut connection, options.shards, &options.clock).await.map_err(sqlite)?;
    drop(connection);

    let heads = ends.iter().map(|end| Head {
        epoch: end.epoch,
        start: end.start,
        last: watch::Sender::new(end.last),
        tail: Tail::default(),
    });
    options.metrics.of_shards(options.shards);
    let (queue, waiting) = Queue::new(options.metrics.clone());
    let inner = Arc::new(Inner {
        shards: options.shards,
        frame_bytes: options.frame_bytes,
        policies: options.policies,
        clock: options.clock,
        metrics: options.metrics,
        write,
        read,
        in_memory: options.path.is_none(),
        queue,
        heads: heads.collect(),
        _lock: lock,
    });
    // The writer ends with the last handle: it holds no strong one while it waits.
    tokio::spawn(Writer::new(Arc::downgrade(&inner), waiting, ends, era).run());
    Ok(SqliteLog { inner })
}

fn lock(path: &Path) -> Result<File, OpenError> {
    let io = |error| OpenError::Io { path: path.to_owned(), error };
    let missing: Vec<&Path> = path.ancestors().take_while(|folder| !folder.exists()).collect();
    std::fs::create_dir_all(path).map_err(io)?;
    for made in missing {
        // A folder whose own parent is not synced may be gone after a loss of power, with all that is in it.
        sync(made.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")))
            .map_err(io)?;
    }
    let file = File::options()
        .create(true)
        .write(true)
        .truncate(false)
        .open(path.join("foghorn.lock"))
        .map_err(io)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(OpenError::Locked(path.to_owned())),
        Err(TryLockError::Error(error)) => return Err(io(error)),
    }
    // A process that was killed may have written a transaction without syncing it. It reads as committed from
    // now on, and is told to listeners and to publishers who try again, so it has to be on the disk.
    for name in ["foghorn.db", "foghorn.db-wal"] {
        match sync(&path.join(name)) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            synced => synced.map_err(io)?,
        }
    }
    sync(path).map_err(io)?;
    Ok(file)
}

fn sync(path: &Path) -> std::io::Result<()> {
    File::open(path)?.sync_all()
}

/// What a database is, as far as it decides whether it may be touched.
#[derive(Debug, Default)]
struct Found {
    /// 0: it has no schema yet.
    version: i64,
    shards: Option<i64>,
}

/// Reads the database without changing a byte of the directory: it may be meant for another process.
async fn look(database: &Path, directory: &Path) -> sqlx::Result<Found> {
    // Without a log there is nothing to recover, and SQLite needs no files of its own beside it to read.
    let whole = !directory.join("foghorn.db-wal").exists();
    let options = SqliteConnectOptions::new().filename(database).read_only(true).immutable(whole);
    let mut connection = SqliteConnection::connect_with(&options).await?;
    let version: i64 = sqlx::query_scalar("PRAGMA user_version").fetch_one(&mut connection).await?;
    // Later versions may keep it elsewhere.
    let shards = match version {
        SCHEMA_VERSION => {
            sqlx::query_scalar("SELECT shards FROM layout").fetch_optional(&mut connection).await?
        }
        _ => None,
    };
    connection.close().await?;
    Ok(Found { version, shards })
}

async fn connect(options: &SqliteOptions) -> sqlx::Result<(SqlitePool, SqlitePool)> {
    const PAGE_BYTES: u64 = 4096;
    let pages = options.max_bytes.map(|bytes| (bytes / PAGE_BYTES).clamp(32, u64::from(u32::MAX) - 1));
    let mut base = SqliteConnectOptions::new()
        .page_size(4096)
        .foreign_keys(false)
        .busy_timeout(Duration::from_secs(5))
        .pragma("cache_size", "-16384");
    if let Some(pages) = pages {
        base = base.pragma("max_page_count", pages.to_string());
    }
    // A connection of a pool isn't replaced with age: the in-memory one *is* the database.
    let pool = |most: u32| {
        SqlitePoolOptions::new()
            .min_connections(1)
            .max_connections(most)
            .idle_timeout(None)
            .max_lifetime(None)
            .test_before_acquire(false)
            .acquire_timeout(Duration::from_secs(10))
    };
    let Some(path) = &options.path else {
        let only = pool(1).connect_with(base.filename(":memory:")).await?;
        return Ok((only.clone(), only));
    };
    let file = base
        .filename(path.join("foghorn.db"))
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        // Keeps a WAL that a burst has grown from staying that large.
        .pragma("journal_size_limit", "67108864");
    let write = pool(1).connect_with(file.clone()).await?;
    let read = pool(READERS).connect_with(file.pragma("query_only", "ON")).await?;
    Ok((write, read))
}

/// Makes the schema where there is none, and says where each shard goes on.
async fn prepare(
    connection: &mut SqliteConnection,
    shards: ShardCount,
    clock: &Clock,
) -> sqlx::Result<Vec<ShardEnd>> {
    let mut tx = connection.begin().await?;
    let version: i64 = sqlx::query_scalar("PRAGMA user_version").fetch_one(&mut *tx).await?;
    if version == 0 {
        sqlx::raw_sql(SCHEMA).execute(&mut *tx).await?;
        begin_epochs(&mut tx, shards, clock).await?;
    }
    let rows: Vec<(i64, i64, i64, i64)> =
        sqlx::query_as("SELECT epoch, start, last, time_us FROM shards WHERE shard < ? ORDER BY shard")
            .bind(i64::from(shards.get()))
            .fetch_all(&mut *tx)
            .await?;
    tx.commit().await?;
    let ends = rows.into_iter().map(|(epoch, start, last, time_us)| ShardEnd {
        epoch: Epoch::new(to_u64(epoch)),
        start: to_u64(start),
        last: to_u64(last),
        time_us,
    });
    Ok(ends.collect())
}

/// A channel's shard depends on how many there are, so the number is settled with the first epoch.
async fn begin_epochs(tx: &mut SqliteConnection, shards: ShardCount, clock: &Clock) -> sqlx::Result<()> {
    let now = clock.now();
    // Milliseconds where a cluster counts seconds: nothing outside remembers the epoch of a directory that
    // was deleted or of a process that kept nothing, and two starts within a second must not share one.
    let millis = u64::try_from(now.as_micros() / 1000).unwrap_or(0);
    let epoch = Epoch::next(None, millis);
    for shard in shards.shards() {
        sqlx::query("INSERT INTO shards (shard, epoch, start, last, time_us) VALUES (?, ?, 0, 0, ?)")
            .bind(i64::from(shard.get()))
            .bind(to_i64(epoch.get()))
            .bind(now.as_micros())
            .execute(&mut *tx)
            .await?;
    }
    sqlx::query("INSERT INTO layout (shards) VALUES (?)").bind(i64::from(shards.get())).execute(tx).await?;
    Ok(())
}
