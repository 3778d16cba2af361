//! What the tests break things with: strace, which records what a process writes and kills it in the middle of
//! that, libfaketime, which gives a process another time, and what makes networks that can be cut.

use std::path::PathBuf;

use anyhow::{Context, Result};

use super::{Tool, install, search, text};

pub(super) fn strace() -> Result<Tool> {
    const VARIABLE: &str = "FOGHORN_TEST_STRACE";
    let find = || -> Result<Option<Tool>> {
        let Some(program) = search::candidates(VARIABLE, &["strace"]).into_iter().next() else {
            return Ok(None);
        };
        let version = search::version(&program, "--version")?;
        Ok(Some(Tool { name: "strace", variable: VARIABLE, version, place: text(&program) }))
    };
    install::find_or(find, || install::apt(&["strace"]))?
        .context("no strace: install it and put it on the PATH or in FOGHORN_TEST_STRACE")
}

pub(super) fn faketime() -> Result<Tool> {
    const VARIABLE: &str = "FOGHORN_TEST_FAKETIME";
    let find = || {
        let library = search::given(VARIABLE).into_iter().chain(libraries()).find(|path| path.is_file());
        let tool = |path: PathBuf| Tool {
            name: "libfaketime",
            variable: VARIABLE,
            version: "as installed".into(),
            place: text(&path),
        };
        Ok(library.map(tool))
    };
    install::find_or(find, || install::apt(&["libfaketime"]))?
        .context("no libfaketime: install it and name its libfaketime.so.1 in FOGHORN_TEST_FAKETIME")
}

/// The programs that make network namespaces and drop packets between them.
pub(super) fn networks() -> Result<()> {
    let there = |program: &str| !search::on_path(&[program]).is_empty();
    let find = || Ok(["ip", "iptables", "nsenter", "unshare"].into_iter().all(there).then_some(()));
    install::find_or(find, || install::apt(&["iproute2", "iptables", "util-linux"]))?
        .context("no ip, iptables, nsenter or unshare: install iproute2, iptables and util-linux")
}

/// Where Debian and others have it.
fn libraries() -> impl Iterator<Item = PathBuf> {
    let folders = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten().map(|entry| entry.path());
    folders
        .chain([PathBuf::from("/usr/lib"), PathBuf::from("/usr/lib64"), PathBuf::from("/usr/local/lib")])
        .map(|folder| folder.join("faketime/libfaketime.so.1"))
}
