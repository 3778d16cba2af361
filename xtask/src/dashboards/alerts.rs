//! Each alert leads to what to do about it, and is tested both ways.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::yaml;
use crate::workspace::root;

/// What promtool tests the rules with.
pub(super) const TESTS: &str = "tests/promtool/alerts.yaml";
const RUNBOOKS: &str = "docs/operating/runbooks.md";
/// Where that is for those who don't have the checkout.
const PUBLISHED: &str = "https://github.com/foghorn-push/foghorn/blob/main/";

pub(super) fn check(rules: &Value) -> Result<()> {
    let pages =
        std::fs::read_to_string(root().join(RUNBOOKS)).with_context(|| format!("reading {RUNBOOKS}"))?;
    let pages: BTreeSet<&str> = pages.lines().filter_map(|line| line.strip_prefix("## Foghorn")).collect();
    let tests = yaml(TESTS)?;
    let alerts: Vec<&Value> = list(rules, "groups")
        .iter()
        .flat_map(|group| list(group, "rules"))
        .filter(|rule| rule["alert"].is_string())
        .collect();
    for alert in &alerts {
        let name = alert["alert"].as_str().unwrap_or_default();
        let runbook = format!("{PUBLISHED}{RUNBOOKS}#{}", name.to_lowercase());
        ensure!(alert["annotations"]["runbook_url"] == runbook, "{name} doesn't lead to {runbook}");
        let page = name.strip_prefix("Foghorn").with_context(|| format!("{name} isn't named after us"))?;
        ensure!(pages.contains(page), "{RUNBOOKS} has no `## {name}`");
        let severity = alert["labels"]["severity"].as_str().unwrap_or_default();
        ensure!(["critical", "warning"].contains(&severity), "{name} has no severity");
        ensure!(
            list(&tests, "tests").iter().any(|test| tests_both(test, name)),
            "{TESTS} doesn't test {name} both ways"
        );
    }
    ensure!(alerts.len() == pages.len(), "{RUNBOOKS} has pages for alerts that there aren't: {pages:?}");
    println!("{} alerts have runbooks and tests", alerts.len());
    Ok(())
}

/// Whether it fires for `bad`, and doesn't for `good`, which has as many series.
fn tests_both(test: &Value, alert: &str) -> bool {
    let series = list(test, "input_series").iter().filter_map(|one| one["series"].as_str());
    let of = |job: &str| series.clone().filter(|one| one.contains(&format!("job=\"{job}\""))).count();
    let fires = |case: &Value| {
        let fired = list(case, "exp_alerts");
        case["alertname"] == alert && fired.len() == 1 && fired[0]["exp_labels"]["job"] == "bad"
    };
    of("bad") > 0 && of("bad") == of("good") && list(test, "alert_rule_test").iter().any(fires)
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}
