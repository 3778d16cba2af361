//! What a gateway counts. No label takes its values from outside.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use foghorn_auth::Refusal;
use foghorn_core::batch::FeedEvent;
use foghorn_core::event::EventType;
use foghorn_core::policy::Policies;
use foghorn_core::reason::{ResetReason, StreamEnd};
use foghorn_core::shard::Shard;

use crate::limits::By;
use crate::presence::Action;

/// What every type is counted as that no policy lists.
const OTHER: &str = "other";

/// A type that some policy lists, or `other`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct TypeLabel {
    r#type: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByLabel {
    by: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ActionLabel {
    action: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SourceLabel {
    source: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HowLabel {
    how: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ShardLabel {
    shard: u8,
}

/// Where a catch-up is served from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The gateway's memory.
    Ring,
    /// The event log.
    Log,
}

/// How a catch-up comes by a page of the event log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// The event log is asked for it.
    Asked,
    /// Another asked, and it is given along.
    Shared,
}

impl How {
    fn label(self) -> HowLabel {
        HowLabel {
            how: match self {
                How::Asked => "asked",
                How::Shared => "shared",
            },
        }
    }
}

impl Source {
    fn label(self) -> SourceLabel {
        SourceLabel {
            source: match self {
                Source::Ring => "ring",
                Source::Log => "log",
            },
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

/// What became of a ticket, or of a request for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TicketOutcome {
    /// It was given.
    Issued,
    /// It was not, because too many wait.
    Full,
    /// It opened a stream, and is spent.
    Redeemed,
    /// Its cookie has opened another.
    Resumed,
    /// It opens nothing, or not for this caller.
    Refused,
    /// It could not be kept, looked up or verified.
    Unavailable,
}

impl TicketOutcome {
    const ALL: [TicketOutcome; 6] = [
        TicketOutcome::Issued,
        TicketOutcome::Full,
        TicketOutcome::Redeemed,
        TicketOutcome::Resumed,
        TicketOutcome::Refused,
        TicketOutcome::Unavailable,
    ];

    const fn label(self) -> OutcomeLabel {
        OutcomeLabel {
            outcome: match self {
                TicketOutcome::Issued => "issued",
                TicketOutcome::Full => "full",
                TicketOutcome::Redeemed => "redeemed",
                TicketOutcome::Resumed => "resumed",
                TicketOutcome::Refused => "refused",
                TicketOutcome::Unavailable => "unavailable",
            },
        }
    }
}

/// What became of a subscription that a stream was changed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeptOutcome {
    /// It was written to where it is kept, for the first time or again.
    Kept,
    /// It was not, because too many are kept.
    Full,
    /// A stream came back and goes on with it.
    Resumed,
    /// A stream came with it to another URL, and hears what that says.
    OtherUrl,
    /// A stream came back for it, and it isn't known any more.
    Gone,
    /// It could not be kept or looked up.
    Unavailable,
}

impl KeptOutcome {
    const ALL: [KeptOutcome; 6] = [
        KeptOutcome::Kept,
        KeptOutcome::Full,
        KeptOutcome::Resumed,
        KeptOutcome::OtherUrl,
        KeptOutcome::Gone,
        KeptOutcome::Unavailable,
    ];

    const fn label(self) -> OutcomeLabel {
        OutcomeLabel {
            outcome: match self {
                KeptOutcome::Kept => "kept",
                KeptOutcome::Full => "full",
                KeptOutcome::Resumed => "resumed",
                KeptOutcome::OtherUrl => "other-url",
                KeptOutcome::Gone => "gone",
                KeptOutcome::Unavailable => "unavailable",
            },
        }
    }
}

/// What became of a request to change a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChangeOutcome {
    /// It was changed.
    Changed,
    /// Its caller may not.
    Refused,
    /// There is no such stream.
    Unknown,
    /// It, or its gateway, didn't answer in time.
    Unreachable,
}

impl ChangeOutcome {
    const ALL: [ChangeOutcome; 4] =
        [ChangeOutcome::Changed, ChangeOutcome::Refused, ChangeOutcome::Unknown, ChangeOutcome::Unreachable];

    const fn label(self) -> OutcomeLabel {
        OutcomeLabel {
            outcome: match self {
                ChangeOutcome::Changed => "changed",
                ChangeOutcome::Refused => "refused",
                ChangeOutcome::Unknown => "unknown",
                ChangeOutcome::Unreachable => "unreachable",
            },
        }
    }
}

/// What became of a stream of a user, where users may only have so many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PlaceOutcome {
    /// There was room, or was made.
    Admitted,
    /// There was none.
    Refused,
    /// Nobody could be asked; there was room by the gateway's own streams.
    Unchecked,
}

impl PlaceOutcome {
    const ALL: [PlaceOutcome; 3] = [PlaceOutcome::Admitted, PlaceOutcome::Refused, PlaceOutcome::Unchecked];

    const fn label(self) -> OutcomeLabel {
        OutcomeLabel {
            outcome: match self {
                PlaceOutcome::Admitted => "admitted",
                PlaceOutcome::Refused => "refused",
                PlaceOutcome::Unchecked => "unchecked",
            },
        }
    }
}

/// Counters are there from the start: one that appears with its first count shows no increase.
fn begin_at_zero<L>(family: &Family<L, Counter>, labels: impl IntoIterator<Item = L>)
where
    L: Clone + std::hash::Hash + Eq,
{
    for label in labels {
        drop(family.get_or_create(&label));
    }
}

/// The gateway's metrics. Cheap to clone; clones count together.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    /// Open streams.
    pub connections: Gauge,
    /// Open streams whose socket has not taken what is there for them for more than a second.
    pub slow_connections: Gauge,
    /// Streams that a reactor gave to a task, because they were behind what it has.
    pub given_back: Counter,
    /// The most streams that there may be.
    pub connections_max: Gauge,
    /// 1 from when the gateway takes no streams on any more.
    pub draining: Gauge,
    /// Whether it waits for its turn to let them go.
    pub drain_waiting: Gauge,
    /// Streams opened.
    pub opened: Counter,
    /// Streams opened with a cursor.
    pub resumed: Counter,
    /// Ranges found missing from the live feed.
    pub gaps: Counter,
    /// Those filled from the log.
    pub gaps_filled: Counter,
    /// Batches and pages that had other entries than the ring.
    pub regresses: Counter,
    /// Batches that found no room while a gap was being filled; they are filled in later too.
    pub pending_dropped: Counter,
    /// Polls of the log because the live feed was silent.
    pub polls: Counter,
    /// Events left out for a newer one of their channel.
    pub superseded: Counter,
    delivered: Family<TypeLabel, Counter>,
    ended: Family<ReasonLabel, Counter>,
    refused: Family<ReasonLabel, Counter>,
    limited: Family<ByLabel, Counter>,
    tickets: Family<OutcomeLabel, Counter>,
    changes: Family<OutcomeLabel, Counter>,
    kept: Family<OutcomeLabel, Counter>,
    places: Family<OutcomeLabel, Counter>,
    /// Streams that this gateway has ended, here or elsewhere, for newer ones of their users.
    pub(crate) ousted: Counter,
    /// Statuses of processes that can't be read, or are more than they may be.
    pub(crate) statuses_refused: Counter,
    /// Gateways that live, as far as this one knows.
    pub(crate) members: Gauge,
    presence: Family<ActionLabel, Counter>,
    presence_failed: Counter,
    /// Changes of who listens that found no room.
    pub(crate) presence_unkept: Counter,
    resets: Family<ReasonLabel, Counter>,
    replayed: Family<SourceLabel, Counter>,
    /// Questions to the event log that wait for their turn.
    pub replays_waiting: Gauge,
    replays: Family<HowLabel, Counter>,
    log_errors: Counter,
    head: Family<ShardLabel, Gauge>,
    behind: Family<ShardLabel, Gauge>,
    ring_events: Family<ShardLabel, Gauge>,
    ring_bytes: Family<ShardLabel, Gauge>,
    stale: Family<ShardLabel, Gauge>,
    feed_latency: Latency,
    delivery_latency: Latency,
}

/// From half a millisecond to 16 s.
#[derive(Debug, Clone)]
struct Latency(Histogram);

impl Default for Latency {
    fn default() -> Self {
        Latency(Histogram::new(exponential_buckets(0.0005, 2.0, 16)))
    }
}

impl Metrics {
    /// Registers everything under `foghorn_gateway_…`.
    pub fn register(registry: &mut Registry) -> Self {
        let m = Metrics::default();
        let r = registry.sub_registry_with_prefix("foghorn_gateway");
        r.register("connections", "Open streams", m.connections.clone());
        r.register("connections_max", "The most streams that this gateway takes", m.connections_max.clone());
        r.register(
            "draining",
            "1 from when the gateway takes no streams on any more, as it is told to stop",
            m.draining.clone(),
        );
        r.register(
            "drain_waiting",
            "1 while it waits for the operator to say that it may let its streams go",
            m.drain_waiting.clone(),
        );
        r.register(
            "slow_connections",
            "Streams whose socket has been full for over a second",
            m.slow_connections.clone(),
        );
        r.register(
            "streams_given_back",
            "Streams that left their reactor to catch up by themselves",
            m.given_back.clone(),
        );
        r.register("streams_opened", "Streams opened", m.opened.clone());
        r.register("streams_resumed", "Streams opened with a cursor", m.resumed.clone());
        r.register("streams_ended", "Streams ended, by reason", m.ended.clone());
        r.register(
            "events_delivered",
            "Events written to streams, by type as policies list them",
            m.delivered.clone(),
        );
        r.register(
            "events_superseded",
            "Events left out for a newer one of their channel, by policies with latest",
            m.superseded.clone(),
        );
        r.register("refusals", "Requests refused for who made them, by problem type", m.refused.clone());
        r.register(
            "limited",
            "Requests and streams told to come back later, by whose limit",
            m.limited.clone(),
        );
        r.register("tickets", "One-time tickets, and requests for them, by outcome", m.tickets.clone());
        r.register("changes", "Changes of live streams that were asked for, by outcome", m.changes.clone());
        r.register(
            "kept_subscriptions",
            "What streams were changed to hear: kept for their reconnects, and looked for, by outcome",
            m.kept.clone(),
        );
        r.register(
            "places",
            "Streams of users that may have only so many in the cluster, by outcome",
            m.places.clone(),
        );
        r.register("ousted", "Oldest streams told to end because their users opened more", m.ousted.clone());
        r.register(
            "members",
            "Gateways of the cluster that this one hears, itself included",
            m.members.clone(),
        );
        r.register(
            "presence_events",
            "Events of who comes and goes that this gateway had published, by action",
            m.presence.clone(),
        );
        r.register("presence_failures", "Those that nobody published", m.presence_failed.clone());
        r.register(
            "presence_unkept",
            "Changes of who listens that found no room where it is known who was told of",
            m.presence_unkept.clone(),
        );
        r.register(
            "statuses_refused",
            "Statuses of processes that can't be read, or have more than they may",
            m.statuses_refused.clone(),
        );
        r.register("resets", "stream-reset events sent, by reason", m.resets.clone());
        r.register("replayed_events", "Events sent in catch-ups, by source", m.replayed.clone());
        r.register(
            "replays",
            "Pages for catch-ups, by how they were had: asked of the event log, or shared with who asked the same",
            m.replays.clone(),
        );
        r.register(
            "replays_waiting",
            "Questions to the event log that wait for their turn, one for all streams that ask the same",
            m.replays_waiting.clone(),
        );
        r.register("replay_failures", "Requests to the event log that failed", m.log_errors.clone());
        r.register("gaps", "Ranges found missing from the live feed", m.gaps.clone());
        r.register("gaps_filled", "Missing ranges filled from the event log", m.gaps_filled.clone());
        r.register(
            "regresses",
            "Batches and pages that had another entry than the ring at one position",
            m.regresses.clone(),
        );
        r.register(
            "pending_dropped",
            "Batches dropped for want of room while a gap was filled",
            m.pending_dropped.clone(),
        );
        r.register("feed_polls", "Polls of the event log because the live feed was silent", m.polls.clone());
        r.register("head", "Last seq covered, by shard", m.head.clone());
        r.register("behind", "Entries between the head and the journal's tip, by shard", m.behind.clone());
        r.register("ring_events", "Events in the ring, by shard", m.ring_events.clone());
        r.register("ring_bytes", "Bytes of the ring, by shard", m.ring_bytes.clone());
        r.register("feed_stale", "1 while the live feed of a shard is silent", m.stale.clone());
        r.register(
            "feed_latency_seconds",
            "From the journal's time of an event to its arrival here",
            m.feed_latency.0.clone(),
        );
        r.register(
            "delivery_latency_seconds",
            "From the journal's time of an event to the last socket that it was written to, over bare HTTP/1.1; of those that are done at once the oldest",
            m.delivery_latency.0.clone(),
        );
        begin_at_zero(&m.delivered, [TypeLabel { r#type: OTHER.to_owned() }]);
        begin_at_zero(&m.refused, Refusal::CODES.iter().map(|reason| ReasonLabel { reason }));
        begin_at_zero(&m.resets, ResetReason::ALL.map(|reason| ReasonLabel { reason: reason.as_str() }));
        begin_at_zero(&m.ended, StreamEnd::ALL.map(|end| ReasonLabel { reason: end.as_str() }));
        begin_at_zero(&m.limited, By::ALL.map(|by| ByLabel { by: by.as_str() }));
        begin_at_zero(&m.replays, [How::Asked, How::Shared].map(How::label));
        begin_at_zero(&m.tickets, TicketOutcome::ALL.map(TicketOutcome::label));
        begin_at_zero(&m.changes, ChangeOutcome::ALL.map(ChangeOutcome::label));
        begin_at_zero(&m.kept, KeptOutcome::ALL.map(KeptOutcome::label));
        begin_at_zero(&m.places, PlaceOutcome::ALL.map(PlaceOutcome::label));
        let actions = [Action::Join, Action::Leave, Action::Count];
        begin_at_zero(&m.presence, actions.map(|action| ActionLabel { action: action.as_str() }));
        begin_at_zero(&m.replayed, [Source::Ring, Source::Log].map(Source::label));
        m
    }

    /// The delivery counter of an event: by its type if its channel's policy lists it, else `other`.
    pub fn delivered(&self, policies: &Policies, event: &FeedEvent) -> Counter {
        if event.channel.is_reserved() {
            // Nobody's.
            return Counter::default();
        }
        let name = event.event_type.as_ref().map_or("message", EventType::as_str);
        let listed = policies.of(event.channel.as_str()).metric_types.iter().any(|t| t == name);
        let label = TypeLabel { r#type: if listed { name.to_owned() } else { OTHER.to_owned() } };
        self.delivered.get_or_create(&label).clone()
    }

    /// A stream ended.
    pub fn ended(&self, end: StreamEnd) {
        self.ended.get_or_create(&ReasonLabel { reason: end.as_str() }).inc();
    }

    /// How many ended so.
    #[cfg(test)]
    pub(crate) fn ended_so_far(&self, end: StreamEnd) -> u64 {
        self.ended.get_or_create(&ReasonLabel { reason: end.as_str() }).get()
    }

    /// Somebody may not.
    pub fn refused(&self, why: &Refusal) {
        self.refused.get_or_create(&ReasonLabel { reason: why.code() }).inc();
    }

    /// Somebody asks too often.
    pub(crate) fn limited(&self, by: By) {
        self.limited.get_or_create(&ByLabel { by: by.as_str() }).inc();
    }

    /// Something became of a ticket.
    pub(crate) fn ticket(&self, outcome: TicketOutcome) {
        self.tickets.get_or_create(&outcome.label()).inc();
    }

    /// Something became of a request to change a stream.
    pub(crate) fn changed(&self, outcome: ChangeOutcome) {
        self.changes.get_or_create(&outcome.label()).inc();
    }

    /// Something became of what a stream was changed to hear.
    pub(crate) fn kept(&self, outcome: KeptOutcome) {
        self.kept.get_or_create(&outcome.label()).inc();
    }

    /// Something became of a user's stream.
    pub(crate) fn place(&self, outcome: PlaceOutcome) {
        self.places.get_or_create(&outcome.label()).inc();
    }

    /// Listeners were told who comes or goes; none: they could not be.
    pub(crate) fn presence(&self, action: Option<Action>) {
        match action {
            Some(action) => self.presence.get_or_create(&ActionLabel { action: action.as_str() }).inc(),
            None => self.presence_failed.inc(),
        };
    }

    /// A stream was reset.
    pub fn reset(&self, reason: ResetReason) {
        self.resets.get_or_create(&ReasonLabel { reason: reason.as_str() }).inc();
    }

    /// Events were sent in a catch-up.
    pub fn replayed(&self, source: Source, events: u64) {
        self.replayed.get_or_create(&source.label()).inc_by(events);
    }

    /// A catch-up is given a page.
    pub fn replay(&self, how: How) {
        self.replays.get_or_create(&how.label()).inc();
    }

    /// The log did not answer.
    pub fn log_failed(&self) {
        self.log_errors.inc();
    }

    /// An event arrived this long after the journal took it.
    pub fn arrived(&self, latency: std::time::Duration) {
        self.feed_latency.0.observe(latency.as_secs_f64());
    }

    /// The last socket that an event was for took it, this long after the journal did.
    pub(crate) fn written(&self, latency: std::time::Duration) {
        self.delivery_latency.0.observe(latency.as_secs_f64());
    }

    /// A shard's ring changed.
    pub fn ring(&self, shard: Shard, ring: &crate::ring::Ring) {
        let label = ShardLabel { shard: shard.get() };
        let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        self.head.get_or_create(&label).set(number(ring.head()));
        self.behind.get_or_create(&label).set(number(ring.tip().saturating_sub(ring.head())));
        self.ring_events.get_or_create(&label).set(number(ring.len() as u64));
        self.ring_bytes.get_or_create(&label).set(number(ring.bytes() as u64));
    }

    /// A shard's live feed fell silent, or is back.
    pub fn stale(&self, shard: Shard, stale: bool) {
        self.stale.get_or_create(&ShardLabel { shard: shard.get() }).set(i64::from(stale));
    }
}
