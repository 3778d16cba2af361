//! The live feed: core NATS, at most once. What one connection is sent arrives in order, late, or not at all.

use std::collections::VecDeque;
use std::sync::Arc;

use foghorn_bus::Future;
use foghorn_bus::live::{LiveError, LiveFeed, LiveSubscription};
use foghorn_core::batch::Batch;
use foghorn_core::position::Digest;
use foghorn_core::shard::Shard;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};

use crate::mutant::Mutant;
use crate::process::Process;
use crate::world::World;

/// Bytes that wait for a gateway to take them: few, so that they overflow.
const QUEUE_BYTES: usize = 16 * 1024;

/// All subscriptions.
#[derive(Debug, Default)]
pub struct Subjects(Mutex<Vec<(Shard, Arc<Queue>)>>);

#[derive(Debug)]
struct Queue {
    process: Arc<Process>,
    waiting: Mutex<Waiting>,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    batches: VecDeque<(Instant, Arc<Batch>)>,
    bytes: usize,
    last: Option<Instant>,
    closed: bool,
}

/// The feed as a process has it.
pub struct SimLive {
    world: Arc<World>,
    process: Arc<Process>,
    subjects: Arc<Subjects>,
}

struct Subscription {
    shard: Shard,
    queue: Arc<Queue>,
    reconnects: u64,
}

impl SimLive {
    /// The feed of a process.
    pub fn new(process: &Arc<Process>, subjects: &Arc<Subjects>) -> Self {
        SimLive { world: process.world.clone(), process: process.clone(), subjects: subjects.clone() }
    }

    async fn send_now(&self, batch: Arc<Batch>) -> Result<(), LiveError> {
        if self.process.flags().no_nats {
            sleep(self.world.millis(1..50)).await;
            return Err(LiveError("no connection to NATS".to_owned()));
        }
        // Decoded as it was encoded: that is all that arrives.
        let batch =
            Batch::decode(batch.encode(), self.world.shards).map_err(|error| LiveError(error.to_string()))?;
        let batch = Arc::new(self.mutated(batch));
        if self.world.is(Mutant::BeaconsOff) && batch.from == batch.to {
            return Ok(());
        }
        let weather = self.world.weather();
        let bare = Arc::new(bare(&batch));
        self.subjects.0.lock().retain(|(_, queue)| !queue.is_over());
        for (shard, queue) in self.subjects.0.lock().iter() {
            if *shard != batch.shard || self.world.chance(weather.live_loss) {
                continue;
            }
            let batch = if self.world.chance(weather.live_bare) { &bare } else { &batch };
            queue.offer(batch, &self.world);
            if self.world.chance(weather.live_double) {
                queue.offer(batch, &self.world);
            }
        }
        // The client's own queue: others get their turn.
        tokio::task::yield_now().await;
        Ok(())
    }

    fn mutated(&self, mut batch: Batch) -> Batch {
        if self.world.is(Mutant::RelaySkips) && self.world.chance(0.2) && batch.events.len() > 1 {
            batch.events.remove(0);
        } else if self.world.is(Mutant::RelaySkips) && self.world.chance(0.05) {
            batch.events.clear();
        }
        if self.world.is(Mutant::GapsHidden) {
            batch.from = 0;
        }
        if self.world.is(Mutant::TtlForgotten) {
            batch.events.iter_mut().for_each(|event| event.ttl = None);
        }
        if self.world.is(Mutant::GatewaysDontCompare) {
            return bare(&batch);
        }
        batch
    }
}

/// As it is sent where a relay knows no digests.
fn bare(batch: &Batch) -> Batch {
    Batch { from_digest: Digest::NONE, to_digest: Digest::NONE, ..batch.clone() }
}

impl LiveFeed for SimLive {
    fn send(&self, batch: Arc<Batch>) -> Future<'_, Result<(), LiveError>> {
        Box::pin(self.send_now(batch))
    }

    fn batch_bytes(&self) -> usize {
        // So that some are full.
        1024
    }

    fn subscribe(&self, shard: Shard) -> Future<'_, Result<Box<dyn LiveSubscription>, LiveError>> {
        Box::pin(async move {
            self.process.hop_to_nats().await.map_err(LiveError)?;
            let queue = Arc::new(Queue {
                process: self.process.clone(),
                waiting: Mutex::default(),
                arrived: Notify::new(),
            });
            self.subjects.0.lock().push((shard, queue.clone()));
            self.process.heard(shard, None);
            self.process.hop_to_nats().await.map_err(LiveError)?;
            let reconnects = self.process.flags().reconnects;
            Ok(Box::new(Subscription { shard, queue, reconnects }) as Box<dyn LiveSubscription>)
        })
    }
}

impl Queue {
    fn is_over(&self) -> bool {
        self.process.flags().killed || self.waiting.lock().closed
    }

    fn offer(&self, batch: &Arc<Batch>, world: &World) {
        // Cut off, it is sent nothing: core NATS keeps nothing for anybody.
        if self.process.flags().no_nats {
            return;
        }
        let mut waiting = self.waiting.lock();
        let bytes = batch.wire_len();
        if waiting.bytes + bytes > QUEUE_BYTES {
            return;
        }
        let mut due = Instant::now() + world.latency();
        if let Some(last) = waiting.last {
            due = due.max(last);
        }
        waiting.last = Some(due);
        waiting.bytes += bytes;
        waiting.batches.push_back((due, batch.clone()));
        drop(waiting);
        self.arrived.notify_one();
    }
}

impl Subscription {
    async fn take(&mut self) -> Option<Arc<Batch>> {
        loop {
            let flags = self.queue.process.flags();
            if flags.reconnects != self.reconnects {
                self.reconnects = flags.reconnects;
                let mut waiting = self.queue.waiting.lock();
                // A client that reconnects has lost what was on its way; one that died has lost its subscription.
                (waiting.batches, waiting.bytes) = (VecDeque::new(), 0);
                if flags.reconnects.is_multiple_of(2) {
                    waiting.closed = true;
                    return None;
                }
            }
            if flags.stopped {
                self.queue.process.until(|flags| !flags.stopped).await;
                continue;
            }
            let arrived = self.queue.arrived.notified();
            let due = self.queue.waiting.lock().batches.front().map(|(due, _)| *due);
            match due {
                Some(due) if due <= Instant::now() => {
                    let mut waiting = self.queue.waiting.lock();
                    let (_, batch) = waiting.batches.pop_front()?;
                    waiting.bytes -= batch.wire_len();
                    self.queue.process.heard(self.shard, Some(&batch));
                    return Some(batch);
                }
                Some(due) => sleep_until(due).await,
                None => {
                    let reconnects = self.reconnects;
                    tokio::select! {
                        biased;
                        () = arrived => {}
                        () = self.queue.process.until(|flags| flags.reconnects != reconnects) => {}
                    }
                }
            }
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.queue.waiting.lock().closed = true;
    }
}

impl LiveSubscription for Subscription {
    fn next(&mut self) -> Future<'_, Option<Arc<Batch>>> {
        Box::pin(self.take())
    }
}
