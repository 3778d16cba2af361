//! Live notifications, stored and heard: in a cluster on PostgreSQL, and in standalone on SQLite.

mod crash;
mod stage;

use foghorn_tests::foghorn::Foghorn;
use foghorn_tests::http::{get, post, request};
use foghorn_tests::nginx::Nginx;
use foghorn_tests::sse::SseClient;
use foghorn_tests::wait::until;
use http::Method;
use serde_json::json;

use self::stage::{LIMIT, Stage, heard, notice, titles};
use crate::deployment::Listener;

#[tokio::test(flavor = "multi_thread")]
async fn what_a_user_is_told_is_stored_and_heard_with_how_much_is_unread_in_a_cluster() {
    tells(&Stage::cluster("[notifications]\nper_user = 5\n").await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_user_is_told_is_stored_and_heard_with_how_much_is_unread_in_standalone() {
    tells(&Stage::standalone("[notifications]\nper_user = 5\n").await).await;
}

async fn tells(stage: &Stage) {
    let (mut first, mut second) = (stage.listen("ann").await, stage.listen("ann").await);
    let sent = stage.notify("ann", "a", Some("order 1/x")).await;
    assert_eq!(sent.status, 201, "{}", sent.body);
    assert_eq!((&sent.body["id"], &sent.body["read"]), (&json!("order 1/x"), &json!(false)));
    let event = first.event().await;
    assert_eq!(
        (event.event_type(), event.json()),
        ("notification", sent.body.clone()),
        "the same as was answered"
    );
    assert_eq!(heard(&mut first, 1).await, ["1 unread"]);
    assert_eq!(heard(&mut second, 2).await, ["a", "1 unread"], "and on every connection");
    // A retry is known by its id, and quiet; another user's id is another's.
    let again = stage.notify("ann", "again", Some("order 1/x")).await;
    assert_eq!((again.status, &again.body), (200, &sent.body));
    assert_eq!(stage.notify("bob", "b", Some("order 1/x")).await.status, 201);
    for title in ["b", "c"] {
        assert_eq!(stage.notify("ann", title, None).await.status, 201);
    }
    assert_eq!(heard(&mut first, 4).await, ["b", "2 unread", "c", "3 unread"]);

    // Marked once, said once.
    assert_eq!(stage.post("/order%201%2Fx/read?user=ann").await, json!({ "unread": 2 }));
    assert_eq!(stage.post("/order%201%2Fx/read?user=ann").await, json!({ "unread": 2 }));
    let unknown = stage.ask(Method::POST, "/nothing/read?user=ann", None).await.unwrap();
    assert_eq!(unknown.status, 404);
    assert!(unknown.body["type"].as_str().unwrap().ends_with("/no-notification"), "{}", unknown.body);
    let page = stage.get("?user=ann").await;
    assert_eq!(
        (titles(&page), &page["unread"], &page["next"]),
        (vec!["c", "b", "a"], &json!(2), &json!(null))
    );
    let reads: Vec<bool> =
        page["notifications"].as_array().unwrap().iter().map(|one| one["read"].as_bool().unwrap()).collect();
    assert_eq!(reads, [false, false, true]);
    assert_eq!(titles(&stage.get("?user=ann&unread=1").await), ["c", "b"]);
    assert_eq!(stage.post("/read-all?user=ann").await, json!({ "unread": 0 }));
    assert_eq!(stage.post("/read-all?user=ann").await, json!({ "unread": 0 }));
    assert_eq!(heard(&mut first, 2).await, ["2 unread", "0 unread"]);

    // Only the newest five are kept, and pages are of those.
    for title in ["d", "e", "f", "g"] {
        stage.notify("ann", title, None).await;
    }
    let all = heard(&mut first, 8).await;
    assert_eq!(all.last().unwrap(), "4 unread");
    let (mut path, mut pages) = ("?user=ann&limit=2".to_owned(), Vec::new());
    loop {
        let page = stage.get(&path).await;
        pages.push(titles(&page).join(""));
        let Some(next) = page["next"].as_str() else { break };
        path = format!("?user=ann&limit=2&before={next}");
    }
    assert_eq!(pages, ["gf", "ed", "c"]);

    // Erased, for this user alone.
    assert_eq!(stage.done(Method::DELETE, "?user=ann").await, json!({ "erased": 5 }));
    assert_eq!(heard(&mut first, 1).await, ["0 unread"]);
    let empty = json!({ "notifications": [], "unread": 0, "next": null });
    assert_eq!(stage.get("?user=ann").await, empty);
    assert_eq!(titles(&stage.get("?user=bob").await), ["b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_malformed_is_named_by_its_key_and_neither_stored_nor_heard() {
    let stage = Stage::standalone("[[policy]]\npattern = \"user.small\"\nevent_bytes = 300\n").await;
    let mut listener = stage.listen("ann").await;
    for (key, value) in [
        ("userId", json!("")),
        ("type", json!("fatal")),
        ("title", json!("")),
        ("title", json!("x".repeat(257))),
        ("message", json!("x".repeat(4097))),
        ("link", json!("javascript:alert(1)")),
        ("link", json!("//evil.example/x")),
        ("link", json!("data:text/html,x")),
        ("extra", json!(1)),
    ] {
        let mut body = notice("ann", "wrong", None);
        body[key] = value;
        let reply = stage.ask(Method::POST, "", Some(&body)).await.unwrap();
        assert_eq!(reply.status, 400, "{body}");
        assert!(reply.body["type"].as_str().unwrap().ends_with("/bad-notification"), "{}", reply.body);
    }
    let mut large = notice("small", "large", None);
    large["message"] = "x".repeat(300).into();
    let reply = stage.ask(Method::POST, "", Some(&large)).await.unwrap();
    assert_eq!(reply.status, 413, "{}", reply.body);
    for path in
        ["?limit=0", "?limit=201&user=ann", "?before=x&user=ann", "?unread=2&user=ann", "?users=ann", ""]
    {
        assert_eq!(stage.ask(Method::GET, path, None).await.unwrap().status, 400, "{path}");
    }
    for (method, path, status) in [
        (Method::DELETE, "", 400),
        (Method::PUT, "", 405),
        (Method::GET, "/read-all", 405),
        (Method::GET, "/x", 404),
        (Method::POST, "/x/y/read", 404),
    ] {
        assert_eq!(stage.ask(method, path, None).await.unwrap().status, status, "{path}");
    }
    stage.notify("ann", "right", None).await;
    assert_eq!(heard(&mut listener, 2).await, ["right", "1 unread"]);
    assert_eq!(titles(&stage.get("?user=small").await), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_older_than_it_is_kept_is_deleted_and_no_longer_counts() {
    let mut stage = Stage::cluster("").await;
    let mut listener = stage.listen("ann").await;
    for title in ["old", "older", "new"] {
        stage.notify("ann", title, None).await;
    }
    assert_eq!(heard(&mut listener, 6).await.last().unwrap(), "3 unread");
    let mut database = stage.database().await;
    let age = "UPDATE foghorn.notifications SET created_us = created_us - 91::bigint * 86400000000
               WHERE title LIKE 'old%'";
    sqlx::query(age).execute(&mut database).await.unwrap();
    // Whoever starts looks at once.
    stage.service.kill();
    stage.service.restart().await;
    assert_eq!(heard(&mut listener, 1).await, ["1 unread"]);
    assert_eq!(titles(&stage.get("?user=ann").await), ["new"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_notifications_begins_with_how_many_are_unread_in_a_cluster() {
    let mut stage = Stage::cluster("").await;
    begins_with_the_count(&stage).await;
    // Where nobody knows the number, it isn't made up.
    stage.service.kill();
    let mut stream = notifications(stage.gateway(), "ann").await;
    let block = stream.next().await;
    assert_eq!(
        (block.event_type(), &block.json()["reason"]),
        ("stream-end", &json!("notifications-unavailable"))
    );
    stage.service.restart().await;
    until("a stream that begins", LIMIT, async || {
        let mut stream = notifications(stage.gateway(), "ann").await;
        (stream.next().await.event_type() == "connected").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_notifications_begins_with_how_many_are_unread_in_standalone() {
    begins_with_the_count(&Stage::standalone("").await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shipped_nginx_has_gateways_serve_the_stream_and_the_notifications_service_the_rest() {
    let stage = Stage::cluster("").await;
    let nginx = Nginx::foghorn_with(&[stage.gateway().http()], &[], &[stage.service.http()]).await;
    let url = nginx.url("/api/notifications");
    assert_eq!(post(&url, &notice("ann", "a", Some("1"))).await.unwrap().status, 201);
    let mut listener = Listener::open(&format!("{url}/stream?user=ann"), None).await;
    assert_eq!(listener.replayed[0].json(), json!({ "unread": 1 }));
    let marked = request(Method::POST, &format!("{url}/1/read?user=ann"), &[], None).await.unwrap();
    assert_eq!((marked.status, marked.body), (200, json!({ "unread": 0 })));
    let mut last = heard(&mut listener, 1).await;
    while last != ["0 unread"] {
        last = heard(&mut listener, 1).await;
    }
    assert_eq!(titles(&get(&format!("{url}?user=ann")).await.unwrap().body), ["a"]);
}

async fn notifications(gateway: &Foghorn, user: &str) -> SseClient {
    let stream =
        SseClient::connect(&gateway.url(&format!("/api/notifications/stream?user={user}")), &[]).await;
    let stream = stream.unwrap();
    assert_eq!(stream.status(), 200);
    stream
}

async fn begins_with_the_count(stage: &Stage) {
    for title in ["a", "b"] {
        stage.notify("ann", title, None).await;
    }
    let listener = Listener::of(notifications(stage.gateway(), "ann").await).await;
    let before = listener.replayed.first().unwrap();
    assert_eq!((before.event_type(), before.json()), ("notification-count", json!({ "unread": 2 })));
    let mut listener = Listener::of(notifications(stage.gateway(), "bob").await).await;
    assert_eq!(listener.replayed[0].json(), json!({ "unread": 0 }));
    stage.notify("bob", "c", None).await;
    assert_eq!(heard(&mut listener, 2).await, ["c", "1 unread"]);
    // Who comes back is told what was missed, and how much is unread now.
    let cursor = listener.cursor();
    stage.post("/read-all?user=bob").await;
    let url = stage.gateway().url("/api/notifications/stream?user=bob");
    let mut listener = Listener::open(&url, Some(&cursor)).await;
    assert_eq!(listener.connected["recovered"], true);
    assert_eq!(listener.replayed[0].json(), json!({ "unread": 0 }));
    stage.notify("bob", "d", None).await;
    let mut last = heard(&mut listener, 1).await;
    while last != ["1 unread"] {
        last = heard(&mut listener, 1).await;
    }
    let nobody = SseClient::connect(&stage.gateway().url("/api/notifications/stream"), &[]).await.unwrap();
    assert_eq!(nobody.status(), 400, "it has to be said whose");
}
