//! What a writer does beside writing: it measures how far the log is behind, and trims the journal.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::writer::{Ended, Writer, answer};

/// How often lag is measured and, a dozen times less often, the journal trimmed.
const CHORES_EVERY: Duration = Duration::from_secs(5);
const TRIM_EVERY: u32 = 12;

/// Measures the lag and trims the journal, for as long as the tenure lasts.
pub(super) async fn chores(writer: &Writer) -> Ended {
    let mut every = interval(CHORES_EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for round in 0u32.. {
        every.tick().await;
        if let Err(error) = chore(writer, round.is_multiple_of(TRIM_EVERY)).await {
            writer.metrics.failed("trim");
            tracing::warn!(shard = %writer.shard, %error, "the journal could not be measured or trimmed; tried again soon");
        }
    }
    Ended::Stopped
}

async fn chore(writer: &Writer, trim: bool) -> Result<(), Ended> {
    let shard = writer.shard;
    let head = *writer.database.head(shard).borrow();
    let bounds = answer(writer.journal.bounds(shard)).await?;
    writer.metrics.journal(shard, (bounds.last + 1).saturating_sub(bounds.first));
    if bounds.epoch != head.epoch {
        return Ok(());
    }
    let behind = bounds.last.saturating_sub(head.seq);
    let mut waited = Duration::ZERO;
    if behind > 0 {
        let page = answer(writer.journal.read(shard, head.seq, 1, 1)).await?;
        waited = page.entries.first().map_or(waited, |entry| writer.clock.now().since(entry.time));
    }
    writer.metrics.lag(shard, behind, waited);
    if trim {
        let old = answer(writer.journal.seek(shard, writer.clock.now().minus(writer.trim_behind))).await?;
        // The last entry stays: by it, times can be found and heads be compared without PostgreSQL.
        let through = old.min(head.seq).min(bounds.last.saturating_sub(1));
        if through >= bounds.first {
            answer(writer.journal.trim(shard, through)).await?;
        }
    }
    Ok(())
}
