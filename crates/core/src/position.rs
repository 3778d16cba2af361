//! Positions in a shard's journal, and the incarnation they belong to.

use std::fmt;

use crate::shard::Shard;

/// The incarnation of a shard's journal: the second of its start, always above the one before.
/// Sequence numbers of different epochs have nothing to do with each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Epoch(u64);

impl Epoch {
    /// An epoch by its number, as it was stored or sent.
    pub const fn new(number: u64) -> Self {
        Epoch(number)
    }

    /// The epoch that follows `last` (if any) at `now_seconds` since the Unix epoch: above the last
    /// even when the clock went back.
    pub fn next(last: Option<Epoch>, now_seconds: u64) -> Self {
        Epoch(last.map_or(now_seconds, |last| now_seconds.max(last.0.saturating_add(1))))
    }

    /// Its number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where an event is: the only numbering there is. Live feed, ring, log and cursor all speak it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Position {
    /// Which sequence.
    pub shard: Shard,
    /// Which incarnation of it.
    pub epoch: Epoch,
    /// The journal's sequence number, from 1. As a place to start after, 0 is before everything.
    pub seq: u64,
}

/// For logs and acks: `0:1767225600:42`.
impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.shard, self.epoch, self.seq)
    }
}

/// A short hash of a journal entry, that tells two entries apart which claim one position.
/// [`Digest::NONE`] is before the first entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest(pub u64);

impl Digest {
    /// Where nothing has been read yet, or nothing can be known.
    pub const NONE: Digest = Digest(0);
    /// Of an entry of which no more is known than that it isn't the one that somebody else has there.
    pub const OTHER: Digest = Digest(u64::MAX);
}
