//! The relay alone: from a full journal on JetStream into the live feed, in turns with just reading the
//! same stream.

mod feed;
mod plain;
mod report;
mod stage;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use async_nats::{ServerAddr, jetstream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use foghorn_bus::lease::Leases as _;
use foghorn_bus::memory::MemoryLeases;
use foghorn_bus::nats::{Bus, NatsJournal};
use foghorn_core::shard::Shard;
use foghorn_fanout::config::Config;
use foghorn_fanout::metrics::Metrics;
use foghorn_fanout::relay::Relay;
use foghorn_telemetry::shutdown;
use prometheus_client::registry::Registry;

use self::feed::Counted;
use self::report::Report;
use super::jetstream::{context, server};
use super::rounds::{ROUNDS, Side, Spread, Stopwatch, Summary, Turn, turns};
use super::{Common, after_cleanup, at_least_one, progress, unless_interrupted};
use crate::client::interrupt::Interrupts;

/// How long the relay may send nothing.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long it may take to stop.
const STOP_DEADLINE: Duration = Duration::from_secs(10);

/// What `foghorn bench relay` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A NATS server with JetStream for the benchmark alone: it is refused when it has Foghorn's streams,
    /// and those that are made are deleted
    #[arg(long, value_name = "URL", value_parser = server)]
    nats: ServerAddr,
    /// How many events in the journal, all of which are relayed in each turn
    #[arg(long, value_name = "N", default_value_t = 500_000, value_parser = at_least_one)]
    count: usize,
    /// Bytes of data in an event
    #[arg(long, value_name = "BYTES", default_value_t = 200)]
    size: usize,
    /// How many channels the events are on
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = at_least_one)]
    channels: usize,
    /// How many rounds; what is printed are medians, and the range
    #[arg(long, value_name = "N", default_value_t = ROUNDS, value_parser = at_least_one)]
    rounds: usize,
    #[command(flatten)]
    common: Common,
}

/// Measures and prints.
pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut interrupts = Interrupts::catch()?;
    let jetstream = context(&args.nats, stage::FILL_IN_FLIGHT).await?;
    stage::refuse_others(&jetstream).await?;
    let measured = unless_interrupted(&mut interrupts, measure(&args, &jetstream)).await;
    let report = after_cleanup(measured, stage::clear(&jetstream).await)?;
    report.print(args.common.json)?;
    Ok(ExitCode::SUCCESS)
}

async fn measure(args: &Args, jetstream: &jetstream::Context) -> anyhow::Result<Report> {
    let (bus, journal) = stage::open(&args.nats, stage::journal_bytes(args.count, args.size)).await?;
    eprintln!("filling the journal with {} events", args.count);
    stage::fill(jetstream, args.count, args.size, args.channels).await?;
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for round in 0..args.rounds {
        for side in turns(round) {
            let (name, turn, turns) = match side {
                Side::Ours => ("relay", relay(args, &bus, &journal).await?, &mut ours),
                Side::Bare => ("plain reader", plain(args, jetstream).await?, &mut bare),
            };
            let (rate, of_cpu) = (turn.per_second(), turn.per_cpu_second());
            progress(
                round,
                args.rounds,
                format_args!("{name}: {rate:.0} events/s, {of_cpu:.0} per CPU second"),
            );
            turns.push(turn);
        }
    }
    Ok(Report {
        rounds: args.rounds,
        events: args.count,
        relay: Summary::of(&ours)?,
        plain: Summary::of(&bare)?,
        ratio: Spread::of_ratios(&ours, &bare, Turn::per_second)?,
        cpu_ratio: Spread::of_ratios(&ours, &bare, Turn::per_cpu_second)?,
    })
}

/// The product's relay, from the journal's first entry to its last. Its turn begins before it opens its
/// tail, and ends when the last batch was given to the feed's connection.
async fn relay(args: &Args, bus: &Bus, journal: &NatsJournal) -> anyhow::Result<Turn> {
    let feed = Arc::new(Counted::new(bus.live(stage::parameters().shards)));
    let (trigger, shutdown) = shutdown::channel();
    let relay = Relay::new(
        Shard::ZERO,
        Arc::new(journal.clone()),
        feed.clone(),
        Arc::new(from_the_first().await?),
        Config::default().beacon_interval,
        Metrics::register(&mut Registry::default()),
        shutdown,
    );
    let last = args.count as u64;
    let watch = Stopwatch::start(&args.common.pid)?;
    // Gone with us, should this be interrupted.
    let mut relaying = JoinSet::new();
    relaying.spawn(relay.run());
    feed.until(last, PATIENCE).await?;
    let turn = watch.stop(last)?;
    trigger.fire();
    let stopped = timeout(STOP_DEADLINE, relaying.join_next()).await;
    stopped.with_context(|| format!("the relay did not stop within {STOP_DEADLINE:?}"))?;
    let sent = feed.events();
    ensure!(sent == last, "the relay sent {sent} events of {last}; is --size over an event's bound?");
    Ok(turn)
}

/// Leases that make a relay begin with the journal's first entry, not with what comes next: the one
/// before left a note beyond the last, which is of a journal that is over.
async fn from_the_first() -> anyhow::Result<MemoryLeases> {
    let leases = MemoryLeases::new();
    let mut lease = leases.acquire(format!("relay.{}", Shard::ZERO)).await;
    lease.renew(u64::MAX).await?;
    lease.release().await;
    Ok(leases)
}

async fn plain(args: &Args, jetstream: &jetstream::Context) -> anyhow::Result<Turn> {
    let count = args.count as u64;
    let watch = Stopwatch::start(&args.common.pid)?;
    plain::read(jetstream, stage::STREAM, count).await?;
    watch.stop(count)
}
