//! Taking in the live feed of one shard: contiguity, gaps, warm-up, silence.
//!
//! There is one way to catch up, and warm-up is it: a ring that begins a minute ago has a gap from
//! there to the first live batch. While a gap is filled from the log nothing after it is sent; later
//! batches wait here, bounded in bytes, and what finds no room is only a larger gap.
//!
//! A gateway has no journal. What it holds it compares with what comes, and when the two are of different
//! histories it takes nothing. Two digests for one entry are proof that the journal gave a seq out twice, whichever
//! of the two it has now: other gateways may have the other, so the log is told and begins a new epoch, in which
//! all rings begin anew. Where only frames differ (versions may write them differently) the log is asked, whose side
//! compares with the journal: the answer is that the ring was right, or the new epoch. Every other question to the
//! log carries the digest of the ring's head too, so a silent feed hides nothing. An event of which the ring knows
//! no digest it can compare itself, and says so: also then a new epoch begins, or listeners would not be told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

use foghorn_bus::Future;
use foghorn_bus::backoff::Backoff;
use foghorn_bus::live::{LiveFeed, LiveSubscription};
use foghorn_bus::log::{EventLog, LogError, Replay, ReplayQuery};
use foghorn_core::batch::Batch;
use foghorn_core::pattern::Pattern;
use foghorn_core::position::{Digest, Epoch};
use foghorn_core::reason::ResetReason;
use foghorn_core::shard::Shard;
use foghorn_telemetry::health::Part;

use crate::hub::Hub;
use crate::ring::{Applied, Ring};

/// Without a batch for this long the log is polled (a relay sends a beacon every 250 ms).
const POLL_AFTER: Duration = Duration::from_secs(1);
/// A gap is filled after a random wait of up to this, so that not all gateways ask at once.
const FILL_JITTER: Duration = Duration::from_millis(30);
/// Events and bytes asked of the log at a time.
const PAGE_EVENTS: usize = 2000;
const PAGE_BYTES: usize = 1 << 20;

/// Keeps one shard's ring level with the journal. Never returns; the process ends it.
pub(crate) struct Ingest {
    /// Which one.
    pub shard: Shard,
    /// Where it goes.
    pub hub: Arc<Hub>,
    /// Where it comes from.
    pub feed: Arc<dyn LiveFeed>,
    /// Where the rest comes from.
    pub log: Arc<dyn EventLog>,
    /// How far back to begin.
    pub warm: Duration,
    /// When listeners are told that the feed is silent.
    pub stale_after: Duration,
    /// Bytes of batches that may wait for a gap to be filled.
    pub pending_bytes: usize,
    /// Ready once the ring is level with where the journal was at start.
    pub health: Part,
}

/// What the log answered to a question about what comes after a position.
struct Filled {
    epoch: Epoch,
    after: u64,
    /// Whether it was asked because of a doubt, which an error leaves open.
    doubt: Option<Doubt>,
    answer: Result<Replay, LogError>,
}

/// Why what the ring holds may not be what the journal has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doubt {
    /// What came doesn't say what it follows, or the ring doesn't know what it ends with: the two may be of different
    /// histories. The last entry that the ring knew when it came.
    Unsaid(At),
    /// What came has other frames than the ring: the log is to say which of the two are right. What the ring
    /// had at this position when they came; it may have taken in something of another history by now.
    Differs(At),
    /// At this position there have been two entries: the ring has another event than the journal, or had another
    /// digest than what came, or other frames that nobody can compare any more.
    Other(Epoch, u64),
}

/// Where a ring is, and what it has there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct At {
    epoch: Epoch,
    after: u64,
    digest: Digest,
}

/// The subscription, or the attempt to get one.
enum Feed<'a> {
    Subscribing(Future<'a, Box<dyn LiveSubscription>>),
    Open(Box<dyn LiveSubscription>),
}

#[derive(Default)]
struct Pending {
    batches: BTreeMap<u64, Arc<Batch>>,
    bytes: usize,
}

struct State {
    pending: Pending,
    warm_at: Option<u64>,
    last_batch: Instant,
    fill_backoff: Backoff,
    /// After a failed request the log is left alone until then.
    retry_at: Instant,
    /// Whether there is a gap that was seen and is not filled yet.
    filling_gap: bool,
    doubt: Option<Doubt>,
}

impl Ingest {
    /// Runs for ever.
    pub(crate) async fn run(self) {
        let (epoch, after, tip) = self.locate().await;
        self.hub.restart(self.shard, epoch, after);
        tracing::info!(shard = %self.shard, %epoch, after, tip, "ring begins");
        let mut state = State {
            pending: Pending::default(),
            warm_at: Some(tip),
            last_batch: Instant::now(),
            fill_backoff: Backoff::default(),
            retry_at: Instant::now(),
            filling_gap: false,
            doubt: None,
        };
        self.follow(&mut state).await;
    }

    async fn locate(&self) -> (Epoch, u64, u64) {
        let mut backoff = Backoff::default();
        loop {
            let since = self.hub.clock.now().minus(self.warm);
            match self.log.locate(self.shard, since).await {
                Ok(found) => return (found.epoch, found.after, found.tip),
                Err(error) => {
                    self.health.not_ready(format!("the event log ({error})"));
                    backoff.wait().await;
                }
            }
        }
    }

    /// Subscribes, however long it takes.
    fn subscribe(&self) -> Feed<'_> {
        Feed::Subscribing(Box::pin(async {
            let mut backoff = Backoff::default();
            loop {
                match self.feed.subscribe(self.shard).await {
                    Ok(subscription) => return subscription,
                    Err(error) => {
                        tracing::warn!(shard = %self.shard, %error, "can't subscribe to the live feed");
                        backoff.wait().await;
                    }
                }
            }
        }))
    }

    /// For ever. Without a live feed, listeners are told that it is silent and the log is polled.
    async fn follow(&self, state: &mut State) {
        let mut feed = self.subscribe();
        let mut tick = interval(Duration::from_millis(100));
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        // At start there is nearly always a gap; asking at once beats waiting for a batch to show it.
        let mut fill: Option<Future<'_, Filled>> = Some(self.fill(Duration::ZERO));
        loop {
            tokio::select! {
                // What comes least often first: nothing is kept from its turn, and a simulation knows it.
                biased;
                _ = tick.tick() => {}
                filled = async { match fill.as_mut() { Some(fill) => fill.await, None => std::future::pending().await } } => {
                    fill = None;
                    if self.filled(state, filled) {
                        fill = Some(self.fill(Duration::ZERO));
                    }
                }
                batch = feed.next() => match batch {
                    Some(batch) => {
                        // A relay of an epoch before says nothing about this one, nor one of a journal that ends
                        // before the ring: the log is asked, and knows whether that is a loss.
                        let At { epoch, after, .. } = self.at();
                        if batch.epoch > epoch || batch.epoch == epoch && batch.tip >= after {
                            state.last_batch = Instant::now();
                            self.hub.set_stale(self.shard, false);
                        }
                        self.take(state, batch);
                    }
                    None => {
                        tracing::warn!(shard = %self.shard, "live feed ended; subscribing anew");
                        feed = self.subscribe();
                    }
                },
            }
            if state.last_batch.elapsed() >= self.stale_after {
                self.hub.set_stale(self.shard, true);
            }
            if fill.is_none() {
                fill = self.next_fill(state);
            }
            self.note_warm(state);
        }
    }

    /// What to ask the log for now, if anything.
    fn next_fill(&self, state: &mut State) -> Option<Future<'_, Filled>> {
        if Instant::now() < state.retry_at {
            return None;
        }
        if let Some(doubt) = state.doubt.take() {
            return Some(self.fill_from(Some(doubt), FILL_JITTER.mul_f64(fastrand::f64())));
        }
        let behind = !state.pending.batches.is_empty();
        if behind || state.warm_at.is_some() {
            return Some(self.fill(FILL_JITTER.mul_f64(fastrand::f64())));
        }
        if state.last_batch.elapsed() >= POLL_AFTER {
            self.hub.metrics.polls.inc();
            let wait = POLL_AFTER.mul_f64(0.5 + fastrand::f64() / 2.0);
            return Some(self.fill(wait));
        }
        None
    }

    /// Asks for what follows the head.
    fn fill(&self, wait: Duration) -> Future<'_, Filled> {
        self.fill_from(None, wait)
    }

    fn fill_from(&self, doubt: Option<Doubt>, wait: Duration) -> Future<'_, Filled> {
        Box::pin(async move {
            tokio::time::sleep(wait).await;
            let At { epoch, after, digest } = match doubt {
                None => self.at(),
                Some(Doubt::Unsaid(at) | Doubt::Differs(at)) => at,
                Some(Doubt::Other(epoch, after)) => At { epoch, after, digest: Digest::OTHER },
            };
            let topics = Arc::from([Pattern::everything()]);
            let query = ReplayQuery {
                shard: self.shard,
                epoch,
                after,
                digest,
                topics,
                events: PAGE_EVENTS,
                bytes: PAGE_BYTES,
                fill: true,
            };
            let answer = self.log.replay(query).await;
            if answer.is_err() {
                self.hub.metrics.log_failed();
            }
            Filled { epoch, after, doubt, answer }
        })
    }

    /// The head.
    fn at(&self) -> At {
        let of = |ring: &Ring| {
            let known = ring.newest_digest().filter(|(seq, _)| *seq == ring.head());
            At {
                epoch: ring.epoch(),
                after: ring.head(),
                digest: known.map_or(Digest::NONE, |(_, known)| known),
            }
        };
        let nowhere = At { epoch: Epoch::new(0), after: 0, digest: Digest::NONE };
        self.hub.with_ring(self.shard, |ring| ring.map_or(nowhere, of))
    }

    /// The newest entry that the log can compare with the journal's. What follows it up to the head is
    /// asked for once more.
    fn newest_known(&self) -> At {
        let known = self.hub.with_ring(self.shard, |ring| Some((ring?.epoch(), ring?.newest_digest()?)));
        known.map_or_else(|| self.at(), |(epoch, (after, digest))| At { epoch, after, digest })
    }

    /// Takes in what the log answered; whether there is more to ask for at once.
    fn filled(&self, state: &mut State, filled: Filled) -> bool {
        // The ring went another way meanwhile: the answer is to a question that nobody has any more.
        let at = self.at();
        let (same_epoch, same_head) = (at.epoch == filled.epoch, at.after == filled.after);
        if let (Some(Doubt::Differs(_)), Ok(Replay::Reset { epoch, .. })) = (filled.doubt, &filled.answer)
            && same_epoch
            && *epoch == filled.epoch
        {
            // What was to be compared is gone, and listeners have one history or the other.
            state.doubt = Some(Doubt::Other(filled.epoch, filled.after));
            return false;
        }
        let moved = match filled.answer {
            // Whatever the head is by now.
            Ok(Replay::Reset { reason: ResetReason::Epoch, .. }) => !same_epoch,
            Ok(Replay::Reset { .. }) => !(same_epoch && same_head),
            _ => false,
        };
        if moved {
            return true;
        }
        let doubt = filled.doubt.filter(|_| same_epoch);
        match filled.answer {
            // A replica of the log that has not noticed the epoch yet, or will soon know better.
            Ok(Replay::Reset { epoch, .. }) if epoch < filled.epoch => {
                state.retry_at = Instant::now() + state.fill_backoff.next_wait();
                state.doubt = state.doubt.or(doubt);
                tracing::debug!(shard = %self.shard, %epoch, ring = %filled.epoch, "the log answers for an older epoch");
                false
            }
            Ok(Replay::Page(batch)) => {
                let more = batch.to < batch.tip && batch.to > batch.from;
                if state.warm_at.is_some_and(|warm| batch.to >= warm.min(batch.tip)) {
                    state.warm_at = Some(batch.to);
                }
                if self.apply(state, &batch) == Applied::Differs {
                    self.differs(state, doubt, &batch);
                    return false;
                }
                self.drain_pending(state);
                if batch.to > batch.from || state.pending.batches.is_empty() {
                    state.fill_backoff.reset();
                } else {
                    // What waits comes after more than the journal has: that may never be there again.
                    state.retry_at = Instant::now() + state.fill_backoff.next_wait();
                }
                more && (state.warm_at.is_some()
                    || !state.pending.batches.is_empty()
                    || state.last_batch.elapsed() >= POLL_AFTER)
            }
            Ok(Replay::Reset { reason, epoch, after }) => {
                tracing::warn!(shard = %self.shard, %reason, %epoch, after, "the ring begins anew: part of the journal is gone");
                state.doubt = None;
                self.hub.restart(self.shard, epoch, after);
                self.drain_pending(state);
                state.warm_at.is_some()
            }
            Err(error) => {
                state.retry_at = Instant::now() + state.fill_backoff.next_wait();
                state.doubt = state.doubt.or(doubt);
                tracing::debug!(shard = %self.shard, %error, "gap not filled yet");
                false
            }
        }
    }

    fn take(&self, state: &mut State, batch: Arc<Batch>) {
        match self.apply(state, &batch) {
            Applied::Advanced => self.drain_pending(state),
            Applied::Known => {}
            Applied::Gap => {
                // Also when the log is being asked already, as it is when the feed has been silent.
                if !std::mem::replace(&mut state.filling_gap, true) {
                    self.hub.metrics.gaps.inc();
                }
                state.pending.hold(batch, self.pending_bytes, &self.hub);
            }
            Applied::Differs => self.doubt(state, &batch),
            Applied::OtherEpoch if batch.epoch > self.at().epoch => {
                tracing::warn!(shard = %self.shard, epoch = %batch.epoch, "the journal is another incarnation");
                (state.pending, state.doubt) = (Pending::default(), None);
                self.hub.restart(self.shard, batch.epoch, batch.from);
                self.hub.apply(&batch);
            }
            // A relay that has not noticed yet.
            Applied::OtherEpoch => {}
        }
    }

    /// Takes in a batch. One that goes on where the ring ends may be of another history when it doesn't say what it
    /// takes the entry there to be, or the ring doesn't know: then the log is asked what the journal has at the last
    /// entry that is known, and after it.
    fn apply(&self, state: &mut State, batch: &Batch) -> Applied {
        let (at, known) = (self.at(), self.newest_known());
        let applied = self.hub.apply(batch);
        let compared = batch.from_digest != Digest::NONE && at.digest != Digest::NONE;
        let unsaid = batch.from == at.after && !compared && known.digest != Digest::NONE;
        if applied == Applied::Advanced && unsaid && state.doubt.is_none() {
            state.doubt = Some(Doubt::Unsaid(known));
        }
        applied
    }

    /// The log gave other events than the ring has.
    fn differs(&self, state: &mut State, asked: Option<Doubt>, page: &Batch) {
        let Some(doubt) = asked else { return self.doubt(state, page) };
        let other = self.hub.with_ring(self.shard, |ring| ring.and_then(|ring| ring.first_other(page)));
        if let (Doubt::Unsaid(_) | Doubt::Differs(_), Some(seq)) = (doubt, other) {
            // The journal has the entry that the question began with, and others after it.
            tracing::error!(shard = %self.shard, seq, "the ring has events that the journal has not; the log is told");
            state.doubt = Some(Doubt::Other(page.epoch, seq));
            return;
        }
        // It moved meanwhile, or the journal no longer has what could be compared.
        state.retry_at = Instant::now() + state.fill_backoff.next_wait();
        state.doubt = Some(Doubt::Differs(self.newest_known()));
    }

    /// What came is of another history than the ring.
    fn doubt(&self, state: &mut State, batch: &Batch) {
        self.hub.metrics.regresses.inc();
        let other = self.hub.with_ring(self.shard, |ring| ring.and_then(|ring| ring.other_digest(batch)));
        if let Some(seq) = other {
            if !matches!(state.doubt, Some(Doubt::Other(..))) {
                tracing::error!(shard = %self.shard, seq, "what comes has another entry than the ring at the same position; the log is told");
            }
            state.doubt = Some(Doubt::Other(batch.epoch, seq));
        } else if state.doubt.is_none() {
            tracing::warn!(shard = %self.shard, "what comes has other events than the ring at the same positions; asking the log which are right");
            state.doubt = Some(Doubt::Differs(self.newest_known()));
        }
    }

    fn drain_pending(&self, state: &mut State) {
        while let Some((_, batch)) = state.pending.batches.first_key_value() {
            let batch = batch.clone();
            match self.apply(state, &batch) {
                Applied::Gap => return,
                Applied::Differs => {
                    state.pending.drop_first();
                    self.doubt(state, &batch);
                }
                Applied::Advanced | Applied::Known | Applied::OtherEpoch => state.pending.drop_first(),
            }
        }
        if std::mem::take(&mut state.filling_gap) {
            self.hub.metrics.gaps_filled.inc();
        }
    }

    fn note_warm(&self, state: &mut State) {
        if state.warm_at.is_some_and(|warm| self.at().after >= warm) {
            state.warm_at = None;
            self.health.ready();
        }
    }
}

impl Feed<'_> {
    /// The next batch; none when the subscription has ended. Cancel-safe.
    async fn next(&mut self) -> Option<Arc<Batch>> {
        loop {
            match self {
                Feed::Open(subscription) => return subscription.next().await,
                Feed::Subscribing(subscribing) => *self = Feed::Open(subscribing.await),
            }
        }
    }
}

impl Pending {
    /// Keeps a batch until what is before it is there. Of two that begin alike, the longer one.
    fn hold(&mut self, batch: Arc<Batch>, bytes_max: usize, hub: &Hub) {
        let known = self.batches.get(&batch.from);
        if known.is_some_and(|known| known.to >= batch.to) {
            return;
        }
        let (known, bytes) = (known.map_or(0, |known| known.wire_len()), batch.wire_len());
        if self.bytes - known + bytes > bytes_max {
            hub.metrics.pending_dropped.inc();
            return;
        }
        self.bytes = self.bytes - known + bytes;
        self.batches.insert(batch.from, batch);
    }

    fn drop_first(&mut self) {
        if let Some((_, batch)) = self.batches.pop_first() {
            self.bytes -= batch.wire_len();
        }
    }
}

#[cfg(test)]
mod tests;
