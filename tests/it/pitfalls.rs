//! The ten pitfalls of the guide to Server-Sent Events that [docs/guide.md](../../docs/guide.md) goes through, each with
//! a test that is named after it. The eighth, of credentials, is in [`auth::cors`](crate::auth).

use std::collections::HashSet;
use std::time::Duration;

use fantoccini::Client;
use foghorn_tests::PATIENCE;
use foghorn_tests::chrome::Chrome;
use foghorn_tests::foghorn::Foghorn;
use foghorn_tests::http::{metric, post};
use foghorn_tests::http2::Http2;
use foghorn_tests::nginx::Nginx;
use foghorn_tests::sse::{Block, NoBlock, SseClient};
use foghorn_tests::wait::until;
use foghorn_tests::wire::{State, Wire};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout};

use crate::bounds::resident;
use crate::deployment::{Deployment, Listener, Shape, standalone};
use crate::http2::{ephemeral, over_tls};
use crate::proxy::{LATE_MAX, lateness};

/// How long something may take to be seen, on a busy machine.
const LIMIT: Duration = Duration::from_secs(30);

async fn publish(server: &Foghorn, event: &Value) {
    let reply = post(&server.url("/api/publish"), event).await.unwrap();
    assert_eq!(reply.status, 200, "{}", reply.body);
}

/// Waits until a server has so many streams.
async fn streams(server: &Foghorn, count: usize) {
    until(&format!("{count} streams"), LIMIT, async || {
        (metric(server.admin(), "foghorn_gateway_connections ").await == count as f64).then_some(())
    })
    .await;
}

/// Asks for a stream and returns when it has begun.
async fn raw_stream(address: &str, path: &str) -> (TcpStream, String) {
    let mut stream = TcpSocket::new_v4().unwrap().connect(address.parse().unwrap()).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nAccept: text/event-stream\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut begun = String::new();
    while !begun.contains("event: connected\n") {
        let mut bytes = [0; 4096];
        let count =
            timeout(PATIENCE, stream.read(&mut bytes)).await.expect("a stream begins at once").unwrap();
        assert_ne!(count, 0, "{begun}");
        begun.push_str(std::str::from_utf8(&bytes[..count]).unwrap());
    }
    (stream, begun)
}

#[tokio::test(flavor = "multi_thread")]
async fn pitfall_1_wrong_headers_a_stream_has_the_right_ones_before_anything_was_published() {
    let server = standalone(&["--ephemeral"], &[]).await;
    // To the letter, on a channel on which nothing was ever published: what isn't flushed isn't seen.
    let (_stream, begun) = raw_stream(server.http(), "/api/events/never").await;
    let (head, _) = begun.split_once("\r\n\r\n").unwrap();
    let mut lines = head.split("\r\n");
    assert_eq!(lines.next(), Some("HTTP/1.1 200 OK"));
    let fields: HashSet<String> = lines.map(str::to_ascii_lowercase).collect();
    for field in [
        "content-type: text/event-stream",
        "cache-control: no-store, no-transform",
        "connection: keep-alive",
        "x-accel-buffering: no",
    ] {
        assert!(fields.contains(field), "no {field} in {head}");
    }
    // With a length it would end, and compressed it would wait for more.
    let of = |name: &str| fields.iter().any(|field| field.starts_with(name));
    assert!(!of("content-length:") && !of("content-encoding:"), "{head}");

    // Over HTTP/2 `Connection` is forbidden, and a stream with it an error.
    let connection = Http2::connect(&server.url("")).await.unwrap();
    let mut stream = connection.listen("/api/events/never", &[]).await.unwrap();
    assert_eq!((stream.status(), stream.header("content-type")), (200, Some("text/event-stream")));
    assert_eq!(
        (stream.header("cache-control"), stream.header("connection")),
        (Some("no-store, no-transform"), None)
    );
    assert_eq!(stream.next().await.event_type(), "connected");
}

/// Opens EventSources at these paths on the page, then publishes, with a request of the page's own. Gives what the
/// sources heard, or that there was no connection left to publish on.
const SOURCES: &str = "
const done = arguments[arguments.length - 1];
const [paths, events, patience] = arguments;
(async () => {
    const sources = paths.map(path => new EventSource(path));
    await Promise.all(sources.map(source => new Promise(go => source.addEventListener('connected', go))));
    const types = [...new Set(events.map(event => event.event))];
    const heard = sources.map(source => Promise.all(types.map(
        type => new Promise(go => source.addEventListener(type, ({ data }) => go(`${type} ${data}`))),
    )));
    const published = await fetch('/api/publish', {
        method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(events),
        signal: AbortSignal.timeout(patience),
    });
    const { connectedClients } = await (await fetch('/api/events/stats')).json();
    const protocol = performance.getEntriesByType('navigation')[0].nextHopProtocol;
    const all = await Promise.all(heard);
    sources.forEach(source => source.close());
    done({ published: published.status, connectedClients, heard: all, protocol });
})().catch(error => done(error.name));
";

async fn sources(page: &Client, paths: &[String], events: &Value, patience: Duration) -> Value {
    let patience = json!(u64::try_from(patience.as_millis()).unwrap());
    let script = page.execute_async(SOURCES, vec![json!(paths), events.clone(), patience]);
    timeout(LIMIT, script).await.expect("the page's requests go through").unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn pitfall_2_six_connections_many_feeds_leave_room_for_a_pages_other_requests() {
    let chrome = Chrome::start().await;
    let page = chrome.client();
    let server = standalone(&["--ephemeral"], &[]).await;
    let event = |feed: usize| json!({ "channel": format!("feed.{feed}"), "event": format!("feed{feed}"), "data": feed });

    // A stream of many channels, each with a type of its own.
    page.goto(&server.url("/")).await.unwrap();
    let channels: Vec<String> = (0..10).map(|feed| format!("feed.{feed}")).collect();
    let one = [format!("/api/events?channels={}", channels.join(","))];
    let all: Vec<String> = (0..10).map(|feed| format!("feed{feed} {feed}")).collect();
    let said = sources(page, &one, &(0..10).map(event).collect(), PATIENCE).await;
    let expected = json!({ "published": 200, "connectedClients": 1, "heard": [all], "protocol": "http/1.1" });
    assert_eq!(said, expected);

    // That there are only six, or this would prove nothing.
    page.goto(&server.url("/")).await.unwrap();
    let six: Vec<String> = (0..6).map(|feed| format!("/api/events/feed.{feed}")).collect();
    let soon = Duration::from_secs(2);
    assert_eq!(sources(page, &six, &json!([event(0)]), soon).await, "TimeoutError");

    // Over HTTP/2 fifty are no matter.
    let folder = tempfile::tempdir().unwrap();
    let secure = over_tls(folder.path()).await;
    page.goto(&secure.url("/")).await.unwrap();
    let fifty = vec!["/api/events/feed.1".to_owned(); 50];
    let said = sources(page, &fifty, &json!([event(1)]), PATIENCE).await;
    let heard = vec![["feed1 1"]; 50];
    assert_eq!(said, json!({ "published": 200, "connectedClients": 50, "heard": heard, "protocol": "h2" }));
}

#[tokio::test(flavor = "multi_thread")]
async fn pitfall_3_no_keep_alive_a_proxy_that_cuts_idle_streams_leaves_a_quiet_one_alone() {
    const IDLE: Duration = Duration::from_secs(4);
    let [often, seldom] = ["2s", "2m"].map(|keep_alive| {
        format!("[gateway]\nkeep_alive = \"{keep_alive}\"\nkeep_alive_idle = \"{keep_alive}\"\n")
    });
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let (alive, silent) =
        tokio::join!(ephemeral(folders[0].path(), &often, &[]), ephemeral(folders[1].path(), &seldom, &[]));
    let nginx = Nginx::start(&format!(
        "events {{}}
         http {{
             {{temporary}}
             proxy_http_version 1.1;
             proxy_set_header Connection '';
             proxy_set_header Host $http_host;
             proxy_read_timeout {}ms;
             server {{
                 listen 127.0.0.1:{{port}};
                 location /alive/ {{ proxy_pass http://{}/; }}
                 location /silent/ {{ proxy_pass http://{}/; }}
             }}
         }}",
        IDLE.as_millis(),
        alive.http(),
        silent.http()
    ))
    .await;
    let open = async |which: &str| {
        SseClient::connect(&nginx.url(&format!("/{which}/api/events/quiet")), &[]).await.unwrap()
    };
    let (mut kept, mut cut) = (open("alive").await, open("silent").await);
    let (cut, keep_alives) = tokio::join!(
        async { cut.collect_to_end(LIMIT).await.1 },
        // For more than twice as long as the proxy waits for anything.
        async {
            let begun = Instant::now();
            let mut keep_alives = 0;
            while begun.elapsed() < IDLE * 2 + IDLE / 2 {
                keep_alives += usize::from(!kept.next_within(IDLE).await.unwrap().is_event());
            }
            keep_alives
        }
    );
    assert_ne!(cut, NoBlock::Quiet, "without a keep-alive this proxy cuts it");
    assert!(keep_alives >= 3, "{keep_alives}");
    publish(&alive, &json!({ "channel": "quiet", "data": "after all that" })).await;
    let last = |block: &Block| block.data.as_deref() == Some("after all that");
    kept.collect_until(PATIENCE, last).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pitfall_4_no_event_ids_from_the_id_of_any_event_exactly_what_followed_is_had() {
    const EVENTS: usize = 12;
    let d = Deployment::standalone(1).await;
    let (channel, other) = (d.name("ids"), d.name("other"));
    let query = format!("channels={channel}");
    let mut listener = d.listen(&query, None).await;
    for number in 0..EVENTS / 2 {
        d.publish(json!({ "channel": channel, "data": number.to_string() })).await;
        d.publish(json!({ "channel": other, "data": "not for us" })).await;
    }
    let mut ids = Vec::new();
    for _ in 0..EVENTS / 2 {
        ids.push(listener.event().await.id.expect("an event has an id"));
    }
    assert_eq!(ids.iter().collect::<HashSet<_>>().len(), ids.len(), "each its own: {ids:?}");
    drop(listener);
    // While nobody listens.
    d.publish_all(&channel, (EVENTS / 2..EVENTS).map(|number| number.to_string())).await;
    for (number, id) in ids.iter().enumerate() {
        let mut again = d.listen(&query, Some(id)).await;
        assert_eq!((&again.connected["recovered"], again.resets.len()), (&json!(true), 0));
        let rest: Vec<String> = (number + 1..EVENTS).map(|number| number.to_string()).collect();
        assert_eq!(again.first(rest.len()).await, rest, "after event {number}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pitfall_5_connections_that_are_never_removed_leave_neither_descriptors_nor_memory_behind() {
    const AT_ONCE: usize = 200;
    const ROUNDS: usize = 6;
    let server = standalone(&["--ephemeral"], &[]).await;
    let descriptors = || std::fs::read_dir(format!("/proc/{}/fd", server.process().pid())).unwrap().count();
    let mut listener = Listener::open(&server.url("/api/events/leaks"), None).await;
    let before = descriptors();
    let mut memory = Vec::new();
    for round in 0..ROUNDS {
        let mut clients = Vec::new();
        for client in 0..AT_ONCE {
            // Each a subscription of its own, so that nothing is shared.
            let path = format!("/api/events?channels=leaks,leaks.r{round}.c{client}.*");
            clients.push(raw_stream(server.http(), &path).await);
        }
        streams(&server, AT_ONCE + 1).await;
        drop(clients);
        streams(&server, 1).await;
        memory.push(resident(server.process().pid()));
    }
    until("the sockets to be closed", LIMIT, async || (descriptors() <= before + 5).then_some(())).await;
    // The first rounds fill what is kept for later use. A thousand streams that stayed would be many times this.
    let grown = memory[ROUNDS - 1].saturating_sub(memory[1]);
    assert!(grown < 4 << 20, "{grown} bytes more, of {memory:?}");
    let gone = "foghorn_gateway_streams_ended_total{reason=\"client-gone\"}";
    assert_eq!(
        metric(server.admin(), gone).await,
        (AT_ONCE * ROUNDS) as f64,
        "and it is said why they ended"
    );
    publish(&server, &json!({ "channel": "leaks", "data": "still here" })).await;
    assert_eq!(listener.data(1).await, ["still here"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn pitfall_6_errors_on_write_end_the_stream_that_had_them_and_no_other() {
    const RUDE: usize = 100;
    const EVENTS: usize = 300;
    let server = standalone(&["--ephemeral"], &[]).await;
    let url = server.url("/api/events/rude");
    let mut honest = [Listener::open(&url, None).await, Listener::open(&url, None).await];
    let mut rude = Vec::new();
    for _ in 0..RUDE {
        let (stream, _) = raw_stream(server.http(), "/api/events/rude").await;
        // Closed so, it is reset: whatever is written to it from then on fails.
        stream.set_zero_linger().unwrap();
        rude.push(stream);
    }
    streams(&server, RUDE + 2).await;
    for number in 0..EVENTS {
        publish(&server, &json!({ "channel": "rude", "data": number.to_string() })).await;
        // In the middle of what is written to them.
        if number % 2 == 0 {
            rude.pop();
        }
    }
    let expected: Vec<String> = (0..EVENTS).map(|number| number.to_string()).collect();
    for listener in &mut honest {
        assert_eq!(listener.data(EVENTS).await, expected);
    }
    streams(&server, 2).await;
    let ended = metric(server.admin(), "foghorn_gateway_streams_ended_total{reason=\"client-gone\"}").await;
    assert_eq!(ended, RUDE as f64);
}

#[tokio::test(flavor = "multi_thread")]
async fn pitfall_7_nginx_buffering_the_shipped_nginx_has_none_and_a_plain_one_heeds_the_header() {
    let d = Deployment::standalone(1).await;
    let Shape::Standalone(process) = &d.shape else { unreachable!("standalone was asked for") };
    // nginx as it comes, but for what is to be tried.
    let plain = |more: &str| {
        format!(
            "events {{}}
             http {{
                 {{temporary}}
                 server {{
                     listen 127.0.0.1:{{port}};
                     location / {{ proxy_pass http://{}; proxy_set_header Host $http_host; {more} }}
                 }}
             }}",
            process.http()
        )
    };
    let shipped = Nginx::foghorn(&[process.http()], &[process.http()]).await;
    let heeding = Nginx::start(&plain("")).await;
    let buffering = Nginx::start(&plain("proxy_buffering on; proxy_ignore_headers X-Accel-Buffering;")).await;
    let urls = [shipped.url(""), heeding.url(""), buffering.url("")];
    let [shipped, heeding, buffering] = &urls;
    let late = tokio::join!(lateness(&d, shipped), lateness(&d, heeding), lateness(&d, buffering));
    assert!(late.0.iter().all(|late| *late <= LATE_MAX), "the shipped one: {:?}", late.0);
    assert!(late.1.iter().all(|late| *late <= LATE_MAX), "X-Accel-Buffering alone: {:?}", late.1);
    assert!(
        late.2.iter().any(|late| *late > LATE_MAX),
        "the test can't tell a buffering proxy: {:?}",
        late.2
    );
}

/// What a server's own page hears by an EventSource of the browser's.
const LISTEN: &str = "
const [path, types] = arguments;
window.heard = [];
const source = new EventSource(path);
source.addEventListener('connected', ({ data }) => heard.push(['connected', JSON.parse(data).recovered]));
for (const type of types) {
    source.addEventListener(type, ({ data, lastEventId }) => heard.push([type, data, lastEventId]));
}
";

/// Type, data and id of each event, or `recovered`.
async fn heard(page: &Client) -> Vec<Vec<Value>> {
    let heard = page.execute("return window.heard", Vec::new()).await.unwrap();
    serde_json::from_value(heard).unwrap()
}

/// The types and data of the events that a page has heard when there are so many.
async fn hears(page: &Client, count: usize) -> Vec<[Value; 2]> {
    until(&format!("{count} events on the page"), LIMIT, async || {
        let events = heard(page).await.into_iter().filter(|each| each[0] != "connected");
        let events: Vec<_> = events.map(|each| [each[0].clone(), each[1].clone()]).collect();
        (events.len() >= count).then_some(events)
    })
    .await
}

/// `recovered` of each `connected` that a page has heard when there are so many.
async fn connects(page: &Client, count: usize) -> Vec<Value> {
    until(&format!("{count} connections of the page"), LIMIT, async || {
        let connects = heard(page).await.into_iter().filter(|each| each[0] == "connected");
        let connects: Vec<_> = connects.map(|each| each[1].clone()).collect();
        (connects.len() >= count).then_some(connects)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn pitfall_9_malformed_events_whatever_is_published_is_what_a_browser_hears() {
    let server = standalone(&["--ephemeral"], &[]).await;
    let chrome = Chrome::start().await;
    let page = chrome.client();
    page.goto(&server.url("/")).await.unwrap();
    page.execute(LISTEN, vec![json!("/api/events/odd"), json!(["message", "odd", "forged"])]).await.unwrap();
    connects(page, 1).await;
    let mut expected = Vec::new();
    // The browser joins lines with LF, whatever they ended with.
    for (sent, heard) in [
        ("line1\nline2", "line1\nline2"),
        ("cr\rcrlf\r\nend", "cr\ncrlf\nend"),
        ("", ""),
        ("\n", "\n"),
        ("ends with one\n", "ends with one\n"),
        ("a\n\nevent: forged\ndata: b\n\n", "a\n\nevent: forged\ndata: b\n\n"),
        (": no comment\nid: 0\nretry: 1", ": no comment\nid: 0\nretry: 1"),
        ("  spaces\t", "  spaces\t"),
        ("\u{feff}mark \u{2028} nul \0 żółw 🐢", "\u{feff}mark \u{2028} nul \0 żółw 🐢"),
    ] {
        for kind in [None, Some("odd")] {
            publish(&server, &json!({ "channel": "odd", "event": kind, "data": sent })).await;
            expected.push([json!(kind.unwrap_or("message")), json!(heard)]);
        }
    }
    assert_eq!(hears(page, expected.len()).await, expected);
    let ids: HashSet<String> =
        heard(page).await[1..].iter().map(|each| each[2].as_str().unwrap().to_owned()).collect();
    assert!(ids.len() == expected.len() && !ids.contains("0") && !ids.contains(""), "{ids:?}");
    // What would break the form is refused, before it is an event.
    for event in ["a\nb", "a\rb", "a\0b"] {
        let bad = json!({ "channel": "odd", "event": event, "data": "x" });
        assert_eq!(post(&server.url("/api/publish"), &bad).await.unwrap().status, 400, "{event:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pitfall_10_reconnection_untested_a_browser_hears_once_all_it_missed_however_it_was_cut_off() {
    let data = tempfile::tempdir().unwrap();
    let data = data.path().display().to_string();
    let quick = [("FOGHORN_GATEWAY_RETRY", "1s")];
    let mut server = standalone(&["--data", &data], &quick).await;
    let wire = Wire::lay(server.http().parse().unwrap()).await;
    let chrome = Chrome::start().await;
    let page = chrome.client();
    page.goto(&format!("http://{}/", wire.address())).await.unwrap();
    // The URL stays the same: where it was, the browser can only say by `Last-Event-ID`.
    page.execute(LISTEN, vec![json!("/api/events/trips"), json!(["trip", "stream-reset"])]).await.unwrap();
    assert_eq!(connects(page, 1).await, [false]);
    let mut expected = Vec::new();
    let trip = async |server: &Foghorn, expected: &mut Vec<[Value; 2]>| {
        let number = expected.len().to_string();
        publish(server, &json!({ "channel": "trips", "event": "trip", "data": number })).await;
        expected.push([json!("trip"), json!(number)]);
    };
    trip(&server, &mut expected).await;
    assert_eq!(hears(page, expected.len()).await, expected);

    // 1. The server is killed while the client is connected.
    server.kill();
    server.restart().await;
    // 2. and 3. What it missed comes, and what it had doesn't come again.
    trip(&server, &mut expected).await;
    trip(&server, &mut expected).await;
    assert_eq!(hears(page, expected.len()).await, expected);
    assert_eq!(connects(page, 2).await, [false, true]);

    // 4. Under other conditions: connections that are cut, and one that takes everything and brings nothing before.
    for (state, connections) in [(State::Open, 3), (State::Open, 4), (State::Swallowing, 5)] {
        wire.set(state);
        trip(&server, &mut expected).await;
        wire.cut();
        trip(&server, &mut expected).await;
        wire.set(State::Open);
        assert_eq!(hears(page, expected.len()).await, expected);
        assert!(connects(page, connections).await[1..].iter().all(|recovered| *recovered == true));
    }
}
