//! A term of a relay: where it begins, and how it goes on from there until it is dropped.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use foghorn_bus::backoff::Backoff;
use foghorn_bus::journal::{Bounds, JournalError};
use foghorn_core::position::{Epoch, Position};
use futures::FutureExt as _;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use tokio::time::{Instant, sleep_until};

use foghorn_core::entry::Entry;

use super::feed::Sender;
use super::{OVERLAP, Relay, TIP_EVERY, Tip};
use crate::metrics::KindLabel;

/// Entries gathered at most before they are sent, even if all are invalid and take no bytes.
const GATHER_ENTRIES: usize = 10_000;
/// Entries read at a time when the tail has stalled.
const READ_ENTRIES: usize = 4096;

type Tail = BoxStream<'static, Result<Entry, JournalError>>;

impl Relay {
    /// Relays from a little before `note`, for ever.
    pub(super) async fn relay(&self, note: u64, sent: &AtomicU64, mut tip: Tip) {
        let mut backoff = waits();
        let (mut epoch, mut after) = loop {
            match self.start(note).await {
                Ok((epoch, after, reached)) => {
                    sent.store(reached, Ordering::Relaxed);
                    break (epoch, after);
                }
                Err(error) => {
                    tracing::warn!(%error, shard = %self.shard, "the relay waits for the journal");
                    backoff.wait().await;
                }
            }
        };
        backoff.reset();
        loop {
            let newer = self.relay_epoch(epoch, after, sent, &mut tip).await;
            self.rebuilt("epoch");
            loop {
                match self.bounds().await {
                    // The first entry of the epoch's own: what is before it, everyone had in the last one.
                    Ok(bounds) if bounds.epoch >= newer => {
                        tracing::warn!(shard = %self.shard, from = %epoch, to = %bounds.epoch, "the shard is in a new epoch");
                        (epoch, after) = (bounds.epoch, bounds.before_first());
                        sent.store(after, Ordering::Relaxed);
                        break;
                    }
                    Ok(_) => {}
                    Err(error) => tracing::debug!(%error, shard = %self.shard, "the new epoch is unknown"),
                }
                backoff.wait().await;
            }
            backoff.reset();
        }
    }

    /// The epoch, the seq to begin after, and the last one that was sent already: [`OVERLAP`] before
    /// that, never before the journal's first. A note beyond the last seq is of an epoch that is over.
    async fn start(&self, note: u64) -> Result<(Epoch, u64, u64), JournalError> {
        let bounds @ Bounds { epoch, first, last, .. } = self.bounds().await?;
        let floor = first.saturating_sub(1);
        let sent = match note {
            // Nobody has sent anything: whoever wants what was before gets it from the event log.
            0 => last,
            note if note > last => bounds.before_first(),
            note => note,
        };
        if sent <= floor {
            return Ok((epoch, floor, floor));
        }
        let page = self.journal.read(self.shard, sent - 1, 1, 1).await?;
        let Some(entry) = page.entries.first() else { return Ok((epoch, sent, sent)) };
        let overlap = self.journal.seek(self.shard, entry.time.minus(OVERLAP)).await?;
        Ok((epoch, overlap.clamp(floor, sent), sent))
    }

    /// Relays `epoch` until there is a newer one, which it answers.
    async fn relay_epoch(&self, epoch: Epoch, after: u64, sent: &AtomicU64, tip: &mut Tip) -> Epoch {
        let mut sender = Sender::new(self, epoch, after, sent);
        let mut backoff = waits();
        let mut tail = self.journal.tail(Position { shard: self.shard, epoch, seq: after });
        // The first batch says where the relay begins.
        let mut beacon_at = Instant::now();
        let mut progress = Progress { to: after, tip: after, behind_since: None };
        loop {
            tokio::select! {
                // What comes least often first: however fast the tail is, the others get their turn.
                biased;
                Ok(()) = tip.changed() => {
                    let Some(bounds) = *tip.borrow_and_update() else { continue };
                    if bounds.epoch > epoch {
                        return bounds.epoch;
                    }
                    // Asked for before the epoch changed.
                    if bounds.epoch < epoch {
                        continue;
                    }
                    sender.knows(bounds.last);
                    if progress.stalled(sender.to(), bounds.last) {
                        tracing::warn!(shard = %self.shard, at = sender.to(), tip = bounds.last, "the relay's tail has stalled");
                        self.rebuilt("stalled");
                        match self.catch_up(&mut sender).await {
                            Ok(()) => {}
                            Err(JournalError::Epoch { epoch: newer, .. }) if newer > epoch => return newer,
                            Err(error) => tracing::debug!(%error, shard = %self.shard, "the relay can't catch up"),
                        }
                        tail = self.tail_from(&sender, Duration::ZERO);
                    }
                    progress.report(self, sender.to());
                }
                () = sleep_until(beacon_at) => {
                    sender.send_beacon().await;
                    beacon_at = Instant::now() + self.beacon_interval;
                }
                entry = tail.next() => {
                    let before = sender.to();
                    let gathered = match entry {
                        Some(Ok(entry)) => self.gather(entry, &mut tail, &mut sender).await,
                        Some(Err(error)) => Err(error),
                        None => Err(tail_ended()),
                    };
                    if sender.entries() > 0 {
                        sender.flush().await;
                        beacon_at = Instant::now() + self.beacon_interval;
                    }
                    if sender.to() > before {
                        backoff.reset();
                    }
                    match gathered {
                        Ok(()) => {}
                        Err(JournalError::Epoch { epoch: newer, .. }) if newer > epoch => return newer,
                        Err(error) => {
                            tracing::warn!(%error, shard = %self.shard, after = sender.to(), "the relay's tail ended");
                            self.rebuilt("ended");
                            tail = self.tail_from(&sender, backoff.next_wait());
                        }
                    }
                    // So does the lease.
                    tokio::task::yield_now().await;
                }
            }
        }
    }

    /// Takes `first` and whatever else the tail has ready, without waiting: a lone event goes at once.
    async fn gather(
        &self,
        first: Entry,
        tail: &mut Tail,
        sender: &mut Sender<'_>,
    ) -> Result<(), JournalError> {
        let mut entry = first;
        loop {
            if entry.seq > sender.to() + 1 {
                self.check_gap(sender).await?;
            }
            self.take(entry, sender).await?;
            if sender.entries() >= GATHER_ENTRIES {
                return Ok(());
            }
            entry = match tail.next().now_or_never() {
                None => return Ok(()),
                Some(Some(next)) => next?,
                Some(None) => return Err(tail_ended()),
            };
        }
    }

    /// Takes an entry. When the journal has another one than before at the position where a tail began
    /// again, it has lost what was sent, and what it gives out now is of another epoch.
    async fn take(&self, entry: Entry, sender: &mut Sender<'_>) -> Result<(), JournalError> {
        let seq = entry.seq;
        if sender.take(entry).await {
            return Ok(());
        }
        tracing::error!(
            shard = %self.shard, seq, epoch = %sender.epoch(),
            "the journal gave a sequence number out twice (it was restored, or lost its tail); beginning a new epoch"
        );
        let epoch = self.journal.begin_anew(self.shard, sender.epoch(), None).await?;
        Err(JournalError::Epoch { shard: self.shard, epoch })
    }

    /// Between the last entry and the next some are missing. Single ones were deleted, and count as
    /// covered; but when the journal was trimmed past us, they are events that we haven't seen.
    async fn check_gap(&self, sender: &mut Sender<'_>) -> Result<(), JournalError> {
        let first = self.bounds().await?.first;
        if first > sender.to() + 1 {
            tracing::warn!(shard = %self.shard, at = sender.to(), first, "the journal was trimmed past the relay");
            self.rebuilt("trimmed");
            sender.jump(first - 1).await;
        }
        Ok(())
    }

    /// Reads what the tail doesn't give.
    async fn catch_up(&self, sender: &mut Sender<'_>) -> Result<(), JournalError> {
        let from = sender.to().saturating_sub(1);
        let page = self.journal.read(self.shard, from, READ_ENTRIES, self.feed.batch_bytes()).await?;
        if page.epoch != sender.epoch() {
            return Err(JournalError::Epoch { shard: self.shard, epoch: page.epoch });
        }
        if page.from > sender.to() {
            self.rebuilt("trimmed");
            sender.jump(page.from).await;
        }
        for entry in page.entries {
            self.take(entry, sender).await?;
        }
        sender.cover(page.to);
        sender.flush().await;
        Ok(())
    }

    /// What comes after the last entry taken, which is the first that comes: to see that it is still the
    /// same.
    fn tail_from(&self, sender: &Sender<'_>, wait: Duration) -> Tail {
        let journal = self.journal.clone();
        let after = Position { shard: self.shard, epoch: sender.epoch(), seq: sender.to().saturating_sub(1) };
        let opened = tokio::time::sleep(wait).into_stream();
        opened.flat_map(move |()| journal.tail(after)).boxed()
    }

    fn rebuilt(&self, reason: &'static str) {
        self.metrics.relay_rebuilds.get_or_create(&KindLabel { reason }).inc();
    }
}

/// How the relay keeps up with the tip, from one look at it to the next.
struct Progress {
    to: u64,
    tip: u64,
    behind_since: Option<Instant>,
}

impl Progress {
    /// Whether nothing came since the last look, although there was something to come.
    fn stalled(&mut self, to: u64, tip: u64) -> bool {
        let stalled = to == self.to && self.tip > to;
        let behind = self.tip.max(self.to) > to;
        self.behind_since = behind.then(|| self.behind_since.unwrap_or_else(|| Instant::now() - TIP_EVERY));
        (self.to, self.tip) = (to, tip);
        stalled
    }

    fn report(&self, relay: &Relay, to: u64) {
        let label = super::shard_label(relay.shard);
        let entries = i64::try_from(self.tip.saturating_sub(to)).unwrap_or(i64::MAX);
        relay.metrics.relay_lag_entries.get_or_create(&label).set(entries);
        let seconds = self.behind_since.map_or(0.0, |since| since.elapsed().as_secs_f64());
        relay.metrics.relay_lag_seconds.get_or_create(&label).set(seconds);
    }
}

fn tail_ended() -> JournalError {
    JournalError::Unavailable("the tail ended".to_owned())
}

/// Waits before the journal is tried again.
fn waits() -> Backoff {
    Backoff::new(Duration::from_millis(50), Duration::from_secs(1))
}
