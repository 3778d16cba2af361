//! Policies that change while services run: pushed to a cluster, and read again from standalone's file.

use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use foghorn_tests::PATIENCE;
use foghorn_tests::env::foghorn;
use foghorn_tests::foghorn::Foghorn;
use foghorn_tests::http::{Reply, get, metric, request};
use foghorn_tests::sse::{Block, NoBlock, SseClient};
use foghorn_tests::wait::until;
use http::Method;
use serde_json::{Value, json};

use super::{Issuer, POLICIES, bearer};
use crate::deployment::{Cluster, wait_ready};

/// How soon after the command other policies hold everywhere, and streams that they don't grant have ended.
const SOON: Duration = Duration::from_secs(2);
const BUCKET_KEY: &str = "$KV.FOGHORN_policies.policies";

/// `foghorn policies` with these arguments.
fn policies(cluster: &Cluster, arguments: &[&str]) -> Output {
    let url = cluster.nats.url();
    Command::new(foghorn()).arg("policies").args(arguments).args(["--nats", &url]).output().unwrap()
}

fn apply(cluster: &Cluster, folder: &Path, text: &str) {
    let file = folder.join("policies.toml");
    std::fs::write(&file, text).unwrap();
    let output = policies(cluster, &["apply", file.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
}

/// Waits until a metric of every service says so.
async fn everywhere(cluster: &Cluster, name: &str, value: f64) {
    until(&format!("{name} to be {value}"), SOON, async || {
        for process in cluster.gateways.iter().chain(&cluster.fanouts).chain(&cluster.eventlogs) {
            if (metric(process.admin(), name).await - value).abs() > 0.1 {
                return None;
            }
        }
        Some(())
    })
    .await;
}

async fn listen(server: &Foghorn, channels: &str, token: Option<&str>) -> SseClient {
    let token = token.map(bearer);
    let headers: Vec<_> = token.iter().map(|token| ("authorization", token.as_str())).collect();
    let url = server.url(&format!("/api/events?channels={channels}"));
    let mut stream = SseClient::connect(&url, &headers).await.unwrap();
    stream.collect_until(PATIENCE, |block| block.event_type() == "stream-live").await;
    stream
}

async fn ends(mut stream: SseClient, since: Instant) {
    let (blocks, end) = stream.collect_to_end(PATIENCE).await;
    let last = blocks.last().unwrap();
    let said = (last.event_type(), last.json()["reason"].clone(), end);
    assert_eq!(said, ("stream-end", json!("access-withdrawn"), NoBlock::End), "{blocks:?}");
    assert!(since.elapsed() < SOON, "{:?}", since.elapsed());
}

async fn publish(server: &Foghorn, token: &str, event: Value) -> Reply {
    let authorization = bearer(token);
    let headers = [("authorization", authorization.as_str())];
    request(Method::POST, &server.url("/api/publish"), &headers, Some(&event)).await.unwrap()
}

async fn presence(server: &Foghorn, token: &str) -> Reply {
    let authorization = bearer(token);
    let url = server.url("/api/channels/members.a/presence");
    request(Method::GET, &url, &[("authorization", authorization.as_str())], None).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_that_are_applied_hold_in_every_service_at_once_and_end_what_they_grant_no_more() {
    let issuer = Issuer::new();
    let mut cluster = Cluster::start_closed(&issuer.config("")).await;
    cluster.ready().await;
    let ann = issuer.token("ann", &json!({ "subscribe": ["members.>"], "publish": ["members.>"] }));
    let [here, there] = &cluster.gateways[..] else { panic!("two gateways") };
    let mut stays = listen(here, "members.a", Some(&ann)).await;
    let (nobody, elsewhere) = (listen(here, "open.a", None).await, listen(there, "open.*", None).await);
    let own = listen(there, "open.a", Some(&ann)).await;

    // What is public no longer, what is too large now, what is kept no longer, and who is to be seen.
    let closed = "[[policy]]\npattern = \"open.>\"\naccess = \"authenticated\"\n\
                  [[policy]]\npattern = \"members.small\"\nevent_bytes = 64\n\
                  [[policy]]\npattern = \"members.gone\"\nreplay = false\n\
                  [[policy]]\npattern = \"members.a\"\npresence = \"events\"\n";
    let said = Instant::now();
    apply(&cluster, issuer.folder.path(), closed);
    tokio::join!(ends(nobody, said), ends(elsewhere, said));
    // Her credential's claim doesn't name it.
    ends(own, said).await;
    everywhere(&cluster, "foghorn_policies_revision ", 1.0).await;
    let again = SseClient::connect(&here.url("/api/events?channels=open.a"), &[]).await.unwrap();
    assert_eq!(again.status(), 401);
    for fanout in &cluster.fanouts {
        let event = json!({ "channel": "members.small", "data": "x".repeat(100) });
        assert_eq!(publish(fanout, &ann, event).await.status, 413);
        let event = json!({ "channel": "members.gone", "data": "once", "ack": "durable" });
        assert_eq!(publish(fanout, &ann, event).await.status, 200);
    }
    let history = here.url("/api/channels/members.gone/events");
    let kept = request(Method::GET, &history, &[("authorization", &bearer(&ann))], None).await.unwrap();
    assert_eq!((kept.status, &kept.body["events"]), (200, &json!([])), "{}", kept.body);
    // Who listened before is there, and is told of who comes.
    until("who listened before to be counted", SOON, async || {
        (presence(there, &ann).await.body["members"] == json!([{ "user": "ann", "connections": 1 }]))
            .then_some(())
    })
    .await;
    let counted = |block: &Block| block.event_type() == "presence" && block.json()["count"] == 1;
    stays.collect_until(PATIENCE, counted).await;
    let bob = issuer.token("bob", &json!({ "subscribe": ["members.>"] }));
    let _bob = listen(there, "members.a", Some(&bob)).await;
    let told = |block: &Block| block.event_type() == "presence" && block.json()["user"] == "bob";
    stays.collect_until(PATIENCE, told).await;
    assert_eq!(
        publish(&cluster.fanouts[0], &ann, json!({ "channel": "members.a", "data": "on" })).await.status,
        200
    );
    stays.collect_until(PATIENCE, |block| block.data.as_deref() == Some("on")).await;

    // What isn't a document of ours is refused by all, and what held goes on; who starts then isn't ready.
    let nats = async_nats::connect(cluster.nats.url()).await.unwrap();
    let context = async_nats::jetstream::new(nats);
    let bad = r#"{"version":1,"policies":[{"pattern":"open.>","access":"everybody"}]}"#;
    context.publish(BUCKET_KEY, bad.into()).await.unwrap().await.unwrap();
    everywhere(&cluster, "foghorn_policies_refused ", 1.0).await;
    let refused = SseClient::connect(&here.url("/api/events?channels=open.a"), &[]).await.unwrap();
    assert_eq!(refused.status(), 401);
    let admin = cluster.gateways[1].admin().to_owned();
    cluster.gateways[1].kill();
    cluster.gateways[1].relaunch();
    until("a gateway to say what it lacks", PATIENCE, async || {
        let ready = get(&format!("http://{admin}/readyz")).await.ok()?;
        (ready.status == 503 && ready.body.to_string().contains("everybody")).then_some(())
    })
    .await;
    apply(&cluster, issuer.folder.path(), closed);
    cluster.gateways[1].listening().await;
    wait_ready(cluster.gateways[1].admin()).await;
    everywhere(&cluster, "foghorn_policies_refused ", 0.0).await;
    let refused =
        SseClient::connect(&cluster.gateways[1].url("/api/events?channels=open.a"), &[]).await.unwrap();
    assert_eq!(refused.status(), 401, "from its first request on");

    // A bucket that is gone opens nothing; one that is withdrawn does.
    let shown = policies(&cluster, &["show"]);
    assert!(String::from_utf8_lossy(&shown.stdout).contains("event_bytes = 64"), "{shown:?}");
    context.delete_stream("KV_FOGHORN_policies").await.unwrap();
    everywhere(&cluster, "foghorn_policies_refused ", 1.0).await;
    let refused =
        SseClient::connect(&cluster.gateways[0].url("/api/events?channels=open.a"), &[]).await.unwrap();
    assert_eq!(refused.status(), 401);
    apply(&cluster, issuer.folder.path(), closed);
    everywhere(&cluster, "foghorn_policies_refused ", 0.0).await;
    context.delete_stream("KV_FOGHORN_policies").await.unwrap();
    everywhere(&cluster, "foghorn_policies_refused ", 1.0).await;
    assert!(policies(&cluster, &["clear"]).status.success());
    everywhere(&cluster, "foghorn_policies_revision ", 0.0).await;
    listen(&cluster.gateways[0], "open.a", None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_policies_that_is_wrong_is_not_applied_and_the_error_says_where() {
    let issuer = Issuer::new();
    let file = issuer.folder.path().join("policies.toml");
    for (text, words) in [
        ("[[policy]]\npattern = \"a\"\nacess = \"public\"\n", "access"),
        ("[[policy]]\npattern = \"a.*\"\n[[policy]]\npattern = \"*.b\"\n", "line 4: policies a.* and *.b"),
        ("[[policy]]\npattern = \"a\"\nevent_bytes = 300000\n", "limits.event_bytes"),
        ("[gateway]\nconnections = 1\n", "gateway"),
    ] {
        std::fs::write(&file, text).unwrap();
        let output = Command::new(foghorn()).args(["policies", "apply"]).arg(&file).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("policies.toml") && said.contains(words), "{text}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn standalone_takes_over_the_policies_of_its_file_when_that_changes_unless_they_are_wrong() {
    let issuer = Issuer::new();
    let server = issuer.standalone("", &[]).await;
    let nobody = listen(&server, "open.a", None).await;
    let write = |policies: &str| {
        let path = issuer.folder.path().join("foghorn.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        let at = text.find("[http]").unwrap();
        std::fs::write(&path, format!("{}{policies}", &text[..at])).unwrap();
    };
    let admin = server.admin().to_owned();
    write(&POLICIES.replace("\"open.>\"", "\"open\""));
    ends(nobody, Instant::now()).await;
    write("[http]\n[[policy]]\npattern = \"open.>\"\naccess = \"everybody\"\n");
    until("it to be refused", PATIENCE, async || {
        (metric(&admin, "foghorn_policies_refused ").await > 0.5).then_some(())
    })
    .await;
    let refused = SseClient::connect(&server.url("/api/events?channels=open.a"), &[]).await.unwrap();
    assert_eq!(refused.status(), 401);
    write(POLICIES);
    until("it to be public again", PATIENCE, async || {
        let stream = SseClient::connect(&server.url("/api/events?channels=open.a"), &[]).await.ok()?;
        (stream.status() == 200).then_some(())
    })
    .await;

    // Also what is only stored at first.
    let service = bearer(&issuer.token("service", &json!({ "publish": ["user.*"] })));
    let notify = async || {
        let (url, headers) = (server.url("/api/notifications"), [("authorization", service.as_str())]);
        let notice = json!({ "userId": "ann", "type": "info", "title": "t", "message": "m" });
        request(Method::POST, &url, &headers, Some(&notice)).await.unwrap().status
    };
    assert_eq!(notify().await, 201);
    write(&POLICIES.replace("\"owner\"", "\"owner\"\nevent_bytes = 64"));
    until("notifications to be too large", PATIENCE, async || (notify().await == 413).then_some(())).await;
}
