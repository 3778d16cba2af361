//! Chromium and the driver that goes with it: a native EventSource is only in a browser.

use anyhow::{Context, Result};

use super::{Tool, install, search, text};

const PACKAGES: [&str; 2] = ["chromium", "chromium-driver"];

pub(super) fn browser() -> Result<Tool> {
    ensure("chromium", "FOGHORN_TEST_CHROMIUM", &["chromium", "chromium-browser", "google-chrome"])
        .context("no chromium: install it and put it on the PATH or in FOGHORN_TEST_CHROMIUM")
}

pub(super) fn driver() -> Result<Tool> {
    ensure("chromedriver", "FOGHORN_TEST_CHROMEDRIVER", &["chromedriver"])
        .context("no chromedriver: install the one of your chromium's version and put it on the PATH or in FOGHORN_TEST_CHROMEDRIVER")
}

fn ensure(name: &'static str, variable: &'static str, programs: &[&str]) -> Result<Tool> {
    let find = || -> Result<Option<Tool>> {
        let Some(program) = search::candidates(variable, programs).into_iter().next() else {
            return Ok(None);
        };
        let version = search::version(&program, "--version")?;
        Ok(Some(Tool { name, variable, version, place: text(&program) }))
    };
    install::find_or(find, || install::apt(&PACKAGES))?.context("not found after its installation")
}
