//! A real browser, for what only a browser does: its own EventSource.

use std::path::Path;

use fantoccini::{Client, ClientBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use crate::port::Port;
use crate::process::{Process, Program, others};
use crate::{PATIENCE, env};

/// A headless chromium with a fresh profile, and its driver.
#[derive(Debug)]
pub struct Chrome {
    client: Client,
    driver: Process,
    _port: Port,
    folder: TempDir,
}

impl Chrome {
    /// A browser, ready, on an empty page. It trusts any certificate.
    pub async fn start() -> Self {
        let port = Port::lease();
        let folder = tempfile::Builder::new().prefix("foghorn-test-chromium-").tempdir();
        let folder = folder.expect("a temporary folder can be made");
        // What a killed browser leaves lying about goes with the folder.
        let program = Program::new(env::chromedriver())
            .arg(format!("--port={}", port.number()))
            .env("TMPDIR", folder.path());
        let driver = Process::spawn(program);
        driver.wait_for_log_line("was started successfully", PATIENCE).await;

        let url = format!("http://{}", port.address());
        let mut builder = ClientBuilder::new(HttpConnector::new());
        builder.capabilities(capabilities(&folder.path().join("profile")));
        let client = match tokio::time::timeout(PATIENCE, builder.connect(&url)).await {
            Ok(Ok(client)) => client,
            Ok(Err(error)) => panic!("{}", driver.report(&format!("started no chromium: {error}"))),
            Err(_) => panic!("{}", driver.report(&format!("started no chromium within {PATIENCE:?}"))),
        };
        Self { client, driver, _port: port, folder }
    }

    /// The session with it.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }
}

impl Drop for Chrome {
    fn drop(&mut self) {
        // In this order: the driver might report, or restart, what is taken from it. The browser and its many helpers
        // are in other process groups; they are found by the folder that is theirs alone.
        self.driver.kill();
        let helpers = others::mentioning(&self.folder.path().display().to_string());
        if !others::kill(&helpers, PATIENCE) {
            eprintln!("chromium was killed and is still there: {helpers:?}");
        }
    }
}

fn capabilities(profile: &Path) -> Map<String, Value> {
    let arguments = [
        "--headless",
        // Its sandbox needs what a container does not have.
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        // With a pipe it ends when its driver does, even if that is killed.
        "--remote-debugging-pipe",
    ];
    let mut arguments: Vec<String> = arguments.map(str::to_owned).into();
    arguments.push(format!("--user-data-dir={}", profile.display()));
    let options = json!({"binary": env::chromium(), "args": arguments});
    let capabilities = [("acceptInsecureCerts", json!(true)), ("goog:chromeOptions", options)];
    capabilities.map(|(name, value)| (name.to_owned(), value)).into_iter().collect()
}
