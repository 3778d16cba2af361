//! What operators see of the whole cluster: the dashboard's stream, and what the console asks beside it.

use foghorn_tests::PATIENCE;
use foghorn_tests::foghorn::Foghorn;
use foghorn_tests::http::{Reply, metric, request};
use foghorn_tests::sse::{Block, NoBlock, SseClient};
use foghorn_tests::wait::until;
use http::Method;
use serde_json::{Value, json};

use super::{Issuer, bearer, claims};
use crate::deployment::{Cluster, Listener, standalone};

const STREAM: &str = "/api/dashboard/stream";

// It asks more often than one may by default.
const CONFIG: &str = "[gateway]\nsubject_per_minute = 60000\nsubject_burst = 10000\naddress_per_minute = 0\n\
                      [[dashboard.alerts]]\nname = \"processes missing\"\nmetric = \"missing\"\nabove = 0\n\
                      [[dashboard.alerts]]\nname = \"nobody listens\"\nmetric = \"connections\"\nbelow = 0\nfor = \"1s\"\n";

/// One of the two shapes, and a token of an operator.
struct Site {
    issuer: Issuer,
    shape: Shape,
    admin: String,
}

enum Shape {
    Standalone(Box<Foghorn>),
    Cluster(Box<Cluster>),
}

impl Site {
    async fn standalone() -> Self {
        let issuer = Issuer::new();
        let server = issuer.standalone(CONFIG, &[]).await;
        Site::of(issuer, Shape::Standalone(Box::new(server)))
    }

    async fn cluster() -> Self {
        let issuer = Issuer::new();
        let cluster = Cluster::start_closed(&issuer.config(CONFIG)).await;
        cluster.ready().await;
        for gateway in &cluster.gateways {
            until("gateways to know each other", PATIENCE, async || {
                (metric(gateway.admin(), "foghorn_gateway_members").await > 1.5).then_some(())
            })
            .await;
        }
        Site::of(issuer, Shape::Cluster(Box::new(cluster)))
    }

    fn of(issuer: Issuer, shape: Shape) -> Self {
        let admin = issuer.token("root", &json!({ "publish": [">"], "role": "admin" }));
        Site { issuer, shape, admin }
    }

    fn gateways(&self) -> Vec<&Foghorn> {
        match &self.shape {
            Shape::Standalone(server) => vec![server],
            Shape::Cluster(cluster) => cluster.gateways.iter().collect(),
        }
    }

    fn gateway(&self, turn: usize) -> &Foghorn {
        let gateways = self.gateways();
        gateways[turn % gateways.len()]
    }

    fn processes(&self) -> usize {
        match &self.shape {
            Shape::Standalone(_) => 1,
            Shape::Cluster(_) => 6,
        }
    }

    async fn publish(&self, event: &Value) {
        let url = match &self.shape {
            Shape::Standalone(server) => server.url("/api/publish"),
            Shape::Cluster(cluster) => cluster.fanouts[0].url("/api/publish"),
        };
        let credential = bearer(&self.admin);
        let reply =
            request(Method::POST, &url, &[("authorization", &*credential)], Some(event)).await.unwrap();
        assert_eq!(reply.status, 200, "{}", reply.body);
    }

    /// What the operator is answered at a path.
    async fn ask(&self, turn: usize, path: &str) -> Value {
        let reply = ask(self.gateway(turn), path, Some(&self.admin)).await;
        assert_eq!(reply.status, 200, "{path}: {}", reply.body);
        reply.body
    }

    async fn listen(&self, turn: usize, query: &str, token: &str) -> (SseClient, String) {
        let mut stream = open(self.gateway(turn), &format!("/api/events?{query}"), token).await;
        let blocks = stream.collect_until(PATIENCE, |block| block.event_type() == "stream-live").await;
        let id = blocks[0].json()["clientId"].as_str().unwrap().to_owned();
        (stream, id)
    }
}

async fn ask(gateway: &Foghorn, path: &str, token: Option<&str>) -> Reply {
    let token = token.map(bearer);
    let headers: Vec<_> = token.iter().map(|token| ("authorization", token.as_str())).collect();
    request(Method::GET, &gateway.url(path), &headers, None).await.unwrap()
}

async fn open(gateway: &Foghorn, path: &str, token: &str) -> SseClient {
    let credential = bearer(token);
    let stream = SseClient::connect(&gateway.url(path), &[("authorization", &*credential)]).await.unwrap();
    assert_eq!(stream.status(), 200, "{path}");
    stream
}

/// The first `metrics` that are so.
async fn metrics(stream: &mut SseClient, mut are: impl FnMut(&Value) -> bool) -> Value {
    let is = |block: &Block| block.event_type() == "metrics";
    let blocks = stream.collect_until(PATIENCE, |block| is(block) && are(&block.json())).await;
    blocks.last().unwrap().json()
}

fn states(metrics: &Value) -> Vec<String> {
    let instances = metrics["instances"].as_array().unwrap();
    let state =
        |one: &Value| format!("{} {}", one["service"].as_str().unwrap(), one["state"].as_str().unwrap());
    let mut states: Vec<_> = instances.iter().map(state).collect();
    states.sort();
    states
}

fn kind(reply: &Reply) -> (u16, String) {
    (reply.status, reply.body["type"].as_str().unwrap_or_default().rsplit('/').next().unwrap().to_owned())
}

async fn only_operators_may(site: &Site) {
    let everything = json!({ "subscribe": [">"], "publish": [">"] });
    let reader = site.issuer.token("ann", &everything);
    let gateway = site.gateway(0);
    let paths = [
        STREAM,
        "/api/admin/channels",
        "/api/admin/connections?user=ann",
        "/api/admin/trace?channel=a&id=1&user=ann",
    ];
    for path in paths {
        assert_eq!(kind(&ask(gateway, path, None).await), (401, "unauthenticated".to_owned()), "{path}");
        assert_eq!(kind(&ask(gateway, path, Some("x")).await), (401, "bad-credential".to_owned()), "{path}");
        assert_eq!(
            kind(&ask(gateway, path, Some(&reader)).await),
            (403, "access-denied".to_owned()),
            "{path}"
        );
        let posted = request(Method::POST, &gateway.url(path), &[], Some(&json!({}))).await.unwrap();
        assert_eq!(posted.status, 405, "{path}");
        if path != STREAM {
            site.ask(0, path).await;
        }
    }
    for path in [
        "/api/admin/connections",
        "/api/admin/channels?limit=0",
        "/api/admin/trace?channel=a&user=ann",
        "/api/admin/trace?channel=*&id=1&user=ann",
        "/api/dashboard/stream?channels=a",
    ] {
        assert_eq!(ask(gateway, path, Some(&site.admin)).await.status, 400, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_operators_see_the_dashboard_and_what_others_do_in_standalone() {
    only_operators_may(&Site::standalone().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_operators_see_the_dashboard_and_what_others_do_in_a_cluster() {
    only_operators_may(&Site::cluster().await).await;
}

/// With events under way, every stream of the dashboard tells of all processes and of what they do.
async fn the_dashboard_tells(site: &Site) {
    let mut stream = open(site.gateway(0), STREAM, &site.admin).await;
    let first = stream.next().await;
    assert_eq!((first.event_type(), first.retry.is_some()), ("connected", true));
    let (listener, _) = site
        .listen(1, "channels=orders.%3E", &site.issuer.token("ann", &json!({ "subscribe": [">"] })))
        .await;
    let mut other = open(site.gateway(1), STREAM, &site.admin).await;
    let publishing = async {
        loop {
            site.publish(&json!({ "channel": "orders.1", "data": "x" })).await;
        }
    };
    let seen = async |stream: &mut SseClient| {
        metrics(stream, |metrics| {
            let cluster = &metrics["cluster"];
            let some = |key: &str| cluster[key].as_f64().is_some_and(|value| value > 0.0);
            let all_ready = states(metrics).iter().filter(|state| state.ends_with(" ready")).count();
            all_ready == site.processes()
                && ["eventsPerSecond", "deliveriesPerSecond", "cpu", "memoryBytes"].into_iter().all(some)
                && cluster["latency"]["p99"].as_f64().is_some_and(|p99| p99 > 0.0)
                && cluster["errorRate"] == json!(0.0)
        })
        .await
    };
    let told = tokio::select! {
        told = async { [seen(&mut stream).await, seen(&mut other).await] } => told,
        () = publishing => unreachable!(),
    };
    for metrics in told {
        // The listener, and both streams of the dashboard.
        assert_eq!(metrics["cluster"]["connections"], json!(3.0), "{metrics}");
        assert_eq!((&metrics["alerts"], &metrics["leftOut"]), (&json!([]), &json!(0)), "{metrics}");
    }
    drop(listener);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_dashboard_tells_each_second_how_standalone_is() {
    the_dashboard_tells(&Site::standalone().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_dashboard_tells_each_second_how_the_whole_cluster_is_and_who_is_missing() {
    let mut site = Site::cluster().await;
    the_dashboard_tells(&site).await;
    let mut stream = open(site.gateway(0), STREAM, &site.admin).await;
    let Shape::Cluster(cluster) = &mut site.shape else { unreachable!() };
    cluster.eventlogs[1].sigterm();
    cluster.fanouts[1].kill();
    let blocks = stream.collect_until(PATIENCE, |block| block.event_type() == "alert").await;
    let alert = blocks.last().unwrap().json();
    let expected = json!({
        "name": "processes missing", "metric": "missing", "value": 1.0, "above": 0.0, "state": "firing",
    });
    assert_eq!(alert, expected);
    let expected = [
        "eventlog ready",
        "eventlog stopped",
        "fanout missing",
        "fanout ready",
        "gateway ready",
        "gateway ready",
    ];
    let told = metrics(&mut stream, |metrics| states(metrics) == expected).await;
    assert_eq!(told["alerts"][0]["name"], "processes missing");
    // Whoever comes later is told what holds.
    let mut late = open(site.gateway(0), STREAM, &site.admin).await;
    let blocks = late.collect_until(PATIENCE, |block| block.event_type() == "alert").await;
    assert_eq!(blocks.last().unwrap().json()["state"], "firing");
}

/// The reason that a stream ends with.
async fn ending(stream: &mut SseClient) -> (Value, bool) {
    let (blocks, end) = stream.collect_to_end(PATIENCE).await;
    assert!(matches!(end, NoBlock::End), "{end:?}");
    let told = blocks.iter().any(|block| block.event_type() == "stream-expiring");
    let last = blocks.last().unwrap();
    assert_eq!((last.event_type(), last.retry.is_some()), ("stream-end", true), "{last:?}");
    (last.json()["reason"].clone(), told)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_the_dashboard_ends_as_others_do_and_says_why() {
    let site = Site::standalone().await;
    let short = site.issuer.ec.mint("ec", &claims("root", 3, &json!({ "role": "admin" }))).unwrap();
    let mut expiring = open(site.gateway(0), STREAM, &short).await;
    assert_eq!(ending(&mut expiring).await, (json!("token-expired"), true));

    let mut revoked = open(site.gateway(0), STREAM, &site.admin).await;
    let id = revoked.next().await.json()["clientId"].clone();
    // It can be prolonged, and nothing else.
    let credential = bearer(&site.admin);
    let post = async |path: &str, body: Value| {
        request(Method::POST, &site.gateway(0).url(path), &[("authorization", &*credential)], Some(&body))
            .await
            .unwrap()
    };
    let prolonged = post("/api/events/subscribe", json!({ "clientId": id })).await;
    assert_eq!(prolonged.status, 200, "{}", prolonged.body);
    let changed = post("/api/events/subscribe", json!({ "clientId": id, "channels": ["a"] })).await;
    assert_eq!(kind(&changed), (400, "bad-subscription".to_owned()));
    assert_eq!(post("/api/admin/revoke", json!({ "connection": id })).await.status, 200);
    assert_eq!(ending(&mut revoked).await.0, json!("revoked"));

    // The token of a stream that was closed is refused.
    let other = site.issuer.token("other", &json!({ "role": "admin" }));
    let mut drained = open(site.gateway(0), STREAM, &other).await;
    drained.next().await;
    site.gateway(0).sigterm();
    assert_eq!(ending(&mut drained).await.0, json!("drain"));
}

async fn busiest_channels(site: &Site) {
    let token = site.issuer.token("ann", &json!({ "subscribe": [">"] }));
    let (_named, _) = site.listen(0, "channels=busy.a,busy.b", &token).await;
    let (_pattern, _) = site.listen(1, "channels=busy.*", &token).await;
    for (channel, times) in [("busy.a", 5), ("user.ann", 4), ("busy.b", 3), ("busy.c", 1)] {
        for _ in 0..times {
            site.publish(&json!({ "channel": channel, "data": "x" })).await;
        }
    }
    // Both streams are hers, and hear her channel too.
    let expected = [("busy.a", 5, 2), ("user.ann", 4, 2), ("busy.b", 3, 2)];
    until("the busiest to be known", PATIENCE, async || {
        let answer = site.ask(1, "/api/admin/channels?limit=3&seconds=300").await;
        let channels = answer["channels"].as_array().unwrap();
        let known = channels.iter().zip(expected).all(|(one, (channel, events, listeners))| {
            one["channel"] == channel && one["events"] == events && one["listeners"] == listeners
        });
        (known && channels.len() == 3 && answer["complete"] == json!(true)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_busiest_channels_and_who_hears_them_are_known_in_standalone() {
    busiest_channels(&Site::standalone().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_busiest_channels_and_who_hears_them_are_known_in_a_cluster() {
    busiest_channels(&Site::cluster().await).await;
}

/// The connections that a user is found to have.
async fn connections(site: &Site, turn: usize, user: &str) -> Vec<Value> {
    let answer = site.ask(turn, &format!("/api/admin/connections?user={user}")).await;
    assert_eq!(answer["complete"], json!(true), "{answer}");
    answer["connections"].as_array().unwrap().clone()
}

async fn connections_are_closed(site: &Site) {
    let grants = json!({ "subscribe": [">"] });
    // Another token each: one is refused with the stream that is closed.
    let token = |seconds| site.issuer.ec.mint("ec", &claims("ann", seconds, &grants)).unwrap();
    let bob = site.issuer.token("bob", &grants);
    let (mut first, first_id) = site.listen(0, "channels=orders.*&events=paid", &token(3600)).await;
    let (_second, second_id) = site.listen(1, "channels=a", &token(3601)).await;
    let (_other, _) = site.listen(1, "channels=a", &bob).await;
    let found = connections(site, 1, "ann").await;
    let mut ids: Vec<_> = found.iter().map(|one| one["connection"].as_str().unwrap()).collect();
    let mut expected = [&*first_id, &*second_id];
    ids.sort_unstable();
    expected.sort_unstable();
    assert_eq!(ids, expected);
    let one = found.iter().find(|one| one["connection"] == first_id).unwrap();
    let heard: Vec<_> =
        one["channels"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    assert!(heard.contains(&"orders.*") && heard.contains(&"user.ann"), "{one}");
    assert_eq!((&one["events"], &one["user"]), (&json!(["paid"]), &json!("ann")));
    assert_eq!(one["instance"].as_str().unwrap(), &first_id[..12]);

    let revoke = json!({ "connection": first_id });
    let url = site.gateway(1).url("/api/admin/revoke");
    let credential = bearer(&site.admin);
    let reply = request(Method::POST, &url, &[("authorization", &*credential)], Some(&revoke)).await.unwrap();
    assert_eq!(reply.status, 200, "{}", reply.body);
    assert_eq!(ending(&mut first).await.0, json!("revoked"));
    until("it to be gone", PATIENCE, async || (connections(site, 0, "ann").await.len() == 1).then_some(()))
        .await;
    assert!(connections(site, 0, "eve").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_of_a_user_are_found_and_closed_in_standalone() {
    connections_are_closed(&Site::standalone().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_of_a_user_are_found_and_closed_in_a_cluster() {
    connections_are_closed(&Site::cluster().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nobody_says_who_they_are_a_users_connections_are_those_that_name_their_channel() {
    let server = standalone(&["--ephemeral"], &[]).await;
    let mut dashboard = SseClient::connect(&server.url(STREAM), &[]).await.unwrap();
    assert_eq!(dashboard.next().await.event_type(), "connected");
    let url = |channels: &str| server.url(&format!("/api/events?channels={channels}"));
    let named = Listener::open(&url("user.ann"), None).await;
    let _other = Listener::open(&url("user.*"), None).await;
    let reply = ask(&server, "/api/admin/connections?user=ann", None).await;
    let found = reply.body["connections"].as_array().unwrap();
    assert_eq!((found.len(), &found[0]["connection"]), (1, &named.connected["clientId"]));
    assert_eq!(found[0]["user"], Value::Null);
}

/// What is said of each step, and of each connection.
fn traced(answer: &Value) -> (Vec<String>, Vec<(String, String)>) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let steps = answer["steps"].as_array().unwrap().iter();
    let steps = steps.map(|step| format!("{} {}", text(&step["step"]), text(&step["answer"]))).collect();
    let connections = answer["connections"].as_array().unwrap().iter();
    (steps, connections.map(|one| (text(&one["connection"]), text(&one["verdict"]))).collect())
}

async fn an_event_is_traced(site: &Site) {
    let token = site.issuer.token("ann", &json!({ "subscribe": [">"] }));
    let (mut hears, hears_id) = site.listen(0, "channels=orders.1", &token).await;
    let (_filters, filters_id) = site.listen(1, "channels=orders.*&events=paid", &token).await;
    let (_other, other_id) = site.listen(1, "channels=news", &token).await;
    site.publish(&json!({ "channel": "orders.1", "data": "x", "id": "order-7", "event": "placed" })).await;
    let event = hears.collect_until(PATIENCE, |block| block.event_type() == "placed").await.pop().unwrap();
    let (_late, late_id) = site.listen(0, "channels=orders.1", &token).await;
    let trace = async |turn: usize, id: &str, user: &str| {
        let id = id.replace('~', "%7E");
        site.ask(turn, &format!("/api/admin/trace?channel=orders.1&id={id}&user={user}")).await
    };
    let mut expected = vec![
        (hears_id, "delivered".to_owned()),
        (filters_id, "filtered".to_owned()),
        (other_id, "not-subscribed".to_owned()),
        (late_id, "connected-after".to_owned()),
    ];
    expected.sort();
    let way = ["published yes", "journalled yes", "relayed yes", "kept yes", "delivered yes"];
    // By the publisher's id, and by the cursor that a listener saw.
    for (turn, id) in [(0, "order-7"), (1, event.id.as_deref().unwrap())] {
        until("all to be known", PATIENCE, async || {
            let answer = trace(turn, id, "ann").await;
            let (steps, mut connections) = traced(&answer);
            connections.sort();
            (steps == way && connections == expected).then_some(())
        })
        .await;
    }
    let (steps, connections) = traced(&trace(0, "order-7", "bob").await);
    assert_eq!((steps.last().map(String::as_str), connections.len()), (Some("delivered no"), 0));
    let unknown = trace(0, "order-8", "ann").await;
    assert_eq!((traced(&unknown).0, &unknown["event"]), (vec!["published unknown".to_owned()], &Value::Null));
}

#[tokio::test(flavor = "multi_thread")]
async fn why_a_user_did_not_get_an_event_is_told_in_standalone() {
    an_event_is_traced(&Site::standalone().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn why_a_user_did_not_get_an_event_is_told_in_a_cluster() {
    an_event_is_traced(&Site::cluster().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_console_is_served_with_a_policy_that_lets_nothing_foreign_in() {
    for site in [Site::standalone().await, Site::cluster().await] {
        for (path, media_type) in [
            ("/console", "text/html; charset=utf-8"),
            ("/console/console.js", "text/javascript; charset=utf-8"),
            ("/console/style.css", "text/css; charset=utf-8"),
        ] {
            let reply = ask(site.gateway(0), path, None).await;
            let header = |name: &str| reply.headers.get(name).unwrap().to_str().unwrap();
            assert_eq!((reply.status, header("content-type")), (200, media_type), "{path}");
            let policy = header("content-security-policy");
            assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
        }
        assert_eq!(ask(site.gateway(0), "/console/other.js", None).await.status, 404);
    }
}
