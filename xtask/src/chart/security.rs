//! The restricted Pod Security Standard, and what we ask of our own pods beyond it.

use anyhow::{Result, bail, ensure};
use serde_json::{Value, json};

use super::render::{Object, containers, list};

/// What volumes the standard allows.
const VOLUMES: [&str; 8] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

/// The label that says what a pod is.
const COMPONENT: &str = "app.kubernetes.io/component";

/// Every pod of these objects.
pub(super) fn check(objects: &[Object]) -> Result<()> {
    for object in objects {
        let Some(pod) = object.pod() else { continue };
        let asks = pod["metadata"]["labels"][COMPONENT] == "operator";
        let faults = faults(pod, asks);
        ensure!(faults.is_empty(), "{}: {}", object.name(), faults.join("; "));
    }
    let account = |object: &&Object| object.kind() == "ServiceAccount";
    for account in objects.iter().filter(account) {
        if account.value["automountServiceAccountToken"] != false {
            bail!("{} has its token mounted", account.name());
        }
    }
    objects.iter().try_for_each(rights)
}

/// Only the operator asks the API server for anything, and this is all it does; whoever adds something says so here.
fn rights(object: &Object) -> Result<()> {
    let needed = || {
        let lease = object.text_at("/metadata/name");
        let fleet = lease.replace("-operator", "-gateway");
        json!([
            { "apiGroups": ["foghorn.dev"], "resources": ["channelpolicies"], "verbs": ["list", "watch"] },
            { "apiGroups": ["foghorn.dev"], "resources": ["channelpolicies/status"], "verbs": ["patch"] },
            {
                "apiGroups": ["foghorn.dev"], "resources": ["gatewayfleets"], "resourceNames": [fleet],
                "verbs": ["get"],
            },
            {
                "apiGroups": ["foghorn.dev"], "resources": ["gatewayfleets/status"], "resourceNames": [fleet],
                "verbs": ["patch"],
            },
            { "apiGroups": [""], "resources": ["pods"], "verbs": ["list", "patch"] },
            { "apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create"] },
            { "apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["create"] },
            {
                "apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "resourceNames": [lease],
                "verbs": ["get", "update"],
            },
        ])
    };
    let is_in_order = match object.kind() {
        "Role" => {
            object.text_at("/metadata/name").ends_with("-operator") && object.value["rules"] == needed()
        }
        "RoleBinding" => {
            let account = object.text_at("/subjects/0/name");
            account.ends_with("-operator") && account == object.text_at("/roleRef/name")
        }
        "ClusterRole" | "ClusterRoleBinding" => false,
        _ => true,
    };
    ensure!(is_in_order, "{} gives rights that nothing needs", object.name());
    Ok(())
}

/// What is wrong with a pod, which may ask the API server or not.
fn faults(pod: &Value, asks: bool) -> Vec<String> {
    let spec = &pod["spec"];
    let shared = &spec["securityContext"];
    let mut faults = Vec::new();
    for key in ["hostNetwork", "hostPID", "hostIPC"] {
        if spec[key] == true {
            faults.push(format!("{key} is set"));
        }
    }
    for volume in list(pod, "/spec/volumes") {
        let kinds = volume.as_object().into_iter().flat_map(|volume| volume.keys());
        let other = kinds.filter(|kind| *kind != "name" && !VOLUMES.contains(&kind.as_str()));
        faults.extend(other.map(|kind| format!("volume {} is a {kind}", volume["name"])));
    }
    if shared["sysctls"].is_array() {
        faults.push("it sets sysctls".to_owned());
    }
    if spec["automountServiceAccountToken"] != asks {
        faults.push(
            "the ServiceAccount's token is mounted where it isn't needed, or not where it is".to_owned(),
        );
    }
    if containers(pod).next().is_none() {
        faults.push("it has no containers".to_owned());
    }
    for container in containers(pod) {
        faults.extend(
            faults_of_container(container, shared).into_iter().map(|fault| {
                format!("container {}: {fault}", container["name"].as_str().unwrap_or_default())
            }),
        );
    }
    faults
}

fn faults_of_container(container: &Value, shared: &Value) -> Vec<String> {
    let own = &container["securityContext"];
    // A container's word counts before its pod's.
    let holds = |key: &str| if own[key].is_null() { &shared[key] } else { &own[key] };
    let profile = &holds("seccompProfile")["type"];
    let requirements = [
        (holds("runAsNonRoot") == true, "runAsNonRoot is not set"),
        (holds("runAsUser").as_u64().is_some_and(|user| user > 0), "its user is not a number above 0"),
        (profile == "RuntimeDefault" || profile == "Localhost", "it has no seccomp profile"),
        (own["allowPrivilegeEscalation"] == false, "privileges can be escalated"),
        (own["privileged"] != true, "it is privileged"),
        (own["procMount"].is_null(), "it has a procMount"),
        (own["capabilities"]["drop"] == json!(["ALL"]), "it doesn't drop all capabilities"),
        (own["capabilities"]["add"].is_null(), "it adds capabilities"),
        (own["readOnlyRootFilesystem"] == true, "its root is not read-only"),
        (container["resources"]["requests"].is_object(), "it requests no resources"),
        (
            list(container, "/ports").iter().all(|port| port["hostPort"].is_null()),
            "it has a port of the host",
        ),
    ];
    let unmet = requirements.into_iter().filter(|(met, _)| !met).map(|(_, fault)| fault.to_owned());
    unmet.chain(literal_secrets(container)).collect()
}

/// Variables that hold a secret and don't take it from a Secret.
fn literal_secrets(container: &Value) -> impl Iterator<Item = String> {
    let words = ["PASSWORD", "TOKEN", "SECRET", "POSTGRES_URL", "OUTBOX_POSTGRES"];
    let secret = move |name: &str| words.iter().any(|word| name.contains(word));
    list(container, "/env")
        .iter()
        .filter(move |variable| {
            secret(variable["name"].as_str().unwrap_or_default())
                && variable.pointer("/valueFrom/secretKeyRef/name").is_none()
        })
        .map(|variable| format!("{} is not from a Secret", variable["name"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Value {
        json!({ "spec": {
            "automountServiceAccountToken": false,
            "securityContext": {
                "runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": { "type": "RuntimeDefault" },
            },
            "containers": [{
                "name": "c",
                "resources": { "requests": { "cpu": "1" } },
                "securityContext": {
                    "allowPrivilegeEscalation": false,
                    "readOnlyRootFilesystem": true,
                    "capabilities": { "drop": ["ALL"] },
                },
            }],
        } })
    }

    #[test]
    fn a_pod_without_any_one_of_it_is_refused() {
        assert_eq!(faults(&good(), false), Vec::<String>::new());
        let container = "/spec/containers/0";
        for (place, key, value, fault) in [
            ("/spec", "hostNetwork", json!(true), "hostNetwork"),
            ("/spec", "automountServiceAccountToken", json!(null), "token"),
            ("/spec", "volumes", json!([{ "name": "v", "hostPath": {} }]), "hostPath"),
            ("/spec", "initContainers", json!([{ "name": "i" }]), "container i: privileges"),
            ("/spec/securityContext", "runAsNonRoot", json!(false), "runAsNonRoot"),
            ("/spec/securityContext", "runAsUser", json!(0), "user"),
            ("/spec/securityContext", "seccompProfile", json!({ "type": "Unconfined" }), "seccomp"),
            (container, "resources", json!({}), "resources"),
            (container, "ports", json!([{ "hostPort": 80 }]), "host"),
            (container, "env", json!([{ "name": "FOGHORN_NATS_PASSWORD", "value": "x" }]), "Secret"),
            (container, "env", json!([{ "name": "FOGHORN_OUTBOX_POSTGRES", "value": "x" }]), "Secret"),
            ("/spec/containers/0/securityContext", "allowPrivilegeEscalation", json!(true), "escalated"),
            ("/spec/containers/0/securityContext", "readOnlyRootFilesystem", json!(false), "read-only"),
            ("/spec/containers/0/securityContext", "privileged", json!(true), "privileged"),
            ("/spec/containers/0/securityContext", "runAsNonRoot", json!(false), "runAsNonRoot"),
            (
                "/spec/containers/0/securityContext",
                "capabilities",
                json!({ "drop": ["NET_RAW"] }),
                "capabilities",
            ),
        ] {
            let mut pod = good();
            pod.pointer_mut(place).unwrap()[key] = value;
            let found = faults(&pod, false).join("; ");
            assert!(found.contains(fault), "{place}/{key}: {found:?}");
        }
    }
}
