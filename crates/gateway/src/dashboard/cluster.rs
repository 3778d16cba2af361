//! The cluster, as its processes say it is. Pure: `now` is an argument.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use foghorn_telemetry::status::{Figures, Service, State, Status};
use serde::Serialize;

/// Most processes that are shown; one more is left out and counted.
const INSTANCES_MAX: usize = 256;
/// One that isn't heard for so long is missing.
const MISSING_AFTER: Duration = Duration::from_secs(3);
/// And is forgotten after so long.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);
/// What happens too seldom for a second is counted over a minute: statuses that are kept of each process.
const KEPT: usize = 61;
/// Over how many seconds latencies are taken together.
const LATENCY_SECONDS: usize = 10;

/// What the processes have said.
#[derive(Debug, Default)]
pub(super) struct Cluster {
    instances: BTreeMap<(Service, String), Instance>,
    left_out: u64,
}

#[derive(Debug)]
struct Instance {
    /// The newest.
    status: Status,
    heard: Instant,
    /// Uptimes in milliseconds and what was counted, oldest first, the newest last.
    said: VecDeque<(u64, Figures)>,
}

/// The whole cluster at a moment.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Overview {
    pub(super) cluster: Totals,
    instances: Vec<Shown>,
    /// Statuses of processes that there was no room for.
    left_out: u64,
}

/// What is known of all together. None where nothing is known yet, or nothing happened.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Totals {
    pub(super) connections: f64,
    pub(super) connections_max: f64,
    pub(super) slow_connections: f64,
    pub(super) events_per_second: Option<f64>,
    pub(super) deliveries_per_second: Option<f64>,
    pub(super) latency: Option<Latency>,
    pub(super) error_rate: Option<f64>,
    pub(super) gaps: f64,
    pub(super) resets: f64,
    pub(super) lag_entries: f64,
    pub(super) lag_seconds: f64,
    pub(super) cpu: Option<f64>,
    #[serde(skip)]
    pub(super) cpu_most: Option<f64>,
    pub(super) memory_bytes: f64,
    #[serde(skip)]
    pub(super) memory_most: f64,
    #[serde(skip)]
    pub(super) not_ready: f64,
    #[serde(skip)]
    pub(super) missing: f64,
}

/// Of the deliveries of the last seconds, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Latency {
    pub(super) p50: f64,
    pub(super) p95: f64,
    pub(super) p99: f64,
}

/// A process, as it is shown.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    service: Service,
    instance: String,
    host: String,
    version: String,
    uptime_seconds: u64,
    state: &'static str,
    waiting_for: Vec<String>,
    pub(super) cpu: Option<f64>,
    pub(super) memory_bytes: f64,
    connections: f64,
    events_per_second: Option<f64>,
    deliveries_per_second: Option<f64>,
    lag_entries: f64,
}

impl Cluster {
    /// Takes what a process said.
    pub(super) fn heard(&mut self, status: Status, now: Instant) {
        let key = (status.service, status.instance.clone());
        if !self.instances.contains_key(&key) && self.instances.len() >= INSTANCES_MAX {
            self.left_out += 1;
            return;
        }
        let said = (status.uptime_ms, status.figures.clone());
        let instance = self.instances.entry(key).or_insert_with(|| Instance {
            status: status.clone(),
            heard: now,
            said: VecDeque::with_capacity(KEPT),
        });
        // What came out of turn, or is invented, would make rates of nothing.
        if instance.said.back().is_some_and(|(before, _)| *before >= said.0) {
            return;
        }
        if instance.said.len() == KEPT {
            instance.said.pop_front();
        }
        instance.said.push_back(said);
        (instance.status, instance.heard) = (status, now);
    }

    /// How it all is now.
    pub(super) fn overview(&mut self, now: Instant) -> Overview {
        self.instances.retain(|_, instance| now.saturating_duration_since(instance.heard) < FORGOTTEN_AFTER);
        let mut totals = Totals::default();
        let mut buckets = Vec::new();
        let (mut failures, mut answers) = (0.0, 0.0);
        for instance in self.instances.values() {
            let state = instance.state(now);
            totals.missing += f64::from(u8::from(state == "missing"));
            totals.not_ready += f64::from(u8::from(["waiting", "missing"].contains(&state)));
            // The figures of who isn't there are of nobody.
            if ["missing", "stopped"].contains(&state) {
                continue;
            }
            let figures = &instance.status.figures;
            totals.connections += figures.connections;
            totals.connections_max += figures.connections_max;
            totals.slow_connections += figures.slow_connections;
            totals.lag_entries = totals.lag_entries.max(figures.lag_entries);
            totals.lag_seconds = totals.lag_seconds.max(figures.lag_seconds);
            totals.memory_bytes += figures.memory_bytes;
            totals.memory_most = totals.memory_most.max(figures.memory_bytes);
            totals.gaps += instance.rise(KEPT, |figures| figures.gaps);
            totals.resets += instance.rise(KEPT, |figures| figures.resets);
            add(&mut totals.events_per_second, instance.rate(|figures| figures.published));
            add(&mut totals.deliveries_per_second, instance.rate(|figures| figures.delivered));
            let cpu = instance.rate(|figures| figures.cpu_seconds);
            add(&mut totals.cpu, cpu);
            totals.cpu_most = totals.cpu_most.into_iter().chain(cpu).reduce(f64::max);
            failures += instance.rise(LATENCY_SECONDS + 1, |figures| figures.publish_failures);
            answers += instance.rise(LATENCY_SECONDS + 1, |figures| figures.published);
            instance.add_latency(&mut buckets);
        }
        answers += failures;
        totals.error_rate = (answers > 0.0).then(|| failures / answers);
        totals.latency = latency(&buckets);
        let instances = self.instances.values().map(|instance| instance.shown(now)).collect();
        Overview { cluster: totals, instances, left_out: self.left_out }
    }
}

impl Instance {
    fn state(&self, now: Instant) -> &'static str {
        let silent = now.saturating_duration_since(self.heard) >= MISSING_AFTER;
        match (self.status.state, silent) {
            // It said that it would.
            (State::Draining, true) => "stopped",
            (_, true) => "missing",
            (State::Ready, false) => "ready",
            (State::Waiting, false) => "waiting",
            (State::Draining, false) => "draining",
        }
    }

    /// By how much a count has risen over the newest `kept` statuses.
    fn rise(&self, kept: usize, count: impl Fn(&Figures) -> f64) -> f64 {
        let first = self.said.len().saturating_sub(kept);
        let (Some((_, first)), Some((_, last))) = (self.said.get(first), self.said.back()) else {
            return 0.0;
        };
        (count(last) - count(first)).max(0.0)
    }

    /// How fast a count rises, a second, between the last two statuses. None before there are two.
    fn rate(&self, count: impl Fn(&Figures) -> f64) -> Option<f64> {
        let before = self.said.len().checked_sub(2)?;
        let (earlier, later) = (self.said.get(before)?.0, self.said.back()?.0);
        let seconds = Duration::from_millis(later - earlier).as_secs_f64();
        Some(self.rise(2, count) / seconds)
    }

    /// Adds the deliveries of the last seconds, by their bounds.
    fn add_latency(&self, buckets: &mut Vec<(f64, f64)>) {
        let first = self.said.len().saturating_sub(LATENCY_SECONDS + 1);
        let (Some((_, first)), Some((_, last))) = (self.said.get(first), self.said.back()) else { return };
        for (bound, count) in &last.latency {
            let before =
                first.latency.iter().find(|(other, _)| other == bound).map_or(0.0, |(_, count)| *count);
            let rise = (count - before).max(0.0);
            match buckets.iter_mut().find(|(other, _)| other == bound) {
                Some((_, sum)) => *sum += rise,
                None => buckets.push((*bound, rise)),
            }
        }
    }

    fn shown(&self, now: Instant) -> Shown {
        let Status { service, instance, host, version, waiting_for, figures, .. } = &self.status;
        Shown {
            service: *service,
            instance: instance.clone(),
            host: host.clone(),
            version: version.clone(),
            uptime_seconds: self.status.uptime_ms / 1000,
            state: self.state(now),
            waiting_for: waiting_for.clone(),
            cpu: self.rate(|figures| figures.cpu_seconds),
            memory_bytes: figures.memory_bytes,
            connections: figures.connections,
            events_per_second: self.rate(|figures| figures.published),
            deliveries_per_second: self.rate(|figures| figures.delivered),
            lag_entries: figures.lag_entries,
        }
    }
}

fn add(sum: &mut Option<f64>, more: Option<f64>) {
    *sum = match (*sum, more) {
        (Some(sum), Some(more)) => Some(sum + more),
        (sum, more) => sum.or(more),
    };
}

/// From cumulative buckets; the bound of the bucket that the share falls into, between its own and the one below by
/// proportion.
fn latency(buckets: &[(f64, f64)]) -> Option<Latency> {
    let mut buckets = buckets.to_vec();
    buckets.sort_by(|(one, _), (other, _)| one.total_cmp(other));
    let all = buckets.last().map(|(_, count)| *count).filter(|count| *count > 0.0)?;
    let quantile = |share: f64| {
        let rank = share * all;
        let (mut below, mut counted) = (0.0, 0.0);
        for (bound, count) in &buckets {
            if *count >= rank {
                // Beyond the last bound it isn't known how far.
                let within = (*count - counted).max(f64::MIN_POSITIVE);
                return if *bound == f64::MAX {
                    below
                } else {
                    below + (bound - below) * (rank - counted) / within
                };
            }
            (below, counted) = (*bound, *count);
        }
        below
    };
    Some(Latency { p50: quantile(0.5), p95: quantile(0.95), p99: quantile(0.99) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn status(instance: &str, uptime_ms: u64, figures: Figures) -> Status {
        Status {
            service: Service::Gateway,
            instance: instance.to_owned(),
            host: "host".to_owned(),
            version: "1".to_owned(),
            uptime_ms,
            state: State::Ready,
            waiting_for: Vec::new(),
            figures,
        }
    }

    #[test]
    fn what_processes_count_is_added_up_and_turned_into_rates() {
        let (mut cluster, now) = (Cluster::default(), Instant::now());
        let count = |published: f64| Figures { published, connections: 10.0, ..Figures::default() };
        cluster.heard(status("a", 1000, count(100.0)), now);
        assert_eq!(cluster.overview(now).cluster.events_per_second, None, "one status is no rate");
        cluster.heard(status("a", 3000, count(300.0)), now);
        cluster.heard(status("b", 1000, count(0.0)), now);
        cluster.heard(status("b", 2000, count(5.0)), now);
        let Totals { events_per_second, connections, error_rate, .. } = cluster.overview(now).cluster;
        assert_eq!((events_per_second, connections, error_rate), (Some(105.0), 20.0, Some(0.0)));
        // Again, and of before.
        cluster.heard(status("b", 2000, count(99.0)), now);
        assert_eq!(cluster.overview(now).cluster.events_per_second, Some(105.0));
    }

    #[test]
    fn who_is_silent_is_missing_and_forgotten_later_or_stopped_if_it_was_on_its_way_out() {
        let (mut cluster, began) = (Cluster::default(), Instant::now());
        let leaving = Status { state: State::Draining, ..status("b", 1, Figures::default()) };
        cluster.heard(status("a", 1, Figures { connections: 5.0, ..Figures::default() }), began);
        cluster.heard(leaving, began);
        let mut states = |after: Duration| {
            let overview = cluster.overview(began + after);
            let states: Vec<_> = overview.instances.iter().map(|shown| shown.state).collect();
            (states, overview.cluster.connections, overview.cluster.missing)
        };
        assert_eq!(states(SECOND), (vec!["ready", "draining"], 5.0, 0.0));
        assert_eq!(states(MISSING_AFTER), (vec!["missing", "stopped"], 0.0, 1.0));
        assert_eq!(states(FORGOTTEN_AFTER), (vec![], 0.0, 0.0));
    }

    #[test]
    fn there_are_so_many_processes_and_no_more() {
        let (mut cluster, now) = (Cluster::default(), Instant::now());
        for number in 0..=INSTANCES_MAX {
            cluster.heard(status(&format!("{number:012x}"), 1, Figures::default()), now);
        }
        let overview = cluster.overview(now);
        assert_eq!((overview.instances.len(), overview.left_out), (INSTANCES_MAX, 1));
    }

    #[test]
    fn quantiles_are_of_the_deliveries_of_the_last_seconds() {
        let (mut cluster, now) = (Cluster::default(), Instant::now());
        let said = |fast: f64, slow: f64| Figures {
            latency: vec![(0.001, fast), (0.01, fast), (0.1, fast + slow), (f64::MAX, fast + slow)],
            ..Figures::default()
        };
        cluster.heard(status("a", 1, said(1000.0, 0.0)), now);
        assert_eq!(cluster.overview(now).cluster.latency, None, "of before anybody looked");
        cluster.heard(status("a", 2, said(1090.0, 10.0)), now);
        let Latency { p50, p95, p99 } = cluster.overview(now).cluster.latency.unwrap();
        assert!(p50 < 0.001 && (0.01..0.1).contains(&p95) && p95 < p99 && p99 < 0.1, "{p50} {p95} {p99}");
        assert_eq!(latency(&[(0.1, 0.0), (f64::MAX, 4.0)]).unwrap().p99, 0.1, "above the last bound");
    }
}
