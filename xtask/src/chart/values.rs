//! Whether the schema of the values, the values themselves and the product's configuration know the same names.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{chart, render};
use crate::command;

/// What the chart itself decides, so that nobody can set it.
const DECIDED: [&str; 24] = [
    "allow_anonymous",
    "auth.keys",
    "auth.webhook.ca",
    "auth.webhook.secret",
    "auth.webhook.secret_file",
    "eventlog.ca",
    "eventlog.certificate",
    "eventlog.key",
    "eventlog.url",
    "gateway.connections",
    "gateway.drain_delay",
    "gateway.drain_wait",
    "gateway.drain_window",
    "http.connections",
    "nats.ca",
    "nats.certificate",
    "nats.credentials",
    "nats.key",
    "nats.password",
    "nats.token",
    "nats.url",
    "nats.user",
    "telemetry.traces.ca",
    "telemetry.traces.headers",
];
/// Tables and keys that are for one who runs the product in another way, or that hold a secret.
const ELSEWHERE: [&str; 8] = [
    "canary.standalone",
    "grpc.tls",
    "http.tls",
    "listen",
    "operator",
    "outbox",
    "postgres.url",
    "standalone",
];

/// helm sees to it that `values.yaml` has nothing that the schema doesn't know; this sees to the rest.
pub(super) fn check(binary: &Path) -> Result<()> {
    let schema = std::fs::read_to_string(chart().join("values.schema.json"))?;
    let schema: Value = serde_json::from_str(&schema).context("reading values.schema.json")?;
    let values = std::fs::read_to_string(chart().join("values.yaml"))?;
    let values: Value = serde_saphyr::from_str(&values).context("reading values.yaml")?;
    documented(&schema, &values, "")?;
    strict(&schema, "")?;

    let release = std::fs::read_to_string(chart().join("Chart.yaml"))?;
    let release: Value = serde_saphyr::from_str(&release).context("reading Chart.yaml")?;
    let version = command::output(Command::new(binary).arg("--version"), render::LIMIT)?.stdout;
    let expected = format!("foghorn {}", release["appVersion"].as_str().unwrap_or_default());
    ensure!(version.trim() == expected, "Chart.yaml is of {expected}, and the product of {}", version.trim());

    let mut show = Command::new(binary);
    show.args(["config", "show", "--json"]).env_clear();
    let shown: Value = serde_json::from_str(&command::output(&mut show, render::LIMIT)?.stdout)?;
    let product: BTreeSet<String> = keys(&shown, "").collect();
    let chart: BTreeSet<String> = properties(&schema["properties"]["config"], "").collect();
    let unknown: Vec<_> = chart.difference(&product).collect();
    ensure!(
        unknown.is_empty(),
        "values.schema.json has keys under config that the product doesn't: {unknown:?}"
    );
    let decided = |key: &&String| DECIDED.contains(&key.as_str()) || within(key, &ELSEWHERE);
    let missing: Vec<_> = product.difference(&chart).filter(|key| !decided(key)).collect();
    ensure!(
        missing.is_empty(),
        "values.schema.json lacks keys under config that the product has: {missing:?}"
    );
    Ok(())
}

fn within(key: &str, tables: &[&str]) -> bool {
    tables
        .iter()
        .any(|table| key.strip_prefix(table).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
}

/// The keys of a configuration, lists as one.
fn keys<'a>(value: &'a Value, above: &str) -> Box<dyn Iterator<Item = String> + 'a> {
    let Some(table) = value.as_object() else { return Box::new(std::iter::once(above.to_owned())) };
    let above = above.to_owned();
    Box::new(table.iter().flat_map(move |(key, value)| keys(value, &join(&above, key))))
}

/// The same of a schema.
fn properties<'a>(schema: &'a Value, above: &str) -> Box<dyn Iterator<Item = String> + 'a> {
    let Some(table) = schema["properties"].as_object() else {
        return Box::new(std::iter::once(above.to_owned()));
    };
    let above = above.to_owned();
    Box::new(table.iter().flat_map(move |(key, schema)| properties(schema, &join(&above, key))))
}

fn join(above: &str, key: &str) -> String {
    if above.is_empty() { key.to_owned() } else { format!("{above}.{key}") }
}

/// Everything that can be set stands in `values.yaml`, but for the product's own keys, which its documentation has.
fn documented(schema: &Value, values: &Value, above: &str) -> Result<()> {
    for (key, schema) in schema["properties"].as_object().into_iter().flatten() {
        let path = join(above, key);
        if path == "global" || path.starts_with("config.") {
            continue;
        }
        ensure!(values.get(key).is_some(), "values.yaml says nothing of {path}");
        documented(schema, &values[key], &path)?;
    }
    Ok(())
}

/// No object takes names that it doesn't list.
fn strict(schema: &Value, place: &str) -> Result<()> {
    match schema {
        Value::Object(members) => {
            if members.get("properties").is_some_and(Value::is_object) && members.get("type").is_some() {
                let closed = members.get("additionalProperties") == Some(&Value::Bool(false));
                ensure!(closed, "values.schema.json takes any name at {place:?}");
            }
            members.iter().try_for_each(|(key, value)| strict(value, &join(place, key)))
        }
        Value::Array(items) => items.iter().try_for_each(|item| strict(item, place)),
        _ => Ok(()),
    }
}
