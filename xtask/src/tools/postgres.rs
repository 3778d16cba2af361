//! PostgreSQL's server programs, 15 or newer.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{Tool, install, running_server, search, text};

const VARIABLE: &str = "FOGHORN_TEST_PG_BIN";
/// Debian keeps each major version's programs apart, off the PATH.
const DEBIAN: &str = "/usr/lib/postgresql";

pub(super) fn ensure() -> Result<Tool> {
    if let Some(server) = running_server("postgresql", "FOGHORN_TEST_POSTGRES_URL") {
        return Ok(server);
    }
    install::find_or(find, || install::apt(&["postgresql"]))?
        .context("no PostgreSQL 15 or newer: install one and name the folder of its programs in FOGHORN_TEST_PG_BIN, or give a server's URL in FOGHORN_TEST_POSTGRES_URL")
}

fn find() -> Result<Option<Tool>> {
    for folder in folders() {
        if !folder.join("initdb").is_file() || !folder.join("postgres").is_file() {
            continue;
        }
        let version = search::version(&folder.join("postgres"), "--version")?;
        if search::major_minor(&version) >= (15, 0) {
            return Ok(Some(Tool { name: "postgresql", variable: VARIABLE, version, place: text(&folder) }));
        }
    }
    Ok(None)
}

fn folders() -> Vec<PathBuf> {
    if let Some(given) = search::given(VARIABLE) {
        return vec![given];
    }
    // `postgres` on the PATH is often a link out of the folder that has the rest.
    let on_path =
        search::candidates("", &["postgres"]).into_iter().filter_map(|program| program.canonicalize().ok());
    let on_path = on_path.filter_map(|program| program.parent().map(Path::to_owned));
    on_path.chain(debian_folders()).collect()
}

fn debian_folders() -> Vec<PathBuf> {
    let versions = std::fs::read_dir(DEBIAN).into_iter().flatten().filter_map(|entry| entry.ok());
    let mut folders: Vec<PathBuf> = versions.map(|version| version.path().join("bin")).collect();
    folders.sort_by_key(|folder| {
        std::cmp::Reverse(search::major_minor(&text(folder).replace(DEBIAN, "").replace('/', "")))
    });
    folders
}
