//! What is shipped for those who watch, against a real Prometheus that scrapes a real cluster under load: the queries of
//! dashboards and rules, and what docs/operating/metrics.md says of what is exported.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use foghorn_tests::cluster::Cluster;
use foghorn_tests::foghorn::Foghorn;
use foghorn_tests::load::{Load, Plan};
use foghorn_tests::prometheus::{JOB, Prometheus, promtool};
use foghorn_tests::wait::until;
use foghorn_tests::{env, http};
use serde_json::Value;
use tokio::time::{Instant, sleep};

/// How long the last of the panels may take to have something.
const FILLED: Duration = Duration::from_secs(60);
/// How often they are looked at.
const LOOK: Duration = Duration::from_millis(250);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_panel_shows_something_of_a_cluster_under_load_and_no_alert_fires() {
    let cluster = Cluster::start_with_canaries(2, "1s").await;
    let targets: Vec<&str> = cluster.services().map(Foghorn::admin).collect();
    let rules = env::checkout().join("helm/foghorn/rules/foghorn.yaml");
    let prometheus = Prometheus::start(&targets, &rules).await;
    let plan = Plan { publishers: 8, listeners: 24, pause: Duration::from_millis(40), ..Plan::default() };
    let load = Load::start(&cluster, plan).await;

    let documented = documented();
    let mut empty: BTreeMap<String, String> = queries().into_iter().collect();
    assert!(empty.len() > 80, "only {} queries in the dashboards", empty.len());
    let deadline = Instant::now() + FILLED;
    while !empty.is_empty() {
        let mut still = BTreeMap::new();
        for (place, query) in empty {
            let samples = prometheus.query(&query).await.unwrap_or_else(|error| panic!("{place}: {error}"));
            // What begins with the first of its kind may have had none.
            let excused = names(&query).any(|name| documented.get(name) == Some(&When::First));
            if !excused && !samples.iter().any(|sample| sample.value.is_finite()) {
                still.insert(place, query);
            }
        }
        empty = still;
        assert!(Instant::now() < deadline, "nothing to show after {FILLED:?} of load: {empty:#?}");
        assert_eq!(load.violations(), Vec::<String>::new());
        sleep(LOOK).await;
    }

    recorded(&prometheus).await;
    let firing = prometheus.query(r#"ALERTS{alertstate="firing"}"#).await.unwrap();
    assert!(firing.is_empty(), "a cluster that is well has alerts: {firing:#?}");
    assert_eq!(load.finish(&cluster).await, Vec::<String>::new());

    let mut exported = BTreeSet::new();
    for service in cluster.services() {
        exported.extend(families(service.admin()).await);
    }
    let standalone = Foghorn::spawn(
        &[
            "standalone",
            "--ephemeral",
            "--listen",
            "127.0.0.1:0",
            "--grpc",
            "127.0.0.1:0",
            "--admin",
            "127.0.0.1:0",
        ],
        &[],
    )
    .await;
    exported.extend(families(standalone.admin()).await);
    let known: BTreeSet<String> = documented.keys().cloned().collect();
    let unknown: Vec<_> = exported.difference(&known).collect();
    assert!(unknown.is_empty(), "docs/operating/metrics.md says nothing of {unknown:?}");
    let always = documented.iter().filter(|(_, when)| **when == When::Always).map(|(name, _)| name);
    let gone: Vec<_> = always.filter(|name| !exported.contains(*name)).collect();
    assert!(gone.is_empty(), "docs/operating/metrics.md has what nobody exports: {gone:?}");
}

/// Every rule was evaluated without an error, and what is recorded has a value.
async fn recorded(prometheus: &Prometheus) {
    let rules = prometheus.rules().await;
    assert!(rules.len() > 20, "{rules:#?}");
    for rule in &rules {
        let name = rule["name"].as_str().unwrap();
        until(&format!("{name} to be evaluated"), FILLED, async || {
            let rules = prometheus.rules().await;
            let now = rules.iter().find(|now| now["name"] == rule["name"])?;
            assert_ne!(now["health"], "err", "{name}: {}", now["lastError"]);
            (now["health"] == "ok").then_some(())
        })
        .await;
        if rule["type"] == "recording" {
            until(&format!("{name} to have a value"), FILLED, async || {
                let samples = prometheus.query(name).await.unwrap();
                samples.iter().any(|sample| sample.value.is_finite()).then_some(())
            })
            .await;
        }
    }
}

/// The names that a process exports, without the endings of samples; promtool finds nothing wrong with them.
async fn families(admin: &str) -> BTreeSet<String> {
    let text = http::get(&format!("http://{admin}/metrics")).await.unwrap().body.as_str().unwrap().to_owned();
    lint(&text);
    let families = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    families.map(|(name, kind)| exposed(name, kind)).collect()
}

/// `OpenMetrics` names counters without `_total`, and Prometheus with it.
fn exposed(name: &str, kind: &str) -> String {
    match kind {
        "counter" => format!("{name}_total"),
        "info" => format!("{name}_info"),
        _ => name.to_owned(),
    }
}

/// `promtool check metrics`, which reads the older of the two formats.
fn lint(text: &str) {
    let mut plain = String::new();
    for line in text.lines() {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        match words[..] {
            ["#", "HELP", name, help] => {
                let kind = text.lines().find_map(|line| line.strip_prefix(&format!("# TYPE {name} ")));
                plain += &format!("# HELP {} {help}\n", exposed(name, kind.unwrap()));
            }
            ["#", "TYPE", name, kind] => {
                let plain_kind = if kind == "info" { "gauge" } else { kind };
                plain += &format!("# TYPE {} {plain_kind}\n", exposed(name, kind));
            }
            ["#", ..] => {}
            _ => plain += &format!("{line}\n"),
        }
    }
    let mut check = Command::new(promtool())
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    check.stdin.take().unwrap().write_all(plain.as_bytes()).unwrap();
    let said = check.wait_with_output().unwrap();
    let words = String::from_utf8_lossy(&said.stdout) + String::from_utf8_lossy(&said.stderr);
    assert!(said.status.success() && words.trim().is_empty(), "promtool check metrics: {words}");
}

/// Each query of each dashboard by its place, as Grafana would ask it.
fn queries() -> Vec<(String, String)> {
    let folder = env::checkout().join("helm/foghorn/dashboards");
    let mut queries = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        let dashboard: Value = serde_json::from_str(&text).unwrap();
        for panel in dashboard["panels"].as_array().unwrap() {
            for target in panel["targets"].as_array().unwrap() {
                let word = |value: &Value| value.as_str().unwrap().to_owned();
                let place = format!(
                    "{}: {}, {}",
                    word(&dashboard["title"]),
                    word(&panel["title"]),
                    word(&target["refId"])
                );
                let query = word(&target["expr"])
                    .replace("$__rate_interval", "30s")
                    .replace("$namespace", ".*")
                    .replace("$job", JOB);
                queries.push((place, query));
            }
        }
    }
    queries
}

/// When a metric is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    Always,
    /// Once there was something to count, or where something is configured: marked with a † in the documentation.
    First,
}

/// What docs/operating/metrics.md has: the first cells of its tables.
fn documented() -> BTreeMap<String, When> {
    let text = std::fs::read_to_string(env::checkout().join("docs/operating/metrics.md")).unwrap();
    let cells = text.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    let metrics = cells.map(|(name, rest)| {
        (name.to_owned(), if rest.starts_with(" †") { When::First } else { When::Always })
    });
    metrics.collect()
}

/// The metrics in a query, as they are documented.
fn names(query: &str) -> impl Iterator<Item = &str> {
    let words = query.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'));
    words.filter(|word| word.starts_with("foghorn_") || word.starts_with("process_"))
}
