//! Each credential with each thing that can be asked: what is answered.

use foghorn_tests::http::{Reply, request};
use foghorn_tests::sse::SseClient;
use http::Method;
use serde_json::{Value, json};

use super::{Issuer, bearer, claims};
use crate::deployment::{CLOSED, Cluster, standalone};

/// Where the two kinds of requests go.
struct Servers {
    gateway: String,
    fanout: String,
}

#[derive(Debug, Clone, Copy)]
enum Action {
    Listen(&'static str),
    History(&'static str),
    Publish(&'static str),
    Presence(&'static str),
    Ticket(&'static str),
    Revoke,
    Stats,
}

use Action::{History, Listen, Presence, Publish, Revoke, Stats, Ticket};

/// How a credential comes.
#[derive(Debug, Clone, Copy)]
enum Carrier {
    Header,
    /// Of a page that may use the server.
    Cookie,
}

const ACTIONS: [Action; 17] = [
    Listen("open.a"),
    Listen("members.a"),
    Listen("members.*"),
    Listen("orders.1"),
    Listen("user.ann"),
    Listen("user.bob"),
    Listen("%3E"),
    History("open.a"),
    History("members.a"),
    History("user.bob"),
    Publish("orders.1"),
    Publish("open.a"),
    Presence("members.a"),
    Ticket("members.a"),
    Ticket("user.bob"),
    Revoke,
    Stats,
];

/// Of `[auth]`.
const COOKIE: &str = "cookie = \"session\"";

impl Servers {
    /// The status, and the problem where it is one.
    async fn ask(&self, action: Action, headers: &[(&str, &str)]) -> (u16, Value, bool) {
        let get = async |path: String| {
            request(Method::GET, &format!("{}{path}", self.gateway), headers, None).await.unwrap()
        };
        let post =
            async |url: String, body: Value| request(Method::POST, &url, headers, Some(&body)).await.unwrap();
        let reply: Reply = match action {
            Listen(channel) => {
                // The head alone: a stream has no end.
                let url = format!("{}/api/events?channels={channel}", self.gateway);
                let stream = SseClient::connect(&url, headers).await.unwrap();
                if stream.status() == 200 {
                    return (200, Value::Null, false);
                }
                get(format!("/api/events?channels={channel}")).await
            }
            History(channel) => get(format!("/api/channels/{channel}/events")).await,
            Presence(channel) => get(format!("/api/channels/{channel}/presence")).await,
            Stats => get("/api/events/stats".to_owned()).await,
            Publish(channel) => {
                let event = json!({ "channel": channel, "data": "x" });
                post(format!("{}/api/publish", self.fanout), event).await
            }
            Ticket(channel) => {
                let url = format!("{}/api/events/ticket", self.gateway);
                post(url, json!({ "channels": [channel] })).await
            }
            Revoke => {
                let url = format!("{}/api/admin/revoke", self.gateway);
                post(url, json!({ "subject": "nobody" })).await
            }
        };
        (reply.status, reply.body, reply.headers.contains_key("www-authenticate"))
    }

    async fn check(&self, name: &str, credential: Option<&str>, expected: [u16; 17]) {
        self.check_by(Carrier::Header, name, credential, expected).await;
    }

    async fn check_by(&self, carrier: Carrier, name: &str, credential: Option<&str>, expected: [u16; 17]) {
        let value = credential.map(|token| match carrier {
            Carrier::Header => bearer(token),
            Carrier::Cookie => format!("session={token}"),
        });
        let headers: Vec<_> = match (&value, carrier) {
            (None, _) => vec![],
            (Some(value), Carrier::Header) => vec![("authorization", value.as_str())],
            (Some(value), Carrier::Cookie) => vec![("cookie", value), ("origin", "https://app.example")],
        };
        for (action, expected) in ACTIONS.into_iter().zip(expected) {
            let (status, body, challenged) = self.ask(action, &headers).await;
            assert_eq!(status, expected, "{name}: {action:?}: {body}");
            let kind = body["type"].as_str().unwrap_or_default().rsplit('/').next().unwrap_or_default();
            match (status, credential) {
                (401, None) => {
                    assert_eq!((kind, challenged), ("unauthenticated", true), "{name}: {action:?}");
                }
                (401, Some(_)) => {
                    assert_eq!((kind, challenged), ("bad-credential", true), "{name}: {action:?}");
                }
                (403, _) => {
                    assert_eq!((kind, &body["title"]), ("access-denied", &json!("Access denied")), "{name}");
                    let named = match action {
                        Listen("%3E") => ">",
                        // Its body was not read.
                        Publish(_) if name != "publisher" => "any channel",
                        Listen(channel) | History(channel) | Publish(channel) | Presence(channel)
                        | Ticket(channel) => channel,
                        Stats | Revoke => "admin",
                    };
                    assert_eq!(body["channel"], named, "{name}: {action:?}: {body}");
                }
                _ => {}
            }
        }
    }
}

async fn check_all(issuer: &Issuer, servers: &Servers) {
    let of = |subject: &str, grants: Value| issuer.token(subject, &grants);
    let good = || claims("ann", 3600, &json!({ "subscribe": [">"], "publish": [">"], "role": "admin" }));
    let with = |name: &str, value: Value| {
        let mut claims = good();
        claims[name] = value;
        claims
    };
    let signed = |claims: &Value| issuer.ec.mint("ec", claims).unwrap();
    let public = std::fs::read(&issuer.public).unwrap();
    let confused =
        foghorn_auth::mint::SigningKey::new(foghorn_auth::config::Algorithm::HS256, &public).unwrap();
    let unsigned = {
        // {"alg":"none","kid":"ec"} before the claims of a good token.
        let token = signed(&good());
        let claims = token.split('.').nth(1).unwrap().to_owned();
        format!("eyJhbGciOiJub25lIiwia2lkIjoiZWMifQ.{claims}.")
    };
    let forged = {
        let (one, other) = (signed(&good()), of("bob", json!({})));
        let (head, _) = one.rsplit_once('.').unwrap();
        format!("{head}.{}", other.rsplit_once('.').unwrap().1)
    };
    servers
        .check(
            "nothing",
            None,
            [200, 401, 401, 401, 401, 401, 401, 200, 401, 401, 401, 401, 401, 401, 401, 401, 401],
        )
        .await;
    for (name, bad) in [
        ("garbage", "garbage".to_owned()),
        ("algorithm none", unsigned),
        ("the public key as a secret", confused.mint("ec", &good()).unwrap()),
        ("a good signature under another key's name", issuer.mac.mint("ec", &good()).unwrap()),
        ("an unknown kid", issuer.mac.mint("other", &good()).unwrap()),
        ("no kid", issuer.mac.mint("", &good()).unwrap()),
        ("another token's signature", forged),
        ("expired", signed(&with("exp", json!(super::now() - 1)))),
        ("never ending", signed(&with("exp", Value::Null))),
        ("not yet valid", signed(&with("nbf", json!(super::now() + 60)))),
        ("wrong audience", signed(&with("aud", json!("others")))),
        ("wrong issuer", signed(&with("iss", json!("https://evil.example")))),
        ("without a subject", signed(&with("sub", json!("")))),
        ("with a mistyped claim", signed(&with("foghorn", json!({ "subcribe": [] })))),
        ("oversized", signed(&with("padding", json!("x".repeat(9000))))),
    ] {
        servers.check(name, Some(&bad), [401; 17]).await;
    }
    let subscribe = |patterns: &[&str]| json!({ "subscribe": patterns });
    for (name, token, expected) in [
        (
            "plain",
            of("ann", json!({})),
            [200, 200, 403, 200, 200, 403, 403, 200, 200, 403, 403, 403, 404, 200, 403, 403, 403],
        ),
        (
            "reader",
            of("ann", subscribe(&["members.*", "orders.>"])),
            [200, 200, 200, 200, 200, 403, 403, 200, 200, 403, 403, 403, 404, 200, 403, 403, 403],
        ),
        (
            "narrow",
            of("ann", subscribe(&["orders.>"])),
            [200, 403, 403, 200, 200, 403, 403, 200, 403, 403, 403, 403, 403, 403, 403, 403, 403],
        ),
        (
            "reads everything that has no owner",
            of("root", subscribe(&[">"])),
            [200, 200, 200, 200, 403, 403, 403, 200, 200, 403, 403, 403, 404, 200, 403, 403, 403],
        ),
        (
            "named like a pattern",
            of(">", subscribe(&["user.>"])),
            [200, 403, 403, 403, 403, 403, 403, 200, 403, 403, 403, 403, 403, 403, 403, 403, 403],
        ),
        (
            "publisher",
            of("shop", json!({ "publish": ["orders.>"] })),
            [200, 200, 403, 200, 403, 403, 403, 200, 200, 403, 200, 403, 404, 200, 403, 403, 403],
        ),
        (
            "operator",
            of("op", json!({ "role": "admin" })),
            [200, 200, 403, 200, 403, 403, 403, 200, 200, 403, 403, 403, 404, 200, 403, 200, 200],
        ),
        (
            "by the other key",
            issuer.mac.mint("mac", &claims("ann", 60, &json!({}))).unwrap(),
            [200, 200, 403, 200, 200, 403, 403, 200, 200, 403, 403, 403, 404, 200, 403, 403, 403],
        ),
    ] {
        for carrier in [Carrier::Header, Carrier::Cookie] {
            servers.check_by(carrier, name, Some(&token), expected).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn standalone_answers_each_credential_as_the_table_says() {
    let issuer = Issuer::new();
    let process = issuer.standalone(COOKIE, &[]).await;
    check_all(&issuer, &Servers { gateway: process.url(""), fanout: process.url("") }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_answers_each_credential_as_the_table_says() {
    let issuer = Issuer::new();
    let cluster = Cluster::start_closed(&issuer.config(COOKIE)).await;
    cluster.ready().await;
    let servers = Servers { gateway: cluster.gateways[0].url(""), fanout: cluster.fanouts[1].url("") };
    check_all(&issuer, &servers).await;
    super::doors::check(&issuer, &cluster).await;
    super::cors::check(&issuer, &cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_knows_no_keys_lets_nobody_publish_and_only_what_is_public_be_heard() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("foghorn.toml");
    std::fs::write(&config, super::POLICIES).unwrap();
    let cluster = Cluster::start_closed(config.to_str().unwrap()).await;
    cluster.ready().await;
    let servers = Servers { gateway: cluster.gateways[0].url(""), fanout: cluster.fanouts[0].url("") };
    servers
        .check(
            "nothing",
            None,
            [200, 401, 401, 401, 401, 401, 401, 200, 401, 401, 401, 401, 401, 401, 401, 401, 401],
        )
        .await;
    let token = Issuer::new().token("ann", &json!({ "subscribe": [">"], "publish": [">"] }));
    servers.check("a token of nobody's", Some(&token), [401; 17]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn standalone_without_keys_asks_nobody_on_this_machine() {
    let process = standalone(&["--ephemeral"], &[CLOSED]).await;
    let servers = Servers { gateway: process.url(""), fanout: process.url("") };
    let mut all = [200; 17];
    all[12] = 404;
    servers.check("nothing", None, all).await;
    // What a proxy sends along is not for us.
    servers.check("anything", Some("whatever"), all).await;
}
