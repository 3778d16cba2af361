//! A real API server of Kubernetes and its etcd, for `cargo xtask test-k8s` alone: built from their Go modules, which
//! takes a cold machine ten minutes, into `.tools/kubernetes`.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{chart_tools, folder, install, search, text};
use crate::command;
use crate::workspace::root;

const MODULE: &str = "tests/kubernetes";
const ETCD: &str = "go.etcd.io/etcd/server/v3";
const API_SERVER: &str = "k8s.io/kubernetes/cmd/kube-apiserver";
/// What go.mod asks for.
const VERSION_MIN: (u32, u32) = (1, 24);
const BUILD: Duration = Duration::from_secs(40 * 60);

/// What `test-k8s` needs beyond what all tests do.
pub(crate) struct KubernetesTools(Vec<(&'static str, String)>);

impl KubernetesTools {
    /// What its tests have to find in their environment.
    pub(crate) fn environment(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(variable, place)| (*variable, place.as_str()))
    }
}

/// Finds them, after building or installing those that are missing.
pub(crate) fn kubernetes() -> Result<KubernetesTools> {
    let go = search::on_path(&["go"]).into_iter().next().context(
        "no go: install Go 1.24 or newer and put it on the PATH; the API server of Kubernetes is built with it",
    )?;
    let version = command::output(Command::new(&go).args(["env", "GOVERSION"]), BUILD)?.stdout;
    let version = version.trim().trim_start_matches("go");
    ensure!(search::major_minor(version) >= VERSION_MIN, "go is {version}: 1.24 or newer is needed");
    let programs = folder()?.join("kubernetes");
    let wanted = std::fs::read_to_string(root().join(MODULE).join("go.mod"))?;
    let stamp = programs.join("go.mod");
    let find = || Ok((std::fs::read_to_string(&stamp).ok().as_ref() == Some(&wanted)).then_some(()));
    install::find_or(find, || {
        println!("building kube-apiserver and etcd (go); it takes some minutes");
        build(&go, &programs)?;
        std::fs::write(&stamp, &wanted).map_err(Into::into)
    })?
    .with_context(|| format!("cannot build what {MODULE} names"))?;
    let charts = chart_tools()?;
    let place = |command: Command| command.get_program().to_string_lossy().into_owned();
    Ok(KubernetesTools(vec![
        ("FOGHORN_TEST_ETCD", text(&programs.join("etcd"))),
        ("FOGHORN_TEST_KUBE_APISERVER", text(&programs.join("kube-apiserver"))),
        ("FOGHORN_TEST_KUBECTL", place(charts.kubectl())),
        ("FOGHORN_TEST_HELM", place(charts.helm())),
    ]))
}

fn build(go: &Path, programs: &Path) -> Result<()> {
    let module = root().join(MODULE);
    let list = ["list", "-m", "-f", "{{.Version}}", "k8s.io/kubernetes"];
    let version = command::output(Command::new(go).args(list).current_dir(&module), BUILD)?.stdout;
    // What a release is built with; helm asks for it.
    let flags = format!("-s -w -X k8s.io/component-base/version.gitVersion={}", version.trim());
    for (package, name) in [(ETCD, "etcd"), (API_SERVER, "kube-apiserver")] {
        let mut build = Command::new(go);
        build.args(["build", "-ldflags", &flags, "-o", &text(&programs.join(name)), package]);
        // No other Go than the one that is here is downloaded.
        build.current_dir(&module).env("CGO_ENABLED", "0").env("GOTOOLCHAIN", "local");
        command::run(&mut build, BUILD)?;
    }
    Ok(())
}
