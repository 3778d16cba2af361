//! What runs in browsers. The client, `clients/typescript`: checked, tested in Node and in Chromium against the product's
//! binary, packed, and used from a fresh project. And the console, `clients/console`, which is built over it.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::workspace::root;
use crate::{command, test, tools};

/// A cold machine downloads some 60 MB of packages.
const INSTALL: Duration = Duration::from_secs(5 * 60);
const CHECK: Duration = Duration::from_secs(2 * 60);
const TEST: Duration = Duration::from_secs(5 * 60);

const CLIENT: &str = "clients/typescript";
const CONSOLE: &str = "clients/console";
/// What the binary embeds of the console.
const ASSETS: &str = "crates/foghorn/assets/console";

/// Needs Node 20 or newer with npm; the rest is found or installed.
pub(crate) fn run() -> Result<()> {
    let tools = tools::ensure()?;
    // Before the binary is built, which embeds it.
    for folder in [CLIENT, CONSOLE] {
        // What the lock file says and nothing else. No package needs its scripts here, so none is run.
        command::run(npm(folder).args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]), INSTALL)?;
        command::run(npm(folder).args(["run", "check"]), CHECK)?;
    }
    compare_assets()?;
    let binary = test::build(&test::Options::everything())?;
    for folder in [CLIENT, CONSOLE] {
        command::run(npm(folder).arg("test").env("FOGHORN_BIN", &binary).envs(tools.environment()), TEST)?;
    }
    Ok(())
}

/// Whether the console that is embedded is what its sources give.
fn compare_assets() -> Result<()> {
    let built = root().join("target/console-assets");
    command::run(npm(CONSOLE).args(["run", "build", "--"]).arg(&built), CHECK)?;
    for entry in std::fs::read_dir(&built)? {
        let name = entry?.file_name();
        let embedded = root().join(ASSETS).join(&name);
        ensure!(
            read(&built.join(&name))? == read(&embedded)?,
            "{} isn't what {CONSOLE} gives: run `npm run build` there",
            embedded.display()
        );
    }
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("reading {}", path.display()))
}

fn npm(folder: &str) -> Command {
    let mut npm = Command::new("npm");
    npm.current_dir(root().join(folder));
    npm
}
