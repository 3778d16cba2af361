//! Fuzzing: the targets of `fuzz/`, built once, run two at a time.
//!
//! Nothing of it goes into the source tree. In the target folder's `fuzz/` are `build`, `corpus/<target>` (what
//! was found worth keeping, on which the next run builds), `crashes/<target>` and `<target>.log`. The seeds in
//! `fuzz/corpus/<target>` are only read.

mod build;
mod session;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

pub(crate) use self::build::check_lock;

use self::build::{Binaries, Lint};
use self::session::{Outcome, Session};
use crate::command;
use crate::tools;
use crate::workspace::{root, target_dir};

/// The package of the targets, from the top of the checkout.
pub(crate) const MANIFEST: &str = "fuzz/Cargo.toml";

/// How many run at a time, if there are as many processors: the machines that CI is made for have two.
const AT_A_TIME: usize = 2;
/// How long one input may take when it is run again.
const ONE_INPUT: Duration = Duration::from_secs(60);

/// What to fuzz.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Run these targets only
    targets: Vec<String>,
    /// How long each of them runs
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// Run one target with this input instead, such as one that it failed on
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Have clippy look at the targets too
    #[arg(skip)]
    lint: Lint,
}

impl Options {
    /// Every target for a minute.
    pub(crate) fn everything() -> Self {
        Options { targets: Vec::new(), seconds: 60, input: None, lint: Lint::Clippy }
    }
}

/// Runs the targets; an error when one of them failed on an input.
pub(crate) fn run(options: &Options) -> Result<()> {
    let targets = chosen(&options.targets)?;
    tools::compiler()?;
    let folder = target_dir()?.join("fuzz");
    let binaries = build::build(&folder.join("build"), options.lint)?;
    match &options.input {
        Some(input) => run_again(&binaries, &targets, input),
        None => report(&run_all(&binaries, &folder, targets, Duration::from_secs(options.seconds))?),
    }
}

/// The targets of these names, or all there are.
fn chosen(names: &[String]) -> Result<Vec<String>> {
    let folder = root().join("fuzz/targets");
    let mut all = Vec::new();
    for entry in folder.read_dir().with_context(|| format!("reading {}", folder.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            all.extend(path.file_stem().map(|name| name.to_string_lossy().into_owned()));
        }
    }
    all.sort();
    if let Some(unknown) = names.iter().find(|name| !all.contains(name)) {
        bail!("there is no fuzz target {unknown}; there are {}", all.join(", "));
    }
    Ok(if names.is_empty() { all } else { names.to_vec() })
}

fn run_again(binaries: &Binaries, targets: &[String], input: &Path) -> Result<()> {
    let [target] = targets else { bail!("name the one target that is to have the input") };
    ensure!(input.is_file(), "there is no file {}", input.display());
    let mut command = Command::new(binaries.of(target));
    command::run(command.arg(input).env("RUST_BACKTRACE", "1"), ONE_INPUT)
}

fn run_all(binaries: &Binaries, folder: &Path, targets: Vec<String>, time: Duration) -> Result<Vec<Outcome>> {
    let workers = thread::available_parallelism().map_or(1, usize::from).min(AT_A_TIME);
    let rounds = targets.len().div_ceil(workers) as u64;
    println!("{} targets, {workers} at a time, for {time:?} each: {:?}", targets.len(), time * rounds as u32);
    let waiting = Mutex::new(VecDeque::from(targets));
    let next = || waiting.lock().expect("no holder panics").pop_front();
    let work = || -> Result<Vec<Outcome>> {
        let mut outcomes = Vec::new();
        while let Some(target) = next() {
            let session = Session { target: &target, binary: &binaries.of(&target), folder, time };
            // After one that could not be run, or was interrupted, nothing else begins.
            let stop = |error| {
                waiting.lock().expect("no holder panics").clear();
                error
            };
            outcomes.push(session.run().map_err(stop)?);
        }
        Ok(outcomes)
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        let results = workers.into_iter().map(|worker| worker.join().expect("a worker doesn't panic"));
        let mut all = results.collect::<Result<Vec<_>>>()?.concat();
        all.sort_by(|a, b| a.target.cmp(&b.target));
        Ok(all)
    })
}

fn report(outcomes: &[Outcome]) -> Result<()> {
    for outcome in outcomes {
        println!("{outcome}");
    }
    let failed: Vec<&str> =
        outcomes.iter().filter(|outcome| outcome.failure.is_some()).map(|outcome| &*outcome.target).collect();
    ensure!(failed.is_empty(), "found inputs that fail: {}", failed.join(", "));
    Ok(())
}
