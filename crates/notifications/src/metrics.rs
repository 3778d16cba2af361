//! What notifications count.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// To notify somebody.
    Send,
    /// One's own notifications.
    List,
    /// To mark some as read.
    Mark,
    /// To erase a user's.
    Erase,
    /// How many are unread, for a stream that begins.
    Count,
}

/// How it went. `stored` and `known` are of [`Action::Send`] alone, the others' is `done`.
const OUTCOMES: [&str; 8] =
    ["done", "stored", "known", "invalid", "refused", "limited", "full", "unavailable"];

/// Why notifications were deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deleted {
    Expired,
    Erased,
}

/// Handles to the metrics; a clone counts into the same ones.
#[derive(Debug, Clone)]
pub struct Metrics {
    requests: Family<OfRequest, Counter>,
    seconds: Family<OfAction, Histogram, Buckets>,
    deleted: Family<OfReason, Counter>,
    retention_failures: Counter,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfRequest {
    action: &'static str,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfAction {
    action: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfReason {
    reason: &'static str,
}

/// Makes histograms with buckets from 0.5 ms to 16 s.
#[derive(Debug, Clone, Copy)]
struct Buckets;

impl MetricConstructor<Histogram> for Buckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new(exponential_buckets(0.0005, 2.0, 16))
    }
}

impl Metrics {
    /// Registers them under the prefix `foghorn_notifications`.
    pub fn register(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix("foghorn_notifications");
        let metrics = Metrics {
            requests: Family::default(),
            seconds: Family::new_with_constructor(Buckets),
            deleted: Family::default(),
            retention_failures: Counter::default(),
        };
        let m = &metrics;
        registry.register(
            "requests",
            "Requests by what was asked for, and how they went",
            m.requests.clone(),
        );
        registry.register("request_seconds", "From a request to its answer", m.seconds.clone());
        registry.register("deleted", "Notifications that were deleted, by why", m.deleted.clone());
        registry.register(
            "retention_failures",
            "Rounds of retention that failed and are tried again",
            m.retention_failures.clone(),
        );
        for action in
            [Action::Send, Action::List, Action::Mark, Action::Erase, Action::Count].map(Action::as_str)
        {
            drop(m.seconds.get_or_create(&OfAction { action }));
            for outcome in OUTCOMES {
                drop(m.requests.get_or_create(&OfRequest { action, outcome }));
            }
        }
        for reason in [Deleted::Expired, Deleted::Erased].map(Deleted::as_str) {
            drop(m.deleted.get_or_create(&OfReason { reason }));
        }
        metrics
    }

    pub(crate) fn answered(&self, action: Action, outcome: &'static str, after: Duration) {
        debug_assert!(OUTCOMES.contains(&outcome), "{outcome} doesn't begin at zero");
        let action = action.as_str();
        self.requests.get_or_create(&OfRequest { action, outcome }).inc();
        self.seconds.get_or_create(&OfAction { action }).observe(after.as_secs_f64());
    }

    pub(crate) fn deleted(&self, why: Deleted, notifications: u64) {
        self.deleted.get_or_create(&OfReason { reason: why.as_str() }).inc_by(notifications);
    }

    pub(crate) fn retention_failed(&self) {
        self.retention_failures.inc();
    }
}

impl Action {
    fn as_str(self) -> &'static str {
        match self {
            Action::Send => "send",
            Action::List => "list",
            Action::Mark => "mark",
            Action::Erase => "erase",
            Action::Count => "count",
        }
    }
}

impl Deleted {
    fn as_str(self) -> &'static str {
        match self {
            Deleted::Expired => "expired",
            Deleted::Erased => "erased",
        }
    }
}
