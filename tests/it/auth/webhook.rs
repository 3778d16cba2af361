//! The webhook authoriser: an application that is asked where policies leave it to it, and misbehaves on command.

use std::future::ready;
use std::sync::Arc;
use std::time::{Duration, Instant};

use foghorn_auth::webhook::SigningSecret;
use foghorn_rpc::v1::{PublishBatchRequest, PublishRequest, publisher_client::PublisherClient};
use foghorn_tests::PATIENCE;
use foghorn_tests::foghorn::Foghorn;
use foghorn_tests::http::{Reply, metric, request};
use foghorn_tests::http2::Http2;
use foghorn_tests::sse::{NoBlock, SseClient};
use foghorn_tests::tls;
use futures::future::join_all;
use http::Method;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tonic::Code;

use super::{Issuer, bearer};
use crate::deployment::Cluster;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// What the application does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Does {
    /// It decides, for so many seconds. See [`allows`].
    Decides { seconds: u64 },
    /// It allows nobody anything, and isn't quoted on that.
    Denies,
    /// It closes the connection.
    Down,
    /// It answers nothing, and keeps the connection open.
    Silence,
    /// It answers with this status, and that it allows it.
    Status(u16),
    /// It answers without an end.
    Endless,
    /// It answers with a page.
    Page,
}

/// An application's server.
#[derive(Clone)]
struct Application {
    url: String,
    does: Arc<Mutex<Does>>,
    questions: Arc<Mutex<Vec<Value>>>,
}

/// What it decides: `ann`, by her token or her session, may do anything in rooms but for the secret one.
fn allows(question: &Value) -> bool {
    let is_ann = question["user"] == "ann" || question["headers"]["cookie"] == "session=ann";
    let on = question["channel"].as_str().or(question["pattern"].as_str()).unwrap();
    assert!(on.starts_with("rooms."), "asked about {on}, which no policy leaves to it");
    is_ann && on != "rooms.secret" && on != "rooms.>"
}

impl Application {
    async fn start() -> Self {
        Application::spoken("http", |stream| ready(Ok(stream))).await
    }

    /// The same over TLS, with the certificate of every server here.
    async fn over_tls() -> Self {
        let acceptor = tls::acceptor();
        Application::spoken("https", move |stream| acceptor.accept(stream)).await
    }

    async fn spoken<S: AsyncRead + AsyncWrite + Send + Unpin + 'static, F>(
        scheme: &str,
        speak: impl Fn(TcpStream) -> F + Send + 'static,
    ) -> Self
    where
        F: Future<Output = std::io::Result<S>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("{scheme}://{}/authorise", listener.local_addr().unwrap());
        let does = Arc::new(Mutex::new(Does::Decides { seconds: 60 }));
        let application = Application { url, does, questions: Arc::default() };
        let served = application.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (spoken, application) = (speak(stream), served.clone());
                tokio::spawn(async move { application.serve(spoken.await?).await });
            }
        });
        application
    }

    fn now(&self, does: Does) {
        *self.does.lock() = does;
    }

    /// What it was asked about so far.
    fn asked(&self, on: &str) -> usize {
        let questions = self.questions.lock();
        questions.iter().filter(|question| question["channel"] == on || question["pattern"] == on).count()
    }

    /// The lines of `[auth]` with which it is asked, and what it is asked about.
    fn config(&self, more: &str) -> String {
        format!(
            "[auth.webhook]\nurl = \"{}\"\nsecret = \"{SECRET}\"\ndeadline = \"1s\"\n{more}\n\
             [[policy]]\npattern = \"rooms.>\"\naccess = \"webhook\"\npresence = true\n",
            self.url
        )
    }

    async fn serve<S: AsyncRead + AsyncWrite + Unpin>(self, mut stream: S) -> std::io::Result<()> {
        loop {
            let (mut head, mut byte) = (Vec::new(), [0]);
            while !head.ends_with(b"\r\n\r\n") {
                if stream.read(&mut byte).await? == 0 {
                    return Ok(());
                }
                head.push(byte[0]);
            }
            let head = String::from_utf8(head).unwrap();
            assert!(head.starts_with("POST /authorise HTTP/1.1\r\n"), "{head}");
            let header = |name: &str| {
                let line =
                    head.lines().find(|line| line.to_ascii_lowercase().starts_with(&format!("{name}:")));
                line.map(|line| line.split_once(':').unwrap().1.trim()).unwrap_or_default()
            };
            let mut body = vec![0; header("content-length").parse().unwrap()];
            stream.read_exact(&mut body).await?;
            let (id, time) = (header("webhook-id"), header("webhook-timestamp"));
            let [_, _, (_, signature)] =
                SigningSecret::parse(SECRET).unwrap().sign(id, time.parse().unwrap(), &body);
            assert_eq!(header("webhook-signature"), signature);
            let question: Value = serde_json::from_slice(&body).unwrap();
            self.questions.lock().push(question.clone());
            let does = *self.does.lock();
            let answer = |status: u16, body: &Value| {
                let body = body.to_string();
                let length = body.len();
                format!(
                    "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\
                     Location: {}\r\n\r\n{body}",
                    self.url
                )
            };
            let answer = match does {
                Does::Decides { seconds } => {
                    answer(200, &json!({ "allow": allows(&question), "ttl": seconds }))
                }
                Does::Denies => answer(200, &json!({ "allow": false, "ttl": 0 })),
                Does::Down => return Ok(()),
                Does::Silence => {
                    tokio::time::sleep(Duration::from_secs(60)).await;
                    return Ok(());
                }
                Does::Status(status) => answer(status, &json!({ "allow": true })),
                Does::Endless => {
                    stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n{\"allow\": true").await?;
                    loop {
                        stream.write_all(&[b' '; 4096]).await?;
                    }
                }
                Does::Page => answer(200, &json!("<html>It works!</html>")),
            };
            stream.write_all(answer.as_bytes()).await?;
        }
    }
}

/// Someone who asks for things.
#[derive(Debug, Clone, Default)]
struct Someone {
    headers: Vec<(&'static str, String)>,
}

impl Someone {
    fn with(token: &str) -> Self {
        Someone { headers: vec![("authorization", bearer(token))] }
    }

    fn headers(&self) -> Vec<(&str, &str)> {
        self.headers.iter().map(|(name, value)| (*name, value.as_str())).collect()
    }

    async fn listen(&self, server: &Foghorn, topic: &str) -> SseClient {
        let url = server.url(&format!("/api/events?channels={topic}"));
        SseClient::connect(&url, &self.headers()).await.unwrap()
    }

    async fn get(&self, server: &Foghorn, path: &str) -> Reply {
        request(Method::GET, &server.url(path), &self.headers(), None).await.unwrap()
    }

    async fn post(&self, server: &Foghorn, path: &str, body: &Value) -> Reply {
        request(Method::POST, &server.url(path), &self.headers(), Some(body)).await.unwrap()
    }

    async fn publish(&self, server: &Foghorn, channel: &str) -> Reply {
        self.post(server, "/api/publish", &json!({ "channel": channel, "data": channel })).await
    }
}

fn kind(reply: &Reply) -> &str {
    reply.body["type"].as_str().unwrap_or_default().rsplit('/').next().unwrap_or_default()
}

async fn live(stream: &mut SseClient) -> String {
    assert_eq!(stream.status(), 200);
    let blocks = stream.collect_until(PATIENCE, |block| block.event_type() == "stream-live").await;
    let connected = blocks.iter().find(|block| block.event_type() == "connected").unwrap();
    connected.json()["clientId"].as_str().unwrap().to_owned()
}

/// The only thing that a stream says, and that it ends then.
async fn told(mut stream: SseClient) -> Value {
    assert_eq!(stream.status(), 200, "a browser would never come back after another");
    let (blocks, end) = stream.collect_to_end(PATIENCE).await;
    assert_eq!((blocks.len(), blocks[0].event_type(), end), (1, "stream-end", NoBlock::End), "{blocks:?}");
    assert!(blocks[0].retry.is_some_and(|wait| wait >= 1000), "{blocks:?}");
    blocks[0].json()["reason"].clone()
}

/// Each credential with each thing that can be asked, on a server whose two kinds of requests go there.
async fn check_all(issuer: &Issuer, application: &Application, gateway: &Foghorn, fanout: &Foghorn) {
    let of = |subject: &str, grants: Value| Someone::with(&issuer.token(subject, &grants));
    let (listen, history) = ("/api/events?channels=", "/api/channels/");
    let topics =
        ["rooms.1", "rooms.secret", "rooms.*", "rooms.%3E", "open.a", "members.a", "user.bob", "%3E"];
    let grants = json!({ "subscribe": ["rooms.secret"], "publish": ["rooms.secret"] });
    for (name, someone, heard, read, published) in [
        ("nobody", Someone::default(), [403, 403, 403, 403, 200, 401, 401, 401], [403, 403], [403, 403, 401]),
        ("ann", of("ann", json!({})), [200, 403, 200, 403, 200, 200, 403, 403], [200, 403], [200, 403, 403]),
        (
            "ann with a claim",
            of("ann", grants),
            [200, 200, 200, 403, 200, 403, 403, 403],
            [200, 200],
            [200, 200, 403],
        ),
        ("bob", of("bob", json!({})), [403, 403, 403, 403, 200, 200, 200, 403], [403, 403], [403, 403, 403]),
        ("not believed", Someone::with("x.y.z"), [401; 8], [401, 401], [401, 401, 401]),
    ] {
        for (topic, expected) in topics.into_iter().zip(heard) {
            let stream = someone.listen(gateway, topic).await;
            assert_eq!(stream.status(), expected, "{name} listens to {topic}");
            if expected == 403 {
                drop(stream);
                let reply = someone.get(gateway, &format!("{listen}{topic}")).await;
                let named = topic.replace("%3E", ">");
                assert_eq!(
                    (kind(&reply), &reply.body["channel"]),
                    ("access-denied", &json!(named)),
                    "{name}"
                );
            }
        }
        for (channel, expected) in ["rooms.1", "rooms.secret"].into_iter().zip(read) {
            let events = someone.get(gateway, &format!("{history}{channel}/events")).await.status;
            let present = someone.get(gateway, &format!("{history}{channel}/presence")).await.status;
            assert_eq!((events, present), (expected, expected), "{name} reads {channel}");
        }
        for (channel, expected) in ["rooms.1", "rooms.secret", "orders.1"].into_iter().zip(published) {
            let reply = someone.publish(fanout, channel).await;
            assert_eq!(reply.status, expected, "{name} publishes on {channel}: {}", reply.body);
        }
    }
    assert_eq!(application.asked("members.a") + application.asked("orders.1") + application.asked(">"), 0);

    // Some events of a request may be allowed, and others not.
    let ann = of("ann", json!({}));
    let event = |channel: &str| json!({ "channel": channel, "data": "x" });
    let both = json!([event("rooms.1"), event("rooms.secret")]);
    let reply = ann.post(fanout, "/api/publish", &both).await;
    let said = (reply.body[0]["position"].is_object(), &reply.body[1]["error"]["status"]);
    assert_eq!(said, (true, &json!(403)), "{}", reply.body);
    // A ticket is given for what is allowed, and opens it.
    let ticket = ann.post(gateway, "/api/events/ticket", &json!({ "channels": ["rooms.1"] })).await;
    let by_ticket = format!("rooms.1&ticket={}", ticket.body["ticket"].as_str().unwrap());
    assert_eq!(Someone::default().listen(gateway, &by_ticket).await.status(), 200);
    let denied = ann.post(gateway, "/api/events/ticket", &json!({ "channels": ["rooms.secret"] })).await;
    assert_eq!((denied.status, kind(&denied)), (403, "access-denied"));

    let mut grpc = PublisherClient::connect(format!("http://{}", fanout.grpc())).await.unwrap();
    let event = |channel: &str| PublishRequest {
        channel: channel.to_owned(),
        data: "x".into(),
        ..PublishRequest::default()
    };
    let token = bearer(&issuer.token("ann", &json!({})));
    let events = vec![event("rooms.1"), event("rooms.secret")];
    let batch = PublishBatchRequest { events: events.clone() };
    let batch = grpc.publish_batch(super::doors::of(batch, Some(&token))).await.unwrap();
    let stream = grpc.publish_stream(super::doors::of(futures::stream::iter(events), Some(&token))).await;
    let (mut stream, mut streamed) = (stream.unwrap().into_inner(), Vec::new());
    while let Some(result) = stream.message().await.unwrap() {
        streamed.push(result);
    }
    for results in [batch.into_inner().results, streamed] {
        use foghorn_rpc::v1::publish_result::Result::{Error, Ok};
        let [one, other] = &results[..] else { panic!("{results:?}") };
        assert!(matches!(one.result, Some(Ok(_))), "{one:?}");
        assert!(matches!(&other.result, Some(Error(error)) if error.code == "access-denied"), "{other:?}");
    }
    let anonymous = grpc.publish(super::doors::of(event("rooms.1"), None)).await;
    assert_eq!(anonymous.unwrap_err().code(), Code::PermissionDenied);
}

#[tokio::test(flavor = "multi_thread")]
async fn standalone_asks_a_webhook_where_a_policy_says_so_and_nowhere_else() {
    let (issuer, application) = (Issuer::new(), Application::start().await);
    let server = issuer.standalone(&application.config(""), &[]).await;
    check_all(&issuer, &application, &server, &server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_asks_a_webhook_where_a_policy_says_so_by_every_door_and_for_changes_of_any_stream() {
    let (issuer, application) = (Issuer::new(), Application::over_tls().await);
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, tls::certificate_pem()).unwrap();
    let more = format!("ca = \"{}\"\nforward = [\"cookie\"]", ca.display());
    let cluster = Cluster::start_closed(&issuer.config(&application.config(&more))).await;
    cluster.ready().await;
    let (gateways, fanout) = (&cluster.gateways, &cluster.fanouts[0]);
    check_all(&issuer, &application, &gateways[0], fanout).await;

    // Over NATS.
    let nats = async_nats::connect(cluster.nats.url()).await.unwrap();
    let token = bearer(&issuer.token("ann", &json!({})));
    for (channel, expected) in
        [("rooms.1", ""), ("rooms.secret", "access-denied"), ("orders.1", "access-denied")]
    {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("Authorization", token.as_str());
        let subject = format!("foghorn.publish.{channel}");
        let reply = nats.request_with_headers(subject, headers, "x".into()).await.unwrap();
        let reply: Value = serde_json::from_slice(&reply.payload).unwrap();
        let kind = reply["error"]["type"].as_str().unwrap_or_default().rsplit('/').next().unwrap();
        assert_eq!(kind, expected, "{reply}");
    }

    // A stream of whoever has a session of the application's, changed through another gateway.
    let page = Someone {
        headers: vec![("cookie", "session=ann".to_owned()), ("origin", "https://app.example".to_owned())],
    };
    let mut stream = page.listen(&gateways[0], "open.a").await;
    let id = live(&mut stream).await;
    let change = |to: &str| json!({ "clientId": id, "channels": [to] });
    let denied = page.post(&gateways[1], "/api/events/subscribe", &change("rooms.secret")).await;
    assert_eq!((denied.status, kind(&denied)), (403, "access-denied"));
    let without = Someone::default().post(&gateways[1], "/api/events/subscribe", &change("rooms.2")).await;
    assert_eq!((without.status, kind(&without)), (403, "access-denied"));
    let changed = page.post(&gateways[1], "/api/events/subscribe", &change("rooms.2")).await;
    assert_eq!(changed.status, 200, "{}", changed.body);
    assert_eq!(page.publish(fanout, "rooms.2").await.status, 200);
    stream.collect_until(PATIENCE, |block| block.data.as_deref() == Some("rooms.2")).await;
    // A browser sends cookies by itself, whoever's page asks.
    let nobody = Someone { headers: vec![("cookie", "session=ann".to_owned())] };
    assert_eq!(nobody.listen(&gateways[0], "rooms.3").await.status(), 403);
    assert_eq!(nobody.publish(fanout, "rooms.3").await.status, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_an_authoriser_does_but_answer_refuses_and_is_told_counted_and_logged() {
    let issuer = Issuer::new();
    let ways = [
        (Does::Down, "unreachable"),
        (Does::Silence, "late"),
        (Does::Status(500), "status"),
        (Does::Status(302), "status"),
        (Does::Endless, "oversized"),
        (Does::Page, "malformed"),
    ];
    let application = Application::start().await;
    let server = issuer.standalone(&application.config(""), &[]).await;
    let ann = Someone::with(&issuer.token("ann", &json!({})));
    for (way, outcome) in ways {
        application.now(way);
        let counter = format!("foghorn_auth_webhook_questions_total{{outcome=\"{outcome}\"}}");
        let before = metric(server.admin(), &counter).await;
        assert_eq!(told(ann.listen(&server, "rooms.1").await).await, "authoriser-unavailable", "{way:?}");
        for reply in [
            ann.get(&server, "/api/channels/rooms.1/events").await,
            ann.publish(&server, "rooms.1").await,
            ann.post(&server, "/api/events/ticket", &json!({ "channels": ["rooms.1"] })).await,
        ] {
            assert_eq!((reply.status, kind(&reply)), (503, "authoriser-unavailable"), "{way:?}");
            assert!(reply.headers.contains_key("retry-after"), "{way:?}");
        }
        let counted = metric(server.admin(), &counter).await - before;
        assert!((counted - 4.0).abs() < 0.1, "{way:?}: {counted}");
        // What needs nobody's word goes on.
        assert_eq!(ann.listen(&server, "members.a").await.status(), 200);
    }
    server.process().wait_for_log_line("the webhook authoriser grants nothing", PATIENCE).await;
    let log = server.process().log();
    let noted = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).find(|line| {
        line["target"] == "audit" && line["reason"] == "authoriser-unavailable" && line["subject"] == "ann"
    });
    assert!(noted.is_some_and(|line| line["action"] == "refused"), "{log}");
    assert!(!log.contains(&SECRET[6..]));
    // It refuses by a status, too; and when it is back, so is everything.
    application.now(Does::Status(403));
    assert_eq!(ann.publish(&server, "rooms.1").await.status, 403);
    application.now(Does::Decides { seconds: 60 });
    assert_eq!(ann.publish(&server, "rooms.1").await.status, 200);
    live(&mut ann.listen(&server, "rooms.1").await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_equal_questions_is_one_and_its_answer_holds() {
    let (issuer, application) = (Issuer::new(), Application::start().await);
    let server = issuer.standalone(&application.config(""), &[]).await;
    let ann = Someone::with(&issuer.token("ann", &json!({})));
    let streams = join_all((0..100).map(|_| ann.listen(&server, "rooms.1"))).await;
    assert!(streams.iter().all(|stream| stream.status() == 200));
    assert_eq!(application.asked("rooms.1"), 1);
    let events = vec![json!({ "channel": "rooms.1", "data": "x" }); 100];
    assert_eq!(ann.post(&server, "/api/publish", &json!(events)).await.status, 200);
    assert_eq!(application.asked("rooms.1"), 2, "publishing is another question");
    let refused = Someone::with(&issuer.token("bob", &json!({})));
    for _ in 0..10 {
        assert_eq!(refused.listen(&server, "rooms.1").await.status(), 403);
    }
    assert_eq!(application.asked("rooms.1"), 3, "a refusal holds as well");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_stream_goes_on_while_its_authoriser_agrees_and_ends_by_a_name_when_it_does_not() {
    let (issuer, application) = (Issuer::new(), Application::start().await);
    application.now(Does::Decides { seconds: 5 });
    let server = issuer.standalone(&application.config(""), &[]).await;
    let ann = Someone::with(&issuer.token("ann", &json!({})));
    let began = Instant::now();
    // Served by a reactor, and by a task; and one that the webhook has no say in.
    let mut alone = ann.listen(&server, "rooms.1").await;
    let connection = Http2::connect(&server.url("")).await.unwrap();
    let path = "/api/events?channels=rooms.1,rooms.2";
    let mut shared = connection.listen(path, &ann.headers()).await.unwrap();
    let claims = Someone::with(&issuer.token("ann", &json!({ "subscribe": ["rooms.1"] })));
    let mut others = claims.listen(&server, "rooms.1").await;
    for stream in [&mut alone, &mut shared, &mut others] {
        live(stream).await;
    }
    // Asked again before ten seconds are over, which is the least for streams.
    foghorn_tests::wait::until("another question", PATIENCE, async || {
        (application.asked("rooms.1") >= 2).then_some(())
    })
    .await;
    assert!(began.elapsed() > Duration::from_secs(6), "{:?}", began.elapsed());
    application.now(Does::Denies);
    for mut stream in [alone, shared] {
        let (blocks, end) = stream.collect_to_end(Duration::from_secs(30)).await;
        let last = blocks.last().unwrap();
        let said = (last.event_type(), &last.json()["reason"], end);
        assert_eq!(said, ("stream-end", &json!("access-withdrawn"), NoBlock::End), "{blocks:?}");
        assert!(last.id.is_some() && last.retry.is_some(), "{last:?}");
    }
    let lived = began.elapsed();
    assert!((Duration::from_secs(12)..Duration::from_secs(25)).contains(&lived), "{lived:?}");
    assert_eq!(ann.listen(&server, "rooms.1").await.status(), 403);

    application.now(Does::Decides { seconds: 5 });
    let mut stream = ann.listen(&server, "rooms.1").await;
    live(&mut stream).await;
    application.now(Does::Down);
    let (blocks, _) = stream.collect_to_end(Duration::from_secs(30)).await;
    assert_eq!(blocks.last().unwrap().json()["reason"], "authoriser-unavailable", "{blocks:?}");
    // Somebody whose claim covers it has heard of none of this.
    assert_eq!(claims.publish(&server, "open.a").await.status, 403);
    let publisher = Someone::with(&issuer.token("service", &json!({ "publish": ["rooms.1"] })));
    assert_eq!(publisher.publish(&server, "rooms.1").await.status, 200);
    others.collect_until(PATIENCE, |block| block.data.as_deref() == Some("rooms.1")).await;
}
