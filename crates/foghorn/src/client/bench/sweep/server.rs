//! The servers, each a process of this binary, and how something is published to them.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use crate::client::bench::publisher::nanos;
use crate::client::bench::scan::Stamp;

/// Who serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Foghorn,
    /// The bare loop, event by event.
    Send,
    /// The bare loop that goes round.
    Sweep,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Foghorn => "foghorn",
            Kind::Send => "bare loop",
            Kind::Sweep => "bare sweep",
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
                "--log",
                "json",
            ],
            Kind::Send => &["bench", "bare"],
            Kind::Sweep => &["bench", "bare", "--sweep"],
        }
    }
}

/// A server, which ends with this.
pub(super) struct Server {
    child: Child,
    pub(super) kind: Kind,
    pub(super) address: SocketAddr,
}

impl Server {
    /// Starts one, all of its threads on one core.
    pub(super) fn start(kind: Kind, core: usize) -> anyhow::Result<Self> {
        let binary = std::env::current_exe().context("this program can't find itself")?;
        let mut child = Command::new("taskset")
            .args(["-c", &core.to_string()])
            .arg(binary)
            .args(kind.arguments())
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
        Ok(Server { child, kind, address })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.child.kill().and_then(|()| self.child.wait()).is_err() {
            eprintln!("could not end the server {}", self.child.id());
        }
    }
}

fn listening(line: &str) -> Option<SocketAddr> {
    let line: serde_json::Value = serde_json::from_str(line).ok()?;
    (line["message"] == "listening" && line["service"] == "http").then_some(())?;
    line["address"].as_str()?.parse().ok()
}

/// Publishes to one server, one event after the other.
pub(super) struct Publisher {
    socket: TcpStream,
    kind: Kind,
    size: usize,
    began: Instant,
}

impl Publisher {
    pub(super) fn connect(server: &Server, size: usize, began: Instant) -> anyhow::Result<Self> {
        let socket = TcpStream::connect(server.address)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(Duration::from_secs(30)))?;
        Ok(Publisher { socket, kind: server.kind, size, began })
    }

    /// Returns when the server has taken the event.
    pub(super) fn publish(&mut self, number: u64) -> anyhow::Result<()> {
        let mut data = Vec::with_capacity(self.size);
        Stamp { seq: number, sent: nanos(self.began.elapsed()) }.write(&mut data, self.size);
        let data = String::from_utf8(data)?;
        if self.kind == Kind::Foghorn { self.post(&data) } else { self.tell(&data) }
    }

    fn post(&mut self, data: &str) -> anyhow::Result<()> {
        let body = format!("{{\"channel\":\"bench\",\"data\":\"{data}\"}}");
        let length = body.len();
        let request = format!(
            "POST /api/publish HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        );
        self.socket.write_all(request.as_bytes())?;
        let mut answer = [0; 4096];
        let count = self.socket.read(&mut answer)?;
        if !answer[..count].starts_with(b"HTTP/1.1 200") {
            bail!("publishing was answered {:?}", String::from_utf8_lossy(&answer[..count]));
        }
        Ok(())
    }

    fn tell(&mut self, data: &str) -> anyhow::Result<()> {
        self.socket.write_all(format!("PUBLISH {data}\n").as_bytes())?;
        let mut answer = [0; 1];
        self.socket.read_exact(&mut answer)?;
        Ok(())
    }

    /// Publishes so many a second, numbered from 1.
    pub(super) fn publish_at(&mut self, rate: u32, events: usize) -> anyhow::Result<()> {
        let started = Instant::now();
        for number in 1..=events {
            let due = started + Duration::from_secs_f64((number - 1) as f64 / f64::from(rate));
            thread::sleep(due.saturating_duration_since(Instant::now()));
            self.publish(number as u64)?;
        }
        Ok(())
    }
}

/// Keeps this thread, and those it starts, on one core.
pub(super) fn pin_this_thread(core: usize) -> anyhow::Result<()> {
    let mut cores = CpuSet::new();
    cores
        .set(core)
        .and_then(|()| sched_setaffinity(Pid::from_raw(0), &cores))
        .with_context(|| format!("can't use core {core}; choose others with --server-core and --load-core"))
}
