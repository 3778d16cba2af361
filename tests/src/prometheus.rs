//! Prometheus, and what it answers.

use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;

use crate::port::Port;
use crate::process::{Process, Program};
use crate::wait::until;
use crate::{PATIENCE, env, http};

/// What it scrapes as.
pub const JOB: &str = "foghorn";

/// A server that scrapes every second.
#[derive(Debug)]
pub struct Prometheus {
    port: Port,
    _process: Process,
    _folder: TempDir,
}

/// One series' newest value.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Its labels, the name included.
    pub labels: Value,
    /// May be NaN.
    pub value: f64,
}

impl Prometheus {
    /// A server that scrapes these admin addresses and evaluates these rules, ready.
    pub async fn start(targets: &[&str], rules: &Path) -> Self {
        let (folder, port) = (tempfile::tempdir().expect("a temporary folder can be made"), Port::lease());
        // JSON is YAML.
        let configuration = serde_json::json!({
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": [rules],
            "scrape_configs": [{"job_name": JOB, "static_configs": [{"targets": targets}]}],
        });
        let file = folder.path().join("prometheus.yml");
        std::fs::write(&file, configuration.to_string()).expect("the folder is ours");
        let program = Program::new(env::prometheus_bin().join("prometheus"))
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg(format!("--web.listen-address={}", port.address()))
            .arg("--log.level=warn");
        let server = Self { port, _process: Process::spawn(program), _folder: folder };
        until("Prometheus to be ready", PATIENCE, async || {
            let reply = http::get(&server.url("/-/ready")).await.ok()?;
            (reply.status == 200).then_some(())
        })
        .await;
        server
    }

    /// What a query gives now; an error says what is wrong with it.
    pub async fn query(&self, query: &str) -> Result<Vec<Sample>, String> {
        let reply = http::get(&self.url(&format!("/api/v1/query?query={}", percent_encoded(query)))).await;
        let body = reply.map_err(|error| format!("{error:#}"))?.body;
        if body["status"] != "success" {
            return Err(format!("{query}: {}", body["error"]));
        }
        let series =
            body["data"]["result"].as_array().ok_or_else(|| format!("{query}: no vector: {body}"))?;
        let value = |one: &Value| one["value"][1].as_str()?.parse().ok();
        let sample = |one: &Value| Some(Sample { labels: one["metric"].clone(), value: value(one)? });
        series.iter().map(|one| sample(one).ok_or_else(|| format!("{query}: not a sample: {one}"))).collect()
    }

    /// The rules as they were last evaluated.
    pub async fn rules(&self) -> Vec<Value> {
        let body = http::get(&self.url("/api/v1/rules")).await.expect("Prometheus answers").body;
        let groups = body["data"]["groups"].as_array().cloned().unwrap_or_default();
        groups.iter().flat_map(|group| group["rules"].as_array().cloned().unwrap_or_default()).collect()
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.port.address())
    }
}

/// The program that checks what is for Prometheus.
#[must_use]
pub fn promtool() -> PathBuf {
    env::prometheus_bin().join("promtool")
}

fn percent_encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}
