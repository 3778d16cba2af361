//! A service as one writes it with axum, `foghorn-bench-axum` of this repository: compared with where it is built.

use std::path::{Path, PathBuf};

use anyhow::ensure;

const PROGRAM: &str = "foghorn-bench-axum";

/// The program that is named, or the one beside this program, if there is one.
pub(super) fn find(named: Option<&Path>) -> anyhow::Result<Option<PathBuf>> {
    if let Some(path) = named {
        ensure!(
            path.is_file(),
            "{} is not there: `cargo build --release --workspace --bins` makes it, target/release/{PROGRAM}",
            path.display()
        );
        return Ok(Some(path.to_owned()));
    }
    let beside = std::env::current_exe()?.with_file_name(PROGRAM);
    Ok(beside.is_file().then_some(beside))
}
