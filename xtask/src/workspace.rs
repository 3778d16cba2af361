//! Where things are in the checkout.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::command;

/// The top of the checkout.
pub(crate) fn root() -> PathBuf {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().expect("xtask/ is a folder of the workspace").to_owned()
}

/// The cargo that runs us, so that a `+toolchain` holds for what we start.
pub(crate) fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root());
    // What the cargo that runs us says of this package. Build scripts that ask for variables of these names
    // (ring's does) would run again, and all above them compile again, whenever `cargo xtask` and a plain
    // `cargo` take turns.
    let of_this_package = |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(of_this_package) {
            cargo.env_remove(name);
        }
    }
    cargo
}

/// Where cargo puts what it builds; asked, because configuration can move it.
pub(crate) fn target_dir() -> Result<PathBuf> {
    let mut metadata = cargo();
    metadata.args(["metadata", "--format-version=1", "--no-deps"]);
    let json = command::output(&mut metadata, Duration::from_secs(60))?.stdout;
    let metadata: serde_json::Value = serde_json::from_str(&json).context("reading cargo metadata")?;
    let dir = metadata["target_directory"].as_str().context("cargo metadata names no target_directory")?;
    Ok(PathBuf::from(dir))
}
