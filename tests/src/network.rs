//! A network of namespaces, for partitions: hosts whose packets to each other go through a hub, which can drop them.
//! The test itself, and what it starts nowhere else, is in the hub. All of it is gone with the test's processes.

use std::path::PathBuf;
use std::process::Command;

use nix::sched::{CloneFlags, setns};

use crate::PATIENCE;
use crate::process::{Process, Program};

/// What the hub is called by every host.
const HUB: &str = "10.77.0.1";

/// Where a process runs: in which network namespace, and under which address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// `None`: that of the test process.
    namespace: Option<PathBuf>,
    address: String,
}

impl Default for Site {
    /// Where the test process was started, on 127.0.0.1.
    fn default() -> Self {
        Site { namespace: None, address: "127.0.0.1".to_owned() }
    }
}

impl Site {
    /// The address that it listens on.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The program, run there.
    #[must_use]
    pub fn place(&self, program: Program) -> Program {
        match &self.namespace {
            Some(namespace) => program.namespace(namespace),
            None => program,
        }
    }
}

/// A hub and its hosts.
#[derive(Debug)]
pub struct Network {
    hub: Site,
    hosts: Vec<Site>,
    /// Each keeps a namespace alive.
    _keepers: Vec<Process>,
}

impl Network {
    /// Runs a test in the hub of a new network with so many hosts. Panics, with what is missing, where namespaces
    /// can't be had: by who isn't root, or without `ip` (iproute2), `iptables` and `unshare` (util-linux).
    pub fn run<F: Future<Output = ()>>(hosts: usize, test: impl FnOnce(Network) -> F + Send + 'static) {
        // A thread has the namespace that it is moved to, and the threads and processes that it starts inherit it.
        let body = move || {
            let network = Network::new(hosts);
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
            runtime.expect("a runtime can be made").block_on(test(network));
        };
        if let Err(panic) = std::thread::spawn(body).join() {
            std::panic::resume_unwind(panic);
        }
    }

    fn new(hosts: usize) -> Self {
        assert!(nix::unistd::geteuid().is_root(), "partitions need network namespaces, and these need root");
        let keeper = || Process::spawn(Program::new("unshare").args(["--net", "sleep", "infinity"]));
        let (hub_keeper, mut keepers) = (keeper(), Vec::new());
        let hub_namespace = namespace(&hub_keeper);
        let file = std::fs::File::open(&hub_namespace).expect("the hub's namespace is there");
        setns(file, CloneFlags::CLONE_NEWNET).expect("root may enter the hub's namespace");
        ip(&["link", "set", "lo", "up"]);
        ip(&["address", "add", &format!("{HUB}/32"), "dev", "lo"]);
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")
            .expect("the hub's namespace can forward packets");
        let mut sites = Vec::new();
        for number in 1..=hosts {
            let keeper = keeper();
            let host = namespace(&keeper);
            let (pid, near) = (keeper.pid().to_string(), format!("host{number}"));
            ip(&["link", "add", &near, "type", "veth", "peer", "name", "eth0", "netns", &pid]);
            ip(&["address", "add", &format!("10.77.{number}.1/24"), "dev", &near]);
            ip(&["link", "set", &near, "up"]);
            let address = format!("10.77.{number}.2");
            let inside = |arguments: &[&str]| {
                let net = format!("--net={}", host.display());
                run("nsenter", &[&[net.as_str(), "ip"], arguments].concat());
            };
            inside(&["link", "set", "lo", "up"]);
            inside(&["address", "add", &format!("{address}/24"), "dev", "eth0"]);
            inside(&["link", "set", "eth0", "up"]);
            inside(&["route", "add", "default", "via", &format!("10.77.{number}.1")]);
            sites.push(Site { namespace: Some(host), address });
            keepers.push(keeper);
        }
        keepers.push(hub_keeper);
        let hub = Site { namespace: Some(hub_namespace), address: HUB.to_owned() };
        Network { hub, hosts: sites, _keepers: keepers }
    }

    /// Where the test is; every host reaches it.
    #[must_use]
    pub fn hub(&self) -> &Site {
        &self.hub
    }

    /// The host of this number, from 0.
    #[must_use]
    pub fn host(&self, number: usize) -> &Site {
        &self.hosts[number]
    }

    /// Drops every packet between two sites, without a word to either. One of them may be the hub.
    pub fn cut(&self, a: &Site, b: &Site) {
        self.rules("-I", a, b);
    }

    /// Undoes a [`cut`](Self::cut).
    pub fn mend(&self, a: &Site, b: &Site) {
        self.rules("-D", a, b);
    }

    fn rules(&self, what: &str, a: &Site, b: &Site) {
        for (from, to) in [(a, b), (b, a)] {
            let chain = match () {
                () if *from == self.hub => "OUTPUT",
                () if *to == self.hub => "INPUT",
                () => "FORWARD",
            };
            // The hub has an address on each host's link, too.
            let mut arguments = vec!["-w", what, chain];
            if *from != self.hub {
                arguments.extend(["-s", &from.address]);
            }
            if *to != self.hub {
                arguments.extend(["-d", &to.address]);
            }
            arguments.extend(["-j", "DROP"]);
            run("iptables", &arguments);
        }
    }
}

/// The keeper's namespace, once it is another than ours.
fn namespace(keeper: &Process) -> PathBuf {
    let path = PathBuf::from(format!("/proc/{}/ns/net", keeper.pid()));
    let ours = std::fs::read_link("/proc/self/ns/net").expect("a process knows its namespaces");
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        if std::fs::read_link(&path).is_ok_and(|theirs| theirs != ours) {
            return path;
        }
        assert!(
            keeper.status().is_none() && std::time::Instant::now() < deadline,
            "{}",
            keeper.report("makes no network namespace; is `unshare` (util-linux) there, and may we?")
        );
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

fn ip(arguments: &[&str]) {
    run("ip", arguments);
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("partitions need `{program}`: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "partitions need `{program} {}`: {said}", arguments.join(" "));
}
