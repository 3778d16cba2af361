//! `foghorn bench`: what a deployment does, measured from outside, and whether it loses, doubles or
//! reorders anything while at it.
//!
//! Read first: [`deliver`] (publish to receipt) and [`oracle`] (what should have been heard).

mod deliver;
mod publish;

mod door;
mod listener;
mod publisher;

mod body;
mod latency;
mod limits;
mod oracle;
mod process;
mod scan;

use std::process::ExitCode;

use anyhow::Context as _;

/// What `foghorn bench` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    scenario: Scenario,
}

#[derive(Debug, clap::Subcommand)]
enum Scenario {
    /// Listeners and publishers: latency from publish to receipt, and what was lost, doubled or reordered
    Deliver(deliver::Args),
    /// Publishers alone: acknowledged publishes a second
    Publish(publish::Args),
}

/// What every scenario takes.
#[derive(Debug, Clone, clap::Args)]
struct Common {
    /// Also report this process's CPU time and memory; once for each server process
    #[arg(long, value_name = "PID")]
    pid: Vec<u32>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Measures. The exit code is 1 when something was lost, doubled or reordered, or could not be measured.
pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.context("can't start the asynchronous runtime")?;
    let ended = runtime.block_on(async {
        match args.scenario {
            Scenario::Deliver(args) => Box::pin(deliver::run(args)).await,
            Scenario::Publish(args) => Box::pin(publish::run(args)).await,
        }
    });
    runtime.shutdown_background();
    ended
}

#[cfg(test)]
mod tests;
