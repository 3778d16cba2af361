//! Changing a live stream: until when it lasts and what it hears, for whom, and through which gateway.

use std::time::Duration;

use foghorn_tests::PATIENCE;
use foghorn_tests::chrome::Chrome;
use foghorn_tests::foghorn::Foghorn;
use foghorn_tests::http::{Reply, metric, request};
use foghorn_tests::http2::Http2;
use foghorn_tests::nginx::Nginx;
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
    let changed = metric(server.admin(), "foghorn_gateway_changes_total{outcome=\"changed\"}").await;
    assert!((changed - 2.0).abs() < 0.1, "{changed}");
}

/// A block of only `id:` moves a browser's cursor without a word to the page.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_with_heartbeats_says_by_one_from_where_a_change_holds() {
    let issuer = Issuer::new();
    let server = issuer.standalone("", &[]).await;
    let path = "/api/events?channels=open.a&heartbeat=1";
    // Served by a reactor, and by a task.
    let connection = Http2::connect(&server.url("")).await.unwrap();
    let alone = SseClient::connect(&server.url(path), &[]).await.unwrap();
    for mut stream in [alone, connection.listen(path, &[]).await.unwrap()] {
        let id = live(&mut stream).await;
        let reply = ask(&server, &[], &json!({ "clientId": id, "channels": ["open.b"] })).await;
        assert_eq!(reply.status, 200, "{}", reply.body);
        // Sooner than the first that keeps a quiet stream alive.
        let blocks = stream.collect_until(Duration::from_secs(8), |b| b.event_type() == "heartbeat").await;
        let said = blocks.iter().rev().find_map(|block| block.id.as_deref());
        assert_eq!(said, reply.body["cursor"].as_str(), "{blocks:?}");
    }
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
        assert_eq!((reply.status, &reply.body["kept"]), (200, &json!(true)), "{}", reply.body);
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
    // Where the stream is nobody has to be asked, though it can't be kept for a reconnect now.
    let own = ask_as(here, &longer, &with(&["members.a"])).await;
    assert_eq!((own.status, &own.body["kept"]), (200, &json!(false)), "{}", own.body);
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

/// What a stream says until it is live, of whoever comes to a URL with a cursor.
async fn come_back(server: &Foghorn, path: &str, token: &str, cursor: &str) -> (SseClient, Vec<Block>) {
    let headers = [("authorization", &*bearer(token)), ("last-event-id", cursor)];
    let mut stream = SseClient::connect(&server.url(path), &headers).await.unwrap();
    let is_last = |block: &Block| ["stream-live", "stream-end"].contains(&block.event_type());
    let blocks = stream.collect_until(PATIENCE, is_last).await;
    (stream, blocks)
}

/// `recovered`, and why it was reset, if it was.
fn verdict(blocks: &[Block]) -> (bool, Option<String>) {
    let connected = blocks.iter().find(|block| block.event_type() == "connected").unwrap();
    let reset = blocks.iter().find(|block| block.event_type() == "stream-reset");
    let reason = reset.map(|block| block.json()["reason"].as_str().unwrap().to_owned());
    (connected.json()["recovered"].as_bool().unwrap(), reason)
}

fn data(blocks: &[Block]) -> Vec<&str> {
    let events = blocks.iter().filter(|block| block.event_type() == "message" && block.is_event());
    events.filter_map(|block| block.data.as_deref()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_outlives_its_gateway_for_who_made_it_and_grants_nothing() {
    let issuer = Issuer::new();
    let mut cluster = Cluster::start_closed(&issuer.config("")).await;
    cluster.ready().await;
    let service = issuer.token("service", &json!({ "publish": [">"] }));
    let grants = json!({ "subscribe": ["members.>", "open.>"] });
    let [ann, bob] = ["ann", "bob"].map(|subject| issuer.token(subject, &grants));
    let less = issuer.token("ann", &json!({ "subscribe": ["members.a", "open.>"] }));
    let path = "/api/events?channels=members.a,open.a";
    let (mut stream, id) =
        listen(&cluster.gateways[0], "channels=members.a,open.a", &[("authorization", &bearer(&ann))]).await;
    // Through another gateway than the stream's, in two steps.
    for change in [json!({ "channels": ["members.b"] }), json!({ "events": ["message", "other"] })] {
        let mut change = change;
        change["clientId"] = json!(id);
        let reply = ask_as(&cluster.gateways[1], &ann, &change).await;
        assert_eq!((reply.status, &reply.body["kept"]), (200, &json!(true)), "{}", reply.body);
        let cursor = reply.body["cursor"].as_str().map(str::to_owned);
        stream.collect_until(PATIENCE, |block| block.id == cursor).await;
    }
    publish(&cluster.fanouts[0], &service, "members.b").await;
    assert_eq!(heard(&mut stream, "members.b").await, ["members.b"]);
    let cursor = stream.last_event_id().to_owned();

    let watching = [("authorization", &*bearer(&ann))];
    let (mut watch, _) = listen(&cluster.gateways[1], "channels=open.b", &watching).await;
    cluster.gateways[0].kill();
    for channel in ["members.a", "open.a", "members.b", "broadcast"] {
        publish(&cluster.fanouts[0], &service, channel).await;
    }
    // What is acked is in the journal, and on its way to gateways.
    heard(&mut watch, "broadcast").await;
    let there = &cluster.gateways[1];
    let (mut again, blocks) = come_back(there, path, &ann, &cursor).await;
    assert_eq!((verdict(&blocks), data(&blocks)), ((true, None), vec!["members.b", "broadcast"]));
    for channel in ["open.a", "members.b"] {
        publish(&cluster.fanouts[1], &service, channel).await;
    }
    assert_eq!(heard(&mut again, "members.b").await, ["members.b"]);
    // The URL's types and channels in another order are the same; another URL says anew what is wanted.
    let turned = "/api/events?channels=open.a,members.a";
    let (_, blocks) = come_back(there, turned, &ann, &cursor).await;
    assert_eq!(data(&blocks), ["members.b", "broadcast", "members.b"]);
    let (_, blocks) = come_back(there, "/api/events?channels=open.a", &ann, &cursor).await;
    assert_eq!((verdict(&blocks), data(&blocks)), ((true, None), vec!["open.a", "broadcast", "open.a"]));

    // It is nobody else's, and opens nothing that its owner may not hear any more.
    let (_, blocks) = come_back(there, path, &bob, &cursor).await;
    assert_eq!(verdict(&blocks), (false, Some("subscription".to_owned())));
    let headers = [("authorization", &*bearer(&less)), ("last-event-id", &cursor)];
    let refused = SseClient::connect(&there.url(path), &headers).await.unwrap();
    assert_eq!(refused.status(), 403);

    // Where it isn't known any more, that is said, and the URL's channels are heard from the cursor on.
    let (position, set) = cursor.split_once('.').unwrap();
    let other = if set.starts_with('A') { "B" } else { "A" };
    let unknown = format!("{position}.{other}{}", &set[1..]);
    let (_, blocks) = come_back(there, path, &ann, &unknown).await;
    assert_eq!(verdict(&blocks), (false, Some("subscription".to_owned())));
    assert_eq!(data(&blocks), ["members.a", "open.a", "broadcast", "open.a"]);
    assert!(blocks.iter().filter_map(|block| block.id.as_deref()).all(|id| !id.contains('.')), "{blocks:?}");

    // Where nobody can say, it is told to come back; what this gateway has itself needs nobody.
    cluster.nats.hang().await;
    let (_, blocks) = come_back(there, path, &ann, &unknown).await;
    assert_eq!((blocks.len(), blocks[0].event_type()), (1, "stream-end"));
    assert_eq!(blocks[0].json()["reason"], "subscription-unavailable");
    assert!(blocks[0].retry.is_some(), "{blocks:?}");
    let (_, blocks) = come_back(there, path, &ann, &cursor).await;
    assert_eq!(verdict(&blocks), (true, None));
    cluster.nats.signal(Signal::SIGCONT);
    drop(again);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_whose_gateway_is_killed_comes_back_to_its_old_url_and_hears_what_it_was_changed_to() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("foghorn.toml");
    std::fs::write(&config, "[gateway]\nretry = \"1s\"\n").unwrap();
    let mut cluster = Cluster::start(1, &config.display().to_string()).await;
    cluster.ready().await;
    let gateways: Vec<&str> = cluster.gateways.iter().map(|gateway| gateway.http()).collect();
    let nginx = Nginx::foghorn(&gateways, &[]).await;
    let chrome = Chrome::start().await;
    let page = chrome.client();
    page.goto(&nginx.url("/api/channels/before/events")).await.unwrap();
    let script = "
        window.heard = [];
        const source = new EventSource('/api/events?channels=before');
        for (const type of ['connected', 'message', 'stream-reset']) {
            source.addEventListener(type, ({ data }) => heard.push([type, data]));
        }";
    page.execute(script, Vec::new()).await.unwrap();
    let hears = async |count: usize| {
        until(&format!("{count} events on the page"), PATIENCE, async || {
            let heard = page.execute("return window.heard", Vec::new()).await.unwrap();
            let heard: Vec<[String; 2]> = serde_json::from_value(heard).unwrap();
            (heard.len() >= count).then_some(heard)
        })
        .await
    };
    let connected: Value = serde_json::from_str(&hears(1).await[0][1]).unwrap();
    let change = json!({ "clientId": connected["clientId"], "channels": ["after"] });
    // Whichever it is through.
    for gateway in &cluster.gateways {
        let reply = ask(gateway, &[], &change).await;
        assert_eq!((reply.status, &reply.body["kept"]), (200, &json!(true)), "{}", reply.body);
    }
    let say = async |cluster: &Cluster, channel: &str, text: &str| {
        let event = json!({ "channel": channel, "data": text });
        let url = cluster.fanouts[0].url("/api/publish");
        assert_eq!(request(Method::POST, &url, &[], Some(&event)).await.unwrap().status, 200);
    };
    say(&cluster, "before", "not heard").await;
    say(&cluster, "after", "1").await;
    assert_eq!(hears(2).await[1][1], "1");
    let mut its = 0;
    for (nth, gateway) in cluster.gateways.iter().enumerate() {
        if metric(gateway.admin(), "foghorn_gateway_connections").await > 0.5 {
            its = nth;
        }
    }
    cluster.gateways[its].kill();
    say(&cluster, "before", "not heard").await;
    say(&cluster, "after", "2").await;
    let heard = hears(4).await;
    assert!(heard[2][0] == "connected" && heard[2][1].contains(r#""recovered":true"#), "{heard:?}");
    say(&cluster, "before", "not heard").await;
    say(&cluster, "after", "3").await;
    let heard = hears(5).await;
    let events: Vec<_> = heard.iter().filter(|each| each[0] != "connected").map(|each| &*each[1]).collect();
    assert_eq!(events, ["1", "2", "3"]);
}
