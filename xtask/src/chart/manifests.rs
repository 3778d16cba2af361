//! `k8s/`: the chart rendered to plain manifests, for those who use kustomize, and checked to be what the chart gives.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::{Case, chart, render};
use crate::command;
use crate::tools::ChartTools;
use crate::workspace::root;

/// The files that are rendered, beside the `kustomization.yaml` that lists them.
const BASE: &str = "k8s/base";
/// What the base is rendered with.
const VALUES: &str = "k8s/values.yaml";
/// The ways in, of which an installation has one: a folder each, and the chart's template that is rendered into it.
const WAYS_IN: [&str; 3] = ["ingress-nginx", "nginx-f5", "gateway-api"];
/// What can be built: the base, and the example of an overlay.
const BUILT: [&str; 2] = [BASE, "k8s/overlays/production"];
const NAMESPACE: &str = "foghorn";
/// Labels of a release that Helm looks after. Nobody does after these.
const OF_RELEASES: [&str; 2] = ["helm.sh/chart: ", "app.kubernetes.io/managed-by: "];

/// A file in the checkout, and what it is to have in it.
type Files = BTreeMap<String, String>;

/// Writes what is rendered.
pub(super) fn write(tools: &ChartTools) -> Result<()> {
    for (file, text) in rendered(tools)? {
        std::fs::write(root().join(&file), text).with_context(|| format!("writing {file}"))?;
        println!("{file}");
    }
    Ok(())
}

/// Fails when the committed files are not what the chart gives; gives what kustomize builds of them.
pub(super) fn check(tools: &ChartTools) -> Result<Vec<Case>> {
    let fresh = rendered(tools)?;
    let mut committed = Files::new();
    for folder in [BASE.to_owned()].into_iter().chain(WAYS_IN.map(way_in)) {
        for entry in std::fs::read_dir(root().join(&folder)).with_context(|| format!("reading {folder}"))? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name != "kustomization.yaml" {
                committed.insert(format!("{folder}/{name}"), std::fs::read_to_string(&path)?);
            }
        }
    }
    let stale = committed.keys().chain(fresh.keys()).find(|name| committed.get(*name) != fresh.get(*name));
    ensure!(
        stale.is_none(),
        "{} is not what the chart gives: run `cargo xtask chart --write` and commit the result",
        stale.map_or("", String::as_str)
    );
    BUILT.iter().map(|folder| build(tools, folder)).collect()
}

fn rendered(tools: &ChartTools) -> Result<Files> {
    let mut files = Files::new();
    for flavor in WAYS_IN {
        let template = format!("{flavor}.yaml");
        let settings = [format!("ingress.flavor={flavor}"), "ingress.parentRefs[0].name=foghorn".to_owned()];
        let mut of_chart = render(tools, &settings)?;
        let text = of_chart.remove(&template).with_context(|| format!("the chart has no {template}"))?;
        files.insert(format!("{}/{template}", way_in(flavor)), text);
        for (name, text) in of_chart {
            let file = format!("{BASE}/{name}");
            ensure!(
                files.get(&file).is_none_or(|of_others| *of_others == text),
                "{file} differs with the way in, so it can't be in the base"
            );
            files.insert(file, text);
        }
    }
    Ok(files)
}

fn way_in(flavor: &str) -> String {
    format!("k8s/ingress/{flavor}")
}

fn build(tools: &ChartTools, folder: &str) -> Result<Case> {
    let mut kustomize = tools.kubectl();
    kustomize.arg("kustomize").arg(root().join(folder));
    let objects = render::objects(&command::output(&mut kustomize, render::LIMIT)?.stdout)?;
    Ok(Case { name: folder.to_owned(), objects })
}

/// The chart's templates with these settings besides, by their names. Hooks are left out, as only Helm runs them.
fn render(tools: &ChartTools, settings: &[String]) -> Result<Files> {
    let mut template = tools.helm();
    template.args(["template", "foghorn", "--no-hooks", "--namespace", NAMESPACE, "--values"]);
    template.arg(root().join(VALUES)).arg(chart());
    settings.iter().for_each(|setting| _ = template.args(["--set", setting]));
    let rendered = command::output(&mut template, render::LIMIT)?.stdout;
    let mut files = Files::new();
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
