//! The writer of a shard: copies its journal into PostgreSQL, in order, exactly once.
//!
//! One process at a time does it, by a lease; a second that believes in its own is fenced by the
//! compare-and-set of every statement. Whatever goes wrong ends the tenure, and the next one begins from
//! PostgreSQL's own head: there is no other state, and nothing to repair.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use foghorn_bus::backoff::Backoff;
use foghorn_bus::journal::{Bounds, Journal, JournalError};
use foghorn_bus::lease::{EXPIRES_AFTER, Lease, Leases, RENEW_EVERY};
use foghorn_core::entry::Entry;
use foghorn_core::position::{Digest, Epoch, Position};
use foghorn_core::shard::Shard;
use futures::StreamExt;
use futures::future::{BoxFuture, FutureExt, OptionFuture, join};
use futures::stream::BoxStream;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::append::Batch;
use super::chores::chores;
use super::connection::{Connection, Writing};
use super::measure::measure;
use super::resend::resend;
use super::state::{Known, WriteError, WriterHead};
use super::{Database, Head, READ_DEADLINE};
use crate::metrics::Metrics;
use foghorn_bus::clock::Clock;
use foghorn_bus::policies::SharedPolicies;

/// Longest that the first entry of a batch waits for more.
const LINGER: Duration = Duration::from_millis(5);
/// Longest wait for an answer of the journal's.
const JOURNAL_DEADLINE: Duration = Duration::from_secs(10);

/// How far behind the head the journal is trimmed unless set otherwise: an hour, from which readers are
/// served while PostgreSQL is down.
pub const TRIM_BEHIND_DEFAULT: Duration = Duration::from_secs(3600);

/// Copies one shard's journal into the log.
#[derive(Clone)]
pub struct Writer {
    /// Which.
    pub shard: Shard,
    /// From where.
    pub journal: Arc<dyn Journal>,
    /// To where.
    pub database: Database,
    /// Who else might.
    pub leases: Arc<dyn Leases>,
    /// What is kept, and how long.
    pub policies: SharedPolicies,
    /// How far behind the head the journal is trimmed.
    pub trim_behind: Duration,
    /// What counts as now.
    pub clock: Clock,
    /// What is counted.
    pub metrics: Metrics,
}

/// Why a tenure ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    #[error("told to stop")]
    Stopped,
    #[error(transparent)]
    Lease(#[from] foghorn_bus::lease::LeaseLost),
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error("the journal did not answer within {JOURNAL_DEADLINE:?}")]
    JournalSlow,
    #[error("{0}")]
    Journals(String),
}

type Tail = BoxStream<'static, Result<Entry, JournalError>>;

/// The last entry that was taken over.
struct Taken {
    seq: u64,
    digest: Digest,
}

impl Writer {
    /// Writes until `stop`, and measures how far the log is behind, whoever writes. May also be dropped at any
    /// moment: that is a crash like another.
    pub async fn run(&self, stop: &CancellationToken) {
        let writes = AtomicBool::new(false);
        tokio::select! {
            biased;
            () = self.tenures(stop, &writes) => {}
            never = measure(self, &writes) => match never {},
        }
    }

    async fn tenures(&self, stop: &CancellationToken, writes: &AtomicBool) {
        let mut backoff = Backoff::default();
        while let Some(lease) =
            stop.run_until_cancelled(self.leases.acquire(format!("writer.{}", self.shard))).await
        {
            let mut tenure = Tenure { writer: self, lease, known: Known::default(), wrote: false, writes };
            let ended = tenure.hold(stop).await;
            writes.store(false, Ordering::Relaxed);
            self.metrics.writes(self.shard, false);
            let Tenure { lease, wrote, .. } = tenure;
            // Whatever it was that failed here may work elsewhere.
            drop(timeout(EXPIRES_AFTER, lease.release()).await);
            match ended {
                Ended::Stopped => return,
                Ended::Write(WriteError::Fenced) => {
                    self.metrics.fenced(self.shard);
                    tracing::warn!(shard = %self.shard, "another writer has written to the log; beginning anew from its head");
                }
                other => {
                    self.metrics.failed("writer");
                    tracing::warn!(shard = %self.shard, error = %other, "writing the log was interrupted and is tried again; the journal keeps what is to come");
                }
            }
            if wrote {
                backoff.reset();
            }
            if stop.run_until_cancelled(backoff.wait()).await.is_none() {
                return;
            }
        }
    }
}

impl Writer {
    /// The journal seems to be in an epoch before the log's. Either this process has not heard of the
    /// log's yet, or the record of epochs is older than the log: it was restored together with the
    /// journal. To ask for one that isn't before the log's finds out which, and heals the second.
    async fn behind(&self, head: WriterHead) -> Result<Bounds, Ended> {
        let (journal, shard) = (&self.journal, self.shard);
        // What the log is in was there, so whatever came before is over; it itself need not be.
        let over = Epoch::new(head.epoch.get().saturating_sub(1));
        answer(journal.begin_anew(shard, over, None)).await?;
        let now = answer(journal.bounds(shard)).await?;
        if now.epoch < head.epoch {
            return Err(Ended::Journals(format!(
                "the journal of shard {shard} is in epoch {}, the log is already in {}; trying again",
                now.epoch, head.epoch
            )));
        }
        Ok(now)
    }

    /// An error unless the head is still what this writer believes: the database may have been put back while it was
    /// compared with the journal.
    async fn check_head(&self, head: WriterHead) -> Result<(), Ended> {
        let connection = Connection::new(&self.database).await.map_err(WriteError::from)?;
        let found = connection.within(READ_DEADLINE, async |c| c.standing(self.shard).await).await;
        let found = found.map_err(WriteError::from)?;
        let is_ours = found.is_some_and(|(standing, digest)| {
            let at = (standing.epoch, standing.tip, standing.term, digest);
            at == (head.epoch, head.seq, head.term, head.digest)
        });
        if is_ours { Ok(()) } else { Err(WriteError::Fenced.into()) }
    }

    /// Begins another epoch after one that begins too late: at `differs`, before it, the log has what the journal
    /// no longer has, and whoever else has it is to be told too.
    async fn begin_again(&self, epoch: Epoch, first_seq: u64, differs: u64) -> Result<(), Ended> {
        let shard = self.shard;
        self.metrics.regressed(shard);
        tracing::error!(
            %shard, %epoch, seq = differs,
            "the journal had lost entries before this epoch began, and nobody noticed: another one begins"
        );
        answer(self.journal.begin_anew(shard, epoch, Some(first_seq))).await?;
        Ok(())
    }

    /// Whether the journal has lost the entry at `seq`. If it has not, somebody deleted it on purpose, and
    /// ranges cover that.
    async fn is_hole(&self, seq: u64) -> Result<bool, Ended> {
        let bounds = answer(self.journal.bounds(self.shard)).await?;
        Ok(bounds.first > seq)
    }
}

struct Tenure<'a> {
    writer: &'a Writer,
    lease: Box<dyn Lease>,
    known: Known,
    wrote: bool,
    /// Whether this process moves the head.
    writes: &'a AtomicBool,
}

impl Tenure<'_> {
    /// Writes until something ends it.
    async fn hold(&mut self, stop: &CancellationToken) -> Ended {
        match stop.run_until_cancelled(self.work()).await {
            None => Ended::Stopped,
            Some(Err(ended)) => ended,
            Some(Ok(never)) => match never {},
        }
    }

    async fn work(&mut self) -> Result<std::convert::Infallible, Ended> {
        let writer = self.writer;
        let mut head = self.take_over().await?;
        let mut backoff = Backoff::default();
        loop {
            let seq = head.seq;
            head = self.align(head).await?;
            // From the head's own entry on, which the tail is to give once more: what `align` has compared may have
            // been lost since.
            let after = head.seq - u64::from(head.seq > 0 && head.digest != Digest::NONE);
            let at = Position { shard: writer.shard, epoch: head.epoch, seq: after };
            let tail = writer.journal.tail(at);
            let reached = AtomicU64::new(head.seq);
            let beside = join(chores(writer, head.epoch, &reached), resend(writer, head.epoch, &reached));
            let mut beside = pin!(beside);
            tokio::select! {
                biased;
                ended = self.follow(tail, &mut head, &reached) => ended?,
                (never, _) = &mut beside => match never {},
            }
            if head.seq > seq {
                backoff.reset();
            }
            backoff.wait().await;
        }
    }

    async fn take_over(&mut self) -> Result<WriterHead, Ended> {
        let writer = self.writer;
        let term = self.lease.term();
        let head =
            on_database(writer, async |connection| connection.take_over(writer.shard, term).await).await?;
        writer.database.set_head(writer.shard, Head { epoch: head.epoch, seq: head.seq });
        self.writes.store(true, Ordering::Relaxed);
        writer.metrics.writes(writer.shard, true);
        tracing::info!(shard = %writer.shard, epoch = %head.epoch, head = head.seq, term = head.term, "writing the log");
        Ok(head)
    }

    /// Makes the head one that the journal continues: records a new epoch, or what the journal has lost.
    async fn align(&mut self, mut head: WriterHead) -> Result<WriterHead, Ended> {
        let (writer, shard) = (self.writer, self.writer.shard);
        let mut bounds = answer(writer.journal.bounds(shard)).await?;
        if bounds.epoch < head.epoch {
            bounds = writer.behind(head).await?;
        }
        if let Some(again) = writer.regressed(head, bounds).await? {
            bounds = again;
        }
        let start = bounds.first.saturating_sub(1);
        if bounds.epoch > head.epoch {
            let (kept, unnoticed) = writer.kept(head, bounds).await?.unzip();
            if head.epoch.get() > 0 {
                let kept = kept.map_or(0, |kept| kept.through);
                tracing::warn!(%shard, old = %head.epoch, new = %bounds.epoch, kept, "the journal has begun a new epoch; the log follows");
            }
            // What the epoch has lost of its beginning already is a hole like another; where it continues another
            // epoch, that begins with the first of all.
            let begins = match bounds.continues {
                Some(_) => 0,
                None => bounds.first.min(bounds.first_seq).saturating_sub(1),
            };
            let again = kept.zip(unnoticed.flatten());
            if let Some((kept, differs)) = again {
                // First, so that it is not forgotten should anything fail: the log has yet to follow.
                writer.check_head(head).await?;
                writer.begin_again(bounds.epoch, kept.through + 1, differs).await?;
            }
            let since = writer.resent_since(head).await?;
            let begin = async |c: &mut Writing| c.begin_epoch(head, bounds.epoch, begins, kept, since).await;
            head = on_database(writer, begin).await?;
            if again.is_some() {
                // At most once: what the log has now, the journal has.
                return Box::pin(self.align(head)).await;
            }
        }
        if start > head.seq {
            writer.metrics.hole(shard);
            tracing::error!(
                %shard, epoch = %head.epoch, after = head.seq, upto = start,
                "the journal lost entries before the log had them: these events are gone, listeners who need them are told"
            );
            head = on_database(writer, async |c| c.record_hole(head, start).await).await?;
        }
        writer.database.saw_head(shard, Head { epoch: head.epoch, seq: head.seq });
        Ok(head)
    }

    /// Takes over what the tail gives, until it ends, or what it gives doesn't follow: a gap, another entry at the
    /// head, another epoch. What was taken before that is stored first.
    async fn follow(
        &mut self,
        mut tail: Tail,
        head: &mut WriterHead,
        reached: &AtomicU64,
    ) -> Result<(), Ended> {
        let writer = self.writer;
        let mut renew = interval(RENEW_EVERY);
        renew.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut taken = Taken { seq: head.seq, digest: head.digest };
        let mut waiting = Batch::default();
        let mut due = Instant::now();
        let mut ended = false;
        let mut commit: OptionFuture<BoxFuture<'_, Result<Stored, WriteError>>> = None.into();
        let mut committing = false;
        let mut connection = None;
        loop {
            let ready = waiting.is_full() || ended || Instant::now() >= due;
            if !committing && !waiting.is_empty() && ready {
                let batch = std::mem::take(&mut waiting);
                let known = Arc::clone(&self.known);
                commit = Some(store(writer, connection.take(), known, *head, batch).boxed()).into();
                committing = true;
            }
            if !committing && waiting.is_empty() && ended {
                return Ok(());
            }
            tokio::select! {
                biased;
                Some(stored) = &mut commit => {
                    (commit, committing) = (None.into(), false);
                    let stored = stored?;
                    *head = stored.head;
                    // Kept only for a batch that waits already: the pool asks whether it still works.
                    connection = Some(stored.connection).filter(|_| !waiting.is_empty());
                    reached.store(head.seq, Ordering::Relaxed);
                    self.wrote = true;
                    writer.metrics.committed(stored.entries, stored.took);
                    writer.database.saw_head(writer.shard, Head { epoch: head.epoch, seq: head.seq });
                }
                () = sleep_until(due), if !committing && !waiting.is_empty() => {}
                _ = renew.tick() => {
                    let kept = timeout(EXPIRES_AFTER, self.lease.renew(head.seq)).await;
                    let late = |_| foghorn_bus::lease::LeaseLost(format!("no answer within {EXPIRES_AFTER:?}"));
                    kept.map_err(late)??;
                }
                first = tail.next(), if !ended && !waiting.is_full() => {
                    if waiting.is_empty() {
                        due = Instant::now() + LINGER;
                    }
                    ended = gather(writer, &mut tail, first, &mut taken, &mut waiting).await?;
                }
            }
        }
    }
}

/// Takes in what the tail has ready, as far as the batch has room: waiting for each entry apart costs more
/// than taking it. Whether it ended, or no longer follows.
async fn gather(
    writer: &Writer,
    tail: &mut Tail,
    first: Option<Result<Entry, JournalError>>,
    taken: &mut Taken,
    waiting: &mut Batch,
) -> Result<bool, Ended> {
    let mut next = Some(first);
    while let Some(entry) = next.take() {
        match entry {
            Some(Ok(entry)) if entry.seq == taken.seq && entry.digest == taken.digest => {}
            Some(Ok(entry)) => {
                let due = taken.seq + 1;
                if entry.seq < due || entry.seq > due && writer.is_hole(due).await? {
                    return Ok(true);
                }
                *taken = Taken { seq: entry.seq, digest: entry.digest };
                waiting.push(entry, &writer.metrics);
            }
            Some(Err(error)) => {
                tracing::debug!(%error, "the journal's tail ended and is made anew");
                return Ok(true);
            }
            None => return Ok(true),
        }
        if !waiting.is_full() {
            next = tail.next().now_or_never();
        }
    }
    Ok(false)
}

struct Stored {
    connection: Writing,
    head: WriterHead,
    entries: usize,
    took: Duration,
}

async fn store(
    writer: &Writer,
    connection: Option<Writing>,
    known: Known,
    head: WriterHead,
    batch: Batch,
) -> Result<Stored, WriteError> {
    let begun = Instant::now();
    let mut connection = match connection {
        Some(connection) => connection,
        None => Writing::new(&writer.database).await?,
    };
    let (policies, now) = (writer.policies.get(), writer.clock.now());
    let appended =
        connection.bounded(async |connection| connection.append(&known, head, &batch, &policies, now).await);
    let head = appended.await.inspect_err(|_| known.lock().clear())?;
    Ok(Stored { connection, head, entries: batch.entries(), took: begun.elapsed() })
}

/// Waits for the journal, but not for ever.
pub(super) async fn answer<T>(asked: BoxFuture<'_, Result<T, JournalError>>) -> Result<T, Ended> {
    Ok(timeout(JOURNAL_DEADLINE, asked).await.map_err(|_| Ended::JournalSlow)??)
}

pub(super) async fn on_database<T, F>(writer: &Writer, work: F) -> Result<T, WriteError>
where
    F: AsyncFnOnce(&mut Writing) -> Result<T, WriteError>,
{
    Writing::new(&writer.database).await?.bounded(work).await
}
