//! Envoy, with any configuration.

use serde_json::Value;
use tempfile::TempDir;

use crate::port::Port;
use crate::process::{Process, Program};
use crate::{PATIENCE, env};

/// A running Envoy.
#[derive(Debug)]
pub struct Envoy {
    port: Port,
    _process: Process,
    _folder: TempDir,
}

impl Envoy {
    /// One that listens on a port of its own and gives what it hears to `manager`, the configuration of an HTTP
    /// connection manager, which knows these `clusters`.
    pub async fn start(manager: &Value, clusters: &[Value]) -> Self {
        let (folder, port) = (tempfile::tempdir().expect("a temporary folder can be made"), Port::lease());
        let configuration = serde_json::json!({
            "static_resources": {
                "listeners": [{
                    "name": "http",
                    "address": address("127.0.0.1", port.number()),
                    "filter_chains": [{"filters": [{
                        "name": "envoy.filters.network.http_connection_manager",
                        "typed_config": manager,
                    }]}],
                }],
                "clusters": clusters,
            },
        });
        let file = folder.path().join("envoy.json");
        std::fs::write(&file, configuration.to_string()).expect("the folder is ours");
        let program = Program::new(env::envoy()).arg("-c").arg(&file).args([
            "--concurrency",
            "1",
            "--use-dynamic-base-id",
            "--log-level",
            "info",
        ]);
        let process = Process::spawn(program);
        process.wait_for_log_line("all dependencies initialized. starting workers", PATIENCE).await;
        Self { port, _process: process, _folder: folder }
    }

    /// `http://127.0.0.1:20017<path>`
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.port.address())
    }
}

/// As Envoy writes it.
#[must_use]
pub fn address(host: &str, port: u16) -> Value {
    serde_json::json!({"socket_address": {"address": host, "port_value": port}})
}
