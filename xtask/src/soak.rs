//! Runs the soak: a cluster under load and random faults, for as long as it is asked to. In the tests' profile, so
//! that they share what is compiled.

use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::workspace::target_dir;
use crate::{command, test, tools};

/// Longest that it may take.
const LIMIT: Duration = Duration::from_secs(7 * 24 * 3600);

/// What to run; `--help` of `soak` says more.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// What `soak` gets: `--minutes N [--seed S] [--json] …`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Builds the product and the soak, and runs it.
pub(crate) fn run(options: &Options) -> Result<()> {
    let tools = tools::ensure()?;
    let binary = test::build(&test::Options::everything())?;
    let mut soak = Command::new(target_dir()?.join("ci/soak"));
    soak.args(&options.arguments).env("FOGHORN_BIN", binary).envs(tools.environment());
    command::run(&mut soak, LIMIT)
}
