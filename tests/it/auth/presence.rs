//! Who listens to a channel, at all gateways.

use foghorn_tests::PATIENCE;
use foghorn_tests::foghorn::Foghorn;
use foghorn_tests::http::{Reply, request};
use foghorn_tests::sse::SseClient;
use foghorn_tests::wait::until;
use http::Method;
use serde_json::{Value, json};

use super::users::knows;
use super::{Issuer, bearer};
use crate::deployment::Cluster;

// It asks more often than one may by default.
const CONFIG: &str = "[gateway]\nsubject_per_minute = 60000\nsubject_burst = 10000\n\
                      [[policy]]\npattern = \"room.*\"\naccess = \"authenticated\"\npresence = true\n\
                      [[policy]]\npattern = \"hall.*\"\naccess = \"public\"\npresence = true\n";

async fn listen(server: &Foghorn, channels: &str, token: Option<&str>) -> (SseClient, String) {
    let token = token.map(bearer);
    let headers: Vec<_> = token.iter().map(|token| ("authorization", token.as_str())).collect();
    let url = server.url(&format!("/api/events?channels={channels}"));
    let mut stream = SseClient::connect(&url, &headers).await.unwrap();
    let blocks = stream.collect_until(PATIENCE, |block| block.event_type() == "stream-live").await;
    let id = blocks[0].json()["clientId"].as_str().unwrap().to_owned();
    (stream, id)
}

async fn presence(server: &Foghorn, channel: &str, token: Option<&str>) -> Reply {
    let token = token.map(bearer);
    let headers: Vec<_> = token.iter().map(|token| ("authorization", token.as_str())).collect();
    let url = server.url(&format!("/api/channels/{channel}/presence"));
    request(Method::GET, &url, &headers, None).await.unwrap()
}

/// Waits until so many connections, users and streams of nobody are counted: an answer may be a second old.
async fn counts(server: &Foghorn, channel: &str, token: Option<&str>, expected: Value) {
    until(&format!("{expected} on {channel}"), PATIENCE, async || {
        (counted(&presence(server, channel, token).await).0 == expected).then_some(())
    })
    .await;
}

/// Connections, users and streams of nobody on a channel, and who they are.
fn counted(reply: &Reply) -> (Value, Value) {
    assert_eq!(reply.status, 200, "{}", reply.body);
    let body = &reply.body;
    (
        json!([body["connections"], body["users"], body["anonymous"], body["complete"]]),
        body["members"].clone(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn how_many_listen_at_all_gateways_may_know_who_may_listen_and_who_they_are_operators() {
    let issuer = Issuer::new();
    let mut cluster = Cluster::start_closed(&issuer.config(CONFIG)).await;
    cluster.ready().await;
    for gateway in &cluster.gateways {
        knows(gateway, 2.0).await;
    }
    let grants = json!({ "subscribe": ["room.>", "hall.>", "other.>"] });
    let [ann, bob] = ["ann", "bob"].map(|subject| issuer.token(subject, &grants));
    let admin = issuer.token("root", &json!({ "subscribe": [">"], "role": "admin" }));
    let stranger = issuer.token("eve", &json!({ "subscribe": ["hall.>"] }));
    let [here, there] = &cluster.gateways[..] else { panic!("two gateways") };
    let (first, _) = listen(here, "room.a,hall.a", Some(&ann)).await;
    let (_second, _) = listen(there, "room.a", Some(&ann)).await;
    let (_third, id) = listen(there, "hall.a,other.a", Some(&bob)).await;
    let (_nobody, _) = listen(here, "hall.a", None).await;
    let (_pattern, _) = listen(here, "room.*", Some(&bob)).await;

    for gateway in [here, there] {
        assert_eq!(
            counted(&presence(gateway, "room.a", Some(&ann)).await),
            (json!([2, 1, 0, true]), Value::Null)
        );
        let known = json!([{ "user": "ann", "connections": 2 }]);
        assert_eq!(
            counted(&presence(gateway, "room.a", Some(&admin)).await),
            (json!([2, 1, 0, true]), known)
        );
        assert_eq!(counted(&presence(gateway, "hall.a", None).await), (json!([3, 2, 1, true]), Value::Null));
        assert_eq!(counted(&presence(gateway, "room.b", Some(&ann)).await).0, json!([0, 0, 0, true]));
    }
    for (channel, token, refused) in [
        ("room.a", None, (401, "unauthenticated")),
        ("room.a", Some(&stranger), (403, "access-denied")),
        ("members.a", Some(&admin), (404, "no-presence")),
        ("room.*", Some(&admin), (400, "bad-channel")),
    ] {
        let reply = presence(here, channel, token.map(String::as_str)).await;
        let kind = reply.body["type"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
        assert_eq!((reply.status, kind.as_str()), refused, "{channel}: {}", reply.body);
    }

    // A stream that is changed, one that ends, and a gateway that dies.
    let change = json!({ "clientId": id, "channels": ["room.a"] });
    let url = here.url("/api/events/subscribe");
    let changed =
        request(Method::POST, &url, &[("authorization", &*bearer(&bob))], Some(&change)).await.unwrap();
    assert_eq!(changed.status, 200, "{}", changed.body);
    counts(here, "room.a", Some(&ann), json!([3, 2, 0, true])).await;
    counts(there, "hall.a", None, json!([2, 1, 1, true])).await;
    drop(first);
    counts(there, "room.a", Some(&ann), json!([2, 2, 0, true])).await;
    cluster.gateways[1].kill();
    let here = &cluster.gateways[0];
    // Not known to be all, until the dead is missed.
    counts(here, "room.a", Some(&ann), json!([0, 0, 0, false])).await;
    counts(here, "room.a", Some(&ann), json!([0, 0, 0, true])).await;
}
