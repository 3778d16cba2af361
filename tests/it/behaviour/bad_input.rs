//! Bad input gets a clear error, and nothing is lost.

use std::sync::Arc;

use foghorn_tests::http::{get, request};
use http::Method;
use serde_json::{Value, json};

use crate::deployment::Deployment;

/// Asserts status, problem type and a part of the detail.
fn assert_problem(reply: &foghorn_tests::http::Reply, status: u16, code: &str, detail: &str, what: &str) {
    let body = &reply.body;
    assert_eq!(reply.status, status, "{what}: {body}");
    assert_eq!(reply.headers.get("content-type").unwrap(), "application/problem+json", "{what}");
    assert!(body["type"].as_str().unwrap().ends_with(&format!("/{code}")), "{what}: {body}");
    assert!(body["detail"].as_str().unwrap_or_default().contains(detail), "{what}: {body}");
}

pub(super) async fn bad_publishes_say_what_is_wrong(d: Arc<Deployment>) {
    let big = "x".repeat(300_000);
    for (body, status, code, detail) in [
        (json!({ "channel": "a..b", "data": 1 }), 400, "bad-channel", "token 2 is empty"),
        (json!({ "channel": "a.*", "data": 1 }), 400, "bad-channel", "pattern"),
        (json!({ "channel": "ok", "event": "a\nb", "data": 1 }), 400, "bad-event-type", "LF"),
        (json!({ "channel": "ok", "event": "stream-x", "data": 1 }), 400, "reserved-event-type", "reserved"),
        (json!({ "channel": "ok", "id": "a\u{0}", "data": 1 }), 400, "bad-event-id", "NUL"),
        (json!({ "channel": "ok", "id": "a\r", "data": 1 }), 400, "bad-event-id", "CR"),
        (json!({ "channel": "ok", "ttl": 0, "data": 1 }), 400, "bad-ttl", "ttl"),
        (json!({ "channel": "ok", "data": big }), 413, "event-too-large", "262144"),
        (json!({ "chanel": "ok", "data": 1 }), 400, "bad-event", "did you mean channel?"),
        (json!({ "channel": "ok" }), 400, "bad-event", "data"),
        (json!({ "channel": "ok", "data": 1, "ack": "maybe" }), 400, "bad-ack", "durable"),
        (json!("text"), 400, "bad-event", ""),
    ] {
        assert_problem(
            &d.try_publish(&body).await,
            status,
            code,
            detail,
            &body.to_string()[..60.min(body.to_string().len())],
        );
    }
    let url = d.publish_url();
    let typed =
        request(Method::POST, &url, &[("content-type", "text/plain")], Some(&json!({}))).await.unwrap();
    assert_problem(&typed, 415, "content-type", "application/json", "text/plain");
    assert_problem(&get(&url).await.unwrap(), 405, "method", "POST", "GET");
}

pub(super) async fn one_bad_event_does_not_spoil_a_batch(d: Arc<Deployment>) {
    let channel = d.name("batch");
    let mut listener = d.listen(&format!("channels={channel}"), None).await;
    let answers = d
        .publish(json!([
            { "channel": channel, "data": "1" },
            { "channel": "not a channel", "data": "2" },
            { "channel": channel, "event": "connected", "data": "3" },
            { "channel": channel, "data": "4" },
        ]))
        .await;
    let codes: Vec<&str> = answers
        .as_array()
        .unwrap()
        .iter()
        .map(|a| a["error"]["type"].as_str().map_or("ok", |t| t.rsplit('/').next().unwrap()))
        .collect();
    assert_eq!(codes, ["ok", "bad-channel", "reserved-event-type", "ok"]);
    assert_eq!(listener.data(2).await, ["1", "4"]);
}

pub(super) async fn bad_queries_say_what_is_wrong(d: Arc<Deployment>) {
    let many = (0..101).map(|n| format!("c{n}")).collect::<Vec<_>>().join(",");
    for (path, status, code, detail) in [
        ("/api/events?chanels=a".to_owned(), 400, "bad-query", "did you mean channels?"),
        ("/api/events?last_event_id=a".to_owned(), 400, "bad-query", "did you mean lastEventId?"),
        ("/api/events?channels=a..b".to_owned(), 400, "bad-channel", "token 2"),
        ("/api/events?channels=a.%3E.b".to_owned(), 400, "bad-channel", "last token"),
        (format!("/api/events?channels={many}"), 400, "too-many-channels", "101"),
        (format!("/api/events?channels=a&events={}", "e".repeat(129)), 400, "bad-query", "at most 128"),
        ("/api/events?channels=a&events=b,%20c".to_owned(), 400, "bad-query", "white space"),
        ("/api/events?channels=a&events=b,".to_owned(), 400, "bad-query", "empty"),
        ("/api/events?channels=a&events=stream-reset".to_owned(), 400, "bad-query", "always come"),
        ("/api/events?channels=a&since=yesterday".to_owned(), 400, "bad-query", "RFC 3339"),
        ("/api/events?channels=a&last=0".to_owned(), 400, "bad-query", "whole number"),
        ("/api/events?channels=a&last=1&since=1m".to_owned(), 400, "bad-query", "exclude"),
        ("/api/events?channels=a&envelope=yes".to_owned(), 400, "bad-query", "1 or 0"),
        ("/api/events?channels=a&batch=0".to_owned(), 400, "bad-query", "from 1 to 5000"),
        ("/api/events?channels=a&batch=10&envelope=1".to_owned(), 400, "bad-query", "exclude"),
        ("/api/events/a?channels=b".to_owned(), 400, "bad-query", "path"),
        ("/api/channels/a.*/events".to_owned(), 400, "bad-channel", "pattern"),
        ("/api/channels/a/events?limit=5000".to_owned(), 400, "bad-query", "1000"),
        ("/api/nothing".to_owned(), 404, "not-found", "/api/nothing"),
    ] {
        let reply = get(&d.gateway_url(0, &path)).await.unwrap();
        assert_problem(&reply, status, code, detail, &path[..60.min(path.len())]);
    }
    let named = get(&d.gateway_url(0, "/api/events?channels=ok,a..b")).await.unwrap();
    assert_eq!(named.body["key"], "channels", "{}", named.body);
}

pub(super) async fn other_websites_are_refused(d: Arc<Deployment>) {
    let body = json!({ "channel": "ok", "data": 1 });
    let (publish, events) = (d.publish_url(), d.gateway_url(0, "/api/events"));
    for (method, url, body) in [(Method::POST, &publish, Some(&body)), (Method::GET, &events, None::<&Value>)]
    {
        let ask = async |header: (&str, &str)| request(method.clone(), url, &[header], body).await.unwrap();
        assert_problem(&ask(("origin", "https://evil.example")).await, 403, "origin", "evil", url);
        assert_problem(&ask(("host", "evil.example")).await, 421, "host", "evil", url);
    }
}
