//! The outbox's tables, as its publisher uses them.

use std::str::FromStr;
use std::time::Duration;

use foghorn_core::position::Epoch;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPool, PgPoolOptions};
use tokio::time::Instant;

use crate::schema;

/// How long the lease outlives its last renewal, by the database's clock.
pub(crate) const LEASE: Duration = Duration::from_secs(5);
/// Most rows that are under way at a time, and about the most bytes of their data.
const ROWS_MAX: i64 = 512;
const BYTES_MAX: i64 = 4 << 20;
/// Rows are counted up to this many.
const COUNTED_MAX: i64 = 100_000;
/// Longest that a statement may take, in PostgreSQL, and that a connection is waited for.
const STATEMENT: Duration = Duration::from_secs(10);
const ACQUIRE: Duration = Duration::from_secs(3);
/// Connections: the work, the renewal, the measuring, the notifications.
const CONNECTIONS: u32 = 4;
/// What `foghorn.publish` notifies.
const DOORBELL: &str = "foghorn_outbox";

/// Connections to an outbox, made when needed. Clones share them.
#[derive(Debug, Clone)]
pub struct Outbox {
    pool: PgPool,
    holder: String,
}

/// What is wrong with an outbox.
#[derive(Debug, thiserror::Error)]
pub enum OutboxError {
    /// The database can't be reached, or says no.
    #[error("PostgreSQL: {0}")]
    Database(#[from] sqlx::Error),
    /// There are no tables yet, or those of an earlier version.
    #[error(
        "the outbox has schema version {found} there, this binary needs {needed}: run `foghorn outbox install`"
    )]
    Older {
        /// The schema's version, 0 for none.
        found: i64,
        /// The binary's.
        needed: i64,
    },
    /// A later Foghorn has been here.
    #[error("the outbox has schema version {found} there, this binary knows {known}: run a later Foghorn")]
    Newer {
        /// The schema's version.
        found: i64,
        /// The binary's.
        known: i64,
    },
    /// Somebody else drains it now.
    #[error("another outbox publisher has taken over")]
    Fenced,
}

/// An event that waits.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub(crate) struct Row {
    pub(crate) serial: i64,
    pub(crate) channel: String,
    #[sqlx(rename = "type")]
    pub(crate) event_type: Option<String>,
    pub(crate) data: String,
    pub(crate) id: String,
    pub(crate) ttl: Option<i32>,
    /// From the call to when the row was read.
    #[sqlx(try_from = "Seconds")]
    pub(crate) age: Duration,
}

/// A span as PostgreSQL gives it; a clock that was set back makes it negative, which counts as none.
#[derive(Debug, Clone, Copy, sqlx::Type)]
#[sqlx(transparent)]
pub(crate) struct Seconds(f64);

impl From<Seconds> for Duration {
    fn from(seconds: Seconds) -> Self {
        Duration::try_from_secs_f64(seconds.0).unwrap_or_default()
    }
}

/// What is about to be tried, or was and is not known to have ended.
#[derive(Debug, Clone)]
pub(crate) struct Attempt {
    pub(crate) rows: Vec<Row>,
    pub(crate) tips: Vec<Tip>,
    /// When the rows were read.
    pub(crate) read_at: Instant,
}

/// Where a shard's journal ended before something was tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tip {
    pub(crate) epoch: Epoch,
    pub(crate) seq: u64,
}

/// What waits, for those who watch.
#[derive(Debug, Clone, Copy, PartialEq, sqlx::FromRow)]
pub(crate) struct Backlog {
    /// Rows that wait, up to [`COUNTED_MAX`] and one.
    pub(crate) waiting: i64,
    /// For how long the first of them has, in seconds; 0 when there is none.
    pub(crate) age: f64,
    /// Rows that were set aside, likewise counted.
    pub(crate) rejected: i64,
}

/// A lease that was taken over.
#[derive(Debug)]
pub(crate) struct Takeover {
    /// Above that of every holder before.
    pub(crate) term: i64,
    /// What the outbox is known by in the journal.
    pub(crate) name: String,
    /// What was left over.
    pub(crate) attempt: Attempt,
}

#[derive(sqlx::FromRow)]
struct Taken {
    term: i64,
    name: String,
    attempted: Vec<i64>,
    epochs: Vec<i64>,
    seqs: Vec<i64>,
}

impl Outbox {
    /// Does not connect yet; an error means that the URL makes no sense.
    pub fn new(url: &str) -> Result<Self, sqlx::Error> {
        let connect = PgConnectOptions::from_str(url)?.application_name("foghorn-outbox").options([
            ("statement_timeout", format!("{}ms", STATEMENT.as_millis())),
            ("lock_timeout", format!("{}ms", STATEMENT.as_millis() / 2)),
            ("idle_in_transaction_session_timeout", "60s".to_owned()),
            // Whatever the database's default is: statements here wait for each other's rows, and go on.
            ("default_transaction_isolation", "read committed".to_owned()),
        ]);
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS)
            .acquire_timeout(ACQUIRE)
            .max_lifetime(Duration::from_secs(30 * 60))
            .connect_lazy_with(connect);
        Ok(Outbox { pool, holder: format!("{:032x}", rand::random::<u128>()) })
    }

    /// An error unless the tables are there, in this binary's version.
    pub async fn check(&self) -> Result<(), OutboxError> {
        let needed = schema::version();
        let there: bool = sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL")
            .bind(schema::RECORD)
            .fetch_one(&self.pool)
            .await?;
        let found: i64 = if there {
            let version = "SELECT coalesce(max(version), 0) FROM foghorn._outbox_migrations WHERE success";
            sqlx::query_scalar(version).fetch_one(&self.pool).await?
        } else {
            0
        };
        match found {
            found if found < needed => Err(OutboxError::Older { found, needed }),
            found if found > needed => Err(OutboxError::Newer { found, known: needed }),
            _ => Ok(()),
        }
    }

    /// Takes over, if nobody else holds the lease.
    pub(crate) async fn take_over(&self) -> Result<Option<Takeover>, OutboxError> {
        let taken: Option<Taken> = sqlx::query_as(
            "UPDATE foghorn.outbox_state
             SET term = term + 1, holder = $1, until = clock_timestamp() + make_interval(secs => $2), asleep = false
             WHERE holder = $1 OR until < clock_timestamp()
             RETURNING term, name::text AS name, attempted, epochs, seqs",
        )
        .bind(&self.holder)
        .bind(LEASE.as_secs_f64())
        .fetch_optional(&self.pool)
        .await?;
        let (Some(taken), read_at) = (taken, Instant::now()) else { return Ok(None) };
        let tips = taken
            .epochs
            .iter()
            .zip(&taken.seqs)
            .map(|(epoch, seq)| Tip { epoch: Epoch::new(epoch.unsigned_abs()), seq: seq.unsigned_abs() });
        let rows = if taken.attempted.is_empty() {
            Vec::new()
        } else {
            sqlx::query_as(
                "SELECT serial, channel, type, data, id, ttl, extract(epoch FROM clock_timestamp() - at)::float8 AS age
                 FROM foghorn.outbox WHERE serial = ANY($1) ORDER BY serial",
            )
            .bind(&taken.attempted)
            .fetch_all(&self.pool)
            .await?
        };
        let attempt = Attempt { rows, tips: tips.collect(), read_at };
        Ok(Some(Takeover { term: taken.term, name: taken.name, attempt }))
    }

    /// Keeps the lease for another [`LEASE`].
    pub(crate) async fn renew(&self, term: i64) -> Result<(), OutboxError> {
        let renewed = sqlx::query(
            "UPDATE foghorn.outbox_state SET until = clock_timestamp() + make_interval(secs => $2) WHERE term = $1",
        );
        held(renewed.bind(term).bind(LEASE.as_secs_f64()).execute(&self.pool).await?.rows_affected())
    }

    /// Gives the lease up, so that another need not wait for its end.
    pub(crate) async fn release(&self, term: i64) -> Result<(), OutboxError> {
        let released = sqlx::query(
            "UPDATE foghorn.outbox_state SET until = '-infinity', asleep = false WHERE term = $1",
        );
        held(released.bind(term).execute(&self.pool).await?.rows_affected())
    }

    /// Has transactions notify from now on, until something is taken.
    pub(crate) async fn ask_to_be_notified(&self, term: i64) -> Result<(), OutboxError> {
        let said = sqlx::query("UPDATE foghorn.outbox_state SET asleep = true WHERE term = $1");
        held(said.bind(term).execute(&self.pool).await?.rows_affected())
    }

    /// Whether anything waits.
    pub(crate) async fn has_some(&self) -> Result<bool, OutboxError> {
        Ok(sqlx::query_scalar("SELECT EXISTS (SELECT FROM foghorn.outbox)").fetch_one(&self.pool).await?)
    }

    /// The first rows there are, written down as attempted with where the journal ends.
    ///
    /// Never by a serial that was seen last: a transaction that began long ago may still bring lower ones. Of
    /// one channel it can't, see `foghorn.publish`.
    pub(crate) async fn take(&self, term: i64, tips: Vec<Tip>) -> Result<Attempt, OutboxError> {
        #[derive(sqlx::FromRow)]
        struct Perhaps {
            serial: Option<i64>,
            channel: Option<String>,
            r#type: Option<String>,
            data: Option<String>,
            id: Option<String>,
            ttl: Option<i32>,
            age: Option<f64>,
        }
        let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let taken: Vec<Perhaps> = sqlx::query_as(
            "WITH batch AS MATERIALIZED (
                 SELECT serial, channel, type, data, id, ttl, at
                 FROM (SELECT *, sum(octet_length(data)) OVER (ORDER BY serial) - octet_length(data) AS before
                       FROM (SELECT * FROM foghorn.outbox ORDER BY serial LIMIT $2) AS first) AS counted
                 WHERE before < $3
             ), held AS (
                 UPDATE foghorn.outbox_state
                 SET attempted = (SELECT coalesce(array_agg(serial), '{}') FROM batch),
                     epochs = $4, seqs = $5, asleep = false
                 WHERE term = $1 RETURNING one
             )
             SELECT serial, channel, type, data, id, ttl, extract(epoch FROM clock_timestamp() - at)::float8 AS age
             FROM held LEFT JOIN batch ON true ORDER BY serial",
        )
        .bind(term)
        .bind(ROWS_MAX)
        .bind(BYTES_MAX)
        .bind(tips.iter().map(|tip| number(tip.epoch.get())).collect::<Vec<_>>())
        .bind(tips.iter().map(|tip| number(tip.seq)).collect::<Vec<_>>())
        .fetch_all(&self.pool)
        .await?;
        // Held and nothing there is one row of nothing.
        held(taken.len() as u64)?;
        let row = |row: Perhaps| {
            Some(Row {
                serial: row.serial?,
                channel: row.channel?,
                event_type: row.r#type,
                data: row.data?,
                id: row.id?,
                ttl: row.ttl,
                age: Seconds(row.age?).into(),
            })
        };
        Ok(Attempt { rows: taken.into_iter().filter_map(row).collect(), tips, read_at: Instant::now() })
    }

    /// Deletes what needs no more to be done, and leaves only `left` as attempted.
    pub(crate) async fn settle(&self, term: i64, done: &[i64], left: &[i64]) -> Result<(), OutboxError> {
        let settled: Option<bool> = sqlx::query_scalar(
            "WITH held AS (
                 UPDATE foghorn.outbox_state SET attempted = $2, drained = greatest(drained, $3)
                 WHERE term = $1 RETURNING one
             ), gone AS (DELETE FROM foghorn.outbox USING held WHERE serial = ANY($4))
             SELECT one FROM held",
        )
        .bind(term)
        .bind(left)
        .bind(done.iter().copied().max().unwrap_or(0))
        .bind(done)
        .fetch_optional(&self.pool)
        .await?;
        held(u64::from(settled.is_some()))
    }

    /// Moves a row to where it holds up nobody.
    pub(crate) async fn set_aside(&self, term: i64, serial: i64, reason: &str) -> Result<(), OutboxError> {
        let moved: Option<bool> = sqlx::query_scalar(
            "WITH held AS (
                 UPDATE foghorn.outbox_state SET drained = greatest(drained, $2) WHERE term = $1 RETURNING one
             ), gone AS (
                 DELETE FROM foghorn.outbox USING held WHERE serial = $2
                 RETURNING serial, channel, type, data, id, ttl, at
             ), moved AS (
                 INSERT INTO foghorn.outbox_rejected (serial, channel, type, data, id, ttl, at, reason)
                 SELECT gone.*, $3 FROM gone
             )
             SELECT one FROM held",
        )
        .bind(term)
        .bind(serial)
        .bind(reason)
        .fetch_optional(&self.pool)
        .await?;
        held(u64::from(moved.is_some()))
    }

    /// What waits now.
    pub(crate) async fn backlog(&self) -> Result<Backlog, OutboxError> {
        let backlog = sqlx::query_as(
            "SELECT (SELECT count(*) FROM (SELECT FROM foghorn.outbox LIMIT $1) AS counted) AS waiting,
                    (SELECT coalesce(
                         (SELECT greatest(extract(epoch FROM clock_timestamp() - at), 0)::float8
                          FROM foghorn.outbox ORDER BY serial LIMIT 1), 0::float8)) AS age,
                    (SELECT count(*) FROM (SELECT FROM foghorn.outbox_rejected LIMIT $1) AS counted) AS rejected",
        );
        Ok(backlog.bind(COUNTED_MAX + 1).fetch_one(&self.pool).await?)
    }

    /// What hears the notifications.
    pub(crate) async fn doorbell(&self) -> Result<PgListener, OutboxError> {
        let mut listener = PgListener::connect_with(&self.pool).await?;
        listener.listen(DOORBELL).await?;
        Ok(listener)
    }
}

fn held(rows: u64) -> Result<(), OutboxError> {
    if rows == 0 { Err(OutboxError::Fenced) } else { Ok(()) }
}
