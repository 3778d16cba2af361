//! The life of a child, from its start to the end of its whole process group.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

#[derive(Debug)]
pub(super) struct Life {
    group: Pid,
    end: Arc<End>,
}

#[derive(Debug, Default)]
struct End {
    status: Mutex<Option<ExitStatus>>,
    known: Condvar,
}

impl Life {
    #[track_caller]
    pub(super) fn begin(mut command: Command) -> Self {
        command.process_group(0);
        let child = start(command);
        let group = Pid::from_raw(child.id().cast_signed());
        let end = Arc::new(End::default());
        let witness = Arc::clone(&end);
        thread::spawn(move || witness.await_end_of(child));
        Self { group, end }
    }

    pub(super) fn pid(&self) -> u32 {
        self.group.as_raw().cast_unsigned()
    }

    pub(super) fn status(&self) -> Option<ExitStatus> {
        *self.end.lock()
    }

    pub(super) fn signal(&self, signal: Signal) {
        // Under the lock it is either not reaped yet or known to be: its number cannot be another's by now.
        let ended = self.end.lock();
        if ended.is_none() {
            killpg(self.group, signal)
                .unwrap_or_else(|error| panic!("sending {signal} to {}: {error}", self.group));
        }
    }

    pub(super) fn wait(&self, limit: Duration) -> Option<ExitStatus> {
        let status = self.end.lock();
        let waited = self.end.known.wait_timeout_while(status, limit, |status| status.is_none());
        *waited.expect("no holder panics").0
    }
}

impl End {
    fn lock(&self) -> MutexGuard<'_, Option<ExitStatus>> {
        self.status.lock().expect("no holder panics")
    }

    fn await_end_of(&self, mut child: Child) {
        let leader = Pid::from_raw(child.id().cast_signed());
        // Seen, not reaped: the number stays taken until its group is dealt with.
        waitid(Id::Pid(leader), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT)
            .expect("our child can be waited for");
        let mut status = self.lock();
        killpg(leader, Signal::SIGKILL).ok();
        *status = Some(child.wait().expect("our child can be waited for"));
        self.known.notify_all();
    }
}

/// A child's "parent is gone" signal comes when the *thread* that started it ends, so one that lasts as long as
/// the process starts them all.
#[track_caller]
fn start(command: Command) -> Child {
    type Order = (Command, Sender<std::io::Result<Child>>);
    static STARTER: OnceLock<Sender<Order>> = OnceLock::new();
    let starter = STARTER.get_or_init(|| {
        let (sender, orders) = mpsc::channel::<Order>();
        thread::spawn(move || {
            for (mut command, reply) in orders {
                reply.send(command.spawn()).ok();
            }
        });
        sender
    });
    let (reply, answer) = mpsc::channel();
    let what = format!("{command:?}");
    starter.send((command, reply)).expect("the starter lasts");
    let started = answer.recv().expect("the starter answers");
    started.unwrap_or_else(|error| panic!("cannot start {what}: {error}"))
}
