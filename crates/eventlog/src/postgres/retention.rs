//! Drops what is no longer kept: whole partitions, never rows.

use std::sync::Arc;
use std::time::Duration;

use foghorn_bus::backoff::Backoff;
use foghorn_bus::lease::{EXPIRES_AFTER, Leases, RENEW_EVERY};
use foghorn_bus::log::LogError;
use foghorn_core::time::Timestamp;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::state::{class, log_error};
use super::{Database, WRITE_DEADLINE, partitions};
use crate::metrics::Metrics;
use foghorn_bus::clock::Clock;

/// How often partitions are looked at.
const EVERY: Duration = Duration::from_secs(15);
/// Most partitions dropped in one round; the next one is soon.
const DROPS: i64 = 32;

/// How long an epoch is remembered after the next one began, at least. Epochs are numbered by the second.
const ANCESTOR_KEPT: Duration = Duration::from_secs(3600);

/// Drops partitions whose newest possible event is older than its class is kept. One process at a time
/// does it, by the lease `retention`; two would be harmless.
#[derive(Clone)]
pub struct Retention {
    /// Where.
    pub database: Database,
    /// Who else might.
    pub leases: Arc<dyn Leases>,
    /// What counts as now.
    pub clock: Clock,
    /// What is counted.
    pub metrics: Metrics,
}

impl Retention {
    /// Runs until `stop`. May also be dropped at any moment.
    pub async fn run(&self, stop: &CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.tenures() => {}
        }
    }

    /// One round over everything; how many partitions it dropped.
    pub async fn round(&self) -> Result<u64, LogError> {
        let expired = timeout(WRITE_DEADLINE, self.expired()).await;
        let expired =
            expired.map_err(|_| LogError(format!("PostgreSQL did not answer within {WRITE_DEADLINE:?}")))?;
        let mut dropped = 0;
        for (of, from, name) in expired.map_err(|error| log_error("listing partitions", &error))? {
            let done = timeout(WRITE_DEADLINE, self.drop_one(of, from, &name)).await;
            let done =
                done.map_err(|_| LogError(format!("dropping {name} did not end within {WRITE_DEADLINE:?}")))?;
            if done.map_err(|error| log_error("dropping a partition", &error))? {
                tracing::info!(partition = %name, "dropped a partition of the event log: its events have expired");
                self.metrics.retained(i64::from(of), 1);
                dropped += 1;
            }
        }
        let forgotten = timeout(WRITE_DEADLINE, self.forget_ancestors()).await;
        let forgotten = forgotten
            .map_err(|_| LogError(format!("PostgreSQL did not answer within {WRITE_DEADLINE:?}")))?;
        forgotten.map_err(|error| log_error("forgetting epochs of which nothing is kept", &error))?;
        Ok(dropped)
    }

    /// Forgets epochs that a later one continues, the oldest first, of which nothing is kept any more: then
    /// whoever comes with a cursor of one goes on from the beginning, which is the same. Not before the next
    /// epoch is [`ANCESTOR_KEPT`] old: an event that is never kept may still be asked for by its position.
    async fn forget_ancestors(&self) -> sqlx::Result<()> {
        let old = self.clock.now().minus(ANCESTOR_KEPT).max(Timestamp::default()).as_micros() / 1_000_000;
        let done = sqlx::query(
            "DELETE FROM foghorn.ancestors a
             WHERE NOT EXISTS (SELECT FROM foghorn.events e WHERE e.shard = a.shard AND e.epoch <= a.epoch)
             AND EXISTS (
                 SELECT FROM foghorn.ancestors l WHERE l.shard = a.shard AND l.epoch > a.epoch AND l.epoch <= $1
                 UNION ALL
                 SELECT FROM foghorn.shards s WHERE s.shard = a.shard AND s.epoch > a.epoch AND s.epoch <= $1
             )",
        )
        .bind(old)
        .execute(self.database.pool()?)
        .await?;
        if done.rows_affected() > 0 {
            tracing::info!(epochs = done.rows_affected(), "forgot epochs of which nothing is kept");
        }
        Ok(())
    }

    async fn tenures(&self) {
        let mut backoff = Backoff::default();
        loop {
            let mut lease = self.leases.acquire("retention".to_owned()).await;
            let mut next = Instant::now();
            // Lost: another process has it.
            while let Ok(Ok(())) = timeout(EXPIRES_AFTER, lease.renew(0)).await {
                if Instant::now() >= next {
                    next = Instant::now() + EVERY.mul_f64(0.75 + 0.5 * fastrand::f64());
                    if let Err(error) = self.round().await {
                        self.metrics.failed("retention");
                        tracing::warn!(%error, "retention failed and is tried again; old events stay until then");
                    }
                }
                tokio::time::sleep(RENEW_EVERY).await;
            }
            backoff.wait().await;
        }
    }

    async fn expired(&self) -> sqlx::Result<Vec<(i32, i64, String)>> {
        sqlx::query_as(
            "SELECT class, from_us, name FROM foghorn.partitions
             WHERE to_us <= $1 - class * 1000000::bigint ORDER BY to_us LIMIT $2",
        )
        .bind(self.clock.now().max(Timestamp::default()).as_micros())
        .bind(DROPS)
        .fetch_all(self.database.pool()?)
        .await
    }

    async fn drop_one(&self, of: i32, from: i64, name: &str) -> sqlx::Result<bool> {
        let mut connection = self.database.pool()?.acquire().await?;
        partitions::drop_one(&mut connection, class(of), from, name).await
    }
}
