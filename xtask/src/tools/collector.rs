//! An OpenTelemetry collector: Rotel's agent, which writes down what it gets.

use std::path::PathBuf;

use anyhow::{Context, Result};

use super::{Tool, folder, install, search, text};

const VARIABLE: &str = "FOGHORN_TEST_COLLECTOR";
const PACKAGE: &str = "rotel==0.0.1a15";
const ENVIRONMENT: &str = "collector-venv";

pub(super) fn ensure() -> Result<Tool> {
    install::find_or(find, || install::pip(ENVIRONMENT, &[PACKAGE]))?
        .context("no OpenTelemetry collector: put Rotel's rotel-agent on the PATH or name it in FOGHORN_TEST_COLLECTOR")
}

fn find() -> Result<Option<Tool>> {
    let found = search::candidates(VARIABLE, &["rotel-agent"]).into_iter().chain(ours()?).next();
    let Some(program) = found else { return Ok(None) };
    let version = search::version(&program, "--version")?;
    Ok(Some(Tool { name: "rotel", variable: VARIABLE, version, place: text(&program) }))
}

/// Where pip put it: beside its Python module, below a folder named after Python's version.
fn ours() -> Result<Option<PathBuf>> {
    let Ok(versions) = std::fs::read_dir(folder()?.join(ENVIRONMENT).join("lib")) else { return Ok(None) };
    let programs =
        versions.filter_map(|version| Some(version.ok()?.path().join("site-packages/rotel/rotel-agent")));
    Ok(programs.into_iter().find(|program| program.is_file()))
}
