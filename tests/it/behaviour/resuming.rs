//! Coming back.

use std::sync::Arc;
use std::time::Duration;

use foghorn_core::channel::Channel;
use foghorn_core::cursor::Cursor;
use foghorn_core::position::{Epoch, Position};
use foghorn_core::shard::ShardCount;
use foghorn_tests::http::get;
use foghorn_tests::sse::SseClient;
use serde_json::json;

use crate::deployment::{Deployment, Listener};

fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}

pub(super) async fn a_cursor_in_the_ring_is_continued_exactly(d: Arc<Deployment>) {
    let channel = d.name("ring");
    let query = format!("channels={channel}");
    let mut first = d.listen(&query, None).await;
    d.publish_all(&channel, numbers(0..10)).await;
    assert_eq!(first.data(4).await, numbers(0..4));
    let cursor = first.cursor();
    drop(first);
    let mut again = d.listen(&query, Some(&cursor)).await;
    assert_eq!(again.connected["recovered"], true);
    assert!(again.resets.is_empty());
    assert_eq!(again.live, json!({ "replayed": again.replayed.len() }));
    assert_eq!(again.first(6).await, numbers(4..10));
    // By the query, as a page that made a new EventSource would.
    for key in ["lastEventId", "_lastEventId"] {
        let mut by_query = d.listen(&format!("{query}&{key}={cursor}"), None).await;
        assert_eq!(by_query.first(6).await, numbers(4..10), "{key}");
    }
    // The header wins.
    let head = again.cursor();
    let both = d.listen(&format!("{query}&lastEventId={cursor}"), Some(&head)).await;
    assert!(both.replayed.is_empty());
}

pub(super) async fn a_cursor_older_than_the_ring_is_continued_from_the_log(d: Arc<Deployment>) {
    let channel = d.name("log");
    let query = format!("channels={channel}");
    let first = d.listen(&query, None).await;
    let cursor = first.cursor();
    drop(first);
    // Several times the ring, which all shards share.
    let texts: Vec<String> = (0..300).map(|n| format!("{n} {}", "x".repeat(15_000))).collect();
    d.publish_all(&channel, texts.clone()).await;
    d.publish_all(&channel, numbers(0..10)).await;
    let mut again = d.listen(&query, Some(&cursor)).await;
    assert_eq!(again.connected["recovered"], true);
    let expected: Vec<String> = texts.into_iter().chain(numbers(0..10)).collect();
    assert!(again.first(expected.len()).await == expected, "{} events replayed", again.replayed.len());
}

pub(super) async fn reconnecting_under_load_loses_and_doubles_nothing(d: Arc<Deployment>) {
    const EVENTS: usize = 2000;
    let base = d.name("splice");
    let query = format!("channels={base}.*&envelope=1");
    let first = d.listen(&query, None).await;
    let mut cursor = first.cursor();
    drop(first);
    let publishing = tokio::spawn({
        let (d, channels) = (d.clone(), [format!("{base}.a"), format!("{base}.b")]);
        async move {
            for some in numbers(0..EVENTS).chunks(20) {
                for channel in &channels {
                    d.publish_all(channel, some.to_vec()).await;
                }
            }
        }
    });
    let mut heard = [Vec::new(), Vec::new()];
    let mut connections = 0;
    while heard.iter().map(Vec::len).sum::<usize>() < 2 * EVENTS {
        connections += 1;
        let url = d.gateway_url(connections, &format!("/api/events?{query}"));
        let mut stream = SseClient::connect(&url, &[("Last-Event-ID", &cursor)]).await.unwrap();
        // Cut after a number of events that differs each time: in catch-up, at the splice, live.
        let cut = 1 + connections * 37 % 300;
        let mut seen = 0;
        while seen < cut && heard.iter().map(Vec::len).sum::<usize>() < 2 * EVENTS {
            let block = stream.next().await;
            assert_ne!(block.event_type(), "stream-reset", "{block:?}");
            if let (true, "message") = (block.is_event(), block.event_type()) {
                let envelope = block.json();
                let which = usize::from(envelope["channel"].as_str().unwrap().ends_with(".b"));
                heard[which].push(envelope["data"].as_str().unwrap().to_owned());
                seen += 1;
            }
        }
        cursor = stream.last_event_id().to_owned();
    }
    publishing.await.unwrap();
    assert!(connections > 5);
    for heard in heard {
        assert!(heard == numbers(0..EVENTS), "heard {:?}… of {}", &heard[..heard.len().min(30)], heard.len());
    }
}

pub(super) async fn a_listener_may_change_its_gateway(d: Arc<Deployment>) {
    let channel = d.name("moving");
    let path = format!("/api/events/{channel}");
    let mut cursor = Listener::open(&d.gateway_url(0, &path), None).await.cursor();
    for turn in 1..6 {
        d.publish_all(&channel, numbers(turn * 10..turn * 10 + 10)).await;
        let mut listener = Listener::open(&d.gateway_url(turn, &path), Some(&cursor)).await;
        assert_eq!(listener.connected["recovered"], true);
        assert_eq!(listener.first(10).await, numbers(turn * 10..turn * 10 + 10));
        cursor = listener.cursor();
    }
}

pub(super) async fn a_keep_alive_moves_the_cursor_of_a_quiet_channel(d: Arc<Deployment>) {
    let (quiet, busy) = (d.name("quiet"), d.name("busy"));
    let mut listener = d.listen(&format!("channels={quiet}"), None).await;
    let before = listener.cursor();
    // Something else happens in each shard.
    for n in 0..16 {
        d.publish(json!({ "channel": format!("{busy}.{n}"), "data": "x" })).await;
    }
    let alive = foghorn_tests::wait::until(
        "a keep-alive that moves the cursor",
        Duration::from_secs(10),
        async || {
            let block = listener.stream.next().await;
            block.id.filter(|id| *id != before)
        },
    )
    .await;
    let again = d.listen(&format!("channels={quiet}"), Some(&alive)).await;
    assert_eq!((&again.connected["recovered"], again.replayed.len()), (&json!(true), 0));
}

pub(super) async fn a_strange_cursor_is_a_reset_and_never_refused(d: Arc<Deployment>) {
    let channel = d.name("strange");
    d.publish_all(&channel, numbers(0..3)).await;
    let query = format!("channels={channel}");
    let shard =
        ShardCount::new(u64::from(d.shards)).unwrap().shard_of(&Channel::parse(channel.as_str()).unwrap());
    let now = Cursor::parse(&d.listen(&query, None).await.cursor()).unwrap();
    let (epoch, seq) = now.get(shard).unwrap();
    let at = |epoch, seq| {
        let mut cursor = now;
        cursor.set(Position { shard, epoch, seq });
        cursor.to_string()
    };
    let good = now.to_string();
    for (cursor, reason) in [
        ("garbage", "cursor"),
        ("1", "cursor"),
        (&good[..good.len() - 1], "cursor"),
        ("9zzzz", "cursor"),
        (&"x".repeat(500), "cursor"),
        (&at(epoch, seq + 1_000_000), "cursor"),
        (&at(Epoch::new(epoch.get() - 1), seq), "epoch"),
        (&at(Epoch::new(epoch.get() + 1), seq), "epoch"),
    ] {
        let mut listener = d.listen(&query, Some(cursor)).await;
        assert_eq!(listener.connected["recovered"], false, "{cursor}");
        assert_eq!(listener.resets, [reason], "{cursor}");
        // What there is, is sent after it.
        assert_eq!(listener.first(3).await, numbers(0..3), "{cursor}");
    }
}

pub(super) async fn since_and_last_begin_in_the_past_and_a_cursor_wins(d: Arc<Deployment>) {
    let base = d.name("past");
    let (a, b) = (format!("{base}.a"), format!("{base}.b"));
    d.publish_all(&a, numbers(0..5)).await;
    let first = get(&d.gateway_url(0, &format!("/api/channels/{a}/events?limit=1"))).await.unwrap();
    assert_eq!(first.body["events"][0]["data"], "4");
    let time = first.body["events"][0]["time"].as_str().unwrap().to_owned();
    d.publish_all(&b, numbers(10..15)).await;
    let both = format!("channels={a},{b}");
    let sorted = |listener: &Listener| {
        let mut data: Vec<u32> = listener.replayed_data().iter().map(|s| s.parse().unwrap()).collect();
        data.sort_unstable();
        data
    };
    assert_eq!(
        sorted(&d.listen(&format!("{both}&since=10m"), None).await),
        [0, 1, 2, 3, 4, 10, 11, 12, 13, 14]
    );
    let since = d.listen(&format!("channels={b}&since={time}"), None).await;
    assert_eq!(since.replayed_data(), numbers(10..15));
    assert_eq!(sorted(&d.listen(&format!("{both}&last=2"), None).await), [3, 4, 13, 14]);
    assert_eq!(sorted(&d.listen(&format!("channels={base}.*&last=1"), None).await), [4, 14]);
    let last = d.listen(&format!("{both}&last=3"), None).await;
    assert_eq!(last.connected["recovered"], false);
    let cursor = last.cursor();
    for query in ["last=5", "since=1h"] {
        let again = d.listen(&format!("{both}&{query}"), Some(&cursor)).await;
        assert_eq!((again.replayed.len(), &again.connected["recovered"]), (0, &json!(true)), "{query}");
    }
}

pub(super) async fn history_is_json(d: Arc<Deployment>) {
    let channel = d.name("history");
    d.publish(json!({ "channel": channel, "event": "made", "id": "first", "data": "0" })).await;
    d.publish_all(&channel, numbers(1..5)).await;
    let page = async |query: &str| {
        let url = d.gateway_url(0, &format!("/api/channels/{channel}/events?{query}"));
        let reply = get(&url).await.unwrap();
        assert_eq!(reply.status, 200, "{}", reply.body);
        reply.body
    };
    let data = |page: &serde_json::Value| -> Vec<String> {
        page["events"].as_array().unwrap().iter().map(|e| e["data"].as_str().unwrap().to_owned()).collect()
    };
    let newest = page("limit=2").await;
    assert_eq!((data(&newest), &newest["more"]), (vec!["4".to_owned(), "3".to_owned()], &json!(true)));
    let before = newest["events"][1]["cursor"].as_str().unwrap();
    let older = page(&format!("before={before}")).await;
    assert_eq!(
        (data(&older), &older["more"]),
        (vec!["2".to_owned(), "1".to_owned(), "0".to_owned()], &json!(false))
    );
    let first = &older["events"][2];
    assert_eq!((&first["event"], &first["id"]), (&json!("made"), &json!("first")));
    let after = page(&format!("after={}&limit=2", first["seq"])).await;
    assert_eq!(data(&after), numbers(1..3));
    // One can listen from where history ends.
    let cursor = after["events"][1]["cursor"].as_str().unwrap();
    let listener = d.listen(&format!("channels={channel}"), Some(cursor)).await;
    assert_eq!(listener.replayed_data(), numbers(3..5));
}
