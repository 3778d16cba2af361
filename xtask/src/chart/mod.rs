//! Checks the Helm chart and what is rendered from it.
//!
//! Every file of values in `helm/foghorn/ci` is a case: it is linted, rendered, and all that is rendered is held
//! against Kubernetes' schemas, the restricted Pod Security Standard, and itself (what refers to something must find it).
//! Each configuration goes through the product's own check, at the paths where the pod would have it. So does what is
//! committed in `k8s/`, which has to be what the chart gives.

mod configuration;
mod credentials;
mod definitions;
mod drain;
mod manifests;
mod monitoring;
mod references;
mod refusals;
mod render;
mod schemas;
mod security;
mod values;

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use crate::chart::render::Object;
use crate::test;
use crate::tools::{ChartTools, chart_tools};
use crate::workspace::root;

/// The namespace that everything is rendered for.
const NAMESPACE: &str = "push";

/// The chart's folder.
fn chart() -> PathBuf {
    root().join("helm/foghorn")
}

/// Renders `k8s/` from the chart, and the custom resource definitions from the product.
pub(crate) fn write() -> Result<()> {
    definitions::write(&test::build(&test::Options::everything())?)?;
    manifests::write(&chart_tools()?)
}

/// All checks.
pub(crate) fn check() -> Result<()> {
    let tools = chart_tools()?;
    print!("{tools}");
    let binary = test::build(&test::Options::everything())?;
    definitions::check(&binary)?;
    values::check(&binary)?;
    refusals::check(&tools)?;

    let configurations = configuration::Checker::new(&tools, binary)?;
    let mut cases = rendered_cases(&tools)?;
    cases.iter().try_for_each(|case| case.check(&configurations))?;
    credentials::check(&cases)?;
    monitoring::check(cases.iter().flat_map(|case| &case.objects))?;
    schemas::check(&tools, cases.iter().flat_map(|case| &case.objects))?;

    // After the chart, which says more about what is wrong than that its manifests are others.
    cases = manifests::check(&tools)?;
    cases.iter().try_for_each(|case| case.check(&configurations))?;
    schemas::check(&tools, cases.iter().flat_map(|case| &case.objects))
}

/// What is rendered at once.
struct Case {
    /// Where it is from.
    name: String,
    objects: Vec<Object>,
}

impl Case {
    fn check(&self, configurations: &configuration::Checker) -> Result<()> {
        let objects = &self.objects;
        let all = || {
            security::check(objects)?;
            references::check(objects)?;
            drain::check(objects)?;
            configurations.check(objects)
        };
        all().with_context(|| format!("what {} gives", self.name))?;
        println!("{}: {} objects", self.name, objects.len());
        Ok(())
    }
}

fn rendered_cases(tools: &ChartTools) -> Result<Vec<Case>> {
    let folder = chart().join("ci");
    let entries = std::fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))?;
    let mut files: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.sort();
    ensure!(files.len() >= 5, "{} has hardly any values to render with", folder.display());
    let each = files.into_iter().map(|file| {
        let name = file.strip_prefix(root()).unwrap_or(&file).display().to_string();
        render::lint(tools, &file)?;
        let objects = render::template(tools, &file).with_context(|| format!("rendering {name}"))?;
        // In another namespace it would be with `kubectl apply` than it is with `helm install`.
        let elsewhere = objects.iter().find(|object| object.text_at("/metadata/namespace") != NAMESPACE);
        ensure!(
            elsewhere.is_none(),
            "{name}: {} has no namespace",
            elsewhere.map_or(String::new(), Object::name)
        );
        Ok(Case { name, objects })
    });
    each.collect()
}
