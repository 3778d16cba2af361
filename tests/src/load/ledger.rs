//! What is known of every event, and what went against a promise.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use foghorn_core::shard::{Shard, ShardCount};
use parking_lot::Mutex;
use tokio::time::Instant;

/// Most violations that are kept; more are only counted.
const KEPT: usize = 100;

/// How much there has been.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    /// Events acked.
    pub acked: usize,
    /// Of these, acked as durable.
    pub durable: usize,
    /// Acked as durable, and looked for in PostgreSQL at once.
    pub looked_for: usize,
    /// Publishes that had to be tried again.
    pub retries: usize,
    /// Events at listeners.
    pub heard: usize,
    /// Streams opened after the first of each listener.
    pub reconnects: usize,
    /// `stream-reset` events.
    pub resets: usize,
    /// `stream-stale` events.
    pub stale: usize,
    /// Whatever went against a promise.
    pub violations: usize,
}

/// Where an event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct At {
    pub(super) shard: u8,
    /// Not known to who publishes straight into the journal.
    pub(super) epoch: Option<u64>,
    pub(super) seq: u64,
}

/// The events of one channel.
#[derive(Debug)]
struct Channel {
    name: String,
    shard: Shard,
    /// The seq of each number, as an ack or the first listener said it; 0 while nobody has.
    seqs: Mutex<Vec<u64>>,
    /// How many are acked: all below.
    acked: AtomicUsize,
    /// How many of the listeners' next numbers are above: see [`Ledger::all_heard`].
    listeners: Mutex<Vec<usize>>,
}

/// One for a whole load.
#[derive(Debug)]
pub(super) struct Ledger {
    channels: Vec<Channel>,
    pub(super) shards: ShardCount,
    epochs: Vec<OnceLock<u64>>,
    began: Instant,
    durable: AtomicUsize,
    looked_for: AtomicUsize,
    retries: AtomicUsize,
    heard: AtomicUsize,
    reconnects: AtomicUsize,
    resets: AtomicUsize,
    stale: AtomicUsize,
    wrong: AtomicUsize,
    violations: Mutex<Vec<String>>,
    slowest_ms: AtomicU64,
}

impl Ledger {
    pub(super) fn new(names: Vec<String>, shards: ShardCount) -> Self {
        let channel = |name: String| Channel {
            shard: shards.shard_of_str(&name),
            name,
            seqs: Mutex::default(),
            acked: AtomicUsize::new(0),
            listeners: Mutex::default(),
        };
        Ledger {
            channels: names.into_iter().map(channel).collect(),
            shards,
            epochs: shards.shards().map(|_| OnceLock::new()).collect(),
            began: Instant::now(),
            durable: AtomicUsize::default(),
            looked_for: AtomicUsize::default(),
            retries: AtomicUsize::default(),
            heard: AtomicUsize::default(),
            reconnects: AtomicUsize::default(),
            resets: AtomicUsize::default(),
            stale: AtomicUsize::default(),
            wrong: AtomicUsize::default(),
            violations: Mutex::default(),
            slowest_ms: AtomicU64::default(),
        }
    }

    pub(super) fn name(&self, channel: usize) -> &str {
        &self.channels[channel].name
    }

    pub(super) fn shard(&self, channel: usize) -> Shard {
        self.channels[channel].shard
    }

    /// Milliseconds since the load began.
    pub(super) fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Something went against a promise.
    pub(super) fn violation(&self, what: &str) {
        if self.wrong.fetch_add(1, Ordering::SeqCst) < KEPT {
            self.violations.lock().push(format!("at {:.1} s: {what}", self.began.elapsed().as_secs_f64()));
        }
    }

    /// The next event of a channel was acked.
    pub(super) fn acked(&self, channel: usize, number: usize, at: At, durable: bool) {
        self.placed(channel, number, at, "its ack");
        self.channels[channel].acked.store(number + 1, Ordering::SeqCst);
        if durable {
            self.durable.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn looked_for(&self) {
        self.looked_for.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn tried_again(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }

    /// A listener has an event, `sent_ms` old in the load's time.
    pub(super) fn heard(&self, channel: usize, number: usize, at: At, who: &str) {
        self.heard.fetch_add(1, Ordering::Relaxed);
        self.placed(channel, number, at, who);
    }

    /// An event took so long to a listener that had not been away.
    pub(super) fn took(&self, sent_ms: u64) {
        self.slowest_ms.fetch_max(self.now_ms().saturating_sub(sent_ms), Ordering::Relaxed);
    }

    pub(super) fn reconnected(&self) {
        self.reconnects.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn reset(&self) {
        self.resets.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn stale(&self) {
        self.stale.fetch_add(1, Ordering::Relaxed);
    }

    /// All that speak of an event name one position, in the shard of its channel, in one epoch.
    pub(super) fn placed(&self, channel: usize, number: usize, at: At, who: &str) {
        let Channel { name, shard, seqs, .. } = &self.channels[channel];
        if at.shard != shard.get() {
            self.violation(&format!("{who} has {name} {number} in shard {}, not {shard}", at.shard));
        }
        if let Some(epoch) = at.epoch {
            let first = *self.epochs[shard.index()].get_or_init(|| epoch);
            if epoch != first {
                self.violation(&format!("{who} has {name} {number} in epoch {epoch}, not {first}"));
            }
        }
        let mut seqs = seqs.lock();
        if seqs.len() <= number {
            seqs.resize(number + 1, 0);
        }
        let seq = seqs[number];
        if seq == 0 {
            seqs[number] = at.seq;
        } else if seq != at.seq {
            self.violation(&format!("{who} has {name} {number} at seq {}, others at {seq}", at.seq));
        }
    }

    /// A listener hears a channel; gives the place where it is to say how far it is.
    pub(super) fn listens(&self, channel: usize) -> usize {
        let mut listeners = self.channels[channel].listeners.lock();
        listeners.push(0);
        listeners.len() - 1
    }

    /// A listener has everything of a channel below `next`.
    pub(super) fn reached(&self, channel: usize, place: usize, next: usize) {
        self.channels[channel].listeners.lock()[place] = next;
    }

    /// Whether every listener has everything that is acked.
    pub(super) fn all_heard(&self) -> bool {
        self.channels.iter().all(|channel| {
            let acked = channel.acked.load(Ordering::SeqCst);
            channel.listeners.lock().iter().all(|next| *next >= acked)
        })
    }

    /// How many events each channel has.
    pub(super) fn totals(&self) -> Vec<usize> {
        self.channels.iter().map(|channel| channel.acked.load(Ordering::SeqCst)).collect()
    }

    /// The seqs of a channel's acked events.
    pub(super) fn seqs(&self, channel: usize) -> Vec<u64> {
        let acked = self.channels[channel].acked.load(Ordering::SeqCst);
        let mut seqs = self.channels[channel].seqs.lock().clone();
        seqs.truncate(acked);
        seqs
    }

    pub(super) fn violations(&self) -> Vec<String> {
        self.violations.lock().clone()
    }

    pub(super) fn take_slowest(&self) -> Duration {
        Duration::from_millis(self.slowest_ms.swap(0, Ordering::Relaxed))
    }

    pub(super) fn counts(&self) -> Counts {
        let read = |count: &AtomicUsize| count.load(Ordering::SeqCst);
        Counts {
            acked: self.channels.iter().map(|channel| read(&channel.acked)).sum(),
            durable: read(&self.durable),
            looked_for: read(&self.looked_for),
            retries: read(&self.retries),
            heard: read(&self.heard),
            reconnects: read(&self.reconnects),
            resets: read(&self.resets),
            stale: read(&self.stale),
            violations: read(&self.wrong),
        }
    }
}
