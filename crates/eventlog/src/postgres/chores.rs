//! What a writer does beside writing: it trims the journal.

use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use foghorn_bus::journal::Size;
use foghorn_core::position::{Epoch, Position};
use tokio::time::{MissedTickBehavior, interval};

use super::writer::{Ended, Writer, answer};

/// How often the journal is looked at: what fills it fast is to find it trimmed in time.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Every so many looks it is trimmed by age.
const AGE_TURNS: u32 = 30;

/// Trims the journal behind `head`, for as long as the tenure lasts. It is the tenure's own head and no
/// other: what any other process has seen may be undone, as when PostgreSQL is restored from a backup.
pub(super) async fn chores(writer: &Writer, epoch: Epoch, head: &AtomicU64) -> Infallible {
    let mut every = interval(LOOK_EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut turn = 0;
    loop {
        every.tick().await;
        if let Err(error) = trim(writer, epoch, head, turn == 0).await {
            writer.metrics.failed("trim");
            tracing::warn!(shard = %writer.shard, %error, "the journal could not be trimmed; tried again soon");
        }
        turn = (turn + 1) % AGE_TURNS;
    }
}

/// Forgets what is old enough, when `aged` is looked at, and what the log has of the first entries while the
/// journal is more than half full: at its bound it would refuse publishes although nothing needs them here.
async fn trim(writer: &Writer, epoch: Epoch, head: &AtomicU64, aged: bool) -> Result<(), Ended> {
    let shard = writer.shard;
    let crowded = answer(writer.journal.size(shard)).await?.and_then(over_half);
    if crowded.is_none() && !aged {
        return Ok(());
    }
    let bounds = answer(writer.journal.bounds(shard)).await?;
    if bounds.epoch != epoch {
        return Ok(());
    }
    let mut old = 0;
    if aged {
        old = answer(writer.journal.seek(shard, writer.clock.now().minus(writer.trim_behind))).await?;
    }
    if let Some((over, bytes)) = crowded {
        // As if all were of one size; the next look does better.
        let entries = u128::from((bounds.last + 1).saturating_sub(bounds.first));
        let share = (entries * u128::from(over)).div_ceil(u128::from(bytes));
        old = old.max(bounds.first.saturating_sub(1) + u64::try_from(share).unwrap_or(0));
    }
    // The last entry stays: by it, times can be found and heads be compared without PostgreSQL.
    let through = old.min(head.load(Ordering::Relaxed)).min(bounds.last.saturating_sub(1));
    if through >= bounds.first {
        answer(writer.journal.trim(Position { shard, epoch, seq: through })).await?;
    }
    Ok(())
}

/// How many bytes the journal holds over half of its bound, and how many in all; none when it is not over it.
fn over_half(size: Size) -> Option<(u64, u64)> {
    let over = size.bytes.checked_sub(size.most? / 2).filter(|over| *over > 0)?;
    Some((over, size.bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_is_crowded_over_half_of_its_bound() {
        let over = |bytes, most| over_half(Size { bytes, most });
        assert_eq!([over(50, Some(100)), over(0, Some(0)), over(90, None)], [None; 3]);
        assert_eq!(over(75, Some(100)), Some((25, 75)));
    }
}
