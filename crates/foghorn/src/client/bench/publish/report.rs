//! The result of `foghorn bench publish`.

use std::io::Write as _;

use serde::Serialize;

use crate::client::bench::latency::Percentiles;
use crate::client::bench::process::{self, Used};
use crate::client::bench::rounds::Spread;

/// What came out.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    pub(super) concurrency: usize,
    pub(super) batch: usize,
    pub(super) rounds: usize,
    /// Of all rounds.
    pub(super) seconds: f64,
    pub(super) acknowledged: u64,
    pub(super) failed: u64,
    pub(super) failure: Option<String>,
    pub(super) acknowledged_per_second: Spread,
    /// Of a request; on a stream, of an event.
    pub(super) ack_latency_ms: Percentiles,
    pub(super) acknowledged_per_cpu_second: Option<f64>,
    pub(super) processes: Vec<Used>,
    pub(super) raw: Option<RawReport>,
}

/// What the plain client did in its turns.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RawReport {
    /// Most publishes without an ack at a time.
    pub(super) in_flight: usize,
    pub(super) acknowledged_per_second: Spread,
    pub(super) processes: Vec<Used>,
    /// Acknowledged publishes a second through the door to those of the plain client.
    pub(super) ratio: Spread,
}

impl Report {
    /// For people, or as JSON.
    pub(super) fn print(&self, json: bool) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        if json {
            serde_json::to_writer(&mut out, self)?;
            return Ok(writeln!(out)?);
        }
        let Report { acknowledged, seconds, rounds, acknowledged_per_second, .. } = self;
        writeln!(
            out,
            "published     {acknowledged} events in {rounds} rounds and {seconds:.1} s: {acknowledged_per_second:.0} \
             events/s acknowledged"
        )?;
        if let Some(failure) = &self.failure {
            writeln!(out, "  {} events without an ack: {failure}", self.failed)?;
        }
        writeln!(out, "ack latency   {}", self.ack_latency_ms)?;
        process::print(&mut out, &self.processes)?;
        if let Some(rate) = self.acknowledged_per_cpu_second {
            writeln!(out, "              {rate:.0} acknowledged publishes per CPU second")?;
        }
        if let Some(raw) = &self.raw {
            let RawReport { in_flight, acknowledged_per_second, processes, ratio } = raw;
            writeln!(
                out,
                "plain client  {acknowledged_per_second:.0} events/s acknowledged, {in_flight} in flight"
            )?;
            process::print(&mut out, processes)?;
            writeln!(out, "ratio         {ratio:.2}")?;
        }
        Ok(())
    }
}
