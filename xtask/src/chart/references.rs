//! Whether all that refers to something finds it among the rendered objects.

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value};

use super::render::{Object, containers, list};

/// The label that says what a pod is.
const COMPONENT: &str = "app.kubernetes.io/component";

/// Whether everything that is named is there. Secrets may be somebody else's.
pub(super) fn check(objects: &[Object]) -> Result<()> {
    for object in objects {
        let found = match object.kind() {
            "Service" => service(object, objects),
            "Ingress" => ingress(object, objects),
            "HTTPRoute" => route(object, objects),
            "PodDisruptionBudget" => selects_one(objects, object.value.pointer("/spec/selector/matchLabels")),
            "NetworkPolicy" => selects(objects, object.value.pointer("/spec/podSelector/matchLabels")),
            "HorizontalPodAutoscaler" | "ScaledObject" => {
                there(objects, "Deployment", object.text_at("/spec/scaleTargetRef/name"))
            }
            "RoleBinding" => there(objects, "Role", object.text_at("/roleRef/name"))
                .and_then(|()| there(objects, "ServiceAccount", object.text_at("/subjects/0/name"))),
            "ServiceMonitor" => monitored(object, objects),
            "GatewayFleet" => paces(object, objects),
            "Deployment" | "StatefulSet" => {
                selects_one(objects, object.value.pointer("/spec/selector/matchLabels"))
                    .and_then(|()| object.pod().map_or(Ok(()), |pod| mounts(pod, objects)))
            }
            _ => object.pod().map_or(Ok(()), |pod| mounts(pod, objects)),
        };
        found.with_context(|| object.name())?;
    }
    Ok(())
}

fn there(objects: &[Object], kind: &str, name: &str) -> Result<()> {
    find(objects, kind, name).map(drop)
}

/// The object of this kind and name; an error if there is none.
pub(super) fn find<'a>(objects: &'a [Object], kind: &str, name: &str) -> Result<&'a Object> {
    let found =
        objects.iter().find(|object| object.kind() == kind && object.text_at("/metadata/name") == name);
    found.with_context(|| format!("there is no {kind} {name:?}"))
}

/// The pods that have all these labels; an error if there are none.
fn selected<'a>(objects: &'a [Object], labels: Option<&Value>) -> Result<Vec<&'a Value>> {
    let labels = labels.and_then(Value::as_object).context("it selects by nothing")?;
    let pods = objects.iter().filter_map(Object::pod).filter(|pod| has(&pod["metadata"]["labels"], labels));
    let pods: Vec<_> = pods.collect();
    ensure!(!pods.is_empty(), "it selects no pod: {labels:?}");
    Ok(pods)
}

fn selects(objects: &[Object], labels: Option<&Value>) -> Result<()> {
    selected(objects, labels).map(drop)
}

/// Pods of one kind, and of no other: two Deployments would take each other's away.
fn selects_one(objects: &[Object], labels: Option<&Value>) -> Result<()> {
    let pods = selected(objects, labels)?;
    ensure!(pods.len() == 1, "it selects {} kinds of pods: {labels:?}", pods.len());
    Ok(())
}

fn has(labels: &Value, wanted: &Map<String, Value>) -> bool {
    wanted.iter().all(|(key, value)| &labels[key] == value)
}

/// Each port leads to one of that name in some selected pod.
fn service(object: &Object, objects: &[Object]) -> Result<()> {
    let pods = selected(objects, object.value.pointer("/spec/selector"))?;
    for port in list(&object.value, "/spec/ports") {
        let target = &port["targetPort"];
        let open =
            pods.iter().flat_map(|pod| containers(pod)).flat_map(|container| list(container, "/ports"));
        ensure!(open.into_iter().any(|port| &port["name"] == target), "no selected pod has a port {target}");
    }
    Ok(())
}

fn ingress(object: &Object, objects: &[Object]) -> Result<()> {
    let annotations = object.value.pointer("/metadata/annotations").and_then(Value::as_object);
    let keys = annotations.into_iter().flat_map(Map::keys);
    let snippet = keys.into_iter().find(|key| key.contains("snippet"));
    ensure!(snippet.is_none(), "{snippet:?}: controllers refuse snippets unless told otherwise");
    for rule in list(&object.value, "/spec/rules") {
        for path in list(rule, "/http/paths") {
            let backend = &path["backend"]["service"];
            let service = find(objects, "Service", backend["name"].as_str().unwrap_or_default())?;
            let name = &backend["port"]["name"];
            let known = list(&service.value, "/spec/ports").iter().any(|port| &port["name"] == name);
            ensure!(known, "{} has no port {name}", service.name());
        }
    }
    Ok(())
}

fn route(object: &Object, objects: &[Object]) -> Result<()> {
    ensure!(!list(&object.value, "/spec/parentRefs").is_empty(), "it is attached to no Gateway");
    for rule in list(&object.value, "/spec/rules") {
        ensure!(!list(rule, "/backendRefs").is_empty(), "a rule leads nowhere");
        for backend in list(rule, "/backendRefs") {
            let service = find(objects, "Service", backend["name"].as_str().unwrap_or_default())?;
            let number = &backend["port"];
            let known = list(&service.value, "/spec/ports").iter().any(|port| &port["port"] == number);
            ensure!(known, "{} has no port {number}", service.name());
        }
    }
    Ok(())
}

/// The gateways' pods, which its selector has as text.
fn paces(fleet: &Object, objects: &[Object]) -> Result<()> {
    let pairs = fleet.text_at("/spec/selector").split(',').map(|pair| pair.split_once('='));
    let labels = pairs.map(|pair| pair.map(|(key, value)| (key.to_owned(), Value::from(value))));
    let labels: Map<String, Value> =
        labels.collect::<Option<_>>().context("its selector is no list of labels")?;
    ensure!(labels.get(COMPONENT).is_some_and(|component| component == "gateway"), "it selects no gateways");
    selects_one(objects, Some(&Value::Object(labels)))
}

fn monitored(object: &Object, objects: &[Object]) -> Result<()> {
    let labels = object.value.pointer("/spec/selector/matchLabels").and_then(Value::as_object);
    let labels = labels.context("it selects by nothing")?;
    let mut services = objects.iter().filter(|object| object.kind() == "Service");
    let service = services.find(|service| has(&service.value["metadata"]["labels"], labels));
    let service = service.context("it selects no Service")?;
    for endpoint in list(&object.value, "/spec/endpoints") {
        let known = list(&service.value, "/spec/ports").iter().any(|port| port["name"] == endpoint["port"]);
        ensure!(known, "{} has no port {}", service.name(), endpoint["port"]);
    }
    Ok(())
}

/// A pod's account, ConfigMaps and volumes.
fn mounts(pod: &Value, objects: &[Object]) -> Result<()> {
    if let Some(account) = pod["spec"]["serviceAccountName"].as_str() {
        there(objects, "ServiceAccount", account)?;
    }
    let volumes = list(pod, "/spec/volumes");
    for volume in volumes {
        if let Some(name) = volume["configMap"]["name"].as_str() {
            there(objects, "ConfigMap", name)?;
        }
    }
    let claims = list(pod, "/spec/volumeClaimTemplates").iter().map(|claim| &claim["metadata"]["name"]);
    let known: Vec<_> = volumes.iter().map(|volume| &volume["name"]).chain(claims).collect();
    for mount in containers(pod).flat_map(|container| list(container, "/volumeMounts")) {
        // A StatefulSet's claims are beside its template: the server's data.
        ensure!(known.contains(&&mount["name"]) || mount["name"] == "data", "no volume {}", mount["name"]);
    }
    Ok(())
}
