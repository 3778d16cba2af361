//! Many clients that come back at once: because their gateway was killed, or because it lost what it held.

use std::time::Duration;

use foghorn_tests::foghorn::Foghorn;
use foghorn_tests::http::metric;
use foghorn_tests::sse::SseClient;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::deployment::{Listener, wait_ready};
use crate::outages::stage::Stage;

/// How long a part may take, on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

/// What a statement has that reads events, whichever way it finds them.
const READS_EVENTS: &str = "SELECT e.";

/// How far the events are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
enum Stand {
    Begun,
    Published,
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_a_killed_gateway_are_caught_up_from_the_others_rings_and_postgres_is_not_asked() {
    const EVENTS: usize = 100;
    const CLIENTS: usize = 60;
    let mut stage = Stage::new("").await;
    let third = another_gateway(&stage).await;
    stage.cluster.postgres.log_statements().await;
    let urls =
        [&stage.cluster.gateways[0], &stage.cluster.gateways[1], &third].map(|gateway| gateway.url(""));
    let (tell, told) = watch::channel(Stand::Begun);
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        let query = ["channels=rings.a", "channels=rings.*", "channels=rings.a&batch=20"][number % 3];
        let gateways = [0, 1 + number % 2].map(|at| format!("{}/api/events?{query}", urls[at]));
        let first = Listener::open(&gateways[0], None).await;
        // Every other one is away for longer.
        let away = if number % 4 < 2 { Stand::Begun } else { Stand::Published };
        clients.push(hear(first.stream, gateways[1].clone(), EVENTS, told.clone(), away));
    }
    for number in 0..EVENTS {
        if number == EVENTS / 2 {
            stage.cluster.gateways[0].kill();
        }
        stage.publish("rings.a", &number.to_string()).await;
    }
    // In PostgreSQL they are now: whoever asked there would be answered.
    stage.logged().await;
    tell.send_replace(Stand::Published);
    for client in clients {
        assert_eq!(client.await.unwrap(), (0..EVENTS).collect::<Vec<_>>());
    }
    let replayed = async |source: &str| {
        let name = format!("foghorn_gateway_replayed_events_total{{source=\"{source}\"}}");
        metric(stage.cluster.gateways[1].admin(), &name).await + metric(third.admin(), &name).await
    };
    let rings = replayed("ring").await;
    assert!(rings >= (CLIENTS / 2 * EVENTS / 2) as f64, "{rings} events from rings");
    assert_eq!(replayed("log").await, 0.0, "events from the log");
    let pages = "foghorn_log_pages_total{source=\"postgres\"}";
    for log in &stage.cluster.eventlogs {
        assert_eq!(metric(log.admin(), pages).await, 0.0, "pages that PostgreSQL was asked for");
    }
    let statements = stage.cluster.postgres.statements().await;
    assert!(statements.contains("INSERT INTO foghorn.events"), "{statements}");
    assert!(!statements.contains(READS_EVENTS), "{statements}");
    // And that is how it would be seen.
    let history = format!("{}/api/channels/rings.a/events", urls[1]);
    assert_eq!(foghorn_tests::http::get(&history).await.unwrap().status, 200);
    assert!(stage.cluster.postgres.statements().await.contains(READS_EVENTS));
}

/// One more gateway of the cluster.
async fn another_gateway(stage: &Stage) -> Foghorn {
    let (nats, log) = (stage.cluster.nats.url(), format!("http://{}", stage.cluster.eventlogs[0].grpc()));
    let arguments = ["gateway", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    let gateway =
        Foghorn::spawn(&[&arguments[..], &["--nats", &nats, "--eventlog", &log]].concat(), &[]).await;
    wait_ready(gateway.admin()).await;
    gateway
}

/// Listens until so many events have come, over the end of its stream, after which it goes on at `next`, but not
/// before the events stand so; the numbers that came.
fn hear(
    mut stream: SseClient,
    next: String,
    events: usize,
    mut told: watch::Receiver<Stand>,
    away: Stand,
) -> JoinHandle<Vec<usize>> {
    tokio::spawn(async move {
        let mut heard: Vec<usize> = Vec::new();
        while heard.len() < events {
            let Ok(block) = stream.next_within(LIMIT).await else {
                assert!(stream.last_event_id().len() > 1 && heard.len() < events, "{heard:?}");
                told.wait_for(|stand| *stand >= away).await.unwrap();
                let cursor = stream.last_event_id().to_owned();
                stream = SseClient::connect(&next, &[("Last-Event-ID", &cursor)]).await.unwrap();
                continue;
            };
            match block.event_type() {
                "connected" => assert_eq!(block.json()["recovered"], true, "{block:?}"),
                "message" if block.is_event() => heard.push(block.data.unwrap().parse().unwrap()),
                "batch" => heard.extend(
                    block
                        .json()
                        .as_array()
                        .unwrap()
                        .iter()
                        .map(|event| event["data"].as_str().unwrap().parse::<usize>().unwrap()),
                ),
                other => assert!(!["stream-reset", "stream-end"].contains(&other), "{block:?}"),
            }
        }
        heard
    })
}
