//! One target's run, and what became of it.

use std::fmt;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::command;
use crate::workspace::root;

/// How often it is said how far a target is.
const SAY_EVERY: Duration = Duration::from_secs(15);
/// What a target takes beyond its time: reading its corpus, the last input.
const GRACE: Duration = Duration::from_secs(60);
/// Seconds that one input may take; most take microseconds.
const INPUT_SECONDS: u32 = 5;
/// Nothing that is tested holds more than a few megabytes.
const MEMORY_MB: u32 = 1024;

pub(super) struct Session<'a> {
    pub(super) target: &'a str,
    pub(super) binary: &'a Path,
    /// Where everything goes.
    pub(super) folder: &'a Path,
    pub(super) time: Duration,
}

/// What became of a target.
#[derive(Clone)]
pub(super) struct Outcome {
    pub(super) target: String,
    progress: Progress,
    pub(super) failure: Option<Failure>,
}

#[derive(Clone)]
pub(super) struct Failure {
    /// The input that it failed on; none when it failed by itself.
    input: Option<PathBuf>,
    log: PathBuf,
}

/// What libFuzzer says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Progress {
    executions: u64,
    /// Edges of the code that were reached.
    coverage: u64,
    /// The file with the input that failed.
    input: Option<PathBuf>,
}

impl Session<'_> {
    /// Runs the target for its time. A failing input is an outcome; an error is that there is none.
    pub(super) fn run(&self) -> Result<Outcome> {
        let grown = self.made("corpus")?;
        let crashes = self.made("crashes")?;
        let path = self.folder.join(format!("{}.log", self.target));
        let mut log = File::create(&path).with_context(|| format!("creating {}", path.display()))?;

        let mut command = Command::new(self.binary);
        command.arg(grown).arg(root().join("fuzz/corpus").join(self.target));
        command.arg(format!("-max_total_time={}", self.time.as_secs()));
        command.arg(format!("-artifact_prefix={}/", crashes.display()));
        command.args([format!("-timeout={INPUT_SECONDS}"), format!("-rss_limit_mb={MEMORY_MB}")]);
        command.args(["-print_final_stats=1"]).env("RUST_BACKTRACE", "1");

        let (mut progress, start) = (Progress::default(), Instant::now());
        let mut said = start;
        println!("{}: begins", self.target);
        let status = command::lines(&mut command, self.time + GRACE, |line| {
            // The log is for people to read; what could not be written of it changes nothing.
            writeln!(log, "{line}").ok();
            progress.take(line);
            if said.elapsed() >= SAY_EVERY {
                said = Instant::now();
                println!("{}: {progress} after {:.0?}", self.target, start.elapsed());
            }
        })?;

        let failed = !status.success();
        ensure!(
            failed || progress.coverage > 0,
            "{} reports no coverage, so nothing guides it: see {}",
            self.target,
            path.display()
        );
        let failure = failed.then(|| Failure { input: progress.input.take(), log: path });
        let outcome = Outcome { target: self.target.to_owned(), progress, failure };
        println!("{}: {}", self.target, if failed { "FAILED" } else { "done" });
        Ok(outcome)
    }

    fn made(&self, kind: &str) -> Result<PathBuf> {
        let folder = self.folder.join(kind).join(self.target);
        std::fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
        Ok(folder)
    }
}

impl Progress {
    /// Takes what a line says: `#4096 NEW cov: 312 ft: …`, `stat::number_of_executed_units: 5000`,
    /// `…; Test unit written to <path>`.
    fn take(&mut self, line: &str) {
        let number = |text: &str| text.split_whitespace().next().and_then(|word| word.parse().ok());
        if let Some(rest) = line.strip_prefix('#') {
            self.executions = number(rest).unwrap_or(self.executions);
            let coverage = rest.split_once(" cov: ").and_then(|(_, rest)| number(rest));
            self.coverage = coverage.unwrap_or(self.coverage);
        } else if let Some(rest) = line.strip_prefix("stat::number_of_executed_units:") {
            self.executions = number(rest).unwrap_or(self.executions);
        } else if let Some((_, path)) = line.split_once("Test unit written to ") {
            self.input = Some(PathBuf::from(path));
        }
    }
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} executions, {} edges covered", self.executions, self.coverage)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<14} {}", self.target, self.progress)?;
        let Some(Failure { input, log }) = &self.failure else { return Ok(()) };
        write!(f, "\n    FAILED, see {}", log.display())?;
        let Some(input) = input else { return Ok(()) };
        write!(f, "\n    on the input {}", input.display())?;
        write!(f, "\n    again: cargo xtask fuzz {} --input {}", self.target, input.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_what_libfuzzer_says() {
        let mut progress = Progress::default();
        for line in [
            "INFO: Running with entropic power schedule (0xFF, 100).",
            "#2\tINITED cov: 190 ft: 191 corp: 1/1b exec/s: 0 rss: 37Mb",
            "#133862\tREDUCE cov: 212 ft: 12 corp: 5/21b lim: 1300 exec/s: 0 rss: 27Mb L: 8/8 MS: 1 EraseBytes-",
            "artifact_prefix='/t/crashes/cursor/'; Test unit written to /t/crashes/cursor/crash-75",
            "stat::number_of_executed_units: 133970",
            "#1 is no such line",
        ] {
            progress.take(line);
        }
        let input = Some(PathBuf::from("/t/crashes/cursor/crash-75"));
        assert_eq!(progress, Progress { executions: 1, coverage: 212, input });
    }
}
