//! The files of a server that a benchmark starts.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;

use anyhow::Context as _;

/// A folder for this user alone, which is gone with this.
pub(super) struct Folder(PathBuf);

impl Folder {
    /// One of this process with this name.
    pub(super) fn make(name: &str) -> anyhow::Result<Self> {
        let path = std::env::temp_dir().join(format!("foghorn-bench-{name}-{}", std::process::id()));
        let made = DirBuilder::new().mode(0o700).create(&path);
        made.with_context(|| format!("can't make the folder {}", path.display()))?;
        Ok(Folder(path))
    }

    /// The path of a file in it, whether there is one or not.
    pub(super) fn path(&self, name: &str) -> anyhow::Result<String> {
        let path = self.0.join(name).into_os_string().into_string();
        path.ok().context("the directory for temporary files has a name that is not UTF-8")
    }

    /// Writes a file; gives its path.
    pub(super) fn write(&self, name: &str, text: &str) -> anyhow::Result<String> {
        let path = self.path(name)?;
        fs::write(&path, text).with_context(|| format!("can't write {path}"))?;
        Ok(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("could not remove {}: {error}", self.0.display());
        }
    }
}
