//! What an image has to be.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;

use super::engine::Engine;
use crate::command;
use crate::workspace::cargo;

const LIMIT: Duration = Duration::from_secs(120);
/// All that is in it. What an engine puts into each container comes besides.
const FILES: [&str; 4] = [
    "etc/nsswitch.conf",
    "etc/ssl/certs/ca-certificates.crt",
    "usr/local/bin/foghorn",
    "usr/share/foghorn/sbom.cdx.json",
];
const OF_THE_ENGINE: [&str; 6] =
    [".dockerenv", "dev/console", "etc/hosts", "etc/hostname", "etc/resolv.conf", "etc/mtab"];
/// What the binary and all else may come to.
const BYTES_MAX: u64 = 64 << 20;
const DATA: &str = "two words";

/// Takes an image apart: it is what it should be, and nothing else.
pub(super) fn contents(engine: &Engine, tag: &str) -> Result<TempDir> {
    let container = command::output(engine.docker().args(["create", tag]), LIMIT)?.stdout;
    let folder = tempfile::tempdir()?;
    let mut export = engine.docker();
    let mut export = export.args(["export", container.trim()]).stdout(Stdio::piped()).spawn()?;
    let mut unpack = Command::new("tar");
    unpack.arg("-x").arg("-C").arg(folder.path()).stdin(export.stdout.take().context("no output")?);
    let unpacked = unpack.status()?;
    ensure!(unpacked.success() && export.wait()?.success(), "the image could not be taken apart");
    command::output(engine.docker().args(["rm", container.trim()]), LIMIT)?;

    let found = files(folder.path())?;
    let found: BTreeSet<&str> =
        found.iter().map(String::as_str).filter(|name| !OF_THE_ENGINE.contains(name)).collect();
    ensure!(found == BTreeSet::from(FILES), "the image has the files {found:?}, which are to be {FILES:?}");
    let bytes: u64 =
        FILES.iter().map(|name| Ok(fs::metadata(folder.path().join(name))?.len())).sum::<Result<_>>()?;
    ensure!(bytes <= BYTES_MAX, "the image has {bytes} bytes, more than {BYTES_MAX}");
    components(&folder.path().join(FILES[3]))?;
    println!("image          {bytes} bytes in {} files", FILES.len());
    Ok(folder)
}

fn files(root: &Path) -> Result<Vec<String>> {
    let mut folders = vec![root.to_owned()];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else {
                found.push(entry.path().strip_prefix(root)?.to_string_lossy().into_owned());
            }
        }
    }
    Ok(found)
}

/// The list of what it is made of has every crate that is linked into it.
fn components(path: &Path) -> Result<()> {
    let listed: Value = serde_json::from_slice(&fs::read(path)?).context("reading the list of components")?;
    ensure!(listed["metadata"]["component"]["name"] == "foghorn", "the list is not of foghorn");
    let name = |one: &Value| Some(format!("{} v{}", one["name"].as_str()?, one["version"].as_str()?));
    let listed: BTreeSet<String> =
        listed["components"].as_array().into_iter().flatten().filter_map(name).collect();
    let tree = ["tree", "--locked", "-p", "foghorn", "-e", "normal,no-proc-macro", "--prefix", "none"];
    let linked = command::output(cargo().args(tree), LIMIT)?.stdout;
    let linked = linked.lines().map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" "));
    let missing: Vec<String> = linked
        .filter(|line| !line.starts_with("foghorn v") && !line.is_empty() && !listed.contains(line))
        .collect();
    ensure!(missing.is_empty(), "the list of components lacks {missing:?}");
    println!("components     {}", listed.len());
    Ok(())
}

/// It says what it is, and runs as nobody.
pub(super) fn labels(engine: &Engine, tag: &str) -> Result<()> {
    let said =
        command::output(engine.docker().args(["inspect", "--format", "{{json .Config}}", tag]), LIMIT)?;
    let said: Value = serde_json::from_str(&said.stdout)?;
    ensure!(said["User"] == "65532:65532", "it runs as {}", said["User"]);
    for label in ["title", "description", "source", "documentation", "licenses"] {
        let value = &said["Labels"][format!("org.opencontainers.image.{label}")];
        ensure!(value.as_str().is_some_and(|value| !value.is_empty()), "it has no label {label}");
    }
    Ok(())
}

/// It runs where nothing can be written but its data and nothing is allowed, finds names, and an event goes through.
pub(super) fn runs(engine: &Engine, tag: &str) -> Result<()> {
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let grpc = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let admin = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let (url, admin) = (format!("http://localhost:{port}"), format!("127.0.0.1:{admin}"));
    let run = |options: &[&str], arguments: &[&str]| {
        let mut run = engine.docker();
        run.args(["run", "--rm", "--network", "host", "--read-only", "--cap-drop", "ALL"]);
        run.args(["--security-opt", "no-new-privileges"]).args(options).arg(tag).args(arguments);
        run
    };
    let (listen, grpc) = (format!("127.0.0.1:{port}"), format!("127.0.0.1:{grpc}"));
    let serve = ["standalone", "--listen", &listen, "--grpc", &grpc, "--admin", &admin];
    let container = command::output(&mut run(&["--detach", "--volume", "/data"], &serve), LIMIT)?.stdout;
    let container = container.trim();
    let works = || -> Result<()> {
        let probe = format!("http://{admin}");
        let ask = ["exec", container, "foghorn", "healthcheck", "--admin", &probe];
        let deadline = Instant::now() + LIMIT;
        while command::output(engine.docker().args(ask), LIMIT).is_err() {
            ensure!(Instant::now() < deadline, "it isn't ready");
            thread::sleep(Duration::from_millis(200));
        }
        let publish = ["publish", "image.check", DATA, "--url", &url, "--ack", "durable"];
        command::output(&mut run(&[], &publish), LIMIT)?;
        let hear = ["subscribe", "image.check", "--url", &url, "--last", "1", "--raw", "--exit-after", "1"];
        let heard = command::output(&mut run(&[], &hear), LIMIT)?.stdout;
        ensure!(heard.trim() == DATA, "what was published came back as {heard:?}");
        Ok(())
    };
    let outcome = works();
    let log = command::output(engine.docker().args(["logs", container]), LIMIT);
    let stopped = command::output(engine.docker().args(["stop", container]), LIMIT);
    outcome.with_context(|| log.map(|log| log.stdout + &log.stderr).unwrap_or_default())?;
    stopped.map(drop)
}

/// The same source made the same bytes.
pub(super) fn same(first: &TempDir, second: &TempDir) -> Result<()> {
    for name in FILES {
        if fs::read(first.path().join(name))? != fs::read(second.path().join(name))? {
            bail!("{name} came out otherwise the second time");
        }
    }
    println!("reproducible   {} files", FILES.len());
    Ok(())
}
