//! What helm makes of the chart, as objects.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::{NAMESPACE, chart};
use crate::command;
use crate::tools::ChartTools;

/// helm takes a fifth of a second.
pub(super) const LIMIT: Duration = Duration::from_secs(60);

/// One rendered object.
#[derive(Debug, Clone)]
pub(super) struct Object {
    /// As it was rendered, so that validators read what Kubernetes would.
    pub(super) text: String,
    pub(super) value: Value,
}

impl Object {
    /// `Deployment/foghorn-gateway`
    pub(super) fn name(&self) -> String {
        format!("{}/{}", self.kind(), self.text_at("/metadata/name"))
    }

    pub(super) fn kind(&self) -> &str {
        self.text_at("/kind")
    }

    /// The text at a place, empty if there is none.
    pub(super) fn text_at(&self, pointer: &str) -> &str {
        self.value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }

    /// What pods it makes, if it makes any: {metadata, spec}.
    pub(super) fn pod(&self) -> Option<&Value> {
        match self.kind() {
            "Pod" => Some(&self.value),
            "Deployment" | "StatefulSet" | "Job" => self.value.pointer("/spec/template"),
            _ => None,
        }
    }
}

/// The items of a list at a place; none if there is no list.
pub(super) fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// A pod's containers, those that run first included.
pub(super) fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    list(pod, "/spec/initContainers").iter().chain(list(pod, "/spec/containers"))
}

/// `helm lint`, where a warning is an error.
pub(super) fn lint(tools: &ChartTools, values: &Path) -> Result<()> {
    let mut lint = tools.helm();
    lint.args(["lint", "--strict", "--namespace", NAMESPACE, "--values"]).arg(values).arg(chart());
    command::output(&mut lint, LIMIT).map(drop)
}

/// What `helm install` would send with these values.
pub(super) fn template(tools: &ChartTools, values: &Path) -> Result<Vec<Object>> {
    let mut template = tools.helm();
    template.args(["template", "foghorn"]).arg(chart());
    template.args(["--namespace", NAMESPACE, "--values"]).arg(values);
    objects(&command::output(&mut template, LIMIT)?.stdout)
}

/// The objects of a file of manifests.
pub(super) fn objects(manifests: &str) -> Result<Vec<Object>> {
    let mut texts = vec![String::new()];
    for line in manifests.lines() {
        if line == "---" {
            texts.push(String::new());
        } else if let Some(text) = texts.last_mut() {
            text.extend([line, "\n"]);
        }
    }
    let mut objects = Vec::new();
    for text in texts {
        let value: Value =
            serde_saphyr::from_str(&text).with_context(|| format!("reading the YAML\n{text}"))?;
        if !value.is_null() {
            objects.push(Object { text, value });
        }
    }
    Ok(objects)
}
