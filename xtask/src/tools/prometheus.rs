//! Prometheus and its promtool.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::{Tool, folder, install, search, text};

const VARIABLE: &str = "FOGHORN_TEST_PROMETHEUS_BIN";

/// The folder of both.
pub(super) fn ensure() -> Result<Tool> {
    let unpack = || install::apt_unpack("prometheus", &unpacked()?);
    install::find_or(find, unpack)?.context(
        "no Prometheus 2.40 or newer: install one and name the folder of prometheus and promtool in FOGHORN_TEST_PROMETHEUS_BIN",
    )
}

/// `promtool`
pub(crate) fn promtool() -> Result<Command> {
    Ok(Command::new(Path::new(&ensure()?.place).join("promtool")))
}

fn find() -> Result<Option<Tool>> {
    let on_path = search::candidates("", &["promtool"]).into_iter();
    let folders = match search::given(VARIABLE) {
        Some(given) => vec![given],
        None => on_path
            .filter_map(|program| program.parent().map(Path::to_owned))
            .chain([unpacked()?.join("usr/bin")])
            .collect(),
    };
    for folder in folders {
        if !folder.join("prometheus").is_file() || !folder.join("promtool").is_file() {
            continue;
        }
        let version = search::version(&folder.join("promtool"), "--version")?;
        if search::major_minor(&version) >= (2, 40) {
            return Ok(Some(Tool { name: "prometheus", variable: VARIABLE, version, place: text(&folder) }));
        }
    }
    Ok(None)
}

fn unpacked() -> Result<PathBuf> {
    Ok(folder()?.join("prometheus"))
}
