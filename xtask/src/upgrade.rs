//! Runs a cluster of real processes through an upgrade from another version, back and again, under load.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::workspace::{cargo, root, target_dir};
use crate::{command, test, tools};

/// Longest that it may take, and that building the version before may.
const LIMIT: Duration = Duration::from_secs(3600);

/// From what to upgrade; `--help` of `upgrade` says more.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The version before: a tag, branch or commit, which is built
    #[arg(long, required_unless_present = "binary")]
    from: Option<String>,
    /// The same as a binary that there is
    #[arg(long, conflicts_with = "from")]
    binary: Option<PathBuf>,
    /// What `upgrade` gets: `--shards N --json`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Builds both versions, and runs it.
pub(crate) fn run(options: &Options) -> Result<()> {
    let tools = tools::ensure()?;
    let after = test::build(&test::Options::everything())?;
    let before = match (&options.binary, &options.from) {
        (Some(binary), _) => std::path::absolute(binary)?,
        (None, from) => build(from.as_deref().context("no version to upgrade from")?)?,
    };
    let mut upgrade = Command::new(target_dir()?.join("ci/upgrade"));
    upgrade.arg("--before").arg(before).arg("--after").arg(&after).args(&options.arguments);
    upgrade.env("FOGHORN_BIN", after).envs(tools.environment());
    command::run(&mut upgrade, LIMIT)
}

/// The binary of a version, built in a checkout and a target directory of its own.
fn build(version: &str) -> Result<PathBuf> {
    let checkout = target_dir()?.join("before");
    let git = |arguments: &[&str]| {
        let mut git = Command::new("git");
        git.current_dir(root()).args(arguments);
        git
    };
    let commit = format!("{version}^{{commit}}");
    let commit = command::output(&mut git(&["rev-parse", "--verify", &commit]), LIMIT)?.stdout;
    if checkout.is_dir() {
        command::output(
            git(&["checkout", "--detach", "--force", commit.trim()]).current_dir(&checkout),
            LIMIT,
        )?;
    } else {
        let place = checkout.to_string_lossy();
        command::output(&mut git(&["worktree", "add", "--detach", &place, commit.trim()]), LIMIT)?;
    }
    let mut build = cargo();
    build.current_dir(&checkout).args(["build", "--locked", "--profile", "ci", "--package", "foghorn"]);
    build.env("CARGO_TARGET_DIR", checkout.join("target"));
    command::run(&mut build, LIMIT).with_context(|| format!("building {version}"))?;
    Ok(checkout.join("target/ci/foghorn"))
}
