//! Publishers: each publishes on channels of its own, one event after the other, and tries again with the
//! same id until an event is acked.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use bytestring::ByteString;
use foghorn_auth::Caller;
use foghorn_core::event::Ttl;
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
            let seconds = if channel == "b.0" && world.chance(0.4) { world.one(&[1, 3, 3600]) } else { 0 };
            let event =
                ToPublish { channel, data: format!("{channel}#{count}"), ttl: Ttl::new(seconds).ok(), ack };
            publish_one(&cluster, &published, event).await;
        }
    }
}

/// An event to be published.
#[derive(Debug, Clone)]
pub struct ToPublish {
    /// On this channel.
    pub channel: &'static str,
    /// What tells it apart.
    pub data: String,
    /// How long it is owed, if not for ever.
    pub ttl: Option<Ttl>,
    /// What the ack is to say.
    pub ack: Ack,
}

/// Publishes an event, however long it takes.
pub async fn publish_one(cluster: &Cluster, published: &Published, event: ToPublish) {
    let world = &cluster.world;
    let ToPublish { channel, data, ttl, ack } = event;
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
            ttl,
            ack,
            traceparent: None,
        };
        let process = fanout.process.clone();
        // A publisher has a deadline too.
        let by = Caller::Unchecked.into();
        let answer = process.answers(async move { publisher.publish(Door::Http, &by, input).await });
        if let Ok(Some(Ok(acked))) = tokio::time::timeout(Duration::from_secs(12), answer).await {
            let durable = acked.durable == Some(true);
            if durable {
                check_durable(cluster, acked.position, channel, &data);
            }
            let acked = Acked { channel: channel.to_owned(), data, position: acked.position, durable };
            published.0.lock().push(acked);
            return;
        }
        sleep(world.millis(50..500)).await;
    }
}

/// What was just acked as durable is in the log, unless it is never kept, or had expired before it got there.
fn check_durable(cluster: &Cluster, position: Position, channel: &str, data: &str) {
    let shard = position.shard;
    let late = || cluster.tables.gone().iter().any(|(of, seq, _)| *of == shard && *seq >= position.seq);
    if !channel.starts_with("l.") && !cluster.tables.ever_held(shard, data) && !late() {
        cluster.world.wrong(
            "publisher",
            format!("{data} at {position} is acked as durable, and the log never had it"),
        );
    }
}
