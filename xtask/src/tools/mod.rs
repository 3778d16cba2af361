//! The real components that the tests run: found where they are, or installed.
//!
//! Where they were found is written to `.tools/paths`, for a plain `cargo test`.

mod charts;
mod chromium;
mod collector;
mod compiler;
mod envoy;
mod faults;
mod grafana;
mod image;
mod install;
mod kubernetes;
mod nats;
mod nginx;
mod postgres;
mod prometheus;
mod publishers;
mod search;

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::workspace::root;

pub(crate) use self::charts::{ChartTools, chart_tools};
pub(crate) use self::compiler::compiler;
pub(crate) use self::grafana::grafana_types;
pub(crate) use self::image::{cyclonedx, debian_mirror, debootstrap, docker, hadolint};
pub(crate) use self::kubernetes::kubernetes;
pub(crate) use self::nginx::nchan;
pub(crate) use self::prometheus::promtool;

/// A component in working order.
struct Tool {
    name: &'static str,
    /// The variable by which the tests are told where it is, and by which a person can say which one to use.
    variable: &'static str,
    version: String,
    /// A program, or PostgreSQL's folder of programs, or the URL of a server that runs already.
    place: String,
}

/// All that the tests need.
pub(crate) struct Tools(Vec<Tool>);

impl Tools {
    /// What the tests have to find in their environment.
    pub(crate) fn environment(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|tool| (tool.variable, tool.place.as_str()))
    }
}

impl fmt::Display for Tools {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|tool| writeln!(out, "{tool}"))
    }
}

impl fmt::Display for Tool {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:<14} {:<16} {}", self.name, self.version, self.place)
    }
}

/// Finds every tool, after installing those that are missing.
pub(crate) fn ensure() -> Result<Tools> {
    faults::networks()?;
    let mut tools = vec![
        postgres::ensure()?,
        nats::ensure()?,
        nginx::ensure()?,
        envoy::ensure()?,
        prometheus::ensure()?,
        collector::ensure()?,
        chromium::browser()?,
        chromium::driver()?,
        faults::strace()?,
        faults::faketime()?,
    ];
    tools.extend(publishers::ensure()?);
    let tools = Tools(tools);
    note_places(&tools)?;
    Ok(tools)
}

/// The folder of what is installed for this checkout alone.
fn folder() -> Result<PathBuf> {
    let folder = root().join(".tools");
    std::fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    Ok(folder)
}

fn note_places(tools: &Tools) -> Result<()> {
    // A server that somebody runs is theirs to name each time: it may be gone tomorrow.
    let installed = tools.environment().filter(|(variable, _)| !variable.ends_with("_URL"));
    let lines: String = installed.map(|(variable, place)| format!("{variable}={place}\n")).collect();
    let path = folder()?.join("paths");
    if std::fs::read_to_string(&path).is_ok_and(|old| old == lines) {
        return Ok(());
    }
    // Renamed into place: a test that starts meanwhile reads the old file or the new one, never half of one.
    let fresh = folder()?.join(format!("paths.{}", std::process::id()));
    std::fs::write(&fresh, lines).with_context(|| format!("writing {}", fresh.display()))?;
    std::fs::rename(&fresh, &path).with_context(|| format!("writing {}", path.display()))
}

/// A server of the person's own, if `variable` gives its URL.
fn running_server(name: &'static str, variable: &'static str) -> Option<Tool> {
    let url = std::env::var(variable).ok().filter(|url| !url.is_empty())?;
    Some(Tool { name, variable, version: "as it runs".into(), place: url })
}

fn text(path: &Path) -> String {
    path.display().to_string()
}
