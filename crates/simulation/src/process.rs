//! Processes: what can be stopped, cut off and killed.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::sleep;

use crate::world::World;

/// A process of the cluster.
#[derive(Debug)]
pub struct Process {
    /// What it is called in the story.
    pub name: String,
    pub(crate) world: Arc<World>,
    flags: Mutex<Flags>,
    changed: Notify,
    stopped: Mutex<Vec<Waker>>,
}

/// What is wrong with a process.
#[derive(Debug, Clone, Copy, Default)]
pub struct Flags {
    /// SIGSTOP.
    pub stopped: bool,
    /// SIGKILL.
    pub killed: bool,
    /// Nothing comes from or goes to NATS.
    pub no_nats: bool,
    /// Nothing comes from or goes to the event log's replicas (a gateway's), or PostgreSQL (a replica's).
    pub no_log: bool,
    /// Tails opened before have a dead consumer: they give nothing, and say nothing.
    pub tails_dead: u64,
    /// The connection to NATS was lost so often.
    pub reconnects: u64,
}

impl Process {
    /// One that runs.
    pub fn new(world: &Arc<World>, name: String) -> Arc<Self> {
        Arc::new(Process {
            name,
            world: world.clone(),
            flags: Mutex::default(),
            changed: Notify::new(),
            stopped: Mutex::default(),
        })
    }

    /// What is wrong with it now.
    pub fn flags(&self) -> Flags {
        *self.flags.lock()
    }

    /// Changes what is wrong.
    pub fn set(&self, change: impl FnOnce(&mut Flags)) {
        change(&mut self.flags.lock());
        self.changed.notify_waiters();
        let wakers = std::mem::take(&mut *self.stopped.lock());
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Waits until the flags are so.
    pub async fn until(&self, so: impl Fn(&Flags) -> bool) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Before looking, so that a change in between is heard.
            changed.as_mut().enable();
            if so(&self.flags()) {
                return;
            }
            changed.await;
        }
    }

    /// Waits until it is killed.
    pub async fn killed(&self) {
        self.until(|flags| flags.killed).await;
    }

    /// Half a round trip between it and NATS. Without a way there it takes a while to give up.
    pub async fn hop_to_nats(&self) -> Result<(), String> {
        let reconnects = self.flags().reconnects;
        self.world.hop().await;
        let flags = self.flags();
        if flags.killed {
            return Err("the process is gone".to_owned());
        }
        if flags.no_nats {
            sleep(self.world.millis(20..2500)).await;
            return Err("no connection to NATS".to_owned());
        }
        if flags.reconnects != reconnects {
            return Err("the connection to NATS was lost".to_owned());
        }
        Ok(())
    }

    /// Half a round trip between it and the log.
    pub async fn hop_to_log(&self) -> Result<(), String> {
        self.world.hop().await;
        let flags = self.flags();
        if flags.killed {
            return Err("the process is gone".to_owned());
        }
        if flags.no_log {
            sleep(self.world.millis(20..4000)).await;
            return Err("no connection".to_owned());
        }
        Ok(())
    }

    /// The future as it runs in this process: not at all while that is stopped.
    pub fn runs<F: Future + Send + 'static>(self: &Arc<Self>, future: F) -> Runs<F> {
        Runs { process: self.clone(), future: Box::pin(future) }
    }

    /// What it answers, unless it is killed before.
    pub async fn answers<F: Future + Send + 'static>(self: Arc<Self>, future: F) -> Option<F::Output> {
        tokio::select! {
            biased;
            () = self.killed() => None,
            answer = self.runs(future) => Some(answer),
        }
    }
}

/// See [`Process::runs`].
pub struct Runs<F> {
    process: Arc<Process>,
    future: Pin<Box<F>>,
}

impl<F: Future> Future for Runs<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        if self.process.flags().stopped {
            self.process.stopped.lock().push(context.waker().clone());
            return Poll::Pending;
        }
        self.future.as_mut().poll(context)
    }
}

/// Longest that a caller waits for somebody who doesn't answer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
