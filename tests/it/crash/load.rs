//! Publishers and listeners that never give up, and the oracle that compares what they saw.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use foghorn_tests::http::post;
use foghorn_tests::sse::SseClient;
use foghorn_tests::wait::until;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::deployment::Cluster;

const PUBLISHERS: usize = 4;
const LISTENERS: usize = 6;
/// How long a part may take to be back, on a busy machine.
const RECOVERY: Duration = Duration::from_secs(60);
/// How long listeners have for what is left when everything is published; what is not there then is missing.
const LAST_WAIT: Duration = Duration::from_secs(30);

/// The number of each channel's last event, after which its listener has heard all there is.
const LAST: usize = usize::MAX;

/// Where an acked event is: shard, epoch, seq.
type At = (u64, u64, u64);
/// Channel and number within it.
type Name = (usize, usize);

/// Load on a cluster.
pub(crate) struct Load {
    acked: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    publishers: Vec<JoinHandle<HashMap<Name, At>>>,
    listeners: Vec<JoinHandle<Vec<Name>>>,
    fanouts: Vec<String>,
    /// Turns true once everything is published.
    published: watch::Sender<bool>,
}

impl Load {
    /// Listeners first, so that each hears everything.
    pub(crate) fn start(cluster: &Cluster) -> Self {
        let (acked, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (published, _) = watch::channel(false);
        let (begun, listening) = (Arc::new(AtomicUsize::new(0)), LISTENERS);
        let gateways: Vec<String> = cluster.gateways.iter().map(|g| g.http().to_owned()).collect();
        let listeners = (0..LISTENERS)
            .map(|turn| tokio::spawn(listen(gateways.clone(), turn, begun.clone(), published.subscribe())))
            .collect();
        let fanouts: Vec<String> = cluster.fanouts.iter().map(|f| f.url("/api/publish")).collect();
        let publishers = (0..PUBLISHERS)
            .map(|channel| {
                let (fanouts, acked, stop, begun) =
                    (fanouts.clone(), acked.clone(), stop.clone(), begun.clone());
                tokio::spawn(async move {
                    let mut patience = Patience::new("all listeners to be live");
                    while begun.load(Ordering::SeqCst) < listening {
                        patience.step().await;
                    }
                    publish(fanouts, channel, acked, stop).await
                })
            })
            .collect();
        Load { acked, stop, publishers, listeners, fanouts, published }
    }

    /// Waits until so many more events are acked: the proof that publishing goes on.
    pub(crate) async fn acked(&self, more: usize) {
        let goal = self.acked.load(Ordering::SeqCst) + more;
        until(&format!("{more} more acks"), RECOVERY, async || {
            (self.acked.load(Ordering::SeqCst) >= goal).then_some(())
        })
        .await;
    }

    /// Ends the load and judges what was heard.
    pub(crate) async fn finish(self, cluster: &Cluster) {
        self.stop.store(true, Ordering::SeqCst);
        let mut acked: HashMap<Name, At> = HashMap::new();
        for publisher in self.publishers {
            acked.extend(publisher.await.unwrap());
        }
        cluster.ready().await;
        // Listeners go on to here, so what comes twice is heard twice, however late the second time.
        for channel in 0..PUBLISHERS {
            acked.insert((channel, LAST), ack(&self.fanouts, channel, (channel, LAST)).await);
        }
        self.published.send_replace(true);
        for (turn, listener) in self.listeners.into_iter().enumerate() {
            let heard = listener.await.unwrap();
            judge(turn, &acked, &heard);
        }
    }
}

/// Acked ⊆ heard, nothing twice, in shard order.
fn judge(listener: usize, acked: &HashMap<Name, At>, heard: &[Name]) {
    let mut times: HashMap<Name, usize> = HashMap::new();
    for name in heard {
        *times.entry(*name).or_default() += 1;
    }
    let mut missing: Vec<_> = acked.iter().filter(|(name, _)| !times.contains_key(name)).collect();
    missing.sort();
    assert!(
        missing.is_empty(),
        "listener {listener}: {} of {} missing: {:?}",
        missing.len(),
        acked.len(),
        &missing[..missing.len().min(10)]
    );
    let doubled: Vec<_> = times.iter().filter(|(_, times)| **times > 1).collect();
    assert!(doubled.is_empty(), "listener {listener}: {} heard more than once: {doubled:?}", doubled.len());
    let mut last: HashMap<u64, (At, Name)> = HashMap::new();
    for name in heard {
        let at = acked[name];
        if let Some((before, which)) = last.insert(at.0, (at, *name)) {
            assert!(
                before < at,
                "listener {listener}: {name:?} at {at:?} came after {which:?} at {before:?}"
            );
        }
    }
}

/// Asking again and again, but not for ever.
struct Patience {
    what: String,
    until: Instant,
}

impl Patience {
    fn new(what: &str) -> Self {
        Patience { what: what.to_owned(), until: Instant::now() + RECOVERY }
    }

    async fn step(&mut self) {
        assert!(Instant::now() < self.until, "{}: not within {RECOVERY:?}", self.what);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// One channel's publisher: an event at a time, the same id until it is acked.
async fn publish(
    fanouts: Vec<String>,
    channel: usize,
    acked: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
) -> HashMap<Name, At> {
    let mut positions = HashMap::new();
    let mut number = 0;
    while !stop.load(Ordering::SeqCst) {
        positions.insert((channel, number), ack(&fanouts, channel, (channel, number)).await);
        acked.fetch_add(1, Ordering::SeqCst);
        number += 1;
    }
    positions
}

/// Publishes one event until it is acked: at the fan-out whose turn it is, then at the others.
async fn ack(fanouts: &[String], mut turn: usize, (channel, number): Name) -> At {
    let id = format!("{channel}-{number}");
    let event = json!({ "channel": format!("crash.{channel}"), "id": id, "data": number.to_string() });
    let mut patience = Patience::new(&format!("an ack for {id}"));
    let at = loop {
        match post(&fanouts[turn % fanouts.len()], &event).await {
            Ok(reply) if reply.status == 200 => break reply.body["position"].clone(),
            Ok(reply) => assert_eq!(reply.status, 503, "{}", reply.body),
            Err(_) => {}
        }
        turn += 1;
        patience.step().await;
    };
    let part = |name: &str| at[name].as_u64().unwrap();
    (part("shard"), part("epoch"), part("seq"))
}

/// One listener: reconnects with its cursor, to another gateway each time, until it has heard the last event
/// of every channel.
async fn listen(
    gateways: Vec<String>,
    mut turn: usize,
    begun: Arc<AtomicUsize>,
    mut published: watch::Receiver<bool>,
) -> Vec<Name> {
    let mut heard = Vec::new();
    let mut cursor: Option<String> = None;
    let mut live_once = false;
    let mut give_up: Option<Instant> = None;
    loop {
        turn += 1;
        let url =
            format!("http://{}/api/events?channels=crash.*&envelope=1", gateways[turn % gateways.len()]);
        let headers: Vec<(&str, &str)> =
            cursor.as_deref().map(|c| ("Last-Event-ID", c)).into_iter().collect();
        let Ok(mut stream) = SseClient::connect(&url, &headers).await else {
            assert!(give_up.is_none_or(|at| Instant::now() < at), "no gateway answers");
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        assert_eq!(stream.status(), 200);
        let ended = async {
            loop {
                if *published.borrow() && give_up.is_none() {
                    give_up = Some(Instant::now() + LAST_WAIT);
                }
                let limit = give_up.map_or(RECOVERY, |at| at.saturating_duration_since(Instant::now()));
                let block = tokio::select! {
                    block = stream.next_within(limit) => block,
                    _ = published.changed() => continue,
                };
                let Ok(block) = block else { return give_up.is_some_and(|at| Instant::now() >= at) };
                assert_ne!(block.event_type(), "stream-reset", "{block:?} after {} events", heard.len());
                if block.event_type() == "stream-live" && !std::mem::replace(&mut live_once, true) {
                    begun.fetch_add(1, Ordering::SeqCst);
                }
                if block.event_type() == "message" && block.is_event() {
                    let envelope = block.json();
                    let channel = envelope["channel"].as_str().unwrap().rsplit('.').next().unwrap();
                    heard.push((
                        channel.parse().unwrap(),
                        envelope["data"].as_str().unwrap().parse().unwrap(),
                    ));
                }
                if heard.iter().filter(|(_, number)| *number == LAST).count() >= PUBLISHERS {
                    return true;
                }
            }
        };
        let done = ended.await;
        if !stream.last_event_id().is_empty() {
            cursor = Some(stream.last_event_id().to_owned());
        }
        if done {
            return heard;
        }
    }
}
