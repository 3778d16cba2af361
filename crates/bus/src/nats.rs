//! The ports on NATS: journal, leases and cluster parameters on JetStream, live feed and requests on
//! its core.
//!
//! Read first: [`Bus`] (the connection, from which everything else is had), then `journal` and `tail`.

mod connect;
mod link;

mod api;
mod bucket;
mod setup;

mod cluster;
mod stream;

mod append;
mod block;
mod epoch;
mod journal;
mod message;
mod read;
mod seen;
mod tail;

mod announce;
mod gateways;
mod live;
mod notifications;
mod pump;
mod request;
mod rollout;
mod statuses;

mod lease;
mod policies;
mod revocations;
mod subscriptions;
mod tickets;

#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;

use std::sync::Arc;
use std::time::Duration;

use foghorn_core::shard::ShardCount;
use tokio::sync::{OnceCell, watch};
use tokio::time::Instant;

use crate::metrics::Metrics;

pub use self::announce::NatsAnnouncer;
pub use self::cluster::Parameters;
pub use self::connect::{Credentials, NatsOptions, NatsTls};
pub use self::gateways::NatsGateways;
pub use self::journal::NatsJournal;
pub use self::lease::NatsLeases;
pub use self::live::NatsLive;
pub use self::notifications::{NatsUnread, UnreadQuestion, UnreadQuestions};
pub use self::policies::{NatsPolicies, POLICIES_BUCKET, SeenPolicies, StoredPolicies, WrittenPolicies};
pub use self::request::{NatsRequest, REQUEST_HEADERS, Requests};
pub use self::revocations::{Look, NatsRevocations, RecordError, Seen};
pub use self::rollout::{NatsPacer, Reported, Reports};
pub use self::statuses::NatsStatuses;
pub use self::subscriptions::NatsSubscriptions;
pub use self::tickets::NatsTickets;

use self::api::Api;
use self::link::{Link, Role};
use self::setup::Aborted;

/// How often the connection's state is looked at. async-nats tells it by events too, but drops those
/// when they come too fast.
const STATE_EVERY: Duration = Duration::from_millis(50);

/// Why the bus can't be used. Each of these is final: what may pass is retried inside.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BusError {
    /// The options make no sense.
    #[error("NATS options: {0}")]
    Options(String),
    /// This process is configured for another cluster than this one.
    #[error("{0}")]
    Parameters(String),
    /// Somebody made or changed a stream of ours so that events could be lost.
    #[error(
        "the stream {stream} has {setting} = {found}, which must be {wanted}: with it the journal could lose \
         events. Change it (`nats stream edit {stream}`) or, if nothing in it is needed, delete the stream"
    )]
    Stream {
        /// Which.
        stream: String,
        /// The name of the setting in the stream's configuration.
        setting: &'static str,
        /// What it is.
        found: String,
        /// What it has to be.
        wanted: String,
    },
    /// The server says no and would again.
    #[error("NATS refuses to {what}: {why}")]
    Refused {
        /// What was asked for.
        what: String,
        /// Its reason.
        why: String,
    },
}

/// NATS. Cheap to clone; its connections end with the last clone and everything that was made from it.
///
/// What others wrote comes over connections of their own: a backlog delays no acks, and a message that
/// the client library can't read, upon which it drops the connection or dies, cuts nothing else.
#[derive(Debug, Clone)]
pub struct Bus(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    main: Link,
    reader: OnceCell<Link>,
    live: OnceCell<Link>,
    requests: OnceCell<Link>,
    /// Over the main connection.
    api: Api,
    /// Since when the main connection is gone; none while it stands.
    gone: watch::Receiver<Option<Instant>>,
    options: NatsOptions,
    metrics: Metrics,
    _watching: Aborted,
}

impl Bus {
    /// Connects. While NATS can't be reached it tries again for ever, saying so in the log; the only
    /// errors are [`BusError::Options`].
    pub async fn connect(options: NatsOptions, metrics: Metrics) -> Result<Self, BusError> {
        let main = Link::open(&options, Role::Main, &metrics).await?;
        let (state, gone) = watch::channel(None);
        let watching = Aborted::spawn(watch_state(main.clone(), state, metrics.clone()));
        Ok(Bus(Arc::new(Inner {
            api: Api::new(main.clone()),
            main,
            reader: OnceCell::new(),
            live: OnceCell::new(),
            requests: OnceCell::new(),
            gone,
            options,
            metrics,
            _watching: watching,
        })))
    }

    /// Whether the connection stands now: a view for readiness, no promise about the next request.
    pub fn connected(&self) -> bool {
        self.0.main.connected_client().is_some()
    }

    /// For how long the connection has been gone; none while it stands. For readiness, which should not
    /// end with every reconnect.
    pub fn disconnected_for(&self) -> Option<Duration> {
        if self.connected() {
            return None;
        }
        Some((*self.0.gone.borrow()).map_or(Duration::ZERO, |gone| gone.elapsed()))
    }

    /// Makes sure that this process and the cluster agree on what all must have alike. The first process
    /// of a cluster sets it. Waits until JetStream answers.
    pub async fn agree(&self, parameters: &Parameters) -> Result<(), BusError> {
        cluster::agree(self, parameters).await
    }

    /// The journal. Agrees on the parameters, creates or verifies the streams, finds the epochs.
    pub async fn journal(&self, parameters: &Parameters) -> Result<NatsJournal, BusError> {
        self.agree(parameters).await?;
        NatsJournal::open(self, parameters).await
    }

    /// The live feed.
    pub fn live(&self, shards: ShardCount) -> NatsLive {
        NatsLive::new(self.clone(), shards)
    }

    /// Leases, kept in a bucket that is created if need be.
    pub async fn leases(&self) -> Result<NatsLeases, BusError> {
        NatsLeases::open(self).await
    }

    /// What was revoked, `most` at a time, kept in a bucket that is created if need be.
    pub async fn revocations(&self, most: usize) -> Result<NatsRevocations, BusError> {
        NatsRevocations::open(self, most).await
    }

    /// The cluster's policies, for those who read them.
    pub fn policies(&self) -> NatsPolicies {
        NatsPolicies::new(self)
    }

    /// The same for those who write them, kept in a bucket that is created if need be.
    pub async fn policies_to_write(&self) -> Result<NatsPolicies, BusError> {
        let policies = NatsPolicies::new(self);
        policies.ensure(self).await?;
        Ok(policies)
    }

    /// Tickets that wait to be redeemed, `most` at a time, kept in a bucket that is created if need be.
    pub async fn tickets(&self, most: usize) -> Result<NatsTickets, BusError> {
        NatsTickets::open(self, most).await
    }

    /// What streams were changed to hear, `most` at a time, kept in a bucket that is created if need be.
    pub async fn subscriptions(&self, most: usize) -> Result<NatsSubscriptions, BusError> {
        NatsSubscriptions::open(self, most).await
    }

    /// Takes requests that are sent to `foghorn.publish.<channel>`, sharing them with every other
    /// process of `group`.
    pub async fn serve_requests(&self, group: &str) -> Result<Requests, BusError> {
        Requests::open(self, request::PREFIX, group, self.0.main.clone()).await
    }

    /// Takes what gateways want published on `foghorn.presence.<channel>`, likewise.
    pub async fn serve_presence(&self, group: &str) -> Result<Requests, BusError> {
        // Where NATS lets it answer what it is asked, and nothing else, only the connection that was asked may.
        let answers = self.requests_link().await?.clone();
        Requests::open(self, announce::PRESENCE, group, answers).await
    }

    /// Takes the canaries that gateways want published on `foghorn.canary.<gateway>.<lane>`, likewise.
    pub async fn serve_canaries(&self, group: &str) -> Result<Requests, BusError> {
        let answers = self.requests_link().await?.clone();
        Requests::open(self, announce::CANARY, group, answers).await
    }

    /// Has whoever serves those publish who comes and goes, and canaries.
    pub fn announcer(&self) -> NatsAnnouncer {
        NatsAnnouncer::new(self.clone())
    }

    /// The other gateways of the cluster, for one that asks and is asked.
    pub fn gateways(&self) -> NatsGateways {
        NatsGateways::new(self.clone())
    }

    /// Who keeps the cluster's notifications, for a gateway that asks.
    pub fn unread(&self) -> NatsUnread {
        NatsUnread::new(self.clone())
    }

    /// Takes what gateways ask about notifications, sharing it with every other process that keeps them.
    pub async fn unread_questions(&self) -> Result<UnreadQuestions, BusError> {
        UnreadQuestions::open(self).await
    }

    /// What the processes of the cluster say of themselves.
    pub fn statuses(&self) -> NatsStatuses {
        NatsStatuses::new(self.clone())
    }

    /// Whoever paces the gateways, as a gateway reports to them.
    pub fn pacer(&self) -> NatsPacer {
        NatsPacer::new(self.clone())
    }

    /// What gateways report to whoever paces them.
    pub async fn reports(&self) -> Result<Reports, BusError> {
        Reports::open(self).await
    }

    /// The connection that journal entries come over.
    async fn reader_link(&self) -> Result<&Link, BusError> {
        self.link(&self.0.reader, Role::Reader).await
    }

    /// The connection that live batches come over.
    async fn live_link(&self) -> Result<&Link, BusError> {
        self.link(&self.0.live, Role::Live).await
    }

    /// The connection that requests come over, of publishers or of other gateways, and statuses.
    async fn requests_link(&self) -> Result<&Link, BusError> {
        self.link(&self.0.requests, Role::Requests).await
    }

    async fn link<'a>(&'a self, cell: &'a OnceCell<Link>, role: Role) -> Result<&'a Link, BusError> {
        cell.get_or_try_init(|| Link::open(&self.0.options, role, &self.0.metrics)).await
    }

    /// Waits until the connection stands; false when it does not by `deadline`.
    async fn until_connected(&self, deadline: Instant) -> bool {
        if self.connected() {
            return true;
        }
        let mut gone = self.0.gone.clone();
        let stands = tokio::time::timeout_at(deadline, gone.wait_for(Option::is_none)).await;
        matches!(stands, Ok(Ok(_)))
    }
}

/// Keeps `gone` current until nobody looks at it.
async fn watch_state(main: Link, gone: watch::Sender<Option<Instant>>, metrics: Metrics) {
    metrics.connected.set(1);
    while !gone.is_closed() {
        tokio::time::sleep(STATE_EVERY).await;
        let stands = main.connected_client().is_some();
        gone.send_if_modified(|since| {
            let changed = since.is_none() != stands;
            if changed {
                *since = (!stands).then(Instant::now);
            }
            changed
        });
        metrics.connected.set(i64::from(stands));
    }
}
