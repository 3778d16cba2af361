//! The few queries that a database answers; everything else is written once over them, in `pages`.

use std::future::Future;

use foghorn_bus::log::LogError;
use foghorn_core::position::Epoch;
use foghorn_core::shard::Shard;
use foghorn_core::time::Timestamp;

use crate::record::Record;
use crate::topics::Topics;

/// Most events in a page, whatever is asked for.
pub(crate) const PAGE_EVENTS: usize = 4096;
/// About the most bytes in a page, whatever is asked for.
pub(crate) const PAGE_BYTES: usize = 4 * 1024 * 1024;
/// Above every seq: 2,000 years at a million events a second.
pub(crate) const SEQ_MAX: u64 = (1 << 56) - 1;

/// A range `(after, upto]` of a shard.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span {
    pub(crate) shard: Shard,
    pub(crate) epoch: Epoch,
    pub(crate) after: u64,
    pub(crate) upto: u64,
}

/// How much to read: at least one event when there is one, whatever it weighs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limit {
    pub(crate) events: usize,
    pub(crate) bytes: usize,
}

impl Limit {
    /// As asked for, within what a page may take.
    pub(crate) fn new(events: usize, bytes: usize) -> Self {
        Limit { events: events.clamp(1, PAGE_EVENTS), bytes: bytes.clamp(1, PAGE_BYTES) }
    }
}

/// What was read, and whether a limit ended it.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    pub(crate) records: Vec<Record>,
    pub(crate) cut: bool,
}

/// Which end of a span to read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    Oldest,
    Newest,
}

type Answer<T> = Result<T, LogError>;

/// A database connection that answers about one shard at a time. Events that are never replayed are
/// not among its answers.
pub(crate) trait Source: Send {
    /// Events of these channels, each after its own seq, up to `span.upto`, oldest first.
    fn of_channels(
        &mut self,
        span: Span,
        channels: &[(String, u64)],
        limit: Limit,
    ) -> impl Future<Output = Answer<Rows>> + Send;

    /// Events in the span that match, in order. Patterns may be matched loosely. Looks at every event
    /// of the span, so the caller bounds the span.
    fn of_range(
        &mut self,
        span: Span,
        topics: &Topics,
        order: Order,
        limit: Limit,
    ) -> impl Future<Output = Answer<Rows>> + Send;

    /// Events of one channel in the span, in order.
    fn of_channel(
        &mut self,
        span: Span,
        channel: &str,
        order: Order,
        limit: Limit,
    ) -> impl Future<Output = Answer<Rows>> + Send;

    /// The first `most` channels, by name, that have events in the span and names in `[from, below)`.
    fn channels_between(
        &mut self,
        span: Span,
        from: &str,
        below: &str,
        most: usize,
    ) -> impl Future<Output = Answer<Vec<String>>> + Send;

    /// Of each channel the seq of its n-th newest event in the span; 0 when it has fewer.
    fn nth_newest(
        &mut self,
        span: Span,
        channels: &[(String, u32)],
    ) -> impl Future<Output = Answer<Vec<u64>>> + Send;

    /// The first event of the span: its seq and time.
    fn first(&mut self, span: Span) -> impl Future<Output = Answer<Option<(u64, Timestamp)>>> + Send;
}
