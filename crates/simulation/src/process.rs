//! Processes: what can be stopped, cut off and killed.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use foghorn_bus::clock::Clock;
use foghorn_core::batch::Batch;
use foghorn_core::position::{Digest, Epoch};
use foghorn_core::shard::Shard;
use foghorn_core::time::Timestamp;
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
    killed_at: Mutex<Option<Duration>>,
    silences: Mutex<BTreeMap<Shard, Silences>>,
    /// When it was stopped, and until when; still, where there is no end.
    stops: Mutex<Vec<(Duration, Option<Duration>)>>,
}

/// What came of a shard's live feed, and when nothing did.
#[derive(Debug)]
struct Silences {
    last: Duration,
    over: Vec<(Duration, Duration)>,
    /// The last entry that it can tell from another.
    knows: (Epoch, u64),
}

impl Default for Silences {
    fn default() -> Self {
        Silences { last: Duration::ZERO, over: Vec::new(), knows: (Epoch::new(0), 0) }
    }
}

/// Silences shorter than this are of no interest.
const SILENCE_LEAST: Duration = Duration::from_secs(5);

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
    /// How much its clock is ahead, in milliseconds.
    pub clock_ms: i64,
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
            killed_at: Mutex::default(),
            silences: Mutex::default(),
            stops: Mutex::default(),
        })
    }

    /// What is wrong with it now.
    pub fn flags(&self) -> Flags {
        *self.flags.lock()
    }

    /// Changes what is wrong.
    pub fn set(&self, change: impl FnOnce(&mut Flags)) {
        let (before, now) = {
            let mut flags = self.flags.lock();
            let before = flags.stopped;
            change(&mut flags);
            (before, flags.stopped)
        };
        if self.flags().killed {
            self.killed_at.lock().get_or_insert(self.world.elapsed());
        }
        if before != now {
            let (at, mut stops) = (self.world.elapsed(), self.stops.lock());
            match stops.last_mut() {
                Some((_, until)) if !now => *until = Some(at),
                _ => stops.push((at, None)),
            }
        }
        self.changed.notify_waiters();
        let wakers = std::mem::take(&mut *self.stopped.lock());
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Its clock.
    pub fn clock(self: &Arc<Self>) -> Clock {
        let process = self.clone();
        Clock::new(move || process.now())
    }

    /// The time as it has it.
    pub fn now(&self) -> Timestamp {
        let (now, off) = (self.world.now(), self.flags().clock_ms);
        let by = Duration::from_millis(off.unsigned_abs());
        if off < 0 { now.minus(by) } else { now.plus(by) }
    }

    /// When it was killed.
    pub fn killed_at(&self) -> Option<Duration> {
        *self.killed_at.lock()
    }

    /// A batch of a shard came to it, or it began to listen.
    pub fn heard(&self, shard: Shard, batch: Option<&Batch>) {
        let now = self.world.elapsed();
        let mut silences = self.silences.lock();
        let of = silences.entry(shard).or_insert_with(|| Silences { last: now, ..Silences::default() });
        if now.saturating_sub(of.last) > SILENCE_LEAST {
            of.over.push((of.last, now));
        }
        of.last = now;
        if let Some(batch) = batch.filter(|batch| batch.to_digest != Digest::NONE) {
            of.knows = (batch.epoch, batch.to);
        }
    }

    /// The last entry of an epoch that came to it with its digest; 0 for none.
    pub fn knows(&self, shard: Shard, epoch: Epoch) -> u64 {
        let silences = self.silences.lock();
        silences.get(&shard).filter(|of| of.knows.0 == epoch).map_or(0, |of| of.knows.1)
    }

    /// When no batch of a shard came to it for long, the silence that is not over included.
    pub fn silences(&self, shard: Shard) -> Vec<(Duration, Duration)> {
        let now = self.world.elapsed();
        let silences = self.silences.lock();
        let Some(of) = silences.get(&shard) else { return Vec::new() };
        let still = (now.saturating_sub(of.last) > SILENCE_LEAST).then_some((of.last, now));
        of.over.iter().copied().chain(still).collect()
    }

    /// Whether it was stopped at any time in between.
    pub fn stopped_between(&self, from: Duration, to: Duration) -> bool {
        self.stops.lock().iter().any(|(at, until)| *at < to && until.is_none_or(|until| until > from))
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
