//! The result of `foghorn bench storm`.

use std::fmt;
use std::io::Write as _;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::Args;
use crate::client::bench::rounds::Spread;

/// One turn.
#[derive(Debug, Clone)]
pub(super) struct Row {
    /// From the first client until all were level.
    pub(super) level_seconds: f64,
    /// From when each came until it was level, in microseconds.
    pub(super) each: Histogram<u64>,
    /// CPU time of the server while the storm and its calm lasted.
    pub(super) cpu_seconds: f64,
    pub(super) missing: u64,
    pub(super) disordered: u64,
    /// Of the live listeners, in microseconds: without the storm, and beside it.
    pub(super) alone: Histogram<u64>,
    pub(super) beside: Histogram<u64>,
}

#[expect(clippy::cast_precision_loss, reason = "below 2^53: microseconds")]
fn millis(histogram: &Histogram<u64>, quantile: f64) -> f64 {
    histogram.value_at_quantile(quantile) as f64 / 1000.0
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (alone, beside) = (millis(&self.alone, 0.99), millis(&self.beside, 0.99));
        let (p50, p99) = (millis(&self.each, 0.5), millis(&self.each, 0.99));
        write!(
            f,
            "all level after {:.2} s, each after p50 {p50:.1} ms, p99 {p99:.1} ms; ",
            self.level_seconds
        )?;
        write!(f, "live p99 {alone:.1} ms alone, {beside:.1} ms beside")
    }
}

/// What came out.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    rounds: usize,
    clients: usize,
    behind: usize,
    live: usize,
    level_seconds: Spread,
    each_p50_ms: Spread,
    each_p99_ms: Spread,
    cpu_seconds: Spread,
    live_p99_alone_ms: Spread,
    live_p99_beside_ms: Spread,
    live_max_beside_ms: Spread,
    missing: u64,
    disordered: u64,
}

impl Report {
    pub(super) fn of(args: &Args, rows: &[Row]) -> anyhow::Result<Self> {
        let spread = |figure: &dyn Fn(&Row) -> f64| Spread::of(rows.iter().map(figure));
        Ok(Report {
            rounds: args.pinned.rounds,
            clients: args.clients,
            behind: args.behind,
            live: args.live,
            level_seconds: spread(&|row| row.level_seconds)?,
            each_p50_ms: spread(&|row| millis(&row.each, 0.5))?,
            each_p99_ms: spread(&|row| millis(&row.each, 0.99))?,
            cpu_seconds: spread(&|row| row.cpu_seconds)?,
            live_p99_alone_ms: spread(&|row| millis(&row.alone, 0.99))?,
            live_p99_beside_ms: spread(&|row| millis(&row.beside, 0.99))?,
            live_max_beside_ms: spread(&|row| millis(&row.beside, 1.0))?,
            missing: rows.iter().map(|row| row.missing).sum(),
            disordered: rows.iter().map(|row| row.disordered).sum(),
        })
    }

    /// Whether everybody heard everything, in order.
    pub(super) fn is_exact(&self) -> bool {
        self.missing == 0 && self.disordered == 0
    }

    /// For people, or as JSON.
    pub(super) fn print(&self, json: bool) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        if json {
            serde_json::to_writer(&mut out, self)?;
            return Ok(writeln!(out)?);
        }
        let Report { rounds, clients, behind, live, level_seconds, each_p50_ms, each_p99_ms, .. } = self;
        writeln!(out, "storm      {clients} clients, each {behind} events behind; {rounds} rounds")?;
        writeln!(out, "level      all of them after {level_seconds:.2} s")?;
        writeln!(out, "           each after p50 {each_p50_ms:.1} ms, p99 {each_p99_ms:.1} ms")?;
        writeln!(out, "server     {:.2} s of CPU time", self.cpu_seconds)?;
        let Report { live_p99_alone_ms, live_p99_beside_ms, live_max_beside_ms, .. } = self;
        writeln!(out, "live       {live} listeners: p99 {live_p99_alone_ms:.1} ms alone")?;
        writeln!(
            out,
            "           p99 {live_p99_beside_ms:.1} ms beside, longest {live_max_beside_ms:.1} ms"
        )?;
        Ok(writeln!(out, "           {} lost, {} disordered", self.missing, self.disordered)?)
    }
}
