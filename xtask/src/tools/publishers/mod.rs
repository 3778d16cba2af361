//! What the examples in `docs/publish` are run with: the packages that they name, in Python and Node, and the programs
//! that Go and Java make of them, where there is a Go or a Java. (Those in Rust are part of the workspace.)

mod go;
mod java;

use std::path::{Path, PathBuf};
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

/// The protocol, of which Go and Java make their own code.
const PROTO: &str = "crates/rpc/proto";

/// For each language that is at hand, what its examples are run with.
pub(super) fn ensure() -> Result<Vec<Tool>> {
    node()?;
    let python = python()?;
    let go = go::ensure(&python)?;
    let java = java::ensure()?;
    Ok([Some(python), go, java].into_iter().flatten().collect())
}

/// Node finds its packages beside the examples.
fn node() -> Result<()> {
    let installed = || Ok(root().join(NODE).join("node_modules/nats/package.json").is_file().then_some(()));
    install::find_or(installed, || {
        println!("installing the packages of {NODE} (npm)");
        let mut npm = Command::new("npm");
        npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]).current_dir(root().join(NODE));
        command::output(&mut npm, INSTALL)
            .map(drop)
            .context("cannot install them: is there a Node 20 or newer with npm?")
    })?
    .with_context(|| format!("npm installed no packages in {NODE}"))
}

/// A Python that has the packages.
fn python() -> Result<Tool> {
    install::find_or(python_with_packages, || {
        install::pip(ENVIRONMENT, &["--requirement", &text(&root().join(REQUIREMENTS))])?;
        // What is installed, to be compared with what is wanted.
        std::fs::copy(root().join(REQUIREMENTS), installed()?).map(drop).map_err(Into::into)
    })?
    .with_context(|| format!("no Python with the packages of {REQUIREMENTS}: name one in {VARIABLE}"))
}

fn python_with_packages() -> Result<Option<Tool>> {
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

/// The text of every file of a language's example and of the protocol, to be compared with what was built last.
fn sources(example: &str, extensions: &[&str]) -> Result<String> {
    let mut paths = Vec::new();
    for folder in [example, PROTO] {
        collect(&root().join(folder), extensions, &mut paths)?;
    }
    paths.sort();
    let read = |path: &PathBuf| {
        let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        Ok(format!("{}\n{text}\n", path.display()))
    };
    paths.iter().map(read).collect()
}

fn collect(folder: &Path, extensions: &[&str], paths: &mut Vec<PathBuf>) -> Result<()> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        // What was made of it lies in folders of these names.
        if path.is_dir() && !path.ends_with("target") && !path.ends_with("go/foghorn") {
            collect(&path, extensions, paths)?;
        } else if path.extension().is_some_and(|own| extensions.iter().any(|wanted| own == *wanted)) {
            paths.push(path);
        }
    }
    Ok(())
}
