//! Kubernetes' own schemas, of three versions.

use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};

use super::render::Object;
use crate::command;
use crate::tools::ChartTools;

/// The oldest that the chart is for, one between, and the newest there is.
const VERSIONS: [&str; 3] = ["1.30.0", "1.34.0", "1.37.0"];
/// Kinds that aren't Kubernetes' own, so that there are no schemas of them; `references` looks at what they refer to.
const OTHERS: [&str; 5] = ["GatewayFleet", "HTTPRoute", "PrometheusRule", "ScaledObject", "ServiceMonitor"];

/// Validates each distinct object against each version.
pub(super) fn check<'a>(tools: &ChartTools, objects: impl Iterator<Item = &'a Object>) -> Result<()> {
    let mut texts = BTreeSet::new();
    let mut left_out = BTreeSet::new();
    for object in objects {
        if OTHERS.contains(&object.kind()) {
            left_out.insert(object.kind());
        } else {
            texts.insert(object.text.as_str());
        }
    }
    let folder = tempfile::tempdir().context("creating a temporary folder for the objects")?;
    let file = folder.path().join("objects.yaml");
    std::fs::write(&file, texts.iter().flat_map(|text| ["---\n", text]).collect::<String>())?;

    let validate = |version: &str| {
        let mut validate = tools.validator();
        validate.args(["--strict", "--quiet", "-k", version]).arg(&file);
        let said = command::output(&mut validate, Duration::from_secs(120))
            .with_context(|| format!("not what Kubernetes {version} takes"))?;
        let said = said.stdout + &said.stderr;
        ensure!(said.trim().is_empty(), "Kubernetes {version}: {said}");
        Ok(())
    };
    thread::scope(|scope| {
        let running: Vec<_> = VERSIONS.iter().map(|version| scope.spawn(|| validate(version))).collect();
        running
            .into_iter()
            .try_for_each(|one| one.join().unwrap_or_else(|_| Err(anyhow!("the validation panicked"))))
    })?;
    println!("{} distinct objects are what Kubernetes {} take", texts.len(), VERSIONS.join(", "));
    if !left_out.is_empty() {
        println!("without schemas, so only their references were checked: {left_out:?}");
    }
    Ok(())
}
