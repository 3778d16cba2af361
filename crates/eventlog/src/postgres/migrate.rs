//! Schemas, and which version of one this binary is for.

use std::time::Duration;

use sqlx::migrate::Migrator;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use super::PostgresOptions;
use super::explain::{migration_words, words};

const TABLE: &str = "foghorn._sqlx_migrations";
/// Longest wait for the connection and for another process that migrates.
const PATIENCE: Duration = Duration::from_secs(300);

/// What [`migrate`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Migrated {
    /// The version the schema had, 0 when there was none.
    pub from: i64,
    /// The version it has.
    pub to: i64,
    /// The names of the steps taken, in order.
    pub steps: Vec<String>,
}

/// Why the schema can't be used.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// A later Foghorn has been here.
    #[error(
        "the database has schema version {found}, this binary knows version {known}: run the Foghorn that migrated it, or a later one; migrations are never undone"
    )]
    Newer {
        /// The schema's version.
        found: i64,
        /// The binary's.
        known: i64,
    },
    /// A step failed, and left nothing behind.
    #[error("migrating the database at {place} from schema version {from} failed: {}", migration_words(.error))]
    Failed {
        /// Where it is.
        place: String,
        /// The version it had and has.
        from: i64,
        /// Why.
        error: sqlx::migrate::MigrateError,
    },
    /// PostgreSQL can't be reached or says no.
    #[error("the database can't be migrated: PostgreSQL at {place}: {}", words(.error))]
    Database {
        /// Where it is looked for.
        place: String,
        /// What it says.
        error: sqlx::Error,
    },
    /// Somebody else has been migrating all the while.
    #[error(
        "the database at {place} was not migrated within {PATIENCE:?}; is another process at it (pg_locks)?"
    )]
    Slow {
        /// Where it is.
        place: String,
    },
}

/// Brings the event log's schema up to this binary's version, one process at a time. Does nothing when it is.
pub async fn migrate(url: &str) -> Result<Migrated, MigrateError> {
    migrate_by(url, sqlx::migrate!("../../migrations"), TABLE).await
}

/// The same of other tables in the schema `foghorn`, whose steps are recorded in a table of their own.
pub async fn migrate_by(url: &str, steps: Migrator, record: &'static str) -> Result<Migrated, MigrateError> {
    let slow = |_| MigrateError::Slow { place: place(url) };
    tokio::time::timeout(PATIENCE, run(url, steps, record)).await.map_err(slow)?
}

/// Whether an error is of the connection rather than of what was asked: the database may be there later.
pub fn is_passing(error: &sqlx::Error) -> bool {
    match error {
        // 57P03: starting up or shutting down; 53300: too many connections.
        sqlx::Error::Database(error) => matches!(error.code().as_deref(), Some("57P03" | "53300" | "57P01")),
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut => true,
        _ => false,
    }
}

fn place(url: &str) -> String {
    PostgresOptions::new(url).place()
}

async fn run(url: &str, mut migrator: Migrator, record: &'static str) -> Result<Migrated, MigrateError> {
    let database = |error| MigrateError::Database { place: place(url), error };
    // A schema and a table of our own: the database may be shared with others who use sqlx.
    migrator.create_schema("foghorn");
    migrator.dangerous_set_table_name(record);
    // Reading the version and acting on it must not be torn apart by a later Foghorn: `run` checks again
    // under its lock, only with a message that helps less.
    let mut connection = PgConnection::connect(url).await.map_err(database)?;
    let from = version(&mut connection, record).await.map_err(database)?;
    let known = migrator.iter().map(|step| step.version).max().unwrap_or(0);
    if from > known {
        return Err(MigrateError::Newer { found: from, known });
    }
    let failed = |error| MigrateError::Failed { place: place(url), from, error };
    migrator.run(&mut connection).await.map_err(failed)?;
    let steps = migrator.iter().filter(|step| step.version > from);
    let steps: Vec<String> = steps.map(|step| format!("{:04} {}", step.version, step.description)).collect();
    for step in &steps {
        tracing::info!(%step, "migrated the database");
    }
    connection.close().await.map_err(database)?;
    Ok(Migrated { from, to: known, steps })
}

async fn version(connection: &mut PgConnection, record: &str) -> sqlx::Result<i64> {
    let there: bool = sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL")
        .bind(record)
        .fetch_one(&mut *connection)
        .await?;
    if !there {
        return Ok(0);
    }
    let version = format!("SELECT coalesce(max(version), 0) FROM {record} WHERE success");
    sqlx::query_scalar(AssertSqlSafe(version)).fetch_one(connection).await
}
