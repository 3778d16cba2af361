//! Builds the product and runs every test against it, with the real components around it.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::command;
use crate::tools;
use crate::workspace::{cargo, target_dir};

/// A cold machine compiles the dependencies in this, even one that has other work.
const BUILD: Duration = Duration::from_secs(25 * 60);
const TEST: Duration = Duration::from_secs(15 * 60);

/// What to test.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Test these packages only
    #[arg(short, long = "package")]
    packages: Vec<String>,
    /// What else `cargo test` shall get: `cargo xtask test -- --test it -- harness`
    #[arg(last = true)]
    arguments: Vec<String>,
}

impl Options {
    /// The whole workspace.
    pub(crate) fn everything() -> Self {
        Self { packages: Vec::new(), arguments: Vec::new() }
    }

    /// Those tests across processes whose names contain `filter`.
    pub(crate) fn across_processes(filter: &str) -> Self {
        Self { packages: Vec::new(), arguments: ["--test", "it", "--", filter].map(str::to_owned).into() }
    }
}

/// Runs the tests; everything they start ends with them.
pub(crate) fn run(options: &Options) -> Result<()> {
    run_with(options, [])
}

/// Runs those that need an API server of Kubernetes.
pub(crate) fn kubernetes() -> Result<()> {
    let kubernetes = tools::kubernetes()?;
    let arguments = ["--test", "it", "--", "--ignored", "kubernetes::"].map(str::to_owned).into();
    run_with(&Options { packages: Vec::new(), arguments }, kubernetes.environment())
}

fn run_with<'a>(options: &Options, more: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<()> {
    let tools = tools::ensure()?;
    print!("{tools}");
    let binary = build(options)?;

    // One profile for product and tests: the dependencies are compiled once.
    let mut test = cargo();
    test.args(["test", "--profile", "ci"]);
    if options.packages.is_empty() {
        test.arg("--workspace");
    }
    test.args(options.packages.iter().flat_map(|package| ["--package", package]));
    test.args(&options.arguments).env("FOGHORN_BIN", binary).envs(tools.environment()).envs(more);
    let mut panics = Panics::default();
    command::run_and_read(&mut test, TEST, |line| panics.read(line)).map_err(|error| match &*panics.text {
        "" => error,
        // The logs of a cluster come after what is wrong with it, and nobody would find that above them.
        text => error.context(format!("the panics among all that, once more:\n{text}")),
    })
}

/// The first lines of every panic in the output of tests.
#[derive(Default)]
struct Panics {
    text: String,
    /// How many lines of the one that is read are still wanted.
    wanted: usize,
}

impl Panics {
    /// Of one panic; the oracle names up to a hundred violations.
    const LINES: usize = 12;
    /// Of all of them, in bytes.
    const BOUND: usize = 16 * 1024;

    fn read(&mut self, line: &str) {
        if line.starts_with("thread '") && line.contains(" panicked at ") {
            self.wanted = Self::LINES;
        } else if line.is_empty() || line.starts_with("note: run with") {
            self.wanted = 0;
        }
        if self.wanted > 0 && self.text.len() < Self::BOUND {
            self.wanted -= 1;
            self.text.extend(line.chars().take(500).chain(['\n']));
        }
    }
}

/// Builds the product and what tests it; gives the product's binary.
pub(crate) fn build(options: &Options) -> Result<PathBuf> {
    let mut build = cargo();
    build.args(["build", "--profile", "ci"]);
    if options.packages.is_empty() {
        // Binaries and tests in one go: apart, cargo would choose other features for the same dependencies
        // and compile them again.
        build.args(["--workspace", "--bins", "--tests"]);
    } else {
        build.args(["--package", "foghorn", "--bins"]);
    }
    command::run(&mut build, BUILD)?;

    let binary = target_dir()?.join("ci/foghorn");
    ensure!(binary.is_file(), "cargo built no {}: is there still a binary named foghorn?", binary.display());
    Ok(binary)
}
