//! The examples in Go: generated, compiled into `.tools/publishers-go`.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::sources;
use crate::command;
use crate::tools::{Tool, folder, install, search, text};
use crate::workspace::root;

const VARIABLE: &str = "FOGHORN_TEST_PUBLISHERS_GO";
const EXAMPLES: &str = "docs/publish/go";
/// What go.mod asks for.
const VERSION_MIN: (u32, u32) = (1, 26);
/// A cold machine downloads some 30 MB and compiles them.
const BUILD: Duration = Duration::from_secs(10 * 60);

/// The folder of the programs; nothing if there is no Go that can make them. `python` has a protoc.
pub(super) fn ensure(python: &Tool) -> Result<Option<Tool>> {
    let Some(go) = search::on_path(&["go"]).into_iter().next() else {
        println!("no go here: the examples in {EXAMPLES} aren't run");
        return Ok(None);
    };
    let version = command::output(offline(Command::new(&go).args(["env", "GOVERSION"])), BUILD)?.stdout;
    let version = version.trim().trim_start_matches("go").to_owned();
    if search::major_minor(&version) < VERSION_MIN {
        println!("go is {version}, too old for the examples in {EXAMPLES}: they aren't run");
        return Ok(None);
    }
    let programs = folder()?.join("publishers-go");
    let wanted = sources(EXAMPLES, &["go", "mod", "sum", "proto"])?;
    let stamp = programs.join("sources");
    let find = || Ok((std::fs::read_to_string(&stamp).ok().as_ref() == Some(&wanted)).then_some(()));
    install::find_or(find, || {
        println!("building {EXAMPLES} (go)");
        build(&go, &programs, &python.place)?;
        std::fs::write(&stamp, &wanted).map_err(Into::into)
    })?
    .with_context(|| format!("cannot build {EXAMPLES}"))?;
    Ok(Some(Tool { name: "go", variable: VARIABLE, version, place: text(&programs) }))
}

fn build(go: &Path, programs: &Path, python: &str) -> Result<()> {
    let plugins = programs.join("plugins");
    std::fs::create_dir_all(&plugins)?;
    // `go generate` looks for a protoc; the Python package has one under another name.
    let protoc = plugins.join("protoc");
    std::fs::write(&protoc, format!("#!/bin/sh\nexec '{python}' -m grpc_tools.protoc \"$@\"\n"))?;
    std::fs::set_permissions(&protoc, std::fs::Permissions::from_mode(0o755))?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths([plugins.clone()].into_iter().chain(std::env::split_paths(&path)))?;
    let output: PathBuf = programs.join("");
    for arguments in
        [&["install", "tool"][..], &["generate", "./..."], &["build", "-o", &text(&output), "./..."]]
    {
        let mut command = Command::new(go);
        command.args(arguments).current_dir(root().join(EXAMPLES)).env("PATH", &path).env("GOBIN", &plugins);
        command::output(offline(&mut command), BUILD)?;
    }
    Ok(())
}

/// No other Go than the one that is here is downloaded.
fn offline(command: &mut Command) -> &mut Command {
    command.env("GOTOOLCHAIN", "local")
}
