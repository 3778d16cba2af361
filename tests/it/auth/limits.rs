//! How often somebody may ask, and that others don't notice those who ask too often.

use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use foghorn_rpc::v1::{PublishBatchRequest, PublishRequest, publisher_client::PublisherClient};
use foghorn_tests::PATIENCE;
use foghorn_tests::foghorn::Foghorn;
use foghorn_tests::http::{Reply, metric, request};
use foghorn_tests::http2::Http2;
use foghorn_tests::nats::NatsServer;
use foghorn_tests::sse::{Block, SseClient};
use foghorn_tests::tls;
use foghorn_tests::wait::until;
use futures::future::join_all;
use http::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::rustls::pki_types::ServerName;
use tonic::Code;

use super::{Issuer, bearer};
use crate::deployment::{CLOSED, standalone};

/// Where browsers come from, as the proxy in front says; the tests are such a proxy.
const OFFICE: &str = "203.0.113.9";
const ATTACKER: &str = "203.0.113.66";
const STREAM: &str = "/api/events?channels=open.a";
const LISTENERS: usize = 20;
/// Connects that are rejected, in a second and in all, and from how many threads they come.
const PER_SECOND: u32 = 10_000;
const SECONDS: Duration = Duration::from_secs(2);
const CONNECTS: usize = 20_000;
const ATTACKERS: usize = 16;
/// So that nothing comes back while a test lasts: one a minute, after this many at once.
const BURST: usize = 20;
const SUBJECT_BURST: usize = 5;

/// Limits that are soon reached.
const TIGHT: [(&str, &str); 9] = [
    ("FOGHORN_GATEWAY_ADDRESS_PER_MINUTE", "1"),
    ("FOGHORN_GATEWAY_ADDRESS_BURST", "20"),
    ("FOGHORN_GATEWAY_SUBJECT_PER_MINUTE", "1"),
    ("FOGHORN_GATEWAY_SUBJECT_BURST", "5"),
    ("FOGHORN_FANOUT_ADDRESS_PER_MINUTE", "1"),
    ("FOGHORN_FANOUT_ADDRESS_BURST", "20"),
    ("FOGHORN_FANOUT_SUBJECT_PER_SECOND", "1"),
    ("FOGHORN_FANOUT_SUBJECT_BURST", "5"),
    ("FOGHORN_FANOUT_BATCH_EVENTS", "5"),
];

async fn open(server: &Foghorn, address: &str, token: Option<&str>) -> SseClient {
    let token = token.map(bearer);
    let mut headers = vec![("x-forwarded-for", address)];
    headers.extend(token.as_deref().map(|token| ("authorization", token)));
    SseClient::connect(&server.url(STREAM), &headers).await.unwrap()
}

/// Whether a stream is live; else it has to be one that is told to come back later.
async fn is_live(stream: &mut SseClient) -> bool {
    super::is_live_or_told(stream, "limited", 1000).await
}

async fn live_of(streams: usize, open: impl AsyncFn(usize) -> SseClient) -> (usize, Vec<SseClient>) {
    let mut kept = join_all((0..streams).map(|n| open(n))).await;
    let live = join_all(kept.iter_mut().map(is_live)).await;
    (live.into_iter().filter(|live| *live).count(), kept)
}

/// What is refused says when it is not.
fn refused(reply: &Reply) {
    assert_eq!(reply.status, 429, "{}", reply.body);
    let wait: u64 = reply.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!(wait >= 1 && reply.body["retryable"] == true, "{}", reply.body);
    assert!(reply.body["type"].as_str().unwrap().ends_with("/rate-limited"), "{}", reply.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_of_fifty_streams_and_an_office_of_five_hundred_pass_by_default() {
    let issuer = Issuer::new();
    let server = issuer.standalone("", &[]).await;
    let token = issuer.token("ann", &json!({}));
    let (live, _browser) = live_of(50, async |_| open(&server, OFFICE, Some(&token)).await).await;
    assert_eq!(live, 50);
    let tokens: Vec<String> = (0..500).map(|n| issuer.token(&format!("u{n}"), &json!({}))).collect();
    let (live, _office) = live_of(500, async |n| open(&server, OFFICE, Some(&tokens[n])).await).await;
    assert_eq!(live, 500);
}

/// What is answered over HTTP/1.1 after TLS, to its end.
async fn over_tls(server: &Foghorn, socket: TcpStream, path: &str, forwarded: &str) -> String {
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let mut stream = tls::connector(&["http/1.1"]).connect(name, socket).await.unwrap();
    let head = format!("Host: {}\r\nX-Forwarded-For: {forwarded}\r\nConnection: close", server.http());
    stream.write_all(format!("GET {path} HTTP/1.1\r\n{head}\r\n\r\n").as_bytes()).await.unwrap();
    let mut text = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut text)).await.unwrap().unwrap();
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_beyond_its_limit_is_told_when_to_come_back_over_every_protocol_and_no_other_is() {
    let issuer = Issuer::new();
    let folder = tempfile::tempdir().unwrap();
    let variables = tls::variables(folder.path());
    let variables = tls::borrowed(&variables);
    let bare = issuer.standalone("", &TIGHT).await;
    let secure = issuer.standalone("", &[&TIGHT[..], &variables].concat()).await;
    for server in [&bare, &secure] {
        let connection = Http2::connect(&server.url("")).await.unwrap();
        for (attacker, is_http2) in [("2001:db8:0:1", true), ("2001:db8:0:2", false)] {
            // A machine has as many addresses as it likes.
            let (live, _kept) = live_of(BURST + 10, async |n| {
                let address = format!("{attacker}::{n}");
                match is_http2 {
                    true => connection.listen(STREAM, &[("x-forwarded-for", &address)]).await.unwrap(),
                    false => open(server, &address, None).await,
                }
            })
            .await;
            assert_eq!(live, BURST, "{}, HTTP/2: {is_http2}", server.url(""));
            let ask = async |address: &str, path: &str| {
                let headers = [("x-forwarded-for", address)];
                match is_http2 {
                    true => connection.ask(Method::GET, path, &headers, None).await.unwrap(),
                    false => request(Method::GET, &server.url(path), &headers, None).await.unwrap(),
                }
            };
            // What stands to the left of what the proxy wrote is anybody's.
            let hidden = format!("{OFFICE}, {attacker}::1");
            for path in ["/api/channels/open.a/events", "/api/events/stats", "/api/nothing"] {
                refused(&ask(&hidden, path).await);
            }
            assert_eq!(ask(OFFICE, "/api/channels/open.a/events").await.status, 200);
        }
        let limited = "foghorn_gateway_limited_total{by=\"address\"}";
        assert!(metric(server.admin(), limited).await >= 26.0);
    }
    let socket = TcpStream::connect(secure.http()).await.unwrap();
    let limited = over_tls(&secure, socket, STREAM, "2001:db8:0:1::99").await;
    assert!(limited.starts_with("HTTP/1.1 200 OK\r\n") && limited.contains("\"limited\""), "{limited}");
    // The proxy itself is not limited: it names nobody.
    for _ in 0..BURST + 10 {
        let reply = request(Method::GET, &bare.url("/api/channels/open.a/events"), &[], None).await.unwrap();
        assert_eq!(reply.status, 200, "{}", reply.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_address_says_that_is_no_trusted_proxy_is_not_believed() {
    let issuer = Issuer::new();
    let nobody = [&TIGHT[..], &[("FOGHORN_HTTP_TRUSTED_PROXIES", "203.0.113.0/24")]].concat();
    let server = issuer.standalone("", &nobody).await;
    let (live, _kept) =
        live_of(BURST + 10, async |n| open(&server, &format!("198.51.100.{n}"), None).await).await;
    assert_eq!(live, BURST, "they are one address, whatever they say");
    server
        .process()
        .wait_for_log("a hint at a proxy without trust", PATIENCE, |line| {
            line.contains("http.trusted_proxies").then_some(())
        })
        .await;

    let standard = [&TIGHT[..], &[("FOGHORN_HTTP_FORWARDED_BY", "forwarded")]].concat();
    let server = issuer.standalone("", &standard).await;
    let (live, _kept) = live_of(BURST + 10, async |n| {
        let (by, lie) = (format!("for=192.0.2.{n}, for=\"[2001:db8::{n}]:4711\""), format!("192.0.2.{n}"));
        let headers = [("forwarded", by.as_str()), ("x-forwarded-for", &lie)];
        SseClient::connect(&server.url(STREAM), &headers).await.unwrap()
    })
    .await;
    assert_eq!(live, BURST, "the header that the proxies write is believed, and only that");
}

/// A connection from a load balancer on 127.0.0.2 that says it is from 203.0.113.`client`.
async fn balanced(server: &Foghorn, client: u8) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let mut socket = socket.connect(server.http().parse().unwrap()).await.unwrap();
    let addresses = [203, 0, 113, client, 127, 0, 0, 1, 0x12, 0x34, 0, 80];
    let header = [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"[..], &addresses].concat();
    socket.write_all(&header).await.unwrap();
    socket
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_behind_a_load_balancer_that_passes_tcp_on_have_their_own_limits() {
    let issuer = Issuer::new();
    let folder = tempfile::tempdir().unwrap();
    let variables = tls::variables(folder.path());
    let variables = tls::borrowed(&variables);
    let listed = [("FOGHORN_HTTP_PROXY_PROTOCOL", "127.0.0.2")];
    let server = issuer.standalone("", &[&TIGHT[..], &variables, &listed].concat()).await;
    let history = "/api/channels/open.a/events";
    let answers = join_all((0..BURST + 10).map(|n| {
        let server = &server;
        // It is no proxy that could say it is somebody else.
        async move { over_tls(server, balanced(server, 66).await, history, &format!("192.0.2.{n}")).await }
    }))
    .await;
    let begin = |status: &str| answers.iter().filter(|answer| answer.starts_with(status)).count();
    assert_eq!((begin("HTTP/1.1 200"), begin("HTTP/1.1 429")), (BURST, 10), "{answers:?}");
    let other = over_tls(&server, balanced(&server, 9).await, history, "").await;
    assert!(other.starts_with("HTTP/1.1 200"), "{other}");
    let limited = over_tls(&server, balanced(&server, 66).await, STREAM, "").await;
    assert!(limited.contains("\"limited\""), "{limited}");
}

fn event(channel: &str) -> Value {
    json!({ "channel": channel, "data": "x" })
}

async fn publish(server: &Foghorn, address: &str, token: &str, events: &Value) -> Reply {
    let token = bearer(token);
    let headers = [("authorization", token.as_str()), ("x-forwarded-for", address)];
    request(Method::POST, &server.url("/api/publish"), &headers, Some(events)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subject_beyond_its_limit_is_told_when_to_come_back_and_no_other_is() {
    let issuer = Issuer::new();
    let server = issuer.standalone("", &TIGHT).await;
    let [ann, bob] = ["ann", "bob"].map(|subject| issuer.token(subject, &json!({})));
    let (live, _kept) =
        live_of(12, async |n| open(&server, &format!("198.51.100.{n}"), Some(&ann)).await).await;
    assert_eq!(live, SUBJECT_BURST);
    assert!(is_live(&mut open(&server, OFFICE, Some(&bob)).await).await);
    assert!(metric(server.admin(), "foghorn_gateway_limited_total{by=\"subject\"}").await >= 7.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_subject_publishes_beyond_its_limit_is_refused_whole_and_a_grpc_stream_is_slowed_down() {
    let issuer = Issuer::new();
    let server = issuer.standalone("", &TIGHT).await;
    let [shop, other, slow] =
        ["shop", "other", "slow"].map(|subject| issuer.token(subject, &json!({ "publish": ["open.>"] })));
    // A request is taken whole or not at all, or its events would change places.
    let four = Value::Array((0..4).map(|_| event("open.a")).collect());
    assert_eq!(publish(&server, OFFICE, &shop, &four).await.status, 200);
    refused(&publish(&server, OFFICE, &shop, &four).await);
    let answers = join_all((0..20).map(|n| {
        let (server, other) = (&server, &other);
        async move { publish(server, &format!("198.51.100.{n}"), other, &event("open.b")).await }
    }))
    .await;
    let (good, bad): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 200);
    // A second or two may pass meanwhile, with an event each.
    assert!((SUBJECT_BURST..=SUBJECT_BURST + 4).contains(&good.len()), "{} published", good.len());
    bad.into_iter().for_each(refused);

    // Over gRPC a request is refused, and a stream is read more slowly.
    let mut grpc = PublisherClient::connect(format!("http://{}", server.grpc())).await.unwrap();
    let request =
        |channel: &str| PublishRequest { channel: channel.into(), data: "x".into(), ..Default::default() };
    let events = vec![request("open.c"); 5];
    let batch = PublishBatchRequest { events: events.clone() };
    let began = Instant::now();
    assert!(grpc.publish_batch(super::doors::of(batch.clone(), Some(&bearer(&slow)))).await.is_ok());
    let status = grpc.publish_batch(super::doors::of(batch, Some(&bearer(&slow)))).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(status.metadata().get("foghorn-problem").unwrap(), "rate-limited");
    let streamed = futures::stream::iter(vec![request("open.c"); 3]);
    let mut answers =
        grpc.publish_stream(super::doors::of(streamed, Some(&bearer(&slow)))).await.unwrap().into_inner();
    let mut published = 0;
    while let Some(answer) = answers.message().await.unwrap() {
        assert!(matches!(answer.result, Some(foghorn_rpc::v1::publish_result::Result::Ok(_))), "{answer:?}");
        published += 1;
    }
    assert_eq!(published, 3);
    assert!(began.elapsed() > Duration::from_secs(2), "{:?}", began.elapsed());
    assert!(metric(server.admin(), "foghorn_fanout_publish_rate_waits_total").await >= 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn gateways_and_fan_outs_of_a_cluster_limit_too() {
    let issuer = Issuer::new();
    let (nats, config) = (NatsServer::start().await, issuer.config(""));
    // Nothing is known of the log, so a stream is let in and soon ended.
    let environment = [&TIGHT[..], &[CLOSED, ("FOGHORN_GATEWAY_LOG_PATIENCE", "1s")]].concat();
    let (bus, nowhere) = (nats.url(), "http://127.0.0.1:1");
    let common = [
        "--config",
        &config,
        "--nats",
        &bus,
        "--eventlog",
        nowhere,
        "--admin",
        "127.0.0.1:0",
        "--listen",
        "127.0.0.1:0",
    ];
    let gateway = Foghorn::spawn(&[&["gateway"][..], &common].concat(), &environment).await;
    let fanout = [&["fanout", "--grpc", "127.0.0.1:0"][..], &common].concat();
    let fanout = Foghorn::spawn(&fanout, &environment).await;
    let first = async |address: String| {
        let mut stream = open(&gateway, &address, None).await;
        stream.next().await
    };
    let first = join_all((0..BURST + 10).map(|_| first(ATTACKER.to_owned()))).await;
    let limited = |block: &Block| block.data.as_deref().is_some_and(|data| data.contains("limited"));
    assert_eq!(first.iter().filter(|block| limited(block)).count(), 10, "{first:?}");

    let shop = issuer.token("shop", &json!({ "publish": ["open.>"] }));
    until("the fan-out to publish", PATIENCE, async || {
        let reply = publish(&fanout, OFFICE, &shop, &event("open.a")).await;
        (reply.status == 200).then_some(())
    })
    .await;
    // Whether or not they could publish.
    let one = event("open.a");
    let answers = join_all((0..BURST + 10).map(|_| publish(&fanout, ATTACKER, "no token", &one))).await;
    let (unknown, late): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 401);
    assert_eq!(unknown.len(), BURST);
    late.into_iter().for_each(refused);
    let answers = join_all((0..10).map(|n| {
        let (fanout, shop) = (&fanout, &shop);
        async move { publish(fanout, &format!("198.51.100.{n}"), shop, &event("open.a")).await }
    }))
    .await;
    let late: Vec<_> = answers.iter().filter(|answer| answer.status != 200).collect();
    assert!(!late.is_empty());
    late.into_iter().for_each(refused);
    let counted = "foghorn_fanout_publishes_total{door=\"http\",ack=\"accepted\",outcome=\"limited\"}";
    assert!(metric(fanout.admin(), counted).await >= 11.0);
}

/// How long an event takes to all of the listeners, at worst of a hundred: of 200 events, and of more until `enough`.
async fn slowest(
    server: &Foghorn,
    listeners: &mut [SseClient],
    name: &str,
    enough: impl Fn() -> bool,
) -> Duration {
    let mut took = Vec::new();
    while took.len() < 200 || !enough() {
        let data = format!("{name} {}", took.len());
        let event = json!({ "channel": "open.a", "data": data });
        let began = Instant::now();
        let reply = foghorn_tests::http::post(&server.url("/api/publish"), &event).await.unwrap();
        assert_eq!(reply.status, 200, "{}", reply.body);
        let heard = |block: &Block| block.data.as_deref() == Some(data.as_str());
        join_all(listeners.iter_mut().map(|stream| stream.collect_until(PATIENCE, heard))).await;
        took.push(began.elapsed());
    }
    took.sort();
    took[took.len() * 99 / 100]
}

/// Connects for a stream again and again, each time with a connection of its own, `PER_SECOND` times a second or as
/// often as that goes. How often it was told to come back later, and how long it took.
fn attack(address: &str) -> (usize, Duration) {
    let host = format!("Host: {address}\r\nX-Forwarded-For: {ATTACKER}\r\nConnection: close");
    let request = format!("GET {STREAM} HTTP/1.1\r\n{host}\r\n\r\n");
    let began = Instant::now();
    let connect = &|turn: usize| {
        let due = Duration::from_secs(1) * u32::try_from(turn).unwrap() / PER_SECOND;
        std::thread::sleep(due.saturating_sub(began.elapsed()));
        let mut socket = std::net::TcpStream::connect(address).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.write_all(request.as_bytes()).unwrap();
        let mut said = String::new();
        socket.read_to_string(&mut said).unwrap();
        said.contains("\"limited\"")
    };
    let rejected = std::thread::scope(|scope| {
        let attackers: Vec<_> = (0..ATTACKERS)
            .map(|first| {
                scope
                    .spawn(move || (first..CONNECTS).step_by(ATTACKERS).filter(|turn| connect(*turn)).count())
            })
            .collect();
        attackers.into_iter().map(|attacker| attacker.join().unwrap()).sum()
    });
    (rejected, began.elapsed())
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_rejected_connects_a_second_cost_honest_listeners_next_to_nothing() {
    let environment = [("FOGHORN_GATEWAY_ADDRESS_PER_MINUTE", "1"), ("FOGHORN_GATEWAY_ADDRESS_BURST", "1")];
    let server = standalone(&["--ephemeral"], &environment).await;
    let honest = async |n: usize| open(&server, &format!("198.51.100.{n}"), None).await;
    let (live, mut listeners) = live_of(LISTENERS, honest).await;
    assert_eq!(live, LISTENERS);
    let unloaded = slowest(&server, &mut listeners, "unloaded", || true).await;

    // The one that passes.
    let _passed = open(&server, ATTACKER, None).await;
    let (address, over) = (server.http().to_owned(), Arc::new(AtomicBool::new(false)));
    let ending = over.clone();
    let attack = tokio::task::spawn_blocking(move || {
        let attacked = attack(&address);
        ending.store(true, Ordering::Relaxed);
        attacked
    });
    let loaded = slowest(&server, &mut listeners, "loaded", || over.load(Ordering::Relaxed)).await;
    let (rejected, took) = attack.await.unwrap();
    println!("{rejected} rejected in {took:?}; the slowest event {loaded:?}, {unloaded:?} without");
    assert_eq!(rejected, CONNECTS);
    // Who attacks shares processors with the server and with those who listen: where those are few or busy it
    // comes to less, but not to much less.
    assert!(took < SECONDS * 5, "{took:?}");
    assert!(loaded <= 2 * unloaded + Duration::from_millis(250), "{loaded:?}, {unloaded:?} without");
    let ended = metric(server.admin(), "foghorn_gateway_streams_ended_total{reason=\"limited\"}").await;
    assert!(ended >= CONNECTS as f64, "{ended}");
}
