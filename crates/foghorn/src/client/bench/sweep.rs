//! The gateway alone: events to many listeners, in turns with a bare loop that does nothing but `send()`, and with other
//! servers where they are installed. Linux only: servers and load are pinned to a core each.
//!
//! What a turn is made of: [`variant`] (what is different from one channel over bare HTTP/1.1), [`stage`] (a server for
//! it), [`audience`] (who listens) and [`publisher`].

mod asks;
pub(super) mod audience;
mod axum;
mod bare;
mod cluster;
mod nchan;
pub(super) mod publisher;
mod quiet;
mod report;
pub(super) mod server;
mod stage;
mod variant;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{anyhow, ensure};

use self::audience::Audience;
use self::cluster::Cluster;
use self::publisher::Publisher;
use self::quiet::Quiet;
use self::report::{Report, Row};
use self::server::Kind;
use self::stage::Stage;
use self::variant::Variant;
use super::pinned::Pinned;
use super::rounds::{Side, per, turns};
use super::{at_least_one, progress};

/// How long the last delivery may take to come.
const PATIENCE: Duration = Duration::from_secs(60);

/// What `foghorn bench sweep` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// How many listeners
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = at_least_one)]
    connections: usize,
    /// Events a second, against a bare loop that sweeps; 0 for one at a time, each when the last has reached
    /// everybody, against one that sends each event to each listener
    #[arg(long, value_name = "N", default_value_t = 0)]
    rate: u32,
    /// How many events in a turn
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = at_least_one)]
    events: usize,
    /// Beside the bare loop alone, and not nchan and an axum service, which else take turns too where they are installed
    #[arg(long)]
    alone: bool,
    /// The axum service to compare with, if it isn't beside this program
    #[arg(long, value_name = "PATH", conflicts_with = "alone")]
    axum: Option<PathBuf>,
    #[command(flatten)]
    cluster: Cluster,
    #[command(flatten)]
    variant: Variant,
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

/// The turns of all servers, round by round.
#[derive(Default)]
struct Rows {
    foghorn: Vec<Row>,
    bare: Vec<Row>,
    nchan: Vec<Row>,
    axum: Vec<Row>,
}

/// Measures and prints.
pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    args.variant.check(args.rate, args.axum.is_some())?;
    let quiet = if args.variant.quiet { quiet::LISTENERS } else { 0 };
    args.pinned.prepare(args.connections + quiet)?;
    let others = !args.alone && args.variant.is_plain();
    let axum = if others { axum::find(args.axum.as_deref())? } else { None };
    let mut all = Rows::default();
    for round in 0..args.pinned.rounds {
        let turn = |kind: Kind, rows: &mut Vec<Row>| {
            let row = turn(args, kind, axum.as_deref())?;
            progress(round, args.pinned.rounds, format_args!("{}: {row}", kind.name()));
            rows.push(row);
            anyhow::Ok(())
        };
        for side in turns(round) {
            match side {
                Side::Ours => turn(Kind::Foghorn, &mut all.foghorn)?,
                Side::Bare => turn(Kind::Bare { sweeps: args.rate > 0 }, &mut all.bare)?,
            }
        }
        if others && nchan::is_installed() {
            turn(Kind::Nchan, &mut all.nchan)?;
        }
        if axum.is_some() {
            turn(Kind::Axum, &mut all.axum)?;
        }
    }
    let report = Report::of(args, &all)?;
    report.print(args.pinned.json)?;
    Ok(if report.is_exact() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Of one server, which is fresh.
fn turn(args: &Args, kind: Kind, axum: Option<&Path>) -> anyhow::Result<Row> {
    let Args { connections, rate, events, ref pinned, .. } = *args;
    let stage = Stage::set(kind, pinned.server_core, &args.variant, connections, axum, &args.cluster)?;
    let (server, variant) = (&stage.server, &stage.asks.variant);
    let began = Instant::now();
    let quiet = if variant.quiet { Some(Quiet::open(&stage, pinned.size, began)?) } else { None };
    let empty = server.look()?;
    let mut audience = Audience::open_with(server.address, &stage.asks, connections, began)?;
    let idle = server.look()?;
    let channels = (0..variant.count(connections)).map(|number| variant.channel(number)).collect::<Vec<_>>();
    let first = channels.len();
    let mut publisher = stage.publisher(pinned.size, began)?.on(channels);
    let (each, in_one) = (variant.listeners_of_one(connections), variant.in_one());
    // The first on each channel make what is made once.
    one_by_one(&mut publisher, &mut audience, 0, first, in_one, each, began)?;
    audience.forget();
    let (before, writers_before) = (server.look()?, server.writers_cpu_seconds(stage.has_reactors())?);
    let started = Instant::now();
    let mut quietly = None;
    if rate == 0 {
        one_by_one(&mut publisher, &mut audience, first, events, in_one, each, began)?;
    } else {
        let rate = f64::from(rate);
        let publishing = thread::spawn(move || publisher.publish_at(first as u64, rate, events));
        let lasts = super::publisher::seconds(events as u64, rate);
        let beside = quiet.map(|quiet| quiet.run_for(lasts));
        audience.hear_deliveries(events * each, lasts + PATIENCE)?;
        publishing.join().map_err(|_| anyhow!("the publisher broke"))??;
        quietly =
            beside.map(|beside| beside.join().map_err(|_| anyhow!("the quiet channel broke"))).transpose()?;
    }
    let seconds = started.elapsed().as_secs_f64();
    let (after, writers_after) = (server.look()?, server.writers_cpu_seconds(stage.has_reactors())?);
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
        idle_bytes: per(pss(&idle).saturating_sub(pss(&empty)), per(connections as u64, 1.0)),
        missing: ((events * each) as u64).saturating_sub(heard.deliveries),
        heard,
        quiet: quietly.transpose()?,
    })
}

/// So many events from a number on, the next request when the last has reached everybody.
fn one_by_one(
    publisher: &mut Publisher,
    audience: &mut Audience,
    first: usize,
    events: usize,
    in_one: usize,
    each: usize,
    began: Instant,
) -> anyhow::Result<()> {
    for number in (first..first + events).step_by(in_one) {
        let end = (number + in_one).min(first + events);
        publisher.publish_all(number as u64..end as u64, began.elapsed())?;
        audience.hear_deliveries((end - number) * each, PATIENCE)?;
    }
    Ok(())
}
