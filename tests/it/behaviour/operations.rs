//! What an operator looks at.

use std::sync::Arc;

use foghorn_tests::http::get;
use serde_json::json;

use crate::deployment::{Deployment, Shape};

pub(super) async fn health_metrics_and_stats_are_there(d: Arc<Deployment>) {
    let channel = d.name("ops");
    let _listener = d.listen(&format!("channels={channel}"), None).await;
    d.publish(json!({ "channel": channel, "data": "x" })).await;
    let admins: Vec<String> = match &d.shape {
        Shape::Standalone(process) => vec![process.url("")],
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
