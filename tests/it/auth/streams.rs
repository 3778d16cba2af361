//! What a stream hears for whom, and until when.

use std::time::Duration;

use foghorn_tests::PATIENCE;
use foghorn_tests::http::request;
use foghorn_tests::sse::{NoBlock, SseClient};
use http::Method;
use serde_json::{Value, json};

use super::{Issuer, bearer, claims};

async fn publish(url: &str, token: &str, channel: &str, data: &str) {
    let event = json!({ "channel": channel, "data": data });
    let reply = request(Method::POST, url, &[("authorization", &bearer(token))], Some(&event)).await.unwrap();
    assert_eq!(reply.status, 200, "{:?}", reply.body);
}

async fn events(stream: &mut SseClient, last: &str) -> Vec<String> {
    let blocks = stream.collect_until(PATIENCE, |block| block.data.as_deref() == Some(last)).await;
    let published = blocks.into_iter().filter(|block| block.event_type() == "message" && block.is_event());
    published.filter_map(|block| block.data).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_hears_their_own_channel_and_everyones_unasked_and_nobody_elses() {
    let issuer = Issuer::new();
    let process = issuer.standalone("", &[]).await;
    let service = issuer.token("service", &json!({ "publish": [">"] }));
    let (url, events_url) = (process.url("/api/publish"), process.url("/api/events"));
    let (ann, odd) = (bearer(&issuer.token("ann", &json!({}))), bearer(&issuer.token("*", &json!({}))));
    let mut ann = SseClient::connect(&events_url, &[("authorization", &ann)]).await.unwrap();
    let mut odd = SseClient::connect(&events_url, &[("authorization", &odd)]).await.unwrap();
    let mut nobody = SseClient::connect(&format!("{events_url}?channels=open.a"), &[]).await.unwrap();
    for stream in [&mut ann, &mut odd, &mut nobody] {
        stream.collect_until(PATIENCE, |block| block.event_type() == "stream-live").await;
    }
    for (channel, data) in [
        ("user.bob", "bob's"),
        ("user.ann", "ann's"),
        ("user.~Kg", "star's"),
        ("broadcast", "all's"),
        ("open.a", "end"),
    ] {
        publish(&url, &service, channel, data).await;
    }
    assert_eq!(events(&mut ann, "all's").await, ["ann's", "all's"]);
    assert_eq!(events(&mut odd, "all's").await, ["star's", "all's"]);
    // What is for everyone is not for those without a credential, unless a policy says so.
    assert_eq!(events(&mut nobody, "end").await, ["end"]);
    assert_eq!(SseClient::connect(&events_url, &[]).await.unwrap().status(), 401, "there is nothing to hear");
}

#[tokio::test(flavor = "multi_thread")]
async fn anothers_cursor_shows_nothing_of_theirs() {
    let issuer = Issuer::new();
    let process = issuer.standalone("", &[]).await;
    let service = issuer.token("service", &json!({ "publish": [">"] }));
    let url = process.url("/api/publish");
    let [ann, bob] = ["ann", "bob"].map(|subject| bearer(&issuer.token(subject, &json!({}))));
    let theirs = process.url("/api/events?channels=user.bob,members.a");
    let mut bobs = SseClient::connect(&theirs, &[("authorization", &bob)]).await.unwrap();
    bobs.collect_until(PATIENCE, |block| block.event_type() == "stream-live").await;
    let cursor = bobs.last_event_id().to_owned();
    for number in 0..5 {
        for user in ["bob", "ann"] {
            publish(&url, &service, &format!("user.{user}"), &format!("{user}'s {number}")).await;
        }
    }
    publish(&url, &service, "broadcast", "all's").await;
    let both = [("authorization", ann.as_str()), ("last-event-id", cursor.as_str())];
    let mut anns = SseClient::connect(&process.url("/api/events?channels=members.a"), &both).await.unwrap();
    let expected = ["ann's 0", "ann's 1", "ann's 2", "ann's 3", "ann's 4", "all's"];
    assert_eq!(events(&mut anns, "all's").await, expected);
    // Nor does it open what its URL does not.
    assert_eq!(SseClient::connect(&theirs, &both).await.unwrap().status(), 403);
    assert_eq!(SseClient::connect(&theirs, &both[1..]).await.unwrap().status(), 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_told_before_its_token_ends_and_ends_with_it() {
    let issuer = Issuer::new();
    let process = issuer.standalone("expiring_notice = \"2s\"", &[]).await;
    let url = process.url("/api/events?channels=members.a");
    let ends = super::now() + 4;
    let mut claims = claims("ann", 0, &json!({}));
    claims["exp"] = json!(ends);
    let authorization = bearer(&issuer.ec.mint("ec", &claims).unwrap());
    let headers = [("authorization", authorization.as_str())];
    let mut stream = SseClient::connect(&url, &headers).await.unwrap();
    assert_eq!(stream.status(), 200);
    let (blocks, end) = stream.collect_to_end(Duration::from_secs(30)).await;
    assert_eq!(end, NoBlock::End, "{blocks:#?}");
    let types: Vec<_> =
        blocks.iter().filter(|b| b.is_event()).map(|block| block.event_type().to_owned()).collect();
    assert_eq!(types, ["connected", "stream-live", "stream-expiring", "stream-end"]);
    let of = |name: &str| blocks.iter().find(|block| block.event_type() == name).unwrap();
    let told: Value = of("stream-expiring").json();
    assert!(told["expires"].as_str().unwrap().ends_with('Z'), "{told}");
    assert_eq!(of("stream-end").json()["reason"], "token-expired");
    assert!(of("stream-end").retry.is_some() && of("stream-end").id.is_some());
    assert!(super::now() >= ends, "no sooner than the token");
    // Never silently anonymous: nor is the same token taken again.
    assert_eq!(SseClient::connect(&url, &headers).await.unwrap().status(), 401);
    let open = process.url("/api/events?channels=open.a");
    assert_eq!(SseClient::connect(&open, &headers).await.unwrap().status(), 401);
    let metrics = foghorn_tests::http::metric(
        process.admin(),
        "foghorn_gateway_streams_ended_total{reason=\"token-expired\"}",
    );
    assert!((metrics.await - 1.0).abs() < 0.1);
}
