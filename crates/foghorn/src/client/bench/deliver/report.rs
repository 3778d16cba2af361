//! The result of `foghorn bench deliver`.

use std::io::Write as _;

use serde::Serialize;

use crate::client::bench::latency::Percentiles;
use crate::client::bench::oracle::Faults;
use crate::client::bench::process::{self, Used};

/// What came out.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Report {
    pub(crate) connections: usize,
    pub(crate) channels: usize,
    pub(crate) connect_seconds: f64,
    pub(crate) seconds: f64,
    /// Acknowledged.
    pub(crate) events: u64,
    pub(crate) events_per_second: f64,
    /// Sent without an acknowledgement.
    pub(crate) unacknowledged: u64,
    pub(crate) failed_requests: u64,
    pub(crate) failure: Option<String>,
    pub(crate) deliveries: u64,
    pub(crate) expected_deliveries: u64,
    pub(crate) deliveries_per_second: f64,
    pub(crate) latency_ms: Percentiles,
    #[serde(flatten)]
    pub(crate) faults: Faults,
    pub(crate) resets: u64,
    pub(crate) reconnects: u64,
    pub(crate) trouble: Option<String>,
    pub(crate) deliveries_per_cpu_second: Option<f64>,
    pub(crate) processes: Vec<Used>,
}

impl Report {
    /// For people, or as JSON.
    pub(super) fn print(&self, json: bool) -> anyhow::Result<()> {
        let report = self;
        let mut out = std::io::stdout().lock();
        if json {
            serde_json::to_writer(&mut out, report)?;
            return Ok(writeln!(out)?);
        }
        let Report { connections, channels, connect_seconds, seconds, events, deliveries, faults, .. } =
            report;
        writeln!(
            out,
            "connections   {connections} on {channels} channels, all live after {connect_seconds:.1} s"
        )?;
        writeln!(
            out,
            "published     {events} events in {seconds:.1} s: {:.0} events/s acknowledged",
            report.events_per_second
        )?;
        if let Some(failure) = &report.failure {
            let Report { unacknowledged, failed_requests, .. } = report;
            writeln!(
                out,
                "  {unacknowledged} events without an ack, {failed_requests} requests failed: {failure}"
            )?;
        }
        writeln!(
            out,
            "delivered     {deliveries} of {}: {:.0} deliveries/s",
            report.expected_deliveries, report.deliveries_per_second
        )?;
        writeln!(out, "latency       {}", report.latency_ms)?;
        let Faults { lost, duplicated, reordered } = faults;
        writeln!(
            out,
            "exactness     {lost} lost, {duplicated} duplicated, {reordered} reordered, {} resets",
            report.resets
        )?;
        if let Some(trouble) = &report.trouble {
            writeln!(out, "  {} reconnects: {trouble}", report.reconnects)?;
        }
        process::print(&mut out, &report.processes)?;
        if let Some(rate) = report.deliveries_per_cpu_second {
            writeln!(out, "              {rate:.0} deliveries per CPU second")?;
        }
        Ok(())
    }
}
