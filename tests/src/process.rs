//! A server as a child process: its signals, its end, its log.

mod log;
mod nursery;
pub(crate) mod others;

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::time::{Instant, sleep};

use self::log::Log;
use self::nursery::Life;
use crate::PATIENCE;

/// What to run; it can be run again.
#[derive(Debug, Clone)]
pub struct Program {
    path: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    folder: Option<PathBuf>,
    user: Option<u32>,
    namespace: Option<PathBuf>,
    /// What it gets when the test process is gone.
    farewell: Signal,
}

impl Program {
    /// The program at `path`, without arguments.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let (arguments, environment) = (Vec::new(), Vec::new());
        Self {
            path: path.into(),
            arguments,
            environment,
            folder: None,
            user: None,
            namespace: None,
            farewell: Signal::SIGKILL,
        }
    }

    /// One more argument.
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// More arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        self
    }

    /// One more variable in its environment.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.environment.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// The folder it runs in.
    #[must_use]
    pub fn folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = Some(folder.into());
        self
    }

    /// The user, and group of the same number, it runs as; only root can ask for another.
    #[must_use]
    pub fn user(mut self, id: Option<u32>) -> Self {
        self.user = id;
        self
    }

    /// The network namespace it runs in; only root can ask for another.
    #[must_use]
    pub fn namespace(mut self, file: impl Into<PathBuf>) -> Self {
        self.namespace = Some(file.into());
        self
    }

    /// The signal it gets when the test process is gone; SIGKILL unless it has children to see to.
    #[must_use]
    pub fn farewell(mut self, signal: Signal) -> Self {
        self.farewell = signal;
        self
    }

    fn name(&self) -> &str {
        self.path.file_name().and_then(OsStr::to_str).unwrap_or("process")
    }

    /// By way of setpriv, which leaves a process of the same id: no test that is killed leaves a server behind.
    fn command(&self, log: &Log) -> Command {
        let mut command = Command::new("setpriv");
        if let Some(namespace) = &self.namespace {
            command = Command::new("nsenter");
            command.arg(format!("--net={}", namespace.display())).args(["--", "setpriv"]);
        }
        command.args(["--pdeathsig", self.farewell.as_str().trim_start_matches("SIG")]);
        if let Some(user) = self.user {
            command.arg(format!("--reuid={user}")).arg(format!("--regid={user}")).arg("--clear-groups");
        }
        command.arg("--").arg(&self.path).args(&self.arguments);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        if let Some(folder) = &self.folder {
            command.current_dir(folder);
        }
        command.stdin(Stdio::null()).stdout(log.stdout()).stderr(log.stderr());
        command
    }
}

/// A running program, the leader of a process group. Killed when dropped.
#[derive(Debug)]
pub struct Process {
    program: Program,
    log: Log,
    life: Life,
    /// Whether the end of the log has been shown.
    reported: AtomicBool,
}

impl Process {
    /// Starts `program`.
    #[must_use]
    #[track_caller]
    pub fn spawn(program: Program) -> Self {
        let log = Log::create(program.name());
        let life = Life::begin(program.command(&log));
        Self { program, log, life, reported: AtomicBool::new(false) }
    }

    /// Kills it if it still runs, and starts it again; the log goes on.
    #[track_caller]
    pub fn restart(&mut self) {
        self.kill();
        self.log.turn_page();
        self.life = Life::begin(self.program.command(&self.log));
    }

    /// The same, with another program that takes the same arguments.
    #[track_caller]
    pub fn restart_as(&mut self, program: &Path) {
        program.clone_into(&mut self.program.path);
        self.restart();
    }

    /// Its process id, which is also that of its group.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.life.pid()
    }

    /// How it ended, if it has.
    #[must_use]
    pub fn status(&self) -> Option<ExitStatus> {
        self.life.status()
    }

    /// Sends `signal` to its process group: SIGTERM, SIGSTOP, SIGCONT. To one that has ended, nothing happens.
    pub fn signal(&self, signal: Signal) {
        self.life.signal(signal);
    }

    /// SIGKILL, and waits until it is gone.
    #[track_caller]
    pub fn kill(&mut self) {
        self.life.signal(Signal::SIGKILL);
        assert!(self.life.wait(PATIENCE).is_some(), "{}", self.report("was killed and is still there"));
    }

    /// Sends `signal` and waits until it has ended by it; after [`PATIENCE`], SIGKILL.
    #[track_caller]
    pub fn stop(&mut self, signal: Signal) {
        self.life.signal(signal);
        if self.life.wait(PATIENCE).is_none() {
            self.kill();
        }
    }

    /// Waits for its own end; panics when that does not come within `limit`.
    pub async fn wait(&self, limit: Duration) -> ExitStatus {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.status() {
                return status;
            }
            assert!(Instant::now() < deadline, "{}", self.report(&format!("did not end within {limit:?}")));
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits for a line of its log, of this life, that contains `text`.
    pub async fn wait_for_log_line(&self, text: &str, limit: Duration) -> String {
        let what = format!("a line with {text:?}");
        self.wait_for_log(&what, limit, |line| line.contains(text).then(|| line.to_owned())).await
    }

    /// Waits until `pick` finds `what` in a line of its log, of this life.
    pub async fn wait_for_log<T>(
        &self,
        what: &str,
        limit: Duration,
        mut pick: impl FnMut(&str) -> Option<T>,
    ) -> T {
        let deadline = Instant::now() + limit;
        let mut lines = self.log.follow();
        loop {
            // Asked first: what it wrote before its end is there to be read after.
            let ended = self.status();
            if let Some(found) = lines.fresh().iter().find_map(|line| pick(line)) {
                return found;
            }
            if let Some(status) = ended {
                panic!("{}", self.report(&format!("ended ({status}) before its log had {what}")));
            }
            assert!(
                Instant::now() < deadline,
                "{}",
                self.report(&format!("has no {what} in its log after {limit:?}"))
            );
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// All that it has written, of every life: standard output, then standard error.
    #[must_use]
    pub fn log(&self) -> String {
        self.log.text()
    }

    /// The last lines that it has written.
    #[must_use]
    pub fn log_tail(&self) -> String {
        self.log.tail()
    }

    /// `what` became of it, for an error message. The log it names is kept when the test fails.
    #[must_use]
    pub fn report(&self, what: &str) -> String {
        self.reported.store(true, Ordering::Relaxed);
        let Program { path, arguments, .. } = &self.program;
        let words = arguments.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
        let (name, path, log, tail) =
            (self.program.name(), path.display(), self.log.folder(), self.log_tail());
        format!("{name} {what}\ncommand: {path} {words}\nlog, in {}:\n{tail}", log.display())
    }

    pub(crate) fn program(&self) -> &Path {
        &self.program.path
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let ended = self.status();
        self.life.signal(Signal::SIGKILL);
        let gone = self.life.wait(PATIENCE).is_some();
        if std::thread::panicking() {
            if !self.reported.load(Ordering::Relaxed) {
                let how = ended.map_or("was running".to_owned(), |status| format!("had ended ({status})"));
                eprintln!("\n{}", self.report(&format!("{how} when the test failed")));
            }
            self.log.keep();
        } else if !gone {
            eprintln!("{}", self.report("was killed and is still there"));
        }
    }
}
