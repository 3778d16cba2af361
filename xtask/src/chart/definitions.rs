//! The custom resource definitions, which the product prints: in the chart, where Helm installs them first, and in
//! `k8s/`.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::render;
use crate::command;
use crate::workspace::root;

const FILES: [&str; 2] = ["helm/foghorn/crds/foghorn.yaml", "k8s/crds/foghorn.yaml"];

/// Writes them.
pub(super) fn write(binary: &Path) -> Result<()> {
    let text = printed(binary)?;
    for file in FILES {
        let path = root().join(file);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(&path, &text).with_context(|| format!("writing {file}"))?;
        println!("{file}");
    }
    Ok(())
}

/// Fails when the committed files aren't what the product prints.
pub(super) fn check(binary: &Path) -> Result<()> {
    let text = printed(binary)?;
    for file in FILES {
        let committed =
            std::fs::read_to_string(root().join(file)).with_context(|| format!("reading {file}"))?;
        ensure!(
            committed == text,
            "{file} is not what `foghorn operator crds` prints: run `cargo xtask chart --write` and commit the result"
        );
    }
    Ok(())
}

fn printed(binary: &Path) -> Result<String> {
    Ok(command::output(Command::new(binary).args(["operator", "crds"]), render::LIMIT)?.stdout)
}
