//! The image in which everything is compiled: the one that the Dockerfile names, or where that can't be pulled one like
//! it, made of Debian's packages, the Rust of this machine and the sources of the crates. Nothing is fetched within it.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::engine::Engine;
use crate::workspace::{cargo, target_dir};
use crate::{command, tools};

/// As in the Dockerfile.
const NAMED: &str = "rust:1.95-bookworm";
const MADE: &str = "foghorn-builder:local";
const PACKAGES: &str = "ca-certificates,gcc,g++,libc6-dev,make";
/// Long enough for what is fetched.
const LIMIT: Duration = Duration::from_secs(15 * 60);

pub(super) enum Base {
    Named,
    Made,
}

impl Base {
    /// What `docker build` is told of it.
    pub(super) fn arguments(&self) -> Vec<String> {
        match self {
            Base::Named => Vec::new(),
            Base::Made => vec!["--network=none".to_owned(), format!("--build-arg=BUILDER={MADE}")],
        }
    }
}

pub(super) fn ensure(engine: &Engine) -> Result<Base> {
    // An engine of our own has no network to build in.
    if !engine.is_ours() && command::output(engine.docker().args(["pull", "--quiet", NAMED]), LIMIT).is_ok() {
        return Ok(Base::Named);
    }
    println!("{NAMED} can't be pulled: making one of Debian's packages and this Rust");
    let root = target_dir()?.join("image-root");
    debian(&root)?;
    rust(&root)?;
    crates(&root)?;
    import(engine, &root)?;
    Ok(Base::Made)
}

fn debian(root: &Path) -> Result<()> {
    // Written last of all.
    if root.join("etc/ssl/certs/ca-certificates.crt").is_file() {
        return Ok(());
    }
    fs::remove_dir_all(root).ok();
    let mut make = tools::debootstrap()?;
    make.args(["--variant=minbase", "--include", PACKAGES, "bookworm"])
        .arg(root)
        .arg(tools::debian_mirror()?);
    command::output(&mut make, LIMIT).map(drop).context("making a Debian")
}

fn rust(root: &Path) -> Result<()> {
    let mut ask = Command::new("rustc");
    let from = command::output(ask.args(["--print", "sysroot"]), Duration::from_secs(60))?.stdout;
    let to = root.join("usr/local/rust");
    fs::create_dir_all(&to)?;
    let mut copy = Command::new("cp");
    copy.args(["--archive", "--force", "--"]);
    copy.args(
        ["bin", "lib", "libexec"].map(|part| Path::new(from.trim()).join(part)).iter().filter(|p| p.exists()),
    );
    command::run(copy.arg(&to), LIMIT).context("copying Rust")?;
    fs::copy(tools::cyclonedx()?, root.join("usr/local/bin/cargo-cyclonedx"))?;
    Ok(())
}

/// Puts the crates' sources there, and tells cargo to take them.
fn crates(root: &Path) -> Result<()> {
    let folder = root.join("vendor");
    let said = command::output(cargo().args(["vendor", "--locked"]).arg(&folder), LIMIT)?.stdout;
    let configuration = said.replace(&*folder.to_string_lossy(), "/vendor");
    ensure!(configuration.contains("/vendor"), "cargo vendor said nothing to configure");
    let home = root.join("usr/local/cargo");
    fs::create_dir_all(&home)?;
    fs::write(home.join("config.toml"), configuration + "\n[net]\noffline = true\n").map_err(Into::into)
}

fn import(engine: &Engine, root: &Path) -> Result<()> {
    let environment = "ENV PATH=/usr/local/rust/bin:/usr/local/bin:/usr/bin:/bin CARGO_HOME=/usr/local/cargo";
    let mut tar = Command::new("tar");
    let mut tar =
        tar.arg("-C").arg(root).args(["-c", "."]).stdout(Stdio::piped()).spawn().context("starting tar")?;
    let archive = tar.stdout.take().context("tar has no output")?;
    let mut import = engine.docker();
    let status = import.args(["import", "--change", environment, "-", MADE]).stdin(archive).status()?;
    ensure!(status.success() && tar.wait()?.success(), "the base image could not be imported");
    Ok(())
}
