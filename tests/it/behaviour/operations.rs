//! What an operator looks at.

use std::sync::Arc;

use foghorn_tests::http::{get, request};
use http::Method;
use serde_json::json;

use crate::deployment::{Deployment, Shape};

pub(super) async fn health_metrics_and_stats_are_there(d: Arc<Deployment>) {
    let channel = d.name("ops");
    let _listener = d.listen(&format!("channels={channel}"), None).await;
    d.publish(json!({ "channel": channel, "data": "x" })).await;
    let admins: Vec<String> = match &d.shape {
        Shape::Standalone(process) => vec![format!("http://{}", process.admin())],
        // Which of two relays a shard is chance.
        Shape::Cluster(c) => c
            .gateways
            .iter()
            .chain(&c.fanouts)
            .chain(&c.eventlogs)
            .map(|process| format!("http://{}", process.admin()))
            .collect(),
    };
    let mut metrics = String::new();
    for admin in &admins {
        assert_eq!(get(&format!("{admin}/healthz")).await.unwrap().status, 200);
        assert_eq!(get(&format!("{admin}/readyz")).await.unwrap().body["ready"], true);
        metrics += get(&format!("{admin}/metrics")).await.unwrap().body.as_str().unwrap();
    }
    for name in [
        "foghorn_gateway_connections ",
        "foghorn_gateway_events_delivered_total{type=",
        "foghorn_gateway_gaps_total",
        "foghorn_gateway_gaps_filled_total",
        "foghorn_gateway_resets_total{reason=\"expired\"}",
        "foghorn_gateway_replayed_events_total{source=\"ring\"}",
        "foghorn_gateway_slow_connections ",
        "foghorn_fanout_publishes_total{",
        "foghorn_fanout_publish_seconds_count{",
        "foghorn_fanout_relay_lag_entries{",
        "foghorn_log_rows_total",
    ] {
        assert!(metrics.contains(name), "{name} is missing from\n{metrics}");
    }
    let stats = get(&d.gateway_url(0, "/api/events/stats")).await.unwrap().body;
    assert!(stats["connectedClients"].as_u64().unwrap() >= 1, "{stats}");
    assert_eq!(stats["positions"].as_array().unwrap().len(), usize::from(d.shards));
}

pub(super) async fn what_an_operator_erases_of_a_channel_is_no_longer_in_its_history(d: Arc<Deployment>) {
    let (channel, other) = (d.name("erased"), d.name("kept"));
    let query = format!("channels={channel},{other}");
    let cursor = d.listen(&query, None).await.cursor();
    d.publish_all(&channel, ["1".to_owned(), "2".to_owned()]).await;
    d.publish_all(&other, ["3".to_owned()]).await;
    let url = |channel: &str| d.gateway_url(1, &format!("/api/channels/{channel}/events"));
    for erased in [2, 0] {
        let reply = request(Method::DELETE, &url(&channel), &[], None).await.unwrap();
        assert_eq!((reply.status, reply.body), (200, json!({ "erased": erased, "complete": true })));
    }
    d.publish_all(&channel, ["4".to_owned()]).await;
    let history = async |channel: &str| {
        let page = get(&url(channel)).await.unwrap().body;
        let data = page["events"].as_array().unwrap().iter();
        data.map(|event| event["data"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(history(&channel).await, ["4"]);
    assert_eq!(history(&other).await, ["3"]);
    assert_eq!(d.listen(&query, Some(&cursor)).await.connected["recovered"], true);
    for (method, path, status) in
        [(Method::DELETE, format!("{channel}?limit=1"), 400), (Method::POST, channel, 405)]
    {
        let path =
            path.split_once('?').map_or(url(&path), |(channel, query)| format!("{}?{query}", url(channel)));
        assert_eq!(request(method, &path, &[], None).await.unwrap().status, status, "{path}");
    }
}
