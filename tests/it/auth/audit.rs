//! What the audit log says, and what it doesn't.

use foghorn_rpc::v1::{PublishRequest, publisher_client::PublisherClient};
use foghorn_tests::PATIENCE;
use foghorn_tests::foghorn::Foghorn;
use foghorn_tests::http::{metric, request};
use foghorn_tests::sse::SseClient;
use foghorn_tests::wait::until;
use http::Method;
use serde_json::{Value, json};

use super::{Issuer, bearer};

/// The first line of the audit log about an action that has these fields.
async fn line(server: &Foghorn, action: &str, fields: &Value) -> Value {
    let what = format!("an audit line {action} with {fields}");
    server
        .process()
        .wait_for_log(&what, PATIENCE, |line| {
            let line: Value = serde_json::from_str(line).ok()?;
            let is_meant = line["target"] == "audit" && line["action"] == action;
            let has = |(name, value): (&String, &Value)| line[name] == *value;
            (is_meant && fields.as_object().unwrap().iter().all(has)).then_some(line)
        })
        .await
}

async fn post(server: &Foghorn, path: &str, token: Option<&str>, body: &Value) -> u16 {
    let token = token.map(bearer);
    let mut headers = vec![("x-forwarded-for", "203.0.113.9")];
    headers.extend(token.as_deref().map(|token| ("authorization", token)));
    request(Method::POST, &server.url(path), &headers, Some(body)).await.unwrap().status
}

#[tokio::test(flavor = "multi_thread")]
async fn who_connected_was_refused_published_and_revoked_is_in_the_audit_log_and_no_secret_is() {
    let issuer = Issuer::new();
    let environment = [("FOGHORN_GATEWAY_SUBJECT_STREAMS", "1")];
    let server = issuer.standalone("query_token = true", &environment).await;
    let ann = issuer.token("ann", &json!({ "subscribe": ["members.>"], "publish": ["members.>"] }));
    let admin = issuer.token("root", &json!({ "role": "admin" }));
    let address = "203.0.113.9";

    let listen = async |path: &str, token: Option<&str>| {
        let token = token.map(bearer);
        let mut headers = vec![("x-forwarded-for", address)];
        headers.extend(token.as_deref().map(|token| ("authorization", token)));
        SseClient::connect(&server.url(path), &headers).await.unwrap()
    };
    let mut stream = listen("/api/events?channels=members.a,members.b", Some(&ann)).await;
    let connected = stream.next().await;
    let id = connected.json()["clientId"].clone();
    let on = "broadcast,user.ann,members.a,members.b";
    line(
        &server,
        "connected",
        &json!({ "subject": "ann", "address": address, "client_id": id, "on": on, "door": "http" }),
    )
    .await;
    drop(listen("/api/events?channels=members.a", Some(&ann)).await);
    line(&server, "refused", &json!({ "subject": "ann", "reason": "too-many-streams" })).await;

    // Refused: what nobody may, whom nobody believes, and what somebody may not.
    let forged = format!("{}x", issuer.token("forger", &json!({})));
    assert_eq!(listen("/api/events/members.a", None).await.status(), 401);
    line(&server, "refused", &json!({ "address": address, "reason": "unauthenticated" })).await;
    let by_url = format!("/api/events?channels=members.a&token={forged}");
    assert_eq!(listen(&by_url, None).await.status(), 401);
    let refused = json!({ "address": address, "reason": "bad-credential", "on": "/api/events" });
    let refused = line(&server, "refused", &refused).await;
    assert_eq!(refused.get("subject"), None, "who isn't believed isn't named: {refused}");
    assert_eq!(listen("/api/events/secrets", Some(&ann)).await.status(), 403);
    let denied = json!({ "subject": "ann", "reason": "access-denied", "on": "secrets", "door": "http" });
    line(&server, "refused", &denied).await;

    // Published, over each door; and what may not be.
    let event = |channel: &str| json!({ "channel": channel, "data": "a secret of ann's" });
    assert_eq!(post(&server, "/api/publish", Some(&ann), &event("members.a")).await, 200);
    line(&server, "published", &json!({ "subject": "ann", "on": "members.a", "door": "http" })).await;
    assert_eq!(post(&server, "/api/publish", Some(&ann), &event("others.a")).await, 403);
    let denied = json!({ "subject": "ann", "reason": "access-denied", "on": "others.a", "door": "http" });
    line(&server, "refused", &denied).await;
    assert_eq!(post(&server, "/api/publish", Some(&forged), &event("members.a")).await, 401);
    let mut grpc = PublisherClient::connect(format!("http://{}", server.grpc())).await.unwrap();
    let asked = PublishRequest { channel: "members.c".into(), data: "x".into(), ..Default::default() };
    grpc.publish(super::doors::of(asked, Some(&bearer(&ann)))).await.unwrap();
    line(&server, "published", &json!({ "subject": "ann", "on": "members.c", "door": "grpc" })).await;

    let revoked = json!({ "subject": "ann" });
    assert_eq!(post(&server, "/api/admin/revoke", Some(&ann), &revoked).await, 403);
    line(&server, "refused", &json!({ "subject": "ann", "on": "admin" })).await;
    assert_eq!(post(&server, "/api/admin/revoke", Some(&admin), &revoked).await, 200);
    let revoked = line(&server, "revoked", &json!({ "subject": "root", "address": address })).await;
    assert!(revoked["on"].as_str().unwrap().starts_with("subject."), "{revoked}");

    let log = server.process().log();
    let tokens = [&ann, &admin, &forged].map(|token| token.rsplit('.').next().unwrap().to_owned());
    for secret in tokens.iter().map(String::as_str).chain(["a secret of ann's", "token="]) {
        assert!(!log.contains(secret), "the log has {secret}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_finds_no_room_in_the_audit_log_is_counted_and_the_next_one_says_so() {
    let issuer = Issuer::new();
    let server = issuer.standalone("audit_per_second = 1", &[]).await;
    let event = json!({ "channel": "members.a", "data": "x" });
    for _ in 0..50 {
        assert_eq!(post(&server, "/api/publish", None, &event).await, 401);
    }
    let suppressed = "foghorn_auth_audit_suppressed_total{action=\"refused\"}";
    let counted = metric(server.admin(), suppressed).await;
    assert!(counted >= 1.0, "{counted}");
    // As soon as there is room again.
    let said = until("a line that says how many found no room", PATIENCE, async || {
        assert_eq!(post(&server, "/api/publish", None, &event).await, 401);
        let log = server.process().log();
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.filter_map(|line| line["suppressed"].as_u64()).max()
    })
    .await;
    assert!(said >= 1);
}
