//! The result of `foghorn bench sweep`.

use std::fmt;
use std::io::Write as _;

use anyhow::{Context as _, ensure};
use serde::Serialize;

use super::Args;
use crate::client::bench::process::Used;
use crate::client::bench::rounds::{Spread, per};

/// One turn of one server.
#[derive(Debug, Clone)]
pub(super) struct Row {
    deliveries_per_cpu_second: f64,
    deliveries_per_second: f64,
    latency: [f64; 3],
    idle_bytes: f64,
    missing: u64,
    disordered: u64,
}

impl Row {
    #[expect(clippy::too_many_arguments, reason = "the one place where a turn comes together")]
    pub(super) fn of(
        used: Vec<Used>,
        empty: Option<u64>,
        idle: Option<u64>,
        connections: usize,
        deliveries: u64,
        missing: u64,
        disordered: u64,
        seconds: f64,
        latency: [f64; 3],
    ) -> anyhow::Result<Self> {
        let used = used.into_iter().next().context("the server is gone")?;
        ensure!(used.cpu_seconds > 0.0, "the turn was too short to be measured; use more --events");
        let grown = idle.unwrap_or_default().saturating_sub(empty.unwrap_or_default());
        Ok(Row {
            deliveries_per_cpu_second: per(deliveries, used.cpu_seconds),
            deliveries_per_second: per(deliveries, seconds),
            latency,
            idle_bytes: grown as f64 / connections as f64,
            missing,
            disordered,
        })
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [p50, p99, max] = self.latency;
        write!(
            f,
            "{:.0} deliveries per CPU second, {:.0}/s; p50 {p50:.1} ms, p99 {p99:.1} ms, max {max:.1} ms",
            self.deliveries_per_cpu_second, self.deliveries_per_second
        )
    }
}

/// All turns of one server.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Side {
    deliveries_per_cpu_second: Spread,
    deliveries_per_second: Spread,
    p50_ms: Spread,
    p99_ms: Spread,
    max_ms: Spread,
    /// User-space memory of an idle stream.
    idle_bytes: Spread,
    missing: u64,
    disordered: u64,
}

impl Side {
    fn of(rows: &[Row]) -> anyhow::Result<Self> {
        let spread = |figure: fn(&Row) -> f64| Spread::of(rows.iter().map(figure));
        Ok(Side {
            deliveries_per_cpu_second: spread(|row| row.deliveries_per_cpu_second)?,
            deliveries_per_second: spread(|row| row.deliveries_per_second)?,
            p50_ms: spread(|row| row.latency[0])?,
            p99_ms: spread(|row| row.latency[1])?,
            max_ms: spread(|row| row.latency[2])?,
            idle_bytes: spread(|row| row.idle_bytes)?,
            missing: rows.iter().map(|row| row.missing).sum(),
            disordered: rows.iter().map(|row| row.disordered).sum(),
        })
    }
}

/// What came out.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    rounds: usize,
    connections: usize,
    events: usize,
    rate: u32,
    foghorn: Side,
    bare: Side,
    /// Deliveries per CPU second, of a round each.
    ratio: Spread,
}

impl Report {
    pub(super) fn of(args: &Args, ours: &[Row], bare: &[Row]) -> anyhow::Result<Self> {
        let ratio =
            |(ours, bare): (&Row, &Row)| ours.deliveries_per_cpu_second / bare.deliveries_per_cpu_second;
        Ok(Report {
            rounds: args.rounds,
            connections: args.connections,
            events: args.events,
            rate: args.rate,
            foghorn: Side::of(ours)?,
            bare: Side::of(bare)?,
            ratio: Spread::of(ours.iter().zip(bare).map(ratio))?,
        })
    }

    /// Whether everything was heard, in order.
    pub(super) fn is_exact(&self) -> bool {
        self.foghorn.missing == 0 && self.foghorn.disordered == 0
    }

    /// For people, or as JSON.
    pub(super) fn print(&self, json: bool) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        if json {
            serde_json::to_writer(&mut out, self)?;
            return Ok(writeln!(out)?);
        }
        let Report { rounds, connections, events, rate, ratio, .. } = self;
        let pace = if *rate == 0 { "one at a time".to_owned() } else { format!("{rate} a second") };
        writeln!(out, "events        {events}, {pace}, to {connections} listeners; {rounds} rounds")?;
        for (name, side) in [("foghorn", &self.foghorn), ("bare loop", &self.bare)] {
            let Side { deliveries_per_cpu_second, deliveries_per_second, p50_ms, p99_ms, max_ms, .. } = side;
            writeln!(
                out,
                "{name:<13} {deliveries_per_cpu_second} deliveries per CPU second; {deliveries_per_second}/s"
            )?;
            writeln!(out, "              p50 {p50_ms:.1} ms, p99 {p99_ms:.1} ms, longest {max_ms:.1} ms")?;
            let Side { idle_bytes, missing, disordered, .. } = side;
            writeln!(
                out,
                "              {idle_bytes} bytes an idle stream; {missing} lost, {disordered} disordered"
            )?;
        }
        writeln!(out, "ratio         {ratio:.2} by CPU time")?;
        Ok(())
    }
}
