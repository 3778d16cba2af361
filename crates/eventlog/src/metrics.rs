//! What the log counts.

use std::time::Duration;

use foghorn_bus::journal::Size;
use foghorn_core::reason::ResetReason;
use foghorn_core::shard::{Shard, ShardCount};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// Where a page of a replay came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PageSource {
    Sqlite,
    Postgres,
    Journal,
}

/// What can fail and is tried again.
const FAILURES: [&str; 10] =
    ["commit", "full", "measure", "migrate", "queue", "read", "resend", "retention", "trim", "writer"];

impl PageSource {
    const ALL: [PageSource; 3] = [PageSource::Sqlite, PageSource::Postgres, PageSource::Journal];

    fn label(self) -> OfSource {
        OfSource {
            source: match self {
                PageSource::Sqlite => "sqlite",
                PageSource::Postgres => "postgres",
                PageSource::Journal => "journal",
            },
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfSource {
    source: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfShard {
    shard: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfClass {
    class: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfKind {
    kind: &'static str,
}

/// The log's metrics. Clones share them.
#[derive(Debug, Clone)]
pub struct Metrics {
    rows: Counter,
    batch: Histogram,
    commit: Histogram,
    failures: Family<OfKind, Counter>,
    lag_entries: Family<OfShard, Gauge>,
    lag_seconds: Family<OfShard, Gauge<f64, std::sync::atomic::AtomicU64>>,
    journal_entries: Family<OfShard, Gauge>,
    journal_bytes: Family<OfShard, Gauge>,
    journal_bytes_max: Family<OfShard, Gauge>,
    holes: Family<OfShard, Counter>,
    invalid: Family<OfKind, Counter>,
    pages: Family<OfSource, Counter>,
    resets: Family<OfKind, Counter>,
    retained: Family<OfClass, Counter>,
    fenced: Family<OfShard, Counter>,
    regresses: Family<OfShard, Counter>,
    resent: Family<OfShard, Counter>,
    writer: Family<OfShard, Gauge>,
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics {
            rows: Counter::default(),
            batch: Histogram::new(exponential_buckets(1.0, 4.0, 7)),
            commit: Histogram::new(exponential_buckets(0.000_5, 2.0, 14)),
            failures: Family::default(),
            lag_entries: Family::default(),
            lag_seconds: Family::default(),
            journal_entries: Family::default(),
            journal_bytes: Family::default(),
            journal_bytes_max: Family::default(),
            holes: Family::default(),
            invalid: Family::default(),
            pages: Family::default(),
            resets: Family::default(),
            retained: Family::default(),
            fenced: Family::default(),
            regresses: Family::default(),
            resent: Family::default(),
            writer: Family::default(),
        }
    }
}

impl Metrics {
    /// Metrics that `registry` shows, all of them named `foghorn_log_…`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Metrics::default();
        let m = &metrics;
        let r = registry;
        r.register("foghorn_log_rows", "Events committed to the log", m.rows.clone());
        r.register("foghorn_log_batch", "Entries per transaction", m.batch.clone());
        r.register_with_unit("foghorn_log_commit", "Time of a transaction", Unit::Seconds, m.commit.clone());
        r.register(
            "foghorn_log_failures",
            "Failed attempts, by what failed; each is retried",
            m.failures.clone(),
        );
        r.register("foghorn_log_lag_entries", "Entries the log is behind the journal", m.lag_entries.clone());
        r.register_with_unit(
            "foghorn_log_lag",
            "How long the oldest entry has waited that is in the journal but not in the log",
            Unit::Seconds,
            m.lag_seconds.clone(),
        );
        r.register("foghorn_log_journal_entries", "Entries the journal holds", m.journal_entries.clone());
        r.register_with_unit(
            "foghorn_log_journal",
            "Bytes the journal holds",
            Unit::Bytes,
            m.journal_bytes.clone(),
        );
        r.register(
            "foghorn_log_journal_max_bytes",
            "Bytes at which the journal refuses more events; alert well before",
            m.journal_bytes_max.clone(),
        );
        r.register(
            "foghorn_log_holes",
            "Ranges the journal lost before the log had them: lost events",
            m.holes.clone(),
        );
        r.register(
            "foghorn_log_invalid",
            "Journal entries that are no valid events, by what is wrong",
            m.invalid.clone(),
        );
        r.register("foghorn_log_pages", "Pages replayed, by where they came from", m.pages.clone());
        r.register("foghorn_log_resets", "Replays answered with a reset, by reason", m.resets.clone());
        r.register(
            "foghorn_log_retention_drops",
            "Events or partitions that retention dropped, by class in seconds",
            m.retained.clone(),
        );
        r.register("foghorn_log_writer", "1 where this process writes the shard", m.writer.clone());
        r.register("foghorn_log_fenced", "Times a writer found that another had written", m.fenced.clone());
        r.register(
            "foghorn_log_regresses",
            "Times the journal held other entries than the log or a gateway had, and a new epoch was asked for",
            m.regresses.clone(),
        );
        r.register(
            "foghorn_log_resent_events",
            "Events that the journal had lost and the log appended to it again",
            m.resent.clone(),
        );
        m.begin_at_zero();
        metrics
    }

    /// So that the first of each is a rise, and not the beginning of a series.
    fn begin_at_zero(&self) {
        for kind in FAILURES {
            drop(self.failures.get_or_create(&OfKind { kind }));
        }
        for source in PageSource::ALL {
            drop(self.pages.get_or_create(&source.label()));
        }
        for reason in ResetReason::ALL {
            drop(self.resets.get_or_create(&OfKind { kind: reason.as_str() }));
        }
    }

    /// Shows at 0 what should never count, so that an alert can tell "never" from "not known".
    pub(crate) fn of_shards(&self, shards: ShardCount) {
        for shard in shards.shards() {
            let of = OfShard { shard: u32::from(shard.get()) };
            for counters in [&self.holes, &self.regresses, &self.resent, &self.fenced] {
                drop(counters.get_or_create(&of));
            }
        }
    }

    pub(crate) fn committed(&self, rows: usize, took: Duration) {
        self.rows.inc_by(rows as u64);
        #[expect(clippy::cast_precision_loss, reason = "batches are small")]
        self.batch.observe(rows as f64);
        self.commit.observe(took.as_secs_f64());
    }

    pub(crate) fn failed(&self, kind: &'static str) {
        debug_assert!(FAILURES.contains(&kind), "{kind} doesn't begin at zero");
        self.failures.get_or_create(&OfKind { kind }).inc();
    }

    pub(crate) fn lag(&self, shard: Shard, entries: u64, oldest: Duration) {
        let of = OfShard { shard: u32::from(shard.get()) };
        self.lag_entries.get_or_create(&of).set(i64::try_from(entries).unwrap_or(i64::MAX));
        self.lag_seconds.get_or_create(&of).set(oldest.as_secs_f64());
    }

    pub(crate) fn journal(&self, shard: Shard, entries: u64) {
        let of = OfShard { shard: u32::from(shard.get()) };
        self.journal_entries.get_or_create(&of).set(i64::try_from(entries).unwrap_or(i64::MAX));
    }

    pub(crate) fn journal_bytes(&self, shard: Shard, size: Size) {
        let of = OfShard { shard: u32::from(shard.get()) };
        self.journal_bytes.get_or_create(&of).set(i64::try_from(size.bytes).unwrap_or(i64::MAX));
        match size.most {
            Some(most) => {
                self.journal_bytes_max.get_or_create(&of).set(i64::try_from(most).unwrap_or(i64::MAX));
            }
            None => {
                self.journal_bytes_max.remove(&of);
            }
        }
    }

    /// What was measured last says nothing about now.
    pub(crate) fn unmeasured(&self, shard: Shard) {
        let of = OfShard { shard: u32::from(shard.get()) };
        self.lag_seconds.remove(&of);
        for gauges in [&self.lag_entries, &self.journal_entries, &self.journal_bytes, &self.journal_bytes_max]
        {
            gauges.remove(&of);
        }
    }

    pub(crate) fn hole(&self, shard: Shard) {
        self.holes.get_or_create(&OfShard { shard: u32::from(shard.get()) }).inc();
    }

    pub(crate) fn regressed(&self, shard: Shard) {
        self.regresses.get_or_create(&OfShard { shard: u32::from(shard.get()) }).inc();
    }

    pub(crate) fn resent(&self, shard: Shard, events: usize) {
        self.resent.get_or_create(&OfShard { shard: u32::from(shard.get()) }).inc_by(events as u64);
    }

    pub(crate) fn fenced(&self, shard: Shard) {
        self.fenced.get_or_create(&OfShard { shard: u32::from(shard.get()) }).inc();
    }

    pub(crate) fn writes(&self, shard: Shard, writes: bool) {
        self.writer.get_or_create(&OfShard { shard: u32::from(shard.get()) }).set(i64::from(writes));
    }

    pub(crate) fn invalid(&self, kind: &'static str) {
        self.invalid.get_or_create(&OfKind { kind }).inc();
    }

    pub(crate) fn page(&self, source: PageSource) {
        self.pages.get_or_create(&source.label()).inc();
    }

    pub(crate) fn reset(&self, reason: &'static str) {
        self.resets.get_or_create(&OfKind { kind: reason }).inc();
    }

    pub(crate) fn retained(&self, class: i64, dropped: u64) {
        self.retained.get_or_create(&OfClass { class }).inc_by(dropped);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_should_never_count_is_there_from_the_start() {
        let mut registry = Registry::default();
        Metrics::register(&mut registry).of_shards(ShardCount::new(2).unwrap());
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for name in ["holes", "regresses"] {
            for shard in 0..2 {
                let line = format!("foghorn_log_{name}_total{{shard=\"{shard}\"}} 0");
                assert!(text.contains(&line), "no {line} in {text}");
            }
        }
    }
}
