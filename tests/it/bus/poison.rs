//! Messages that kill the client library's connection, or make it drop one: whoever may publish can send
//! them, and nothing but their own way in suffers.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use foghorn_bus::journal::Journal;
use foghorn_bus::lease::Leases;
use foghorn_bus::live::LiveFeed;
use foghorn_bus::metrics::Metrics;
use foghorn_bus::nats::{Bus, Requests};
use foghorn_core::batch::Batch;
use foghorn_core::position::Epoch;
use foghorn_core::shard::{Shard, ShardCount};
use foghorn_tests::wait::until;
use futures::StreamExt;
use tokio::time::timeout;

use super::raw::{publish, store};
use super::{LIMIT, Nats, append, at, data, follow, parameters};

/// After how long a request counts as lost.
const ASK_AGAIN: Duration = Duration::from_millis(500);
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
    // What was asked in vain may still be there.
    let drained = async { while requests.next().await.is_some() {} };
    timeout(LIMIT, drained).await.expect("the door closes");
}

/// Asks until there is an answer: a request that meets no subscription is lost, as documented.
async fn answered(nats: &Nats, requests: &mut Requests) {
    let client = nats.client().await;
    let asking = async {
        loop {
            let asked = client.request("foghorn.publish.b", "ask".into());
            if let Ok(Ok(answer)) = timeout(ASK_AGAIN, asked).await {
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

#[tokio::test]
async fn entries_that_kill_the_client_are_passed() {
    let nats = Nats::start().await;
    let bus = nats.bus().await;
    let journal = bus.journal(&parameters(1)).await.unwrap();
    append(&journal, "a", "first").await;
    let mut tail = journal.tail(at(&journal, ZERO, 0).await);
    assert_eq!(data(&timeout(LIMIT, tail.next()).await.unwrap().unwrap().unwrap()), "first");
    // Under an open tail: it ends, and another one passes it.
    store(&nats, "foghorn.journal.0.a", BARE_CR, b"killer");
    assert!(timeout(LIMIT, tail.next()).await.expect("the tail ends").unwrap().is_err());
    assert_eq!(append(&journal, "a", "on").await.position.seq, 3);
    assert_eq!(data(&follow(&journal, ZERO, 1, 2).await[1]), "on");
    for n in 0..20 {
        store(&nats, "foghorn.journal.0.a", if n % 2 == 0 { BARE_CR } else { NO_COLON }, b"killer");
    }
    assert_eq!(append(&journal, "a", "last").await.position.seq, 24);
    assert!(bus.connected());

    // A process that starts now, and tails from what it had already, as the relay does.
    let metrics = Metrics::default();
    let bus = Bus::connect(nats.options(), metrics.clone()).await.unwrap();
    let journal = bus.journal(&parameters(1)).await.unwrap();
    let entries = follow(&journal, ZERO, 2, 22).await;
    assert_eq!((data(&entries[0]), entries[21].seq, data(&entries[21])), ("on", 24, "last"));
    assert_eq!(metrics.clients_replaced(), 0, "a tail begins with what can be read safely");
    let page = journal.read(ZERO, 0, 100, 1 << 20).await.unwrap();
    assert_eq!((page.to, page.entries.len()), (24, 24));
    append(&journal, "a", "on").await;
}

#[tokio::test]
async fn the_main_client_is_replaced_too() {
    let nats = Nats::start().await;
    let metrics = Metrics::default();
    let bus = Bus::connect(nats.options(), metrics.clone()).await.unwrap();
    let journal = bus.journal(&parameters(1)).await.unwrap();
    // Acks go to the inbox of the client that appends, which nobody but the server should know.
    let client = nats.client().await;
    let mut inboxes = client.subscribe("_INBOX.>").await.unwrap();
    client.flush().await.unwrap();
    append(&journal, "a", "one").await;
    let acked = loop {
        let message = timeout(LIMIT, inboxes.next()).await.unwrap().unwrap();
        if message.payload.starts_with(b"{\"stream\"") {
            break message.subject;
        }
    };
    publish(&nats, &acked, BARE_CR, b"x");
    until("the client to be replaced", LIMIT, async || (metrics.clients_replaced() == 1).then_some(())).await;
    assert_eq!(append(&journal, "a", "two").await.position.seq, 2);
    assert!(bus.connected());
}

/// Header blocks as nobody should send them. The server takes them all.
const MALFORMED: [&[u8]; 28] = [
    b"NATS/1.0\r\nFoghorn-Event: a",
    b"NATS/1.0\r\nFoghorn-Event: a\r\n",
    b"NATS/1.0\r\nFoghorn-Event: a\n\n",
    b"NATS/1.0\r\nFoghorn-Event: a\n\r\n",
    b"NATS/1.0\nFoghorn-Event: a\n\n",
    // As long as it would be with its end.
    b"NATS/1.0\r\nFoghorn-Event:     a",
    b"NATS/1.0\r\nFoghorn-Event: a\r\n b",
    b"NATS/1.0\r\nFoghorn-Event:   a\r\n b",
    b"NATS/1.0\r\nFoghorn-Event: a\r\nz:",
    b"NATS/1.0\r\nFoghorn-Event: a\r\nzz",
    b"NATS/1.0\r\nFoghorn-Event: a\r\n\xff\xff",
    b"NATS/1.0\r\nFoghorn-Event: a\r\nX",
    b"NATS/1.0\r\nNats-Stream: FOGHORN_0\r\nFoghorn-Event: a",
    b"NATS/1.0\r\nNats-Stream: FOGHORN_0\r\nFoghorn-Event: a\r\n\r\n",
    b"NATS/1.0\r\nNats-Sequence: 1\r\nNats-Last-Sequence: 3\r\nFoghorn-Event: a\r\n\r\n",
    b"NATS/1.0\r\nFoghorn-Event:a\r\n\r\n",
    b"NATS/1.0\r\nFoghorn-Event: a \r\n\r\n",
    b"NATS/1.0\r\nFoghorn-Event: a\r\nFoghorn-Event: b\r\n\r\n",
    b"NATS/1.0\r\nfoghorn-event: a\r\n\r\n",
    b"NATS/1.0\r\nFoghorn-Event: a\r\n\tb\r\n\r\n",
    b"NATS/1.0\r\nFoghorn-Event: a\rb\r\n\r\n",
    b"NATS/1.0\r\nFoghorn-Event: \xff\r\n\r\n",
    b"NATS/1.0\r\n: a\r\n\r\n",
    b"NATS/1.0\r\nFoghorn Event: a\r\n\r\n",
    b"NATS/1.0\r\n",
    b"NATS/1.0",
    b"GARBAGE\r\nFoghorn-Event: a\r\n\r\n",
    b"\r\n",
];
/// More than a tail or a read takes from the leader to be safe, after an entry that does harm.
const HARMLESS: u64 = 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_ways_to_read_an_entry_agree() {
    let nats = Nats::start().await;
    let journal = nats.journal(1).await;
    let mut malformed = Vec::new();
    for block in MALFORMED {
        for _ in 0..HARMLESS {
            append(&journal, "a", "x").await;
        }
        malformed.push((block, store(&nats, "foghorn.journal.0.a", block, b"x")));
    }
    // The client library trims what a direct get says of it.
    malformed.push((b"", store(&nats, "foghorn.journal.0.a\u{2003}", b"", b"x")));
    let last = append(&journal, "a", "x").await.position.seq;

    let tailed = follow(&journal, ZERO, 0, usize::try_from(last).unwrap()).await;
    let mut read = Vec::new();
    while read.len() < tailed.len() {
        let after = read.last().map_or(0, |entry: &foghorn_core::entry::Entry| entry.seq);
        let page = timeout(LIMIT, journal.read(ZERO, after, 1000, 1 << 20)).await.unwrap().unwrap();
        read.extend(page.entries);
    }
    for (block, seq) in malformed {
        // A tail begins with what the API says.
        let stored = follow(&journal, ZERO, seq - 1, 1).await.remove(0);
        let at = usize::try_from(seq - 1).unwrap();
        for other in [&tailed[at], &read[at]] {
            let block = block.escape_ascii();
            assert_eq!((other.seq, other.time, other.key), (seq, stored.time, stored.key), "{block}");
            assert_eq!((&other.event, other.digest), (&stored.event, stored.digest), "{block}");
        }
    }
    // A block without an end says nothing.
    for seq in [HARMLESS + 1, 2 * (HARMLESS + 1)] {
        let entry = &tailed[usize::try_from(seq - 1).unwrap()];
        assert!(entry.event.is_err() && entry.key.is_none(), "{entry:?}");
    }
}
