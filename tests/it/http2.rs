//! HTTP/2 and TLS: the same streams, many on a connection; and clients that abuse it, beside honest ones.

mod raw;

use std::path::Path;
use std::time::Duration;

use foghorn_tests::PATIENCE;
use foghorn_tests::foghorn::Foghorn;
use foghorn_tests::http::{self as client, metric, post};
use foghorn_tests::http2::Http2;
use foghorn_tests::sse::{NoBlock, SseClient};
use foghorn_tests::tls;
use foghorn_tests::wait::until;
use foghorn_tests::wire::State;
use futures::future::join_all;
use http::Method;
use nix::sys::signal::Signal;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::rustls::pki_types::ServerName;

use self::raw::End;
use crate::bounds::{Remote, resident};
use crate::deployment::{Listener, standalone};
use crate::outages::stage::Stage;

/// How long a part may take to be well again, on a busy machine.
const LIMIT: Duration = Duration::from_secs(90);
/// ENHANCE_YOUR_CALM (RFC 9113, 7).
const CALM: u32 = 0xb;

/// A standalone in memory, with this configuration.
pub(crate) async fn ephemeral(folder: &Path, text: &str, environment: &[(&str, &str)]) -> Foghorn {
    let config = folder.join("foghorn.toml");
    std::fs::write(&config, text).unwrap();
    standalone(&["--ephemeral", "--config", &config.display().to_string()], environment).await
}

/// The same over TLS, as it comes.
pub(crate) async fn over_tls(folder: &Path) -> Foghorn {
    let variables = tls::variables(folder);
    let variables = tls::borrowed(&variables);
    ephemeral(folder, "", &variables).await
}

async fn publish(process: &Foghorn, channel: &str, data: &str) {
    let event = json!({ "channel": channel, "data": data });
    let reply = post(&process.url("/api/publish"), &event).await.unwrap();
    assert_eq!(reply.status, 200, "{}", reply.body);
}

/// What is agreed on with a client that offers these, and the status line or frame that a request is answered with.
async fn spoken(process: &Foghorn, offered: &[&str]) -> Option<Vec<u8>> {
    let socket = TcpStream::connect(process.http()).await.unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let stream = tls::connector(offered).connect(name, socket).await.ok()?;
    Some(stream.get_ref().1.alpn_protocol().unwrap_or(b"none").to_vec())
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_is_agreed_on_by_tls_or_known_beforehand_and_http1_goes_on_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let (secure, bare) = (over_tls(folder.path()).await, standalone(&["--ephemeral"], &[]).await);
    for (offered, agreed) in [
        (&["h2", "http/1.1"][..], Some(&b"h2"[..])),
        (&["http/1.1", "h2"], Some(b"h2")),
        (&["http/1.1"], Some(b"http/1.1")),
        (&[], Some(b"none")),
        (&["spdy/3"], None),
    ] {
        assert_eq!(spoken(&secure, offered).await.as_deref(), agreed, "{offered:?}");
    }
    // HTTP/1.1 over TLS: a stream from its beginning to an event.
    let socket = TcpStream::connect(secure.http()).await.unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let mut stream = tls::connector(&["http/1.1"]).connect(name, socket).await.unwrap();
    let request = format!("GET /api/events/c HTTP/1.1\r\nHost: {}\r\n\r\n", secure.http());
    stream.write_all(request.as_bytes()).await.unwrap();
    let (mut heard, mut published) = (String::new(), false);
    while !heard.contains("data: over TLS") {
        let mut some = [0; 4096];
        let length = tokio::time::timeout(PATIENCE, stream.read(&mut some)).await.unwrap().unwrap();
        assert!(length > 0, "{heard}");
        heard += std::str::from_utf8(&some[..length]).unwrap();
        if heard.contains("stream-live") && !published {
            published = true;
            publish(&secure, "c", "over TLS").await;
        }
    }
    assert!(
        heard.starts_with("HTTP/1.1 200 OK\r\n") && heard.contains("transfer-encoding: chunked"),
        "{heard}"
    );
    // One port, both, without TLS.
    let known = Http2::connect(&format!("http://{}", bare.http())).await.unwrap();
    let mut over_http2 = Listener::of(known.listen("/api/events/c", &[]).await.unwrap()).await;
    let mut over_http1 = Listener::open(&bare.url("/api/events/c"), None).await;
    let event = json!({ "channel": "c", "data": "both" });
    assert_eq!(known.post("/api/publish", &event).await.unwrap().status, 200);
    assert_eq!(
        (over_http2.data(1).await, over_http1.data(1).await),
        (vec!["both".into()], vec!["both".into()])
    );
    assert_eq!(metric(bare.admin(), "foghorn_gateway_connections ").await, 2.0, "streams count");
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_only_pages_that_came_over_tls_are_the_servers_own() {
    let folder = tempfile::tempdir().unwrap();
    let process = over_tls(folder.path()).await;
    let connection = Http2::connect(&process.url("")).await.unwrap();
    let event = json!({ "channel": "c", "data": 1 });
    let ask = async |origin: &str| {
        let headers = [("content-type", "application/json"), ("origin", origin)];
        connection.ask(Method::POST, "/api/publish", &headers, Some(&event)).await.unwrap().status
    };
    assert_eq!(ask(&process.url("")).await, 200);
    assert_eq!(ask(&format!("http://{}", process.http())).await, 403);
    assert_eq!(ask("https://evil.example").await, 403);
    // What HTTP/2 calls the server by is what counts, and no header beside it.
    let stats = connection.ask(Method::GET, "/api/events/stats", &[("host", "evil.example")], None).await;
    assert_eq!(stats.unwrap().status, 200);
    let url = process.url("/api/events/stats");
    let elsewhere = client::request(Method::GET, &url, &[("host", "evil.example")], None);
    assert_eq!(elsewhere.await.unwrap().status, 421, "as its authority");
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_count_each_and_one_too_many_is_told_so_on_the_same_connection() {
    let folder = tempfile::tempdir().unwrap();
    let process = ephemeral(folder.path(), "[gateway]\nconnections = 2\n", &[]).await;
    let connection = Http2::connect(&format!("http://{}", process.http())).await.unwrap();
    let listen = async || connection.listen("/api/events/c", &[]).await.unwrap();
    let (mut first, second) = (Listener::of(listen().await).await, Listener::of(listen().await).await);
    let (blocks, end) = listen().await.collect_to_end(PATIENCE).await;
    assert_eq!((blocks[0].event_type(), blocks[0].json()), ("stream-end", json!({ "reason": "overload" })));
    assert_eq!(end, NoBlock::End);
    // One that is taken back makes room, and costs the others nothing.
    drop(second);
    until("a place", LIMIT, async || (listen().await.next().await.event_type() == "connected").then_some(()))
        .await;
    publish(&process, "c", "to the first").await;
    assert_eq!(first.data(1).await, ["to the first"]);
    let gone = "foghorn_gateway_streams_ended_total{reason=\"client-gone\"}";
    until("both that left", LIMIT, async || (metric(process.admin(), gone).await == 2.0).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_certificate_is_served_and_streams_stay() {
    let folder = tempfile::tempdir().unwrap();
    let process = over_tls(folder.path()).await;
    let mut listener = Listener::open(&process.url("/api/events/c"), None).await;
    let connection = Http2::connect(&process.url("")).await.unwrap();
    let renewed = tls::another();
    std::fs::write(folder.path().join("tls.crt"), renewed.cert.pem()).unwrap();
    std::fs::write(folder.path().join("tls.key"), renewed.signing_key.serialize_pem()).unwrap();
    until("the new certificate", LIMIT, async || {
        let socket = TcpStream::connect(process.http()).await.unwrap();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        tls::connector_trusting(&renewed, &["h2"]).connect(name, socket).await.ok().map(drop)
    })
    .await;
    let event = json!({ "channel": "c", "data": "still here" });
    assert_eq!(connection.post("/api/publish", &event).await.unwrap().status, 200);
    assert_eq!(listener.data(1).await, ["still here"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_nobody_reads_holds_up_nothing_and_loses_nothing() {
    const EVENTS: usize = 400;
    let folder = tempfile::tempdir().unwrap();
    let process = ephemeral(folder.path(), "[gateway]\nring_bytes = 1048576\n", &[]).await;
    let connection = Http2::connect(&format!("http://{}", process.http())).await.unwrap();
    let open = async || Listener::of(connection.listen("/api/events/c", &[]).await.unwrap()).await;
    let (mut read, mut forgotten) = (open().await, open().await);
    let texts: Vec<String> = (0..EVENTS).map(|number| format!("{number} {}", "x".repeat(15_000))).collect();
    for text in &texts {
        publish(&process, "c", text).await;
        assert!(read.data(1).await[0] == *text, "one that is read has each event at once");
    }
    until("the other one to be known as slow", LIMIT, async || {
        (metric(process.admin(), "foghorn_gateway_slow_connections").await == 1.0).then_some(())
    })
    .await;
    // Most of it is gone from the ring by now.
    assert!(forgotten.data(EVENTS).await == texts, "everything, once and in order");
    let replayed = "foghorn_gateway_replayed_events_total{source=\"log\"}";
    publish(&process, "c", "live again").await;
    assert_eq!(forgotten.data(1).await, ["live again"]);
    assert_eq!(metric(process.admin(), "foghorn_gateway_resets_total").await, 0.0);
    assert!(metric(process.admin(), replayed).await > 100.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_over_http2_are_let_go_one_by_one_when_the_gateway_drains() {
    const STREAMS: usize = 20;
    let folder = tempfile::tempdir().unwrap();
    let process = ephemeral(folder.path(), "[gateway]\ndrain_window = \"1s\"\n", &[]).await;
    let connection = Http2::connect(&format!("http://{}", process.http())).await.unwrap();
    let opened = join_all((0..STREAMS).map(|_| connection.listen("/api/events/c", &[]))).await;
    let streams = join_all(opened.into_iter().map(|stream| Listener::of(stream.unwrap()))).await;
    process.sigterm();
    for listener in streams {
        let mut stream = listener.stream;
        let (blocks, end) = stream.collect_to_end(PATIENCE).await;
        let last = blocks.last().unwrap();
        assert_eq!((last.event_type(), last.json()), ("stream-end", json!({ "reason": "drain" })));
        assert!(last.retry.is_some());
        assert_eq!(end, NoBlock::End);
    }
    assert!(process.wait(PATIENCE).await.success());
    until("the connection to end", PATIENCE, async || connection.is_closed().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_over_http2_hears_that_its_feed_is_silent_and_goes_on_where_it_was() {
    let stage = Stage::new("").await;
    let remote = Remote::of(&stage).await;
    let connection = Http2::connect(&format!("http://{}", remote.gateway.http())).await.unwrap();
    let mut listener = Listener::of(connection.listen("/api/events/c", &[]).await.unwrap()).await;
    let told = async |listener: &mut Listener, what: &str| {
        listener.stream.collect_until(PATIENCE, |block| block.event_type() == what).await
    };
    remote.nats.set(State::Swallowing);
    told(&mut listener, "stream-stale").await;
    remote.nats.set(State::Open);
    remote.nats.cut();
    told(&mut listener, "stream-live").await;
    stage.publish("c", "1").await;
    assert_eq!(listener.data(1).await, ["1"]);
    // The connection dies with its gateway, and the cursor holds at the other.
    let cursor = listener.cursor();
    remote.gateway.signal(Signal::SIGKILL);
    stage.publish("c", "2").await;
    let other = format!("http://{}", stage.cluster.gateways[0].http());
    let other = Http2::connect(&other).await.unwrap();
    let headers = [("last-event-id", cursor.as_str())];
    let mut resumed = Listener::of(other.listen("/api/events/c", &headers).await.unwrap()).await;
    assert_eq!(resumed.connected["recovered"], true);
    assert_eq!(resumed.first(1).await, ["2"]);
}

/// Publishes so many events one at a time; how late each was with the listeners, the latest of a hundred left out.
pub(crate) async fn lateness(process: &Foghorn, listeners: &mut [Listener], texts: &[String]) -> Duration {
    let mut late = Vec::new();
    for text in texts {
        let begun = Instant::now();
        let hearing = join_all(listeners.iter_mut().map(Listener::event));
        let ((), heard) = tokio::join!(publish(process, "c", text), hearing);
        assert!(heard.iter().all(|event| event.data.as_deref() == Some(text)), "each event, in order");
        late.push(begun.elapsed());
    }
    late.sort_unstable();
    late[(texts.len() * 99 / 100).min(texts.len() - 1)]
}

/// Honest listeners: one over HTTP/1.1, and two on a connection over HTTP/2.
async fn honest(process: &Foghorn) -> Vec<Listener> {
    let connection = Http2::connect(&format!("http://{}", process.http())).await.unwrap();
    let mut streams = vec![SseClient::connect(&process.url("/api/events/c"), &[]).await.unwrap()];
    for _ in 0..2 {
        streams.push(connection.listen("/api/events/c", &[]).await.unwrap());
    }
    join_all(streams.into_iter().map(Listener::of)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn listeners_over_http2_that_never_read_cost_little_and_others_nothing() {
    const EACH: u32 = 100;
    const IDLERS: usize = 5 * EACH as usize;
    let folder = tempfile::tempdir().unwrap();
    let config = "[gateway]\nring_bytes = 4194304\nslow_time = \"5s\"\n";
    let process = ephemeral(folder.path(), config, &[]).await;
    let mut listeners = honest(&process).await;
    let texts = |name: &str| -> Vec<String> {
        (0..400).map(|number| format!("{name}{number} {}", "x".repeat(15_000))).collect()
    };
    let alone = lateness(&process, &mut listeners, &texts("alone")).await;
    let before = resident(process.process().pid());
    // Three read nothing, and announce windows without end; two read, and never open a window again.
    let mut deaf = Vec::new();
    for number in 0..5 {
        let greedy = number < 3;
        let mut connection = raw::never_take(process.http(), "/api/events/c", EACH, greedy).await;
        deaf.push(tokio::spawn(async move {
            let mut waste = vec![0; 64 * 1024];
            while !greedy && connection.read(&mut waste).await.is_ok_and(|length| length > 0) {}
            if greedy {
                std::future::pending::<()>().await;
            }
        }));
    }
    let connections = async || metric(process.admin(), "foghorn_gateway_connections ").await;
    until("all of them", LIMIT, async || (connections().await == (IDLERS + 3) as f64).then_some(())).await;
    let beside = lateness(&process, &mut listeners, &texts("beside")).await;
    let grown = resident(process.process().pid()).saturating_sub(before);
    assert!(grown < IDLERS * 128 * 1024, "{grown} bytes for {IDLERS}");
    assert!(beside < alone * 2 + Duration::from_millis(100), "{beside:?} beside them, {alone:?} alone");
    // In the end they are let go, for a reason that is counted.
    until("the end of their streams", LIMIT, async || (connections().await == 3.0).then_some(())).await;
    let slow = metric(process.admin(), "foghorn_gateway_streams_ended_total{reason=\"slow\"}").await;
    assert!(slow >= (IDLERS * 9 / 10) as f64, "{slow} of {IDLERS} were slow");
    lateness(&process, &mut listeners, &["still here".to_owned()]).await;
    deaf.into_iter().for_each(|task| task.abort());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_floods_a_connection_over_http2_is_cut_off_and_honest_listeners_notice_nothing() {
    let process = standalone(&["--ephemeral"], &[]).await;
    let address = process.http().to_owned();
    let mut listeners = honest(&process).await;
    let texts = |name: &str| -> Vec<String> { (0..100).map(|number| format!("{name} {number}")).collect() };
    let alone = lateness(&process, &mut listeners, &texts("alone")).await;
    let before = resident(process.process().pid());
    let asking = raw::get("/api/events/c", &address);

    // Requests that are taken back at once.
    let reset = |turn: u32| {
        let pair = |number: u32| {
            let stream = 2 * (turn * 500 + number) + 1;
            let whole = raw::END_STREAM | raw::END_HEADERS;
            [
                raw::frame(raw::HEADERS, whole, stream, &asking),
                raw::frame(raw::RST_STREAM, 0, stream, &8_u32.to_be_bytes()),
            ]
            .concat()
        };
        (0..500).flat_map(pair).collect()
    };
    // A head without an end, in frames as large and as small as can be.
    let field = [&[0x00, 0x01, b'x', 0x7f, 0x81, 0x7c][..], &[b'y'; 16_000]].concat();
    let endless = |payload: Vec<u8>| {
        let asking = asking.clone();
        move |turn: u32| match turn {
            0 => raw::frame(raw::HEADERS, raw::END_STREAM, 1, &asking),
            _ => raw::frame(raw::CONTINUATION, 0, 1, &payload),
        }
    };
    // A name and value of 4 KiB, remembered once and then meant sixteen thousand times: 64 MB a request.
    let remembered = [&[0x40, 0x01, b'x', 0x7f, 0xa1, 0x1e][..], &[b'z'; 4000]].concat();
    let bomb = |turn: u32| {
        let block = if turn == 0 { remembered.clone() } else { vec![0xbe; 16_000] };
        let block = [&asking[..], &block].concat();
        raw::frame(raw::HEADERS, raw::END_STREAM | raw::END_HEADERS, 2 * turn + 1, &block)
    };

    let attacks = async {
        let rapid = raw::flood(&address, 400, reset).await;
        let large = raw::flood(&address, 4000, endless(field)).await;
        let small = raw::flood(&address, 200_000, endless(Vec::new())).await;
        let bombed = raw::flood(&address, 2000, bomb).await;
        (rapid, large, small, bombed)
    };
    let texts = texts("beside");
    let hearing = lateness(&process, &mut listeners, &texts);
    let ((rapid, large, small, bombed), beside) = tokio::join!(attacks, hearing);
    // What the server said last is lost when the client's next frames come after its socket is closed.
    let cut_off = |end: &Option<End>| matches!(end, Some(End::Said(CALM) | End::Closed));
    assert!(cut_off(&rapid), "requests taken back: {rapid:?}");
    assert!(cut_off(&large), "a head without an end: {large:?}");
    assert!(cut_off(&small), "a head without an end, in nothing: {small:?}");
    println!("taken back {rapid:?}, large {large:?}, small {small:?}, bombs {bombed:?}");
    let grown = resident(process.process().pid()).saturating_sub(before);
    assert!(grown < 32 << 20, "{grown} bytes");
    assert!(beside < alone * 2 + Duration::from_millis(100), "{beside:?} beside them, {alone:?} alone");
    until("nothing to be left of them", LIMIT, async || {
        (metric(process.admin(), "foghorn_gateway_connections ").await == 3.0).then_some(())
    })
    .await;
    // A head that is merely too large is told so, and its connection goes on.
    let connection = Http2::connect(&format!("http://{address}")).await.unwrap();
    let large = "y".repeat(20_000);
    let refused = connection.ask(Method::GET, "/api/events/stats", &[("x-large", &large)], None).await;
    assert_eq!(refused.unwrap().status, 431);
    assert_eq!(connection.get("/api/events/stats").await.unwrap().status, 200);
}
