//! The shipped nginx in front of real gateways: nothing on the way waits for more.

use std::time::Duration;

use foghorn_tests::foghorn::Foghorn;
use foghorn_tests::http::post;
use foghorn_tests::nginx::Nginx;
use foghorn_tests::port::Port;
use foghorn_tests::sse::SseClient;
use serde_json::json;
use tokio::sync::Notify;
use tokio::time::{Instant, interval, timeout, timeout_at};

use crate::deployment::{Deployment, Shape};

const EVENTS: usize = 20;
const APART: Duration = Duration::from_millis(200);
/// How much later than the direct connection the one through the proxy may hear an event.
pub(crate) const LATE_MAX: Duration = Duration::from_millis(100);

/// How much later each event came through the proxy than directly. Events that don't come while the test
/// publishes count as late by all the time that was left.
pub(crate) async fn lateness(d: &Deployment, through: &str) -> Vec<Duration> {
    let channel = d.name("proxied");
    let path = format!("/api/events?channels={channel}");
    let direct = d.listen(&format!("channels={channel}"), None).await.stream;
    let end = Instant::now() + APART * (EVENTS as u32 + 15);
    let connected = Notify::new();
    let proxied = async {
        // A proxy that buffers may hold back even the head.
        match timeout_at(end, SseClient::connect(&format!("{through}{path}"), &[])).await {
            Ok(stream) => {
                connected.notify_one();
                arrivals(stream.unwrap(), end).await
            }
            Err(_) => vec![end; EVENTS],
        }
    };
    let publishing = async {
        // A stream begins with what comes from then on; one that is held back can't be waited for.
        drop(timeout(Duration::from_secs(1), connected.notified()).await);
        let mut ticks = interval(APART);
        for number in 0..EVENTS {
            ticks.tick().await;
            d.publish(json!({ "channel": channel, "data": number.to_string() })).await;
        }
    };
    let (_, direct, proxied) = tokio::join!(publishing, arrivals(direct, end), proxied);
    proxied.into_iter().zip(direct).map(|(late, early)| late.saturating_duration_since(early)).collect()
}

/// When each event came; the end of the wait for those that did not.
async fn arrivals(mut stream: SseClient, end: Instant) -> Vec<Instant> {
    let mut times = Vec::new();
    while times.len() < EVENTS {
        match stream.next_within(end.saturating_duration_since(Instant::now())).await {
            Ok(block) if block.event_type() == "message" && block.is_event() => times.push(Instant::now()),
            Ok(_) => {}
            // The rest never comes, also where the stream broke off.
            Err(_) => times.resize(EVENTS, end),
        }
    }
    times
}

#[tokio::test(flavor = "multi_thread")]
async fn publishing_and_listening_go_through_the_shipped_nginx() {
    let d = Deployment::standalone(1).await;
    let Shape::Standalone(process) = &d.shape else { unreachable!("standalone was asked for") };
    let nginx = Nginx::foghorn(&[process.http()], &[process.http()]).await;
    let mut stream = SseClient::connect(&nginx.url("/api/events/through"), &[]).await.unwrap();
    assert_eq!(stream.next().await.event_type(), "connected");
    let reply = post(&nginx.url("/api/publish"), &json!({ "channel": "through", "data": "x" })).await;
    assert_eq!(reply.unwrap().status, 200);
    let heard =
        stream.collect_until(foghorn_tests::PATIENCE, |block| block.data.as_deref() == Some("x")).await;
    assert_eq!(heard.last().unwrap().event_type(), "message");
}

/// What waits for NATS is passed over: were it to take connections, a proxy that prefers whoever has the
/// fewest would send it every new one.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_waits_for_nats_keeps_nothing_from_one_that_is_ready() {
    let d = Deployment::cluster(1).await;
    let Shape::Cluster(cluster) = &d.shape else { unreachable!("a cluster was asked for") };
    let nowhere = Port::lease();
    let nats = format!("nats://{}", nowhere.address());
    let [gateway, fanout] = [Port::lease(), Port::lease()].map(|port| (port.address().to_string(), port));
    let more = ["--admin", "127.0.0.1:0", "--nats", &nats, "--listen"];
    let waiting = [
        Foghorn::spawn_waiting(&[&["gateway"][..], &more, &[gateway.0.as_str()]].concat(), &[]).await,
        Foghorn::spawn_waiting(
            &[&["fanout", "--grpc", "127.0.0.1:0"][..], &more, &[fanout.0.as_str()]].concat(),
            &[],
        )
        .await,
    ];
    let nginx =
        Nginx::foghorn(&[&gateway.0, cluster.gateways[0].http()], &[&fanout.0, cluster.fanouts[0].http()])
            .await;
    let mut streams = Vec::new();
    for number in 0..6 {
        let mut stream = SseClient::connect(&nginx.url("/api/events/ready"), &[]).await.unwrap();
        assert_eq!((stream.status(), stream.next().await.event_type()), (200, "connected"), "{number}");
        streams.push(stream);
        let event = json!({ "channel": "ready", "data": number.to_string() });
        let reply = post(&nginx.url("/api/publish"), &event).await.unwrap();
        assert_eq!(reply.status, 200, "{number}: {}", reply.body);
    }
    for process in waiting {
        let ready = foghorn_tests::http::get(&format!("http://{}/readyz", process.admin())).await.unwrap();
        assert!(ready.body["waiting_for"]["nats"].is_string(), "{}", ready.body);
    }
}
