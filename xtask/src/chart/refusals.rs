//! Values that the chart has to refuse, and what it has to say.

use std::path::Path;

use anyhow::{Result, ensure};

use super::{NAMESPACE, chart, render};
use crate::command;
use crate::tools::ChartTools;

/// What is set beside the least that is needed, and what is said of it.
const REFUSED: &[(&[&str], &str)] = &[
    // Names and types, by the schema.
    (&["gateway.replica=3"], "'/gateway': additional properties 'replica' not allowed"),
    (
        &["config.gateway.ring_byte=1048576"],
        "'/config/gateway': additional properties 'ring_byte' not allowed",
    ),
    (
        &["config.gateway.drain_window=5s"],
        "'/config/gateway': additional properties 'drain_window' not allowed",
    ),
    (&["gateway.replicas=many"], "'/gateway/replicas': got string, want integer"),
    (&["gateway.replicas=0"], "'/gateway/replicas': minimum: got 0, want 1"),
    (&["config.shards=9"], "'/config/shards': maximum: got 9, want 8"),
    (&["config.gateway.retry=3"], "'/config/gateway/retry': got number, want string"),
    (
        &["config.fanout.durable_deadline=soon"],
        "'/config/fanout/durable_deadline': 'soon' does not match pattern",
    ),
    (
        &["ingress.flavor=traefik"],
        "'/ingress/flavor': value must be one of 'ingress-nginx', 'nginx-f5', 'gateway-api'",
    ),
    (
        &["ingress.hosts={https://events.example.com}"],
        "'/ingress/hosts/0': 'https://events.example.com' does not match pattern",
    ),
    (&["auth.keys[0].algorithm=none"], "'/auth/keys/0/algorithm': value must be one of"),
    (
        &["auth.keys[0].secret.value=hunter2"],
        "'/auth/keys/0/secret': additional properties 'value' not allowed",
    ),
    (
        &["config.auth.jwks[0].url=https://a.example/jwks", "config.auth.jwks[0].algorithms={HS256}"],
        "'/config/auth/jwks/0/algorithms/0': value must be one of",
    ),
    (
        &["nats.auth.secrets.gateways=nats"],
        "'/nats/auth/secrets': additional properties 'gateways' not allowed",
    ),
    (&["outbox.databases[0].name=shop"], "'/outbox/databases/0': missing property 'secret'"),
    (
        &["outbox.databases[0].name=shop", "outbox.databases[0].secret.url=postgres://u:p@db/shop"],
        "'/outbox/databases/0/secret': additional properties 'url' not allowed",
    ),
    (
        &["outbox.databases[0].name=a-name-that-is-too-long-", "outbox.databases[0].secret.name=a"],
        "'/outbox/databases/0/name': 'a-name-that-is-too-long-' does not match pattern",
    ),
    (&["image.digest=latest"], "'/image/digest': 'latest' does not match pattern"),
    (&["config.policy[0].access=public"], "'/config/policy/0': missing property 'pattern'"),
    // What goes together, by the templates.
    (&["nats.url="], "nats.url is needed"),
    (&["nats.url=nats://fog:hunter2@nats:4222"], "nats.url holds a user, password or token"),
    (&["postgres.secret.name="], "postgres.secret.name is needed"),
    (&["auth.keys=null"], "nobody could publish"),
    (&["dev.enabled=true"], "dev.enabled brings its own NATS and PostgreSQL"),
    (&["nats.auth.kind=token"], "nats.auth.kind and nats.auth.secret go together"),
    (&["nats.auth.secret=nats"], "nats.auth.kind and nats.auth.secret go together"),
    // As long as it is the only one.
    (
        &["nats.auth.kind=user", "nats.auth.secrets.gateway=nats-gateway"],
        "name a Secret there for all, or in nats.auth.secrets.fanout",
    ),
    (&["outbox.enabled=true"], "outbox.databases is needed"),
    (
        &[
            "outbox.databases[0].name=shop",
            "outbox.databases[0].secret.name=a",
            "outbox.databases[1].name=shop",
            "outbox.databases[1].secret.name=b",
        ],
        "outbox.databases has the name shop twice",
    ),
    (
        &["gateway.connections=100000", "gateway.drain.reconnectsPerSecond=10"],
        "is 10000 s, and a gateway drains for an hour at most",
    ),
    (&["gateway.autoscaling.kind=keda"], "gateway.autoscaling.prometheus is needed"),
    (&["gateway.autoscaling.minReplicas=50"], "minReplicas is above maxReplicas"),
    (&["metrics.serviceMonitor.enabled=true"], "name it in networkPolicy.scrapers"),
    (&["ingress.flavor=gateway-api", "ingress.hosts={a.example.com}"], "ingress.parentRefs is needed"),
    (
        &[
            "ingress.flavor=gateway-api",
            "ingress.hosts={a.example.com}",
            "ingress.parentRefs[0].name=x",
            "tls.secret=inner",
        ],
        "tls.secret can't be combined with ingress.flavor=gateway-api",
    ),
];

/// Renders each of them.
pub(super) fn check(tools: &ChartTools) -> Result<()> {
    for (set, words) in REFUSED {
        let said = refusal(tools, &chart().join("ci/minimal-values.yaml"), set);
        ensure!(said.contains(words), "{set:?} should be refused with {words:?}, and is answered {said:?}");
    }
    println!("{} kinds of wrong values are refused", REFUSED.len());
    Ok(())
}

/// What helm says; nothing if it renders.
fn refusal(tools: &ChartTools, values: &Path, set: &[&str]) -> String {
    let mut template = tools.helm();
    template.args(["template", "foghorn", "--namespace", NAMESPACE, "--values"]).arg(values);
    template.args(set.iter().flat_map(|set| ["--set", set])).arg(chart());
    command::output(&mut template, render::LIMIT).err().map(|error| format!("{error:#}")).unwrap_or_default()
}
