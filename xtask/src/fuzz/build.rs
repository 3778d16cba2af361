//! Builds the targets with coverage, as stable Rust can: LLVM's pass is asked for by hand, and without a
//! sanitizer, of which safe code has no need.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::MANIFEST;
use crate::command;
use crate::workspace::cargo;

/// On a cold machine it compiles the services' dependencies, all of them with coverage.
const BUILD: Duration = Duration::from_secs(25 * 60);
const FETCH: Duration = Duration::from_secs(5 * 60);

/// What libFuzzer goes by: which edges of the code were taken how often, and what was compared with what.
const FLAGS: [&str; 8] = [
    "--cfg",
    "fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Dwarnings",
];

/// Whether clippy compiles the targets themselves. It does so as rustc would, so its look at them costs
/// nothing; `cargo clippy` would go over all dependencies once more.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Lint {
    #[default]
    No,
    Clippy,
}

/// Fails when the targets' lock file is not what the manifests ask for: a build of the product doesn't renew it.
pub(crate) fn check_lock() -> Result<()> {
    let mut fetch = cargo();
    fetch.args(["fetch", "--quiet", "--locked", "--manifest-path", MANIFEST, "--target", &host()?]);
    command::run(&mut fetch, FETCH).context("`cargo xtask fuzz` renews fuzz/Cargo.lock")
}

/// The targets' programs.
pub(super) struct Binaries(PathBuf);

impl Binaries {
    pub(super) fn of(&self, target: &str) -> PathBuf {
        self.0.join(target)
    }
}

/// Builds all targets into `folder`.
pub(super) fn build(folder: &Path, lint: Lint) -> Result<Binaries> {
    let host = host()?;
    let mut build = cargo();
    // With a target named, the flags are not for build scripts, which have nothing to report coverage to.
    build.args(["build", "--release", "--manifest-path", MANIFEST, "--target", &host]);
    build.arg("--target-dir").arg(folder).env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\x1f"));
    if lint == Lint::Clippy {
        build.env("RUSTC_WORKSPACE_WRAPPER", "clippy-driver");
    }
    command::run(&mut build, BUILD)?;
    Ok(Binaries(folder.join(host).join("release")))
}

/// The machine we are on, as Rust calls it.
fn host() -> Result<String> {
    let host =
        command::output(Command::new("rustc").args(["--print", "host-tuple"]), Duration::from_secs(20))?;
    Ok(host.stdout.trim().to_owned())
}
