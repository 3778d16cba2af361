//! Docker's engine: the one that runs, or one of our own for as long as it is needed.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::workspace::target_dir;
use crate::{command, tools};

/// How long an engine may take to start, and to end.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) struct Engine {
    client: PathBuf,
    ours: Option<Ours>,
}

struct Ours {
    process: Child,
    /// Its socket, and what it needs while it runs.
    folder: TempDir,
}

impl Engine {
    /// Finds one, or starts one that keeps to itself: it makes no bridge and changes no firewall.
    pub(super) fn ensure() -> Result<Self> {
        let (client, server) = tools::docker()?;
        let engine = Engine { client, ours: None };
        if engine.answers() {
            return Ok(engine);
        }
        let server = server.context("no Docker engine answers, and there is no dockerd to start")?;
        let folder = tempfile::tempdir()?;
        let mut dockerd = Command::new(server);
        // What it has built stays, as what cargo has.
        dockerd.arg("--data-root").arg(target_dir()?.join("docker"));
        dockerd.arg("--exec-root").arg(folder.path().join("exec"));
        dockerd.arg("--pidfile").arg(folder.path().join("pid"));
        dockerd.arg("--host").arg(format!("unix://{}", folder.path().join("sock").display()));
        dockerd.args(["--bridge", "none", "--iptables=false"]);
        let log = std::fs::File::create(folder.path().join("log"))?;
        dockerd.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let process = dockerd.spawn().context("starting dockerd")?;
        let engine = Engine { ours: Some(Ours { process, folder }), ..engine };
        let deadline = Instant::now() + PATIENCE;
        while !engine.answers() {
            if Instant::now() > deadline {
                bail!("dockerd doesn't answer (it needs root):\n{}", engine.log());
            }
            thread::sleep(Duration::from_millis(200));
        }
        Ok(engine)
    }

    /// `docker`, for this engine.
    pub(super) fn docker(&self) -> Command {
        let mut docker = Command::new(&self.client);
        if let Some(ours) = &self.ours {
            docker.env("DOCKER_HOST", format!("unix://{}", ours.folder.path().join("sock").display()));
        }
        docker
    }

    /// Whether it is ours, which has no network but the machine's own.
    pub(super) fn is_ours(&self) -> bool {
        self.ours.is_some()
    }

    fn answers(&self) -> bool {
        command::output(self.docker().args(["version", "--format", "{{.Server.Version}}"]), PATIENCE).is_ok()
    }

    fn log(&self) -> String {
        let log = self.ours.as_ref().map(|ours| ours.folder.path().join("log"));
        log.and_then(|log| std::fs::read_to_string(log).ok()).unwrap_or_default()
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        // An error says that it is gone already.
        kill(Pid::from_raw(self.process.id().cast_signed()), Signal::SIGTERM).ok();
        let deadline = Instant::now() + PATIENCE;
        while matches!(self.process.try_wait(), Ok(None)) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(100));
        }
        self.process.kill().ok();
        self.process.wait().ok();
    }
}
