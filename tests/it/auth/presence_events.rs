//! Who comes and goes, told to who listens.

use std::collections::HashMap;

use foghorn_tests::PATIENCE;
use foghorn_tests::foghorn::Foghorn;
use foghorn_tests::http::{metric, post, request};
use foghorn_tests::sse::{Block, SseClient};
use http::Method;
use serde_json::{Value, json};

use super::users::knows;
use super::{Issuer, bearer};
use crate::deployment::Cluster;

const CONFIG: &str = "[gateway]\npresence_debounce = \"2s\"\n\
                      [[policy]]\npattern = \"room.*\"\naccess = \"public\"\npresence = \"events\"\n\
                      [[policy]]\npattern = \"counted.*\"\naccess = \"public\"\npresence = true\n";

async fn listen(server: &Foghorn, query: &str, token: Option<&str>) -> SseClient {
    let token = token.map(bearer);
    let headers: Vec<_> = token.iter().map(|token| ("authorization", token.as_str())).collect();
    let url = server.url(&format!("/api/events?channels={query}"));
    let mut stream = SseClient::connect(&url, &headers).await.unwrap();
    stream.collect_until(PATIENCE, |block| block.event_type() == "stream-live").await;
    stream
}

/// The next event of who comes and goes: what it says, beside the channel.
async fn told(stream: &mut SseClient) -> Value {
    let blocks = stream.collect_until(PATIENCE, |block| block.event_type() == "presence").await;
    let last = blocks.last().unwrap();
    assert!(last.id.as_ref().is_some_and(|id| !id.is_empty()), "it has an id like any other: {last:?}");
    let said = last.json();
    assert!(said["channel"].as_str().unwrap().starts_with("room."), "{said}");
    json!([said["action"], said["user"], said["count"]])
}

/// Returns once so many are said to listen: the first to come may be told of by number or by name.
async fn until_told(stream: &mut SseClient, count: u64) {
    let counts = |block: &Block| block.event_type() == "presence" && block.json()["count"] == json!(count);
    stream.collect_until(PATIENCE, counts).await;
}

/// Of three users, by two gateways or twice by one.
async fn who_comes_and_goes_is_told(issuer: &Issuer, here: &Foghorn, there: &Foghorn, publish: &Foghorn) {
    let token = |subject: &str| issuer.token(subject, &json!({ "subscribe": [">"], "publish": [">"] }));
    let [watch, ann, bob] = ["watch", "ann", "bob"].map(token);
    let mut watcher = listen(here, "room.a", Some(&watch)).await;
    until_told(&mut watcher, 1).await;
    let first = listen(there, "room.a,counted.a", Some(&ann)).await;
    assert_eq!(told(&mut watcher).await, json!(["join", "ann", 2]));
    // Another stream of hers, elsewhere, and the first one's end are no news.
    let second = listen(here, "room.a", Some(&ann)).await;
    drop(first);
    let third = listen(there, "room.a", Some(&bob)).await;
    assert_eq!(told(&mut watcher).await, json!(["join", "bob", 3]));
    // She comes back in time, by another gateway; he doesn't.
    drop((second, third));
    let second = listen(there, "room.a", Some(&ann)).await;
    assert_eq!(told(&mut watcher).await, json!(["leave", "bob", 2]));
    // Who has no token counts, and has no name.
    let nobody = listen(there, "room.a", None).await;
    assert_eq!(told(&mut watcher).await, json!(["count", null, 3]));

    // Who hears who comes may know who is there.
    let url = here.url("/api/channels/room.a/presence");
    let known = request(Method::GET, &url, &[("authorization", &bearer(&ann))], None).await.unwrap();
    let members = json!([{ "user": "ann", "connections": 1 }, { "user": "watch", "connections": 1 }]);
    assert_eq!((known.status, &known.body["members"]), (200, &members), "{}", known.body);
    // It is no event of the channel's publishers: none of them may say so, and it is not kept with theirs.
    let (url, headers) = (publish.url("/api/publish"), [("authorization", &*bearer(&ann))]);
    let forged =
        json!({ "channel": "room.a", "event": "presence", "data": { "action": "leave", "user": "bob" } });
    let refused = request(Method::POST, &url, &headers, Some(&forged)).await.unwrap();
    assert_eq!(refused.status, 400, "{}", refused.body);
    let event = json!({ "channel": "room.a", "data": "hello", "ack": "durable" });
    let published = request(Method::POST, &url, &headers, Some(&event)).await.unwrap();
    assert_eq!(published.status, 200, "{}", published.body);
    let url = here.url("/api/channels/room.a/events");
    let history = request(Method::GET, &url, &[("authorization", &bearer(&ann))], None).await.unwrap();
    assert_eq!(history.body["events"].as_array().map(Vec::len), Some(1), "{}", history.body);
    // With `events=` it is heard by who asks for it alone.
    let filtered = listen(here, "room.a&events=message", Some(&ann)).await;
    let mut asked = listen(here, "room.a&events=presence", Some(&ann)).await;
    drop(nobody);
    assert_eq!(told(&mut asked).await, json!(["count", null, 2]));
    drop((filtered, second));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_and_goes_is_told_on_standalone() {
    let issuer = Issuer::new();
    let server = issuer.standalone(CONFIG, &[]).await;
    who_comes_and_goes_is_told(&issuer, &server, &server, &server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_and_goes_is_told_in_a_cluster_and_so_is_who_was_lost_with_a_gateway() {
    let issuer = Issuer::new();
    let mut cluster = Cluster::start_closed(&issuer.config(CONFIG)).await;
    cluster.ready().await;
    for gateway in &cluster.gateways {
        knows(gateway, 2.0).await;
    }
    let [here, there] = &cluster.gateways[..] else { panic!("two gateways") };
    who_comes_and_goes_is_told(&issuer, here, there, &cluster.fanouts[0]).await;

    // Several channels: either gateway looks after some of them.
    let rooms: Vec<String> = (0..8).map(|n| format!("room.x{n}")).collect();
    let all = rooms.join(",");
    let token = |subject: &str| issuer.token(subject, &json!({ "subscribe": [">"] }));
    let [watch, ann, bob] = ["watch", "ann", "bob"].map(token);
    let mut watcher = listen(here, &all, Some(&watch)).await;
    let (_lost, mut moved) = (listen(there, &all, Some(&ann)).await, listen(there, &all, Some(&bob)).await);
    // How many listen to each room, and whether she was told to have left.
    let mut known: HashMap<String, (u64, bool)> = HashMap::new();
    let mut note = |block: &Block| {
        if block.event_type() == "presence" {
            let said = block.json();
            assert!(said["action"] != "leave" || said["user"] != "bob", "he was not gone for long: {said}");
            let room = known.entry(said["channel"].as_str().unwrap().to_owned()).or_default();
            room.0 = said["count"].as_u64().unwrap();
            room.1 |= said["action"] == "leave" && said["user"] == "ann";
        }
        known.clone()
    };
    let every = |known: &HashMap<String, (u64, bool)>, state| {
        rooms.iter().all(|room| known.get(room) == Some(&state))
    };
    watcher.collect_until(PATIENCE, |block| every(&note(block), (3, false))).await;
    cluster.gateways[1].kill();
    moved.collect_to_end(PATIENCE).await;
    let here = &cluster.gateways[0];
    let _moved = listen(here, &all, Some(&bob)).await;
    watcher.collect_until(PATIENCE, |block| every(&note(block), (2, true))).await;
    assert_eq!(metric(here.admin(), "foghorn_gateway_presence_failures_total").await, 0.0);
    let event = json!({ "channel": "room.x0", "data": "still" });
    let url = cluster.fanouts[0].url("/api/publish");
    assert_eq!(post(&url, &event).await.unwrap().status, 401, "nobody's publishes are refused as ever");
}
