//! The gRPC code of `crates/rpc`, generated from its `.proto` file without protoc and committed:
//! a build needs neither a generator nor a network.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::command;
use crate::workspace::root;

const PROTO_DIR: &str = "crates/rpc/proto";
const PROTO: &str = "foghorn/v1/foghorn.proto";
const GENERATED: &str = "crates/rpc/src/generated";
/// The code, and the descriptors that gRPC reflection serves.
const FILES: [&str; 2] = ["foghorn.v1.rs", "foghorn.v1.bin"];

/// Writes the generated files into the source tree.
pub(crate) fn write() -> Result<()> {
    let fresh = generate()?;
    let target = root().join(GENERATED);
    std::fs::create_dir_all(&target).with_context(|| format!("creating {}", target.display()))?;
    for file in FILES {
        let path = target.join(file);
        std::fs::copy(fresh.path().join(file), &path)
            .with_context(|| format!("writing {}", path.display()))?;
        println!("{GENERATED}/{file}");
    }
    Ok(())
}

/// Fails when the committed files are not what the `.proto` file says.
pub(crate) fn check() -> Result<()> {
    let fresh = generate()?;
    let stale: Vec<String> = FILES
        .into_iter()
        .filter(|file| {
            std::fs::read(root().join(GENERATED).join(file)).ok()
                != std::fs::read(fresh.path().join(file)).ok()
        })
        .map(|file| format!("{GENERATED}/{file}"))
        .collect();
    if !stale.is_empty() {
        let stale = stale.join(" and ");
        bail!(
            "{stale} is not what {PROTO_DIR}/{PROTO} gives: run `cargo xtask codegen` and commit the result"
        );
    }
    Ok(())
}

fn generate() -> Result<tempfile::TempDir> {
    let proto_dir = root().join(PROTO_DIR);
    let proto = proto_dir.join(PROTO);
    ensure!(proto.is_file(), "{} is missing: the gRPC interface is written there", proto.display());

    // The Debug form is the one that says in which line.
    let explain = |error: protox::Error| anyhow!("{error:?}");
    let mut compiler = protox::Compiler::new([&proto_dir]).map_err(explain)?;
    compiler.include_imports(true).include_source_info(true).open_file(&proto).map_err(explain)?;
    let out = tempfile::tempdir().context("creating a temporary folder for the generated code")?;
    tonic_prost_build::configure()
        .bytes(".")
        .out_dir(out.path())
        .compile_fds(compiler.file_descriptor_set())
        .context("generating the gRPC code")?;
    // Reflection has no use for comments.
    let descriptors = compiler.include_source_info(false).encode_file_descriptor_set();
    std::fs::write(out.path().join(FILES[1]), descriptors).context("writing the descriptors")?;
    format(&out.path().join(FILES[0]))?;
    Ok(out)
}

/// Formatted like the rest, so that `cargo fmt --check` need not know that it is generated.
fn format(file: &Path) -> Result<()> {
    let mut rustfmt = Command::new("rustfmt");
    rustfmt.args(["--edition", "2024", "--config-path"]).arg(root()).arg(file);
    command::run(&mut rustfmt, Duration::from_secs(60))
}
