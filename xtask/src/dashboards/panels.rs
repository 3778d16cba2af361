//! What holds for every dashboard, that Grafana would otherwise be the first to see.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{DASHBOARDS, LIMIT, schema};
use crate::workspace::root;
use crate::{command, tools};

/// How wide a dashboard is, in Grafana's units.
const WIDTH: u64 = 24;
const KINDS: [&str; 3] = ["heatmap", "stat", "timeseries"];

/// All of them, in order.
pub(super) fn check() -> Result<Vec<Value>> {
    let entries =
        std::fs::read_dir(root().join(DASHBOARDS)).with_context(|| format!("reading {DASHBOARDS}"))?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    paths.sort();
    ensure!(paths.len() >= 6, "{DASHBOARDS} has hardly any dashboards");
    let (mut dashboards, mut queries, mut files) = (Vec::new(), Vec::new(), Vec::new());
    for path in paths {
        let place = path.strip_prefix(root()).unwrap_or(&path).display().to_string();
        let text = std::fs::read_to_string(&path).with_context(|| format!("reading {place}"))?;
        let dashboard: Value = serde_json::from_str(&text).with_context(|| format!("reading {place}"))?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        ensure!(dashboard["uid"] == *name, "{place} has another uid than its name");
        shape(&dashboard, &mut queries).with_context(|| place.clone())?;
        dashboards.push(dashboard);
        files.push((place, text));
    }
    let variables = &dashboards[0]["templating"];
    let odd = dashboards.iter().find(|dashboard| &dashboard["templating"] != variables);
    ensure!(
        odd.is_none(),
        "{} has other variables: links between them would lose some",
        odd.unwrap_or(&Value::Null)["uid"]
    );
    parse(&queries)?;
    schema::check(&files)?;
    Ok(dashboards)
}

fn shape(dashboard: &Value, queries: &mut Vec<String>) -> Result<()> {
    let panels = dashboard["panels"].as_array().context("it has no panels")?;
    ensure!(dashboard["title"].as_str().is_some_and(|title| title.starts_with("Foghorn / ")), "its title");
    let (mut ids, mut taken) = (BTreeSet::new(), BTreeSet::new());
    for panel in panels {
        let title = panel["title"].as_str().unwrap_or_default();
        let says = |key: &str| panel[key].as_str().is_some_and(|text| !text.is_empty());
        ensure!(says("title") && says("description"), "panel {title:?} doesn't say what it shows");
        ensure!(ids.insert(panel["id"].as_u64()), "two panels have the id {}", panel["id"]);
        ensure!(KINDS.iter().any(|kind| panel["type"] == *kind), "panel {title:?} is a {}", panel["type"]);
        ensure!(panel["fieldConfig"]["defaults"]["unit"].is_string(), "panel {title:?} has no unit");
        ensure!(
            panel["datasource"] == json!({"type": "prometheus", "uid": "${datasource}"}),
            "panel {title:?} asks elsewhere"
        );
        place(&panel["gridPos"], &mut taken).with_context(|| format!("panel {title:?}"))?;
        let targets = panel["targets"].as_array().filter(|targets| !targets.is_empty());
        let mut letters = BTreeSet::new();
        for target in targets.with_context(|| format!("panel {title:?} asks nothing"))? {
            let query = target["expr"].as_str().unwrap_or_default();
            ensure!(letters.insert(target["refId"].as_str()), "panel {title:?} has two queries of one name");
            ensure!(!target["legendFormat"].as_str().unwrap_or_default().is_empty(), "{query} has no legend");
            let ours = query.matches(r#"{namespace=~"$namespace",job=~"$job""#).count()
                + query.matches(r#",namespace=~"$namespace",job=~"$job"}"#).count();
            ensure!(ours == query.matches('{').count(), "{query} looks at other installations too");
            queries.push(query.to_owned());
        }
    }
    Ok(())
}

/// A panel's place, which no other has.
fn place(at: &Value, taken: &mut BTreeSet<(u64, u64)>) -> Result<()> {
    let number = |key: &str| at[key].as_u64().with_context(|| format!("it has no gridPos.{key}"));
    let (x, y, w, h) = (number("x")?, number("y")?, number("w")?, number("h")?);
    ensure!(w > 0 && h > 0 && x + w <= WIDTH, "it is outside");
    let free = (x..x + w).all(|x| (y..y + h).all(|y| taken.insert((x, y))));
    ensure!(free, "it lies on another");
    Ok(())
}

/// Prometheus's own parser reads every query: as rules that would record them.
fn parse(queries: &[String]) -> Result<()> {
    let rules: Vec<Value> = queries
        .iter()
        .enumerate()
        .map(|(number, query)| {
            json!({"record": format!("query:{number}"), "expr": query.replace("$__rate_interval", "1m")})
        })
        .collect();
    let file = tempfile::NamedTempFile::new().context("creating a temporary file for the queries")?;
    // JSON is YAML.
    std::fs::write(&file, json!({"groups": [{"name": "queries", "rules": rules}]}).to_string())?;
    command::output(tools::promtool()?.args(["check", "rules"]).arg(file.path()), LIMIT)
        .context("a dashboard has a query that is none")?;
    println!("{} queries parsed", queries.len());
    Ok(())
}
