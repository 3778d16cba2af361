//! Where the tools are: what the environment says, else what `cargo xtask tools` noted, else the PATH.

use std::path::{Path, PathBuf};

/// The top of the checkout.
#[must_use]
pub fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is a folder of the checkout").to_owned()
}

/// A server of NATS that somebody runs, to be used instead of our own.
#[must_use]
pub fn nats_url() -> Option<String> {
    variable("FOGHORN_TEST_NATS_URL")
}

/// A server of PostgreSQL that somebody runs, to be used instead of our own.
#[must_use]
pub fn postgres_url() -> Option<String> {
    variable("FOGHORN_TEST_POSTGRES_URL")
}

/// The program `nats-server`.
#[must_use]
pub fn nats_server() -> PathBuf {
    tool("FOGHORN_TEST_NATS_SERVER", &["nats-server"])
}

/// The folder of PostgreSQL's server programs.
#[must_use]
pub fn postgres_bin() -> PathBuf {
    let found = told("FOGHORN_TEST_PG_BIN").or_else(|| {
        // On the PATH it is often a link out of the folder that has the rest.
        let program = on_path("postgres")?.canonicalize().ok()?;
        program.parent().map(Path::to_owned)
    });
    let folder = found.filter(|folder| folder.join("initdb").is_file());
    folder.unwrap_or_else(|| missing("PostgreSQL's server programs", "FOGHORN_TEST_PG_BIN"))
}

/// The folder of `prometheus` and `promtool`.
#[must_use]
pub fn prometheus_bin() -> PathBuf {
    let found = told("FOGHORN_TEST_PROMETHEUS_BIN")
        .or_else(|| on_path("promtool").and_then(|program| program.parent().map(Path::to_owned)));
    let folder = found.filter(|folder| folder.join("prometheus").is_file());
    folder.unwrap_or_else(|| missing("Prometheus and its promtool", "FOGHORN_TEST_PROMETHEUS_BIN"))
}

/// The program `rotel-agent`, an OpenTelemetry collector.
#[must_use]
pub fn collector() -> PathBuf {
    tool("FOGHORN_TEST_COLLECTOR", &["rotel-agent"])
}

/// The program `nginx`.
#[must_use]
pub fn nginx() -> PathBuf {
    tool("FOGHORN_TEST_NGINX", &["nginx"])
}

/// The program `envoy`.
#[must_use]
pub fn envoy() -> PathBuf {
    tool("FOGHORN_TEST_ENVOY", &["envoy"])
}

/// The program `etcd`; built, like the next one, by `cargo xtask test-k8s`.
#[must_use]
pub fn etcd() -> PathBuf {
    tool("FOGHORN_TEST_ETCD", &["etcd"])
}

/// The program `kube-apiserver`.
#[must_use]
pub fn kube_apiserver() -> PathBuf {
    tool("FOGHORN_TEST_KUBE_APISERVER", &["kube-apiserver"])
}

/// The program `kubectl`.
#[must_use]
pub fn kubectl() -> PathBuf {
    tool("FOGHORN_TEST_KUBECTL", &["kubectl"])
}

/// The program `helm`.
#[must_use]
pub fn helm() -> PathBuf {
    tool("FOGHORN_TEST_HELM", &["helm"])
}

/// The browser.
#[must_use]
pub fn chromium() -> PathBuf {
    tool("FOGHORN_TEST_CHROMIUM", &["chromium", "chromium-browser", "google-chrome"])
}

/// The browser's WebDriver.
#[must_use]
pub fn chromedriver() -> PathBuf {
    tool("FOGHORN_TEST_CHROMEDRIVER", &["chromedriver"])
}

/// A Python that has what the examples in docs/publish need.
#[must_use]
pub fn publishers_python() -> PathBuf {
    let variable = "FOGHORN_TEST_PUBLISHERS_PYTHON";
    told(variable).unwrap_or_else(|| missing("a Python with the packages of docs/publish", variable))
}

/// The folder of the programs that Go made of the examples in docs/publish; nothing if there is no Go.
#[must_use]
pub fn publishers_go() -> Option<PathBuf> {
    at_hand("FOGHORN_TEST_PUBLISHERS_GO", "go")
}

/// The folder of the classes and libraries of the examples in docs/publish; nothing if there is no Java, or no Maven.
#[must_use]
pub fn publishers_java() -> Option<PathBuf> {
    at_hand("FOGHORN_TEST_PUBLISHERS_JAVA", "mvn")
}

/// A program of the workspace, built together with the tests.
#[must_use]
pub fn built(name: &str) -> PathBuf {
    let program = std::env::current_exe().expect("a process knows its program");
    let folder = program.ancestors().find(|folder| folder.ends_with("deps")).and_then(Path::parent);
    let built = folder.map(|folder| folder.join(name)).filter(|built| built.is_file());
    built.unwrap_or_else(|| {
        panic!("no {name} beside the tests: run `cargo build --profile ci --workspace --bins`")
    })
}

/// The program `strace`.
#[must_use]
pub fn strace() -> PathBuf {
    tool("FOGHORN_TEST_STRACE", &["strace"])
}

/// The library `libfaketime.so.1`, to be loaded into a process that shall have another time.
#[must_use]
pub fn faketime() -> PathBuf {
    told("FOGHORN_TEST_FAKETIME").unwrap_or_else(|| missing("libfaketime", "FOGHORN_TEST_FAKETIME"))
}

/// The product: FOGHORN_BIN, else the one that was built last.
#[must_use]
pub fn foghorn() -> PathBuf {
    if let Some(given) = variable("FOGHORN_BIN").map(PathBuf::from) {
        assert!(given.is_file(), "FOGHORN_BIN names {}, which is no file", given.display());
        return given;
    }
    let built = ["ci", "release", "debug"].map(|profile| target_dir().join(profile).join("foghorn"));
    let dated = built.into_iter().filter_map(|path| Some((path.metadata().ok()?.modified().ok()?, path)));
    match dated.max() {
        Some((_, newest)) => newest,
        None => panic!(
            "no foghorn in {}: run `cargo build --profile ci --package foghorn`, or name one in FOGHORN_BIN",
            target_dir().display()
        ),
    }
}

/// Where cargo put the program that runs now, two levels up: `target/<profile>/deps/<program>`.
pub(crate) fn target_dir() -> PathBuf {
    let program = std::env::current_exe().expect("a process knows its program");
    let deps = program.ancestors().find(|folder| folder.ends_with("deps"));
    let target = deps.and_then(|deps| deps.ancestors().nth(2));
    target.map_or_else(|| checkout().join("target"), Path::to_owned)
}

fn tool(variable: &str, names: &[&str]) -> PathBuf {
    let found = told(variable).or_else(|| names.iter().find_map(|name| on_path(name)));
    found.filter(|program| program.is_file()).unwrap_or_else(|| missing(names[0], variable))
}

/// What was made with `program`, if that is on the PATH.
fn at_hand(variable: &str, program: &str) -> Option<PathBuf> {
    let made = told(variable);
    // Too old a one is told by `cargo xtask tools`, which notes nothing then.
    if made.is_none() && on_path(program).is_some() {
        eprintln!(
            "nothing was made with {program}: run `cargo xtask tools`, or see what it says about {program}"
        );
    }
    made
}

fn told(name: &str) -> Option<PathBuf> {
    variable(name).or_else(|| noted(name)).map(PathBuf::from)
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn noted(variable: &str) -> Option<String> {
    let notes = std::fs::read_to_string(checkout().join(".tools/paths")).ok()?;
    let place = notes.lines().find_map(|line| line.strip_prefix(variable)?.strip_prefix('='))?;
    // A tool that was removed since may be on the PATH elsewhere.
    Path::new(place).exists().then(|| place.to_owned())
}

fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|program| program.is_file())
}

fn missing(what: &str, variable: &str) -> ! {
    panic!("the tests need {what}, which is not here: run `cargo xtask tools`, or name it in {variable}")
}
