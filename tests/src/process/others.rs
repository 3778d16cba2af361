//! Processes that are not our children, by way of /proc.

use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::Pid;

/// A process, told from a later one of the same number by its start time.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Other {
    pid: i32,
    started: u64,
}

/// The processes whose parent is `parent`.
pub(crate) fn children(parent: u32) -> Vec<Other> {
    all(|_, state| state.parent == parent)
}

/// The processes that have `text` in their command line.
pub(crate) fn mentioning(text: &str) -> Vec<Other> {
    all(|pid, _| {
        let line =
            std::fs::read(Path::new("/proc").join(pid.to_string()).join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(text)
    })
}

/// Sends `signal` to each that is still there.
pub(crate) fn signal(processes: &[Other], signal: Signal) {
    for process in processes.iter().filter(|process| alive(process)) {
        // It may end between the look and the signal.
        nix::sys::signal::kill(Pid::from_raw(process.pid), signal).ok();
    }
}

/// SIGKILL to each, and waits until they are gone; `false` when some are still there at the `limit`.
pub(crate) fn kill(processes: &[Other], limit: Duration) -> bool {
    signal(processes, Signal::SIGKILL);
    let deadline = Instant::now() + limit;
    while processes.iter().any(alive) {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    true
}

fn all(wanted: impl Fn(i32, &State) -> bool) -> Vec<Other> {
    let entries = std::fs::read_dir("/proc").expect("/proc is there").filter_map(|entry| entry.ok());
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let states = pids.filter_map(|pid| Some((pid, state(pid)?)));
    let found = states.filter(|(pid, state)| wanted(*pid, state));
    found.map(|(pid, state)| Other { pid, started: state.started }).collect()
}

fn alive(process: &Other) -> bool {
    // A zombie has let go of everything; who reaps it is not our affair.
    state(process.pid).is_some_and(|state| state.started == process.started && state.letter != 'Z')
}

struct State {
    letter: char,
    parent: u32,
    started: u64,
}

/// Fields 3, 4 and 22 of /proc/<pid>/stat; the second is a name in parentheses that may itself have any character.
fn state(pid: i32) -> Option<State> {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).ok()?;
    let mut fields = stat[stat.rfind(')')? + 1..].split_whitespace();
    let letter = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    let started = fields.nth(17)?.parse().ok()?;
    Some(State { letter, parent, started })
}
