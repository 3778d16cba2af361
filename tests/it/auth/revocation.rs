//! What operators revoke: streams end everywhere, and no door takes the token any more.

use std::time::{Duration, Instant};

use foghorn_rpc::v1::{PublishRequest, PublishResult, publisher_client::PublisherClient};
use foghorn_tests::PATIENCE;
use foghorn_tests::foghorn::Foghorn;
use foghorn_tests::http::{Reply, request};
use foghorn_tests::http2::Http2;
use foghorn_tests::sse::{NoBlock, SseClient};
use foghorn_tests::tls;
use foghorn_tests::wait::until;
use futures::channel::mpsc;
use http::Method;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::time::timeout;
use tonic::metadata::MetadataValue;
use tonic::{Code, Streaming};

use super::doors::of;
use super::{Issuer, bearer, claims, now};
use crate::deployment::{Cluster, wait_ready};

/// How soon after the answer every stream is to be over.
const SOON: Duration = Duration::from_secs(2);

impl Issuer {
    /// A token with an id, issued so many seconds from now.
    fn issued(&self, subject: &str, id: &str, seconds: i64) -> String {
        let mut claims = claims(subject, 3600, &json!({ "publish": ["members.>"] }));
        (claims["jti"], claims["iat"]) = (json!(id), json!(now() + seconds));
        self.ec.mint("ec", &claims).unwrap()
    }

    async fn revoke(&self, server: &Foghorn, what: &Value) -> Reply {
        let admin = bearer(&self.token("op", &json!({ "role": "admin" })));
        let url = server.url("/api/admin/revoke");
        request(Method::POST, &url, &[("authorization", &admin)], Some(what)).await.unwrap()
    }
}

/// A stream that is live, and its client id.
async fn listen(server: &Foghorn, token: &str) -> (SseClient, String) {
    let url = server.url("/api/events?channels=members.a");
    let mut stream = SseClient::connect(&url, &[("authorization", &bearer(token))]).await.unwrap();
    let blocks = stream.collect_until(PATIENCE, |block| block.event_type() == "stream-live").await;
    let connected = blocks.iter().find(|block| block.event_type() == "connected").unwrap();
    let id = connected.json()["clientId"].as_str().unwrap().to_owned();
    (stream, id)
}

/// The stream says that it was revoked, and ends, in time.
async fn ends(mut stream: SseClient, since: Instant) {
    let (blocks, end) = stream.collect_to_end(PATIENCE).await;
    let last = blocks.last().unwrap();
    let said = (last.event_type(), last.json()["reason"].clone(), end);
    assert_eq!(said, ("stream-end", json!("revoked"), NoBlock::End), "{blocks:?}");
    assert!(since.elapsed() < SOON, "{:?}", since.elapsed());
}

/// A publisher's stream that has published one event, and could more.
async fn publishing(
    server: &Foghorn,
    token: &str,
) -> (mpsc::Sender<PublishRequest>, Streaming<PublishResult>) {
    let (mut sender, requests) = mpsc::channel(8);
    let event = PublishRequest { channel: "members.b".into(), data: "first".into(), ..Default::default() };
    sender.try_send(event).unwrap();
    let mut grpc = PublisherClient::connect(format!("http://{}", server.grpc())).await.unwrap();
    let mut answers = grpc.publish_stream(of(requests, Some(&bearer(token)))).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap().result;
    assert!(matches!(answer, Some(foghorn_rpc::v1::publish_result::Result::Ok(_))), "{answer:?}");
    (sender, answers)
}

/// The publisher's stream ends in time, though it says no more.
async fn ends_with_its_token(
    (sender, mut answers): (mpsc::Sender<PublishRequest>, Streaming<PublishResult>),
    since: Instant,
) {
    let status = timeout(PATIENCE, answers.message()).await.expect("it stays open").unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated, "{status:?}");
    assert_eq!(status.metadata().get("foghorn-problem").unwrap(), "bad-credential");
    assert!(since.elapsed() < SOON, "{:?}", since.elapsed());
    drop(sender);
}

/// The problem type with which a gateway answers a token; empty when it takes it.
async fn history(server: &Foghorn, token: &str) -> String {
    let url = server.url("/api/channels/members.a/events");
    problem(&request(Method::GET, &url, &[("authorization", &bearer(token))], None).await.unwrap())
}

async fn publish(server: &Foghorn, token: &str) -> String {
    let event = json!({ "channel": "members.a", "data": "heard" });
    let url = server.url("/api/publish");
    problem(&request(Method::POST, &url, &[("authorization", &bearer(token))], Some(&event)).await.unwrap())
}

fn problem(reply: &Reply) -> String {
    let kind = reply.body["type"].as_str().unwrap_or_default();
    assert_eq!(kind.is_empty(), reply.status == 200, "{}", reply.body);
    kind.rsplit('/').next().unwrap_or_default().to_owned()
}

/// What gateways, and fan-outs over HTTP, gRPC and NATS, answer.
async fn doors(cluster: &Cluster, token: &str) -> Vec<String> {
    let mut answers = Vec::new();
    for gateway in &cluster.gateways {
        answers.push(history(gateway, token).await);
    }
    for fanout in &cluster.fanouts {
        answers.push(publish(fanout, token).await);
        let mut grpc = PublisherClient::connect(format!("http://{}", fanout.grpc())).await.unwrap();
        let event =
            PublishRequest { channel: "members.a".into(), data: "heard".into(), ..Default::default() };
        let mut event = tonic::Request::new(event);
        event.metadata_mut().insert("authorization", MetadataValue::try_from(bearer(token)).unwrap());
        answers.push(match grpc.publish(event).await {
            Ok(_) => String::new(),
            Err(status) => status.metadata().get("foghorn-problem").unwrap().to_str().unwrap().to_owned(),
        });
    }
    let nats = async_nats::connect(cluster.nats.url()).await.unwrap();
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Authorization", bearer(token).as_str());
    let reply =
        nats.request_with_headers("foghorn.publish.members.a", headers, "heard".into()).await.unwrap();
    let reply: Value = serde_json::from_slice(&reply.payload).unwrap();
    answers.push(reply["error"]["type"].as_str().unwrap_or_default().rsplit('/').next().unwrap().to_owned());
    answers
}

/// Waits until every door answers a token so.
async fn answered(cluster: &Cluster, token: &str, expected: &str) {
    until(&format!("every door to answer {expected:?}"), SOON, async || {
        doors(cluster, token).await.iter().all(|answer| answer == expected).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_revoked_ends_in_the_whole_cluster_and_no_door_takes_it_again() {
    let issuer = Issuer::new();
    let mut cluster = Cluster::start_closed(&issuer.config("")).await;
    cluster.ready().await;
    let [ann, other] = ["1", "2"].map(|id| issuer.issued("ann", id, -1));
    let bob = issuer.issued("bob", "3", -1);
    let gateways = &cluster.gateways;
    answered(&cluster, &ann, "").await;

    // A subject, through the other gateway than one of its streams is on.
    let (one, _) = listen(&gateways[0], &ann).await;
    let (two, _) = listen(&gateways[1], &other).await;
    let (mut bobs, _) = listen(&gateways[1], &bob).await;
    let publishers =
        (publishing(&cluster.fanouts[0], &ann).await, publishing(&cluster.fanouts[1], &other).await);
    let said = Instant::now();
    let answer = issuer.revoke(&gateways[0], &json!({ "subject": "ann" })).await;
    assert_eq!((answer.status, &answer.body["revoked"]), (200, &json!("subject")), "{}", answer.body);
    tokio::join!(
        ends(one, said),
        ends(two, said),
        ends_with_its_token(publishers.0, said),
        ends_with_its_token(publishers.1, said)
    );
    answered(&cluster, &ann, "bad-credential").await;
    answered(&cluster, &other, "bad-credential").await;
    answered(&cluster, &issuer.issued("ann", "4", 1), "").await;
    answered(&cluster, &bob, "").await;
    bobs.collect_until(PATIENCE, |block| block.data.as_deref() == Some("heard")).await;

    // A token by its id.
    let [lost, kept] = ["5", "6"].map(|id| issuer.issued("eve", id, -1));
    let (stream, _) = listen(&gateways[1], &lost).await;
    let said = Instant::now();
    assert_eq!(issuer.revoke(&gateways[0], &json!({ "tokenId": "5" })).await.status, 200);
    ends(stream, said).await;
    answered(&cluster, &lost, "bad-credential").await;
    answered(&cluster, &kept, "").await;

    // A stream by its id, and with it the token that it was opened with, which has none.
    let nameless = issuer.token("dan", &json!({ "publish": ["members.>"] }));
    let (stream, id) = listen(&gateways[1], &nameless).await;
    let (sibling, _) = listen(&gateways[0], &nameless).await;
    let said = Instant::now();
    assert_eq!(issuer.revoke(&gateways[0], &json!({ "connection": id })).await.status, 200);
    tokio::join!(ends(stream, said), ends(sibling, said));
    answered(&cluster, &nameless, "bad-credential").await;
    let ended = "foghorn_gateway_streams_ended_total{reason=\"revoked\"}";
    let count = foghorn_tests::http::metric(gateways[1].admin(), ended).await;
    assert!((count - 3.0).abs() < 0.1, "{count}");

    // Said while one gateway is stopped and another service is down: both know it when they are back.
    let late = issuer.issued("ann", "7", 2);
    let (stream, _) = listen(&cluster.gateways[1], &bob).await;
    cluster.gateways[1].signal(Signal::SIGSTOP);
    cluster.fanouts[1].kill();
    assert_eq!(issuer.revoke(&cluster.gateways[0], &json!({ "subject": "bob" })).await.status, 200);
    cluster.fanouts[1].restart().await;
    wait_ready(cluster.fanouts[1].admin()).await;
    assert_eq!(publish(&cluster.fanouts[1], &bob).await, "bad-credential", "from its first request on");
    let woken = Instant::now();
    cluster.gateways[1].signal(Signal::SIGCONT);
    ends(stream, woken).await;
    answered(&cluster, &bob, "bad-credential").await;

    // Without NATS nothing can be revoked, which is said; what was goes on being refused.
    cluster.nats.kill();
    until("a revocation to be refused", PATIENCE, async || {
        let refused = issuer.revoke(&cluster.gateways[0], &json!({ "subject": "zoe" })).await;
        (problem(&refused) == "revocations-unavailable" && refused.body["retryable"] == true).then_some(())
    })
    .await;
    assert_eq!(history(&cluster.gateways[0], &bob).await, "bad-credential");
    until("it to be seen", PATIENCE, async || {
        let unseen =
            foghorn_tests::http::metric(cluster.gateways[0].admin(), "foghorn_auth_revocations_unseen");
        (unseen.await > 0.5).then_some(())
    })
    .await;
    cluster.nats.restart().await;
    cluster.gateways[0].kill();
    cluster.gateways[0].restart().await;
    wait_ready(cluster.gateways[0].admin()).await;
    assert_eq!(history(&cluster.gateways[0], &bob).await, "bad-credential");
    assert_eq!(history(&cluster.gateways[0], &late).await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn standalone_knows_what_was_revoked_after_a_restart_and_only_operators_revoke() {
    let issuer = Issuer::new();
    let data = tempfile::tempdir().unwrap();
    let data = data.path().display().to_string();
    let config = issuer.config("");
    let arguments = ["--data", &data, "--config", &config];
    let mut server = crate::deployment::standalone(&arguments, &[crate::deployment::CLOSED]).await;
    let ann = issuer.issued("ann", "1", -1);
    let url = server.url("/api/admin/revoke");
    let everything = json!({ "subject": "ann" });
    for (token, status) in [(None, 401), (Some(bearer(&ann)), 403)] {
        let headers: Vec<_> = token.iter().map(|value| ("authorization", value.as_str())).collect();
        let refused = request(Method::POST, &url, &headers, Some(&everything)).await.unwrap();
        assert_eq!(refused.status, status, "{}", refused.body);
    }
    for bad in [
        json!({}),
        json!([]),
        json!({ "subject": "" }),
        json!({ "subject": "ann", "tokenId": "1" }),
        json!({ "sub": "ann" }),
        json!({ "connection": "7" }),
        json!({ "tokenId": "1", "expires": "soon" }),
    ] {
        let refused = issuer.revoke(&server, &bad).await;
        assert_eq!((refused.status, problem(&refused).as_str()), (400, "bad-revocation"), "{bad}");
    }
    let (stream, _) = listen(&server, &ann).await;
    let said = Instant::now();
    let answer = issuer.revoke(&server, &json!({ "tokenId": "1", "expires": "2999-01-01T00:00:00Z" })).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert!(
        answer.body["until"].as_str().unwrap() < "2999",
        "no longer than any token lives: {}",
        answer.body
    );
    ends(stream, said).await;
    for restart in [false, true] {
        if restart {
            server.kill();
            server.restart().await;
            wait_ready(server.admin()).await;
        }
        assert_eq!(history(&server, &ann).await, "bad-credential", "{restart}");
        assert_eq!(publish(&server, &ann).await, "bad-credential", "{restart}");
        assert_eq!(history(&server, &issuer.issued("ann", "2", -1)).await, "", "{restart}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_over_tls_and_http2_end_when_they_are_revoked() {
    let issuer = Issuer::new();
    let folder = tempfile::tempdir().unwrap();
    let variables = tls::variables(folder.path());
    let variables = tls::borrowed(&variables);
    for environment in [&[][..], &variables] {
        let server = issuer.standalone("", environment).await;
        let [ann, bob] = ["ann", "bob"].map(|subject| issuer.issued(subject, subject, -1));
        let connection = Http2::connect(&server.url("")).await.unwrap();
        let open = async |token: &str| {
            let (path, token) = ("/api/events?channels=members.a", bearer(token));
            let mut stream = connection.listen(path, &[("authorization", &token)]).await.unwrap();
            stream.collect_until(PATIENCE, |block| block.event_type() == "stream-live").await;
            stream
        };
        let (one, other, mut bobs) = (open(&ann).await, open(&ann).await, open(&bob).await);
        let (alone, id) = listen(&server, &bob).await;
        let said = Instant::now();
        assert_eq!(issuer.revoke(&server, &json!({ "subject": "ann" })).await.status, 200);
        tokio::join!(ends(one, said), ends(other, said));
        // Others on the same connection stay.
        assert_eq!(publish(&server, &bob).await, "");
        bobs.collect_until(PATIENCE, |block| block.data.as_deref() == Some("heard")).await;
        // By its id, and with it all that its token opened.
        let said = Instant::now();
        assert_eq!(issuer.revoke(&server, &json!({ "connection": id })).await.status, 200);
        tokio::join!(ends(alone, said), ends(bobs, said));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publishers_stream_ends_with_its_token() {
    let issuer = Issuer::new();
    let server = issuer.standalone("", &[]).await;
    let mut claims = claims("ann", 0, &json!({ "publish": ["members.>"] }));
    let expires = now() + 3;
    claims["exp"] = json!(expires);
    let short = issuer.ec.mint("ec", &claims).unwrap();
    let long = issuer.issued("bob", "1", -1);
    let began = Instant::now();
    let (stream, _goes_on) = (publishing(&server, &short).await, publishing(&server, &long).await);
    // In so long at most, as seconds are counted.
    ends_with_its_token(stream, began + Duration::from_secs(3)).await;
    assert!(now() >= expires, "no sooner than the token");
}
