//! Many clients that come back at once: because their gateway was killed, or because it lost what it held.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use foghorn_tests::foghorn::Foghorn;
use foghorn_tests::http::metric;
use foghorn_tests::sse::SseClient;
use futures::future::join_all;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::deployment::{Listener, wait_ready};
use crate::outages::stage::Stage;

/// How long a part may take, on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

/// What a statement has that reads events, whichever way it finds them.
const READS_EVENTS: &str = "SELECT e.seq";

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

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_on_a_gateway_whose_ring_is_lost_asks_the_log_a_few_times_and_costs_live_listeners_little() {
    const CLIENTS: usize = 2000;
    const BEHIND: usize = 10;
    // Where in the events the clients are: each asks for something else.
    const PLACES: usize = 4;
    // Nothing is in the ring after a start.
    let mut stage = Stage::new("[gateway]\nring_warm = \"1ms\"\n").await;
    let url = stage.cluster.gateways[0].url("/api/events/storm");
    let mut before = Listener::open(&url, None).await;
    let mut cursors = vec![before.cursor()];
    for number in 0..BEHIND + PLACES - 1 {
        stage.publish("storm", &number.to_string()).await;
        if cursors.len() < PLACES {
            before.event().await;
            cursors.push(before.cursor());
        }
    }
    stage.logged().await;
    stage.cluster.gateways[0].restart().await;
    wait_ready(stage.cluster.gateways[0].admin()).await;
    let mut live = Vec::new();
    for _ in 0..10 {
        live.push(Listener::open(&stage.cluster.gateways[0].url("/api/events/live"), None).await);
    }
    let alone = latency(&stage, &mut live, |events| events >= 300).await;

    let level = AtomicUsize::new(0);
    let storm = join_all((0..CLIENTS).map(async |number| {
        // All of them within a second.
        tokio::time::sleep(Duration::from_secs(1).mul_f64(number as f64 / CLIENTS as f64)).await;
        let place = number % PLACES;
        let client = Listener::open(&url, Some(&cursors[place])).await;
        assert_eq!((&client.connected["recovered"], client.resets.len()), (&true.into(), 0));
        let expected: Vec<String> = (place..BEHIND + PLACES - 1).map(|n| n.to_string()).collect();
        assert_eq!(client.replayed_data(), expected);
        level.fetch_add(1, Ordering::SeqCst);
        client
    }));
    let begun = Instant::now();
    let until_level = async {
        let clients = storm.await;
        (clients, begun.elapsed())
    };
    let all_level = |_| level.load(Ordering::SeqCst) == CLIENTS;
    let ((clients, took), beside) = tokio::join!(until_level, latency(&stage, &mut live, all_level));
    assert!(took < Duration::from_secs(20), "{took:?} until all are level");
    assert!(beside < alone * 2 + Duration::from_millis(100), "{beside:?} beside the storm, {alone:?} alone");
    let admin = stage.cluster.gateways[0].admin();
    let log = metric(admin, "foghorn_gateway_replayed_events_total{source=\"log\"}").await;
    assert!(log >= (CLIENTS * BEHIND) as f64, "the ring had some of it: {log}");
    let asked = metric(admin, "foghorn_gateway_replays_total{how=\"asked\"}").await;
    let shared = metric(admin, "foghorn_gateway_replays_total{how=\"shared\"}").await;
    assert!(asked + shared >= CLIENTS as f64, "{asked} and {shared}");
    assert!(asked <= (CLIENTS / 20) as f64, "{asked} questions to the log for {CLIENTS} clients");
    println!("{asked} questions, level after {took:?}, live p99 {alone:?} and {beside:?} beside the storm");
    // And all of them hear what comes.
    stage.publish("storm", "after").await;
    for mut client in clients {
        assert_eq!(client.data(1).await, ["after"]);
    }
}

/// Publishes one event after another until `done` with so many; the 99th percentile of the times until each
/// listener had each.
async fn latency(stage: &Stage, live: &mut [Listener], done: impl Fn(usize) -> bool) -> Duration {
    let mut late = Vec::new();
    for number in 0.. {
        if done(number) {
            break;
        }
        let (begun, text) = (Instant::now(), number.to_string());
        let hear = join_all(live.iter_mut().map(async |listener| {
            let event = listener.event().await;
            assert_eq!(event.data.as_ref(), Some(&text));
            begun.elapsed()
        }));
        let (_, took) = tokio::join!(stage.publish("live", &text), hear);
        late.extend(took);
    }
    late.sort_unstable();
    late[late.len() * 99 / 100]
}
