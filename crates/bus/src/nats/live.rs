//! The live feed on core NATS: at most once.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::time::timeout;

use foghorn_core::batch::Batch;
use foghorn_core::shard::{Shard, ShardCount};

use super::api::Api;
use super::pump::Pumped;
use super::{Bus, stream};
use crate::Future;
use crate::backoff::Rarely;
use crate::live::{LiveError, LiveFeed, LiveSubscription};

/// The largest batch even where the server takes more: a batch is forwarded whole to every gateway.
const BATCH_BYTES_MAX: usize = 1 << 20;
/// Left for the protocol and for headers that a proxy might add.
const SLACK: usize = 1024;
/// How long a batch may wait for room in the client's queue. A later one would come too late anyway.
const SEND_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a subscription may take to be in place.
const SUBSCRIBE_TIMEOUT: Duration = Duration::from_secs(5);

/// The live feed of a cluster.
#[derive(Debug, Clone)]
pub struct NatsLive {
    bus: Bus,
    shards: ShardCount,
}

struct NatsSubscription {
    batches: Pumped,
    bus: Bus,
    shards: ShardCount,
    complained: Rarely,
}

impl NatsLive {
    pub(super) fn new(bus: Bus, shards: ShardCount) -> Self {
        NatsLive { bus, shards }
    }

    async fn send_now(&self, batch: &Batch) -> Result<(), LiveError> {
        // Or it would be sent after the reconnect, when gateways have what is in it from the log.
        let Some(client) = self.bus.0.main.connected_client() else {
            return Err(LiveError("no connection to NATS".to_owned()));
        };
        let bytes = batch.encode();
        if bytes.len() > self.batch_bytes() {
            let (is, most) = (bytes.len(), self.batch_bytes());
            return Err(LiveError(format!("a batch of {is} bytes is over the limit of {most}")));
        }
        // The client writes to the socket as soon as it has nothing more to add.
        let sending = client.publish(subject(batch.shard), bytes);
        match timeout(SEND_TIMEOUT, sending).await {
            Ok(sent) => sent.map_err(|error| LiveError(error.to_string())),
            Err(_) => Err(LiveError("the connection takes nothing".to_owned())),
        }
    }

    async fn subscribe_now(&self, shard: Shard) -> Result<Box<dyn LiveSubscription>, LiveError> {
        let failed = |error: &dyn std::fmt::Display| LiveError(error.to_string());
        let inner = &self.bus.0;
        let link = self.bus.live_link().await.map_err(|error| failed(&error))?;
        let client = link.live_client().await;
        let subscriber = client.subscribe(subject(shard)).await.map_err(|error| failed(&error))?;
        let dropped = inner.metrics.live_dropped.clone();
        let batches = Pumped::new(subscriber, inner.options.live_queue_bytes, dropped);
        // An answer from the stream's leader has come the way that batches come, over this connection, so
        // the subscription is known there. A flush reaches the next server only.
        stream::info(&Api::new(link.clone()), shard).await.map_err(|error| failed(&error))?;
        let (bus, shards) = (self.bus.clone(), self.shards);
        Ok(Box::new(NatsSubscription { batches, bus, shards, complained: Rarely::default() }))
    }
}

impl LiveFeed for NatsLive {
    fn send(&self, batch: Arc<Batch>) -> Future<'_, Result<(), LiveError>> {
        async move { self.send_now(&batch).await }.boxed()
    }

    fn batch_bytes(&self) -> usize {
        self.bus.0.main.max_payload().min(BATCH_BYTES_MAX).saturating_sub(SLACK)
    }

    fn subscribe(&self, shard: Shard) -> Future<'_, Result<Box<dyn LiveSubscription>, LiveError>> {
        async move {
            match timeout(SUBSCRIBE_TIMEOUT, self.subscribe_now(shard)).await {
                Ok(subscribed) => subscribed,
                Err(_) => Err(LiveError("the subscription got no answer in time".to_owned())),
            }
        }
        .boxed()
    }
}

impl LiveSubscription for NatsSubscription {
    fn next(&mut self) -> Future<'_, Option<Arc<Batch>>> {
        async move {
            loop {
                let message = self.batches.next().await?;
                match Batch::decode(message.payload, self.shards) {
                    Ok(batch) => return Some(Arc::new(batch)),
                    Err(error) => {
                        self.bus.0.metrics.live_undecodable.inc();
                        if self.complained.now() {
                            tracing::warn!(%error, subject = %message.subject, "dropped a live batch");
                        }
                    }
                }
            }
        }
        .boxed()
    }
}

fn subject(shard: Shard) -> String {
    format!("foghorn.live.{shard}")
}
