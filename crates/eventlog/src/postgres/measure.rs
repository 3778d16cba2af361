//! Measures how far the log is behind its journal. Apart from writing, because it matters most when nobody
//! can write: every process measures every shard, and while PostgreSQL is away its head stays what it was.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use foghorn_bus::journal::Bounds;
use foghorn_bus::log::LogError;
use tokio::time::{MissedTickBehavior, interval};

use super::connection::Connection;
use super::writer::{Ended, Writer, answer};
use super::{Head, READ_DEADLINE};

/// How often.
const EVERY: Duration = Duration::from_secs(5);

/// Measures for ever. `writes` says whether this process moves the head itself.
pub(super) async fn measure(writer: &Writer, writes: &AtomicBool) -> Infallible {
    let mut every = interval(EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        if let Err(error) = look(writer, writes.load(Ordering::Relaxed)).await {
            // An old number would look like a new one.
            writer.metrics.unmeasured(writer.shard);
            writer.metrics.failed("measure");
            tracing::debug!(shard = %writer.shard, %error, "the journal could not be measured");
        }
    }
}

async fn look(writer: &Writer, writes: bool) -> Result<(), Ended> {
    let shard = writer.shard;
    let bounds = answer(writer.journal.bounds(shard)).await?;
    writer.metrics.journal(shard, (bounds.last + 1).saturating_sub(bounds.first));
    if let Some(size) = answer(writer.journal.size(shard)).await? {
        writer.metrics.journal_bytes(shard, size);
    }
    if !writes && let Err(error) = refresh(writer).await {
        // Nobody moves it while PostgreSQL is away, so the last that was seen holds.
        tracing::debug!(%shard, %error, "the log's head could not be looked at");
    }
    let head = *writer.database.head(shard).borrow();
    let at = reached(head, bounds);
    let behind = bounds.last.saturating_sub(at);
    let mut waited = Duration::ZERO;
    if behind > 0 {
        let page = answer(writer.journal.read(shard, at, 1, 1)).await?;
        waited = page.entries.first().map_or(waited, |entry| writer.clock.now().since(entry.time));
    }
    writer.metrics.lag(shard, behind, waited);
    Ok(())
}

/// The last seq of the journal that the log has: of another epoch it has nothing.
fn reached(head: Head, bounds: Bounds) -> u64 {
    let begins = bounds.first.saturating_sub(1);
    if head.epoch == bounds.epoch { head.seq.max(begins) } else { begins }
}

async fn refresh(writer: &Writer) -> Result<(), LogError> {
    let connection = Connection::new(&writer.database).await?;
    let found = connection.within(READ_DEADLINE, async |c| c.standing(writer.shard).await).await?;
    if let Some((standing, _)) = found {
        writer.database.set_head(writer.shard, Head { epoch: standing.epoch, seq: standing.tip });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use foghorn_bus::journal::Journal;
    use foghorn_bus::memory::MemoryLeases;
    use foghorn_core::channel::Channel;
    use foghorn_core::entry::{Key, NewEntry};
    use foghorn_core::event::Event;
    use foghorn_core::shard::Shard;
    use foghorn_core::time::Timestamp;
    use prometheus_client::registry::Registry;

    use super::*;
    use crate::metrics::Metrics;
    use crate::postgres::{Database, PostgresOptions};
    use crate::sqlite::{SqliteLog, SqliteOptions};
    use foghorn_bus::clock::Clock;
    use foghorn_bus::policies::SharedPolicies;

    #[tokio::test]
    async fn the_lag_grows_while_postgres_is_away() {
        let begin = Timestamp::from_system(std::time::SystemTime::now());
        let options = SqliteOptions { clock: Clock::new(move || begin), ..SqliteOptions::in_memory() };
        let journal = SqliteLog::open(options).await.unwrap();
        for n in 0..5 {
            let event = Event::new(Channel::parse("a").unwrap(), "x");
            let entry = NewEntry { event, key: Key::invented(n), traceparent: None };
            journal.append(entry).await.unwrap();
        }
        let epoch = journal.bounds(Shard::ZERO).await.unwrap().epoch;
        let mut registry = Registry::default();
        // Nobody listens there.
        let database = Database::new(&PostgresOptions::new("postgres://u@127.0.0.1:1/none")).unwrap();
        database.set_head(Shard::ZERO, Head { epoch, seq: 3 });
        let writer = Writer {
            shard: Shard::ZERO,
            journal: Arc::new(journal),
            database,
            leases: Arc::new(MemoryLeases::new()),
            policies: SharedPolicies::default(),
            trim_behind: Duration::ZERO,
            clock: Clock::new(move || begin.plus(Duration::from_secs(90))),
            metrics: Metrics::register(&mut registry),
        };
        look(&writer, false).await.unwrap();
        let text = || {
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
            text
        };
        for line in ["foghorn_log_lag_entries{shard=\"0\"} 2", "foghorn_log_lag_seconds{shard=\"0\"} 90.0"] {
            assert!(text().contains(line), "{line} in {}", text());
        }
        writer.metrics.unmeasured(Shard::ZERO);
        assert!(!text().contains("foghorn_log_lag_entries{"), "{}", text());
    }

    #[test]
    fn of_another_epoch_the_log_has_nothing() {
        use foghorn_core::position::Epoch;
        let bounds = Bounds { epoch: Epoch::new(7), first_seq: 1, continues: None, first: 11, last: 20 };
        let at = |epoch, seq| reached(Head { epoch: Epoch::new(epoch), seq }, bounds);
        assert_eq!([at(7, 15), at(7, 3), at(6, 15), at(0, 0)], [15, 10, 10, 10]);
    }
}
