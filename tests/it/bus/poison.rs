//! Messages that kill the client library's connection, or make it drop one: whoever may publish can send
//! them, and nothing but their own way in suffers.

use std::sync::Arc;

use bytes::Bytes;
use foghorn_bus::lease::Leases;
use foghorn_bus::live::LiveFeed;
use foghorn_bus::metrics::Metrics;
use foghorn_bus::nats::{Bus, Requests};
use foghorn_core::batch::Batch;
use foghorn_core::position::Epoch;
use foghorn_core::shard::{Shard, ShardCount};
use foghorn_tests::wait::until;
use tokio::time::timeout;

use super::raw::publish;
use super::{LIMIT, Nats, append, parameters};

const ZERO: Shard = Shard::ZERO;
/// The client library panics over it.
const BARE_CR: &[u8] = b"NATS/1.0\r\nX: a\rb\r\n\r\n";
/// It drops the connection over it.
const NO_COLON: &[u8] = b"NATS/1.0\r\nnonsense\r\n\r\n";

#[tokio::test]
async fn requests_that_kill_the_client_stop_neither_the_door_nor_anything_else() {
    let nats = Nats::start().await;
    let metrics = Metrics::default();
    let bus = Bus::connect(nats.options(), metrics.clone()).await.unwrap();
    let journal = bus.journal(&parameters(1)).await.unwrap();
    let leases = bus.leases().await.unwrap();
    let mut requests = bus.serve_requests("fanout").await.unwrap();
    answered(&nats, &mut requests).await;
    for killed in 1..=3 {
        publish(&nats, "foghorn.publish.a", BARE_CR, b"x");
        until("the client to be replaced", LIMIT, async || {
            (metrics.clients_replaced() == killed).then_some(())
        })
        .await;
        assert!(bus.connected(), "appends have a connection of their own");
        append(&journal, "a", "on").await;
        timeout(LIMIT, leases.acquire(format!("relay-{killed}"))).await.expect("so have leases");
        answered(&nats, &mut requests).await;
    }
    publish(&nats, "foghorn.publish.a", NO_COLON, b"x");
    answered(&nats, &mut requests).await;
    assert_eq!(metrics.clients_replaced(), 3, "a client that reconnects is not replaced");
    requests.drain();
    assert!(timeout(LIMIT, requests.next()).await.unwrap().is_none());
}

/// Asks until there is an answer: a request that meets no subscription is lost, as documented.
async fn answered(nats: &Nats, requests: &mut Requests) {
    let client = nats.client().await;
    let asking = async {
        loop {
            if let Ok(answer) = client.request("foghorn.publish.b", "ask".into()).await {
                return answer.payload;
            }
        }
    };
    let answering = async {
        loop {
            let request = requests.next().await.expect("the door stays open");
            if request.wants_answer() {
                request.respond(Bytes::from_static(b"{}")).await;
            }
        }
    };
    tokio::select! {
        asked = timeout(LIMIT, asking) => assert_eq!(asked.expect("the door answers in time"), "{}"),
        () = answering => {}
    }
}

#[tokio::test]
async fn batches_that_kill_the_client_end_the_subscription_and_the_next_one_works() {
    let nats = Nats::start().await;
    let metrics = Metrics::default();
    let bus = Bus::connect(nats.options(), metrics.clone()).await.unwrap();
    let journal = bus.journal(&parameters(1)).await.unwrap();
    let live = bus.live(ShardCount::ONE);
    let batch = |seq| Arc::new(Batch::empty(ZERO, Epoch::new(9), seq - 1, seq));
    let mut subscription = live.subscribe(ZERO).await.unwrap();
    for killed in 1..=2 {
        publish(&nats, "foghorn.live.0", BARE_CR, b"x");
        assert!(timeout(LIMIT, subscription.next()).await.expect("the end is told").is_none());
        subscription = until("a new subscription", LIMIT, async || live.subscribe(ZERO).await.ok()).await;
        live.send(batch(killed)).await.unwrap();
        let got = timeout(LIMIT, subscription.next()).await.unwrap().unwrap();
        assert_eq!(*got, *batch(killed));
        append(&journal, "a", "on").await;
        assert_eq!(metrics.clients_replaced(), killed);
    }
    assert!(bus.connected());
}
