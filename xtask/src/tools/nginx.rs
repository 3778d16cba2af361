//! nginx, the ingress that browsers reach the gateways through; and nchan, which the benchmark compares with.

use std::path::Path;

use anyhow::{Context, Result};

use super::{Tool, install, search, text};

const VARIABLE: &str = "FOGHORN_TEST_NGINX";
/// A module of nginx, where Debian puts it and the benchmark looks.
const NCHAN: &str = "/usr/lib/nginx/modules/ngx_nchan_module.so";

pub(super) fn ensure() -> Result<Tool> {
    install::find_or(find, || install::apt(&["nginx"]))?
        .context("no nginx: install it and put it on the PATH or in FOGHORN_TEST_NGINX")
}

/// Finds or installs nchan. `foghorn bench sweep` does without where there is none.
pub(crate) fn nchan() {
    let find = || Ok(Path::new(NCHAN).is_file().then_some(NCHAN));
    match install::find_or(find, || install::apt(&["libnginx-mod-nchan"])) {
        Ok(Some(place)) => println!("{:<14} {:<16} {place}", "nchan", "as installed"),
        Ok(None) => println!("nchan: not at {NCHAN}; benchmarks do without"),
        Err(error) => println!("nchan: {error:#}; benchmarks do without"),
    }
}

fn find() -> Result<Option<Tool>> {
    let Some(program) = search::candidates(VARIABLE, &["nginx"]).into_iter().next() else { return Ok(None) };
    let version = search::version(&program, "-v")?;
    Ok(Some(Tool { name: "nginx", variable: VARIABLE, version, place: text(&program) }))
}
