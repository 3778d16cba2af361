//! The engine: serves streams that are level with the ring, thousands to a thread.
//!
//! A stream has two places. While something has to be asked for or waited for (its beginning, a page of the
//! log, a reset) it is a [`Connection`](crate::connection::Connection) in a task, in [`catch_up`]. Once it is
//! level, nothing is left of it but a socket, the [`view`] it shares with all who asked for the same, and a
//! number: how far into the view's bytes it has been written. So it lives in a [`reactor`], which **sweeps**:
//! an event goes into the views that want it, once, and the reactor goes round each such view's members and
//! writes every one all that it lacks, in one system call. What comes meanwhile is taken along by those who
//! have not been reached yet. Under load the cost follows the sweeps and not the events.
//!
//! A member whose socket is full keeps its place until everybody else has been written; then it keeps the
//! rest of the event it stopped in and its positions, and leaves. When its socket takes something again, it
//! catches up in a task like any other that is behind, and comes back.

mod catch_up;
mod inbox;
mod outbox;
mod reactor;
mod view;
mod wheel;

use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use mio::Poll;
use tokio::runtime::Handle;

pub(crate) use catch_up::serve;
pub(crate) use inbox::Inbox;

use crate::connection::Shared;
use reactor::Reactor;

/// A client has said all it had to say with its request; so many bytes more are overlooked.
const READ_BYTES: usize = 64 * 1024;
/// How long a reactor that broke waits before it begins anew: whatever breaks it should not fill the log.
const RESTART_PAUSE: Duration = Duration::from_millis(100);

/// The reactors of a gateway, started with the first stream that needs them.
#[derive(Debug, Default)]
pub(crate) struct Engine {
    reactors: OnceLock<Vec<Arc<Inbox>>>,
    next: AtomicUsize,
}

impl Engine {
    /// The reactor whose turn it is to get a stream. None when no thread could be started: streams stay in
    /// their tasks then.
    fn reactor(&self, shared: &Arc<Shared>) -> Option<Arc<Inbox>> {
        let reactors = self.reactors.get_or_init(|| start(shared));
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        reactors.get(turn % reactors.len().max(1)).cloned()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        for inbox in self.reactors.get().into_iter().flatten() {
            inbox.stop();
        }
    }
}

fn start(shared: &Arc<Shared>) -> Vec<Arc<Inbox>> {
    let mut inboxes = Vec::new();
    for number in 0..shared.config.reactors() {
        match start_one(shared, number) {
            Ok(inbox) => inboxes.push(inbox),
            Err(error) => tracing::error!(%error, number, "could not start a reactor; going on with fewer"),
        }
    }
    shared.hub.attach(&inboxes);
    inboxes
}

fn start_one(shared: &Arc<Shared>, number: usize) -> std::io::Result<Arc<Inbox>> {
    let mut poll = Poll::new()?;
    let registry = Arc::new(poll.registry().try_clone()?);
    let inbox = Arc::new(Inbox::new(&poll)?);
    let (runtime, theirs) = (Handle::current(), inbox.clone());
    // Weak: the engine ends with what it is part of.
    let shared = Arc::downgrade(shared);
    thread::Builder::new().name(format!("reactor-{number}")).spawn(move || {
        while !theirs.is_stopped() {
            let Some(shared) = shared.upgrade() else { return };
            let reactor = Reactor::new(&shared, theirs.clone(), runtime.clone(), registry.clone());
            drop(shared);
            match std::panic::catch_unwind(AssertUnwindSafe(|| reactor.run(&mut poll))) {
                Ok(Ok(())) => return,
                // Its streams ended with it, and their clients come back with their cursors.
                Ok(Err(error)) => {
                    tracing::error!(%error, number, "a reactor can't wait for its sockets; it begins anew");
                }
                Err(_) => tracing::error!(number, "a reactor broke; it begins anew"),
            }
            thread::sleep(RESTART_PAUSE);
        }
    })?;
    Ok(inbox)
}

#[cfg(test)]
mod tests;
