//! The operator: the real process and a real NATS, between them a Kubernetes API server by script.

use std::time::{Duration, Instant};

use foghorn_bus::policies::Document;
use foghorn_tests::PATIENCE;
use foghorn_tests::foghorn::Foghorn;
use foghorn_tests::http::metric;
use foghorn_tests::kubernetes::ApiServer;
use foghorn_tests::nats::NatsServer;
use foghorn_tests::wait::until;
use nix::sys::signal::Signal;
use serde_json::json;

use crate::deployment::wait_ready;

const LEASE: &str = "foghorn-operator";
/// How soon what is applied is written for services, who look twice a second.
const SOON: Duration = Duration::from_secs(1);

struct Rig {
    api: ApiServer,
    nats: NatsServer,
    kubeconfig: String,
    _folder: tempfile::TempDir,
}

impl Rig {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (api, nats) = tokio::join!(ApiServer::start(), NatsServer::start());
        Rig { kubeconfig: api.kubeconfig(folder.path()), api, nats, _folder: folder }
    }

    async fn operator(&self) -> Foghorn {
        let environment =
            [("KUBECONFIG", self.kubeconfig.as_str()), ("FOGHORN_OPERATOR_LEASE_DURATION", "2s")];
        let url = self.nats.url();
        let arguments = ["operator", "--admin", "127.0.0.1:0", "--nats", &url];
        let operator = Foghorn::spawn(&arguments, &environment).await;
        wait_ready(operator.admin()).await;
        operator
    }

    /// The document that services read, and its revision.
    async fn document(&self) -> Option<(u64, Document)> {
        let context = async_nats::jetstream::new(async_nats::connect(self.nats.url()).await.ok()?);
        let entry = context.get_key_value("FOGHORN_policies").await.ok()?.entry("policies").await.ok()??;
        Some((entry.revision, Document::read(&entry.value).ok()?))
    }

    /// Waits until services are given policies for these patterns and no others.
    async fn given(&self, patterns: &[&str]) {
        until(&format!("{patterns:?} to be published"), PATIENCE, async || {
            let (_, document) = self.document().await?;
            let given: Vec<_> = document.policies().iter().map(|policy| policy.pattern.to_string()).collect();
            (given == patterns).then_some(())
        })
        .await;
    }

    /// Waits until a condition of an object, as it is now, has this status and reason; its message.
    async fn said(&self, name: &str, kind: &str, status: &str, reason: &str) -> String {
        until(&format!("{name} to be {kind}={status}, {reason}"), PATIENCE, async || {
            let (found, why, message) = self.api.condition(name, kind)?;
            (found == status && why == reason).then_some(message)
        })
        .await
    }
}

async fn leads(operator: &Foghorn) -> bool {
    metric(operator.admin(), "foghorn_operator_leader ").await > 0.5
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_become_what_services_read_and_each_is_told_what_became_of_it() {
    let rig = Rig::new().await;
    rig.api.apply("old", 1, &json!({ "patterns": ["orders.>"], "access": "public" }));
    rig.api.apply("young", 2, &json!({ "patterns": ["orders.>", "news"] }));
    rig.api.apply("wrong", 3, &json!({ "patterns": ["a"], "retention": { "age": "1s" } }));
    rig.api.apply("unread", 3, &json!({ "patterns": 7 }));
    let operator = rig.operator().await;
    rig.given(&["orders.>"]).await;
    let message = rig.said("old", "Accepted", "True", "Conflict").await;
    assert!(message.contains("not those of young"), "{message}");
    rig.said("old", "Published", "True", "Published").await;
    let message = rig.said("young", "Accepted", "False", "Conflict").await;
    assert!(message.contains("orders.> is in the older old too"), "{message}");
    rig.said("young", "Published", "False", "NotAccepted").await;
    let message = rig.said("wrong", "Accepted", "False", "Invalid").await;
    assert!(message.contains("between 1 minute and 10 years"), "{message}");
    let message = rig.said("unread", "Accepted", "False", "Invalid").await;
    assert!(message.contains("spec"), "{message}");
    let counted = metric(operator.admin(), "foghorn_operator_objects{verdict=\"invalid\"}").await;
    assert!((counted - 2.0).abs() < 0.1, "{counted}");

    // Changes are there at once, and what nothing changes isn't written again.
    let changed = Instant::now();
    rig.api.apply("wrong", 3, &json!({ "patterns": ["a"], "retention": { "age": "1h" } }));
    rig.given(&["a", "orders.>"]).await;
    assert!(changed.elapsed() < SOON, "{:?}", changed.elapsed());
    rig.said("wrong", "Accepted", "True", "Accepted").await;
    rig.api.delete("old");
    rig.given(&["a", "news", "orders.>"]).await;
    rig.said("young", "Accepted", "True", "Accepted").await;
    // An edit that is wrong opens nothing: what held goes on.
    let (revision, before) = rig.document().await.unwrap();
    rig.api.apply("wrong", 3, &json!({ "patterns": ["a"], "retention": { "age": "1s" } }));
    rig.said("wrong", "Accepted", "False", "Invalid").await;
    assert_eq!(rig.document().await.unwrap(), (revision, before));
    // Without any object there is none: what services are configured with holds.
    for name in ["young", "wrong", "unread"] {
        rig.api.delete(name);
    }
    until("the document to be withdrawn", PATIENCE, async || rig.document().await.is_none().then_some(()))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_operators_one_leads_and_the_other_takes_over_when_it_dies_stops_or_is_deposed() {
    let rig = Rig::new().await;
    rig.api.apply("one", 1, &json!({ "patterns": ["one"] }));
    let mut first = rig.operator().await;
    until("the first to lead", PATIENCE, async || leads(&first).await.then_some(())).await;
    let second = rig.operator().await;
    rig.given(&["one"]).await;
    assert!(!leads(&second).await);
    // Killed: its lease has to run out.
    first.kill();
    rig.api.apply("two", 2, &json!({ "patterns": ["two"] }));
    rig.given(&["one", "two"]).await;
    assert!(leads(&second).await);
    // Somebody else holds it: it leads no more, and takes over when that one is silent.
    rig.api.give_lease(LEASE, "somebody");
    until("it to be deposed", PATIENCE, async || (!leads(&second).await).then_some(())).await;
    until("it to lead again", PATIENCE, async || leads(&second).await.then_some(())).await;
    assert_ne!(rig.api.holder(LEASE).unwrap(), "somebody");
    // Stopped: it gives the lease up.
    second.sigterm();
    assert!(second.wait(PATIENCE).await.success());
    assert_eq!(rig.api.holder(LEASE).unwrap(), "");
    // Stopped for longer than the lease lasts, one leads no more when it wakes.
    let third = rig.operator().await;
    until("the third to lead", PATIENCE, async || leads(&third).await.then_some(())).await;
    let fourth = rig.operator().await;
    third.signal(Signal::SIGSTOP);
    until("the fourth to lead", PATIENCE, async || leads(&fourth).await.then_some(())).await;
    third.signal(Signal::SIGCONT);
    until("the third to see it", PATIENCE, async || (!leads(&third).await).then_some(())).await;
    assert!(leads(&fourth).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_at_kubernetes_or_nats_is_tried_again_until_all_is_as_it_should_be() {
    let mut rig = Rig::new().await;
    // Nobody may do anything yet; another takes the lease in the same moment.
    rig.api.fail("lease", 403, 3);
    rig.api.fail("list", 403, 2);
    rig.api.apply("one", 1, &json!({ "patterns": ["one"] }));
    let operator = rig.operator().await;
    rig.given(&["one"]).await;
    let failures = async || metric(operator.admin(), "foghorn_operator_failures_total ").await;
    assert!(failures().await >= 2.0);
    assert!(operator.process().log().contains("by script: Forbidden"), "{}", operator.process().log());
    rig.api.fail("lease", 409, 1);

    // A watch that is refused, one whose version is gone, and one that is cut.
    rig.api.fail("watch", 500, 1);
    rig.api.compact();
    rig.api.apply("two", 2, &json!({ "patterns": ["two"] }));
    rig.given(&["one", "two"]).await;
    rig.api.compact();
    rig.api.fail("watch", 410, 2);
    rig.api.apply("three", 3, &json!({ "patterns": ["three"] }));
    rig.given(&["one", "three", "two"]).await;

    // A status that may not be written, or whose object is gone, keeps nothing from holding.
    rig.said("three", "Published", "True", "Published").await;
    rig.api.fail("status", 404, 1);
    rig.api.apply("four", 4, &json!({ "patterns": ["four"] }));
    rig.given(&["four", "one", "three", "two"]).await;
    rig.api.fail("status", 403, 2);
    let before = failures().await;
    rig.api.apply("five", 5, &json!({ "patterns": ["five"] }));
    rig.given(&["five", "four", "one", "three", "two"]).await;
    rig.said("five", "Published", "True", "Published").await;
    assert!(failures().await > before);

    // Somebody else's document is overwritten, and a bucket that is gone is made anew.
    let context = async_nats::jetstream::new(async_nats::connect(rig.nats.url()).await.unwrap());
    let theirs = r#"{"version":1,"policies":[]}"#;
    context.publish("$KV.FOGHORN_policies.policies", theirs.into()).await.unwrap().await.unwrap();
    rig.api.apply("six", 6, &json!({ "patterns": ["six"] }));
    rig.given(&["five", "four", "one", "six", "three", "two"]).await;

    context.delete_stream("KV_FOGHORN_policies").await.unwrap();
    rig.api.apply("five", 5, &json!({ "patterns": ["5"] }));
    rig.given(&["5", "four", "one", "six", "three", "two"]).await;

    // What it can't read may say something of the patterns of an object that is refused: it is left as it is.
    let newer = json!({ "version": 99, "policies": [] }).to_string();
    rig.api.apply("four", 4, &json!({ "patterns": ["four"], "retention": { "age": "1s" } }));
    rig.said("four", "Accepted", "False", "Invalid").await;
    context.publish("$KV.FOGHORN_policies.policies", newer.clone().into()).await.unwrap().await.unwrap();
    rig.api.apply("three", 3, &json!({ "patterns": ["3"] }));
    let message = rig.said("three", "Published", "False", "Unavailable").await;
    assert!(message.contains("can't be read here"), "{message}");
    let bucket = context.get_key_value("FOGHORN_policies").await.unwrap();
    assert_eq!(bucket.get("policies").await.unwrap().unwrap(), newer);
    rig.api.apply("four", 4, &json!({ "patterns": ["four"] }));
    rig.given(&["3", "5", "four", "one", "six", "two"]).await;

    // Without NATS, which is said of each object until it is back.
    rig.nats.kill();
    rig.api.apply("six", 6, &json!({ "patterns": ["seven"] }));
    let message = rig.said("six", "Published", "False", "Unavailable").await;
    assert!(message.contains("NATS"), "{message}");
    rig.nats.restart().await;
    rig.said("six", "Published", "True", "Published").await;
    rig.given(&["3", "5", "four", "one", "seven", "two"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_objects_than_one_page_are_all_read_and_none_is_told_twice() {
    let rig = Rig::new().await;
    let names: Vec<String> = (0..300).map(|n| format!("o{n:03}")).collect();
    for name in &names {
        rig.api.apply(name, 1, &json!({ "patterns": [name] }));
    }
    let _operator = rig.operator().await;
    rig.given(&names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    for name in &names {
        rig.said(name, "Published", "True", "Published").await;
    }
    assert_eq!(rig.api.asked("status"), names.len());
}
