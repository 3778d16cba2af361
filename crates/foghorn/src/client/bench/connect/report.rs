//! The result of `foghorn bench connect`.

use std::io::Write as _;

use serde::Serialize;

use super::{Args, By};
use crate::client::bench::rounds::Spread;

/// What came out.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    rounds: usize,
    connects: usize,
    users: usize,
    by: Vec<Figures>,
}

/// Of one way to say who connects.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Figures {
    by: By,
    per_cpu_second: Spread,
    /// To anonymous connects, round by round.
    ratio: Spread,
}

impl Report {
    pub(super) fn of(args: &Args, rounds: &[[f64; By::ALL.len()]]) -> anyhow::Result<Self> {
        let figures = |(at, by)| {
            let per_cpu_second = Spread::of(rounds.iter().map(|round| round[at]))?;
            // Anonymous ones come first.
            let ratio = Spread::of(rounds.iter().map(|round| round[at] / round[0]))?;
            Ok(Figures { by, per_cpu_second, ratio })
        };
        let by = By::ALL.into_iter().enumerate().map(figures).collect::<anyhow::Result<_>>()?;
        Ok(Report { rounds: args.pinned.rounds, connects: args.connects, users: args.users, by })
    }

    /// For people, or as JSON.
    pub(super) fn print(&self, json: bool) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        if json {
            serde_json::to_writer(&mut out, self)?;
            return Ok(writeln!(out)?);
        }
        writeln!(out, "connects a CPU second, {} in a turn; {} rounds", self.connects, self.rounds)?;
        for Figures { by, per_cpu_second, ratio } in &self.by {
            writeln!(out, "{:<32} {per_cpu_second:.0}, {ratio:.2} of anonymous", by.name())?;
        }
        Ok(())
    }
}
