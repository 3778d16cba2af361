//! What a writer does beside writing: it trims the journal.

use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use foghorn_core::position::{Epoch, Position};
use tokio::time::{MissedTickBehavior, interval};

use super::writer::{Ended, Writer, answer};

/// How often the journal is trimmed.
const TRIM_EVERY: Duration = Duration::from_secs(60);

/// Trims the journal behind `head`, for as long as the tenure lasts. It is the tenure's own head and no
/// other: what any other process has seen may be undone, as when PostgreSQL is restored from a backup.
pub(super) async fn chores(writer: &Writer, epoch: Epoch, head: &AtomicU64) -> Infallible {
    let mut every = interval(TRIM_EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        if let Err(error) = trim(writer, epoch, head).await {
            writer.metrics.failed("trim");
            tracing::warn!(shard = %writer.shard, %error, "the journal could not be trimmed; tried again soon");
        }
    }
}

async fn trim(writer: &Writer, epoch: Epoch, head: &AtomicU64) -> Result<(), Ended> {
    let shard = writer.shard;
    let bounds = answer(writer.journal.bounds(shard)).await?;
    if bounds.epoch != epoch {
        return Ok(());
    }
    let old = answer(writer.journal.seek(shard, writer.clock.now().minus(writer.trim_behind))).await?;
    // The last entry stays: by it, times can be found and heads be compared without PostgreSQL.
    let through = old.min(head.load(Ordering::Relaxed)).min(bounds.last.saturating_sub(1));
    if through >= bounds.first {
        answer(writer.journal.trim(Position { shard, epoch, seq: through })).await?;
    }
    Ok(())
}
