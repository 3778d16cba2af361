//! A thousand browsers behind the shipped nginx: a gateway that is told to stop, and an nginx that takes every
//! connection down with it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use foghorn_tests::PATIENCE;
use foghorn_tests::http::{get, post};
use foghorn_tests::nginx::Nginx;
use foghorn_tests::sse::{Block, SseClient};
use foghorn_tests::wait::until;
use nix::sys::signal::Signal;
use parking_lot::Mutex;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::{RECOVERY, total};
use crate::deployment::Cluster;

pub(super) const CLIENTS: usize = 1000;
/// How many a rolling restart has: as many by default; 10,000 is what a machine of its own bears.
const MANY: &str = "FOGHORN_TEST_CLIENTS";
/// Over which a gateway lets its clients go.
pub(super) const WINDOW: Duration = Duration::from_secs(5);
/// Clients that a gateway lets go in a second, where there are many.
const PACE: usize = 250;

const SECOND: Duration = Duration::from_secs(1);

/// How many clients there are where there may be many, and over what a gateway with half of them lets them go.
pub(super) fn many() -> (usize, Duration) {
    let many = std::env::var(MANY).map_or(CLIENTS, |text| text.parse().unwrap());
    (many, WINDOW.max(Duration::from_secs((many / 2 / PACE) as u64)))
}

/// The most of these that are within a second.
pub(super) fn most_within_a_second(mut ends: Vec<Instant>) -> usize {
    ends.sort_unstable();
    let within = |from: &Instant| ends.iter().filter(|end| (*from..*from + SECOND).contains(*end)).count();
    ends.iter().step_by(10).map(within).max().unwrap_or(0)
}

/// What a client went through.
#[derive(Debug, Default)]
pub(super) struct Client {
    heard: Vec<usize>,
    /// When each stream but the last ended.
    pub(super) ends: Vec<Instant>,
    resets: usize,
}

/// Clients as browsers are: they come back after what `retry:` said, with their last cursor.
pub(super) struct Crowd {
    live: Arc<AtomicUsize>,
    over: Arc<AtomicBool>,
    clients: Vec<Arc<Mutex<Client>>>,
    tasks: JoinSet<()>,
}

impl Crowd {
    /// All of them, live.
    pub(super) async fn gather(url: &str, clients: usize) -> Self {
        let (live, over) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let mut crowd = Crowd { live, over, clients: Vec::new(), tasks: JoinSet::new() };
        for _ in 0..clients {
            let client = Arc::new(Mutex::new(Client::default()));
            crowd.clients.push(client.clone());
            crowd.tasks.spawn(visit(url.to_owned(), client, crowd.live.clone(), crowd.over.clone()));
        }
        crowd.complete().await;
        crowd
    }

    /// Waits until all of them are live.
    pub(super) async fn complete(&self) {
        until("all streams to be live", RECOVERY, async || {
            (self.live.load(Ordering::SeqCst) == self.clients.len()).then_some(())
        })
        .await;
    }

    /// Waits until each has so many events, and gives what they went through.
    pub(super) async fn heard(mut self, events: usize) -> Vec<Client> {
        until("everything to be heard", RECOVERY, async || {
            self.clients.iter().all(|client| client.lock().heard.len() >= events).then_some(())
        })
        .await;
        self.over.store(true, Ordering::SeqCst);
        self.tasks.shutdown().await;
        let clients: Vec<Client> =
            self.clients.iter().map(|client| std::mem::take(&mut *client.lock())).collect();
        let all: Vec<usize> = (0..events).collect();
        for (number, client) in clients.iter().enumerate() {
            assert_eq!(client.heard, all, "client {number}: {client:?}");
            assert_eq!(client.resets, 0, "client {number}");
        }
        clients
    }
}

async fn visit(url: String, client: Arc<Mutex<Client>>, live: Arc<AtomicUsize>, over: Arc<AtomicBool>) {
    let (mut cursor, mut retry) = (String::new(), Duration::from_secs(3));
    while !over.load(Ordering::SeqCst) {
        let headers: Vec<(&str, &str)> =
            Some(("Last-Event-ID", &*cursor)).filter(|_| !cursor.is_empty()).into_iter().collect();
        if let Ok(mut stream) = SseClient::connect(&url, &headers).await {
            // Anything else stops a browser for ever.
            assert_eq!(stream.status(), 200);
            let mut was_live = false;
            while let Ok(block) = stream.next_within(Duration::from_secs(60)).await {
                stream.last_event_id().clone_into(&mut cursor);
                retry = block.retry.map_or(retry, Duration::from_millis);
                take(&client, &block);
                if block.event_type() == "stream-live" && !std::mem::replace(&mut was_live, true) {
                    live.fetch_add(1, Ordering::SeqCst);
                }
            }
            if was_live {
                live.fetch_sub(1, Ordering::SeqCst);
                client.lock().ends.push(Instant::now());
            }
        }
        sleep(retry).await;
    }
}

fn take(client: &Mutex<Client>, block: &Block) {
    match block.event_type() {
        "message" if block.is_event() => {
            client.lock().heard.push(block.data.as_deref().unwrap().parse().unwrap());
        }
        "stream-reset" => client.lock().resets += 1,
        _ => {}
    }
}

/// Two of each service on one NATS server, and nginx.
async fn start(configuration: &str) -> (Cluster, Nginx, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("foghorn.toml");
    std::fs::write(&config, configuration).unwrap();
    let cluster = Cluster::start(1, &config.display().to_string()).await;
    cluster.ready().await;
    let gateways: Vec<&str> = cluster.gateways.iter().map(|gateway| gateway.http()).collect();
    let nginx = Nginx::foghorn(&gateways, &[]).await;
    (cluster, nginx, folder)
}

pub(super) async fn publish(cluster: &Cluster, numbers: std::ops::Range<usize>) {
    for number in numbers {
        let event = json!({ "channel": "crowd", "data": number.to_string() });
        let reply = post(&cluster.fanouts[0].url("/api/publish"), &event).await.unwrap();
        assert_eq!(reply.status, 200, "{}", reply.body);
        sleep(Duration::from_millis(300)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_is_told_to_stop_lets_its_clients_go_one_after_the_other() {
    let (cluster, nginx, _folder) = start("").await;
    let crowd = Crowd::gather(&nginx.url("/api/events/crowd"), CLIENTS).await;
    publish(&cluster, 0..3).await;
    cluster.gateways[0].sigterm();
    let told = Instant::now();
    publish(&cluster, 3..20).await;
    assert!(cluster.gateways[0].wait(PATIENCE).await.success());
    publish(&cluster, 20..25).await;
    let clients = crowd.heard(25).await;
    let mut moved = 0;
    let mut fifths = [0; 5];
    for client in &clients {
        assert!(client.ends.len() <= 1, "a client came back {} times", client.ends.len());
        if let Some(end) = client.ends.first() {
            moved += 1;
            let fifth = (*end - told).as_millis() * 5 / WINDOW.as_millis();
            fifths[usize::try_from(fifth).unwrap().min(4)] += 1;
        }
    }
    // The proxy gave each gateway about half of them, and in no fifth of the window goes more than twice its share.
    assert!((CLIENTS * 2 / 5..=CLIENTS * 3 / 5).contains(&moved), "{moved} had to move");
    assert!(fifths.iter().all(|gone| *gone > 0 && *gone * 5 <= moved * 2), "{fifths:?} of {moved}");
}

/// The promise of a deploy: nothing lost, nothing twice, at a pace, and PostgreSQL notices nothing. A client may be moved
/// as often as there are gateways, as the one that it comes to may be the next.
#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_of_all_gateways_behind_nginx_that_reloads_keeps_its_pace_and_asks_postgres_for_nothing()
 {
    let (many, window) = many();
    let configuration = format!("[gateway]\ndrain_window = \"{}s\"\n", window.as_secs());
    let (mut cluster, nginx, _folder) = start(&configuration).await;
    let crowd = Crowd::gather(&nginx.url("/api/events/crowd"), many).await;
    publish(&cluster, 0..5).await;
    let before = asked(&cluster).await;
    // Its old workers go on with the streams that they have.
    nginx.process().signal(Signal::SIGHUP);
    publish(&cluster, 5..10).await;
    let mut published = 10;
    for number in 0..cluster.gateways.len() {
        cluster.gateways[number].sigterm();
        let told = Instant::now();
        while cluster.gateways[number].process().status().is_none() {
            assert!(told.elapsed() < window + PATIENCE, "it doesn't end");
            publish(&cluster, published..published + 1).await;
            published += 1;
        }
        cluster.gateways[number].restart().await;
        cluster.ready().await;
        crowd.complete().await;
    }
    publish(&cluster, published..published + 5).await;
    let gateways = cluster.gateways.len();
    let after = asked(&cluster).await;
    let clients = crowd.heard(published + 5).await;
    assert!(clients.iter().all(|client| client.ends.len() <= gateways), "somebody was moved again and again");
    let ends: Vec<Instant> = clients.iter().flat_map(|client| client.ends.iter().copied()).collect();
    assert!(ends.len() >= many, "every gateway was restarted, and each client was at one: {}", ends.len());
    // Evenly is a gateway's own clients over its window; the second may have had all of them.
    let even = many / usize::try_from(window.as_secs()).unwrap();
    let most = most_within_a_second(ends);
    assert!(most <= even * 2, "{most} came back within a second, where {even} are even");
    // What each new gateway fills its ring with, and a gap of a ring.
    assert!(after - before <= 20.0, "{} pages were read from the log", after - before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_clients_that_come_back_is_served_from_the_rings() {
    let (cluster, mut nginx, _folder) = start("").await;
    let crowd = Crowd::gather(&nginx.url("/api/events/crowd"), CLIENTS).await;
    publish(&cluster, 0..5).await;
    let before = asked(&cluster).await;
    nginx.kill();
    publish(&cluster, 5..10).await;
    nginx.restart().await;
    crowd.complete().await;
    publish(&cluster, 10..12).await;
    let clients = crowd.heard(12).await;
    assert!(clients.iter().all(|client| client.ends.len() == 1), "everybody lost its stream once");
    let after = asked(&cluster).await;
    // A ring may have had a gap to fill; a thousand clients that ask would be a thousand.
    assert!(after - before <= 10.0, "{} pages were read from the log for {CLIENTS} clients", after - before);
    let ring = total(&cluster.gateways, "foghorn_gateway_replayed_events_total").await;
    assert!(ring >= 4.0 * CLIENTS as f64, "they had something to catch up with: {ring}");
}

/// Pages that the event logs read from wherever.
pub(super) async fn asked(cluster: &Cluster) -> f64 {
    let mut pages = 0.0;
    for log in &cluster.eventlogs {
        assert_eq!(get(&format!("http://{}/readyz", log.admin())).await.unwrap().status, 200);
        pages += total(std::slice::from_ref(log), "foghorn_log_pages_total").await;
    }
    pages
}
