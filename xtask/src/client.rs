//! What runs in browsers. The client, `clients/typescript`: checked, tested in Node and in Chromium against the product's
//! binary, packed, and used from a fresh project. And what is built over it: the console, `clients/console`, and the demo,
//! `clients/demo`.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::workspace::root;
use crate::{command, test, tools};

/// A cold machine downloads some 60 MB of packages for each of them.
const INSTALL: Duration = Duration::from_secs(5 * 60);
const CHECK: Duration = Duration::from_secs(2 * 60);
const TEST: Duration = Duration::from_secs(5 * 60);

const CLIENT: &str = "clients/typescript";
const CONSOLE: Page = Page { folder: "clients/console", assets: "crates/foghorn/assets/console", out: &[] };
const DEMO: Page = Page { folder: "clients/demo", assets: "crates/foghorn/assets/demo", out: &["--outDir"] };

/// A page that the binary embeds.
struct Page {
    folder: &'static str,
    /// What is embedded of it.
    assets: &'static str,
    /// What its build is told before another folder to write to.
    out: &'static [&'static str],
}

/// Needs Node 20 or newer with npm; the rest is found or installed.
pub(crate) fn run() -> Result<()> {
    let tools = tools::ensure()?;
    // Before the binary is built, which embeds it.
    for folder in [CLIENT, CONSOLE.folder, DEMO.folder] {
        // What the lock file says and nothing else. No package needs its scripts here, so none is run.
        command::run(npm(folder).args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]), INSTALL)?;
        command::run(npm(folder).args(["run", "check"]), CHECK)?;
    }
    CONSOLE.compare()?;
    DEMO.compare()?;
    let binary = test::build(&test::Options::everything())?;
    for folder in [CLIENT, CONSOLE.folder, DEMO.folder] {
        command::run(npm(folder).arg("test").env("FOGHORN_BIN", &binary).envs(tools.environment()), TEST)?;
    }
    Ok(())
}

impl Page {
    /// Whether what is embedded is what the sources give.
    fn compare(&self) -> Result<()> {
        let built = root().join("target/built-assets").join(self.folder);
        let mut build = npm(self.folder);
        command::run(build.args(["run", "build", "--"]).args(self.out).arg(&built), CHECK)?;
        for entry in std::fs::read_dir(&built)? {
            let name = entry?.file_name();
            let embedded = root().join(self.assets).join(&name);
            ensure!(
                read(&built.join(&name))? == read(&embedded)?,
                "{} isn't what {} gives: run `npm run build` there",
                embedded.display(),
                self.folder
            );
        }
        Ok(())
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("reading {}", path.display()))
}

fn npm(folder: &str) -> Command {
    let mut npm = Command::new("npm");
    npm.current_dir(root().join(folder));
    npm
}
