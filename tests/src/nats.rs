//! NATS with JetStream.

use std::process::ExitStatus;
use std::time::Duration;

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::PATIENCE;
use crate::env;
use crate::network::Site;
use crate::port::Port;
use crate::process::{Process, Program};
use crate::wait::until;

/// A server of our own, or the one of FOGHORN_TEST_NATS_URL.
#[derive(Debug)]
pub struct NatsServer(Server);

#[derive(Debug)]
enum Server {
    Ours { process: Box<Process>, address: String, _port: Port, _store: TempDir },
    Theirs { url: String },
}

impl NatsServer {
    /// A server, ready.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// A server with more arguments, `["-c", path]` for one; never the one of FOGHORN_TEST_NATS_URL.
    pub async fn start_with(arguments: &[&str]) -> Self {
        Self::start_at(&Site::default(), arguments).await
    }

    /// The same, at a site.
    pub async fn start_at(site: &Site, arguments: &[&str]) -> Self {
        Self::start_in(site, arguments, &[]).await
    }

    /// The same, in an environment: a configuration's `$NAME` is had from there.
    pub async fn start_in(site: &Site, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        if let (Some(url), []) = (env::nats_url().filter(|_| *site == Site::default()), arguments) {
            return Self(Server::Theirs { url });
        }
        let port = Port::lease();
        let store = tempfile::Builder::new().prefix("foghorn-test-jetstream-").tempdir();
        let store = store.expect("a temporary folder can be made");
        let program =
            Program::new(env::nats_server()).args(["-a", site.address(), "-p", &port.number().to_string()]);
        let program = program.args(["-js", "-sd"]).arg(store.path()).args(arguments);
        let program = environment.iter().fold(program, |program, (name, value)| program.env(name, value));
        let process = Box::new(Process::spawn(site.place(program)));
        ready(&process).await;
        Self(Server::Ours { process, address: port.at(site), _port: port, _store: store })
    }

    /// `nats://127.0.0.1:20017`
    #[must_use]
    pub fn url(&self) -> String {
        match &self.0 {
            Server::Ours { address, .. } => format!("nats://{address}"),
            Server::Theirs { url } => url.clone(),
        }
    }

    /// SIGKILL, and waits until it is gone. What is in its store stays.
    pub fn kill(&mut self) {
        self.ours("killed").kill();
    }

    /// SIGTERM, and waits for its end.
    pub async fn stop(&mut self) -> ExitStatus {
        let process = self.ours("stopped");
        process.signal(Signal::SIGTERM);
        process.wait(PATIENCE).await
    }

    /// Waits for its own end.
    pub async fn ended(&mut self) -> ExitStatus {
        self.ours("waited for").wait(PATIENCE + PATIENCE).await
    }

    /// Starts it again on the same port and store, after killing it if it runs.
    pub async fn restart(&mut self) {
        let process = self.ours("restarted");
        process.restart();
        ready(process).await;
    }

    /// SIGSTOP, and waits until none of its threads runs any more: it answers nothing from then on.
    pub async fn hang(&mut self) {
        let process = self.ours("stopped");
        process.signal(Signal::SIGSTOP);
        let tasks = format!("/proc/{}/task", process.pid());
        until("the server to hang", PATIENCE, async || {
            let all = std::fs::read_dir(&tasks).ok()?;
            let mut states = all.flatten().filter_map(|task| {
                let stat = std::fs::read_to_string(task.path().join("stat")).ok()?;
                // After the name, which is in brackets.
                Some(stat.rsplit_once(") ")?.1.starts_with('T'))
            });
            states.all(|stopped| stopped).then_some(())
        })
        .await;
    }

    /// SIGCONT for one that comes to.
    pub fn signal(&mut self, signal: Signal) {
        self.ours("sent signals").signal(signal);
    }

    /// Waits for a line of its log.
    pub async fn wait_for_log_line(&mut self, text: &str, limit: Duration) -> String {
        self.ours("looked into").wait_for_log_line(text, limit).await
    }

    fn ours(&mut self, what: &str) -> &mut Process {
        match &mut self.0 {
            Server::Ours { process, .. } => process,
            Server::Theirs { url } => {
                panic!("{url} (FOGHORN_TEST_NATS_URL) is not ours to be {what}: unset it for this test")
            }
        }
    }
}

async fn ready(process: &Process) {
    process.wait_for_log_line("Server is ready", PATIENCE).await;
}
