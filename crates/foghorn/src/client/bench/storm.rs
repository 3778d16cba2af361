//! The gateway in a reconnect storm: many clients come back within a second, each some events behind, while others
//! are live. Linux only: the server is pinned to a core.

mod crowd;
mod report;

use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::anyhow;

use self::crowd::Crowd;
use self::report::{Report, Row};
use super::pinned::Pinned;
use super::sweep::audience::{Audience, Heard};
use super::sweep::publisher::Publisher;
use super::sweep::server::{Kind, Server};
use super::{at_least_one, progress};

/// What those listen to who come back.
const CHANNEL: &str = "storm";
/// Events a second to those who are live.
const RATE: f64 = 50.0;
/// How long after the first of those that are published beside it the storm begins.
const CALM: Duration = Duration::from_millis(500);
/// How long the last delivery, and the last client, may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// What `foghorn bench storm` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// How many clients come back
    #[arg(long, value_name = "N", default_value_t = 18_000, value_parser = at_least_one)]
    clients: usize,
    /// Within how long, evenly
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = humantime::parse_duration)]
    within: Duration,
    /// How many events each is behind
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = at_least_one)]
    behind: usize,
    /// How many listeners are live meanwhile
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = at_least_one)]
    live: usize,
    /// How many events these are sent without the storm, and how many beside it, at 50 a second
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = at_least_one)]
    events: usize,
    #[command(flatten)]
    pinned: Pinned,
}

/// Measures and prints.
pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    args.pinned.prepare(args.clients + args.live)?;
    let mut rows = Vec::new();
    for round in 0..args.pinned.rounds {
        let row = turn(args)?;
        progress(round, args.pinned.rounds, format_args!("{row}"));
        rows.push(row);
    }
    let report = Report::of(args, &rows)?;
    report.print(args.pinned.json)?;
    Ok(if report.is_exact() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Of one server, which is fresh.
fn turn(args: &Args) -> anyhow::Result<Row> {
    let server = Server::start(Kind::Foghorn, args.pinned.server_core)?;
    let began = Instant::now();
    let cursor = crowd::cursor(server.address)?;
    let mut behind = Publisher::connect(&server, args.pinned.size, began)?.on(vec![CHANNEL.to_owned()]);
    for number in 0..args.behind {
        behind.publish(number as u64, began.elapsed())?;
    }
    let mut audience = Audience::open(server.address, args.live, began)?;
    let mut publisher = Publisher::connect(&server, args.pinned.size, began)?;
    // The first makes what is made once.
    publisher.publish(0, began.elapsed())?;
    audience.hear(1, PATIENCE)?;

    let mut run = |publisher: &mut Publisher, first: usize, events: usize| -> anyhow::Result<Heard> {
        audience.forget();
        thread::scope(|scope| {
            let publishing = scope.spawn(|| publisher.publish_at(first as u64, RATE, events));
            audience.hear(events, super::publisher::seconds(events as u64, RATE) + PATIENCE)?;
            publishing.join().map_err(|_| anyhow!("the publisher broke"))?
        })?;
        Ok(audience.heard())
    };
    let alone = run(&mut publisher, 1, args.events)?;
    let before = server.look()?;
    let (address, clients, within, behind) = (server.address, args.clients, args.within, args.behind);
    let storm = thread::spawn(move || {
        thread::sleep(CALM);
        Crowd::come(address, &cursor, clients, within, behind, PATIENCE)
    });
    let beside = run(&mut publisher, 1 + args.events, args.events)?;
    let storm = storm.join().map_err(|_| anyhow!("the clients broke"))??;
    let cpu_seconds = server.look()?.cpu_seconds - before.cpu_seconds;
    let missing = |heard: &Heard| (args.events * args.live) as u64 - heard.deliveries;
    Ok(Row {
        level_seconds: storm.took.as_secs_f64(),
        each: storm.each,
        cpu_seconds,
        missing: missing(&alone) + missing(&beside) + storm.missing,
        disordered: alone.disordered + beside.disordered + storm.disordered,
        alone: alone.latencies,
        beside: beside.latencies,
    })
}
