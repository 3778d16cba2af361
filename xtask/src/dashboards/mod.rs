//! Checks what is shipped for those who watch: `helm/foghorn/rules`, `helm/foghorn/dashboards`, and the pages in
//! `docs/operating` that go with them.

mod alerts;
mod panels;
mod schema;

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::workspace::root;
use crate::{command, test, tools};

/// promtool takes a second at most.
const LIMIT: Duration = Duration::from_secs(60);
const RULES: &str = "helm/foghorn/rules/foghorn.yaml";
const DASHBOARDS: &str = "helm/foghorn/dashboards";
const METRICS: &str = "docs/operating/metrics.md";

/// Everything: also each query, of a Prometheus that scrapes a cluster under load.
pub(crate) fn run() -> Result<()> {
    check()?;
    test::run(&test::Options::across_processes("dashboards::"))
}

/// What needs no cluster.
pub(crate) fn check() -> Result<()> {
    promtool(&["check", "config", "--syntax-only", "deploy/prometheus/prometheus.yml"])?;
    promtool(&["check", "rules", RULES])?;
    promtool(&["test", "rules", alerts::TESTS])?;
    let rules = yaml(RULES)?;
    alerts::check(&rules)?;
    let dashboards = panels::check()?;

    let documented = documented()?;
    let text = dashboards.iter().chain([&rules]).map(Value::to_string).collect::<String>();
    let unknown: BTreeSet<&str> = names(&text).filter(|name| !documented.contains(base(name))).collect();
    ensure!(unknown.is_empty(), "{METRICS} has no {unknown:?}, which rules or dashboards ask for");
    println!("{} dashboards and {RULES} are sound", dashboards.len());
    Ok(())
}

fn promtool(arguments: &[&str]) -> Result<()> {
    command::output(tools::promtool()?.args(arguments).current_dir(root()), LIMIT).map(drop)
}

fn yaml(path: &str) -> Result<Value> {
    let text = std::fs::read_to_string(root().join(path)).with_context(|| format!("reading {path}"))?;
    serde_saphyr::from_str(&text).with_context(|| format!("reading {path}"))
}

/// The first cells of the tables of metrics.
fn documented() -> Result<BTreeSet<String>> {
    let text = std::fs::read_to_string(root().join(METRICS)).with_context(|| format!("reading {METRICS}"))?;
    let cells = text.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    Ok(cells.map(|(name, _)| name.to_owned()).collect())
}

/// The metrics in queries, as they are exported. What rules record has colons in it.
fn names(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'));
    words.filter(|word| (word.starts_with("foghorn_") || word.starts_with("process_")) && !word.contains(':'))
}

/// The metric whose series it is one of.
fn base(name: &str) -> &str {
    ["_bucket", "_sum", "_count"].iter().find_map(|ending| name.strip_suffix(ending)).unwrap_or(name)
}
