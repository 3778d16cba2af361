//! What holds for live feed and leases whatever is behind them: one suite, on memory and on NATS.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use foghorn_bus::journal::Journal;
use foghorn_bus::lease::{EXPIRES_AFTER, Leases, RENEW_EVERY};
use foghorn_bus::live::LiveFeed;
use foghorn_bus::memory::{MemoryLeases, MemoryLive, MemorySubscriptions, MemoryTickets};
use foghorn_bus::metrics::Metrics;
use foghorn_bus::nats::{Bus, NatsOptions};
use foghorn_bus::subscriptions::{SubscriptionError, Subscriptions};
use foghorn_bus::tickets::{TicketError, Tickets};
use foghorn_core::batch::{Batch, FeedEvent};
use foghorn_core::channel::Channel;
use foghorn_core::cursor::SubscriptionId;
use foghorn_core::event::Event;
use foghorn_core::position::{Epoch, Position};
use foghorn_core::shard::{Shard, ShardCount};
use foghorn_core::time::Timestamp;
use foghorn_tests::wait::until;
use nix::sys::signal::Signal;
use tokio::time::{Instant, timeout};

use super::{LIMIT, Nats, parameters};

const QUEUE_BYTES: usize = 256 * 1024;

fn two() -> ShardCount {
    ShardCount::new(2).unwrap()
}

/// A batch with one event, of `bytes` of data.
fn batch(shard: Shard, seq: u64, bytes: usize) -> Arc<Batch> {
    let mut batch = Batch::empty(shard, Epoch::new(9), seq - 1, seq);
    let position = Position { shard, epoch: batch.epoch, seq };
    let event = Event::new(Channel::parse("a").unwrap(), "x".repeat(bytes));
    batch.events.push(FeedEvent::encode(position, Timestamp::from_micros(5), &event));
    Arc::new(batch)
}

async fn a_live_feed(feed: &dyn LiveFeed, metrics: &Metrics) {
    let (zero, one) = (Shard::ZERO, two().shard(1).unwrap());
    let mut first = feed.subscribe(zero).await.unwrap();
    let mut second = feed.subscribe(zero).await.unwrap();
    let mut other = feed.subscribe(one).await.unwrap();
    for seq in 1..=100 {
        feed.send(batch(zero, seq, 10)).await.unwrap();
    }
    feed.send(batch(one, 1, 10)).await.unwrap();
    for seq in 1..=100 {
        for subscription in [&mut first, &mut second] {
            let got = timeout(LIMIT, subscription.next()).await.unwrap().unwrap();
            assert_eq!(*got, *batch(zero, seq, 10));
        }
    }
    assert_eq!(*timeout(LIMIT, other.next()).await.unwrap().unwrap(), *batch(one, 1, 10));
    assert_eq!(metrics.live_dropped(), 0);
    drop(second);

    // The largest batch that may be passes.
    let largest = batch(zero, 101, 240 * 1024);
    assert!(largest.wire_len() <= feed.batch_bytes());
    feed.send(largest).await.unwrap();
    assert_eq!(timeout(LIMIT, first.next()).await.unwrap().unwrap().to, 101);

    // One that doesn't read loses the newest, which is counted, and goes on when it reads again.
    let mut sent = 101;
    until("a full queue", LIMIT, async || {
        sent += 1;
        feed.send(batch(zero, sent, 16 * 1024)).await.unwrap();
        (metrics.live_dropped() > 0).then_some(())
    })
    .await;
    let (mut head, mut received, mut gap) = (101, 0, false);
    let everything = async {
        while received + metrics.live_dropped() < sent - 101 {
            // What is still on its way may be dropped yet, so look at the count in between.
            let Ok(next) = timeout(Duration::from_millis(10), first.next()).await else { continue };
            let next = next.unwrap();
            assert!(next.from >= head);
            gap |= next.from > head;
            (head, received) = (next.to, received + 1);
        }
    };
    timeout(LIMIT, everything).await.expect("every batch is received or counted as dropped");
    assert!(received > 0);
    feed.send(batch(zero, sent + 1, 10)).await.unwrap();
    let next = timeout(LIMIT, first.next()).await.unwrap().unwrap();
    assert_eq!(next.from, sent);
    assert!(gap || next.from > head, "the gap shows");
}

async fn leases(leases: Arc<dyn Leases>) {
    let mut held = leases.acquire("relay-0".to_owned()).await;
    let first_term = held.term();
    assert_eq!(held.inherited(), 0);
    held.renew(7).await.unwrap();
    // Another name is another lease.
    assert!(timeout(LIMIT, leases.acquire("relay-1".to_owned())).await.unwrap().term() > 0);

    // While it is renewed nobody else gets it.
    let waiting = tokio::spawn({
        let leases = leases.clone();
        async move { leases.acquire("relay-0".to_owned()).await }
    });
    let until_long_expired = Instant::now() + 2 * EXPIRES_AFTER;
    while Instant::now() < until_long_expired {
        tokio::time::sleep(RENEW_EVERY).await;
        held.renew(8).await.unwrap();
        assert!(!waiting.is_finished());
    }
    // Given up, it is free at once.
    let given_up = Instant::now();
    held.release().await;
    let held = timeout(LIMIT, waiting).await.unwrap().unwrap();
    assert!(given_up.elapsed() < EXPIRES_AFTER, "{:?}", given_up.elapsed());
    assert!(held.term() > first_term);
    assert_eq!(held.inherited(), 8);

    // Of two candidates one gets it when the holder falls silent, in time and not too early.
    let second_term = held.term();
    let mut silent = held;
    silent.renew(9).await.unwrap();
    let fell_silent = Instant::now();
    let candidates = [1, 2].map(|_| {
        let leases = leases.clone();
        Box::pin(async move { leases.acquire("relay-0".to_owned()).await })
    });
    let winning = futures::future::select_all(candidates);
    let (mut winner, _, losing) = timeout(LIMIT, winning).await.unwrap();
    let took = fell_silent.elapsed();
    assert!(took >= EXPIRES_AFTER && took < Duration::from_secs(3), "{took:?}");
    assert!(winner.term() > second_term);
    assert_eq!(winner.inherited(), 9);
    winner.renew(10).await.unwrap();
    let mut loser = tokio::spawn(losing.into_iter().next().unwrap());
    assert!(timeout(RENEW_EVERY, &mut loser).await.is_err(), "only one has it");
    loser.abort();
    // Who was silent learns it.
    let lost = silent.renew(11).await.unwrap_err().to_string();
    assert!(lost.contains("relay-0"), "{lost}");
}

#[tokio::test]
async fn the_live_feed_in_memory() {
    let metrics = Metrics::default();
    a_live_feed(&MemoryLive::new(two(), QUEUE_BYTES, metrics.clone()), &metrics).await;
}

#[tokio::test]
async fn the_live_feed_on_nats() {
    let nats = Nats::start().await;
    let metrics = Metrics::default();
    let options = NatsOptions { live_queue_bytes: QUEUE_BYTES, ..nats.options() };
    let bus = Bus::connect(options, metrics.clone()).await.unwrap();
    let _journal = bus.journal(&parameters(2)).await.unwrap();
    a_live_feed(&bus.live(two()), &metrics).await;
}

/// Three at a time.
async fn tickets(tickets: &dyn Tickets) {
    let (value, long) = (Bytes::from_static(b"sealed\0\xff"), Duration::from_secs(300));
    assert_eq!(tickets.find([1; 32]).await, Ok(None));
    for id in [1, 2] {
        tickets.keep([id; 32], value.clone(), long).await.unwrap();
    }
    let found = tickets.find([1; 32]).await.unwrap().unwrap();
    assert_eq!(found.value, value);
    assert_eq!(tickets.find([1; 32]).await, Ok(Some(found.clone())), "looking spends nothing");
    assert_eq!(tickets.spend([2; 32], found.revision).await, Ok(false), "it is another's");

    // Of all that try to spend one, one does.
    let tries = (0..20).map(|_| tickets.spend([1; 32], found.revision));
    let tries = futures::future::join_all(tries).await;
    assert_eq!(tries.iter().filter(|spent| **spent == Ok(true)).count(), 1, "{tries:?}");
    assert_eq!(tries.iter().filter(|spent| **spent == Ok(false)).count(), 19, "{tries:?}");
    assert_eq!(tickets.find([1; 32]).await, Ok(None));
    assert_eq!(tickets.find([2; 32]).await.unwrap().unwrap().value, value);

    // As many as may be; each for its time.
    let (short, kept) = (Duration::from_secs(1), Instant::now());
    let keep = async |id: u8, ttl: Duration| tickets.keep([id; 32], value.clone(), ttl).await;
    until("room", LIMIT, async || keep(3, long).await.ok()).await;
    until("the room of what was spent", LIMIT, async || keep(4, short).await.ok()).await;
    assert_eq!(keep(5, long).await, Err(TicketError::Full));
    until("its end", LIMIT, async || tickets.find([4; 32]).await.unwrap().is_none().then_some(())).await;
    assert!(kept.elapsed() >= short, "{:?}", kept.elapsed());
    assert_eq!(keep(5, long).await, Ok(()));
}

#[tokio::test]
async fn tickets_in_memory() {
    tickets(&MemoryTickets::new(3)).await;
}

#[tokio::test]
async fn tickets_on_nats() {
    let nats = Nats::start().await;
    let (one, other) = tokio::join!(nats.bus(), nats.bus());
    let (one, other) = tokio::join!(one.tickets(3), other.tickets(3));
    let (one, other) = (one.unwrap(), other.unwrap());
    assert_eq!(one.secret(), other.secret(), "all gateways seal with one");
    tickets(&one).await;

    // A bucket that is lost is made again, with the secret that gateways have.
    let deleted = nats.client().await.request("$JS.API.STREAM.DELETE.KV_FOGHORN_tickets", "".into()).await;
    assert!(String::from_utf8_lossy(&deleted.unwrap().payload).contains("true"));
    assert_eq!(one.find([2; 32]).await, Ok(None));
    assert_eq!(other.keep([6; 32], Bytes::from_static(b"x"), Duration::from_secs(60)).await, Ok(()));
    assert!(one.find([6; 32]).await.unwrap().is_some());
    assert_eq!(nats.bus().await.tickets(3).await.unwrap().secret(), one.secret());
}

/// Three at a time.
async fn subscriptions(kept: &dyn Subscriptions) {
    let (value, long) = (|text: &'static str| Bytes::from_static(text.as_bytes()), Duration::from_secs(300));
    let (id, short) = (SubscriptionId::new, Duration::from_secs(1));
    let keep = async |bits, text, ttl| kept.keep(id(bits), value(text), ttl, None).await;
    let find = async |bits| kept.find(id(bits)).await.unwrap();
    assert_eq!(find(1).await, None);
    assert!(keep(1, "one", short).await.unwrap().alone);
    keep(2, "two", short).await.unwrap();
    // As many as may be; one that is there is kept on, for its new time.
    let three = keep(3, "three", long).await.unwrap();
    assert_eq!(keep(4, "four", long).await, Err(SubscriptionError::Full));
    assert!(!keep(1, "once more", long).await.unwrap().alone);
    until("the end of one", LIMIT, async || find(2).await.is_none().then_some(())).await;
    until("its room", LIMIT, async || keep(4, "four", long).await.ok()).await;
    for (bits, text) in [(1, "once more"), (3, "three"), (4, "four")] {
        assert_eq!(find(bits).await, Some(value(text)));
    }
    // Whoever wrote it last may have it end sooner, and nobody else.
    let again = kept.keep(id(3), value("three"), long, Some(three.revision)).await.unwrap();
    assert!(again.alone && again.revision != three.revision);
    assert_eq!(kept.shorten(id(3), value("three"), short, three.revision).await, Ok(()));
    assert!(!kept.keep(id(3), value("three"), long, Some(three.revision)).await.unwrap().alone);
    assert_eq!(kept.shorten(id(3), value("three"), short, again.revision).await, Ok(()));
    let four = keep(4, "four", long).await.unwrap();
    assert_eq!(kept.shorten(id(4), value("four"), short, four.revision).await, Ok(()));
    until("the end of what was shortened", LIMIT, async || find(4).await.is_none().then_some(())).await;
    assert_eq!(find(3).await, Some(value("three")));
}

#[tokio::test]
async fn subscriptions_in_memory() {
    subscriptions(&MemorySubscriptions::new(3)).await;
}

#[tokio::test]
async fn subscriptions_on_nats() {
    let nats = Nats::start().await;
    let (one, other) = tokio::join!(nats.bus(), nats.bus());
    let (one, other) = tokio::join!(one.subscriptions(3), other.subscriptions(3));
    let (one, other) = (one.unwrap(), other.unwrap());
    subscriptions(&one).await;

    // A bucket that is lost is made again.
    let client = nats.client().await;
    let deleted = client.request("$JS.API.STREAM.DELETE.KV_FOGHORN_subscriptions", "".into()).await;
    assert!(String::from_utf8_lossy(&deleted.unwrap().payload).contains("true"));
    assert_eq!(one.find(SubscriptionId::new(1)).await, Ok(None));
    let value = Bytes::from_static(b"x");
    let minute = Duration::from_secs(60);
    other.keep(SubscriptionId::new(6), value.clone(), minute, None).await.unwrap();
    assert_eq!(one.find(SubscriptionId::new(6)).await, Ok(Some(value)));
}

#[tokio::test]
async fn leases_in_memory() {
    leases(Arc::new(MemoryLeases::new())).await;
}

#[tokio::test]
async fn leases_on_nats() {
    let nats = Nats::start().await;
    leases(Arc::new(nats.bus().await.leases().await.unwrap())).await;
}

#[tokio::test]
async fn a_lease_outlives_a_short_outage_and_is_lost_in_a_long_one() {
    let mut nats = Nats::start().await;
    let metrics = Metrics::default();
    let bus = Bus::connect(nats.options(), metrics.clone()).await.unwrap();
    let leases = bus.leases().await.unwrap();
    let mut held = leases.acquire("writer-0".to_owned()).await;
    // Shorter than the expiry: the first attempts go unanswered, a later one is in time.
    nats.server.hang().await;
    let retries = metrics.lease_retries();
    let (renewed, ()) = tokio::join!(held.renew(1), async {
        until("an attempt in vain", LIMIT, async || (metrics.lease_retries() > retries).then_some(())).await;
        nats.server.signal(Signal::SIGCONT);
    });
    renewed.expect("an outage of one attempt costs no lease");
    nats.server.kill();
    let begun = Instant::now();
    let lost = held.renew(2).await.unwrap_err();
    assert!(begun.elapsed() <= EXPIRES_AFTER + Duration::from_millis(500), "{:?}", begun.elapsed());
    assert!(lost.to_string().contains("can't be shown to be ours"), "{lost}");
}

#[tokio::test]
async fn requests_are_taken_answered_and_drained() {
    let nats = Nats::start().await;
    let bus = nats.bus().await;
    let mut requests = bus.serve_requests("fanout").await.unwrap();
    let client = nats.client().await;
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Foghorn-Event", "tick");
    headers.insert("Foghorn-Ack", "durable");
    // Whoever asks first may ask before the subscription is known: it asks again.
    let asked = tokio::spawn(async move {
        loop {
            let asked = client.request_with_headers("foghorn.publish.a.b", headers.clone(), "x".into()).await;
            if let Ok(answer) = asked {
                return (answer.payload, client);
            }
        }
    });
    let request = timeout(LIMIT, requests.next()).await.unwrap().unwrap();
    assert_eq!((request.channel.as_str(), &request.data[..]), ("a.b", &b"x"[..]));
    assert_eq!((request.event_type.as_deref(), request.ack.as_deref()), (Some("tick"), Some("durable")));
    assert_eq!((request.id.as_deref(), request.ttl.as_deref()), (None, None));
    assert!(request.wants_answer());
    request.respond(Bytes::from_static(b"{}")).await;
    let (answer, client) = timeout(LIMIT, asked).await.unwrap().unwrap();
    assert_eq!(answer, "{}");

    client.publish("foghorn.publish.c", "last".into()).await.unwrap();
    client.flush().await.unwrap();
    let last = timeout(LIMIT, requests.next()).await.unwrap().unwrap();
    assert!(!last.wants_answer());
    requests.drain();
    assert!(timeout(LIMIT, requests.next()).await.unwrap().is_none());
}

#[tokio::test]
async fn a_drain_ends_though_the_server_is_gone() {
    let mut nats = Nats::start().await;
    let bus = nats.bus().await;
    let mut requests = bus.serve_requests("fanout").await.unwrap();
    nats.server.kill();
    requests.drain();
    assert!(timeout(LIMIT, requests.next()).await.expect("the door closes").is_none());
}

#[tokio::test]
async fn requests_that_want_their_answer_where_others_read_are_refused() {
    let nats = Nats::start().await;
    let metrics = Metrics::default();
    let bus = Bus::connect(nats.options(), metrics.clone()).await.unwrap();
    let journal = bus.journal(&parameters(1)).await.unwrap();
    let mut requests = bus.serve_requests("fanout").await.unwrap();
    let client = nats.client().await;
    until("the subscription", LIMIT, async || {
        client.publish("foghorn.publish.a", "probe".into()).await.unwrap();
        timeout(Duration::from_millis(200), requests.next()).await.ok()?
    })
    .await;
    for reply in
        ["foghorn.journal.0.victim", "foghorn.live.0", "$KV.FOGHORN_epochs.0", "$JS.API.STREAM.NAMES"]
    {
        client.publish_with_reply("foghorn.publish.a", reply, "forged".into()).await.unwrap();
    }
    client.publish("foghorn.publish.a", "last".into()).await.unwrap();
    loop {
        let request = timeout(LIMIT, requests.next()).await.unwrap().unwrap();
        assert_ne!(request.data, "forged");
        if request.data == "last" {
            break;
        }
    }
    assert_eq!(metrics.requests_refused(), 4);
    assert_eq!(journal.bounds(Shard::ZERO).await.unwrap().last, 0);
}
