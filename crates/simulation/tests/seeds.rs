//! The simulation as a test: seeds hold, a seed is one story, and what is broken is noticed.

use std::sync::atomic::{AtomicU64, Ordering};

use foghorn_simulation::mutant::Mutant;
use foghorn_simulation::{Outcome, run};
use parking_lot::Mutex;

/// So many in CI; more with `cargo xtask simulate --seeds N`.
const SEEDS: u64 = 3000;
/// So many are run twice.
const TWICE: u64 = 60;
/// Of many thousands more, those that showed a fault that three thousand don't: a journal that was put back after
/// the log's writer had compared it, and two gateways with one entry each of two.
const RARE: [u64; 2] = [9890, 18825];
/// A mutant is noticed within so many.
const NOTICED_WITHIN: u64 = 1500;
/// One that other mechanisms hide: what a gateway doesn't compare, a relay and the log's writer mostly do.
const HIDDEN_WITHIN: u64 = 4000;

/// Runs seeds on all cores, until `enough`.
fn run_all(seeds: u64, mutant: Option<Mutant>, enough: impl Fn(&Outcome) -> bool + Sync) -> Vec<Outcome> {
    let (next, found) = (AtomicU64::new(0), Mutex::new(Vec::new()));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds {
                        return;
                    }
                    let outcome = run(seed, mutant);
                    if !outcome.violations.is_empty() {
                        if enough(&outcome) {
                            next.store(seeds, Ordering::Relaxed);
                        }
                        found.lock().push(outcome);
                    }
                }
            });
        }
    });
    let mut found = found.into_inner();
    found.sort_by_key(|outcome| outcome.seed);
    found
}

/// Every acked event reaches every client entitled to it, once and in order, or it is told why not.
#[test]
fn whatever_goes_wrong_nothing_is_lost_in_silence() {
    let failed = run_all(SEEDS, None, |_| false);
    for outcome in failed.iter().take(2) {
        eprintln!("{}", outcome.report());
    }
    let seeds: Vec<u64> = failed.iter().map(|outcome| outcome.seed).collect();
    assert!(seeds.is_empty(), "seeds that failed: {seeds:?}; see one with `cargo xtask simulate --seed S`");
}

#[test]
fn what_was_rarely_lost_in_silence_is_not() {
    for seed in RARE {
        let outcome = run(seed, None);
        assert!(outcome.violations.is_empty(), "{}", outcome.report());
    }
}

/// What a seed shows once, it shows again.
#[test]
fn a_seed_is_one_story() {
    for seed in 0..TWICE {
        let first = run(seed, None).whole();
        let again = std::thread::spawn(move || run(seed, None).whole()).join().unwrap();
        if first != again {
            let differs = first.lines().zip(again.lines()).find(|(one, other)| one != other);
            panic!("seed {seed} has two stories: {differs:?}");
        }
    }
}

/// The simulation notices what it is there for.
#[test]
fn every_mutant_is_noticed() {
    for mutant in Mutant::ALL {
        let within = if mutant == Mutant::GatewaysDontCompare { HIDDEN_WITHIN } else { NOTICED_WITHIN };
        let noticed = run_all(within, Some(mutant), |_| true);
        assert!(!noticed.is_empty(), "{mutant:?} is not noticed within {within} seeds");
    }
}
