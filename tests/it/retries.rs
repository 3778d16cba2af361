//! The same event published again and again: one event, within the window.

use std::time::Duration;

use foghorn_bus::metrics::Metrics;
use foghorn_bus::nats::{Bus, NatsOptions, Parameters};
use foghorn_core::event::FRAME_BYTES_DEFAULT;
use foghorn_core::shard::ShardCount;
use foghorn_tests::http::post;
use foghorn_tests::nats::NatsServer;
use foghorn_tests::postgres::PostgresServer;
use foghorn_tests::wait::until;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::deployment::Listener;
use crate::outages::stage::Stage;

/// How long ids are remembered here.
const WINDOW: Duration = Duration::from_secs(12);
const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn an_id_is_one_event_within_the_window_also_when_the_journals_server_is_killed() {
    let (nats, postgres) = tokio::join!(NatsServer::start(), PostgresServer::start());
    // Whoever makes the stream says how long.
    let options = NatsOptions { urls: vec![nats.url()], dedupe_window: WINDOW, ..NatsOptions::default() };
    let bus = Bus::connect(options, Metrics::default()).await.unwrap();
    let parameters = Parameters { shards: ShardCount::ONE, event_bytes: FRAME_BYTES_DEFAULT };
    drop(bus.journal(&parameters).await.unwrap());
    let url = postgres.url(&postgres.create_database().await);
    let mut stage = Stage::on_both(nats, postgres, &url, "").await;
    let mut listener = Listener::open(&stage.cluster.gateways[0].url("/api/events/c"), None).await;
    let urls: Vec<String> = stage.cluster.fanouts.iter().map(|fanout| fanout.url("/api/publish")).collect();
    let event = json!({ "channel": "c", "id": "same", "data": "x" });
    let publish = async |turn: usize| -> Value {
        until("an ack", LIMIT, async || {
            let reply = post(&urls[turn % urls.len()], &event).await.ok()?;
            (reply.status == 200).then_some(reply.body)
        })
        .await
    };
    let first = publish(0).await;
    let begun = Instant::now();
    assert_eq!(first["duplicate"], false);
    let again = async |turn: usize| {
        let answer = publish(turn).await;
        assert_eq!((&answer["duplicate"], &answer["position"]), (&json!(true), &first["position"]), "{turn}");
    };
    // At once, by another fan-out, and until five seconds later.
    let mut turn = 1;
    while begun.elapsed() < Duration::from_secs(5) {
        again(turn).await;
        turn += 1;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    stage.cluster.nats.kill();
    stage.cluster.nats.restart().await;
    stage.cluster.fanouts[1].kill();
    again(0).await;
    assert!(begun.elapsed() < WINDOW, "too slow to tell: {:?}", begun.elapsed());
    stage.cluster.fanouts[1].restart().await;
    let anew = until("the end of the window", LIMIT, async || {
        Some(publish(0).await).filter(|answer| answer["duplicate"] == false)
    })
    .await;
    assert!(begun.elapsed() >= WINDOW, "{:?}", begun.elapsed());
    assert_ne!(anew["position"], first["position"]);
    stage.publish("c", "last").await;
    assert_eq!(listener.data(3).await, ["x", "x", "last"], "one for each time that it was stored");
    stage.assert_table_equals_journal().await;
}
