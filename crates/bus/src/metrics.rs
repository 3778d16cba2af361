//! What the bus counts. Nothing here is labelled by channel or client: the number of series is fixed.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Handles to the bus's metrics; a clone counts into the same ones.
#[derive(Debug, Clone)]
pub struct Metrics {
    pub(crate) connected: Gauge,
    pub(crate) connections_lost: Counter,
    pub(crate) connect_retries: Counter,
    pub(crate) clients_replaced: Counter,
    pub(crate) server_errors: Counter,
    pub(crate) setup_retries: Counter,

    pub(crate) appends: Family<AppendLabel, Counter>,
    pub(crate) append_retries: Counter,
    pub(crate) append_seconds: Histogram,
    pub(crate) tails_opened: Counter,
    pub(crate) tails_ended: Family<TailEndLabel, Counter>,
    pub(crate) read_retries: Counter,
    pub(crate) entries_read_again: Counter,
    pub(crate) epoch_changes: Counter,

    pub(crate) live_dropped: Counter,
    pub(crate) live_undecodable: Counter,
    pub(crate) client_queue_overflows: Counter,
    pub(crate) requests_dropped: Counter,
    pub(crate) requests_refused: Counter,
    pub(crate) statuses_dropped: Counter,

    pub(crate) leases_acquired: Counter,
    pub(crate) leases_lost: Counter,
    pub(crate) lease_retries: Counter,
}

/// How an append ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum AppendOutcome {
    Stored,
    Duplicate,
    Full,
    Unavailable,
    Fenced,
    Refused,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct AppendLabel {
    outcome: AppendOutcome,
}

/// Why a tail ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum TailEnd {
    /// It could not be opened.
    NotOpened,
    /// Neither an entry nor a heartbeat came.
    Silent,
    /// The server sent an entry that didn't arrive.
    Gap,
    /// The connection is closed for good.
    Closed,
    /// The epoch changed.
    Epoch,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct TailEndLabel {
    reason: TailEnd,
}

impl EncodeLabelValue for AppendOutcome {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        EncodeLabelValue::encode(
            &match self {
                AppendOutcome::Stored => "stored",
                AppendOutcome::Duplicate => "duplicate",
                AppendOutcome::Full => "full",
                AppendOutcome::Unavailable => "unavailable",
                AppendOutcome::Fenced => "fenced",
                AppendOutcome::Refused => "refused",
            },
            encoder,
        )
    }
}

impl EncodeLabelValue for TailEnd {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        EncodeLabelValue::encode(
            &match self {
                TailEnd::NotOpened => "not-opened",
                TailEnd::Silent => "silent",
                TailEnd::Gap => "gap",
                TailEnd::Closed => "closed",
                TailEnd::Epoch => "epoch",
            },
            encoder,
        )
    }
}

impl Metrics {
    /// Registers them, all at zero.
    pub fn register(registry: &mut Registry) -> Metrics {
        let registry = registry.sub_registry_with_prefix("foghorn_bus");
        // From half a millisecond, below which nothing replicated answers, to the append deadline.
        let append_seconds = Histogram::new([
            0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 5.0, 10.0, 15.0,
        ]);
        let metrics = Metrics {
            connected: gauge(registry, "connected", "1 while the connection to NATS stands"),
            connections_lost: counter(registry, "connections_lost", "Times the connection to NATS broke"),
            connect_retries: counter(registry, "connect_retries", "Failed attempts to connect to NATS"),
            clients_replaced: counter(
                registry,
                "clients_replaced",
                "NATS clients that died and were replaced (of a message they can't read, most likely)",
            ),
            server_errors: counter(registry, "server_errors", "Errors that the NATS server reported"),
            setup_retries: counter(
                registry,
                "setup_retries",
                "Failed attempts to set up streams and buckets",
            ),
            appends: Family::default(),
            append_retries: counter(registry, "append_retries", "Appends sent again for want of an ack"),
            append_seconds,
            tails_opened: counter(registry, "tails_opened", "Journal tails opened"),
            tails_ended: Family::default(),
            read_retries: counter(registry, "read_retries", "Journal reads that had to ask again"),
            entries_read_again: counter(
                registry,
                "entries_read_again",
                "Journal entries read a second time because of unusual headers",
            ),
            epoch_changes: counter(registry, "epoch_changes", "New epochs seen after the first"),
            live_dropped: counter(registry, "live_batches_dropped", "Live batches that didn't fit the queue"),
            live_undecodable: counter(
                registry,
                "live_batches_undecodable",
                "Live batches that are not batches",
            ),
            client_queue_overflows: counter(
                registry,
                "client_queue_overflows",
                "Overflow reports of the NATS client's queues (a lower bound on messages dropped)",
            ),
            requests_dropped: counter(
                registry,
                "requests_dropped",
                "NATS requests that didn't fit the queue",
            ),
            requests_refused: counter(
                registry,
                "requests_refused",
                "NATS requests whose reply subject is none of their sender's",
            ),
            statuses_dropped: counter(
                registry,
                "statuses_dropped",
                "Statuses of processes that didn't fit the queue of the gateway that shows them",
            ),
            leases_acquired: counter(registry, "leases_acquired", "Leases this process got"),
            leases_lost: counter(registry, "leases_lost", "Leases this process lost without giving them up"),
            lease_retries: counter(registry, "lease_retries", "Failed attempts to read or write a lease"),
        };
        registry.register("appends", "Appends to the journal by outcome", metrics.appends.clone());
        registry.register("append_seconds", "Seconds from append to ack", metrics.append_seconds.clone());
        registry.register("tails_ended", "Journal tails that ended, by reason", metrics.tails_ended.clone());
        for outcome in [
            AppendOutcome::Stored,
            AppendOutcome::Duplicate,
            AppendOutcome::Full,
            AppendOutcome::Unavailable,
            AppendOutcome::Fenced,
            AppendOutcome::Refused,
        ] {
            drop(metrics.appends.get_or_create(&AppendLabel { outcome }));
        }
        for reason in [TailEnd::NotOpened, TailEnd::Silent, TailEnd::Gap, TailEnd::Closed, TailEnd::Epoch] {
            drop(metrics.tails_ended.get_or_create(&TailEndLabel { reason }));
        }
        metrics
    }

    /// Batches that live subscriptions dropped since the start because their queue was full.
    pub fn live_dropped(&self) -> u64 {
        self.live_dropped.get()
    }

    /// NATS clients that died and were replaced since the start.
    pub fn clients_replaced(&self) -> u64 {
        self.clients_replaced.get()
    }

    /// Publish requests refused since the start because of where they wanted their answer.
    pub fn requests_refused(&self) -> u64 {
        self.requests_refused.get()
    }

    /// Attempts to read or write a lease that failed since the start.
    pub fn lease_retries(&self) -> u64 {
        self.lease_retries.get()
    }

    /// Times this process saw an epoch change.
    pub fn epoch_changes(&self) -> u64 {
        self.epoch_changes.get()
    }

    pub(crate) fn append_ended(&self, outcome: AppendOutcome, seconds: f64) {
        self.appends.get_or_create(&AppendLabel { outcome }).inc();
        self.append_seconds.observe(seconds);
    }

    pub(crate) fn tail_ended(&self, reason: TailEnd) {
        self.tails_ended.get_or_create(&TailEndLabel { reason }).inc();
    }
}

/// Counts that nobody scrapes: tests and tools.
impl Default for Metrics {
    fn default() -> Self {
        Metrics::register(&mut Registry::default())
    }
}

fn counter(registry: &mut Registry, name: &str, help: &str) -> Counter {
    let counter = Counter::default();
    registry.register(name, help, counter.clone());
    counter
}

fn gauge(registry: &mut Registry, name: &str, help: &str) -> Gauge {
    let gauge = Gauge::default();
    registry.register(name, help, gauge.clone());
    gauge
}
