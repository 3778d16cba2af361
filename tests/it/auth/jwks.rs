//! Keys by URL, of an issuer that misbehaves on command.

mod listeners;

use std::future::ready;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use foghorn_tests::PATIENCE;
use foghorn_tests::foghorn::Foghorn;
use foghorn_tests::http::{Reply, metric, request};
use foghorn_tests::sse::{NoBlock, SseClient};
use foghorn_tests::tls;
use foghorn_tests::wait::until;
use futures::future::join_all;
use http::Method;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::{Issuer, POLICIES, bearer, claims};
use crate::deployment::{CLOSED, standalone};

/// What the issuer answers.
#[derive(Debug, Clone)]
enum Answers {
    /// A set of these keys.
    Keys(Vec<Value>),
    /// Nothing: it closes the connection.
    Down,
    /// Nothing, and keeps the connection open.
    Silence,
    /// A body without end.
    Endless,
    /// A page.
    Page,
    /// That the keys are elsewhere.
    Redirect(String),
}

/// An issuer's server.
struct Published {
    url: String,
    answers: Arc<Mutex<Answers>>,
    /// How often it was asked.
    asked: Arc<AtomicUsize>,
    folder: tempfile::TempDir,
}

impl Published {
    async fn start(answers: Answers) -> Self {
        Published::spoken("http", answers, |stream| ready(Ok(stream))).await
    }

    /// The same over TLS, with the certificate of every server here.
    async fn over_tls(answers: Answers) -> Self {
        let acceptor = tls::acceptor();
        Published::spoken("https", answers, move |stream| acceptor.accept(stream)).await
    }

    async fn spoken<S: AsyncRead + AsyncWrite + Send + Unpin + 'static, F>(
        scheme: &str,
        answers: Answers,
        speak: impl Fn(TcpStream) -> F + Send + 'static,
    ) -> Self
    where
        F: Future<Output = std::io::Result<S>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("{scheme}://{}/jwks.json", listener.local_addr().unwrap());
        let (answers, asked) = (Arc::new(Mutex::new(answers)), Arc::new(AtomicUsize::new(0)));
        let (current, count) = (answers.clone(), asked.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let (spoken, answers) = (speak(stream), current.lock().clone());
                tokio::spawn(async move { answer(spoken.await?, answers).await });
            }
        });
        Published { url, answers, asked, folder: tempfile::tempdir().unwrap() }
    }

    fn now(&self, answers: Answers) {
        *self.answers.lock() = answers;
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    /// A server that has its keys from here only.
    async fn standalone(&self) -> Foghorn {
        let path = self.folder.path().join("foghorn.toml");
        let text = format!(
            "[auth]\nissuer = \"https://issuer.example\"\naudience = \"foghorn\"\n\
             [[auth.jwks]]\nurl = \"{}\"\nalgorithms = [\"ES256\"]\n{POLICIES}",
            self.url
        );
        std::fs::write(&path, text).unwrap();
        standalone(&["--ephemeral", "--config", &path.display().to_string()], &[CLOSED]).await
    }
}

/// Reads a request, and answers it so.
async fn answer<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, answers: Answers) -> std::io::Result<()> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).await? == 1 {
        head.push(byte[0]);
    }
    let ok = |body: &str| {
        let length = body.len();
        format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}")
    };
    match answers {
        Answers::Keys(keys) => stream.write_all(ok(&json!({ "keys": keys }).to_string()).as_bytes()).await,
        Answers::Page => stream.write_all(ok("<html>It works!</html>").as_bytes()).await,
        Answers::Redirect(elsewhere) => {
            let moved = format!("HTTP/1.1 302 Found\r\nLocation: {elsewhere}\r\nContent-Length: 0\r\n\r\n");
            stream.write_all(moved.as_bytes()).await
        }
        Answers::Down => Ok(()),
        Answers::Silence => {
            tokio::time::sleep(Duration::from_secs(60)).await;
            Ok(())
        }
        Answers::Endless => {
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n{\"keys\": [").await?;
            loop {
                stream.write_all(&[b' '; 4096]).await?;
            }
        }
    }
}

/// The public half of an issuer's pair, as a set has it.
fn jwk(public: &Path, kid: &str) -> Value {
    let der = Command::new("openssl")
        .args(["pkey", "-pubin", "-outform", "DER", "-in"])
        .arg(public)
        .output()
        .unwrap()
        .stdout;
    let point = &der[der.len() - 64..];
    let (x, y) = (URL_SAFE_NO_PAD.encode(&point[..32]), URL_SAFE_NO_PAD.encode(&point[32..]));
    json!({ "kid": kid, "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "x": x, "y": y })
}

fn token(issuer: &Issuer, kid: &str) -> String {
    issuer.ec.mint(kid, &claims("ann", 3600, &json!({ "publish": ["members.>"] }))).unwrap()
}

async fn history(server: &Foghorn, token: &str) -> Reply {
    let url = server.url("/api/channels/members.a/events");
    request(Method::GET, &url, &[("authorization", &bearer(token))], None).await.unwrap()
}

async fn publish(server: &Foghorn, token: &str, data: &str) -> Reply {
    let event = json!({ "channel": "members.a", "data": data });
    let url = server.url("/api/publish");
    request(Method::POST, &url, &[("authorization", &bearer(token))], Some(&event)).await.unwrap()
}

async fn listen(server: &Foghorn, token: &str) -> SseClient {
    let url = server.url("/api/events?channels=members.a");
    SseClient::connect(&url, &[("authorization", &bearer(token))]).await.unwrap()
}

fn kind(reply: &Reply) -> &str {
    reply.body["type"].as_str().unwrap_or_default().rsplit('/').next().unwrap_or_default()
}

/// The stream hears this.
async fn hears(stream: &mut SseClient, data: &str) {
    stream.collect_until(PATIENCE, |block| block.data.as_deref() == Some(data)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_is_taken_in_at_once_and_a_removed_key_opens_nothing() {
    let (old, new) = (Issuer::new(), Issuer::new());
    let published = Published::start(Answers::Keys(vec![jwk(&old.public, "old")])).await;
    let server = published.standalone().await;
    let (before, after) = (token(&old, "old"), token(&new, "new"));
    assert_eq!(history(&server, &before).await.status, 200);
    let mut stream = listen(&server, &before).await;
    stream.collect_until(PATIENCE, |block| block.event_type() == "stream-live").await;

    published.now(Answers::Keys(vec![jwk(&new.public, "new")]));
    assert_eq!(history(&server, &before).await.status, 200, "nobody has looked yet");
    // All at once: whoever comes first is answered as well as the last.
    let answers = join_all((0..20).map(|_| history(&server, &after))).await;
    assert!(answers.iter().all(|answer| answer.status == 200), "{answers:?}");
    assert_eq!(published.asked(), 2, "one fetch for all of them");
    let refused = history(&server, &before).await;
    assert_eq!((refused.status, kind(&refused)), (401, "bad-credential"));
    // What was opened before goes on until its token ends.
    assert_eq!(publish(&server, &after, "rotated").await.status, 200);
    hears(&mut stream, "rotated").await;
    // The new key's token under the old one's name.
    let confused = token(&new, "old");
    assert_ne!(history(&server, &confused).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn invented_ids_cost_an_issuer_nothing_and_its_outage_nobody() {
    let issuer = Issuer::new();
    let published = Published::start(Answers::Keys(vec![jwk(&issuer.public, "k")])).await;
    let server = published.standalone().await;
    let good = token(&issuer, "k");
    assert_eq!(history(&server, &good).await.status, 200);
    let mut stream = listen(&server, &good).await;
    stream.collect_until(PATIENCE, |block| block.event_type() == "stream-live").await;

    let invented = token(&issuer, "invented");
    let refused = history(&server, &invented).await;
    assert_eq!((refused.status, kind(&refused)), (401, "bad-credential"), "a fetch didn't bring it");
    for n in 0..200 {
        let refused = history(&server, &token(&issuer, &format!("invented-{n}"))).await;
        assert_eq!((refused.status, kind(&refused)), (503, "keys-unavailable"));
        assert!(refused.headers.contains_key("retry-after"));
    }
    assert_eq!(published.asked(), 2, "at the start, and for the first invented id");
    let none = token(&issuer, "");
    assert_eq!(history(&server, &none).await.status, 401, "without an id there is nothing to wait for");

    published.now(Answers::Down);
    let url = server.url("/api/events?channels=members.a");
    let unknown = bearer(&token(&issuer, "unknown"));
    let mut refused = SseClient::connect(&url, &[("authorization", &unknown)]).await.unwrap();
    assert_eq!(refused.status(), 200, "a browser would never come back after another");
    let (blocks, end) = refused.collect_to_end(PATIENCE).await;
    let last = blocks.last().unwrap();
    let said = (last.event_type(), last.json()["reason"].clone(), end);
    assert_eq!(said, ("stream-end", json!("credential-unavailable"), NoBlock::End), "{blocks:?}");
    assert!(blocks.iter().any(|block| block.retry.is_some()), "{blocks:?}");
    assert_eq!(publish(&server, &good, "outage").await.status, 200);
    hears(&mut stream, "outage").await;
    assert_eq!(listen(&server, &good).await.status(), 200);
    let keys = metric(server.admin(), "foghorn_auth_jwks_keys").await;
    assert!((keys - 1.0).abs() < 0.1, "{keys}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_starts_without_its_issuer_refuses_nothing_for_good_and_serves_when_it_is_back() {
    let issuer = Issuer::new();
    let (key, good) = (jwk(&issuer.public, "k"), token(&issuer, "k"));
    let elsewhere = Published::start(Answers::Keys(vec![key.clone()])).await;
    let ways = [
        Answers::Down,
        Answers::Silence,
        Answers::Endless,
        Answers::Page,
        Answers::Redirect(elsewhere.url.clone()),
        Answers::Keys(Vec::new()),
    ];
    join_all(ways.into_iter().map(async |way| {
        let published = Published::start(way.clone()).await;
        let server = published.standalone().await;
        let refused = history(&server, &good).await;
        assert_eq!((refused.status, kind(&refused)), (503, "keys-unavailable"), "{way:?}");
        let refused = publish(&server, &good, "x").await;
        assert_eq!((refused.status, kind(&refused)), (503, "keys-unavailable"), "{way:?}");
        assert_eq!(listen(&server, &good).await.status(), 200, "{way:?}");
        published.now(Answers::Keys(vec![key.clone()]));
        until(&format!("the keys after {way:?}"), PATIENCE, async || {
            let answer = history(&server, &good).await;
            assert_ne!(answer.status, 401, "{way:?}");
            (answer.status == 200).then_some(())
        })
        .await;
    }))
    .await;
}
