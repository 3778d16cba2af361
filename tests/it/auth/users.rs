//! How many streams a user may have in the whole cluster.

use std::time::{Duration, Instant};

use foghorn_tests::PATIENCE;
use foghorn_tests::foghorn::Foghorn;
use foghorn_tests::http::{get, metric};
use foghorn_tests::http2::Http2;
use foghorn_tests::nats::NatsServer;
use foghorn_tests::port::Port;
use foghorn_tests::sse::{NoBlock, SseClient};
use foghorn_tests::wait::until;
use futures::future::join_all;
use serde_json::json;

use super::{Issuer, bearer};
use crate::deployment::{CLOSED, Cluster, wait_ready};

const STREAM: &str = "/api/events?channels=members.a";
const MOST: usize = 4;

async fn open(server: &Foghorn, token: &str) -> SseClient {
    SseClient::connect(&server.url(STREAM), &[("authorization", &bearer(token))]).await.unwrap()
}

/// A stream that is live; none when it was refused, as streams are.
async fn live(mut stream: SseClient) -> Option<SseClient> {
    super::is_live_or_told(&mut stream, "too-many-streams", 5000).await.then_some(stream)
}

/// The live ones of so many streams that each user opens at once, each in turn at another gateway.
async fn race(gateways: &[&Foghorn], tokens: &[String], each: usize) -> Vec<(usize, usize, SseClient)> {
    let opened = (0..tokens.len() * each).map(|n| async move {
        let (user, at) = (n % tokens.len(), n % gateways.len());
        live(open(gateways[at], &tokens[user]).await).await.map(|stream| (user, at, stream))
    });
    join_all(opened).await.into_iter().flatten().collect()
}

fn counts(users: usize, open: &[(usize, usize, SseClient)]) -> Vec<usize> {
    (0..users).map(|user| open.iter().filter(|(of, ..)| *of == user).count()).collect()
}

/// A cluster of three gateways, and the third.
async fn cluster(issuer: &Issuer, gateway: &str) -> (Cluster, Foghorn) {
    let config = issuer.config(&format!("[gateway]\n{gateway}\n"));
    let cluster = Cluster::start_closed(&config).await;
    let logs: Vec<String> = cluster.eventlogs.iter().map(|log| format!("http://{}", log.grpc())).collect();
    let (bus, logs) = (cluster.nats.url(), logs.join(","));
    let common = ["--config", &config, "--nats", &bus, "--eventlog", &logs];
    let ports = ["gateway", "--admin", "127.0.0.1:0", "--listen", "127.0.0.1:0"];
    let third = Foghorn::spawn(&[&ports[..], &common].concat(), &[CLOSED]).await;
    cluster.ready().await;
    wait_ready(third.admin()).await;
    (cluster, third)
}

pub(super) async fn knows(gateway: &Foghorn, members: f64) {
    until("all gateways to be known", PATIENCE, async || {
        let known = metric(gateway.admin(), "foghorn_gateway_members").await;
        ((known - members).abs() < 0.1).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_race_on_three_gateways_do_not_pass_a_users_limit_nor_after_one_was_killed() {
    let issuer = Issuer::new();
    let (mut cluster, third) = cluster(&issuer, &format!("subject_streams = {MOST}")).await;
    // An odd number, so that each user comes to each gateway.
    let tokens: Vec<String> = (0..13).map(|n| issuer.token(&format!("u{n}"), &json!({}))).collect();
    let mut held = {
        let gateways = [&cluster.gateways[0], &cluster.gateways[1], &third];
        join_all(gateways.map(|gateway| knows(gateway, 3.0))).await;
        let held = race(&gateways, &tokens, 12).await;
        assert_eq!(counts(13, &held), [MOST; 13]);
        assert!(race(&gateways, &tokens, 2).await.is_empty(), "no more for anybody");
        held
    };

    // One that ends makes room, at any gateway.
    let (user, at, gone) = held.pop().unwrap();
    drop(gone);
    let other = [&third, &cluster.gateways[0], &cluster.gateways[1]][at];
    let again =
        until("room for another", PATIENCE, async || live(open(other, &tokens[user]).await).await).await;
    held.push((user, (at + 2) % 3, again));

    // Whoever decided for some dies. Those who come then wait for nobody, and are let in by what their gateway has.
    cluster.gateways[1].kill();
    let killed = Instant::now();
    let strangers: Vec<String> = (0..13).map(|n| issuer.token(&format!("s{n}"), &json!({}))).collect();
    let survivors = [&cluster.gateways[0], &third];
    let let_in = race(&survivors, &strangers, 1).await;
    assert_eq!(let_in.len(), 13);
    assert!(killed.elapsed() < Duration::from_secs(5), "{:?}", killed.elapsed());
    // Soon others decide, and know of what is left.
    join_all(survivors.map(|gateway| knows(gateway, 2.0))).await;
    let mut left: Vec<_> = held.into_iter().filter(|(_, at, _)| *at != 1).collect();
    left.extend(race(&survivors, &tokens, 12).await);
    assert_eq!(counts(13, &left), [MOST; 13]);
    let admitted = metric(third.admin(), "foghorn_gateway_places_total{outcome=\"admitted\"}").await;
    let refused = metric(third.admin(), "foghorn_gateway_places_total{outcome=\"refused\"}").await;
    assert!(admitted >= 1.0 && refused >= 1.0, "{admitted} {refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_oldest_stream_ends_for_the_newest_wherever_they_are_and_its_client_stays_away() {
    let issuer = Issuer::new();
    let limits = "subject_streams = 2\nsubject_streams_beyond = \"close-oldest\"";
    let (cluster, third) = cluster(&issuer, limits).await;
    let gateways = [&cluster.gateways[0], &cluster.gateways[1], &third];
    join_all(gateways.map(|gateway| knows(gateway, 3.0))).await;
    let token = issuer.token("ann", &json!({}));
    let connection = Http2::connect(&gateways[0].url("")).await.unwrap();
    // Served by a task, the others by reactors.
    let headers = [("authorization", &*bearer(&token))];
    let first = live(connection.listen(STREAM, &headers).await.unwrap()).await.unwrap();
    let second = live(open(gateways[1], &token).await).await.unwrap();
    let others = issuer.token("bob", &json!({}));
    let mut bobs = live(open(gateways[0], &others).await).await.unwrap();
    let third_stream = live(open(gateways[2], &token).await).await.unwrap();
    let mut fourth = live(open(gateways[2], &token).await).await.unwrap();
    for mut ousted in [first, second] {
        let (blocks, end) = ousted.collect_to_end(PATIENCE).await;
        let last = blocks.last().unwrap();
        assert_eq!(
            (last.event_type(), &last.json()["reason"]),
            ("stream-end", &json!("ousted")),
            "{blocks:?}"
        );
        assert_eq!((end, ousted.last_event_id()), (NoBlock::End, "~"));
        // What a browser does then, at any gateway: and it never comes back after that.
        for gateway in gateways {
            let again = [("authorization", &*bearer(&token)), ("last-event-id", ousted.last_event_id())];
            let again = SseClient::connect(&gateway.url(STREAM), &again).await.unwrap();
            assert_eq!(again.status(), 204);
        }
    }
    // So the newer ones stay, and everybody else's.
    let service = issuer.token("service", &json!({ "publish": [">"] }));
    let event = json!({ "channel": "members.a", "data": "heard" });
    let reply = foghorn_tests::http::request(
        http::Method::POST,
        &cluster.fanouts[0].url("/api/publish"),
        &[("authorization", &*bearer(&service))],
        Some(&event),
    )
    .await
    .unwrap();
    assert_eq!(reply.status, 200, "{}", reply.body);
    let mut third_stream = third_stream;
    for stream in [&mut third_stream, &mut fourth, &mut bobs] {
        stream.collect_until(PATIENCE, |block| block.data.as_deref() == Some("heard")).await;
    }
    // However many race, all begin, and no more than two stay.
    let token = [issuer.token("carl", &json!({}))];
    let opened = join_all((0..20).map(|n| open(gateways[n % 3], &token[0]))).await;
    let ended = join_all(opened.into_iter().map(|mut stream| async move {
        let mut last = None;
        let end = loop {
            match stream.next_within(Duration::from_secs(3)).await {
                Ok(block) => last = Some(block),
                Err(end) => break end,
            }
        };
        let reason = last.filter(|last| last.event_type() == "stream-end");
        (reason.map(|last| last.json()["reason"].clone()), end)
    }))
    .await;
    let ousted = ended.iter().filter(|(reason, _)| *reason == Some(json!("ousted"))).count();
    let stay = ended.iter().filter(|(_, end)| *end != NoBlock::End).count();
    assert_eq!((ousted, stay), (18, 2), "{ended:?}");
}

/// How many subscriptions the services' connections have in all, as NATS says.
async fn subscriptions(monitor: &str) -> u64 {
    let reply = get(&format!("http://{monitor}/connz")).await.unwrap();
    let connections = reply.body["connections"].as_array().unwrap();
    connections.iter().map(|connection| connection["subscriptions"].as_u64().unwrap()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_user_and_no_stream_costs_nats_a_subscription() {
    let (issuer, port) = (Issuer::new(), Port::lease());
    let config = issuer.config("[gateway]\nsubject_streams = 4\n");
    let nats = NatsServer::start_with(&["-m", &port.number().to_string()]).await;
    let cluster = Cluster::start_closed_on(nats, &config).await;
    cluster.ready().await;
    let gateways = [&cluster.gateways[0], &cluster.gateways[1]];
    join_all(gateways.map(|gateway| knows(gateway, 2.0))).await;
    let monitor = port.address().to_string();
    // One stream, as whatever is subscribed to only when somebody listens then is.
    let first = live(open(gateways[0], &issuer.token("first", &json!({}))).await).await.unwrap();
    let before = subscriptions(&monitor).await;
    assert!(before > 0);

    let tokens: Vec<String> = (0..101).map(|n| issuer.token(&format!("u{n}"), &json!({}))).collect();
    let held = race(&gateways, &tokens, 4).await;
    assert_eq!(counts(101, &held), [4; 101]);
    // Some come and go, with the reading of a journal: in a while there are as many as before.
    until("no more subscriptions than with one stream", PATIENCE, async || {
        (subscriptions(&monitor).await <= before).then_some(())
    })
    .await;
    drop((held, first));
}
