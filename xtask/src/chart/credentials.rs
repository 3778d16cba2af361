//! Whether each component can be known to NATS by a Secret of its own, so that each may do no more than it needs.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Case;
use super::render::{Object, containers, list};

/// The case in which each component has `nats-COMPONENT` and `nats-COMPONENT-tls`.
const CASE: &str = "own-credentials-values.yaml";
/// All that speak to NATS.
const COMPONENTS: [&str; 6] = ["eventlog", "fanout", "gateway", "notifications", "operator", "outbox"];

/// Each component has its own and no other's.
pub(super) fn check(cases: &[Case]) -> Result<()> {
    let case = cases.iter().find(|case| case.name.ends_with(CASE));
    let case = case.with_context(|| format!("ci/ has no {CASE}"))?;
    let mut seen = BTreeSet::new();
    for deployment in case.objects.iter().filter(|object| object.kind() == "Deployment") {
        let component = deployment.text_at("/metadata/labels/app.kubernetes.io~1component");
        let own = ["nats-ca".to_owned(), format!("nats-{component}"), format!("nats-{component}-tls")];
        let known_by = secrets(deployment).filter(|name| name.starts_with("nats-")).collect::<BTreeSet<_>>();
        ensure!(
            known_by.iter().eq(own.iter().collect::<BTreeSet<_>>()),
            "{} is known to NATS by {known_by:?}, and should be by {own:?}",
            deployment.name()
        );
        seen.insert(component);
    }
    ensure!(seen.iter().eq(&COMPONENTS), "{CASE} has {seen:?}, and should have {COMPONENTS:?}");
    println!("each of {} components has its own credentials of NATS", COMPONENTS.len());
    Ok(())
}

/// The Secrets that an object's pods have mounted, or variables from.
fn secrets(object: &Object) -> impl Iterator<Item = &str> {
    let volumes = object.pod().into_iter().flat_map(|pod| list(pod, "/spec/volumes"));
    let variables =
        object.pod().into_iter().flat_map(containers).flat_map(|container| list(container, "/env"));
    let mounted = volumes.map(|volume| &volume["secret"]["secretName"]);
    let read = variables.map(|variable| &variable["valueFrom"]["secretKeyRef"]["name"]);
    mounted.chain(read).filter_map(Value::as_str)
}
