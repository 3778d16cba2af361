//! Rules about the cluster's metrics, and which of them hold now.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::cluster::Totals;

/// Most rules, and most bytes of a rule's name.
const RULES_MAX: usize = 100;
const NAME_BYTES_MAX: usize = 100;

/// When the dashboard is to say that something is wrong.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// What it is called.
    pub name: String,
    /// What it looks at.
    pub metric: Metric,
    /// It is wrong above this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub above: Option<f64>,
    /// Or below this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub below: Option<f64>,
    /// For how long it has to be so.
    #[serde(default, rename = "for", with = "humantime_serde")]
    pub holds_for: Duration,
}

/// What a rule can look at, of the whole cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Open streams.
    Connections,
    /// Events published a second.
    EventsPerSecond,
    /// Events written to streams a second.
    DeliveriesPerSecond,
    /// Half of the deliveries took no longer, in seconds.
    LatencyP50,
    /// 95 % of them.
    LatencyP95,
    /// 99 % of them.
    LatencyP99,
    /// The share of events that were refused for reasons of our own, 0 to 1.
    ErrorRate,
    /// Ranges found missing from the live feed, in the last minute.
    Gaps,
    /// Streams that were reset in the last minute.
    Resets,
    /// Streams whose socket has been full for over a second.
    SlowConnections,
    /// Entries behind the journal.
    LagEntries,
    /// Seconds behind the journal.
    LagSeconds,
    /// Processor cores in use, of the process that uses the most.
    Cpu,
    /// Memory in bytes, of the process that has the most.
    MemoryBytes,
    /// Processes that aren't ready.
    NotReady,
    /// Processes that aren't heard any more.
    Missing,
}

impl Metric {
    fn of(self, totals: &Totals) -> Option<f64> {
        match self {
            Metric::Connections => Some(totals.connections),
            Metric::EventsPerSecond => totals.events_per_second,
            Metric::DeliveriesPerSecond => totals.deliveries_per_second,
            Metric::LatencyP50 => totals.latency.map(|latency| latency.p50),
            Metric::LatencyP95 => totals.latency.map(|latency| latency.p95),
            Metric::LatencyP99 => totals.latency.map(|latency| latency.p99),
            Metric::ErrorRate => totals.error_rate,
            Metric::Gaps => Some(totals.gaps),
            Metric::Resets => Some(totals.resets),
            Metric::SlowConnections => Some(totals.slow_connections),
            Metric::LagEntries => Some(totals.lag_entries),
            Metric::LagSeconds => Some(totals.lag_seconds),
            Metric::Cpu => totals.cpu_most,
            Metric::MemoryBytes => Some(totals.memory_most),
            Metric::NotReady => Some(totals.not_ready),
            Metric::Missing => Some(totals.missing),
        }
    }
}

impl Rule {
    /// What is wrong with it.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.name.is_empty() || self.name.len() > NAME_BYTES_MAX {
            return Err(format!("name is 1 to {NAME_BYTES_MAX} bytes long"));
        }
        match (self.above, self.below) {
            (Some(bound), None) | (None, Some(bound)) if bound.is_finite() => {}
            _ => return Err("give exactly one of above and below, a number".to_owned()),
        }
        if self.holds_for > Duration::from_secs(3600) {
            return Err("for is at most 1h: the dashboard remembers no more".to_owned());
        }
        Ok(())
    }

    fn is_broken_by(&self, value: f64) -> bool {
        self.above.is_some_and(|bound| value > bound) || self.below.is_some_and(|bound| value < bound)
    }
}

/// Checks all rules together; an error says which is wrong.
pub(super) fn check(rules: &[Rule]) -> Result<(), String> {
    if rules.len() > RULES_MAX {
        return Err(format!("dashboard.alerts has {} rules; there may be {RULES_MAX}", rules.len()));
    }
    for (at, rule) in rules.iter().enumerate() {
        rule.check().map_err(|what| format!("dashboard.alerts {:?}: {what}", rule.name))?;
        if rules[..at].iter().any(|other| other.name == rule.name) {
            return Err(format!("dashboard.alerts: two rules are called {:?}", rule.name));
        }
    }
    Ok(())
}

/// A rule that holds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Firing {
    pub(super) name: String,
    pub(super) metric: Metric,
    pub(super) value: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    above: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    below: Option<f64>,
}

/// The rules, and since when each is broken.
pub(super) struct Alerts {
    rules: Vec<(Rule, Option<Instant>)>,
}

impl Alerts {
    pub(super) fn new(rules: &[Rule]) -> Self {
        Alerts { rules: rules.iter().map(|rule| (rule.clone(), None)).collect() }
    }

    /// Those that hold at `now`. What isn't known breaks no rule, and heals none.
    pub(super) fn firing(&mut self, totals: &Totals, now: Instant) -> Vec<Firing> {
        let mut firing = Vec::new();
        for (rule, since) in &mut self.rules {
            let Some(value) = rule.metric.of(totals) else { continue };
            if !rule.is_broken_by(value) {
                *since = None;
                continue;
            }
            let began = *since.get_or_insert(now);
            if now.saturating_duration_since(began) >= rule.holds_for {
                let (name, metric) = (rule.name.clone(), rule.metric);
                firing.push(Firing { name, metric, value, above: rule.above, below: rule.below });
            }
        }
        firing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(metric: Metric, above: Option<f64>, below: Option<f64>, seconds: u64) -> Rule {
        Rule { name: "a".to_owned(), metric, above, below, holds_for: Duration::from_secs(seconds) }
    }

    #[test]
    fn a_rule_fires_once_it_is_broken_for_long_enough_and_until_it_is_not() {
        let mut alerts = Alerts::new(&[rule(Metric::Connections, Some(10.0), None, 2)]);
        let began = Instant::now();
        let mut at = |second: u64, connections: f64| {
            let totals = Totals { connections, ..Totals::default() };
            alerts.firing(&totals, began + Duration::from_secs(second)).len()
        };
        assert_eq!([at(0, 11.0), at(1, 12.0), at(2, 11.0), at(3, 10.0), at(4, 11.0)], [0, 0, 1, 0, 0]);
    }

    #[test]
    fn what_is_not_known_breaks_no_rule() {
        let mut alerts = Alerts::new(&[rule(Metric::ErrorRate, None, Some(1.0), 0)]);
        let mut firing =
            |error_rate| alerts.firing(&Totals { error_rate, ..Totals::default() }, Instant::now()).len();
        assert_eq!([firing(None), firing(Some(0.5)), firing(Some(1.0))], [0, 1, 0]);
    }

    #[test]
    fn rules_say_one_bound_and_have_names_of_their_own() {
        let good = rule(Metric::Cpu, Some(1.0), None, 0);
        assert!(check(std::slice::from_ref(&good)).is_ok());
        assert!(check(&[good.clone(), good]).unwrap_err().contains("two rules"));
        for (above, below) in [(None, None), (Some(1.0), Some(0.0)), (Some(f64::NAN), None)] {
            assert!(check(&[rule(Metric::Cpu, above, below, 0)]).is_err());
        }
        assert!(check(&[rule(Metric::Cpu, Some(1.0), None, 3601)]).is_err());
    }
}
