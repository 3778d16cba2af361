use std::collections::HashSet;
use std::io;
use std::sync::mpsc;

use clap::Parser;
use serde_json::{Value, json};

use super::*;
use crate::client::http::ServerArgs;
use crate::client::testing::{Answer, Asked, Script, soon};

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    args: Args,
}

fn args(line: &str) -> Result<Args, String> {
    Cli::try_parse_from(line.split_whitespace()).map(|cli| cli.args).map_err(|error| error.to_string())
}

struct Run {
    code: ExitCode,
    out: String,
    err: String,
}

async fn run(command: &str, server: &ServerArgs, input: impl Read + Send + 'static) -> Run {
    let mut args = args(command).unwrap();
    args.server = server.clone();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let report = Report::plain(&mut out, &mut err, args.json);
    let code = soon("publish to end", publish(args, Box::new(input), report)).await.unwrap();
    Run { code, out: String::from_utf8(out).unwrap(), err: String::from_utf8(err).unwrap() }
}

fn events(asked: &Asked) -> Vec<Value> {
    serde_json::from_str(&asked.body).unwrap()
}

/// Stores everything, like a server.
fn stored(asked: &Asked) -> Answer {
    let answers: Vec<Value> = events(asked)
        .iter()
        .map(|event| json!({ "position": { "shard": 0, "epoch": 7, "seq": 1 }, "id": event["id"], "duplicate": false }))
        .collect();
    Answer::json(200, &Value::from(answers))
}

fn problem(status: u16, retryable: bool) -> Value {
    json!({ "title": "No", "detail": "because", "status": status, "retryable": retryable })
}

/// An input that is read only as far as it has been written, like a pipe.
struct Pipe(mpsc::Receiver<&'static str>);

impl Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let piece = self.0.recv().unwrap_or_default().as_bytes();
        buffer[..piece.len()].copy_from_slice(piece);
        Ok(piece.len())
    }
}

#[test]
fn arguments_are_checked() {
    for (line, what) in [
        ("publish", "required"),
        ("publish a.* x", "wildcards"),
        ("publish a x --event connected", "reserved"),
        ("publish a x --ttl 1500ms", "whole seconds"),
        ("publish a x --ttl soon", "90s, 10m, 2h"),
        ("publish a x --file f", "cannot be used with"),
        ("publish a --lines --id 1", "cannot be used with"),
        ("publish a x --ack quorum", "possible values: accepted, durable"),
        ("publish a x --url localhost:1", "did you mean http://localhost:1?"),
    ] {
        let error = args(line).unwrap_err();
        assert!(error.contains(what), "{line}: {error}");
    }
    let good = args("publish a -5 --ttl 10m --ack durable").unwrap();
    assert_eq!((good.ttl.unwrap().seconds(), good.data.as_deref()), (600, Some("-5")));
}

#[tokio::test]
async fn one_event_carries_what_was_asked() {
    let script = Script::serve(|_, asked| stored(asked)).await;
    let ran = run(
        "p orders.eu - --event created --id o-1 --ttl 10m --ack durable",
        &script.args,
        "hé\n\n".as_bytes(),
    )
    .await;
    assert_eq!((ran.code, ran.out.as_str()), (ExitCode::SUCCESS, "0:7:1 o-1\n"), "{}", ran.err);
    let asked = &script.asked()[0];
    assert_eq!(
        (asked.path_and_query.as_str(), &asked.headers["content-type"]),
        ("/api/publish", &"application/json".parse().unwrap())
    );
    assert_eq!(
        events(asked),
        [
            json!({ "channel": "orders.eu", "event": "created", "data": "hé\n", "id": "o-1", "ttl": 600, "ack": "durable" })
        ]
    );
}

#[tokio::test]
async fn json_data_stays_json_and_what_is_not_is_refused_here() {
    let script = Script::serve(|_, asked| stored(asked)).await;
    let ran = run("p a - --json-data --json", &script.args, "{\"n\": 1}".as_bytes()).await;
    assert_eq!(events(&script.asked()[0])[0]["data"], json!({ "n": 1 }));
    let printed: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(printed["position"], json!({ "shard": 0, "epoch": 7, "seq": 1 }));
    let bad = run("p a - --json-data", &script.args, "{".as_bytes()).await;
    assert_eq!((bad.code, script.asked().len()), (ExitCode::FAILURE, 1));
    assert!(bad.err.contains("not JSON"), "{}", bad.err);
    let empty = run("p a", &script.args, "".as_bytes()).await;
    assert_eq!((empty.code, script.asked().len()), (ExitCode::FAILURE, 1), "an accident, most likely");
}

#[tokio::test]
async fn a_refusal_is_told_in_the_servers_words() {
    let script = Script::serve(|_, _| Answer::json(403, &problem(403, false))).await;
    let ran = run("p a x", &script.args, "x".as_bytes()).await;
    assert_eq!(ran.code, ExitCode::FAILURE);
    let id = events(&script.asked()[0])[0]["id"].as_str().unwrap().to_owned();
    let words = format!("not published (id {id}): 403 Forbidden: No: because");
    assert!(ran.err.contains(&words), "{}", ran.err);
}

#[tokio::test]
async fn nobody_there_is_given_up_after_the_stated_time() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let server = ServerArgs { url: format!("http://{free}").parse().unwrap(), ca: None, token: None };
    let ran = run("p a x --retry-for 300ms", &server, "x".as_bytes()).await;
    assert_eq!(ran.code, ExitCode::FAILURE);
    assert!(ran.err.contains("gave up after 0.3 s") && ran.err.contains("refused"), "{}", ran.err);

    let ran = run("p a --lines --retry-for 300ms", &server, "x\ny\n".as_bytes()).await;
    assert_eq!(ran.code, ExitCode::FAILURE);
    assert!(ran.err.contains("lines 1 to 2 may be missing"), "{}", ran.err);
    let ran = run("p a --lines --retry-for 300ms", &server, io::Cursor::new("x\n".repeat(300))).await;
    assert!(ran.err.contains("nothing from line 251 on was tried"), "{}", ran.err);
}

#[tokio::test]
async fn who_is_given_no_answer_is_told_after_the_stated_time_and_with_which_id_to_try_again() {
    let script = Script::serve(|_, asked| stored(asked).hold()).await;
    let began = std::time::Instant::now();
    let ran = run("p a x --retry-for 2s", &script.args, "x".as_bytes()).await;
    assert_eq!(ran.code, ExitCode::FAILURE);
    assert!(began.elapsed().as_secs() < 4, "{:?}", began.elapsed());
    let id = events(&script.asked()[0])[0]["id"].as_str().unwrap().to_owned();
    for words in ["gave up after 2 s", "no answer in time", &format!("again with --id {id}")] {
        assert!(ran.err.contains(words), "no {words}: {}", ran.err);
    }
    let ran = run("p a x --id mine --json --retry-for 1s", &script.args, "x".as_bytes()).await;
    let printed: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((&printed["id"], &printed["unknown"]), (&json!("mine"), &json!(true)), "{printed}");
}

#[tokio::test]
async fn a_line_goes_out_before_the_next_one_is_there() {
    let (sender, pipe) = mpsc::sync_channel(1);
    sender.send("one\n").unwrap();
    let script = Script::serve(move |before, asked| {
        // What comes next is written only once this line has arrived; nothing is the end.
        let _written = sender.send(["two\nthr", "ee", ""][before]).is_ok();
        if before == 1 {
            let _written = sender.send("").is_ok();
        }
        stored(asked)
    })
    .await;
    let ran = run("p logs --lines", &script.args, Pipe(pipe)).await;
    let texts: Vec<Value> = script.asked().iter().map(|asked| events(asked)[0]["data"].clone()).collect();
    assert_eq!(texts, ["one", "two", "three"], "{}", ran.err);
    assert!(ran.err.contains("3 lines published"), "{}", ran.err);
}

#[tokio::test]
async fn lines_are_sent_again_with_their_ids_and_keep_their_order() {
    let script = Script::serve(|before, asked| match before {
        0 => Answer::json(503, &problem(503, true)),
        1 => stored(asked).cut(),
        // Half of it is stored, then the journal stalls.
        2 => {
            let stalled = json!({ "error": problem(503, true) });
            let answers = events(asked).into_iter().enumerate().map(|(at, _)| {
                if at < 100 { json!({ "position": {}, "duplicate": true }) } else { stalled.clone() }
            });
            Answer::json(200, &Value::from_iter(answers))
        }
        _ => stored(asked),
    })
    .await;
    let input: String = (1..=600).map(|n| format!("{n}\n")).collect();
    let ran = run("p a --lines --json", &script.args, io::Cursor::new(input)).await;
    assert_eq!(ran.code, ExitCode::SUCCESS, "{}", ran.err);

    let asked: Vec<Vec<Value>> = script.asked().iter().map(events).collect();
    assert_eq!(asked[0], asked[1]);
    assert_eq!(asked[0], asked[2]);
    assert_eq!(asked[2][100..], asked[3][..]);
    let accepted = asked[2][..100].iter().chain(asked[3..].iter().flatten());
    let lines: Vec<u64> = accepted.map(|event| event["data"].as_str().unwrap().parse().unwrap()).collect();
    assert_eq!(lines, (1..=600).collect::<Vec<_>>());
    let ids: HashSet<_> = asked.iter().flatten().map(|event| event["id"].to_string()).collect();
    assert_eq!(ids.len(), 600);

    let printed: Vec<Value> = ran.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(printed.len(), 601);
    assert_eq!(printed[599]["line"], 600);
    let summary = &printed[600]["summary"];
    assert_eq!(
        (&summary["published"], &summary["duplicates"], &summary["retries"]),
        (&json!(600), &json!(100), &json!(3))
    );
}

#[tokio::test]
async fn bad_lines_are_named_and_the_others_published() {
    let script = Script::serve(|_, asked| {
        let answers = events(asked).into_iter().map(|event| {
            if event["data"] == "no" {
                json!({ "error": problem(400, false) })
            } else {
                json!({ "position": {} })
            }
        });
        Answer::json(200, &Value::from_iter(answers))
    })
    .await;
    let ran = run("p a --lines", &script.args, &b"yes\nno\n\xff\nyes"[..]).await;
    assert_eq!(ran.code, ExitCode::FAILURE);
    assert!(ran.err.contains("line 2 is not published: No: because"), "{}", ran.err);
    assert!(ran.err.contains("line 3 is not published: the line is not UTF-8"), "{}", ran.err);
    assert!(ran.err.contains("2 lines published") && ran.err.contains("2 not published"), "{}", ran.err);
}

#[tokio::test]
async fn a_request_too_large_is_halved() {
    let script = Script::serve(|_, asked| {
        if events(asked).len() > 2 { Answer::json(413, &problem(413, false)) } else { stored(asked) }
    })
    .await;
    let ran = run("p a --lines", &script.args, &b"1\n2\n3\n4\n5\n"[..]).await;
    assert_eq!(ran.code, ExitCode::SUCCESS, "{}", ran.err);
    let sizes: Vec<usize> = script.asked().iter().map(|asked| events(asked).len()).collect();
    assert_eq!(sizes, [5, 2, 2, 1]);
}
