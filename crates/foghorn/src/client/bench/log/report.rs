//! The result of `foghorn bench log`.

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
    pub(super) rows: usize,
    pub(super) writer: Summary,
    pub(super) bare: Summary,
    /// Rows a second of the writer to those of the bare loop.
    pub(super) ratio: Spread,
    /// What of a turn reading the journal takes, when nothing is done with it.
    pub(super) journal_read_seconds: Spread,
    pub(super) writer_seconds: Spread,
}

impl Report {
    /// For people, or as JSON.
    pub(super) fn print(&self, json: bool) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        if json {
            serde_json::to_writer(&mut out, self)?;
            return Ok(writeln!(out)?);
        }
        let Report { rounds, rows, ratio, journal_read_seconds, writer_seconds, .. } = self;
        writeln!(out, "rows          {rows} in each of {rounds} rounds")?;
        for (name, side) in [("writer", &self.writer), ("bare loop", &self.bare)] {
            let Summary { per_second, per_cpu_second, processes } = side;
            writeln!(
                out,
                "{name:<13} {per_second:.0} rows/s; {per_cpu_second:.0} per CPU second of this process"
            )?;
            process::print(&mut out, processes)?;
        }
        writeln!(out, "ratio         {ratio:.2}")?;
        writeln!(
            out,
            "journal       read alone in {journal_read_seconds:.3} s; the writer's turns took {writer_seconds:.3} s"
        )?;
        Ok(())
    }
}
