//! The result of `foghorn bench relay`.

use std::io::Write as _;

use serde::Serialize;

use crate::client::bench::process;
use crate::client::bench::rounds::{Spread, Summary};

/// What came out.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    pub(super) rounds: usize,
    /// Of one turn.
    pub(super) events: usize,
    pub(super) relay: Summary,
    pub(super) plain: Summary,
    /// Events a second of the relay to messages a second of the plain consumer.
    pub(super) ratio: Spread,
    /// The same by CPU time of this process.
    pub(super) cpu_ratio: Spread,
}

impl Report {
    /// For people, or as JSON.
    pub(super) fn print(&self, json: bool) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        if json {
            serde_json::to_writer(&mut out, self)?;
            return Ok(writeln!(out)?);
        }
        let Report { rounds, events, ratio, cpu_ratio, .. } = self;
        writeln!(out, "events        {events} in each of {rounds} rounds")?;
        for (name, side) in [("relay", &self.relay), ("plain reader", &self.plain)] {
            let Summary { per_second, per_cpu_second, processes } = side;
            writeln!(
                out,
                "{name:<13} {per_cpu_second:.0} events per CPU second of this process; {per_second:.0} events/s"
            )?;
            process::print(&mut out, processes)?;
        }
        writeln!(out, "ratio         {cpu_ratio:.2} by CPU time; {ratio:.2} by time")?;
        Ok(())
    }
}
