//! `simulate`: runs seeds, many or one.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use foghorn_simulation::mutant::Mutant;
use foghorn_simulation::{Outcome, run};
use parking_lot::Mutex;

/// A seed that takes longer has a task that goes round without ever waiting.
const HANGS: Duration = Duration::from_secs(60);

/// Runs Foghorn's simulation.
#[derive(Parser)]
#[command(name = "simulate")]
struct Args {
    /// How many seeds.
    #[arg(long, default_value_t = 1000, conflicts_with = "seed")]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0, conflicts_with = "seed")]
    from: u64,
    /// One seed, with its whole story.
    #[arg(long)]
    seed: Option<u64>,
    /// Breaks something on purpose, by name.
    #[arg(long, value_parser = mutant)]
    mutant: Option<Mutant>,
    /// Most failing seeds whose stories are printed.
    #[arg(long, default_value_t = 3)]
    stories: usize,
    /// How many seeds run at a time; by default one a core.
    #[arg(long)]
    threads: Option<usize>,
    /// Prints what the product logs, too: `debug`, or filters as for `RUST_LOG`.
    #[arg(long)]
    log: Option<String>,
    /// Prints the summary as JSON.
    #[arg(long)]
    json: bool,
}

fn mutant(name: &str) -> Result<Mutant, String> {
    let names: Vec<String> = Mutant::ALL.iter().map(|mutant| mutant.name()).collect();
    Mutant::parse(name).ok_or_else(|| format!("it is one of {}", names.join(", ")))
}

#[derive(Default)]
struct Sum {
    failed: Vec<Outcome>,
    events: usize,
    deliveries: usize,
    resets: std::collections::BTreeMap<String, usize>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(filter) = &args.log {
        tracing_subscriber::fmt().with_env_filter(filter).without_time().with_ansi(false).init();
    }
    if let Some(seed) = args.seed {
        let outcome = run(seed, args.mutant);
        print!("{}", outcome.whole());
        println!("{}", if outcome.violations.is_empty() { "all is well" } else { "WRONG" });
        return if outcome.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = args.threads.unwrap_or(cores).max(1);
    let (next, done, over) = (AtomicU64::new(args.from), AtomicU64::new(0), AtomicBool::new(false));
    let sum = Mutex::new(Sum::default());
    let running: Vec<Mutex<Option<(u64, Instant)>>> = (0..threads).map(|_| Mutex::default()).collect();
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let (next, done, sum, args, over) = (&next, &done, &sum, &args, &over);
        let workers: Vec<_> = running
            .iter()
            .map(|running| {
                scope.spawn(move || {
                    loop {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed >= args.from + args.seeds {
                            return;
                        }
                        *running.lock() = Some((seed, Instant::now()));
                        let outcome = run(seed, args.mutant);
                        *running.lock() = None;
                        done.fetch_add(1, Ordering::Relaxed);
                        add(&mut sum.lock(), outcome, args);
                    }
                })
            })
            .collect();
        let running = &running;
        scope.spawn(move || watch(args, begun, done, over, running));
        for worker in workers {
            // A run's panic is a violation of it; the runner's own is printed.
            drop(worker.join());
        }
        over.store(true, Ordering::Relaxed);
    });
    let mut sum = sum.into_inner();
    sum.failed.sort_by_key(|outcome| outcome.seed);
    for outcome in sum.failed.iter().take(args.stories) {
        eprintln!("{}", outcome.report());
    }
    say(&args, &sum, begun.elapsed());
    if sum.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn add(sum: &mut Sum, outcome: Outcome, args: &Args) {
    sum.events += outcome.events;
    sum.deliveries += outcome.deliveries;
    for (reason, count) in &outcome.resets {
        *sum.resets.entry(reason.clone()).or_default() += count;
    }
    if let Some(first) = outcome.violations.first() {
        if !args.json {
            eprintln!("seed {}: {}: {}", outcome.seed, first.who, first.what);
        }
        sum.failed.push(outcome);
    }
}

/// Says how far it is, and ends a run that hangs.
fn watch(
    args: &Args,
    begun: Instant,
    done: &AtomicU64,
    over: &AtomicBool,
    running: &[Mutex<Option<(u64, Instant)>>],
) {
    let mut said = Instant::now();
    while !over.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(100));
        for running in running {
            if let Some((seed, since)) = *running.lock()
                && since.elapsed() > HANGS
            {
                eprintln!("seed {seed} hangs: a task goes round without waiting");
                std::process::exit(1);
            }
        }
        if said.elapsed() > Duration::from_secs(10) && !args.json {
            said = Instant::now();
            let done = done.load(Ordering::Relaxed);
            eprintln!("{done} of {} seeds in {:.0} s", args.seeds, begun.elapsed().as_secs_f64());
        }
    }
}

fn say(args: &Args, sum: &Sum, took: Duration) {
    let failed: Vec<u64> = sum.failed.iter().map(|outcome| outcome.seed).collect();
    if args.json {
        let summary = serde_json::json!({
            "from": args.from, "seeds": args.seeds, "failed": failed, "events": sum.events,
            "deliveries": sum.deliveries, "resets": sum.resets, "seconds": took.as_secs_f64(),
        });
        println!("{summary}");
        return;
    }
    println!(
        "{} seeds in {:.1} s: {} events, {} deliveries, resets {:?}; {} failed {:?}",
        args.seeds,
        took.as_secs_f64(),
        sum.events,
        sum.deliveries,
        sum.resets,
        failed.len(),
        failed
    );
}
