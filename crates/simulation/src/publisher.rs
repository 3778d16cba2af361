//! Publishers: each publishes on channels of its own, one event after the other, and tries again with the
//! same id until an event is acked.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use bytestring::ByteString;
use foghorn_core::position::Position;
use foghorn_fanout::publish::{Ack, Door, PublishInput, Target};
use parking_lot::Mutex;
use tokio::time::sleep;

use crate::cluster::Cluster;

/// An event that was acked.
#[derive(Debug, Clone)]
pub struct Acked {
    /// On which channel.
    pub channel: String,
    /// What tells it apart.
    pub data: String,
    /// Where it was said to be.
    pub position: Position,
    /// Whether the log was said to have it.
    pub durable: bool,
}

/// What all publishers were told.
#[derive(Debug, Default)]
pub struct Published(Mutex<Vec<Acked>>);

impl Published {
    /// Everything that was acked, in order.
    pub fn acked(&self) -> Vec<Acked> {
        self.0.lock().clone()
    }
}

/// Publishes on these channels until it is dropped.
///
/// With `durable`, some wait until the log has them: one publisher's, for who is woken first of several that
/// wait for the log's head is not ours to say.
pub async fn publish(
    cluster: Arc<Cluster>,
    published: Arc<Published>,
    channels: Vec<&'static str>,
    durable: bool,
) {
    let world = cluster.world.clone();
    let pace = world.one(&[100_u64, 300, 900]);
    let mut count = 0_u64;
    loop {
        sleep(world.millis(1..2 * pace)).await;
        // In bursts, now and then.
        let burst = if world.chance(0.03) { world.pick(5..30) } else { 1 };
        for _ in 0..burst {
            count += 1;
            let channel = world.one(&channels);
            let ack = if durable && world.chance(0.2) { Ack::Durable } else { Ack::Accepted };
            publish_one(&cluster, &published, channel, format!("{channel}#{count}"), ack).await;
        }
    }
}

/// Publishes an event, however long it takes.
pub async fn publish_one(cluster: &Cluster, published: &Published, channel: &str, data: String, ack: Ack) {
    let world = &cluster.world;
    loop {
        let Some(fanout) = cluster.any_fanout(world) else {
            sleep(Duration::from_millis(50)).await;
            continue;
        };
        let publisher = fanout.publisher.clone();
        let input = PublishInput {
            target: Target::Channel(ByteString::from(channel.to_owned())),
            event: None,
            data: Bytes::from(data.clone()),
            id: Some(ByteString::from(data.clone())),
            ttl: None,
            ack,
            traceparent: None,
        };
        let process = fanout.process.clone();
        // A publisher has a deadline too.
        let answer = process.answers(async move { publisher.publish(Door::Http, input).await });
        if let Ok(Some(Ok(acked))) = tokio::time::timeout(Duration::from_secs(12), answer).await {
            let (channel, durable) = (channel.to_owned(), acked.durable == Some(true));
            let acked = Acked { channel, data, position: acked.position, durable };
            published.0.lock().push(acked);
            return;
        }
        sleep(world.millis(50..500)).await;
    }
}
