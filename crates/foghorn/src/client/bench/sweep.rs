//! The gateway alone: one channel's events to many listeners, in turns with a bare loop that does nothing
//! but `send()`. Linux only: both sides are pinned to a core each.

mod audience;
mod bare;
mod report;
mod server;

use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use self::audience::{Audience, Heard};
use self::report::{Report, Row};
use self::server::{Kind, Publisher, Server};
use super::process;
use super::rounds::{ROUNDS, turns};
use super::{at_least_one, limits, progress};
pub(super) use bare::serve as serve_bare;

/// How long the last delivery may take to come.
const PATIENCE: Duration = Duration::from_secs(60);

/// What `foghorn bench sweep` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// How many listeners, all of one channel
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = at_least_one)]
    connections: usize,
    /// Events a second; 0 for one at a time, each when the last has reached everybody
    #[arg(long, value_name = "N", default_value_t = 0)]
    rate: u32,
    /// How many events in a turn
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = at_least_one)]
    events: usize,
    /// Bytes of data in an event (at least 37)
    #[arg(long, value_name = "BYTES", default_value_t = 256)]
    size: usize,
    /// How many rounds; what is printed are medians, and the range
    #[arg(long, value_name = "N", default_value_t = ROUNDS, value_parser = at_least_one)]
    rounds: usize,
    /// The core that a server is pinned to
    #[arg(long, value_name = "N", default_value_t = 0)]
    server_core: usize,
    /// The core that listeners and publisher are pinned to
    #[arg(long, value_name = "N", default_value_t = 1)]
    load_core: usize,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What `foghorn bench bare` takes: the loop that `sweep` compares with.
#[derive(Debug, clap::Args)]
pub(super) struct BareArgs {
    /// Go round the listeners for ever and send each all that it lacks, and not each event to each
    #[arg(long)]
    sweep: bool,
}

impl BareArgs {
    /// Serves until it is killed.
    pub(super) fn run(&self) -> anyhow::Result<ExitCode> {
        serve_bare(self.sweep)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Measures and prints.
pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if args.size < super::scan::STAMP_BYTES {
        bail!("--size must be at least {}: each event carries a number and a time", super::scan::STAMP_BYTES);
    }
    limits::allow(args.connections)?;
    server::pin_this_thread(args.load_core)?;
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for round in 0..args.rounds {
        for side in turns(round) {
            let (kind, rows) = match side {
                super::rounds::Side::Ours => (Kind::Foghorn, &mut ours),
                super::rounds::Side::Bare if args.rate == 0 => (Kind::Send, &mut bare),
                super::rounds::Side::Bare => (Kind::Sweep, &mut bare),
            };
            let row = turn(args, kind)?;
            progress(round, args.rounds, format_args!("{}: {row}", kind.name()));
            rows.push(row);
        }
    }
    let report = Report::of(args, &ours, &bare)?;
    report.print(args.json)?;
    Ok(if report.is_exact() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn turn(args: &Args, kind: Kind) -> anyhow::Result<Row> {
    let server = Server::start(kind, args.server_core)?;
    let pids = [server.pid()];
    let empty = process::look(&pids)?;
    let began = Instant::now();
    let mut audience = Audience::open(&server, args.connections, began)?;
    let idle = process::look(&pids)?;
    let mut publisher = Publisher::connect(&server, args.size, began)?;
    // The first makes what is made once.
    publisher.publish(0)?;
    audience.hear(1, PATIENCE)?;
    audience.forget();
    let before = process::look(&pids)?;
    let started = Instant::now();
    if args.rate == 0 {
        for number in 1..=args.events {
            publisher.publish(number as u64)?;
            audience.hear(1, PATIENCE)?;
        }
    } else {
        let (events, rate) = (args.events, args.rate);
        let publishing = thread::spawn(move || publisher.publish_at(rate, events));
        audience.hear(args.events, PATIENCE + Duration::from_secs(args.events as u64 / u64::from(rate)))?;
        publishing.join().ok().context("the publisher broke")??;
    }
    let seconds = started.elapsed().as_secs_f64();
    let used = process::used(&empty, &before, &process::look(&pids)?);
    let Heard { deliveries, missing, disordered, latency } = audience.heard(args.events)?;
    let pss = |at: &[process::Usage]| at.first().and_then(|usage| usage.pss_bytes);
    Row::of(
        used,
        pss(&empty),
        pss(&idle),
        args.connections,
        deliveries,
        missing,
        disordered,
        seconds,
        latency,
    )
}
