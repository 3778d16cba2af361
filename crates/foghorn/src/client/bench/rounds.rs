//! Rounds: two sides take turns at the same work, and what comes of it is a ratio.

use std::fmt;
use std::time::Instant;

use anyhow::ensure;
use serde::Serialize;

use super::process::{self, Usage, Used};

/// Rounds unless told otherwise: the fewest with a middle one.
pub(super) const ROUNDS: usize = 3;

/// Whose turn it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// Foghorn's.
    Ours,
    /// That of the bare loop that it is compared with.
    Bare,
}

/// Who goes first and who second. They change places, so that neither always finds the machine as the
/// other left it.
pub(super) fn turns(round: usize) -> [Side; 2] {
    if round.is_multiple_of(2) { [Side::Ours, Side::Bare] } else { [Side::Bare, Side::Ours] }
}

/// The middle of several measurements, and how far apart they lie.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) lowest: f64,
    pub(super) highest: f64,
}

impl Spread {
    /// Of one or more measurements.
    pub(super) fn of(values: impl IntoIterator<Item = f64>) -> anyhow::Result<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let (Some(lowest), Some(highest)) = (values.first(), values.last()) else {
            anyhow::bail!("nothing was measured");
        };
        let median = if values.len().is_multiple_of(2) {
            f64::midpoint(values[middle - 1], values[middle])
        } else {
            values[middle]
        };
        Ok(Spread { median, lowest: *lowest, highest: *highest })
    }

    /// Of ours to the bare loop's, round by round: the two of one round met the same machine.
    pub(super) fn of_ratios(
        ours: &[Turn],
        bare: &[Turn],
        figure: impl Fn(&Turn) -> f64,
    ) -> anyhow::Result<Self> {
        ensure!(ours.len() == bare.len(), "{} turns against {}", ours.len(), bare.len());
        let ratios: Vec<f64> =
            ours.iter().zip(bare).map(|(ours, bare)| figure(ours) / figure(bare)).collect();
        ensure!(ratios.iter().all(|ratio| ratio.is_finite()), "a turn was too short to be measured");
        Spread::of(ratios)
    }
}

/// `100 (90 to 110)`, with the precision that is asked for.
impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Spread { median, lowest, highest } = self;
        let digits = f.precision().unwrap_or(0);
        write!(f, "{median:.digits$} ({lowest:.digits$} to {highest:.digits$})")
    }
}

/// Runs while a side has its turn.
pub(super) struct Stopwatch<'a> {
    pids: &'a [u32],
    before: Vec<Usage>,
    own: f64,
    began: Instant,
}

/// What a side did in one turn.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Turn {
    pub(super) count: u64,
    pub(super) seconds: f64,
    /// CPU time of this process.
    pub(super) own_cpu_seconds: f64,
    /// What `--pid` names.
    pub(super) processes: Vec<Used>,
}

impl<'a> Stopwatch<'a> {
    /// Begins the turn.
    pub(super) fn start(pids: &'a [u32]) -> anyhow::Result<Self> {
        let before = process::look(pids)?;
        Ok(Stopwatch { pids, before, own: process::own_cpu_seconds()?, began: Instant::now() })
    }

    /// Ends it, `count` things later.
    pub(super) fn stop(self, count: u64) -> anyhow::Result<Turn> {
        let seconds = self.began.elapsed().as_secs_f64();
        let own_cpu_seconds = process::own_cpu_seconds()? - self.own;
        let processes = process::used(&self.before, &self.before, &process::look(self.pids)?);
        Ok(Turn { count, seconds, own_cpu_seconds, processes })
    }
}

impl Turn {
    pub(super) fn per_second(&self) -> f64 {
        per(self.count, self.seconds)
    }

    /// By the CPU time of this process.
    pub(super) fn per_cpu_second(&self) -> f64 {
        per(self.count, self.own_cpu_seconds)
    }
}

/// All turns of one side, where the work is done in this process.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Summary {
    pub(super) per_second: Spread,
    /// By the CPU time of this process.
    pub(super) per_cpu_second: Spread,
    pub(super) processes: Vec<Used>,
}

impl Summary {
    /// Of one turn or more.
    pub(super) fn of(turns: &[Turn]) -> anyhow::Result<Self> {
        Ok(Summary {
            per_second: Spread::of(turns.iter().map(Turn::per_second))?,
            per_cpu_second: Spread::of(turns.iter().map(Turn::per_cpu_second))?,
            processes: processes(turns),
        })
    }
}

/// What the processes of `--pid` used in these turns.
pub(super) fn processes(turns: &[Turn]) -> Vec<Used> {
    process::in_all(turns.iter().map(|turn| &turn.processes[..]))
}

/// A rate.
pub(super) fn per(count: u64, seconds: f64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let count = count as f64;
    if seconds > 0.0 { count / seconds } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(count: u64, seconds: f64, own_cpu_seconds: f64) -> Turn {
        Turn { count, seconds, own_cpu_seconds, processes: Vec::new() }
    }

    #[test]
    fn medians_and_ranges_are_of_the_sorted_values() {
        let spread = |values: &[f64]| {
            let Spread { median, lowest, highest } = Spread::of(values.iter().copied()).unwrap();
            (median, lowest, highest)
        };
        assert_eq!(spread(&[7.0]), (7.0, 7.0, 7.0));
        assert_eq!(spread(&[30.0, 10.0, 20.0]), (20.0, 10.0, 30.0));
        assert_eq!(spread(&[4.0, 1.0, 2.0, 3.0]), (2.5, 1.0, 4.0));
        assert!(Spread::of([]).is_err());
        let shown = Spread::of([1.0, 0.75, 0.5]).unwrap();
        assert_eq!(format!("{shown:.2}"), "0.75 (0.50 to 1.00)");
        assert_eq!(Spread::of([1200.4]).unwrap().to_string(), "1200 (1200 to 1200)");
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        // The machine is half as fast in the second round, for both.
        let ours = [turn(800, 1.0, 2.0), turn(800, 2.0, 2.0), turn(900, 1.0, 1.0)];
        let bare = [turn(1000, 1.0, 1.0), turn(1000, 2.0, 4.0), turn(1000, 1.0, 1.0)];
        let ratio = Spread::of_ratios(&ours, &bare, Turn::per_second).unwrap();
        assert_eq!((ratio.median, ratio.lowest, ratio.highest), (0.8, 0.8, 0.9));
        let ratio = Spread::of_ratios(&ours, &bare, Turn::per_cpu_second).unwrap();
        assert_eq!((ratio.median, ratio.lowest, ratio.highest), (0.9, 0.4, 1.6));
        assert!(Spread::of_ratios(&ours, &bare[1..], Turn::per_second).is_err());
        let none = [turn(0, 0.0, 0.0)];
        assert!(Spread::of_ratios(&ours[..1], &none, Turn::per_second).is_err(), "no ratio to nothing");
    }

    #[test]
    fn each_side_goes_first_in_turn() {
        assert_eq!(turns(0), [Side::Ours, Side::Bare]);
        assert_eq!(turns(1), [Side::Bare, Side::Ours]);
        assert_eq!(turns(2), turns(0));
    }

    #[test]
    fn a_summary_is_of_all_turns() {
        let used = |cpu_seconds: f64, rss_bytes_before: u64, rss_bytes: u64| Used {
            pid: 7,
            cpu_seconds,
            rss_bytes_before,
            rss_bytes,
            pss_bytes_before: None,
            pss_bytes: None,
        };
        let first = Turn { processes: vec![used(1.0, 10, 20)], ..turn(100, 1.0, 0.5) };
        let second = Turn { processes: vec![used(2.0, 20, 30)], ..turn(100, 2.0, 0.5) };
        let summary = Summary::of(&[first, second]).unwrap();
        assert_eq!(summary.per_second, Spread { median: 75.0, lowest: 50.0, highest: 100.0 });
        assert_eq!(summary.per_cpu_second.median, 200.0);
        assert_eq!(summary.processes, [used(3.0, 10, 30)]);
    }

    #[test]
    fn a_stopwatch_counts_time_and_what_this_process_used() {
        let pid = [std::process::id()];
        let watch = Stopwatch::start(&pid).unwrap();
        // Until the clock of CPU time has moved: there is nothing to wait for but work.
        let own = process::own_cpu_seconds().unwrap();
        while process::own_cpu_seconds().unwrap() <= own {}
        let turn = watch.stop(10).unwrap();
        assert!(turn.seconds > 0.0 && turn.own_cpu_seconds > 0.0, "{turn:?}");
        assert_eq!((turn.count, turn.processes.len()), (10, 1));
    }
}
