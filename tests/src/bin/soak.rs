//! `soak`: random faults from a seed, for minutes or hours, on a whole cluster under load, and the oracle's verdict.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use foghorn_tests::cluster::{Cluster, Sites, metric};
use foghorn_tests::faults::{Links, Nemesis};
use foghorn_tests::foghorn::Foghorn;
use foghorn_tests::load::{Counts, Load, Plan};
use foghorn_tests::network::Network;
use serde_json::json;
use tokio::time::{Instant, sleep};

/// How often the clock is looked at for what is due.
const STEP: Duration = Duration::from_millis(100);
/// What gateways say of themselves, added up over restarts.
const METRICS: [&str; 3] =
    ["foghorn_gateway_gaps_total", "foghorn_gateway_gaps_filled_total", "foghorn_gateway_regresses_total"];

/// Runs a cluster under load and faults, and judges what everybody heard.
#[derive(Debug, Clone, Parser)]
#[command(name = "soak")]
struct Arguments {
    /// How long.
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// Chooses faults, habits and pauses; real processes still differ from run to run. By default any.
    #[arg(long)]
    seed: Option<u64>,
    /// Publishers, by turns over HTTP, gRPC, NATS and straight into the journal.
    #[arg(long, default_value_t = 32)]
    publishers: usize,
    /// Listeners.
    #[arg(long, default_value_t = 200)]
    listeners: usize,
    /// Events a second, about, of all publishers together.
    #[arg(long, default_value_t = 80.0)]
    rate: f64,
    /// Shards.
    #[arg(long, default_value_t = 2)]
    shards: u8,
    /// Mean seconds between two faults.
    #[arg(long, default_value_t = 6.0)]
    every: f64,
    /// Nobody is cut off from anybody: for who isn't root, and so may not make the network that it takes.
    #[arg(long)]
    no_partitions: bool,
    /// Prints the summary as JSON, on the last line.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let seed = arguments.seed.unwrap_or_else(|| fastrand::u64(..1_000_000));
    println!("seed {seed}, {} minutes", arguments.minutes);
    // A server that can't be started again is a panic of the harness; the seed is worth knowing then too.
    match catch_unwind(AssertUnwindSafe(|| run(&arguments, seed))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => {
            println!("FAILED; again: cargo xtask soak --minutes {} --seed {seed}", arguments.minutes);
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments, seed: u64) {
    if arguments.no_partitions {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime can be made");
        return runtime.block_on(soak(arguments, seed, &Sites::default(), None));
    }
    let arguments = arguments.clone();
    Network::run(Sites::HOSTS, move |network| async move {
        let sites = Sites::on(&network);
        let links = Links::new(network, sites.clone());
        soak(&arguments, seed, &sites, Some(links)).await;
    });
}

/// Panics at the end when something went against a promise: so every process's log is kept and its end shown.
async fn soak(arguments: &Arguments, seed: u64, sites: &Sites, links: Option<Links>) {
    let mut cluster = Cluster::start_at(arguments.shards, sites).await;
    let pause = Duration::from_secs_f64(arguments.publishers as f64 / arguments.rate);
    let Arguments { publishers, listeners, .. } = *arguments;
    let plan = Plan { publishers, listeners, pause, stay: false, seed };
    let load = Load::start(&cluster, plan).await;
    let mut nemesis = Nemesis::new(seed, Duration::from_secs_f64(arguments.every), links);
    let mut progress = Progress::new();
    let end = Instant::now() + Duration::from_secs_f64(arguments.minutes * 60.0);
    while Instant::now() < end && load.violations().is_empty() {
        for line in nemesis.act(&mut cluster).await {
            progress.say(&line);
        }
        progress.look(&cluster, &load).await;
        sleep(STEP).await;
    }
    for line in nemesis.heal(&mut cluster).await {
        progress.say(&line);
    }
    progress.say("no more faults; what is owed has a minute to come");
    progress.scrape(&cluster).await;
    let gaps = progress.sums.clone();
    let before = load.counts();
    let violations = load.finish(&cluster).await;
    let minutes = progress.begun.elapsed().as_secs_f64() / 60.0;
    println!("\n{minutes:.1} minutes, seed {seed}: {}", words(&before));
    let faults: Vec<String> = nemesis.counts().iter().map(|(kind, n)| format!("{n} × {kind}")).collect();
    println!("faults: {}", faults.join(", "));
    println!("longest without an ack: {:.1} s", progress.longest_stall.as_secs_f64());
    for violation in &violations {
        println!("WRONG {violation}");
    }
    if arguments.json {
        let sum = |name: &str| gaps.get(name).copied().unwrap_or_default();
        println!(
            "{}",
            json!({
                "seed": seed, "minutes": minutes, "acked": before.acked, "durable": before.durable,
                "durableLookedFor": before.looked_for, "retries": before.retries, "heard": before.heard,
                "reconnects": before.reconnects, "resets": before.resets, "stale": before.stale,
                "gaps": sum(METRICS[0]), "gapsFilled": sum(METRICS[1]), "regresses": sum(METRICS[2]),
                "longestStallSeconds": progress.longest_stall.as_secs_f64(),
                "faults": nemesis.counts(), "violations": violations,
            })
        );
    }
    assert!(violations.is_empty(), "{} promises broken", violations.len());
    println!("all is well");
}

/// What is printed on the way.
struct Progress {
    begun: Instant,
    minute: Instant,
    last_ack: (usize, Instant),
    longest_stall: Duration,
    /// Each process's last values, by address and metric, and the sums over all lives.
    lasts: HashMap<(String, &'static str), f64>,
    sums: HashMap<&'static str, f64>,
}

impl Progress {
    fn new() -> Self {
        let now = Instant::now();
        Progress {
            begun: now,
            minute: now,
            last_ack: (0, now),
            longest_stall: Duration::ZERO,
            lasts: HashMap::new(),
            sums: HashMap::new(),
        }
    }

    fn say(&self, line: &str) {
        println!("{:8.1} s  {line}", self.begun.elapsed().as_secs_f64());
    }

    /// Looks at the acks, and each minute says how it goes.
    async fn look(&mut self, cluster: &Cluster, load: &Load) {
        let (counts, now) = (load.counts(), Instant::now());
        if counts.acked > self.last_ack.0 {
            self.last_ack = (counts.acked, now);
        }
        self.longest_stall = self.longest_stall.max(now - self.last_ack.1);
        if now - self.minute >= Duration::from_secs(60) {
            self.minute = now;
            self.scrape(cluster).await;
            let filled = self.sums.get(METRICS[1]).copied().unwrap_or_default();
            let slowest = load.slowest().as_secs_f64();
            self.say(&format!("{}; {filled} gaps filled; slowest {slowest:.1} s", words(&counts)));
        }
    }

    /// Adds up what the gateways count; one that is away keeps what it had, one that is new begins at nothing.
    async fn scrape(&mut self, cluster: &Cluster) {
        for gateway in &cluster.gateways {
            for name in METRICS {
                let Some(value) = within_a_second(gateway, name).await else { continue };
                let last = self.lasts.insert((gateway.admin().to_owned(), name), value).unwrap_or(0.0);
                let more = if value >= last { value - last } else { value };
                *self.sums.entry(name).or_default() += more;
            }
        }
    }
}

async fn within_a_second(process: &Foghorn, name: &str) -> Option<f64> {
    tokio::time::timeout(Duration::from_secs(1), metric(process, name)).await.ok()?
}

fn words(counts: &Counts) -> String {
    let Counts { acked, durable, looked_for, retries, heard, reconnects, resets, stale, violations } = counts;
    format!(
        "{acked} acked ({durable} durable, {looked_for} of them looked for, {retries} retries), {heard} heard, \
         {reconnects} reconnects, {stale} told stale, {resets} resets, {violations} promises broken"
    )
}
