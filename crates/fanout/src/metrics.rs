//! What fan-out counts. No label is a channel, a user or anything else that a publisher chooses.

use std::time::Duration;

use foghorn_core::entry::InvalidEntry;
use foghorn_core::shard::Shard;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::publish::{Ack, Door};

/// Handles to fan-out's metrics; a clone counts into the same ones.
#[derive(Debug, Clone)]
pub struct Metrics {
    publishes: Family<PublishLabels, Counter>,
    publish_seconds: Family<DoorLabel, Histogram, Buckets>,
    pub(crate) rate_waits: Counter,
    packed: Counter,
    packed_saved: Counter,
    pub(crate) relay_leader: Family<ShardLabel, Gauge>,
    pub(crate) relay_lag_entries: Family<ShardLabel, Gauge>,
    pub(crate) relay_lag_seconds: Family<ShardLabel, Gauge<f64, std::sync::atomic::AtomicU64>>,
    pub(crate) relay_delay_seconds: Histogram,
    pub(crate) relay_batches: Family<BatchLabel, Counter>,
    pub(crate) relay_events: Counter,
    pub(crate) relay_bytes: Counter,
    relay_invalid: Family<KindLabel, Counter>,
    pub(crate) relay_rebuilds: Family<KindLabel, Counter>,
    pub(crate) relay_send_retries: Counter,
    pub(crate) relay_unsent: Counter,
}

/// How a publish may be answered: the three ways to be stored, then [`PublishError::outcome`]'s.
///
/// [`PublishError::outcome`]: crate::error::PublishError::outcome
const OUTCOMES: [&str; 13] = [
    "stored",
    "duplicate",
    "not-durable",
    "unauthenticated",
    "denied",
    "invalid",
    "overloaded",
    "limited",
    "draining",
    "full",
    "unavailable",
    "refused",
    "lost",
];

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PublishLabels {
    door: &'static str,
    ack: &'static str,
    outcome: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DoorLabel {
    door: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ShardLabel {
    shard: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct BatchLabel {
    pub(crate) kind: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct KindLabel {
    pub(crate) reason: &'static str,
}

/// Makes histograms with buckets from 0.1 ms to 26 s.
#[derive(Debug, Clone, Copy)]
struct Buckets;

impl MetricConstructor<Histogram> for Buckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new(exponential_buckets(0.0001, 2.0, 19))
    }
}

impl Metrics {
    /// Registers them under the prefix `foghorn_fanout`.
    pub fn register(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix("foghorn_fanout");
        let metrics = Metrics {
            publishes: Family::default(),
            publish_seconds: Family::new_with_constructor(Buckets),
            rate_waits: Counter::default(),
            packed: Counter::default(),
            packed_saved: Counter::default(),
            relay_leader: Family::default(),
            relay_lag_entries: Family::default(),
            relay_lag_seconds: Family::default(),
            relay_delay_seconds: Buckets.new_metric(),
            relay_batches: Family::default(),
            relay_events: Counter::default(),
            relay_bytes: Counter::default(),
            relay_invalid: Family::default(),
            relay_rebuilds: Family::default(),
            relay_send_retries: Counter::default(),
            relay_unsent: Counter::default(),
        };
        let m = &metrics;
        registry.register(
            "publishes",
            "Publish answers by door, ack class asked for, and outcome (stored, duplicate, not-durable, or why not)",
            m.publishes.clone(),
        );
        registry.register(
            "publish_seconds",
            "From taking in an event to its answer",
            m.publish_seconds.clone(),
        );
        registry.register(
            "publish_rate_waits",
            "Times that a gRPC stream waited because its subject had published as much as it may",
            m.rate_waits.clone(),
        );
        registry.register(
            "data_compressed",
            "Events whose data were compressed before they were stored",
            m.packed.clone(),
        );
        registry.register(
            "data_compressed_saved_bytes",
            "Bytes of data that there are fewer by that",
            m.packed_saved.clone(),
        );
        registry.register("relay_leader", "1 where this process relays the shard", m.relay_leader.clone());
        registry.register(
            "relay_lag_entries",
            "Entries between the relay and the journal's tip",
            m.relay_lag_entries.clone(),
        );
        registry.register(
            "relay_lag_seconds",
            "For how long the relay has been behind a tip that it knows of",
            m.relay_lag_seconds.clone(),
        );
        registry.register(
            "relay_delay_seconds",
            "From the journal's time of a batch's first event to its sending",
            m.relay_delay_seconds.clone(),
        );
        registry.register("relay_batches", "Batches sent, by kind", m.relay_batches.clone());
        registry.register("relay_events", "Events sent", m.relay_events.clone());
        registry.register("relay_bytes", "Bytes of batches sent", m.relay_bytes.clone());
        registry.register("relay_invalid", "Journal entries skipped, by reason", m.relay_invalid.clone());
        registry.register(
            "relay_rebuilds",
            "Tails opened again, by reason (ended, stalled, epoch, trimmed)",
            m.relay_rebuilds.clone(),
        );
        registry.register(
            "relay_send_retries",
            "Batches that had to be sent again",
            m.relay_send_retries.clone(),
        );
        registry.register(
            "relay_unsent",
            "Batches given up; gateways fetch them from the event log",
            m.relay_unsent.clone(),
        );
        m.begin_at_zero();
        metrics
    }

    /// So that the first of each is a rise, and not the beginning of a series.
    fn begin_at_zero(&self) {
        for door in Door::ALL.map(Door::as_str) {
            drop(self.publish_seconds.get_or_create(&DoorLabel { door }));
            for ack in [Ack::Accepted, Ack::Durable].map(Ack::as_str) {
                for outcome in OUTCOMES {
                    drop(self.publishes.get_or_create(&PublishLabels { door, ack, outcome }));
                }
            }
        }
        for kind in ["events", "beacon"] {
            drop(self.relay_batches.get_or_create(&BatchLabel { kind }));
        }
        for reason in ["ended", "stalled", "epoch", "trimmed"] {
            drop(self.relay_rebuilds.get_or_create(&KindLabel { reason }));
        }
    }

    pub(crate) fn answered(&self, door: Door, ack: Ack, outcome: &'static str, after: Duration) {
        debug_assert!(OUTCOMES.contains(&outcome), "{outcome} doesn't begin at zero");
        let door = door.as_str();
        self.publishes.get_or_create(&PublishLabels { door, ack: ack.as_str(), outcome }).inc();
        self.publish_seconds.get_or_create(&DoorLabel { door }).observe(after.as_secs_f64());
    }

    /// Data of so many bytes became so many.
    pub(crate) fn packed(&self, before: usize, after: usize) {
        self.packed.inc();
        self.packed_saved.inc_by((before - after) as u64);
    }

    pub(crate) fn invalid_entry(&self, why: &InvalidEntry) {
        let reason = match why {
            InvalidEntry::Event(error) => error.code(),
            InvalidEntry::WrongShard { .. } => "wrong-shard",
        };
        self.relay_invalid.get_or_create(&KindLabel { reason }).inc();
    }
}

/// The label of a shard's metrics.
pub(crate) fn shard_label(shard: Shard) -> ShardLabel {
    ShardLabel { shard: u32::from(shard.get()) }
}
