//! The ports on NATS: journal, leases and cluster parameters on JetStream, live feed and requests on
//! its core.
//!
//! Read first: [`Bus`] (the connection, from which everything else is had), then `journal` and `tail`.

mod connect;

mod api;
mod bucket;
mod setup;

mod cluster;
mod stream;

mod append;
mod epoch;
mod journal;
mod message;
mod read;
mod tail;

mod live;
mod pump;
mod request;

mod lease;

use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use async_nats::connection::State;
use foghorn_core::shard::ShardCount;
use tokio::sync::{OnceCell, watch};
use tokio::time::Instant;

use crate::metrics::Metrics;

pub use self::cluster::Parameters;
pub use self::connect::{Credentials, NatsOptions, NatsTls};
pub use self::journal::NatsJournal;
pub use self::lease::NatsLeases;
pub use self::live::NatsLive;
pub use self::request::{NatsRequest, Requests};

use self::api::Api;
use self::setup::Aborted;

/// How often the connection's state is looked at. async-nats tells it by events too, but drops those
/// when they come too fast.
const STATE_EVERY: Duration = Duration::from_millis(50);
/// Messages that a subscription of the main connection queues at most before the client drops.
const QUEUE_MESSAGES: usize = 64 * 1024;
/// The same for journal tails. JetStream's flow control lets 32 MiB be on the way at once; more
/// messages than this can't fit into that.
const TAIL_QUEUE_MESSAGES: usize = 1024 * 1024;

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

/// A connection to NATS. Cheap to clone; the connection ends with the last clone and everything that
/// was made from it.
#[derive(Debug, Clone)]
pub struct Bus(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    client: Client,
    /// Journal entries come over a connection of their own: a backlog doesn't delay acks, and a foreign
    /// entry whose headers the client can't parse, upon which it drops the connection, cuts nothing else.
    reader: OnceCell<Client>,
    api: Api,
    connected: watch::Receiver<bool>,
    options: NatsOptions,
    metrics: Metrics,
    _watching: Aborted,
}

impl Bus {
    /// Connects. While NATS can't be reached it tries again for ever, saying so in the log; the only
    /// errors are [`BusError::Options`].
    pub async fn connect(options: NatsOptions, metrics: Metrics) -> Result<Self, BusError> {
        let client = connect::connect(&options, "", QUEUE_MESSAGES, &metrics).await?;
        let (state, connected) = watch::channel(true);
        let watching = Aborted::spawn(watch_state(client.clone(), state, metrics.clone()));
        Ok(Bus(Arc::new(Inner {
            api: Api::new(client.clone()),
            client,
            reader: OnceCell::new(),
            connected,
            options,
            metrics,
            _watching: watching,
        })))
    }

    /// Whether the connection stands now: a view for readiness, no promise about the next request.
    pub fn connected(&self) -> bool {
        self.0.client.connection_state() == State::Connected
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

    /// Takes requests that are sent to `foghorn.publish.<channel>`, sharing them with every other
    /// process of `group`.
    pub async fn serve_requests(&self, group: &str) -> Result<Requests, BusError> {
        Requests::open(self, group).await
    }

    async fn reader(&self) -> Result<&Client, BusError> {
        let open = || connect::connect(&self.0.options, "-reader", TAIL_QUEUE_MESSAGES, &self.0.metrics);
        self.0.reader.get_or_try_init(open).await
    }

    /// Waits until the connection stands; false when it does not by `deadline`.
    async fn until_connected(&self, deadline: Instant) -> bool {
        if self.connected() {
            return true;
        }
        let mut connected = self.0.connected.clone();
        let stands = tokio::time::timeout_at(deadline, connected.wait_for(|stands| *stands)).await;
        matches!(stands, Ok(Ok(_)))
    }
}

/// Keeps `state` current until nobody looks at it.
async fn watch_state(client: Client, state: watch::Sender<bool>, metrics: Metrics) {
    metrics.connected.set(1);
    while !state.is_closed() {
        tokio::time::sleep(STATE_EVERY).await;
        let stands = client.connection_state() == State::Connected;
        state.send_if_modified(|stood| {
            let changed = *stood != stands;
            *stood = stands;
            changed
        });
        metrics.connected.set(i64::from(stands));
    }
}
