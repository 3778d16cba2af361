//! What an outbox publisher counts.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::table::Backlog;

/// What became of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It is in the journal.
    Published,
    /// The journal had one with its channel and id.
    Duplicate,
    /// An earlier try had succeeded unheard, and was found.
    Found,
    /// Its ttl was over.
    Expired,
    /// It was set aside.
    Rejected,
}

/// What can fail and is tried again.
const FAILURES: [&str; 5] = ["database", "journal", "fence", "log", "notifications"];

/// Handles to the metrics; a clone counts into the same ones.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    active: Gauge,
    takeovers: Counter,
    fenced: Counter,
    events: Family<OfOutcome, Counter>,
    failures: Family<OfKind, Counter>,
    delay: Delay,
    waiting: Gauge,
    age: Gauge<f64, AtomicU64>,
    rejected: Gauge,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfOutcome {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfKind {
    kind: &'static str,
}

/// From 1 ms to a good hour.
#[derive(Debug, Clone)]
struct Delay(Histogram);

impl Default for Delay {
    fn default() -> Self {
        Delay(Histogram::new(exponential_buckets(0.001, 4.0, 12)))
    }
}

impl Metrics {
    /// Registers them under the prefix `foghorn_outbox`.
    pub fn register(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix("foghorn_outbox");
        let metrics = Metrics::default();
        let m = &metrics;
        registry.register("active", "1 where this process drains the outbox", m.active.clone());
        registry.register("takeovers", "Times that this process began to", m.takeovers.clone());
        registry.register("fenced", "Times that it found another doing so", m.fenced.clone());
        registry.register("events", "Events that left the outbox, by outcome", m.events.clone());
        registry.register("failures", "What failed and is tried again", m.failures.clone());
        registry.register_with_unit(
            "delay",
            "From the call of foghorn.publish to the journal",
            Unit::Seconds,
            m.delay.0.clone(),
        );
        registry.register("backlog_events", "Events that wait, counted up to 100,001", m.waiting.clone());
        registry.register_with_unit(
            "backlog_age",
            "For how long the first of them has been waiting",
            Unit::Seconds,
            m.age.clone(),
        );
        registry.register("rejected_events", "Events that were set aside", m.rejected.clone());
        for outcome in
            [Outcome::Published, Outcome::Duplicate, Outcome::Found, Outcome::Expired, Outcome::Rejected]
        {
            drop(m.events.get_or_create(&OfOutcome { outcome: outcome.as_str() }));
        }
        for kind in FAILURES {
            drop(m.failures.get_or_create(&OfKind { kind }));
        }
        metrics
    }

    pub(crate) fn drains(&self, drains: bool) {
        self.active.set(i64::from(drains));
        if drains {
            self.takeovers.inc();
        }
    }

    pub(crate) fn fenced(&self) {
        self.fenced.inc();
    }

    pub(crate) fn left(&self, outcome: Outcome) {
        self.events.get_or_create(&OfOutcome { outcome: outcome.as_str() }).inc();
    }

    pub(crate) fn published_after(&self, delay: Duration) {
        self.delay.0.observe(delay.as_secs_f64());
    }

    pub(crate) fn failed(&self, kind: &'static str) {
        debug_assert!(FAILURES.contains(&kind), "{kind} doesn't begin at zero");
        self.failures.get_or_create(&OfKind { kind }).inc();
    }

    pub(crate) fn waits(&self, backlog: Backlog) {
        self.waiting.set(backlog.waiting);
        self.age.set(backlog.age);
        self.rejected.set(backlog.rejected);
    }
}

impl Outcome {
    fn as_str(self) -> &'static str {
        match self {
            Outcome::Published => "published",
            Outcome::Duplicate => "duplicate",
            Outcome::Found => "found",
            Outcome::Expired => "expired",
            Outcome::Rejected => "rejected",
        }
    }
}
