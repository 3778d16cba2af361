//! The browsers' client, `clients/typescript`: checked, tested in Node and in Chromium against the product's
//! binary, packed, and used from a fresh project.

use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::workspace::root;
use crate::{command, test, tools};

/// A cold machine downloads some 60 MB of packages.
const INSTALL: Duration = Duration::from_secs(5 * 60);
const CHECK: Duration = Duration::from_secs(2 * 60);
const TEST: Duration = Duration::from_secs(5 * 60);

/// Needs Node 20 or newer with npm; the rest is found or installed.
pub(crate) fn run() -> Result<()> {
    let tools = tools::ensure()?;
    let binary = test::build(&test::Options::everything())?;

    // What the lock file says and nothing else. No package needs its scripts here, so none is run.
    command::run(npm().args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]), INSTALL)?;
    command::run(npm().args(["run", "check"]), CHECK)?;
    command::run(npm().arg("test").env("FOGHORN_BIN", binary).envs(tools.environment()), TEST)
}

fn npm() -> Command {
    let mut npm = Command::new("npm");
    npm.current_dir(root().join("clients/typescript"));
    npm
}
