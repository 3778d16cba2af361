//! The image, built by the Dockerfile and looked at: what is in it, what it is made of, whether it runs as a container
//! that may do nothing, and whether the same source makes the same bytes.
//!
//! Where the base image can't be pulled one is made: Debian's own packages and the Rust of this machine.

mod base;
mod checks;
mod engine;

use std::time::Duration;

use anyhow::{Context, Result};

use self::engine::Engine;
use crate::workspace::root;
use crate::{command, tools};

/// All is compiled, with optimisation across crates.
const BUILD: Duration = Duration::from_secs(60 * 60);
const TAG: &str = "foghorn:checked";

/// What to do.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Build it a second time, with nothing cached, and compare
    #[arg(long)]
    twice: bool,
}

/// Reads the Dockerfile for what is known to go wrong.
pub(crate) fn lint() -> Result<()> {
    let mut hadolint = tools::hadolint()?;
    command::run(hadolint.arg(root().join("Dockerfile")), Duration::from_secs(60))
}

/// Builds the image and looks at it.
pub(crate) fn run(options: &Options) -> Result<()> {
    lint()?;
    let engine = Engine::ensure()?;
    let base = base::ensure(&engine)?;
    build(&engine, &base, TAG, &[])?;
    let first = checks::contents(&engine, TAG)?;
    checks::labels(&engine, TAG)?;
    checks::runs(&engine, TAG)?;
    if options.twice {
        const SECOND: &str = "foghorn:again";
        // Another folder of what is compiled: the caches belong to a line of the Dockerfile, whatever is built.
        command::run(
            engine.docker().args(["builder", "prune", "--all", "--force"]),
            Duration::from_secs(300),
        )?;
        build(&engine, &base, SECOND, &["--no-cache"])?;
        let second = checks::contents(&engine, SECOND)?;
        checks::same(&first, &second)?;
    }
    Ok(())
}

fn build(engine: &Engine, base: &base::Base, tag: &str, more: &[&str]) -> Result<()> {
    let mut build = engine.docker();
    build.env("DOCKER_BUILDKIT", "1").args(["build", "--progress", "plain", "--tag", tag]).args(more);
    build.args(base.arguments());
    command::run(build.arg(root()), BUILD).context("building the image")
}
