//! The servers, each a process of this program, and how something is published to them.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use super::nchan::Nchan;
use crate::client::bench::process::{self, Usage};
use crate::client::bench::publisher::{nanos, seconds};
use crate::client::bench::scan::Stamp;

/// What listeners listen to.
const CHANNEL: &str = "bench";
/// How long a server may take to answer a publish.
const ANSWER_DEADLINE: Duration = Duration::from_secs(30);

/// Who serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::client::bench) enum Kind {
    Foghorn,
    Bare { sweeps: bool },
    Nchan,
}

impl Kind {
    fn arguments(self) -> &'static [&'static str] {
        match self {
            Kind::Foghorn => &[
                "standalone",
                "--ephemeral",
                "--listen",
                "127.0.0.1:0",
                "--grpc",
                "127.0.0.1:0",
                "--log",
                "json",
            ],
            Kind::Bare { sweeps: false } => &["bench", "bare"],
            Kind::Bare { sweeps: true } => &["bench", "bare", "--sweep"],
            // Another program.
            Kind::Nchan => &[],
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
    kind: Kind,
    pub(in crate::client::bench) address: SocketAddr,
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
        if kind == Kind::Nchan {
            let nchan = Nchan::start(core)?;
            return Ok(Server { address: nchan.address, kind, process: Process::Nchan(nchan) });
        }
        let program = std::env::current_exe().context("this program can't find itself")?;
        let mut child = Command::new("taskset")
            .args(["-c", &core.to_string()])
            .arg(program)
            .args(kind.arguments())
            .args(more)
            .env("FOGHORN_LISTEN_ADMIN", "127.0.0.1:0")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("can't start the server with taskset (of util-linux)")?;
        let log = child.stderr.take().context("the server has no log")?;
        let mut lines = BufReader::new(log).lines();
        let address = loop {
            let line = lines.next().context("the server ended before it listened")??;
            if let Some(address) = listening(&line) {
                break address;
            }
        };
        // Read on, or it would wait for somebody to do so.
        thread::spawn(move || lines.for_each(drop));
        Ok(Server { process: Process::Ours(child), kind, address })
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

    /// CPU time of the threads that write to listeners: of a bare loop all there is.
    pub(in crate::client::bench) fn writers_cpu_seconds(&self) -> anyhow::Result<f64> {
        let mut nanos = 0;
        for thread in fs::read_dir(format!("/proc/{}/task", self.pid()))? {
            let thread = thread?.path();
            let writes = match self.kind {
                Kind::Foghorn => fs::read_to_string(thread.join("comm"))?.starts_with("reactor-"),
                Kind::Bare { .. } | Kind::Nchan => true,
            };
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

/// Publishes to one server, one event after the other.
pub(in crate::client::bench) struct Publisher {
    socket: TcpStream,
    kind: Kind,
    channel: &'static str,
    size: usize,
    began: Instant,
}

impl Publisher {
    /// For events of so many bytes, whose stamps count from `began`.
    pub(in crate::client::bench) fn connect(
        server: &Server,
        size: usize,
        began: Instant,
    ) -> anyhow::Result<Self> {
        let socket = TcpStream::connect(server.address)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(ANSWER_DEADLINE))?;
        Ok(Publisher { socket, kind: server.kind, channel: CHANNEL, size, began })
    }

    /// On another channel, which only Foghorn has.
    pub(in crate::client::bench) fn on(self, channel: &'static str) -> Self {
        Publisher { channel, ..self }
    }

    /// Publishes so many a second, numbered from `first`.
    pub(in crate::client::bench) fn publish_at(
        &mut self,
        first: u64,
        rate: f64,
        events: usize,
    ) -> anyhow::Result<()> {
        let started = self.began.elapsed();
        for nth in 0..events as u64 {
            let due = started + seconds(nth, rate);
            thread::sleep(due.saturating_sub(self.began.elapsed()));
            self.publish(first + nth, due)?;
        }
        Ok(())
    }

    /// Returns when the server has taken the event.
    pub(in crate::client::bench) fn publish(&mut self, number: u64, due: Duration) -> anyhow::Result<()> {
        let mut data = Vec::with_capacity(self.size);
        Stamp { seq: number, sent: nanos(due) }.write(&mut data, self.size);
        let data = String::from_utf8(data)?;
        match self.kind {
            Kind::Foghorn => self.post(&format!("{{\"channel\":\"{}\",\"data\":\"{data}\"}}", self.channel)),
            Kind::Nchan => self.post(&data),
            Kind::Bare { .. } => self.tell(&data),
        }
    }

    fn post(&mut self, body: &str) -> anyhow::Result<()> {
        let length = body.len();
        let request = format!(
            "POST /api/publish HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        );
        self.socket.write_all(request.as_bytes())?;
        // One short answer, which comes in one piece.
        let mut answer = [0; 4096];
        let count = self.socket.read(&mut answer)?;
        let answer = String::from_utf8_lossy(&answer[..count]);
        ensure!(answer.starts_with("HTTP/1.1 2"), "publishing was answered {answer:?}");
        Ok(())
    }

    fn tell(&mut self, data: &str) -> anyhow::Result<()> {
        self.socket.write_all(format!("PUBLISH {data}\n").as_bytes())?;
        Ok(self.socket.read_exact(&mut [0])?)
    }
}

/// Keeps this thread, and those it starts, on one core.
pub(in crate::client::bench) fn pin_this_thread(core: usize) -> anyhow::Result<()> {
    let mut cores = CpuSet::new();
    cores
        .set(core)
        .and_then(|()| sched_setaffinity(Pid::from_raw(0), &cores))
        .with_context(|| format!("can't use core {core}; choose with --server-core and --load-core"))
}
