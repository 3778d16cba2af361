//! Runs a command to its end, with a limit, and never leaves a part of it behind.

use std::io::{BufRead as _, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::unistd::Pid;

/// How long a command that was asked to end may take before it is killed.
const GRACE: Duration = Duration::from_secs(10);

/// Who runs commands now, to be told of Ctrl-C; also who did, until then.
static RUNNING: Mutex<Vec<Sender<News>>> = Mutex::new(Vec::new());

enum News {
    Ended(std::io::Result<ExitStatus>),
    Interrupted(Signal),
}

/// Turns Ctrl-C and its kin into the end of the command that runs, which has a process group of its own and
/// would not hear of it. To be called first of all: threads inherit which signals are blocked.
pub(crate) fn watch_for_interrupts() {
    let signals = interrupts();
    signals.thread_block().expect("these signals can be blocked");
    thread::spawn(move || {
        while let Ok(signal) = signals.wait() {
            let mut running = RUNNING.lock().expect("no holder panics");
            running.retain(|sender| sender.send(News::Interrupted(signal)).is_ok());
            // Between two commands there is nothing to stop but ourselves.
            if running.is_empty() {
                std::process::exit(130);
            }
        }
    });
}

fn interrupts() -> SigSet {
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect()
}

/// Runs `command` with our output as its own; an error unless it succeeds within `limit`.
pub(crate) fn run(command: &mut Command, limit: Duration) -> Result<()> {
    let line = describe(command);
    let child = start(command, &line)?;
    succeeded(&line, supervise(child, &line, limit)?, "")
}

/// What a command wrote.
pub(crate) struct Output {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs `command` and gives what it wrote; that is part of the error if it fails.
pub(crate) fn output(command: &mut Command, limit: Duration) -> Result<Output> {
    let line = describe(command);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = start(command, &line)?;
    // Read beside the wait: a full pipe would stop the command.
    let stdout = read_aside(child.stdout.take().expect("stdout is piped"));
    let stderr = read_aside(child.stderr.take().expect("stderr is piped"));
    let status = supervise(child, &line, limit)?;
    let collect = |receiver: Receiver<String>| {
        receiver.recv_timeout(GRACE).with_context(|| format!("`{line}` left its output open"))
    };
    let (stdout, stderr) = (collect(stdout)?, collect(stderr)?);
    // Some say there what is wrong (`helm lint`), and by standard error only that something is.
    succeeded(&line, status, format!("{}\n{}", stderr.trim(), stdout.trim()).trim())?;
    Ok(Output { stdout, stderr })
}

/// Runs `command`, gives each line of its standard error to `each`, and says how it ended.
pub(crate) fn lines(
    command: &mut Command,
    limit: Duration,
    each: impl FnMut(&str) + Send,
) -> Result<ExitStatus> {
    let line = describe(command);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = start(command, &line)?;
    let stderr = child.stderr.take().expect("stderr is piped");
    supervise_reading(child, &line, limit, stderr, each)
}

/// Like [`run`], and gives each line of its standard output to `each` as well.
pub(crate) fn run_and_read(
    command: &mut Command,
    limit: Duration,
    mut each: impl FnMut(&str) + Send,
) -> Result<()> {
    let line = describe(command);
    command.stdout(Stdio::piped());
    let mut child = start(command, &line)?;
    let stdout = child.stdout.take().expect("stdout is piped");
    let status = supervise_reading(child, &line, limit, stdout, |text| {
        println!("{text}");
        each(text);
    })?;
    succeeded(&line, status, "")
}

fn supervise_reading(
    child: Child,
    line: &str,
    limit: Duration,
    pipe: impl Read + Send,
    mut each: impl FnMut(&str) + Send,
) -> Result<ExitStatus> {
    thread::scope(|scope| {
        // It ends with the last of the command's group, which is stopped at the limit.
        scope.spawn(move || {
            for text in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
                each(&String::from_utf8_lossy(&text));
            }
        });
        supervise(child, line, limit)
    })
}

/// The command as a person would type it.
fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

fn start(command: &mut Command, line: &str) -> Result<Child> {
    // A group of its own: what it starts in turn (cargo: rustc, test binaries) ends with it.
    command.stdin(Stdio::null()).process_group(0);
    // A child inherits which signals are blocked, and its children: servers under test that are asked to end
    // would never hear of it.
    interrupts().thread_unblock().context("unblocking signals")?;
    let child = command.spawn().with_context(|| format!("starting `{line}`"));
    interrupts().thread_block().context("blocking signals")?;
    child
}

fn supervise(mut child: Child, line: &str, limit: Duration) -> Result<ExitStatus> {
    let group = Pid::from_raw(child.id().cast_signed());
    let (sender, receiver) = mpsc::channel();
    RUNNING.lock().expect("no holder panics").push(sender.clone());
    thread::spawn(move || sender.send(News::Ended(child.wait())));

    let why = match receiver.recv_timeout(limit) {
        Ok(News::Ended(status)) => return status.with_context(|| format!("waiting for `{line}`")),
        Ok(News::Interrupted(signal)) => format!("interrupted by {signal} while running `{line}`"),
        Err(RecvTimeoutError::Timeout) => format!("`{line}` did not end within {limit:?} and was stopped"),
        Err(RecvTimeoutError::Disconnected) => format!("lost sight of `{line}`"),
    };
    stop(group, &receiver);
    bail!(why)
}

fn stop(group: Pid, news: &Receiver<News>) {
    // An error says that the group is gone already, which is what is wanted.
    killpg(group, Signal::SIGTERM).ok();
    news.recv_timeout(GRACE).ok();
    killpg(group, Signal::SIGKILL).ok();
}

fn read_aside(mut pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What could be read of a broken pipe is still worth showing.
        pipe.read_to_end(&mut bytes).ok();
        sender.send(String::from_utf8_lossy(&bytes).into_owned())
    });
    receiver
}

fn succeeded(line: &str, status: ExitStatus, said: &str) -> Result<()> {
    if status.success() {
        return Ok(());
    }
    let detail = if said.is_empty() { String::new() } else { format!(":\n{said}") };
    bail!("`{line}` failed ({status}){detail}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_of_a_command_has_all_that_it_wrote() {
        let mut fails = Command::new("sh");
        fails.args(["-c", "echo '[ERROR] what is wrong'; echo one of one failed >&2; exit 1"]);
        let error = output(&mut fails, GRACE).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(
            error.ends_with("failed (exit status: 1):\none of one failed\n[ERROR] what is wrong"),
            "{error}"
        );
    }
}
