//! Everything a change has to pass, cheapest first.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::workspace::cargo;
use crate::{chart, client, codegen, command, dashboards, fuzz, image, test};

/// Clippy compiles the dependencies' interfaces on a cold machine.
const LINT: Duration = Duration::from_secs(25 * 60);

/// Stops at the first step that fails.
pub(crate) fn run() -> Result<()> {
    step("format", || {
        command::run(cargo().args(["fmt", "--all", "--check"]), Duration::from_secs(60))?;
        let of_fuzz = ["fmt", "--manifest-path", fuzz::MANIFEST, "--check"];
        command::run(cargo().args(of_fuzz), Duration::from_secs(60))
    })?;
    step("generated code", codegen::check)?;
    step("lock file of the fuzz targets", fuzz::check_lock)?;
    step("Dockerfile", image::lint)?;
    step("clippy", || {
        let lint = ["clippy", "--profile", "ci", "--workspace", "--all-targets", "--", "-D", "warnings"];
        command::run(cargo().args(lint), LINT)
    })?;
    step("tests", || test::run(&test::Options::everything()))?;
    step("chart", chart::check)?;
    // Their queries are among the tests.
    step("alerts and dashboards", dashboards::check)?;
    step("client", client::run)?;
    step("fuzz", || fuzz::run(&fuzz::Options::everything()))
}

fn step(name: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
    println!("== {name}");
    let start = Instant::now();
    work().with_context(|| format!("{name} failed"))?;
    println!("== {name}: passed in {:.0?}", start.elapsed());
    Ok(())
}
