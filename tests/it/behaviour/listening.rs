//! What a stream is.

use std::collections::HashMap;
use std::sync::Arc;

use foghorn_tests::sse::SseClient;
use serde_json::{Value, json};

use crate::deployment::{Deployment, Listener, SHOUT};

pub(super) async fn a_stream_begins_with_connected_and_says_when_it_is_live(d: Arc<Deployment>) {
    let channel = d.name("begin");
    let mut stream =
        SseClient::connect(&d.gateway_url(0, &format!("/api/events/{channel}")), &[]).await.unwrap();
    assert_eq!(stream.status(), 200);
    assert_eq!(stream.header("content-type"), Some("text/event-stream"));
    assert_eq!(stream.header("cache-control"), Some("no-store, no-transform"));
    assert_eq!(stream.header("x-accel-buffering"), Some("no"));
    // Over HTTP/2 there is no such thing.
    let kept = (!d.gateway_url(0, "").starts_with("https")).then_some("keep-alive");
    assert_eq!(stream.header("connection"), kept);
    let first = stream.next().await;
    assert_eq!(first.event_type(), "connected");
    let data = first.json();
    assert_eq!(data["clientId"].as_str().unwrap().len(), 32);
    assert_eq!(data["recovered"], false);
    assert!(data["timestamp"].as_str().unwrap().ends_with('Z'));
    assert!((1500..=4500).contains(&first.retry.unwrap()), "{first:?}");
    let starting = first.id.unwrap();
    assert!(!starting.is_empty() && starting.len() <= 128);
    let live = stream.next().await;
    assert_eq!((live.event_type(), live.json()), ("stream-live", json!({ "replayed": 0 })));
}

pub(super) async fn events_of_a_channel_come_in_the_order_of_their_acks(d: Arc<Deployment>) {
    let base = d.name("order");
    let mut listener = d.listen(&format!("channels={base}.*&envelope=1"), None).await;
    let publishing = (0..5).map(|channel| {
        let (d, channel) = (d.clone(), format!("{base}.c{channel}"));
        tokio::spawn(async move {
            for number in 0..40 {
                d.publish(json!({ "channel": channel, "data": number.to_string() })).await;
            }
        })
    });
    let publishing: Vec<_> = publishing.collect();
    let mut seen: HashMap<String, u32> = HashMap::new();
    let mut cursors = Vec::new();
    for _ in 0..200 {
        let block = listener.event().await;
        let envelope = block.json();
        let next = seen.entry(envelope["channel"].as_str().unwrap().to_owned()).or_default();
        assert_eq!(envelope["data"], next.to_string());
        *next += 1;
        cursors.push(block.id.unwrap());
    }
    for task in publishing {
        task.await.unwrap();
    }
    let distinct: std::collections::HashSet<_> = cursors.iter().collect();
    assert_eq!(distinct.len(), 200, "every event has a cursor of its own");
}

pub(super) async fn several_channels_and_patterns_on_one_connection_give_each_event_once(d: Arc<Deployment>) {
    let base = d.name("many");
    let query = format!("channels={base}.a,{base}.a,{base}.*,{base}.%3E,{base}.deep.er");
    let mut listener = d.listen(&query, None).await;
    for (channel, text) in [("a", "1"), ("b", "2"), ("deep.er", "3"), ("deep.est", "4")] {
        d.publish(json!({ "channel": format!("{base}.{channel}"), "data": text })).await;
    }
    d.publish(json!({ "channel": format!("else{base}"), "data": "not for us" })).await;
    d.publish(json!({ "channel": format!("{base}.end"), "data": "5" })).await;
    let mut heard = listener.data(5).await;
    // Shards run beside each other.
    heard.sort();
    assert_eq!(heard, ["1", "2", "3", "4", "5"]);
}

pub(super) async fn data_come_through_line_by_line(d: Arc<Deployment>) {
    let channel = d.name("lines");
    let mut listener = d.listen(&format!("channels={channel}"), None).await;
    for (sent, heard) in [
        ("one\ntwo\r\nthree\rfour", "one\ntwo\nthree\nfour"),
        ("", ""),
        ("\n", "\n"),
        (" leading: space, id: 7", " leading: space, id: 7"),
        ("\u{feff}mark \u{2028} żółw 🐢", "\u{feff}mark \u{2028} żółw 🐢"),
    ] {
        d.publish(json!({ "channel": channel, "data": sent, "event": "text" })).await;
        let block = listener.event().await;
        assert_eq!((block.event_type(), block.data.as_deref()), ("text", Some(heard)));
    }
}

pub(super) async fn the_envelope_names_the_channel(d: Arc<Deployment>) {
    let base = d.name("envelope");
    let mut listener = d.listen(&format!("channels={base}.%3E&envelope=1"), None).await;
    d.publish(json!({ "channel": format!("{base}.x"), "event": "made", "data": { "a": [1, 2] } })).await;
    let block = listener.event().await;
    assert_eq!(block.event_type(), "made");
    assert_eq!(block.data.as_deref().unwrap().lines().count(), 1);
    let envelope = block.json();
    assert_eq!(envelope["channel"], format!("{base}.x"));
    assert_eq!(envelope["event"], "made");
    assert_eq!(envelope["data"], r#"{"a":[1,2]}"#);
    assert!(envelope["time"].as_str().unwrap().ends_with('Z'));
}

pub(super) async fn a_type_filter_lets_only_those_types_pass(d: Arc<Deployment>) {
    let channel = d.name("types");
    let mut listener = d.listen(&format!("channels={channel}&events=wanted,message"), None).await;
    for event in ["wanted", "other", "wanted"] {
        d.publish(json!({ "channel": channel, "event": event, "data": event })).await;
    }
    d.publish(json!({ "channel": channel, "data": "untyped" })).await;
    assert_eq!(listener.data(3).await, ["wanted", "wanted", "untyped"]);
    // More than goes out in one piece.
    let unwanted = "x".repeat(10_000);
    let much: Vec<_> =
        (0..20).map(|_| json!({ "channel": channel, "event": "other", "data": unwanted })).collect();
    d.publish(json!(much)).await;
    d.publish(json!({ "channel": channel, "data": "after much" })).await;
    assert_eq!(listener.data(1).await, ["after much"]);
}

pub(super) async fn a_batch_holds_several_events_in_one_block_and_each_can_be_resumed_from(
    d: Arc<Deployment>,
) {
    let channel = d.name("batch");
    let query = format!("channels={channel}&events=wanted&batch=1000");
    let mut listener = d.listen(&query, None).await;
    let event =
        |number: usize, kind: &str| json!({ "channel": channel, "event": kind, "data": { "n": number } });
    let mixed = |number| [event(number, "wanted"), event(number, "other")];
    d.publish((0..20).flat_map(mixed).collect()).await;
    let (mut items, mut batches) = (Vec::new(), 0);
    while items.len() < 20 {
        let block = listener.event().await;
        assert_eq!((block.event_type(), block.data.as_deref().unwrap().lines().count()), ("batch", 1));
        batches += 1;
        items.extend(block.json().as_array().unwrap().iter().cloned());
        assert_eq!(block.id.as_deref(), items.last().unwrap()["id"].as_str());
    }
    assert!(batches < 10, "{batches} batches of 20 events");
    let told = |item: &Value| (item["event"].clone(), item["channel"].clone(), item["data"].clone());
    let sent = |number| (json!("wanted"), json!(channel), json!(json!({ "n": number }).to_string()));
    assert_eq!(items.iter().map(told).collect::<Vec<_>>(), (0..20).map(sent).collect::<Vec<_>>());
    // From the middle of a batch; what is caught up on comes in batches too.
    let again = d.listen(&query, items[4]["id"].as_str()).await;
    let replayed: Vec<Value> =
        again.replayed.iter().flat_map(|block| block.json().as_array().unwrap().clone()).collect();
    assert_eq!(replayed.iter().map(told).collect::<Vec<_>>(), (5..20).map(sent).collect::<Vec<_>>());
    assert_eq!(again.live, json!({ "replayed": 15 }));
}

pub(super) async fn broadcast_reaches_everyone_and_a_user_channel_its_user(d: Arc<Deployment>) {
    let (mut unasked, mut user) = tokio::join!(d.listen("", None), d.listen("channels=user.~YUBiLmM", None));
    let word = d.name("word");
    d.publish(json!({ "channel": "broadcast", "event": SHOUT, "data": word })).await;
    for listener in [&mut unasked, &mut user] {
        listener
            .stream
            .collect_until(foghorn_tests::PATIENCE, |block| block.data.as_ref() == Some(&word))
            .await;
    }
    d.publish(json!({ "user": "a@b.c", "data": "for you" })).await;
    assert_eq!(user.data(1).await, ["for you"]);
}

pub(super) async fn a_quiet_stream_is_kept_alive_with_its_cursor(d: Arc<Deployment>) {
    let channel = d.name("quiet");
    let mut listener = d.listen(&format!("channels={channel}&heartbeat=1"), None).await;
    let blocks =
        listener.stream.collect_until(foghorn_tests::PATIENCE, |b| b.event_type() == "heartbeat").await;
    let alive = &blocks[blocks.len() - 2];
    assert!(alive.id.is_some() && !alive.is_event(), "{alive:?}");
    // The cursor is good.
    let again =
        Listener::open(&d.gateway_url(0, &format!("/api/events/{channel}")), alive.id.as_deref()).await;
    assert_eq!((&again.connected["recovered"], again.replayed.len()), (&json!(true), 0));
}
