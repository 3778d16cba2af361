//! A thousand listeners of a cluster while their issuer, over TLS, exchanges its keys and goes down, tokens end, and a
//! subject's are revoked.

use std::time::{Duration, Instant};

use foghorn_tests::PATIENCE;
use foghorn_tests::foghorn::Foghorn;
use foghorn_tests::http::request;
use foghorn_tests::sse::{Block, NoBlock, SseClient};
use foghorn_tests::tls;
use futures::future::join_all;
use http::Method;
use serde_json::json;
use tokio::task::JoinSet;

use super::super::{Issuer, POLICIES, bearer, claims, now};
use super::{Answers, Published, jwk, publish};
use crate::deployment::Cluster;

/// Of each kind: those that stay, those that come back again and again, those whose token ends, and those whose
/// subject is revoked.
const EACH: usize = 250;
/// How soon after its token's end, or after the answer to a revocation, a stream is over: on a machine that has a
/// thousand of them to end at once.
const SOON: Duration = Duration::from_secs(2);

const EVENTS: &str = "/api/events?channels=members.a";

impl Published {
    /// A cluster that has its keys from here only, and trusts the authority of this certificate.
    async fn cluster(&self) -> Cluster {
        let ca = self.folder.path().join("ca.pem");
        std::fs::write(&ca, tls::certificate_pem()).unwrap();
        let path = self.folder.path().join("foghorn.toml");
        let text = format!(
            "[auth]\nissuer = \"https://issuer.example\"\naudience = \"foghorn\"\nleeway = \"0s\"\n\
             [[auth.jwks]]\nurl = \"{}\"\nca = \"{}\"\nalgorithms = [\"ES256\"]\n{POLICIES}",
            self.url,
            ca.display()
        );
        std::fs::write(&path, text).unwrap();
        let cluster = Cluster::start_closed(&path.display().to_string()).await;
        cluster.ready().await;
        cluster
    }
}

/// A listener, who goes on where it was whatever happens.
struct Listener {
    token: String,
    stream: SseClient,
    heard: Vec<String>,
}

impl Listener {
    /// Connected, and level.
    async fn new(gateway: &Foghorn, token: String) -> Self {
        let stream = open(gateway, &token, None).await;
        let mut listener = Listener { token, stream, heard: Vec::new() };
        listener.take_until(|block| block.event_type() == "stream-live").await;
        listener
    }

    /// Goes to this gateway, with this token, from where it is.
    async fn back(&mut self, gateway: &Foghorn, token: &str) {
        self.token = token.to_owned();
        let at = self.stream.last_event_id().to_owned();
        self.stream = open(gateway, token, Some(&at)).await;
        self.take_until(|block| block.event_type() == "stream-live").await;
    }

    async fn hears(&mut self, data: &str) {
        self.take_until(|block| block.data.as_deref() == Some(data)).await;
    }

    async fn take_until(&mut self, last: impl FnMut(&Block) -> bool) {
        let blocks = self.stream.collect_until(PATIENCE, last).await;
        assert!(blocks.iter().all(|block| block.event_type() != "stream-reset"), "{blocks:?}");
        self.heard.extend(published(blocks));
    }

    /// Its stream ends for this reason; gives when.
    async fn ends(mut self, reason: &str) -> Instant {
        let (blocks, end) = self.stream.collect_to_end(PATIENCE).await;
        let ended = Instant::now();
        let last = blocks.last().unwrap();
        let said = (last.event_type(), last.json()["reason"].clone(), end);
        assert_eq!(said, ("stream-end", json!(reason), NoBlock::End), "{blocks:?}");
        ended
    }
}

fn published(blocks: Vec<Block>) -> impl Iterator<Item = String> {
    let events = blocks.into_iter().filter(|block| block.event_type() == "message" && block.is_event());
    events.filter_map(|block| block.data)
}

/// A stream. It is never refused: all tokens here are good.
async fn open(gateway: &Foghorn, token: &str, after: Option<&str>) -> SseClient {
    let authorization = bearer(token);
    let mut headers = vec![("authorization", authorization.as_str())];
    headers.extend(after.map(|id| ("last-event-id", id)));
    let stream = SseClient::connect(&gateway.url(EVENTS), &headers).await.unwrap();
    assert_eq!(stream.status(), 200);
    stream
}

/// All listeners do it, at once.
async fn all<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
    listeners: Vec<Listener>,
    doing: impl Fn(usize, Listener) -> F,
) -> Vec<T> {
    let mut tasks = JoinSet::new();
    for (number, listener) in listeners.into_iter().enumerate() {
        tasks.spawn(doing(number, listener));
    }
    tasks.join_all().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_listeners_outlive_a_rotation_and_an_outage_and_end_with_their_tokens_alone() {
    let (old, new) = (Issuer::new(), Issuer::new());
    let published = Published::over_tls(Answers::Keys(vec![jwk(&old.public, "old")])).await;
    let cluster = published.cluster().await;
    let services = cluster.gateways.len() + cluster.fanouts.len();
    let gateways: &'static [Foghorn] = Vec::leak(cluster.gateways);
    let mint = |issuer: &Issuer, kid: &str, subject: &str, seconds: i64| {
        let mut claims = claims(subject, seconds, &json!({ "publish": ["members.>"] }));
        claims["iat"] = json!(now() - 1);
        issuer.ec.mint(kid, &claims).unwrap()
    };
    let fanout = &cluster.fanouts[0];
    let service = mint(&old, "old", "service", 3600);
    let connect = async |kind: &str, seconds: i64| {
        let listeners = (0..EACH).map(|number| {
            let token = mint(&old, "old", &format!("{kind}-{number}"), seconds);
            tokio::spawn(Listener::new(&gateways[number % gateways.len()], token))
        });
        join_all(listeners).await.into_iter().map(Result::unwrap).collect::<Vec<_>>()
    };
    let (staying, returning) = (connect("stay", 3600).await, connect("return", 3600).await);
    let revoked: Vec<_> = (0..EACH)
        .map(|number| {
            let token = mint(&old, "old", "mallory", 3600);
            tokio::spawn(Listener::new(&gateways[number % gateways.len()], token))
        })
        .collect();
    let revoked: Vec<_> = join_all(revoked).await.into_iter().map(Result::unwrap).collect();
    let (life, connected) = (20, Instant::now());
    let ending = connect("end", life).await;
    assert_eq!(publish(fanout, &service, "all are here").await.status, 200);

    // A rotation: all who come back do so with a token that nobody has seen the key of.
    published.now(Answers::Keys(vec![jwk(&old.public, "old"), jwk(&new.public, "new")]));
    let before = published.asked();
    let fresh: Vec<_> =
        (0..EACH).map(|number| mint(&new, "new", &format!("return-{number}"), 3600)).collect();
    let with_fresh = fresh.clone();
    let returning = all(returning, move |number, mut listener: Listener| {
        let token = with_fresh[number].clone();
        async move {
            listener.hears("all are here").await;
            listener.back(&gateways[(number + 1) % gateways.len()], &token).await;
            (number, listener)
        }
    })
    .await;
    assert_eq!(published.asked() - before, gateways.len(), "one fetch a gateway for all of them");
    assert_eq!(publish(fanout, &service, "rotated").await.status, 200);

    // The issuer is down, and whoever comes back is known, by the old key or by the new one.
    published.now(Answers::Down);
    let asked = published.asked();
    let returning = join_all(returning.into_iter().map(|(number, mut listener)| {
        let token = if number % 2 == 0 { fresh[number].clone() } else { listener.token.clone() };
        tokio::spawn(async move {
            listener.hears("rotated").await;
            listener.back(&gateways[number % gateways.len()], &token).await;
            listener
        })
    }))
    .await;
    let returning: Vec<_> = returning.into_iter().map(Result::unwrap).collect();
    assert!(published.asked() - asked <= services, "what is known is not asked for");
    assert_eq!(publish(fanout, &service, "down").await.status, 200);

    // A subject is revoked, and nobody else.
    let admin = old.ec.mint("old", &claims("op", 3600, &json!({ "role": "admin" }))).unwrap();
    let said = Instant::now();
    let (url, admin) = (gateways[0].url("/api/admin/revoke"), bearer(&admin));
    let (admin, mallory) = ([("authorization", admin.as_str())], json!({ "subject": "mallory" }));
    assert_eq!(request(Method::POST, &url, &admin, Some(&mallory)).await.unwrap().status, 200);
    for ended in all(revoked, |_, listener| listener.ends("revoked")).await {
        assert!(ended - said < SOON, "{:?}", ended - said);
    }

    // Tokens end, and with them their streams: no sooner, and soon.
    for ended in all(ending, |_, listener| listener.ends("token-expired")).await {
        let lived = ended - connected;
        let life = Duration::from_secs(life.unsigned_abs());
        assert!(lived + Duration::from_secs(1) >= life, "{lived:?}");
        assert!(lived <= life + SOON, "{lived:?}");
    }

    assert_eq!(publish(fanout, &service, "end").await.status, 200);
    let stayed = all(staying.into_iter().chain(returning).collect(), |_, mut listener: Listener| async {
        listener.hears("end").await;
        listener.heard
    });
    for heard in stayed.await {
        assert_eq!(heard, ["all are here", "rotated", "down", "end"]);
    }
}
