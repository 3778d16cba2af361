//! Whether the chart gives the rules and dashboards as they are.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::chart;
use super::render::{Object, list};

/// How Prometheus calls a pod's label, with `_` for what no label of its own may have.
const POD_LABEL: &str = "__meta_kubernetes_pod_label_";

/// Some case has all of them, and whatever case has one has it to the letter. What alerts tell apart by pods' labels, pods
/// have.
pub(super) fn check<'a>(objects: impl Iterator<Item = &'a Object>) -> Result<()> {
    let rules = std::fs::read_to_string(chart().join("rules/foghorn.yaml"))?;
    let rules: Value = serde_saphyr::from_str(&rules).context("reading rules/foghorn.yaml")?;
    let mut dashboards = BTreeMap::new();
    for entry in std::fs::read_dir(chart().join("dashboards"))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        dashboards.insert(name, std::fs::read_to_string(path)?);
    }

    let (mut has_rules, mut missing) = (false, dashboards.clone());
    let (mut wanted, mut had) = (BTreeSet::new(), BTreeSet::new());
    for object in objects {
        if object.kind() == "PrometheusRule" {
            ensure!(
                object.value["spec"] == rules,
                "{} has other rules than rules/foghorn.yaml",
                object.name()
            );
            has_rules = true;
        }
        wanted.extend(pod_labels_read(object));
        let labels = object.pod().and_then(|pod| pod["metadata"]["labels"].as_object());
        had.extend(labels.into_iter().flatten().map(|(label, _)| label.replace(['.', '/', '-'], "_")));
        let files = object.value["data"].as_object().into_iter().flatten();
        for (name, text) in files.filter(|(name, _)| name.ends_with(".json")) {
            let shipped = dashboards.get(name).with_context(|| format!("{} has a {name}", object.name()))?;
            ensure!(text == shipped, "{} has another {name} than dashboards/", object.name());
            missing.remove(name);
        }
    }
    ensure!(wanted.is_subset(&had), "no pod has what a ServiceMonitor reads of {:?}", &wanted - &had);
    ensure!(!wanted.is_empty(), "no ServiceMonitor tells outboxes apart");
    ensure!(has_rules, "no case of ci/ has a PrometheusRule");
    ensure!(missing.is_empty(), "no case of ci/ has {:?}", missing.keys());
    Ok(())
}

/// The labels of pods that a ServiceMonitor has Prometheus take over, as Prometheus calls them.
fn pod_labels_read(object: &Object) -> impl Iterator<Item = String> {
    let relabelings = list(&object.value, "/spec/endpoints").iter().flat_map(|one| list(one, "/relabelings"));
    let sources = relabelings.flat_map(|one| list(one, "/sourceLabels")).filter_map(Value::as_str);
    sources.filter_map(|source| source.strip_prefix(POD_LABEL)).map(str::to_owned)
}
