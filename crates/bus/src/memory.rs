//! The ports within one process: standalone, and tests of services.

mod announce;
mod gateways;
mod statuses;
mod subscriptions;
mod tickets;

use std::collections::HashMap;
use std::sync::Arc;

use futures::FutureExt;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use foghorn_core::batch::Batch;
use foghorn_core::shard::{Shard, ShardCount};

use crate::Future;
use crate::lease::{EXPIRES_AFTER, Lease, LeaseLost, Leases, next_term};
use crate::live::{LiveError, LiveFeed, LiveSubscription};
use crate::metrics::Metrics;
use crate::queue::{self, NotTaken};

pub use self::announce::Mute;
pub use self::gateways::Alone;
pub use self::statuses::MemoryStatuses;
pub use self::subscriptions::MemorySubscriptions;
pub use self::tickets::MemoryTickets;

/// The most bytes of a batch: what it would be over NATS, so that both feeds cut alike.
const BATCH_BYTES: usize = 1024 * 1024 - 1024;

/// The live feed within one process. Batches are shared, never encoded.
#[derive(Debug)]
pub struct MemoryLive {
    subscribers: Vec<Mutex<Vec<queue::Sender<Arc<Batch>>>>>,
    queue_bytes: usize,
    metrics: Metrics,
}

#[derive(Debug)]
struct MemorySubscription(queue::Receiver<Arc<Batch>>);

impl MemoryLive {
    /// A feed of `shards` shards whose subscriptions hold at most `queue_bytes` bytes of batches each,
    /// as they would be on the wire. A batch that doesn't fit is dropped for that subscription and counted.
    pub fn new(shards: ShardCount, queue_bytes: usize, metrics: Metrics) -> Self {
        let subscribers = shards.shards().map(|_| Mutex::default()).collect();
        MemoryLive { subscribers, queue_bytes, metrics }
    }

    fn of(&self, shard: Shard) -> Result<&Mutex<Vec<queue::Sender<Arc<Batch>>>>, LiveError> {
        let count = self.subscribers.len();
        self.subscribers.get(shard.index()).ok_or_else(|| LiveError(format!("shard {shard} of {count}")))
    }
}

impl LiveFeed for MemoryLive {
    fn send(&self, batch: Arc<Batch>) -> Future<'_, Result<(), LiveError>> {
        let bytes = batch.wire_len();
        let sent = self.of(batch.shard).map(|subscribers| {
            subscribers.lock().retain(|queue| match queue.offer(batch.clone(), bytes) {
                Ok(()) => true,
                Err(NotTaken::Full) => {
                    self.metrics.live_dropped.inc();
                    true
                }
                Err(NotTaken::Closed) => false,
            });
        });
        futures::future::ready(sent).boxed()
    }

    fn batch_bytes(&self) -> usize {
        BATCH_BYTES
    }

    fn subscribe(&self, shard: Shard) -> Future<'_, Result<Box<dyn LiveSubscription>, LiveError>> {
        let subscribed = self.of(shard).map(|subscribers| {
            let (sender, receiver) = queue::bounded(self.queue_bytes);
            subscribers.lock().push(sender);
            Box::new(MemorySubscription(receiver)) as Box<dyn LiveSubscription>
        });
        futures::future::ready(subscribed).boxed()
    }
}

impl LiveSubscription for MemorySubscription {
    fn next(&mut self) -> Future<'_, Option<Arc<Batch>>> {
        self.0.next().boxed()
    }
}

/// Leases within one process: one holder at a time.
#[derive(Debug, Clone, Default)]
pub struct MemoryLeases(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    held: Mutex<HashMap<String, Held>>,
    released: Notify,
}

#[derive(Debug, Default)]
struct Held {
    /// Of the last holder; 0 before the first.
    term: u64,
    note: u64,
    /// When it was last renewed; none when it was given up.
    renewed: Option<Instant>,
}

#[derive(Debug)]
struct MemoryLease {
    shared: Arc<Shared>,
    name: String,
    term: u64,
    inherited: u64,
}

impl MemoryLeases {
    /// No leases held.
    pub fn new() -> Self {
        MemoryLeases::default()
    }
}

impl Leases for MemoryLeases {
    fn acquire(&self, name: String) -> Future<'_, Box<dyn Lease>> {
        async move {
            loop {
                // Before looking, so that a release in between wakes us.
                let released = self.0.released.notified();
                let expires = {
                    let mut held = self.0.held.lock();
                    let held = held.entry(name.clone()).or_default();
                    match held.renewed.map(|renewed| renewed + EXPIRES_AFTER) {
                        Some(expires) if expires > Instant::now() => expires,
                        _ => {
                            held.term = next_term(held.term);
                            held.renewed = Some(Instant::now());
                            let lease = MemoryLease {
                                shared: self.0.clone(),
                                name,
                                term: held.term,
                                inherited: held.note,
                            };
                            return Box::new(lease) as Box<dyn Lease>;
                        }
                    }
                };
                // Whichever comes first is only a reason to look again.
                drop(tokio::time::timeout_at(expires, released).await);
            }
        }
        .boxed()
    }
}

impl Lease for MemoryLease {
    fn term(&self) -> u64 {
        self.term
    }

    fn inherited(&self) -> u64 {
        self.inherited
    }

    fn renew(&mut self, note: u64) -> Future<'_, Result<(), LeaseLost>> {
        let mut held = self.shared.held.lock();
        let held = held.entry(self.name.clone()).or_default();
        let renewed = if held.term == self.term {
            held.note = note;
            held.renewed = Some(Instant::now());
            Ok(())
        } else {
            Err(LeaseLost(format!("{} is held in term {}, ours was {}", self.name, held.term, self.term)))
        };
        futures::future::ready(renewed).boxed()
    }

    fn release(self: Box<Self>) -> Future<'static, ()> {
        let mut held = self.shared.held.lock();
        if let Some(held) = held.get_mut(&self.name).filter(|held| held.term == self.term) {
            held.renewed = None;
        }
        drop(held);
        self.shared.released.notify_waiters();
        futures::future::ready(()).boxed()
    }
}
