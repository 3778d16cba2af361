//! Whether the chart gives the rules and dashboards as they are.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::chart;
use super::render::Object;

/// Some case has all of them, and whatever case has one has it to the letter.
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
    for object in objects {
        if object.kind() == "PrometheusRule" {
            ensure!(
                object.value["spec"] == rules,
                "{} has other rules than rules/foghorn.yaml",
                object.name()
            );
            has_rules = true;
        }
        let files = object.value["data"].as_object().into_iter().flatten();
        for (name, text) in files.filter(|(name, _)| name.ends_with(".json")) {
            let shipped = dashboards.get(name).with_context(|| format!("{} has a {name}", object.name()))?;
            ensure!(text == shipped, "{} has another {name} than dashboards/", object.name());
            missing.remove(name);
        }
    }
    ensure!(has_rules, "no case of ci/ has a PrometheusRule");
    ensure!(missing.is_empty(), "no case of ci/ has {:?}", missing.keys());
    Ok(())
}
