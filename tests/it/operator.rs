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
use serde_json::{Value, json};

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

/// What gateways would report, each once a second.
struct Gateways {
    client: async_nats::Client,
    reports: Vec<(&'static str, &'static str, u64)>,
}

impl Gateways {
    /// Has each report again, and gives what `pod` is told.
    async fn told(&self, pod: &str) -> Option<Value> {
        let mut told = None;
        for (number, (name, phase, streams)) in self.reports.iter().enumerate() {
            let report = json!({
                "gateway": format!("{number:012x}"), "pod": name, "phase": phase, "streams": streams, "streamsMax": 10_000,
                "pace": *streams as f64 / 60.0, "streamsPerSecond": 1000, "shedding": 0,
            });
            let order = self.client.request("foghorn.rollout", report.to_string().into()).await.ok()?;
            let order: Value = serde_json::from_slice(&order.payload).ok()?;
            told = told.or_else(|| (*name == pod).then_some(order));
        }
        told
    }

    /// Has them report until `pod` is told so.
    async fn until_told(&self, pod: &str, order: &str, why: &str) {
        until(&format!("{pod} to be told {order} ({why})"), PATIENCE, async || {
            let told = self.told(pod).await?;
            // Shown when the test fails.
            eprintln!("{pod} is told {told}");
            let says_why = told["why"].as_str().unwrap_or_default().contains(why);
            (told["order"] == order && says_why).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn gateways_drain_in_turn_whatever_fails_and_whoever_leads_and_pods_and_fleet_say_so() {
    let rig = Rig::new().await;
    for (pod, revision) in [("one", "a"), ("two", "a"), ("three", "b"), ("four", "b")] {
        rig.api.create_pod(pod, revision);
    }
    rig.api.apply_fleet("foghorn-gateway", 1, 0);
    let mut first = rig.operator().await;
    until("the first to lead", PATIENCE, async || leads(&first).await.then_some(())).await;
    for (kind, code) in [("fleet", 500), ("pods", 403), ("event", 500)] {
        rig.api.fail(kind, code, 2);
    }
    let client = async_nats::connect(rig.nats.url()).await.unwrap();
    let waiting = |pod| (pod, "waiting", 6000);
    let mut gateways = Gateways {
        client,
        reports: vec![("three", "serving", 400), ("two", "serving", 6000), waiting("one")],
    };
    rig.api.terminate_pod("one");
    gateways.until_told("one", "wait", "1 gateways of an earlier revision").await;
    until("its pod's events", PATIENCE, async || {
        gateways.told("one").await?;
        (rig.api.events_of("one") == ["DrainWaits"]).then_some(())
    })
    .await;
    let failures = metric(first.admin(), "foghorn_operator_pacing_failures_total ").await;
    assert!(failures >= 4.0, "{failures} of what failed by script");

    rig.api.terminate_pod("two");
    gateways.reports[1] = waiting("two");
    gateways.until_told("one", "drain", "").await;
    // 100 a second each, where the one that is left takes 10 of others.
    gateways.until_told("two", "wait", "1 drain or shed already").await;
    gateways.reports[2] = ("one", "draining", 3000);
    until("the fleet to say so", PATIENCE, async || {
        gateways.told("one").await?;
        let status = rig.api.fleet_status()?;
        let settled = &status["conditions"][0];
        let lists = status["waiting"] == json!(["two"]) && status["draining"] == json!(["one"]);
        (lists && settled["status"] == "False" && settled["reason"] == "Draining").then_some(())
    })
    .await;

    // Who leads next hears who drains before it says anything.
    first.kill();
    let second = rig.operator().await;
    until("the second to lead", PATIENCE, async || leads(&second).await.then_some(())).await;
    gateways.until_told("two", "wait", "just begun").await;
    gateways.until_told("two", "wait", "1 drain or shed already").await;
    // The first is through: it reports no more.
    gateways.reports.pop();
    gateways.until_told("two", "drain", "").await;
    assert_eq!(rig.api.deletion_cost("three"), Some(400));

    // Without a fleet nobody is paced: not even by there being nobody to go to.
    gateways.reports.remove(0);
    let mut rig = rig;
    drop(second);
    rig.api = ApiServer::start().await;
    rig.kubeconfig = rig.api.kubeconfig(rig._folder.path());
    let third = rig.operator().await;
    until("the third to lead", PATIENCE, async || leads(&third).await.then_some(())).await;
    gateways.until_told("two", "drain", "").await;
}
