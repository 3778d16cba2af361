//! The product itself, as its binary.

use std::collections::HashMap;
use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::PATIENCE;
use crate::env;
use crate::network::Site;
use crate::port::Port;
use crate::process::{Process, Program};
use crate::tls;

/// A running `foghorn`, of whatever subcommand.
#[derive(Debug)]
pub struct Foghorn {
    process: Process,
    /// Of its HTTP.
    scheme: &'static str,
    /// The sockets it was told to open.
    services: Vec<&'static str>,
    /// Service to address, from its log.
    addresses: HashMap<String, String>,
    _ports: Vec<Port>,
}

/// Longer than any process takes to end that is told to.
const DRAIN: Duration = Duration::from_secs(60);

/// The options that open a socket, and the service that its log then says is listening.
const SOCKETS: [(&str, &str); 3] = [("--listen", "http"), ("--grpc", "grpc"), ("--admin", "admin")];

impl Foghorn {
    /// Runs `foghorn <arguments> --log json` and waits until every socket that the arguments name is listening.
    ///
    /// `127.0.0.1:0` in an argument or a variable stands for a port of its own, which it keeps over restarts.
    pub async fn spawn(arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        Self::spawn_binary(&env::foghorn(), arguments, environment).await
    }

    /// The same, at a site: a port of its own there is what `127.0.0.1:0` stands for.
    pub async fn spawn_at(site: &Site, arguments: &[&str]) -> Self {
        Self::spawn_binary_at(&env::foghorn(), site, arguments, &[]).await
    }

    /// The same of another version.
    pub async fn spawn_binary_at(
        binary: &Path,
        site: &Site,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Self {
        let mut started = Self::start(binary, site, arguments, environment);
        started.listening().await;
        started
    }

    /// The same for one that has to wait for something before it listens: returns as soon as its admin port
    /// answers. [`Foghorn::listening`] waits for the other sockets.
    pub async fn spawn_waiting(arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut waiting = Self::start(&env::foghorn(), &Site::default(), arguments, environment);
        waiting.addresses = listening(&waiting.process, &["admin"]).await;
        waiting
    }

    /// The same, with another program for the product.
    pub async fn spawn_binary(binary: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut started = Self::start(binary, &Site::default(), arguments, environment);
        started.listening().await;
        started
    }

    /// Waits until every socket that its arguments name is listening.
    pub async fn listening(&mut self) {
        self.addresses = listening(&self.process, &self.services).await;
    }

    fn start(binary: &Path, site: &Site, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut ports = Vec::new();
        let mut program = site.place(Program::new(binary));
        for argument in arguments {
            program = program.arg(with_port(argument, site, &mut ports));
        }
        if !arguments.iter().any(|argument| argument.split('=').next() == Some("--log")) {
            program = program.args(["--log", "json"]);
        }
        // Nobody authenticates in most tests. Those about that say otherwise in their environment.
        program = program.env("FOGHORN_ALLOW_ANONYMOUS", "true");
        // Nor does a gateway hear itself: what tests count is theirs. (Another version may not know the key.)
        if binary == env::foghorn() {
            program = program.env("FOGHORN_CANARY_EVERY", "0s");
        }
        for (name, value) in environment {
            program = program.env(name, with_port(value, site, &mut ports));
        }
        let services = services(arguments);
        let secure = environment.iter().any(|(name, _)| *name == tls::CERTIFICATE);
        let scheme = if secure { "https" } else { "http" };
        Self { process: Process::spawn(program), scheme, services, addresses: HashMap::new(), _ports: ports }
    }

    /// `127.0.0.1:20017`, where it serves HTTP (`--listen`).
    #[must_use]
    #[track_caller]
    pub fn http(&self) -> &str {
        self.address("http")
    }

    /// Where it serves gRPC (`--grpc`).
    #[must_use]
    #[track_caller]
    pub fn grpc(&self) -> &str {
        self.address("grpc")
    }

    /// Where it serves health and metrics (`--admin`).
    #[must_use]
    #[track_caller]
    pub fn admin(&self) -> &str {
        self.address("admin")
    }

    /// `http://127.0.0.1:20017<path>` of its HTTP; `https` with [`tls::variables`].
    #[must_use]
    #[track_caller]
    pub fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", self.scheme, self.http())
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// SIGTERM: the beginning of a drain. Wait for its end with [`Foghorn::wait`].
    pub fn sigterm(&self) {
        self.process.signal(Signal::SIGTERM);
    }

    /// Any signal: SIGSTOP for a process that hangs, SIGCONT for one that comes to.
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Waits for its end; panics when that does not come within `limit`.
    pub async fn wait(&self, limit: Duration) -> ExitStatus {
        self.process.wait(limit).await
    }

    /// Starts it again with the same arguments and ports, after killing it if it runs.
    pub async fn restart(&mut self) {
        self.relaunch();
        self.listening().await;
    }

    /// Tells it to stop, waits for that, and starts another version of it with the same arguments and ports.
    pub async fn replace(&mut self, binary: &Path) {
        self.sigterm();
        let ended = self.wait(DRAIN).await;
        assert!(ended.success(), "told to stop, it ended with {ended}");
        self.process.restart_as(binary);
        self.listening().await;
    }

    /// [`Foghorn::restart`], without waiting until it listens: it doesn't while what it needs is away.
    pub fn relaunch(&mut self) {
        self.process.restart();
    }

    /// Its process, for the log and for the rest.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }

    #[track_caller]
    fn address(&self, service: &str) -> &str {
        self.addresses
            .get(service)
            .unwrap_or_else(|| panic!("{} was not told to serve {service}", self.process.program().display()))
    }
}

/// A port of ours for port 0.
fn with_port(text: &str, site: &Site, ports: &mut Vec<Port>) -> String {
    let Some(before) = text.strip_suffix("127.0.0.1:0") else { return text.to_owned() };
    let port = Port::lease();
    let filled = format!("{before}{}", port.at(site));
    ports.push(port);
    filled
}

fn services(arguments: &[&str]) -> Vec<&'static str> {
    let options: Vec<&str> = arguments.iter().filter_map(|argument| argument.split('=').next()).collect();
    SOCKETS.into_iter().filter(|(option, _)| options.contains(option)).map(|(_, service)| service).collect()
}

async fn listening(process: &Process, services: &[&str]) -> HashMap<String, String> {
    let mut addresses = HashMap::new();
    let what = format!("a line {{\"message\":\"listening\"}} for each service of {services:?}");
    process
        .wait_for_log(&what, PATIENCE, |line| {
            addresses.extend(listening_line(line));
            services.iter().all(|service| addresses.contains_key(*service)).then_some(())
        })
        .await;
    addresses
}

/// `{"message":"listening","service":"http","address":"127.0.0.1:41234"}`, with what else there may be.
fn listening_line(line: &str) -> Option<(String, String)> {
    let line: Value = serde_json::from_str(line).ok()?;
    let field = |name: &str| line.get(name)?.as_str().map(str::to_owned);
    (field("message")? == "listening").then_some((field("service")?, field("address")?))
}
