//! Requests over HTTP/1.1 that never end, beside honest listeners. (What HTTP/2 has of its own is in `http2`.)

use std::time::Duration;

use foghorn_tests::http::{get, metric, post};
use foghorn_tests::sse::SseClient;
use foghorn_tests::wait::until;
use futures::future::join_all;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use crate::bounds::resident;
use crate::deployment::{Listener, standalone};
use crate::http2::lateness;

const HONEST: usize = 200;
/// At a time, of each kind.
const ATTACKERS: usize = 40;
/// And of those whose bodies don't end: as many as find room with honest publishers (`fanout.inflight_bytes`).
const SENDERS: usize = 10;
/// How long the server bears a head that doesn't end, and some more.
const LIMIT: Duration = Duration::from_secs(20);
/// More than the server may take of anything.
const MUCH: usize = 64 << 20;

/// Sends `opening`, and then `more` over and over, until the server ends it or has said something. What it said, and
/// how many bytes it was sent.
async fn pour(address: &str, opening: &str, more: &[u8], pause: Duration) -> (String, usize) {
    let mut socket = TcpStream::connect(address).await.unwrap();
    let (mut reading, mut writing) = socket.split();
    let mut sent = 0;
    let pouring = async {
        let mut next = opening.as_bytes();
        while sent < MUCH {
            // Closed already: what it said is there to be read.
            if writing.write_all(next).await.is_err() {
                std::future::pending::<()>().await;
            }
            sent += next.len();
            next = more;
            if !pause.is_zero() {
                sleep(pause).await;
            }
        }
    };
    let mut said = vec![0; 1024];
    let said = tokio::select! {
        () = pouring => panic!("it took {MUCH} bytes"),
        read = reading.read(&mut said) => String::from_utf8_lossy(&said[..read.unwrap_or(0)]).into_owned(),
    };
    (said, sent)
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_without_an_end_are_ended_and_honest_listeners_notice_nothing() {
    let process = standalone(&["--ephemeral"], &[]).await;
    let address = process.http().to_owned();
    let honest = (0..HONEST).map(|_| async {
        Listener::of(SseClient::connect(&process.url("/api/events/c"), &[]).await.unwrap()).await
    });
    let mut listeners = join_all(honest).await;
    let texts = |name: &str| -> Vec<String> { (0..100).map(|number| format!("{name} {number}")).collect() };
    let alone = lateness(&process, &mut listeners, &texts("alone")).await;
    let before = resident(process.process().pid());

    let line = format!("GET /api/events/c HTTP/1.1\r\nHost: {address}\r\n");
    let many: Vec<String> = (0..100_000).map(|number| format!("c{number}")).collect();
    let many = format!("GET /api/events?channels={} HTTP/1.1\r\nHost: {address}\r\n\r\n", many.join(","));
    let body = format!(
        "POST /api/publish HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    let chunk = [b"4000\r\n".as_slice(), &[b' '; 0x4000], b"\r\n"].concat();
    let field = format!("x-{}: {}\r\n", "n".repeat(100), "v".repeat(8000));
    let slowly = Duration::from_millis(100);
    let kinds: [(&str, usize, &str, &[u8], Duration); 4] = [
        ("a head in drips", ATTACKERS, &line, b"x", slowly),
        ("a head without an end", ATTACKERS, &line, field.as_bytes(), Duration::ZERO),
        ("a hundred thousand channels", ATTACKERS, &many, b"\r\n", slowly),
        ("a body without an end", SENDERS, &body, &chunk, Duration::ZERO),
    ];
    let attacks = join_all(kinds.map(|(name, attackers, opening, more, pause)| {
        let address = &address;
        async move {
            let attack = || async {
                let begun = Instant::now();
                let ended = timeout(LIMIT, pour(address, opening, more, pause)).await;
                (ended.unwrap_or_else(|_| panic!("{name} is borne for {LIMIT:?}")), begun.elapsed())
            };
            (name, join_all((0..attackers).map(|_| attack())).await)
        }
    }));
    let texts = texts("beside");
    let hearing = lateness(&process, &mut listeners, &texts);
    let (attacks, beside) = tokio::join!(attacks, hearing);

    let grown = resident(process.process().pid()).saturating_sub(before);
    for (name, ends) in attacks {
        let ((said, sent), took) = &ends[0];
        println!("{name}: {:?} after {sent} bytes and {took:?}", said.lines().next());
        // Nothing, where the answer is lost because more came after it.
        let refused = |said: &str| said.is_empty() || said.starts_with("HTTP/1.1 4");
        assert!(ends.iter().all(|((said, _), _)| refused(said)), "{name}: {ends:?}");
    }
    // The bodies, and a little.
    assert!(grown < (64 + 32) << 20, "{grown} bytes");
    assert!(beside < alone * 2 + Duration::from_millis(100), "{beside:?} beside them, {alone:?} alone");
    until("nothing to be left of them", LIMIT, async || {
        (metric(process.admin(), "foghorn_gateway_connections ").await == HONEST as f64).then_some(())
    })
    .await;
    assert_eq!(get(&process.url("/")).await.unwrap().status, 200);
}

/// What would end a line of a head or of a stream, or a text of C's, with something behind it.
const BREAKS: [&str; 4] = ["\r\nx-injected: 1", "\nid: 1", "\r", "\0"];

#[tokio::test(flavor = "multi_thread")]
async fn line_breaks_and_nul_are_refused_wherever_they_stand() {
    let process = standalone(&["--ephemeral"], &[]).await;
    for text in BREAKS {
        let escaped: String = text.bytes().map(|byte| format!("%{byte:02X}")).collect();
        for path in [
            "/api/events/c<>",
            "/api/events?channels=c<>",
            "/api/events?channels=c,<>",
            "/api/events?channels=c&since=<>",
            "/api/events?channels=c&last=<>",
            "/api/events?channels=c&events=<>",
            "/api/events?channels=c&events=a,b<>",
            "/api/events?channels=c&envelope=<>",
            "/api/events?channels=c&<>=1",
            "/api/channels/c<>/events",
            "/api/channels/c/events?limit=<>",
            "/api/channels/c<>/presence",
            "/api/<>",
        ] {
            let reply = get(&process.url(&path.replace("<>", &escaped))).await.unwrap();
            assert!([400, 404].contains(&reply.status), "{path} {text:?}: {} {}", reply.status, reply.body);
            assert!(!reply.headers.contains_key("x-injected"), "{path} {text:?}");
        }
        // A cursor that can't be read is a reset, and shows up nowhere.
        let url = process.url(&format!("/api/events/c?lastEventId=a{escaped}"));
        let mut stream = SseClient::connect(&url, &[]).await.unwrap();
        let blocks = stream.collect_until(LIMIT, |block| block.event_type() == "stream-live").await;
        assert_eq!(blocks[0].json()["recovered"], false, "{blocks:?}");
        assert!(!format!("{blocks:?}").contains("injected"), "{blocks:?}");
        let bad = format!("c{text}");
        for (path, body) in [
            ("/api/publish", json!({ "channel": bad, "data": "x" })),
            ("/api/publish", json!({ "user": "ann", "event": bad, "data": "x" })),
            ("/api/publish", json!({ "channel": "c", "id": bad, "data": "x" })),
            ("/api/events/ticket", json!({ "channels": [bad] })),
            ("/api/events/subscribe", json!({ "clientId": bad, "channels": [] })),
            ("/api/events/subscribe", json!({ "clientId": "0".repeat(32), "channels": [bad] })),
            ("/api/events/subscribe", json!({ "clientId": "0".repeat(32), "events": ["paid", bad] })),
        ] {
            let reply = post(&process.url(path), &body).await.unwrap();
            assert_eq!(reply.status, 400, "{path} {body}: {}", reply.body);
        }
    }
    // As they are, in a head.
    for head in [
        "GET /api/events/a\0b HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "GET /api/events/c HTTP/1.1\r\nHost: localhost\r\nLast-Event-ID: a\0b\r\n\r\n",
        "GET /api/events/c HTTP/1.1\r\nHost: localhost\r\nLast-Event-ID: a\rb\r\n\r\n",
        "GET /api/events/c HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer a\0b\r\n\r\n",
    ] {
        let mut socket = TcpStream::connect(process.http()).await.unwrap();
        socket.write_all(head.as_bytes()).await.unwrap();
        let mut said = String::new();
        timeout(LIMIT, socket.read_to_string(&mut said)).await.unwrap().unwrap();
        assert!(said.starts_with("HTTP/1.1 400"), "{head:?}: {said:?}");
    }
    assert_eq!(
        metric(
            process.admin(),
            "foghorn_fanout_publishes_total{door=\"http\",ack=\"accepted\",outcome=\"stored\"}"
        )
        .await,
        0.0
    );
}
