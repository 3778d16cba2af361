//! Grafana's own types, which know every field that its dashboards may have.

use anyhow::{Context, Result};

use super::LIMIT;
use crate::{command, tools};

/// Each of these files, which are JSON and so TypeScript as well.
pub(super) fn check(files: &[(String, String)]) -> Result<()> {
    let (home, mut compiler) = tools::grafana_types()?;
    let mut module = String::from("import type { Dashboard } from '@grafana/schema';\n");
    for (number, (name, text)) in files.iter().enumerate() {
        // On the line of the last brace, or it would be another statement.
        let text = text.trim_end();
        module += &format!("// {name}\nexport const d{number} = {text} satisfies Partial<Dashboard>;\n");
    }
    let folder = tempfile::tempdir_in(&home).context("creating a temporary folder for the dashboards")?;
    let file = folder.path().join("dashboards.ts");
    std::fs::write(&file, module)?;
    let options = ["--noEmit", "--strict", "--skipLibCheck", "--module", "preserve", "--target", "es2022"];
    compiler.args(options).arg(&file).current_dir(&home);
    // What is wrong stands on standard output.
    command::run(&mut compiler, LIMIT).context("a dashboard isn't one for Grafana")
}
