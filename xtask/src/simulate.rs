//! Runs the simulation: many seeds, or one with its story. In the tests' profile, so that they share what is
//! compiled.

use std::time::Duration;

use anyhow::Result;

use crate::command;
use crate::workspace::cargo;

/// Longest that it may take, building included.
const LIMIT: Duration = Duration::from_secs(6 * 3600);

/// What to run; `--help` of `simulate` says more.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// What `simulate` gets: `--seeds N [--from SEED] [--json]`, or `--seed S`, or `--mutant NAME`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Builds and runs it.
pub(crate) fn run(options: &Options) -> Result<()> {
    let mut simulate = cargo();
    simulate.args(["run", "--quiet", "--profile", "ci", "--package", "foghorn-simulation", "--"]);
    command::run(simulate.args(&options.arguments), LIMIT)
}
