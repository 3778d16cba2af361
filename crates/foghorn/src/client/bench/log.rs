//! The event log's writer alone: from a journal in memory into PostgreSQL, in turns with a bare loop of
//! inserts on the same server.

mod bare;
mod journal;
mod report;
mod scratch;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, bail};
use reqwest::Url;
use tokio::time::timeout;

use foghorn_bus::journal::Journal as _;
use foghorn_bus::log::Committed;
use foghorn_bus::memory::MemoryLeases;
use foghorn_bus::policies::SharedPolicies;
use foghorn_core::entry::Entry;
use foghorn_core::time::Timestamp;
use foghorn_eventlog::metrics::Metrics;
use foghorn_eventlog::postgres::writer::TRIM_BEHIND_DEFAULT;
use foghorn_eventlog::postgres::{PostgresOptions, migrate};
use foghorn_eventlog::service::Service;
use futures::StreamExt as _;

use self::journal::{Prefilled, at, entries};
use self::report::Report;
use self::scratch::{Scratch, database_url};
use super::rounds::{ROUNDS, Side, Spread, Stopwatch, Summary, Turn, turns};
use super::{Common, after_cleanup, at_least_one, progress, unless_interrupted};
use crate::client::interrupt::Interrupts;

/// How long the writer may take until it asks for the first entry.
const START_DEADLINE: Duration = Duration::from_secs(30);
/// How long one turn may take.
const TURN_DEADLINE: Duration = Duration::from_secs(600);

/// What `foghorn bench log` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A PostgreSQL server, by one of its databases. That one is not touched: for every turn a database
    /// `foghorn_bench_…` is made beside it and dropped, for which the user needs CREATEDB
    #[arg(long, value_name = "URL", value_parser = database_url)]
    database: Url,
    /// How many rows in a turn; they lie in memory meanwhile
    #[arg(long, value_name = "N", default_value_t = 200_000, value_parser = at_least_one)]
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
    let begin = Timestamp::from_system(SystemTime::now());
    let entries = entries(args.count, args.size, args.channels, begin)?;
    let (mut ours, mut bare, mut read) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..args.rounds {
        read.push(read_alone(&entries).await);
        for side in turns(round) {
            let scratch = Scratch::create(&args.database).await?;
            let turn = async {
                match side {
                    Side::Ours => writer(&scratch, &entries, &args.common.pid).await,
                    Side::Bare => bare_loop(&scratch, &entries, &args.common.pid).await,
                }
            };
            let turn = unless_interrupted(&mut interrupts, turn).await;
            let turn = after_cleanup(turn, scratch.drop().await)?;
            let (name, turns) = match side {
                Side::Ours => ("writer", &mut ours),
                Side::Bare => ("bare loop", &mut bare),
            };
            progress(round, args.rounds, format_args!("{name}: {:.0} rows/s", turn.per_second()));
            turns.push(turn);
        }
    }
    let report = Report {
        rounds: args.rounds,
        rows: args.count,
        writer: Summary::of(&ours)?,
        bare: Summary::of(&bare)?,
        ratio: Spread::of_ratios(&ours, &bare, Turn::per_second)?,
        journal_read_seconds: Spread::of(read)?,
        writer_seconds: Spread::of(ours.iter().map(|turn| turn.seconds))?,
    };
    report.print(args.common.json)?;
    Ok(ExitCode::SUCCESS)
}

/// The product's writer, started as the event log's service starts it. Its turn begins when it has taken
/// over and asks for the journal's first entry, and ends when the last one is committed.
async fn writer(scratch: &Scratch, entries: &Arc<[Entry]>, pids: &[u32]) -> anyhow::Result<Turn> {
    migrate(scratch.url()).await.context("can't make the schema")?;
    let journal = Arc::new(Prefilled::new(entries.clone()));
    let (last, key) = journal.last().context("the journal is empty")?;
    let service = Service {
        postgres: PostgresOptions::new(scratch.url()),
        journal: journal.clone(),
        leases: Arc::new(MemoryLeases::new()),
        policies: SharedPolicies::default(),
        trim_behind: TRIM_BEHIND_DEFAULT,
        metrics: Metrics::default(),
    };
    let running = service.start().await.context("can't start the log's writer")?;
    let tailed = timeout(START_DEADLINE, journal.until_tailed()).await;
    tailed.with_context(|| format!("the writer did not begin within {START_DEADLINE:?}"))?;
    let watch = Stopwatch::start(pids)?;
    journal.open();
    let committed = running.log().committed(last, key, TURN_DEADLINE).await;
    let turn = watch.stop(last.seq)?;
    running.stop().await;
    match committed? {
        Committed::Yes => Ok(turn),
        Committed::NotYet => bail!("the writer did not store {} rows within {TURN_DEADLINE:?}", last.seq),
        Committed::Replaced => bail!("the log holds another event than the journal"),
    }
}

async fn bare_loop(scratch: &Scratch, entries: &[Entry], pids: &[u32]) -> anyhow::Result<Turn> {
    // For the table that the bare one is made like.
    migrate(scratch.url()).await.context("can't make the schema")?;
    let mut connection = scratch.connect().await?;
    bare::make_table(&mut connection).await?;
    let watch = Stopwatch::start(pids)?;
    let inserted = timeout(TURN_DEADLINE, bare::insert(&mut connection, entries)).await;
    inserted.with_context(|| format!("the bare loop was not done within {TURN_DEADLINE:?}"))??;
    watch.stop(entries.len() as u64)
}

/// How many seconds it takes to read the journal and do nothing with it.
async fn read_alone(entries: &Arc<[Entry]>) -> f64 {
    let journal = Prefilled::new(entries.clone());
    journal.open();
    let began = Instant::now();
    let mut tail = journal.tail(at(0)).take(entries.len());
    while tail.next().await.is_some() {}
    began.elapsed().as_secs_f64()
}
