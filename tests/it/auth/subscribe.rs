//! Changing a live stream: until when it lasts and what it hears, for whom, and through which gateway.

use std::time::Duration;

use foghorn_tests::PATIENCE;
use foghorn_tests::foghorn::Foghorn;
use foghorn_tests::http::{Reply, metric, request};
use foghorn_tests::http2::Http2;
use foghorn_tests::sse::{Block, NoBlock, SseClient};
use foghorn_tests::wait::until;
use http::Method;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::{Issuer, bearer, claims, now};
use crate::deployment::Cluster;

const PATH: &str = "/api/events/subscribe";

async fn ask(server: &Foghorn, headers: &[(&str, &str)], body: &Value) -> Reply {
    request(Method::POST, &server.url(PATH), headers, Some(body)).await.unwrap()
}

/// Asks with a token.
async fn ask_as(server: &Foghorn, token: &str, body: &Value) -> Reply {
    ask(server, &[("authorization", &bearer(token))], body).await
}

/// A stream's `clientId`, once it is live.
async fn live(stream: &mut SseClient) -> String {
    assert_eq!(stream.status(), 200);
    let blocks = stream.collect_until(PATIENCE, |block| block.event_type() == "stream-live").await;
    let connected = blocks.iter().find(|block| block.event_type() == "connected").unwrap();
    connected.json()["clientId"].as_str().unwrap().to_owned()
}

/// A live stream of whoever has these headers, and its `clientId`.
async fn listen(server: &Foghorn, query: &str, headers: &[(&str, &str)]) -> (SseClient, String) {
    let url = server.url(&format!("/api/events?{query}"));
    let mut stream = SseClient::connect(&url, headers).await.unwrap();
    let id = live(&mut stream).await;
    (stream, id)
}

fn kind(reply: &Reply) -> (u16, &str) {
    let kind = reply.body["type"].as_str().unwrap_or_default();
    (reply.status, kind.rsplit('/').next().unwrap_or_default())
}

async fn publish(server: &Foghorn, token: &str, channel: &str) {
    let event = json!({ "channel": channel, "data": channel });
    let headers = [("authorization", &*bearer(token))];
    let reply = request(Method::POST, &server.url("/api/publish"), &headers, Some(&event)).await.unwrap();
    assert_eq!(reply.status, 200, "{}", reply.body);
}

/// The data of the events until this one.
async fn heard(stream: &mut SseClient, last: &str) -> Vec<String> {
    let blocks = stream.collect_until(PATIENCE, |block| block.data.as_deref() == Some(last)).await;
    let events = blocks.into_iter().filter(|block| block.event_type() == "message" && block.is_event());
    events.filter_map(|block| block.data).collect()
}

fn expiring(block: &Block) -> bool {
    block.event_type() == "stream-expiring"
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fresh_token_prolongs_a_live_stream_which_is_told_again_before_its_new_end() {
    let issuer = Issuer::new();
    let server = issuer.standalone("expiring_notice = \"2s\"", &[]).await;
    let until = |ends: i64| {
        let mut claims = claims("ann", 0, &json!({}));
        claims["exp"] = json!(ends);
        issuer.ec.mint("ec", &claims).unwrap()
    };
    let (first, second) = (now() + 4, now() + 7);
    let (path, old) = ("/api/events?channels=members.a", bearer(&until(first)));
    let headers = [("authorization", old.as_str())];
    // Served by a reactor, and by a task.
    let connection = Http2::connect(&server.url("")).await.unwrap();
    let alone = SseClient::connect(&server.url(path), &headers).await.unwrap();
    let streams = [alone, connection.listen(path, &headers).await.unwrap()];
    let prolonged = streams.map(|mut stream| {
        let (server, fresh) = (&server, until(second));
        async move {
            let id = live(&mut stream).await;
            stream.collect_until(PATIENCE, expiring).await;
            let reply = ask_as(server, &fresh, &json!({ "clientId": id })).await;
            assert_eq!((reply.status, &reply.body["clientId"]), (200, &json!(id)), "{}", reply.body);
            assert_eq!(reply.headers["cache-control"], "no-store");
            let (blocks, end) = stream.collect_to_end(Duration::from_secs(30)).await;
            let said: Vec<_> = blocks.iter().filter(|block| block.is_event()).collect();
            let types: Vec<_> = said.iter().map(|block| block.event_type()).collect();
            assert_eq!((types, end), (vec!["stream-expiring", "stream-end"], NoBlock::End), "{blocks:?}");
            assert_eq!(said[0].json()["expires"], reply.body["expires"], "told again, before the new end");
            assert_eq!(said[1].json()["reason"], "token-expired");
            assert!(now() >= second, "no sooner than its new token");
        }
    });
    futures::future::join_all(prolonged).await;
    let changed = metric(server.http(), "foghorn_gateway_changes_total{outcome=\"changed\"}").await;
    assert!((changed - 2.0).abs() < 0.1, "{changed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_changed_by_its_own_principal_alone_who_gets_no_more_than_by_opening_one() {
    let issuer = Issuer::new();
    let server = issuer.standalone("", &[]).await;
    let service = issuer.token("service", &json!({ "publish": [">"] }));
    let grants = json!({ "subscribe": ["members.>"] });
    let [ann, bob] = ["ann", "bob"].map(|subject| issuer.token(subject, &grants));
    let less = issuer.token("ann", &json!({ "subscribe": ["members.b"] }));
    let (of_ann, session) = (bearer(&ann), format!("foghorn_token={ann}"));
    let (mut stream, id) = listen(&server, "channels=members.a", &[("authorization", &of_ann)]).await;
    let (mut nobodys, open) = listen(&server, "channels=open.a", &[]).await;

    let prolong = json!({ "clientId": id });
    let with = |channels: &[&str]| json!({ "clientId": id, "channels": channels });
    let unknown = json!({ "clientId": format!("{}{}", &id[..12], "0".repeat(20)) });
    let session = ("cookie", session.as_str());
    let denied = (403, "access-denied");
    for (headers, body, refused) in [
        (vec![("authorization", bearer(&bob))], &prolong, (403, "foreign-stream")),
        (vec![("authorization", bearer(&bob))], &with(&["open.a"]), (403, "foreign-stream")),
        (vec![], &prolong, (401, "unauthenticated")),
        (vec![], &with(&["open.a"]), (401, "unauthenticated")),
        (vec![("authorization", "Bearer x".to_owned())], &prolong, (401, "bad-credential")),
        // Nobody's stream is no less somebody else's.
        (vec![("authorization", of_ann.clone())], &json!({ "clientId": open }), (403, "foreign-stream")),
        (vec![], &json!({ "clientId": open, "channels": ["members.a"] }), (401, "unauthenticated")),
        (vec![], &json!({ "clientId": open, "channels": [] }), (401, "unauthenticated")),
        (vec![("authorization", of_ann.clone())], &unknown, (404, "unknown-stream")),
        (vec![("authorization", of_ann.clone())], &with(&["members.a", "other"]), denied),
        (vec![("authorization", of_ann.clone())], &with(&["user.bob"]), denied),
        (vec![("authorization", of_ann.clone())], &with(&vec!["members.a"; 101]), (400, "too-many-channels")),
        // It may not hear what the stream hears: the stream keeps the token that it has.
        (vec![("authorization", bearer(&less))], &prolong, denied),
        (vec![("authorization", bearer(&less))], &json!({ "clientId": id, "events": ["x"] }), denied),
        (vec![(session.0, session.1.to_owned())], &prolong, (403, "origin")),
        (
            vec![(session.0, session.1.to_owned()), ("origin", "https://evil.example".to_owned())],
            &prolong,
            (403, "origin"),
        ),
    ] {
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let reply = ask(&server, &headers, body).await;
        assert_eq!(kind(&reply), refused, "{headers:?} {body}: {}", reply.body);
    }
    let get = request(Method::GET, &server.url(PATH), &[], None).await.unwrap();
    assert_eq!((kind(&get), &get.headers["allow"]), ((405, "method"), &"POST".parse().unwrap()));

    // Nothing of that has changed anything.
    for channel in ["open.a", "members.b", "user.bob", "members.a"] {
        publish(&server, &service, channel).await;
    }
    assert_eq!(heard(&mut stream, "members.a").await, ["members.a"]);
    assert_eq!(heard(&mut nobodys, "open.a").await, ["open.a"]);

    let page = [session, ("origin", "https://app.example")];
    let reply = ask(&server, &page, &with(&["members.b", "open.*"])).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    let reply = ask(&server, &[], &json!({ "clientId": open, "channels": ["open.b"] })).await;
    assert_eq!((reply.status, &reply.body["expires"]), (200, &Value::Null), "{}", reply.body);
    for channel in ["members.a", "members.b", "open.a", "open.b", "user.ann", "broadcast"] {
        publish(&server, &service, channel).await;
    }
    // What is heard unasked stays.
    let expected = ["members.b", "open.a", "open.b", "user.ann", "broadcast"];
    assert_eq!(heard(&mut stream, "broadcast").await, expected);
    assert_eq!(heard(&mut nobodys, "open.b").await, ["open.b"]);
    // With less it may go on where it hears less.
    let reply = ask_as(&server, &less, &with(&["members.b"])).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    publish(&server, &service, "open.a").await;
    publish(&server, &service, "members.b").await;
    assert_eq!(heard(&mut stream, "members.b").await, ["members.b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_gateway_changes_every_stream_of_the_cluster_and_says_when_it_cannot() {
    let issuer = Issuer::new();
    let mut cluster = Cluster::start_closed(&issuer.config("")).await;
    cluster.ready().await;
    let service = issuer.token("service", &json!({ "publish": [">"] }));
    let [ann, bob] = ["ann", "bob"].map(|subject| issuer.token(subject, &json!({})));
    let mut longer = claims("ann", 7200, &json!({}));
    longer["jti"] = json!("longer");
    let longer = issuer.ec.mint("ec", &longer).unwrap();
    let [here, there] = &cluster.gateways[..] else { panic!("two gateways") };
    let (mut stream, id) = listen(here, "channels=members.a", &[("authorization", &bearer(&ann))]).await;
    let with = |channels: &[&str]| json!({ "clientId": id, "channels": channels });

    for (token, body, refused) in [
        (&bob, json!({ "clientId": id }), (403, "foreign-stream")),
        (&ann, with(&["user.bob"]), (403, "access-denied")),
        (&ann, json!({ "clientId": format!("{}{}", &id[..12], "0".repeat(20)) }), (404, "unknown-stream")),
        (&ann, json!({ "clientId": "f".repeat(32) }), (404, "unknown-stream")),
        (&ann, with(&vec!["members.a"; 101]), (400, "too-many-channels")),
    ] {
        let reply = ask_as(there, token, &body).await;
        assert_eq!(kind(&reply), refused, "{body}: {}", reply.body);
    }
    let anonymous = ask(there, &[], &json!({ "clientId": id })).await;
    assert_eq!(
        (kind(&anonymous), &anonymous.headers["www-authenticate"]),
        ((401, "unauthenticated"), &"Bearer".parse().unwrap())
    );

    let same = ask_as(here, &ann, &json!({ "clientId": id })).await.body["expires"].clone();
    for (nth, gateway) in [there, here, there].into_iter().enumerate() {
        let channel = format!("members.{nth}");
        let reply = ask_as(gateway, &longer, &with(&[&channel])).await;
        assert_eq!(reply.status, 200, "{}", reply.body);
        assert!(reply.body["expires"].as_str() > same.as_str(), "{} {same}", reply.body);
        // The position from which it holds is told to the stream too.
        stream.collect_until(PATIENCE, |block| block.id.as_deref() == reply.body["cursor"].as_str()).await;
        for other in ["members.a", "members.0", "members.1", "members.2", "broadcast"] {
            publish(&cluster.fanouts[nth % 2], &service, other).await;
        }
        assert_eq!(heard(&mut stream, "broadcast").await, [channel.as_str(), "broadcast"]);
    }
    let counted = metric(here.admin(), "foghorn_gateway_changes_total{outcome=\"changed\"}").await;
    assert!((counted - 4.0).abs() < 0.1, "where the stream is: {counted}");

    // Its gateway says nothing, then can't be asked, then is gone.
    here.signal(Signal::SIGSTOP);
    let hung = ask_as(there, &longer, &with(&["members.a"])).await;
    assert_eq!((kind(&hung), &hung.body["retryable"]), ((503, "stream-unreachable"), &json!(true)));
    assert!(hung.headers.contains_key("retry-after"));
    here.signal(Signal::SIGCONT);
    cluster.nats.hang().await;
    assert_eq!(kind(&ask_as(there, &longer, &with(&["members.a"])).await), (503, "stream-unreachable"));
    // Where the stream is nobody has to be asked.
    assert_eq!(ask_as(here, &longer, &with(&["members.a"])).await.status, 200);
    cluster.nats.signal(Signal::SIGCONT);
    until("the other gateway to be asked again", PATIENCE, async || {
        (ask_as(there, &longer, &with(&["members.1"])).await.status == 200).then_some(())
    })
    .await;
    cluster.gateways[0].kill();
    until("it to be gone", PATIENCE, async || {
        let reply = ask_as(&cluster.gateways[1], &longer, &with(&["members.a"])).await;
        (kind(&reply) == (404, "unknown-stream")).then_some(())
    })
    .await;
}
