//! The gateway alone: one channel's events to many listeners, in turns with a bare loop that does nothing
//! but `send()`. Linux only: servers and load are pinned to a core each.

pub(super) mod audience;
mod bare;
mod nchan;
mod report;
pub(super) mod server;

use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{anyhow, ensure};

use self::audience::Audience;
use self::report::{Report, Row};
use self::server::{Kind, Publisher, Server};
use super::pinned::Pinned;
use super::rounds::{Side, per, turns};
use super::{at_least_one, progress};

/// How long the last delivery may take to come.
const PATIENCE: Duration = Duration::from_secs(60);

/// What `foghorn bench sweep` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// How many listeners, all of one channel
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = at_least_one)]
    connections: usize,
    /// Events a second, against a bare loop that sweeps; 0 for one at a time, each when the last has reached
    /// everybody, against one that sends each event to each listener
    #[arg(long, value_name = "N", default_value_t = 0)]
    rate: u32,
    /// How many events in a turn
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = at_least_one)]
    events: usize,
    /// Beside the bare loop alone, and not nchan, which else takes turns too where it is installed
    #[arg(long)]
    alone: bool,
    #[command(flatten)]
    pinned: Pinned,
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
        bare::serve(self.sweep)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Measures and prints.
pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    args.pinned.prepare(args.connections)?;
    let (mut ours, mut bare, mut nchan) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..args.pinned.rounds {
        for side in turns(round) {
            let (name, kind, rows) = match side {
                Side::Ours => ("foghorn", Kind::Foghorn, &mut ours),
                Side::Bare => ("bare loop", Kind::Bare { sweeps: args.rate > 0 }, &mut bare),
            };
            let row = turn(args, kind)?;
            progress(round, args.pinned.rounds, format_args!("{name}: {row}"));
            rows.push(row);
        }
        if !args.alone && nchan::is_installed() {
            let row = turn(args, Kind::Nchan)?;
            progress(round, args.pinned.rounds, format_args!("nchan: {row}"));
            nchan.push(row);
        }
    }
    let report = Report::of(args, &ours, &bare, &nchan)?;
    report.print(args.pinned.json)?;
    Ok(if report.is_exact() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Of one server, which is fresh.
fn turn(args: &Args, kind: Kind) -> anyhow::Result<Row> {
    let server = Server::start(kind, args.pinned.server_core)?;
    let empty = server.look()?;
    let began = Instant::now();
    let mut audience = Audience::open(server.address, args.connections, began)?;
    let idle = server.look()?;
    let mut publisher = Publisher::connect(&server, args.pinned.size, began)?;
    // The first makes what is made once.
    publisher.publish(0, began.elapsed())?;
    audience.hear(1, PATIENCE)?;
    audience.forget();
    let (before, writers_before) = (server.look()?, server.writers_cpu_seconds()?);
    let started = Instant::now();
    if args.rate == 0 {
        for number in 1..=args.events {
            publisher.publish(number as u64, began.elapsed())?;
            audience.hear(1, PATIENCE)?;
        }
    } else {
        let (events, rate) = (args.events, f64::from(args.rate));
        let publishing = thread::spawn(move || publisher.publish_at(1, rate, events));
        audience.hear(args.events, super::publisher::seconds(args.events as u64, rate) + PATIENCE)?;
        publishing.join().map_err(|_| anyhow!("the publisher broke"))??;
    }
    let seconds = started.elapsed().as_secs_f64();
    let (after, writers_after) = (server.look()?, server.writers_cpu_seconds()?);
    let heard = audience.heard();
    let cpu_seconds = after.cpu_seconds - before.cpu_seconds;
    ensure!(cpu_seconds > 0.0 && heard.deliveries > 0, "nothing to be measured; use more --events");
    let pss = |usage: &super::process::Usage| usage.pss_bytes.unwrap_or_default();
    let user_micros = (after.user_seconds - before.user_seconds) * 1e6;
    Ok(Row {
        per_cpu_second: per(heard.deliveries, cpu_seconds),
        writes_per_cpu_second: per(heard.reads, writers_after - writers_before),
        user_micros: user_micros / per(heard.deliveries, 1.0),
        per_second: per(heard.deliveries, seconds),
        idle_bytes: per(pss(&idle).saturating_sub(pss(&empty)), per(args.connections as u64, 1.0)),
        missing: (args.events * args.connections) as u64 - heard.deliveries,
        heard,
    })
}
