//! The servers, each a process of its own.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use super::nchan::Nchan;
use crate::client::bench::process::{self, Usage};

/// How long a server may take until it can be asked.
const STARTS_WITHIN: Duration = Duration::from_secs(30);
/// Of a server that hasn't said yet where it listens.
const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// Who serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::client::bench) enum Kind {
    Foghorn,
    Bare { sweeps: bool },
    Nchan,
    Axum,
}

impl Kind {
    /// As people call it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Kind::Foghorn => "foghorn",
            Kind::Bare { .. } => "bare loop",
            Kind::Nchan => "nchan",
            Kind::Axum => "axum",
        }
    }

    fn arguments(self) -> &'static [&'static str] {
        match self {
            Kind::Foghorn => &[
                "standalone",
                "--ephemeral",
                "--listen",
                "127.0.0.1:0",
                "--grpc",
                "127.0.0.1:0",
                "--admin",
                "127.0.0.1:0",
                "--log",
                "json",
            ],
            Kind::Bare { sweeps: false } => &["bench", "bare"],
            Kind::Bare { sweeps: true } => &["bench", "bare", "--sweep"],
            // Other programs.
            Kind::Nchan | Kind::Axum => &[],
        }
    }
}

enum Process {
    Ours(Child),
    Nchan(Nchan),
}

/// A server, which ends with this.
pub(in crate::client::bench) struct Server {
    process: Process,
    pub(super) kind: Kind,
    pub(in crate::client::bench) address: SocketAddr,
    /// Where events are published to.
    pub(super) publish_to: SocketAddr,
}

impl Server {
    /// Starts one, all of its threads on one core.
    pub(in crate::client::bench) fn start(kind: Kind, core: usize) -> anyhow::Result<Self> {
        Server::start_with(kind, core, &[])
    }

    /// The same, with more arguments.
    pub(in crate::client::bench) fn start_with(
        kind: Kind,
        core: usize,
        more: &[&str],
    ) -> anyhow::Result<Self> {
        match kind {
            Kind::Nchan => {
                let nchan = Nchan::start(core)?;
                let address = nchan.address;
                Ok(Server { address, publish_to: address, kind, process: Process::Nchan(nchan) })
            }
            Kind::Axum => bail!("the program has to be named"),
            Kind::Foghorn | Kind::Bare { .. } => {
                let program = std::env::current_exe().context("this program can't find itself")?;
                Server::run(kind, &program, core, &[kind.arguments(), more].concat(), 0)
            }
        }
    }

    /// Runs a program that says where it listens. A gateway listens before it has its rings, and a stream that begins by
    /// then hears what was before it: for so many of them it is waited.
    pub(super) fn run(
        kind: Kind,
        program: &Path,
        core: usize,
        arguments: &[&str],
        rings: u8,
    ) -> anyhow::Result<Self> {
        let mut child = Command::new("taskset")
            .args(["-c", &core.to_string()])
            .arg(program)
            .args(arguments)
            .env("FOGHORN_LISTEN_ADMIN", "127.0.0.1:0")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("can't start the server with taskset (of util-linux)")?;
        let log = child.stderr.take().context("the server has no log")?;
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(log).lines() {
                // Read on when nobody wants them any more, or the server would wait for somebody to do so.
                let _unwanted = sender.send(line).is_err();
            }
        });
        let mut server =
            Server { process: Process::Ours(child), kind, address: NOWHERE, publish_to: NOWHERE };
        let (began, mut found, mut warm) = (Instant::now(), None, 0);
        while found.is_none() || warm < rings {
            let line = lines.recv_timeout(STARTS_WITHIN.saturating_sub(began.elapsed()));
            let line =
                line.context("the server ended, or wasn't ready within 30 s: is all there that it needs?")??;
            warm += u8::from(line.contains("\"message\":\"ready\",\"part\":\"ring."));
            found = found.or_else(|| listening(&line));
        }
        server.address = found.context("it listens")?;
        server.publish_to = server.address;
        Ok(server)
    }

    fn pid(&self) -> u32 {
        match &self.process {
            Process::Ours(child) => child.id(),
            Process::Nchan(nchan) => nchan.worker,
        }
    }

    /// What it uses by now.
    pub(in crate::client::bench) fn look(&self) -> anyhow::Result<Usage> {
        process::usage(self.pid())
    }

    /// CPU time of the threads that write to listeners: of a bare loop all there is, and of Foghorn where it writes
    /// from its `reactors`.
    pub(in crate::client::bench) fn writers_cpu_seconds(&self, reactors: bool) -> anyhow::Result<f64> {
        let mut nanos = 0;
        for thread in fs::read_dir(format!("/proc/{}/task", self.pid()))? {
            let thread = thread?.path();
            let writes = self.kind != Kind::Foghorn
                || !reactors
                || fs::read_to_string(thread.join("comm"))?.starts_with("reactor-");
            let times = fs::read_to_string(thread.join("schedstat"))?;
            let on_cpu: u64 = times.split(' ').next().unwrap_or_default().parse()?;
            nanos += if writes { on_cpu } else { 0 };
        }
        Ok(Duration::from_nanos(nanos).as_secs_f64())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let Process::Ours(child) = &mut self.process else { return };
        if let Err(error) = child.kill().and_then(|()| child.wait()) {
            eprintln!("could not end the server {}: {error}", child.id());
        }
    }
}

fn listening(line: &str) -> Option<SocketAddr> {
    let line: serde_json::Value = serde_json::from_str(line).ok()?;
    (line["message"] == "listening" && line["service"] == "http").then_some(())?;
    line["address"].as_str()?.parse().ok()
}

/// Keeps this thread, and those it starts, on one core.
pub(in crate::client::bench) fn pin_this_thread(core: usize) -> anyhow::Result<()> {
    let mut cores = CpuSet::new();
    cores
        .set(core)
        .and_then(|()| sched_setaffinity(Pid::from_raw(0), &cores))
        .with_context(|| format!("can't use core {core}; choose with --server-core and --load-core"))
}
