//! Stopping: one signal drains, a second one stops at once.

use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// A signal this soon after the first is the same wish said twice: `timeout` signals its child and then the
/// group, a terminal the whole group while a script passes it on.
const SAME_WISH: Duration = Duration::from_millis(500);

/// Told to everything that runs. Turns true once.
#[derive(Debug, Clone)]
pub struct Shutdown {
    receiver: watch::Receiver<bool>,
}

/// Turns [`Shutdown`] true.
#[derive(Debug)]
pub struct Trigger {
    sender: watch::Sender<bool>,
}

/// A trigger and what it triggers.
pub fn channel() -> (Trigger, Shutdown) {
    let (sender, receiver) = watch::channel(false);
    (Trigger { sender }, Shutdown { receiver })
}

impl Trigger {
    /// From now on everything drains.
    pub fn fire(&self) {
        self.sender.send_replace(true);
    }
}

impl Shutdown {
    /// Returns once it is time to drain (also when the trigger is gone).
    pub async fn wait(&self) {
        // An error means that nobody can fire any more: the process is ending.
        let _ended = self.receiver.clone().wait_for(|stop| *stop).await.is_err();
    }

    /// Whether it is time to drain.
    pub fn is_set(&self) -> bool {
        *self.receiver.borrow()
    }

    /// The receiver itself, for those who select on it.
    pub fn receiver(&self) -> watch::Receiver<bool> {
        self.receiver.clone()
    }
}

/// Fires at SIGTERM or SIGINT. At another one, half a second later or more, the process exits with code 1 at
/// once.
pub fn on_signals(trigger: Trigger) -> std::io::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::spawn(async move {
        let mut next =
            async || tokio::select! { _ = terminate.recv() => "SIGTERM", _ = interrupt.recv() => "SIGINT" };
        let signal = next().await;
        tracing::info!(signal, "draining; a second signal stops at once");
        trigger.fire();
        let first = Instant::now();
        let signal = loop {
            let signal = next().await;
            if is_impatient(first.elapsed()) {
                break signal;
            }
        };
        tracing::warn!(signal, "stopping at once");
        std::process::exit(1);
    });
    Ok(())
}

fn is_impatient(since_first: Duration) -> bool {
    since_first >= SAME_WISH
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_wish_said_twice_is_no_impatience() {
        assert!(!is_impatient(Duration::ZERO));
        assert!(!is_impatient(Duration::from_millis(499)));
        assert!(is_impatient(Duration::from_millis(500)));
    }
}
