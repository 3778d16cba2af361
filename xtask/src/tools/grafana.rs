//! The types of Grafana's own dashboards, and the compiler that holds ours against them. There is no Grafana to be had
//! by a package manager.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use super::{folder, install};

const PACKAGES: [&str; 2] = ["@grafana/schema@13.2.0", "typescript@7.0.2"];

/// A folder in which a file of TypeScript finds `@grafana/schema`, and the compiler in it.
pub(crate) fn grafana_types() -> Result<(PathBuf, Command)> {
    let home = folder()?.join("grafana");
    let find = || {
        let there = |file: &str| home.join("node_modules").join(file).is_file();
        let all = there("@grafana/schema/package.json") && there("typescript/package.json");
        Ok(all.then(|| home.join("node_modules/.bin/tsc")))
    };
    let compiler = install::find_or(find, || install::npm(&home, &PACKAGES))?
        .context("npm installed no @grafana/schema and typescript")?;
    Ok((home, Command::new(compiler)))
}
