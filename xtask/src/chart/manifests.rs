//! `k8s/`: the chart rendered to plain manifests, for those who use kustomize, and checked to be what the chart gives.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::{Case, chart, render};
use crate::command;
use crate::tools::ChartTools;
use crate::workspace::root;

/// The files that are rendered, beside the `kustomization.yaml` that lists them.
const BASE: &str = "k8s/base";
/// What the base is rendered with.
const VALUES: &str = "k8s/values.yaml";
/// What can be built: the base, and the example of an overlay.
const BUILT: [&str; 2] = [BASE, "k8s/overlays/production"];
const NAMESPACE: &str = "foghorn";
/// Labels of a release that Helm looks after. Nobody does after these.
const OF_RELEASES: [&str; 2] = ["helm.sh/chart: ", "app.kubernetes.io/managed-by: "];

/// Writes the base.
pub(super) fn write(tools: &ChartTools) -> Result<()> {
    for (file, text) in render(tools)? {
        let path = base().join(&file);
        std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        println!("{BASE}/{file}");
    }
    Ok(())
}

/// Fails when the committed files are not what the chart gives; gives what kustomize builds of them.
pub(super) fn check(tools: &ChartTools) -> Result<Vec<Case>> {
    let fresh = render(tools)?;
    let entries = std::fs::read_dir(base()).with_context(|| format!("reading {BASE}"))?;
    let mut committed = BTreeMap::new();
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name != "kustomization.yaml" {
            committed.insert(name, std::fs::read_to_string(&path)?);
        }
    }
    let stale = committed.keys().chain(fresh.keys()).find(|name| committed.get(*name) != fresh.get(*name));
    ensure!(
        stale.is_none(),
        "{BASE}/{} is not what the chart gives: run `cargo xtask chart --write` and commit the result",
        stale.map_or("", String::as_str)
    );
    BUILT.iter().map(|folder| build(tools, folder)).collect()
}

fn base() -> PathBuf {
    root().join(BASE)
}

fn build(tools: &ChartTools, folder: &str) -> Result<Case> {
    let mut kustomize = tools.kubectl();
    kustomize.arg("kustomize").arg(root().join(folder));
    let objects = render::objects(&command::output(&mut kustomize, render::LIMIT)?.stdout)?;
    Ok(Case { name: folder.to_owned(), objects })
}

/// The files of the base, by name: one for each of the chart's templates. Hooks are left out, as only Helm runs them.
fn render(tools: &ChartTools) -> Result<BTreeMap<String, String>> {
    let mut template = tools.helm();
    template.args(["template", "foghorn", "--no-hooks", "--namespace", NAMESPACE, "--values"]);
    template.arg(root().join(VALUES)).arg(chart());
    let rendered = command::output(&mut template, render::LIMIT)?.stdout;
    let mut files: BTreeMap<String, String> = BTreeMap::new();
    for document in rendered.split("---\n# Source: ").skip(1) {
        let (source, text) = document.split_once('\n').context("helm names no source")?;
        let name = Path::new(source).file_name().context("a source without a name")?.to_string_lossy();
        let of_release = |line: &str| OF_RELEASES.iter().any(|label| line.trim_start().starts_with(label));
        let file = files.entry(name.into_owned()).or_insert_with(|| {
            format!("# Rendered from {source} by `cargo xtask chart --write`.\n")
                .replace("foghorn/", "helm/foghorn/")
        });
        file.push_str("---\n");
        for line in text.trim_end().lines().filter(|line| !of_release(line)) {
            file.extend([line, "\n"]);
        }
    }
    Ok(files)
}
