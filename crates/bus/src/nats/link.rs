//! A connection that outlives its client.
//!
//! The client library reconnects by itself, but some messages that others may send end its connection
//! task for good: a bare carriage return in a header value is one. From then on the client answers
//! nothing, and still says that it is connected. So every client is watched, and replaced when it is dead.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::connection::State;
use async_nats::{Client, Message, Statistics, Subscriber};
use futures::{FutureExt, StreamExt};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::BusError;
use super::connect::{NatsOptions, connect};
use super::setup::Aborted;
use crate::backoff::{Backoff, Rarely};
use crate::metrics::Metrics;

/// The longest wait before a client is replaced: short, as nothing works meanwhile, and long enough for
/// somebody who kills one after another to cost little.
const REPLACE_MOST: Duration = Duration::from_secs(1);
/// A client that lived this long was well; waiting begins anew after it.
const LIVED_WELL: Duration = Duration::from_secs(10);
/// Messages that a subscription queues at most before the client drops.
const QUEUE_MESSAGES: usize = 64 * 1024;
/// The same for journal tails. JetStream's flow control lets 32 MiB be on the way at once; more
/// messages than this can't fit into that.
const TAIL_QUEUE_MESSAGES: usize = 1024 * 1024;

/// How often a connection is looked after while nothing comes over it.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What a connection is for. Whatever receives what others wrote is apart from what must not stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Appends, leases and the API; receives nothing but answers to these.
    Main,
    /// Journal entries.
    Reader,
    /// Live batches.
    Live,
    /// Requests: of publishers, or of other gateways.
    Requests,
}

impl Role {
    /// What the connection's name ends in.
    pub(super) fn suffix(self) -> &'static str {
        match self {
            Role::Main => "",
            Role::Reader => "-reader",
            Role::Live => "-live",
            Role::Requests => "-requests",
        }
    }

    pub(super) fn queue_messages(self) -> usize {
        match self {
            Role::Reader => TAIL_QUEUE_MESSAGES,
            Role::Main | Role::Live | Role::Requests => QUEUE_MESSAGES,
        }
    }
}

/// A connection to NATS. Cheap to clone; it ends with the last clone and every client had from it.
#[derive(Debug, Clone)]
pub(super) struct Link(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    current: watch::Receiver<Current>,
    _supervising: Aborted,
}

#[derive(Debug, Clone)]
struct Current {
    client: Arc<Client>,
    dead: bool,
}

impl Link {
    /// Connects. While NATS can't be reached it tries again for ever.
    pub(super) async fn open(options: &NatsOptions, role: Role, metrics: &Metrics) -> Result<Self, BusError> {
        let client = Arc::new(connect(options, role, metrics).await?);
        let (sender, current) = watch::channel(Current { client, dead: false });
        let supervising = Aborted::spawn(supervise(options.clone(), role, sender, metrics.clone()));
        Ok(Link(Arc::new(Inner { current, _supervising: supervising })))
    }

    /// The client; none while the last one is dead and there is no other yet.
    pub(super) fn client(&self) -> Option<Arc<Client>> {
        let current = self.0.current.borrow();
        (!current.dead).then(|| current.client.clone())
    }

    /// The client, waited for while there is none.
    pub(super) async fn live_client(&self) -> Arc<Client> {
        let mut current = self.0.current.clone();
        loop {
            if let Some(client) = self.client() {
                return client;
            }
            if current.changed().await.is_err() {
                // The supervisor lives as long as we do.
                std::future::pending::<()>().await;
            }
        }
    }

    /// The client if its connection stands.
    pub(super) fn connected_client(&self) -> Option<Arc<Client>> {
        self.client().filter(|client| client.connection_state() == State::Connected)
    }

    /// The largest payload that the server takes, as it last said.
    pub(super) fn max_payload(&self) -> usize {
        self.0.current.borrow().client.max_payload()
    }
}

/// Replaces the client whenever it is dead.
async fn supervise(options: NatsOptions, role: Role, current: watch::Sender<Current>, metrics: Metrics) {
    let mut backoff = Backoff::new(Duration::from_millis(50), REPLACE_MOST);
    let rarely = Rarely::default();
    loop {
        let client = current.borrow().client.clone();
        let begun = Instant::now();
        until_dead(&client).await;
        current.send_modify(|current| current.dead = true);
        metrics.clients_replaced.inc();
        if role == Role::Main {
            // Nobody should be able to send it anything.
            tracing::error!("the NATS client of the main connection died; making a new one");
        } else if rarely.now() {
            let connection = format!("{}{}", options.name, role.suffix());
            tracing::warn!(
                connection,
                "the NATS client died, most likely of a message that it can't read; making a new one"
            );
        }
        if begun.elapsed() >= LIVED_WELL {
            backoff.reset();
        }
        loop {
            backoff.wait().await;
            match connect(&options, role, &metrics).await {
                Ok(client) => {
                    current.send_replace(Current { client: Arc::new(client), dead: false });
                    break;
                }
                // They made sense at the start: a credentials file that is being replaced, say.
                Err(error) => {
                    if rarely.now() {
                        tracing::error!(%error, "no new NATS client can be made; trying again");
                    }
                }
            }
        }
    }
}

/// Until the client's task has ended: it drops its subscriptions then, and this one never before.
async fn until_dead(client: &Client) {
    let Ok(mut canary) = client.subscribe(client.new_inbox()).await else { return };
    while canary.next().await.is_some() {}
}

/// A subscription that ends with its connection. The client library would go on with the next one, less
/// what was lost in between.
#[derive(Debug)]
pub(super) struct Watched {
    subscriber: Subscriber,
    client: Arc<Client>,
    statistics: Arc<Statistics>,
    /// How many connections there had been when it began.
    connects: u64,
}

/// Why no message came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoMessage {
    /// None was sent, or it is late.
    Silent,
    /// None will come.
    Lost,
}

impl Watched {
    pub(super) fn new(subscriber: Subscriber, client: &Arc<Client>) -> Self {
        let statistics = client.statistics();
        let connects = statistics.connects.load(Ordering::Relaxed);
        Watched { subscriber, client: client.clone(), statistics, connects }
    }

    /// The next message, waited for so long.
    pub(super) async fn next(&mut self, patience: Duration) -> Result<Message, NoMessage> {
        // Without a timer while there is something to read: most messages come from here.
        if let Some(message) = self.subscriber.next().now_or_never() {
            return message.ok_or(NoMessage::Lost);
        }
        let silent = Instant::now() + patience;
        loop {
            let look = silent.min(Instant::now() + LOOK_EVERY);
            if let Ok(message) = timeout_at(look, self.subscriber.next()).await {
                return message.ok_or(NoMessage::Lost);
            }
            let connects = self.statistics.connects.load(Ordering::Relaxed);
            if connects != self.connects || self.client.connection_state() != State::Connected {
                return Err(NoMessage::Lost);
            }
            if Instant::now() >= silent {
                return Err(NoMessage::Silent);
            }
        }
    }
}
