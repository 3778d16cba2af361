//! A C++ compiler, for what guides the fuzz targets. The tests need none, and are told of none: build scripts
//! would compile again.

use anyhow::{Context, Result};

use super::{install, search, text};

/// As the build scripts look for it.
const VARIABLE: &str = "CXX";

/// Finds one or installs it, and says which.
pub(crate) fn compiler() -> Result<()> {
    let find = || Ok(search::candidates(VARIABLE, &["c++"]).into_iter().next());
    let program = install::find_or(find, || install::apt(&["g++"]))?
        .context("no C++ compiler: install one and put it on the PATH as c++, or name it in CXX")?;
    // A bare name is found on the PATH by those who use it.
    let version = search::version(&program, "-dumpversion")?;
    println!("{:<14} {version:<16} {}", "c++", text(&program));
    Ok(())
}
