use clap::Parser;
use serde_json::Value;

use super::*;
use crate::client::testing::{Answer, Script, soon};

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    args: Args,
}

fn args(line: &str) -> Result<Args, String> {
    Cli::try_parse_from(line.split_whitespace()).map(|cli| cli.args).map_err(|error| error.to_string())
}

struct Run {
    end: End,
    code: ExitCode,
    out: Vec<String>,
    err: Vec<String>,
}

async fn run(command: &str, server: &ServerArgs) -> Run {
    let mut args = args(command).unwrap();
    args.server = server.clone();
    let form = if args.raw {
        Form::Raw
    } else if args.json {
        Form::Json
    } else {
        Form::Text
    };
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut session = Session::new(args, Output::new(&mut out, &mut err, form)).unwrap();
    let end = soon("subscribe to end", session.listen()).await.unwrap();
    let code = session.farewell(&end).unwrap();
    let lines = |bytes| String::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect();
    Run { end, code, out: lines(out), err: lines(err) }
}

fn connected(id: &str, recovered: bool) -> String {
    format!("id: {id}\nevent: connected\nretry: 1\ndata: {{\"recovered\":{recovered}}}\n\n")
}

fn event(id: &str, data: &str) -> String {
    format!("id: {id}\ndata: {data}\n\n")
}

#[test]
fn arguments_are_checked() {
    for (line, what) in [
        ("s", "required"),
        ("s a..b", "token 2 is empty"),
        ("s a --since yesterday", "RFC 3339"),
        ("s a --since 1m --last 3", "cannot be used with"),
        ("s a --since 1m --cursor x", "cannot be used with"),
        ("s a --last 0", "not in 1..=10000"),
        ("s a --raw --json", "cannot be used with"),
        ("s a --idle-timeout 0s", "more than nothing"),
    ] {
        let error = args(line).unwrap_err();
        assert!(error.contains(what), "{line}: {error}");
    }
}

#[tokio::test]
async fn the_request_says_what_is_wanted() {
    let script = Script::serve(|_, _| Answer::stream("")).await;
    run("s a.> b --events x,y --since 10m --no-reconnect", &script.args).await;
    run("s a --last 3 --raw --no-reconnect", &script.args).await;
    let asked = script.asked();
    assert_eq!(asked[0].path_and_query, "/api/events?channels=a.%3E%2Cb&events=x%2Cy&envelope=1&since=10m");
    assert_eq!(asked[0].headers["accept"], "text/event-stream");
    assert_eq!(asked[1].path_and_query, "/api/events?channels=a&last=3");
}

#[tokio::test]
async fn a_cut_stream_is_resumed_after_the_last_whole_event() {
    let script = Script::serve(|before, _| match before {
        // Cut within an event: it has not been heard.
        0 => Answer::stream(connected("c0", false) + &event("c1", "one") + "id: c2\ndata: tw").cut(),
        // A keep-alive moves the cursor.
        1 => Answer::stream(connected("c1", true) + &event("c2", "two") + "id: c9\n\n").cut(),
        _ => Answer::stream(connected("c9", true) + &event("c10", "three")).hold(),
    })
    .await;
    let ran = run("s a --raw --exit-after 3", &script.args).await;
    assert_eq!((ran.end, ran.code), (End::Enough, ExitCode::SUCCESS));
    assert_eq!(ran.out, ["one", "two", "three"]);
    let ids: Vec<_> =
        script.asked().iter().map(|asked| asked.headers.get("last-event-id").cloned()).collect();
    assert_eq!(ids, [None, Some("c1".parse().unwrap()), Some("c9".parse().unwrap())]);
    assert_eq!(ran.err.iter().filter(|line| line.contains("connecting again")).count(), 2, "{:?}", ran.err);
    assert!(ran.err.last().unwrap().contains("--cursor c10"), "{:?}", ran.err);
}

#[tokio::test]
async fn a_reset_and_the_servers_end_are_told() {
    let reset = "event: connected\ndata: {\"recovered\":false}\n\nid: c5\nevent: stream-reset\ndata: {\"reason\":\"expired\"}\n\n";
    let script = Script::serve(move |_, _| {
        Answer::stream(
            reset.to_owned()
                + "event: stream-stale\ndata: {}\n\nid: c6\nevent: stream-live\ndata: {\"replayed\":4}\n\n"
                + "id: c6\nevent: stream-end\nretry: 1\ndata: {\"reason\":\"drain\"}\n\n",
        )
    })
    .await;
    let ran = run("s a --json --no-reconnect --cursor c1", &script.args).await;
    assert_eq!((ran.end, ran.code), (End::Closed, ExitCode::SUCCESS));
    let told: Vec<Value> = ran.err.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let kinds: Vec<&str> = told.iter().map(|object| object["control"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["connected", "stream-reset", "stream-stale", "stream-live", "stream-end", "exit"]);
    assert_eq!(told[1]["reason"], "expired");
    assert_eq!(told[5]["cursor"], "c6");
    assert_eq!(script.asked()[0].headers["last-event-id"], "c1");
}

#[tokio::test]
async fn the_servers_retry_is_honoured() {
    let script = Script::serve(|before, _| match before {
        0 => Answer::stream("event: stream-end\nretry: 300\ndata: {\"reason\":\"overload\"}\n\n"),
        _ => Answer::json(204, &""),
    })
    .await;
    let ran = run("s a", &script.args).await;
    assert_eq!((ran.end, ran.code), (End::SentAway, ExitCode::SUCCESS));
    let asked = script.asked();
    assert!(asked[1].at - asked[0].at >= Duration::from_millis(300));
}

#[tokio::test]
async fn what_is_final_is_told_and_what_passes_is_tried_again() {
    let script = Script::serve(|before, _| match before {
        0 => Answer::json(503, &"").header("retry-after", "0"),
        1 => Answer::json(429, &"").header("retry-after", "0"),
        _ => Answer::json(403, &r#"{"title":"Not allowed","detail":"a needs a token","status":403}"#),
    })
    .await;
    let ran = run("s a", &script.args).await;
    assert_eq!(ran.code, ExitCode::FAILURE);
    assert_eq!(ran.end, End::Refused("403 Forbidden: Not allowed: a needs a token".into()));
    assert_eq!(script.asked().len(), 3);

    let page = Script::serve(|_, _| Answer::json(200, &"{}")).await;
    let ran = run("s a", &page.args).await;
    assert!(matches!(ran.end, End::Refused(why) if why.contains("is --url right?")));
}

#[tokio::test]
async fn a_dead_connection_is_noticed() {
    let script = Script::serve(|before, _| match before {
        0 => Answer::stream(connected("c0", false)).hold(),
        _ => Answer::json(204, &""),
    })
    .await;
    let ran = run("s a --idle-timeout 200ms", &script.args).await;
    assert_eq!(ran.end, End::SentAway);
    assert!(ran.err.iter().any(|line| line.contains("nothing heard for 200ms")), "{:?}", ran.err);
    assert_eq!(script.asked()[1].headers["last-event-id"], "c0");
}

#[tokio::test]
async fn when_nobody_reads_any_more_it_ends_quietly() {
    struct Closed;
    impl std::io::Write for Closed {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let script = Script::serve(|_, _| Answer::stream(event("1", "x")).hold()).await;
    let mut args = args("s a").unwrap();
    args.server = script.args.clone();
    let mut err = Vec::new();
    let mut session = Session::new(args, Output::new(Closed, &mut err, Form::Text)).unwrap();
    let end = soon("the end", session.listen()).await.unwrap();
    assert_eq!((&end, session.farewell(&end).unwrap()), (&End::NobodyReads, ExitCode::SUCCESS));
    assert!(err.is_empty());
}
