//! The result of `foghorn bench deliver`.

use std::io::Write as _;

use serde::Serialize;

use crate::client::bench::latency::Percentiles;
use crate::client::bench::oracle::Faults;
use crate::client::bench::process::{self, Used};

/// What came out.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::client::bench) struct Report {
    pub(in crate::client::bench) connections: usize,
    pub(in crate::client::bench) channels: usize,
    pub(in crate::client::bench) connect_seconds: f64,
    pub(in crate::client::bench) seconds: f64,
    /// Acknowledged.
    pub(in crate::client::bench) events: u64,
    pub(in crate::client::bench) events_per_second: f64,
    /// Sent without an acknowledgement.
    pub(in crate::client::bench) unacknowledged: u64,
    pub(in crate::client::bench) failed_requests: u64,
    pub(in crate::client::bench) failure: Option<String>,
    pub(in crate::client::bench) deliveries: u64,
    pub(in crate::client::bench) expected_deliveries: u64,
    pub(in crate::client::bench) deliveries_per_second: f64,
    pub(in crate::client::bench) latency_ms: Percentiles,
    #[serde(flatten)]
    pub(in crate::client::bench) faults: Faults,
    pub(in crate::client::bench) resets: u64,
    pub(in crate::client::bench) reconnects: u64,
    pub(in crate::client::bench) trouble: Option<String>,
    pub(in crate::client::bench) deliveries_per_cpu_second: Option<f64>,
    pub(in crate::client::bench) processes: Vec<Used>,
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
