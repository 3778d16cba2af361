//! What the examples in `docs/publish` are run with: the packages that they name, in Python and Node.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::{Tool, folder, install, search, text};
use crate::command;
use crate::workspace::root;

const VARIABLE: &str = "FOGHORN_TEST_PUBLISHERS_PYTHON";
/// Where pip puts them.
const ENVIRONMENT: &str = "publishers-venv";
const REQUIREMENTS: &str = "docs/publish/python/requirements.txt";
const NODE: &str = "docs/publish/node";
/// A cold machine downloads some 20 MB of packages.
const INSTALL: Duration = Duration::from_secs(5 * 60);

/// A Python that has the packages. Node finds its own beside the examples.
pub(super) fn ensure() -> Result<Tool> {
    let node = || Ok(root().join(NODE).join("node_modules/nats/package.json").is_file().then_some(()));
    install::find_or(node, || {
        println!("installing the packages of {NODE} (npm)");
        let mut npm = Command::new("npm");
        npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]).current_dir(root().join(NODE));
        command::output(&mut npm, INSTALL)
            .map(drop)
            .context("cannot install them: is there a Node 20 or newer with npm?")
    })?
    .with_context(|| format!("npm installed no packages in {NODE}"))?;
    install::find_or(python, || {
        install::pip(ENVIRONMENT, &["--requirement", &text(&root().join(REQUIREMENTS))])?;
        // What is installed, to be compared with what is wanted.
        std::fs::copy(root().join(REQUIREMENTS), installed()?).map(drop).map_err(Into::into)
    })?
    .with_context(|| format!("no Python with the packages of {REQUIREMENTS}: name one in {VARIABLE}"))
}

fn python() -> Result<Option<Tool>> {
    let program = match search::given(VARIABLE) {
        Some(given) => given,
        None => {
            let wanted = std::fs::read_to_string(root().join(REQUIREMENTS))?;
            if std::fs::read_to_string(installed()?).ok() != Some(wanted) {
                return Ok(None);
            }
            install::pip_program(ENVIRONMENT, "python")?
        }
    };
    if !program.is_file() {
        return Ok(None);
    }
    let version = search::version(&program, "--version")?;
    Ok(Some(Tool { name: "python", variable: VARIABLE, version, place: text(&program) }))
}

fn installed() -> Result<PathBuf> {
    Ok(folder()?.join(ENVIRONMENT).join("requirements.txt"))
}
