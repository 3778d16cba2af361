//! The journal: where an event becomes real.
//!
//! A sequence per shard, numbered from 1 without reuse within an epoch. What is acked here reaches
//! every listener; whatever happens later happens by position.

use futures::FutureExt as _;
use futures::StreamExt as _;
use futures::stream::BoxStream;

use foghorn_core::channel::Channel;
use foghorn_core::entry::{Entry, NewEntry};
use foghorn_core::position::{Epoch, Position};
use foghorn_core::shard::{Shard, ShardCount};

use crate::Future;

/// The write-ahead sequences of all shards.
pub trait Journal: Send + Sync + 'static {
    /// How many there are.
    fn shards(&self) -> ShardCount;

    /// The cluster's bound on an encoded frame in bytes: part of whether an entry is valid.
    fn frame_bytes(&self) -> usize;

    /// Appends events of one channel, each after the one before it, and answers in their order. When an
    /// answer is `Ok` the event is stored by a quorum (JetStream) or synced to disk (SQLite). Each is
    /// retried within a deadline of at least 10 s, always with the same key, so that a retry never
    /// doubles.
    ///
    /// Ends early after an error that a retry by the caller can heal (see [`AppendError::may_pass`]):
    /// what comes after is not tried, so that nothing overtakes the failed event when it is published
    /// again. What has no answer when the stream is dropped may or may not be stored. Callers bound the
    /// number and bytes of `entries`: the journal may hold them all at a time.
    fn append_in_order(&self, entries: Vec<NewEntry>) -> BoxStream<'static, Result<Appended, AppendError>>;

    /// Appends one event, likewise.
    fn append(&self, entry: NewEntry) -> Future<'_, Result<Appended, AppendError>> {
        let mut answers = self.append_in_order(vec![entry]);
        async move {
            let closed = || AppendError::Unavailable("the journal is closed".to_owned());
            answers.next().await.unwrap_or_else(|| Err(closed()))
        }
        .boxed()
    }

    /// Raises a fence: what was to be appended behind it as it stood before, and is still on its way somewhere
    /// (in the queue of a process that was stopped, say), is refused from now on. What there is of it in the
    /// journal once this has answered is all there will ever be.
    ///
    /// A fence is known by its channel, which decides the shard: one that is published on for nothing else. A
    /// journal that only this process appends to has no need of one, and takes everything behind it; one that stands before
    /// another journal has to pass both on.
    fn raise(&self, fence: Channel) -> Future<'_, Result<Fence, AppendError>> {
        std::future::ready(Ok(Fence { channel: fence, seq: 0 })).boxed()
    }

    /// Appends like [`append_in_order`](Self::append_in_order), events of the fence's shard, as long as nobody
    /// raises the fence anew: then [`AppendError::Fenced`], as well as where the journal doesn't have it any more.
    ///
    /// One append at a time behind each fence: JetStream refuses a second while one is on its way to the replicas.
    fn append_behind(
        &self,
        fence: Fence,
        entries: Vec<NewEntry>,
    ) -> BoxStream<'static, Result<Appended, AppendError>> {
        drop(fence);
        self.append_in_order(entries)
    }

    /// Everything after `after`, then what comes; [`JournalError::Epoch`] when the shard is in another
    /// epoch than the position, or as soon as it is. The stream ends only with an error, after which the
    /// caller tails anew from the last seq it got, after a pause: an error may come at once. Entries come
    /// in order; purged or deleted ones leave gaps in the seqs.
    fn tail(&self, after: Position) -> BoxStream<'static, Result<Entry, JournalError>>;

    /// The entries in `(after, to]` for some `to` as far as the limits allow: at most `events` entries
    /// and about `bytes` bytes, at least one entry when there is one. Answered by the leader or checked
    /// against its tip: `to` is not short of what was acked before the call, unless limits cut it.
    fn read(
        &self,
        shard: Shard,
        after: u64,
        events: usize,
        bytes: usize,
    ) -> Future<'_, Result<JournalPage, JournalError>>;

    /// What the leader holds now.
    fn bounds(&self, shard: Shard) -> Future<'_, Result<Bounds, JournalError>>;

    /// What the shard takes of what it may take; none when the journal doesn't know.
    fn size(&self, shard: Shard) -> Future<'_, Result<Option<Size>, JournalError>> {
        let _unused = shard;
        Box::pin(std::future::ready(Ok(None)))
    }

    /// The seq before the first entry taken at `time` or later (the last seq when there is none).
    fn seek(
        &self,
        shard: Shard,
        time: foghorn_core::time::Timestamp,
    ) -> Future<'_, Result<u64, JournalError>>;

    /// The journal holds another entry than was read at a position before, as digests show: begins a new
    /// epoch after `old`, unless somebody did already, and answers the current one. That is `old` itself
    /// where it is news to this process, and the record says that it is the current one.
    ///
    /// `first_seq` is the first seq that differs, or one before it. Whoever doesn't know says none: then
    /// the journal goes by what it has seen in this process, and where that doesn't tell either, nothing
    /// counts as the same, and the new epoch begins with seq 1.
    fn begin_anew(
        &self,
        shard: Shard,
        old: Epoch,
        first_seq: Option<u64>,
    ) -> Future<'_, Result<Epoch, JournalError>> {
        let _unused = first_seq;
        let text = format!("this journal can't begin a new epoch of shard {shard} after {old}");
        Box::pin(std::future::ready(Err(JournalError::Unavailable(text))))
    }

    /// Forgets entries up to and including `through`: the log has them. [`JournalError::Epoch`] when the
    /// shard is in another epoch than the position: what was to be forgotten is of another journal.
    fn trim(&self, through: Position) -> Future<'_, Result<(), JournalError>>;
}

/// Where an appended event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Its position; of the first one when it is a duplicate.
    pub position: Position,
    /// Whether an entry with this key was there already, within the dedupe window.
    pub duplicate: bool,
}

/// A fence as it stands: see [`Journal::raise`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fence {
    /// Which.
    pub(crate) channel: Channel,
    /// Where it was raised last.
    pub(crate) seq: u64,
}

/// What a shard's journal holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Its incarnation.
    pub epoch: Epoch,
    /// The first seq of the epoch: entries before it are of an epoch before, see `continues`. May be below
    /// `first`, when the epoch's first entries have been trimmed, or above, when it continues another.
    pub first_seq: u64,
    /// The epoch whose entries before `first_seq` are this one's too. None where nothing before it is: a
    /// new stream, or another number of shards.
    pub continues: Option<Epoch>,
    /// The first seq there is; `last + 1` when it is empty.
    pub first: u64,
    /// The last seq that was given out; 0 before the first.
    pub last: u64,
}

impl Bounds {
    /// The seq before the first entry there is of the epoch's own.
    pub fn before_first(&self) -> u64 {
        self.first.max(self.first_seq).saturating_sub(1)
    }
}

/// What a shard's journal takes, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// What it holds.
    pub bytes: u64,
    /// At which it refuses more; none when it is bounded by the disk alone.
    pub most: Option<u64>,
}

/// A contiguous range of the journal.
#[derive(Debug, Clone)]
pub struct JournalPage {
    /// Its incarnation.
    pub epoch: Epoch,
    /// The range begins after this seq. Greater than what was asked for when the journal begins later.
    pub from: u64,
    /// The range ends with this seq.
    pub to: u64,
    /// The last seq there was when it was read.
    pub tip: u64,
    /// What is in it.
    pub entries: Vec<Entry>,
}

impl JournalPage {
    /// Whether there is an entry at every seq of its range.
    pub fn is_dense(&self) -> bool {
        self.entries.len() as u64 == self.to - self.from
    }

    /// What it is in a journal that was found, once it had been read, to begin with `first`: what is missing
    /// before that may have been trimmed while it was read, so the page doesn't cover it.
    pub fn begun_at(mut self, first: u64) -> Self {
        let from = self.from.max(first.saturating_sub(1));
        self.entries.retain(|entry| entry.seq > from);
        JournalPage { from, to: self.to.max(from), tip: self.tip.max(from), ..self }
    }
}

/// Why an event was not appended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The journal is at its bound, or its disk is full. Nothing was stored and nothing is lost; it recovers
    /// when the log has caught up, or retention has made room.
    #[error("the journal of shard {0} is full, so the event was not stored; retry later")]
    Full(Shard),
    /// No answer within the deadline. The event may or may not be stored; retry with the same id.
    #[error("the journal can't be reached ({0}); the event may have been stored, so retry with the same id")]
    Unavailable(String),
    /// The fence that it was to be appended behind doesn't stand as it did; the event was not stored by this try.
    #[error("the fence in the journal is no more as it was raised here")]
    Fenced,
    /// The journal said no for another reason.
    #[error("the journal refused the event: {0}")]
    Refused(String),
}

impl AppendError {
    /// Whether the same event, appended again, may be taken.
    pub fn may_pass(&self) -> bool {
        match self {
            AppendError::Full(_) | AppendError::Unavailable(_) | AppendError::Fenced => true,
            AppendError::Refused(_) => false,
        }
    }
}

/// Why the journal can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JournalError {
    /// It can't be reached; try again.
    #[error("the journal can't be reached: {0}")]
    Unavailable(String),
    /// The shard's epoch changed: positions held so far mean nothing any more.
    #[error("the journal of shard {shard} is now in epoch {epoch}")]
    Epoch {
        /// Whose.
        shard: Shard,
        /// The new one.
        epoch: Epoch,
    },
}

#[cfg(test)]
mod tests {
    use foghorn_core::entry::InvalidEntry;
    use foghorn_core::event::EventError;
    use foghorn_core::position::Digest;
    use foghorn_core::time::Timestamp;

    use super::*;

    #[test]
    fn a_page_covers_nothing_that_was_trimmed_while_it_was_read() {
        let entry = |seq| Entry {
            seq,
            time: Timestamp::default(),
            key: None,
            digest: Digest(seq),
            traceparent: None,
            event: Err(InvalidEntry::Event(EventError::Ttl)),
        };
        let page = |seqs: &[u64]| JournalPage {
            epoch: Epoch::new(1),
            from: 4,
            to: 9,
            tip: 9,
            entries: seqs.iter().copied().map(entry).collect(),
        };
        assert!(page(&[5, 6, 7, 8, 9]).is_dense() && !page(&[5, 8, 9]).is_dense());
        let range = |page: &JournalPage| (page.from, page.to, page.tip, page.entries.len());
        assert_eq!(
            range(&page(&[5, 8, 9]).begun_at(2)),
            (4, 9, 9, 3),
            "some were deleted, and it covers that"
        );
        assert_eq!(range(&page(&[5, 8, 9]).begun_at(8)), (7, 9, 9, 2), "trimmed after the first was read");
        assert_eq!(range(&page(&[5]).begun_at(21)), (20, 20, 20, 0));
    }
}
