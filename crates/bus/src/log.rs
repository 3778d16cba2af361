//! The event log as gateways and fan-outs see it: over gRPC in a cluster, in-process in standalone.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use foghorn_core::batch::Batch;
use foghorn_core::channel::Channel;
use foghorn_core::entry::Key;
use foghorn_core::pattern::Pattern;
use foghorn_core::position::{Digest, Epoch, Position};
use foghorn_core::reason::ResetReason;
use foghorn_core::shard::Shard;
use foghorn_core::time::Timestamp;

use crate::Future;

/// The long memory.
pub trait EventLog: Send + Sync + 'static {
    /// The next page after a position, or why there is none. See [`Replay`].
    fn replay(&self, query: ReplayQuery) -> Future<'_, Result<Replay, LogError>>;

    /// The newest events of each channel, see [`NewestQuery`]. One batch per shard asked for: it covers
    /// `(from, to]` in the sense that, having been given its events, a listener goes on after `to`.
    fn newest(&self, query: NewestQuery) -> Future<'_, Result<Vec<Batch>, LogError>>;

    /// The seq before the first event of `shard` at `time` or later, the tip when there is none yet,
    /// and what the journal holds.
    fn locate(&self, shard: Shard, time: Timestamp) -> Future<'_, Result<Located, LogError>>;

    /// History for people, newest first or oldest first.
    fn history(&self, query: HistoryQuery) -> Future<'_, Result<HistoryPage, LogError>>;

    /// Waits until PostgreSQL has committed the entry with this key at this position.
    fn committed(
        &self,
        position: Position,
        key: Key,
        deadline: Duration,
    ) -> Future<'_, Result<Committed, LogError>>;

    /// Deletes some of what is stored of a channel, the oldest first: how many events; 0 when none are left. What was
    /// acked before it was asked is stored by then. No listener is reset for it. By default nothing can be erased.
    fn erase(&self, channel: Channel) -> Future<'_, Result<u64, LogError>> {
        let text = format!("events of {channel} can't be erased here");
        Box::pin(std::future::ready(Err(LogError(text))))
    }
}

/// What is asked of [`EventLog::replay`].
#[derive(Debug, Clone)]
pub struct ReplayQuery {
    /// Which sequence.
    pub shard: Shard,
    /// The epoch that `after` is of.
    pub epoch: Epoch,
    /// Events after this seq.
    pub after: u64,
    /// The digest of the entry at `after` as a gateway's ring has it, [`Digest::NONE`] where that isn't
    /// known, [`Digest::OTHER`] where it has been given another event than the ring's there. With `fill`
    /// it is compared with the journal's: when that has another entry there, or has lost it, a new epoch
    /// begins, and the gateway hears of it as a reset.
    pub digest: Digest,
    /// Only events on these channels and patterns. Also which retention floors count: a listener to
    /// `a` is not reset because events of `b` have expired.
    pub topics: Arc<[Pattern]>,
    /// Most events in the page.
    pub events: usize,
    /// About the most bytes of frames in the page (a page holds at least one event).
    pub bytes: usize,
    /// A gateway's ring catches up with the live feed: it is given everything that the journal holds in
    /// the range, events that are never replayed included. So this is read from the journal first, and
    /// from the log only where the journal no longer has it.
    pub fill: bool,
}

impl ReplayQuery {
    /// Whether a gateway says which entry it has at `after`.
    pub fn holds_digest(&self) -> bool {
        self.fill && self.digest != Digest::NONE && self.after > 0
    }
}

/// What [`EventLog::replay`] answers.
#[derive(Debug, Clone)]
pub enum Replay {
    /// Every event asked for in `(from, to]`, `from` being what was asked for. When `to` equals the
    /// batch's `tip`, that is all there is; when `to == from` too, there is nothing yet.
    Page(Batch),
    /// Part of what was asked for is truly gone.
    Reset {
        /// Why.
        reason: ResetReason,
        /// The epoch to go on in.
        epoch: Epoch,
        /// Where to go on: the position just before the earliest event there is for these topics.
        after: u64,
    },
}

/// What is asked of [`EventLog::newest`].
#[derive(Debug, Clone)]
pub struct NewestQuery {
    /// Which sequences, and which topics in each.
    pub shards: Vec<(Shard, Arc<[Pattern]>)>,
    /// How many of each channel.
    pub each: usize,
    /// How many in all, the newest ones.
    pub total: usize,
    /// About the most bytes of frames in all.
    pub bytes: usize,
}

/// What [`EventLog::locate`] answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Located {
    /// The current epoch.
    pub epoch: Epoch,
    /// The seq to start after.
    pub after: u64,
    /// The last seq in the journal.
    pub tip: u64,
}

/// What is asked of [`EventLog::history`]. Seqs are exclusive, and of the current epoch: whoever has them
/// from a cursor compares its epoch with that of the answer, and discards the answer when they differ.
#[derive(Debug, Clone)]
pub struct HistoryQuery {
    /// Of this channel.
    pub channel: Channel,
    /// Only events after this seq, oldest first.
    pub after: Option<u64>,
    /// Only events before this seq. Without `after`: newest first.
    pub before: Option<u64>,
    /// Most events in the page.
    pub limit: usize,
}

/// What [`EventLog::history`] answers.
#[derive(Debug, Clone)]
pub struct HistoryPage {
    /// The current epoch, that all seqs are of.
    pub epoch: Epoch,
    /// The events, in the order asked for.
    pub events: Vec<HistoryEvent>,
    /// Whether there are more in that direction.
    pub more: bool,
    /// How far the page reaches: the next one is that after this seq, or before it when this page is the
    /// newest first. It holds also where all events on the way have expired and the page is empty.
    pub reached: u64,
}

/// An event as history shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryEvent {
    /// Its sequence number.
    pub seq: u64,
    /// When the journal took it.
    pub time: Timestamp,
    /// Its type.
    pub event_type: Option<String>,
    /// The publisher's id.
    pub id: Option<String>,
    /// Its data, UTF-8.
    pub data: Bytes,
}

/// What [`EventLog::committed`] answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Committed {
    /// It is in the log for good.
    Yes,
    /// Not within the deadline; it may be yet.
    NotYet,
    /// Another entry is at that position: the journal lost this one.
    Replaced,
}

/// Why the log can't answer now. Never a reason to reset a listener: the data are merely slow to reach.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the event log can't answer: {0}")]
pub struct LogError(pub String);
