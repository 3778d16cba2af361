//! What policies change.

use std::sync::Arc;
use std::time::Duration;

use foghorn_tests::http::get;
use serde_json::json;

use crate::deployment::{Deployment, Shape};

pub(super) async fn a_count_limits_what_is_replayed(d: Arc<Deployment>) {
    let channel = format!("counted.{}", d.name("c"));
    let query = format!("channels={channel}");
    let cursor = d.listen(&query, None).await.cursor();
    // Past the ring, so that the log is asked.
    let texts: Vec<String> = (0..150).map(|n| format!("{n} {}", "x".repeat(15_000))).collect();
    d.publish_all(&channel, texts[..149].to_vec()).await;
    // The count is taken of what the log has.
    let last = d.publish(json!({ "channel": channel, "data": texts[149], "ack": "durable" })).await;
    assert_eq!(last["durable"], true);
    let mut again = d.listen(&query, Some(&cursor)).await;
    assert_eq!(again.connected["recovered"], true, "what a count leaves out is not owed");
    assert!(again.resets.is_empty());
    assert_eq!(again.first(3).await, texts[147..]);
}

pub(super) async fn of_a_channel_with_latest_who_is_behind_or_batches_gets_the_newest(d: Arc<Deployment>) {
    let (channel, other) = (format!("latest.{}", d.name("l")), d.name("l"));
    let query = format!("channels={channel},{other}");
    let mut live = d.listen(&query, None).await;
    let mut batching = d.listen(&format!("{query}&batch=2000"), None).await;
    let cursor = live.cursor();
    for number in 0..6 {
        let channel = if number % 3 == 0 { &other } else { &channel };
        d.publish(json!({ "channel": channel, "data": number.to_string() })).await;
        // One that keeps up may lag for a moment.
        live.event().await;
    }
    let mut batched: Vec<String> = Vec::new();
    while batched.last().map(String::as_str) != Some("5") {
        let batch = batching.event().await.json();
        batched
            .extend(batch.as_array().unwrap().iter().map(|item| item["data"].as_str().unwrap().to_owned()));
    }
    assert!(batched.len() < 6 && batched.contains(&"0".to_owned()), "{batched:?}");
    let again = d.listen(&query, Some(&cursor)).await;
    assert_eq!((&again.connected["recovered"], again.resets.len()), (&json!(true), 0));
    let heard = again.replayed_data();
    let has = |data| heard.contains(&data);
    // Of each page, should the log be asked.
    assert!(
        has("0") && has("3") && has("5") && heard.len() < 6,
        "the newest, and all of the others: {heard:?}"
    );
}

pub(super) async fn without_replay_nothing_comes_back(d: Arc<Deployment>) {
    let channel = format!("fleeting.{}", d.name("f"));
    let mut listener = d.listen(&format!("channels={channel}"), None).await;
    d.publish(json!({ "channel": channel, "data": "now" })).await;
    assert_eq!(listener.data(1).await, ["now"]);
    let history = get(&d.gateway_url(0, &format!("/api/channels/{channel}/events"))).await.unwrap();
    assert_eq!(history.body["events"], json!([]));
    assert!(d.listen(&format!("channels={channel}&last=5"), None).await.replayed.is_empty());
}

pub(super) async fn an_event_past_its_ttl_is_not_replayed(d: Arc<Deployment>) {
    let channel = d.name("ttl");
    let query = format!("channels={channel}");
    let cursor = d.listen(&query, None).await.cursor();
    d.publish(json!({ "channel": channel, "data": "gone soon", "ttl": 2 })).await;
    d.publish(json!({ "channel": channel, "data": "stays" })).await;
    foghorn_tests::wait::until("the event to expire", Duration::from_secs(10), async || {
        let again = d.listen(&query, Some(&cursor)).await;
        assert!(again.resets.is_empty());
        (again.replayed_data() == ["stays"]).then_some(())
    })
    .await;
    let history = get(&d.gateway_url(0, &format!("/api/channels/{channel}/events"))).await.unwrap();
    assert_eq!(history.body["events"].as_array().unwrap().len(), 1);
}

pub(super) async fn a_policy_bounds_the_size_and_names_what_metrics_count(d: Arc<Deployment>) {
    let channel = format!("small.{}", d.name("s"));
    let reply = d.try_publish(&json!({ "channel": channel, "data": "x".repeat(200) })).await;
    assert_eq!(reply.status, 413, "{}", reply.body);
    assert!(reply.body["type"].as_str().unwrap().ends_with("/event-too-large"));
    let mut listener = d.listen(&format!("channels={channel}"), None).await;
    d.publish(json!({ "channel": channel, "event": "listed", "data": "1" })).await;
    d.publish(json!({ "channel": channel, "event": "unlisted", "data": "2" })).await;
    assert_eq!(listener.data(2).await, ["1", "2"]);
    let gateway = match &d.shape {
        Shape::Standalone(process) => process,
        Shape::Cluster(cluster) => &cluster.gateways[0],
    };
    let text =
        get(&format!("http://{}/metrics", gateway.admin())).await.unwrap().body.as_str().unwrap().to_owned();
    assert!(text.contains(r#"foghorn_gateway_events_delivered_total{type="listed"}"#), "{text}");
    assert!(!text.contains("unlisted"));
}
