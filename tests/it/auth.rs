//! Who may listen and who may publish, on the real servers: credentials, policies and what is asked, each with each.

mod audit;
mod between;
mod console;
mod cors;
mod doors;
mod jwks;
mod limits;
mod matrix;
mod notifications;
mod policies;
mod presence;
mod presence_events;
mod reloads;
mod revocation;
mod streams;
mod subscribe;
mod tickets;
mod tokens;
mod users;
mod webhook;

use std::path::PathBuf;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use foghorn_auth::config::Algorithm;
use foghorn_auth::mint::SigningKey;
use foghorn_tests::PATIENCE;
use foghorn_tests::collector::Collector;
use foghorn_tests::foghorn::Foghorn;
use foghorn_tests::http::request;
use foghorn_tests::sse::{NoBlock, SseClient};
use http::Method;
use serde_json::{Value, json};

use crate::deployment::{CLOSED, standalone};

const SECRET: &str = "a secret of tests, long enough for HS256";

/// The configuration beside keys.
const POLICIES: &str = r#"
[http]
origins = ["https://app.example", "https://*.pages.example"]

[[policy]]
pattern = "open.>"
access = "public"

[[policy]]
pattern = "members.>"
access = "authenticated"

[[policy]]
pattern = "user.*"
access = "owner"
"#;

/// The variables with which a server traces every event, for a collector.
fn traced(endpoint: &str) -> [(&'static str, &str); 2] {
    [("FOGHORN_TELEMETRY_TRACES_ENDPOINT", endpoint), ("FOGHORN_TELEMETRY_TRACES_SAMPLE", "1")]
}

/// What a collector has been told of all that a server did until now. The token may publish on the channel.
async fn all_traces(collector: &Collector, server: &Foghorn, token: &str, channel: &str) -> String {
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let (authorization, parent) = (bearer(token), format!("00-{trace}-00f067aa0ba902b7-01"));
    let headers = [("authorization", authorization.as_str()), ("traceparent", &parent)];
    let event = json!({ "channel": channel, "data": "the last" });
    let reply = request(Method::POST, &server.url("/api/publish"), &headers, Some(&event)).await.unwrap();
    assert_eq!(reply.status, 200, "{}", reply.body);
    // Spans are sent in the order in which they ended.
    collector
        .spans_until("the last event's", |spans| {
            spans.iter().any(|span| span.trace == trace && span.name == "gateway")
        })
        .await;
    collector.log()
}

/// Whether a stream is live; else it has to be one that is told why it is not and to come back so many milliseconds
/// later or more, and nothing else.
async fn is_live_or_told(stream: &mut SseClient, reason: &str, retry_ms: u64) -> bool {
    assert_eq!(stream.status(), 200);
    let blocks = stream
        .collect_until(PATIENCE, |block| ["stream-live", "stream-end"].contains(&block.event_type()))
        .await;
    let last = blocks.last().unwrap();
    if last.event_type() == "stream-live" {
        return true;
    }
    assert_eq!((last.json()["reason"].clone(), blocks.len()), (json!(reason), 1), "{blocks:?}");
    assert!(last.retry.is_some_and(|wait| wait >= retry_ms), "{last:?}");
    assert!(matches!(stream.next_within(PATIENCE).await, Err(NoBlock::End)));
    false
}

/// Keys and the configuration that knows them: an HMAC secret as `mac`, a pair on P-256 as `ec`.
struct Issuer {
    folder: tempfile::TempDir,
    mac: SigningKey,
    ec: SigningKey,
    /// The public half of `ec`, in PEM.
    public: PathBuf,
}

impl Issuer {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let (private, public) = (at("private.pem"), at("public.pem"));
        let openssl = |arguments: &str| {
            let output = Command::new("openssl").args(arguments.split(' ')).output().unwrap();
            assert!(output.status.success(), "{output:?}");
        };
        openssl(&format!(
            "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out {}",
            private.display()
        ));
        openssl(&format!("pkey -pubout -in {} -out {}", private.display(), public.display()));
        let mac = SigningKey::new(Algorithm::HS256, SECRET.as_bytes()).unwrap();
        let ec = SigningKey::new(Algorithm::ES256, &std::fs::read(private).unwrap()).unwrap();
        Issuer { folder, mac, ec, public }
    }

    /// A configuration file with the keys, the policies, and `more` of `[auth]`.
    fn config(&self, more: &str) -> String {
        let path = self.folder.path().join("foghorn.toml");
        let text = format!(
            "[auth]\nissuer = \"https://issuer.example\"\naudience = \"foghorn\"\nleeway = \"0s\"\n{more}\n\
             [[auth.keys]]\nid = \"mac\"\nalgorithm = \"HS256\"\nsecret = \"{SECRET}\"\n\
             [[auth.keys]]\nid = \"ec\"\nalgorithm = \"ES256\"\nfile = \"{}\"\n{POLICIES}",
            self.public.display()
        );
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    /// A standalone server that knows the keys.
    async fn standalone(&self, more: &str, environment: &[(&str, &str)]) -> Foghorn {
        let arguments = ["--ephemeral", "--config", &self.config(more)];
        standalone(&arguments, &[&[CLOSED], environment].concat()).await
    }

    /// A good token of a subject, for an hour.
    fn token(&self, subject: &str, grants: &Value) -> String {
        self.ec.mint("ec", &claims(subject, 3600, grants)).unwrap()
    }
}

/// Good claims, for so many seconds from now.
fn claims(subject: &str, seconds: i64, grants: &Value) -> Value {
    json!({
        "sub": subject, "iss": "https://issuer.example", "aud": "foghorn", "exp": now() + seconds,
        "foghorn": grants,
    })
}

fn now() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap()
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}
