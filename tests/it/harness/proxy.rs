//! nginx, by itself and as the product ships it.

use std::time::Duration;

use foghorn_tests::nginx::Nginx;
use foghorn_tests::sse::{NoBlock, SseClient};
use foghorn_tests::{PATIENCE, http};
use serde_json::json;

use super::web::{Answer, Web, head};

#[tokio::test]
async fn nginx_serves_what_it_is_configured_to() {
    let nginx = Nginx::start(
        "events {}
         http {
             {temporary}
             server {
                 listen 127.0.0.1:{port};
                 location / { root {dir}/site; }
             }
         }",
    )
    .await;
    std::fs::create_dir(nginx.folder().join("site")).unwrap();
    std::fs::write(nginx.folder().join("site/answer.json"), r#"{"fog": "horn"}"#).unwrap();

    let reply = http::get(&nginx.url("/answer.json")).await.unwrap();
    assert_eq!((reply.status, reply.body), (200, json!({"fog": "horn"})));
}

#[tokio::test]
async fn a_stream_goes_through_the_shipped_configuration_event_by_event() {
    let gateway = Web::serve(|request| {
        let forwarded = ["X-Forwarded-For: 127.0.0.1", "X-Forwarded-Proto: https"]
            .iter()
            .all(|line| request.contains(line));
        let first = format!("{}data: {forwarded}\n\n", head(200, "text/event-stream"));
        Answer { first, rest: "id: 2\ndata: late\n\n".into() }
    })
    .await;
    let nginx = Nginx::foghorn(&[&gateway.address.to_string()], &[]).await;

    let lie = [("x-forwarded-for", "10.1.2.3")];
    let mut stream = SseClient::connect(&nginx.url("/api/events?channels=a"), &lie).await.unwrap();
    assert_eq!((stream.status(), stream.header("content-type")), (200, Some("text/event-stream")));
    // It is here before the rest is even sent: nothing on the way waits for more.
    assert_eq!(stream.next().await.data.as_deref(), Some("true"));
    assert_eq!(stream.next_within(Duration::from_millis(50)).await, Err(NoBlock::Quiet));
    gateway.send_the_rest();
    assert_eq!(stream.next().await.data.as_deref(), Some("late"));
    assert_eq!(stream.next_within(PATIENCE).await, Err(NoBlock::End));
    assert_eq!(stream.last_event_id(), "2");
}

#[tokio::test]
async fn publishing_goes_to_fan_out_and_the_api_to_the_gateways() {
    let named = |name: &'static str| {
        move |_: &str| Answer {
            first: format!("{}\"{name}\"", head(200, "application/json")),
            rest: String::new(),
        }
    };
    let (gateway, fanout) = (Web::serve(named("gateway")).await, Web::serve(named("fanout")).await);
    let nginx = Nginx::foghorn(&[&gateway.address.to_string()], &[&fanout.address.to_string()]).await;

    assert_eq!(http::post(&nginx.url("/api/publish"), &json!({})).await.unwrap().body, "fanout");
    for path in ["/api/events/stats", "/api/events/orders.eu", "/api/channels/orders.eu/events"] {
        assert_eq!(http::get(&nginx.url(path)).await.unwrap().body, "gateway", "{path}");
    }
    assert_eq!(http::get(&nginx.url("/metrics")).await.unwrap().status, 404);
}

#[tokio::test]
async fn without_a_gateway_a_stream_is_told_to_come_back() {
    let nginx = Nginx::foghorn(&[], &[]).await;

    let mut stream = SseClient::connect(&nginx.url("/api/events"), &[]).await.unwrap();
    assert_eq!((stream.status(), stream.header("content-type")), (200, Some("text/event-stream")));
    let retry = stream.next().await.retry;
    assert!(retry.is_some_and(|ms| (1000..=5000).contains(&ms)), "{retry:?}");
    assert_eq!(stream.next_within(PATIENCE).await, Err(NoBlock::End));

    let reply = http::get(&nginx.url("/api/events/stats")).await.unwrap();
    assert_eq!(reply.status, 502, "no stream, so the truth");
}
