//! `foghorn bench`: what a deployment does, measured from outside, and whether it loses, doubles or
//! reorders anything while at it; and what one part of it does alone, beside a bare loop on the same
//! server.
//!
//! Read first: [`deliver`] (publish to receipt), [`oracle`] (what should have been heard) and [`rounds`]
//! (how two sides are compared).

mod deliver;
mod publish;

mod connect;
mod hold;
mod log;
mod relay;
mod storm;
mod sweep;

mod rounds;

mod door;
mod jetstream;
mod listener;
mod publisher;

mod body;
mod folder;
mod latency;
mod limits;
mod oracle;
mod pinned;
mod process;
mod scan;
mod tokens;

use std::fmt;
use std::process::ExitCode;

use anyhow::{Context as _, anyhow, bail};

use super::interrupt::Interrupts;

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
    /// Publishers alone: acknowledged publishes a second, also against the plain client of JetStream
    Publish(publish::Args),
    /// The event log's writer alone: rows a second, against a bare loop of inserts
    Log(log::Args),
    /// The relay alone: events a second, against just reading the journal's stream
    Relay(relay::Args),
    /// The gateway alone: one channel's events to many listeners, beside a bare loop of sends
    Sweep(sweep::Args),
    /// The gateway in a reconnect storm: time until all are level, and what live listeners notice of it
    Storm(storm::Args),
    /// The gateway alone: streams opened and left again, anonymous, by token, by ticket, and with a limit of streams
    Connect(connect::Args),
    /// The bare loop that `sweep` compares with
    #[command(hide = true)]
    Bare(sweep::BareArgs),
    /// Idle listeners of a gateway that runs, for a measurement of many processes
    #[command(hide = true)]
    Hold(hold::Args),
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
            Scenario::Log(args) => Box::pin(log::run(args)).await,
            Scenario::Relay(args) => Box::pin(relay::run(args)).await,
            // In this thread: it waits for nothing but sockets of its own.
            Scenario::Sweep(args) => sweep::run(&args),
            Scenario::Storm(args) => storm::run(&args),
            Scenario::Connect(args) => connect::run(&args),
            Scenario::Bare(args) => args.run(),
            Scenario::Hold(args) => hold::run(&args),
        }
    });
    runtime.shutdown_background();
    ended
}

/// Measures unless a signal asks to end first: what was made for it has to be undone either way.
async fn unless_interrupted<T>(
    interrupts: &mut Interrupts,
    measuring: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    tokio::select! {
        measured = measuring => measured,
        () = interrupts.next() => bail!("interrupted"),
    }
}

/// What was measured, once what was made for it is gone. Neither failure hides the other.
fn after_cleanup<T>(measured: anyhow::Result<T>, cleaned: anyhow::Result<()>) -> anyhow::Result<T> {
    match (measured, cleaned) {
        (Ok(measured), Ok(())) => Ok(measured),
        (Ok(_), Err(error)) | (Err(error), Ok(())) => Err(error),
        (Err(error), Err(left)) => Err(anyhow!("{error:#}; and {left:#}")),
    }
}

/// Tells those who wait how far it is. Standard output is for the result.
fn progress(round: usize, rounds: usize, what: fmt::Arguments<'_>) {
    eprintln!("round {} of {rounds}: {what}", round + 1);
}

/// A count of something there must be.
fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("at least 1".to_owned()),
        Ok(count) => Ok(count),
        Err(error) => Err(format!("not a count: {error}")),
    }
}

#[cfg(test)]
mod tests;
