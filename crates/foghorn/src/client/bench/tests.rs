//! The benchmark against a server of its own, that keeps its promises or doesn't.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use clap::Parser;
use futures::{StreamExt as _, stream};
use http::{Method, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::{Scenario, after_cleanup, deliver};
use crate::client::testing::soon;

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    scenario: Scenario,
}

fn parse(line: &str) -> Result<Scenario, String> {
    Cli::try_parse_from(line.split_whitespace()).map(|cli| cli.scenario).map_err(|error| error.to_string())
}

type Body = UnsyncBoxBody<Bytes, Infallible>;
/// What a listener gets for the n-th event of its channel.
type Deliver = fn(usize, &[String]) -> Vec<String>;

/// Channels with all their events.
struct Server {
    channels: Mutex<HashMap<String, watch::Sender<Vec<String>>>>,
    deliver: Deliver,
}

impl Server {
    fn channel(&self, name: &str) -> watch::Sender<Vec<String>> {
        self.channels.lock().entry(name.to_owned()).or_default().clone()
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        if request.method() == Method::POST {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let events: Vec<Value> = serde_json::from_slice(&body).unwrap();
            for event in &events {
                let data = event["data"].as_str().unwrap().to_owned();
                self.channel(event["channel"].as_str().unwrap()).send_modify(|all| all.push(data));
            }
            let answers: Value = events.iter().map(|_| json!({ "position": {} })).collect();
            return Response::new(Full::from(answers.to_string()).boxed_unsync());
        }
        let name = request.uri().query().unwrap().strip_prefix("channels=").unwrap();
        let (events, deliver) = (self.channel(name).subscribe(), self.deliver);
        let live = stream::iter(["event: stream-live\ndata: {}\n\n".to_owned()]);
        let frames = live.chain(stream::unfold((events, 0), move |(mut events, next)| async move {
            let now = events.wait_for(|all| all.len() > next).await.ok()?;
            let frames: String = deliver(next, &now).iter().map(|data| format!("data: {data}\n\n")).collect();
            drop(now);
            Some((frames, (events, next + 1)))
        }));
        let body = StreamBody::new(frames.map(|frames| Ok(Frame::data(Bytes::from(frames)))));
        Response::new(body.boxed_unsync())
    }
}

async fn measure(deliver: Deliver) -> deliver::Report {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = Arc::new(Server { channels: Mutex::default(), deliver });
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let server = server.clone();
            let service = service_fn(move |request| {
                let server = server.clone();
                async move { Ok::<_, Infallible>(server.answer(request).await) }
            });
            tokio::spawn(async move {
                let serving = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(socket), service);
                serving.await.is_ok()
            });
        }
    });
    let line = format!(
        "bench deliver --url http://{address} --connections 6 --channels 3 --publishers 2 --rate 400 --duration 1500ms \
         --size 100 --settle 300ms"
    );
    let Scenario::Deliver(args) = parse(&line).unwrap() else { panic!("{line}") };
    soon("the benchmark", deliver::measure(args)).await.unwrap()
}

#[test]
fn arguments_are_checked() {
    for (line, what) in [
        ("bench publish", "<--url <URL>|--grpc <URL>>"),
        ("bench publish --url http://a --grpc http://a", "cannot be used with"),
        ("bench publish --url http://a --stream 5", "cannot be used with"),
        ("bench deliver --connections 0", "at least 1"),
        ("bench deliver --rate=-1", "events a second"),
        ("bench publish --url http://a --raw-in-flight 5", "--raw-nats"),
        ("bench publish --url http://a --raw-nats http://n", "nats://host:port"),
        ("bench publish --url http://a --rounds 0", "at least 1"),
        ("bench log", "--database <URL>"),
        ("bench log --database mysql://h/d", "postgres://"),
        ("bench log --database postgres://h/d --rounds 0", "at least 1"),
        ("bench relay", "--nats <URL>"),
        ("bench relay --nats nats://n --count 0", "at least 1"),
        ("bench sweep --connections 0", "at least 1"),
        ("bench sweep --shards 9", "1..=8"),
        ("bench sweep --channels 0", "1..=50"),
        ("bench sweep --h2 257", "1..=256"),
        ("bench sweep --token all", "one, each"),
        ("bench sweep --batch 5", "--own-channels"),
        ("bench sweep --own-channels --channels 3", "cannot be used with"),
        ("bench sweep --own-channels --types", "cannot be used with"),
        ("bench sweep --own-channels --quiet", "cannot be used with"),
        ("bench sweep --alone --axum /x", "cannot be used with"),
    ] {
        let error = parse(line).unwrap_err();
        assert!(error.contains(what), "{line}: {error}");
    }
    let Ok(Scenario::Deliver(_)) = parse("bench deliver --pid 1 --pid 2 --json") else { panic!() };
    let Ok(Scenario::Publish(_)) = parse("bench publish --grpc http://a --raw-nats n:4222 --rounds 5") else {
        panic!()
    };
    let Ok(Scenario::Log(_)) = parse("bench log --database postgres://h/d --json") else { panic!() };
    let Ok(Scenario::Relay(_)) = parse("bench relay --nats n --pid 1 --json") else { panic!() };
    let all = "--shards 4 --channels 3 --token each --types --tls --h2 100 --gzip --quiet --rate 100";
    let Ok(Scenario::Sweep(_)) = parse(&format!("bench sweep {all}")) else { panic!() };
}

#[test]
fn what_was_left_behind_is_said_beside_what_failed() {
    let failed = || Err::<(), _>(anyhow::anyhow!("measuring").context("first"));
    let left = || Err(anyhow::anyhow!("left behind"));
    assert_eq!(after_cleanup(Ok(1), Ok(())).unwrap(), 1);
    assert_eq!(after_cleanup(Ok(1), left()).unwrap_err().to_string(), "left behind");
    assert_eq!(after_cleanup(failed(), Ok(())).unwrap_err().to_string(), "first");
    assert_eq!(after_cleanup(failed(), left()).unwrap_err().to_string(), "first: measuring; and left behind");
}

#[tokio::test]
async fn an_exact_server_has_no_faults() {
    let report = measure(|at, all| vec![all[at].clone()]).await;
    assert_eq!((report.faults.lost, report.faults.duplicated, report.faults.reordered), (0, 0, 0));
    assert!((1..=601).contains(&report.events), "{report:?}");
    // Two listeners on each channel.
    assert_eq!(report.deliveries, report.events * 2);
    assert_eq!(report.latency_ms.count, report.deliveries);
    assert_eq!(report.reconnects, 0);
}

#[tokio::test]
async fn a_server_that_loses_doubles_and_swaps_is_found_out() {
    let report = measure(|at, all| match at {
        5 => vec![],
        7 => vec![all[7].clone(), all[7].clone()],
        10 => vec![],
        11 => vec![all[11].clone(), all[10].clone()],
        _ => vec![all[at].clone()],
    })
    .await;
    // Each of six listeners meets each fault once.
    assert_eq!(
        (report.faults.lost, report.faults.duplicated, report.faults.reordered),
        (6, 6, 6),
        "{report:?}"
    );
}
