//! Latencies, in histograms of a fixed size.

use std::time::Duration;

use hdrhistogram::Histogram;
use parking_lot::{Mutex, MutexGuard};

/// Histograms that listeners share, so that they seldom wait for one another.
const SHARES: usize = 8;
/// The longest time told apart, in microseconds: an hour.
const MOST_MICROS: u64 = 3_600_000_000;

/// Times of many tasks.
pub(super) struct Latencies {
    shares: Vec<Mutex<Histogram<u64>>>,
}

/// Percentiles in milliseconds.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub(super) struct Percentiles {
    pub(super) count: u64,
    pub(super) p50: f64,
    pub(super) p90: f64,
    pub(super) p99: f64,
    #[serde(rename = "p99.9")]
    pub(super) p999: f64,
    pub(super) max: f64,
}

/// For [`record`].
pub(super) fn histogram() -> anyhow::Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, MOST_MICROS, 3)?)
}

/// Records one time.
pub(super) fn record(histogram: &mut Histogram<u64>, time: Duration) {
    histogram.saturating_record(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
}

impl Latencies {
    pub(super) fn new() -> anyhow::Result<Self> {
        let shares: anyhow::Result<_> = (0..SHARES).map(|_| histogram().map(Mutex::new)).collect();
        Ok(Latencies { shares: shares? })
    }

    /// The histogram of one task.
    pub(super) fn of(&self, task: usize) -> MutexGuard<'_, Histogram<u64>> {
        self.shares[task % SHARES].lock()
    }

    /// Everything recorded.
    pub(super) fn percentiles(&self) -> anyhow::Result<Percentiles> {
        let mut all = self.of(0).clone();
        for share in &self.shares[1..] {
            all.add(&*share.lock())?;
        }
        #[expect(clippy::cast_precision_loss, reason = "below 2^53: an hour in microseconds")]
        let millis = |micros: u64| micros as f64 / 1000.0;
        let at = |quantile| millis(all.value_at_quantile(quantile));
        Ok(Percentiles {
            count: all.len(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: millis(all.max()),
        })
    }
}

impl std::fmt::Display for Percentiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Percentiles { p50, p90, p99, p999, max, .. } = self;
        write!(f, "p50 {p50:.2} ms, p90 {p90:.2} ms, p99 {p99:.2} ms, p99.9 {p999:.2} ms, max {max:.2} ms")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_all_tasks_together() {
        let latencies = Latencies::new().unwrap();
        for millis in 1..=1000 {
            record(&mut latencies.of(millis), Duration::from_millis(millis as u64));
        }
        let found = latencies.percentiles().unwrap();
        let near = |found: f64, expected: f64| {
            assert!((found - expected).abs() <= expected / 500.0, "{found} {expected}");
        };
        assert_eq!(found.count, 1000);
        near(found.p50, 500.0);
        near(found.p90, 900.0);
        near(found.p99, 990.0);
        near(found.p999, 999.0);
        near(found.max, 1000.0);
        record(&mut latencies.of(0), Duration::from_secs(1_000_000));
        near(latencies.percentiles().unwrap().max, 3_600_000.0);
    }
}
