use std::time::Duration;

use foghorn_bus::journal::AppendError;
use foghorn_bus::log::{Committed, LogError};
use foghorn_core::shard::Shard;
use foghorn_http::cors::Guarded;
use foghorn_http::guard::Guard;
use http::header;
use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::*;
use crate::config::Config;
use crate::testing::{Bench, bench};

async fn post(bench: &Bench, body: &str) -> (u16, Value, Option<u32>) {
    post_for(bench, "192.0.2.1", body).await
}

/// As a proxy does for a client.
async fn post_for(bench: &Bench, client: &str, body: &str) -> (u16, Value, Option<u32>) {
    let handler = PublishHandler::new(bench.publisher.clone(), Proxies::default());
    let request = Request::post(PATH).header(header::HOST, "localhost");
    let request = request.header(header::CONTENT_TYPE, "application/json").header("x-forwarded-for", client);
    let request = request.body(http_body_util::Full::new(Bytes::from(body.to_owned()))).unwrap();
    let response =
        handler.answer(request, ([127, 0, 0, 1], 1).into()).await.unwrap_or_else(Problem::into_response);
    let retry = response.headers().get(header::RETRY_AFTER).map(|v| v.to_str().unwrap().parse().unwrap());
    let status = response.status().as_u16();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&bytes).unwrap(), retry)
}

fn code(problem: &Value) -> &str {
    problem["type"].as_str().unwrap().rsplit('/').next().unwrap()
}

#[tokio::test]
async fn one_event_is_answered_with_its_position_and_a_repetition_with_the_same() {
    let bench = bench(Config::default());
    let body = r#"{"channel":"orders","data":{"a":1},"id":"7"}"#;
    let position = serde_json::json!({"shard": 0, "epoch": 1, "seq": 1});
    for duplicate in [false, true] {
        let expected = serde_json::json!({"position": position, "id": "7", "duplicate": duplicate});
        assert_eq!(post(&bench, body).await, (200, expected, None));
    }
    let (_, other_channel, _) = post(&bench, r#"{"channel":"else","data":1,"id":"7"}"#).await;
    assert_eq!(other_channel["duplicate"], false);
    let (_, no_id, _) = post(&bench, r#"{"user":"é","data":"x"}"#).await;
    assert_eq!(no_id["id"], Value::Null);
    let stored = bench.journal.stored();
    assert_eq!(stored[0], ("orders".to_owned(), r#"{"a":1}"#.to_owned()));
    assert_eq!(stored[2].0, "user.~w6k");
    assert!(
        bench
            .metrics()
            .contains(r#"foghorn_fanout_publishes_total{door="http",ack="accepted",outcome="duplicate"} 1"#)
    );
}

#[tokio::test]
async fn one_bad_event_of_a_batch_leaves_the_others_alone() {
    let bench = bench(Config::default());
    let body = r#"[{"channel":"a","data":"1"},{"channel":"a b","data":"2"},
                   {"channels":["b","c.*"],"data":"3","event":"x"},{"channel":"a","data":"4"}]"#;
    let (status, answers, _) = post(&bench, body).await;
    assert_eq!(status, 200);
    let stored: Vec<_> = answers.as_array().unwrap().iter().map(|a| a["position"]["seq"].as_u64()).collect();
    assert_eq!(stored.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false, true, false, true]);
    assert!(stored[0] < stored[4], "events of one channel keep their order");
    assert_eq!(code(&answers[1]["error"]), "bad-channel");
    assert_eq!(answers[1]["error"]["index"], 1);
    assert_eq!(code(&answers[3]["error"]), "bad-channel");
    assert_eq!(answers[3]["error"]["index"], 2);
    let mut data: Vec<String> = bench.journal.stored().into_iter().map(|(_, data)| data).collect();
    data.sort();
    assert_eq!(data, ["1", "3", "4"]);
}

#[tokio::test]
async fn statuses_say_whose_fault_it_is_and_when_to_come_back() {
    let bench = bench(Config::default());
    let large = format!(r#"{{"channel":"small.a","data":"{}"}}"#, "x".repeat(1000));
    for (body, status, expected) in [
        (r#"{"channel":"a..b","data":1}"#, 400, "bad-channel"),
        (r#"{"channel":"a","data":1,"event":"a\nb"}"#, 400, "bad-event-type"),
        (r#"{"channel":"a","data":1,"event":"stream-reset"}"#, 400, "reserved-event-type"),
        (r#"{"channel":"a","data":1,"event":""}"#, 400, "bad-event-type"),
        (r#"{"channel":"a","data":1,"id":"a\u0000"}"#, 400, "bad-event-id"),
        (&large, 413, "event-too-large"),
    ] {
        let (got, problem, retry) = post(&bench, body).await;
        assert_eq!((got, code(&problem), retry), (status, expected, None));
        assert_eq!(problem["retryable"], false);
    }
    for (error, status, expected, wait) in [
        (AppendError::Full(Shard::ZERO), 429, "journal-full", Some(5..=15)),
        (AppendError::Unavailable("down".into()), 503, "journal-unavailable", Some(1..=3)),
        (AppendError::Refused("no".into()), 502, "journal-refused", None),
    ] {
        bench.journal.failing.lock().insert("a".into(), error);
        let (got, problem, retry) = post(&bench, r#"{"channel":"a","data":1}"#).await;
        assert_eq!((got, code(&problem)), (status, expected));
        assert_eq!(retry.is_some(), wait.is_some());
        assert!(wait.is_none_or(|range| range.contains(&retry.unwrap())));
    }
    assert!(bench.journal.stored().is_empty());
}

#[tokio::test(start_paused = true)]
async fn durable_is_true_false_or_an_error_when_the_event_is_gone() {
    let bench = bench(Config::default());
    let body = r#"{"channel":"a","data":1,"ack":"durable"}"#;
    for (answer, durable) in [
        (Some(Ok(Committed::Yes)), true),
        (Some(Ok(Committed::NotYet)), false),
        (Some(Err(LogError("down".into()))), false),
        (None, false),
    ] {
        *bench.log.answer.lock() = answer;
        let (status, answer, _) = post(&bench, body).await;
        assert_eq!((status, &answer["durable"]), (200, &Value::Bool(durable)));
    }
    *bench.log.answer.lock() = Some(Ok(Committed::Replaced));
    let (status, problem, retry) = post(&bench, body).await;
    assert_eq!((status, code(&problem), retry.is_some()), (503, "journal-lost", true));
    assert_eq!(problem["retryable"], true);
}

#[tokio::test(start_paused = true)]
async fn a_journal_that_never_answers_is_unavailable_at_the_deadline() {
    let bench = bench(Config::default());
    bench.journal.gate.forget_permits(usize::MAX >> 3);
    let (status, problem, _) = post(&bench, r#"{"channel":"a","data":1}"#).await;
    assert_eq!((status, code(&problem)), (503, "journal-unavailable"));
    assert!(problem["detail"].as_str().unwrap().contains("retry with the same id"));
}

#[tokio::test(start_paused = true)]
async fn a_full_house_refuses_what_it_can_not_hold() {
    let bench = bench(Config { inflight_bytes: 4 << 20, ..Config::default() });
    let all = bench.publisher.room(0, 4 << 20).await.unwrap();
    let (status, problem, retry) = post(&bench, r#"{"channel":"a","data":1}"#).await;
    assert_eq!((status, code(&problem), retry.is_some()), (429, "overloaded", true));
    drop(all);
    assert_eq!(post(&bench, r#"{"channel":"a","data":1}"#).await.0, 200);
    assert!(
        bench.publisher.room(0, 4 << 20).await.is_ok(),
        "the refused and the published have given back what they took"
    );
}

#[tokio::test(start_paused = true)]
async fn one_address_can_not_take_all_the_room() {
    let bench = bench(Config { body_bytes: 1 << 20, inflight_bytes: 4 << 20, ..Config::default() });
    let mut slow = bench.publisher.growing_room(Some([203, 0, 113, 9].into()));
    slow.grow(4 << 20).await.unwrap();
    let event = r#"{"channel":"a","data":1}"#;
    let (status, problem, retry) = post_for(&bench, "203.0.113.9", event).await;
    assert_eq!((status, code(&problem), retry.is_some()), (429, "overloaded", true));
    assert_eq!(post_for(&bench, "203.0.113.10", event).await.0, 200);
    drop(slow);
    assert_eq!(post_for(&bench, "203.0.113.9", event).await.0, 200);
}

/// A door on a socket, until the first is dropped.
async fn open(bench: &Bench) -> (tokio::sync::watch::Sender<bool>, SocketAddr) {
    let handler = Arc::new(PublishHandler::new(bench.publisher.clone(), Proxies::default()));
    let handler = Arc::new(Guarded::new(Guard::default(), handler));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    tokio::spawn(foghorn_http::serve::serve(
        listener,
        handler,
        Default::default(),
        Default::default(),
        stopped,
    ));
    (stop, address)
}

/// Sends a head that asks whether its body may come, and gives the first line of the answer.
async fn expect(address: SocketAddr, extra: &str) -> (TcpStream, String) {
    let mut socket = TcpStream::connect(address).await.unwrap();
    let head = format!("POST {PATH} HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n{extra}\r\n");
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n\r\n") {
        let byte = timeout(Duration::from_secs(20), socket.read_u8()).await.expect("no answer");
        line.push(byte.unwrap());
    }
    (socket, String::from_utf8_lossy(&line).lines().next().unwrap().to_owned())
}

const JSON: &str = "Content-Type: application/json\r\n";

#[tokio::test]
async fn many_slow_bodies_cost_an_innocent_publisher_nothing() {
    let bench = bench(Config::default());
    let (_stop, address) = open(&bench).await;
    let mut slow = Vec::new();
    // Announced bodies too: together they would be four times all the room there is.
    for length in ["Transfer-Encoding: chunked", "Content-Length: 4000000"] {
        for _ in 0..64 {
            let (mut socket, line) = expect(address, &format!("{JSON}{length}\r\n")).await;
            assert_eq!(line, "HTTP/1.1 100 Continue", "{} others are being read", slow.len());
            socket.write_all(b"1\r\n{\r\n").await.unwrap();
            slow.push(socket);
        }
    }
    let (mut socket, line) = expect(address, &format!("{JSON}Transfer-Encoding: chunked\r\n")).await;
    assert_eq!(line, "HTTP/1.1 100 Continue");
    socket.write_all(b"18\r\n{\"channel\":\"a\",\"data\":1}\r\n0\r\n\r\n").await.unwrap();
    let mut answer = [0; 12];
    timeout(Duration::from_secs(20), socket.read_exact(&mut answer)).await.expect("held up").unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    assert_eq!(bench.journal.stored().len(), 1);
    drop(slow);
}

#[tokio::test]
async fn what_the_head_tells_is_refused_before_the_body_is_asked_for() {
    let bench = bench(Config::default());
    let (_stop, address) = open(&bench).await;
    for (extra, status) in [
        (format!("{JSON}Content-Length: 4194305\r\n"), "HTTP/1.1 413"),
        ("Content-Type: text/plain\r\nTransfer-Encoding: chunked\r\n".to_owned(), "HTTP/1.1 415"),
        (format!("{JSON}Transfer-Encoding: gzip, chunked\r\n"), "HTTP/1.1 501"),
    ] {
        let (_, line) = expect(address, &extra).await;
        assert!(line.starts_with(status), "{extra}: {line}");
    }
}

#[tokio::test(start_paused = true)]
async fn bodies_take_room_while_they_arrive() {
    let bench = bench(Config { inflight_bytes: 4 << 20, ..Config::default() });
    let _most = bench.publisher.room(0, (4 << 20) - 100).await.unwrap();
    let mut intake = Intake { publisher: &bench.publisher, room: bench.publisher.growing_room(None) };
    intake.grow(60).await.unwrap();
    let mut other = Intake { publisher: &bench.publisher, room: bench.publisher.growing_room(None) };
    assert_eq!(other.grow(60).await.unwrap_err().code, "overloaded");
    drop(intake);
    other.grow(60).await.unwrap();
    assert!(bench.metrics().contains(r#"door="http",ack="accepted",outcome="overloaded"} 1"#));
}

#[tokio::test]
async fn the_door_checks_origin_media_type_method_and_size_and_closes_at_shutdown() {
    let bench = bench(Config { body_bytes: 1 << 20, ..Config::default() });
    let (_stop, address) = open(&bench).await;
    let ask = async |head: String, body: Vec<u8>| {
        let mut socket = TcpStream::connect(address).await.unwrap();
        socket.write_all(format!("{head}Connection: close\r\n\r\n").as_bytes()).await.unwrap();
        // The server may have refused by the head alone.
        drop(socket.write_all(&body).await);
        let mut answer = Vec::new();
        drop(timeout(Duration::from_secs(10), socket.read_to_end(&mut answer)).await.unwrap());
        String::from_utf8_lossy(&answer).into_owned()
    };
    let head = |method: &str, extra: &str, length: usize| {
        format!("{method} {PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {length}\r\n{extra}")
    };
    let json = "Content-Type: application/json; charset=utf-8\r\n";
    let event = br#"{"channel":"a","data":1}"#.to_vec();
    let good = ask(head("POST", json, event.len()), event.clone()).await;
    assert!(good.starts_with("HTTP/1.1 200") && good.contains(r#""seq":1"#), "{good}");
    for (head, expected) in [
        (head("POST", "", event.len()), "problems/content-type"),
        (head("POST", "Content-Type: text/plain\r\n", event.len()), "problems/content-type"),
        (head("POST", &format!("{json}Origin: https://evil.example\r\n"), event.len()), "problems/origin"),
        (head("PUT", json, event.len()), "problems/method"),
        (head("POST", json, event.len()).replace(PATH, "/api/publish?channel=a"), "problems/bad-query"),
        (head("POST", json, event.len()).replace("Host: 127.0.0.1", "Host: evil"), "problems/host"),
        (head("GET", "", 0).replace(PATH, "/healthz"), "HTTP/1.1 404"),
    ] {
        let answer = ask(head, event.clone()).await;
        assert!(answer.contains(expected), "{expected}: {answer}");
    }
    let chunked = head("POST", json, 0).replace("Content-Length: 0", "Transfer-Encoding: chunked");
    let mut body = format!("{:x}\r\n", (1 << 20) + 1).into_bytes();
    body.extend(vec![b' '; (1 << 20) + 1]);
    body.extend(b"\r\n0\r\n\r\n");
    let answer = ask(chunked, body).await;
    assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("body-too-large"), "{answer}");
    bench.trigger.fire();
    let refused = ask(head("POST", json, event.len()), event).await;
    assert!(refused.starts_with("HTTP/1.1 503") && refused.contains("problems/draining"), "{refused}");
    assert_eq!(bench.journal.stored().len(), 1);
}
