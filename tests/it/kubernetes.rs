//! The chart and the operator against a real API server of Kubernetes. `cargo xtask test-k8s` builds one and runs
//! these; that takes minutes, so nothing else does.

use std::process::Output;

use foghorn_bus::policies::Document;
use foghorn_tests::PATIENCE;
use foghorn_tests::apiserver::KubeApiServer;
use foghorn_tests::env::checkout;
use foghorn_tests::foghorn::Foghorn;
use foghorn_tests::http::metric;
use foghorn_tests::nats::NatsServer;
use foghorn_tests::wait::until;
use serde_json::{Value, json};

use crate::deployment::wait_ready;

const NAMESPACE: &str = "push";
/// The account that the chart gives the operator, whose name is that of the release.
const ACCOUNT: &str = "foghorn-operator";

/// With this namespace, under the restricted Pod Security Standard.
async fn cluster(namespace: &str) -> KubeApiServer {
    let api = KubeApiServer::start().await;
    let namespace = json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": { "name": namespace, "labels": {
            "pod-security.kubernetes.io/enforce": "restricted",
            "pod-security.kubernetes.io/warn": "restricted",
        } },
    });
    succeeded(&api.kubectl(&["create", "-f", "-"], &namespace.to_string()));
    api
}

/// `helm` with the release as its object, and the chart with these values.
fn release(api: &KubeApiServer, verb: &str, values: &str, more: &[&str]) -> Output {
    let (chart, values) = (checkout().join("helm/foghorn"), checkout().join("helm/foghorn/ci").join(values));
    let own = [verb, "foghorn", chart.to_str().unwrap(), "--namespace", NAMESPACE];
    // There are no nodes, so no job would end and nothing would become ready.
    let values = ["--values", values.to_str().unwrap(), "--no-hooks"];
    api.helm(&[&own[..], &values, more].concat())
}

fn succeeded(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// `kubectl get … -o json`
fn get(api: &KubeApiServer, what: &[&str]) -> Value {
    let arguments = [&["get", "-n", NAMESPACE, "-o", "json"], what].concat();
    serde_json::from_str(&succeeded(&api.kubectl(&arguments, ""))).unwrap()
}

fn policy(name: &str, spec: &Value) -> String {
    json!({
        "apiVersion": "foghorn.dev/v1alpha1", "kind": "ChannelPolicy",
        "metadata": { "name": name, "namespace": NAMESPACE }, "spec": spec,
    })
    .to_string()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "opt-in, needs an API server: cargo xtask test-k8s"]
async fn the_chart_is_installed_upgraded_and_rolled_back() {
    let api = cluster(NAMESPACE).await;
    let installed = release(&api, "install", "minimal-values.yaml", &["--set", "operator.enabled=true"]);
    succeeded(&installed);
    let warned = String::from_utf8_lossy(&installed.stderr);
    assert!(!warned.contains("would violate PodSecurity"), "{warned}");
    let replicas = || get(&api, &["deployment/foghorn-gateway"])["spec"]["replicas"].clone();
    let before = replicas();
    succeeded(&release(&api, "upgrade", "minimal-values.yaml", &["--set", "gateway.replicas=7"]));
    assert_eq!(replicas(), 7);
    // What is no more asked for is gone, but for the definitions: with them all objects would be.
    let deployments = |name: &str| {
        let all = get(&api, &["deployments"]);
        all["items"].as_array().unwrap().iter().any(|one| one["metadata"]["name"] == name)
    };
    assert!(!deployments("foghorn-operator"));
    succeeded(&api.helm(&["rollback", "foghorn", "1", "--namespace", NAMESPACE, "--no-hooks"]));
    assert_eq!(replicas(), before);
    assert!(deployments("foghorn-operator"));
    succeeded(&api.kubectl(&["get", "crd", "channelpolicies.foghorn.dev", "gatewayfleets.foghorn.dev"], ""));
    // Other values are other objects: everything that runs for real, with an outbox.
    let upgraded = release(&api, "upgrade", "own-credentials-values.yaml", &[]);
    succeeded(&upgraded);
    let warned = String::from_utf8_lossy(&upgraded.stderr);
    assert!(!warned.contains("would violate PodSecurity"), "{warned}");
    assert!(deployments("foghorn-outbox-shop"));
    // A trial with its own servers.
    succeeded(&release(&api, "upgrade", "dev-values.yaml", &[]));
    succeeded(&api.helm(&["uninstall", "foghorn", "--namespace", NAMESPACE, "--no-hooks"]));
    assert_eq!(get(&api, &["deployments"])["items"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "opt-in, needs an API server: cargo xtask test-k8s"]
async fn the_manifests_without_helm_are_taken() {
    let api = cluster("foghorn").await;
    let crds = checkout().join("k8s/crds");
    let base = checkout().join("k8s/base");
    let crds = ["apply", "--server-side", "-f", crds.to_str().unwrap()];
    succeeded(&api.kubectl(&crds, ""));
    let applied = api.kubectl(&["apply", "--server-side", "-k", base.to_str().unwrap()], "");
    succeeded(&applied);
    let warned = String::from_utf8_lossy(&applied.stderr);
    assert!(!warned.contains("would violate PodSecurity"), "{warned}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "opt-in, needs an API server: cargo xtask test-k8s"]
async fn policies_that_are_wrong_are_refused_as_they_are_applied() {
    let api = cluster(NAMESPACE).await;
    succeeded(&release(&api, "install", "minimal-values.yaml", &["--set", "operator.enabled=true"]));
    let whole = json!({
        "patterns": ["orders.*", "orders.eu.>"], "access": "webhook", "retention": { "age": "24h", "count": 100 },
        "replay": true, "limits": { "eventBytes": 4096 }, "compression": { "from": 0, "dataFrom": 512 },
        "coalescing": "latest", "presence": "counts", "metricTypes": ["created"],
    });
    until("the definition to be served", PATIENCE, async || {
        let applied = api.kubectl(&["apply", "-f", "-"], &policy("whole", &whole));
        applied.status.success().then_some(())
    })
    .await;
    let many: Vec<String> = (0..101).map(|n| format!("c{n}")).collect();
    for (spec, why) in [
        (json!({}), "spec.patterns: Required value"),
        (json!({ "patterns": [] }), "spec.patterns"),
        (json!({ "patterns": many }), "must have at most 100 items"),
        (json!({ "patterns": ["a", "a"] }), "Duplicate value"),
        (json!({ "patterns": ["a..b"] }), "spec.patterns[0]"),
        (json!({ "patterns": ["a.>.b"] }), "spec.patterns[0]"),
        (json!({ "patterns": ["a"], "access": "everybody" }), "spec.access: Unsupported value"),
        (json!({ "patterns": ["orders.>"], "access": "owner" }), "owner is for patterns under user. alone"),
        (
            json!({ "patterns": ["a"], "coalescing": "latest", "presence": "events" }),
            "coalescing: latest and presence: events exclude each other",
        ),
        (json!({ "patterns": ["a"], "retention": { "age": "soon" } }), "spec.retention.age"),
        (json!({ "patterns": ["a"], "retention": { "count": 0 } }), "spec.retention.count"),
        (json!({ "patterns": ["a"], "limits": { "eventBytes": 1 } }), "spec.limits.eventBytes"),
        (json!({ "patterns": ["a"], "acess": "public" }), "unknown field \"spec.acess\""),
    ] {
        let refused = api.kubectl(&["apply", "-f", "-"], &policy("wrong", &spec));
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success() && said.contains(why), "{spec}: {said}");
    }
}

/// An operator process under the account and with the rights that the chart gives it.
async fn operator(api: &KubeApiServer, nats: &NatsServer) -> Foghorn {
    let token = succeeded(&api.kubectl(&["create", "token", "-n", NAMESPACE, ACCOUNT], ""));
    let kubeconfig = api.write_kubeconfig(ACCOUNT, token.trim());
    let url = nats.url();
    let environment = [("KUBECONFIG", kubeconfig.as_str()), ("FOGHORN_OPERATOR_LEASE_DURATION", "2s")];
    let operator =
        Foghorn::spawn(&["operator", "--admin", "127.0.0.1:0", "--nats", &url], &environment).await;
    wait_ready(operator.admin()).await;
    operator
}

/// Whether a condition of an object says this of the object as it is now.
fn says(api: &KubeApiServer, name: &str, kind: &str, status: &str) -> Option<String> {
    let object = get(api, &[&format!("channelpolicy/{name}")]);
    let conditions = object["status"]["conditions"].as_array()?;
    let condition = conditions.iter().find(|condition| condition["type"] == kind)?;
    let current = condition["observedGeneration"] == object["metadata"]["generation"];
    (current && condition["status"] == status).then(|| condition["message"].as_str().unwrap_or("").to_owned())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "opt-in, needs an API server: cargo xtask test-k8s"]
async fn with_the_rights_the_chart_gives_it_the_operator_tells_each_policy_and_another_goes_on_when_it_dies()
{
    let (api, nats) = tokio::join!(cluster(NAMESPACE), NatsServer::start());
    succeeded(&release(&api, "install", "minimal-values.yaml", &["--set", "operator.enabled=true"]));
    let operators = [operator(&api, &nats).await, operator(&api, &nats).await];
    let given = async |patterns: &[&str]| {
        until(&format!("{patterns:?} to be published"), PATIENCE, async || {
            let context = async_nats::jetstream::new(async_nats::connect(nats.url()).await.ok()?);
            let bucket = context.get_key_value("FOGHORN_policies").await.ok()?;
            let document = Document::read(&bucket.entry("policies").await.ok()??.value).ok()?;
            let given: Vec<_> = document.policies().iter().map(|policy| policy.pattern.to_string()).collect();
            (given == patterns).then_some(())
        })
        .await;
    };
    let apply = |name: &str, spec: Value| {
        succeeded(&api.kubectl(&["apply", "-f", "-"], &policy(name, &spec)));
    };
    apply("orders", json!({ "patterns": ["orders.>"], "access": "public" }));
    given(&["orders.>"]).await;
    let told = async |name: &str, kind: &str, status: &str| {
        let what = format!("{name} to be told {kind}={status}");
        until(&what, PATIENCE, async || says(&api, name, kind, status)).await
    };
    told("orders", "Published", "True").await;
    // What the schema can't tell, and another object's pattern.
    apply("short", json!({ "patterns": ["a"], "retention": { "age": "1s" } }));
    let message = told("short", "Accepted", "False").await;
    assert!(message.contains("between 1 minute and 10 years"), "{message}");
    apply("late", json!({ "patterns": ["orders.>"] }));
    assert!(told("late", "Accepted", "False").await.contains("older orders"));
    apply("short", json!({ "patterns": ["a"], "retention": { "age": "1h" } }));
    told("short", "Published", "True").await;
    given(&["a", "orders.>"]).await;

    let leads = async |operator: &Foghorn| metric(operator.admin(), "foghorn_operator_leader ").await > 0.5;
    let (mut leader, mut other) = operators.into();
    if leads(&other).await {
        std::mem::swap(&mut leader, &mut other);
    }
    assert!(leads(&leader).await && !leads(&other).await);
    leader.kill();
    apply("more", json!({ "patterns": ["more"] }));
    told("more", "Published", "True").await;
    assert!(leads(&other).await);
    given(&["a", "more", "orders.>"]).await;
    // And no more rights than those.
    for (verb, what) in [
        ("get", "secrets"),
        ("delete", "pods"),
        ("patch", "deployments"),
        ("delete", "channelpolicies"),
        ("patch", "gatewayfleets"),
    ] {
        let who = format!("--as=system:serviceaccount:{NAMESPACE}:{ACCOUNT}");
        let asked = api.kubectl(&["auth", "can-i", verb, what, "-n", NAMESPACE, &who], "");
        assert_eq!(String::from_utf8_lossy(&asked.stdout).trim(), "no", "{verb} {what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "opt-in, needs an API server: cargo xtask test-k8s"]
async fn with_the_rights_the_chart_gives_it_the_operator_paces_gateways_and_says_so_on_pods_and_fleet() {
    let (api, nats) = tokio::join!(cluster(NAMESPACE), NatsServer::start());
    succeeded(&release(&api, "install", "minimal-values.yaml", &["--set", "operator.enabled=true"]));
    // As the gateways' Deployment would make one.
    let deployment = get(&api, &["deployment/foghorn-gateway"]);
    let template = &deployment["spec"]["template"];
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "spec": template["spec"],
        "metadata": { "name": "one", "namespace": NAMESPACE, "labels": template["metadata"]["labels"] },
    });
    succeeded(&api.kubectl(&["create", "-f", "-"], &pod.to_string()));
    let _operator = operator(&api, &nats).await;
    let client = async_nats::connect(nats.url()).await.unwrap();
    let report = |phase: &str| {
        let report = json!({
            "gateway": "000000000001", "pod": "one", "phase": phase, "streams": 4321, "streamsMax": 9000, "pace": 10.0,
            "streamsPerSecond": 1000, "shedding": 0,
        });
        client.request("foghorn.rollout", report.to_string().into())
    };
    until("the pod's cost to be its streams", PATIENCE, async || {
        report("serving").await.ok()?;
        let pod = get(&api, &["pod/one"]);
        let cost = &pod["metadata"]["annotations"]["controller.kubernetes.io/pod-deletion-cost"];
        (cost == "4321").then_some(())
    })
    .await;
    until("the fleet to say what waits", PATIENCE, async || {
        report("waiting").await.ok()?;
        let status = get(&api, &["gatewayfleet/foghorn-gateway"])["status"].clone();
        let says = status["waiting"] == json!(["one"]) && status["conditions"][0]["reason"] == "Waiting";
        (says && status["streams"] == 4321).then_some(())
    })
    .await;
    until("the pod's event", PATIENCE, async || {
        let events = get(&api, &["events.events.k8s.io"]);
        events["items"].as_array()?.iter().any(|event| event["reason"] == "DrainWaits").then_some(())
    })
    .await;
}
