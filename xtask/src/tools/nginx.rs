//! nginx, the ingress that browsers reach the gateways through.

use anyhow::{Context, Result};

use super::{Tool, install, search, text};

const VARIABLE: &str = "FOGHORN_TEST_NGINX";

pub(super) fn ensure() -> Result<Tool> {
    install::find_or(find, || install::apt(&["nginx"]))?
        .context("no nginx: install it and put it on the PATH or in FOGHORN_TEST_NGINX")
}

fn find() -> Result<Option<Tool>> {
    let Some(program) = search::candidates(VARIABLE, &["nginx"]).into_iter().next() else { return Ok(None) };
    let version = search::version(&program, "-v")?;
    Ok(Some(Tool { name: "nginx", variable: VARIABLE, version, place: text(&program) }))
}
