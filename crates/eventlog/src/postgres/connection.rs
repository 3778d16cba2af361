//! Connections as the rest of the log sees them: to PostgreSQL, or to tables in memory.

use std::time::Duration;

use foghorn_bus::log::LogError;
use foghorn_core::policy::Policies;
use foghorn_core::position::{Digest, Epoch};
use foghorn_core::shard::Shard;
use foghorn_core::time::Timestamp;
use sqlx::pool::PoolConnection;
use sqlx::{PgPool, Postgres};
use tokio::time::{Instant, timeout};

use super::append::{Batch, append};
use super::breaker::InHand;
use super::resend::{self, Lost, LostRow};
use super::rows::Reader;
use super::state::{self, Kept, Known, WriteError, WriterHead, log_error};
use super::tables::Session;
use super::{Database, WRITE_DEADLINE};
use crate::record::Record;
use crate::source::{Limit, Order, Rows, Source, Span};
use crate::standing::Standing;
use crate::topics::Topics;

/// Where connections come from.
#[derive(Debug, Clone)]
pub(super) enum Store {
    Postgres { write: PgPool, read: PgPool },
    Memory(Session),
}

/// A connection that reads. One that doesn't answer in time is closed and not used again.
pub(super) struct Connection {
    inner: Reading,
    _in_hand: InHand,
}

enum Reading {
    Postgres(Reader),
    Memory(Session),
}

/// A connection that writes.
pub(super) enum Writing {
    Postgres(PoolConnection<Postgres>),
    Memory(Session),
}

impl Connection {
    pub(super) async fn new(database: &Database) -> Result<Self, LogError> {
        if !database.breaker.admits(Instant::now()) {
            return Err(LogError(
                "PostgreSQL could not be reached a moment ago; it is tried again soon".into(),
            ));
        }
        let (connected, most) = match &database.store {
            Store::Postgres { read, .. } => {
                let acquired = read.acquire().await.map_err(|error| log_error("connecting", &error));
                (
                    acquired.map(|inner| Reading::Postgres(Reader::new(inner))),
                    read.options().get_max_connections(),
                )
            }
            Store::Memory(session) => {
                (session.connect().await.map(|()| Reading::Memory(session.clone())), u32::MAX)
            }
        };
        if connected.is_err() {
            database.breaker.failed(Instant::now(), most);
        }
        Ok(Connection { inner: connected?, _in_hand: database.breaker.worked() })
    }

    /// From now on reads what a shard of this standing has for `topics`: rows of their classes, also those
    /// of the epochs that its epoch continues.
    pub(super) fn only(&mut self, standing: &Standing, topics: &Topics) {
        let (classes, ancestors) = (standing.classes(topics), standing.ancestors.clone());
        match &mut self.inner {
            Reading::Postgres(reader) => reader.only(classes, ancestors),
            Reading::Memory(session) => session.only(classes, ancestors),
        }
    }

    /// What the log has of a shard, and the digest of its head.
    pub(super) async fn standing(&mut self, shard: Shard) -> Result<Option<(Standing, Digest)>, LogError> {
        match &mut self.inner {
            Reading::Postgres(reader) => reader.standing(shard).await,
            Reading::Memory(session) => session.standing(shard).await,
        }
    }

    /// The key at a position, if there is a row: outer none means that there is no row.
    pub(super) async fn key_at(&mut self, span: Span) -> Result<Option<Option<Vec<u8>>>, LogError> {
        match &mut self.inner {
            Reading::Postgres(reader) => reader.key_at(span).await,
            Reading::Memory(session) => session.key_at(span).await,
        }
    }

    /// Whether the log knows that the journal lost this position.
    pub(super) async fn is_in_hole(&mut self, span: Span) -> Result<bool, LogError> {
        match &mut self.inner {
            Reading::Postgres(reader) => reader.is_in_hole(span).await,
            Reading::Memory(session) => session.is_in_hole(span).await,
        }
    }

    /// Runs `work` on a connection, but not for ever.
    pub(super) async fn within<T>(
        mut self,
        limit: Duration,
        work: impl AsyncFnOnce(&mut Self) -> Result<T, LogError>,
    ) -> Result<T, LogError> {
        let done = timeout(limit, work(&mut self)).await;
        if done.is_err()
            && let Reading::Postgres(reader) = &mut self.inner
        {
            reader.give_up();
        }
        done.map_err(|_| LogError(format!("PostgreSQL did not answer within {limit:?}")))?
    }
}

impl Source for Connection {
    async fn of_channels(
        &mut self,
        span: Span,
        channels: &[(String, u64)],
        limit: Limit,
    ) -> Result<Rows, LogError> {
        match &mut self.inner {
            Reading::Postgres(reader) => reader.of_channels(span, channels, limit).await,
            Reading::Memory(session) => session.of_channels(span, channels, limit).await,
        }
    }

    async fn of_range(
        &mut self,
        span: Span,
        topics: &Topics,
        order: Order,
        limit: Limit,
    ) -> Result<Rows, LogError> {
        match &mut self.inner {
            Reading::Postgres(reader) => reader.of_range(span, topics, order, limit).await,
            Reading::Memory(session) => session.of_range(span, topics, order, limit).await,
        }
    }

    async fn of_channel(
        &mut self,
        span: Span,
        channel: &str,
        order: Order,
        limit: Limit,
    ) -> Result<Rows, LogError> {
        match &mut self.inner {
            Reading::Postgres(reader) => reader.of_channel(span, channel, order, limit).await,
            Reading::Memory(session) => session.of_channel(span, channel, order, limit).await,
        }
    }

    async fn channels_between(
        &mut self,
        span: Span,
        from: &str,
        below: &str,
        most: usize,
    ) -> Result<Vec<String>, LogError> {
        match &mut self.inner {
            Reading::Postgres(reader) => reader.channels_between(span, from, below, most).await,
            Reading::Memory(session) => session.channels_between(span, from, below, most).await,
        }
    }

    async fn nth_newest(&mut self, span: Span, channels: &[(String, u32)]) -> Result<Vec<u64>, LogError> {
        match &mut self.inner {
            Reading::Postgres(reader) => reader.nth_newest(span, channels).await,
            Reading::Memory(session) => session.nth_newest(span, channels).await,
        }
    }

    async fn first(&mut self, span: Span) -> Result<Option<(u64, Timestamp)>, LogError> {
        match &mut self.inner {
            Reading::Postgres(reader) => reader.first(span).await,
            Reading::Memory(session) => session.first(span).await,
        }
    }
}

impl Writing {
    pub(super) async fn new(database: &Database) -> Result<Self, WriteError> {
        match &database.store {
            Store::Postgres { write, .. } => Ok(Writing::Postgres(write.acquire().await?)),
            Store::Memory(session) => {
                session.connect().await?;
                Ok(Writing::Memory(session.clone()))
            }
        }
    }

    /// See [`state::take_over`].
    pub(super) async fn take_over(
        &mut self,
        shard: Shard,
        lease_term: u64,
    ) -> Result<WriterHead, WriteError> {
        match self {
            Writing::Postgres(connection) => state::take_over(connection, shard, lease_term).await,
            Writing::Memory(session) => session.take_over(shard, lease_term).await,
        }
    }

    /// See [`state::begin_epoch`].
    pub(super) async fn begin_epoch(
        &mut self,
        head: WriterHead,
        epoch: Epoch,
        start: u64,
        kept: Option<Kept>,
        resent_since: Option<Timestamp>,
    ) -> Result<WriterHead, WriteError> {
        match self {
            Writing::Postgres(connection) => {
                state::begin_epoch(connection, head, epoch, start, kept, resent_since).await
            }
            Writing::Memory(session) => session.begin_epoch(head, epoch, start, kept, resent_since).await,
        }
    }

    /// See [`resend::lost`].
    pub(super) async fn lost(&mut self, shard: Shard) -> Result<Option<Lost>, WriteError> {
        match self {
            Writing::Postgres(connection) => resend::lost(connection, shard).await,
            Writing::Memory(session) => session.lost(shard).await,
        }
    }

    /// See [`resend::lost_rows`].
    pub(super) async fn lost_rows(&mut self, shard: Shard, lost: Lost) -> Result<Vec<LostRow>, WriteError> {
        match self {
            Writing::Postgres(connection) => resend::lost_rows(connection, shard, lost).await,
            Writing::Memory(session) => session.lost_rows(shard, lost).await,
        }
    }

    /// See [`resend::came_back`].
    pub(super) async fn came_back(&mut self, shard: Shard, lost: Lost, upto: u64) -> Result<(), WriteError> {
        match self {
            Writing::Postgres(connection) => resend::came_back(connection, shard, lost, upto).await,
            Writing::Memory(session) => session.came_back(shard, lost, upto).await,
        }
    }

    /// See [`state::newest_row`].
    pub(super) async fn newest_row(
        &mut self,
        shard: Shard,
        after: u64,
        upto: u64,
    ) -> Result<Option<Record>, WriteError> {
        match self {
            Writing::Postgres(connection) => state::newest_row(connection, shard, after, upto).await,
            Writing::Memory(session) => session.newest_row(shard, after, upto).await,
        }
    }

    /// See [`state::record_hole`].
    pub(super) async fn record_hole(
        &mut self,
        head: WriterHead,
        upto: u64,
    ) -> Result<WriterHead, WriteError> {
        match self {
            Writing::Postgres(connection) => state::record_hole(connection, head, upto).await,
            Writing::Memory(session) => session.record_hole(head, upto).await,
        }
    }

    /// See [`append`].
    pub(super) async fn append(
        &mut self,
        known: &Known,
        head: WriterHead,
        batch: &Batch,
        policies: &Policies,
        now: Timestamp,
    ) -> Result<WriterHead, WriteError> {
        match self {
            Writing::Postgres(connection) => append(connection, known, head, batch, policies, now).await,
            Writing::Memory(session) => session.append(head, batch, policies, now).await,
        }
    }

    /// See [`state::erase`].
    pub(super) async fn erase(&mut self, channel: &str) -> Result<u64, WriteError> {
        match self {
            Writing::Postgres(connection) => state::erase(connection, channel).await,
            Writing::Memory(session) => session.erase(channel).await,
        }
    }

    /// Works on a connection, but not for ever. One that was given up on may be in the middle of anything
    /// and is closed: what it did is found out from the head.
    pub(super) async fn bounded<T, F>(&mut self, work: F) -> Result<T, WriteError>
    where
        F: AsyncFnOnce(&mut Self) -> Result<T, WriteError>,
    {
        let done = timeout(WRITE_DEADLINE, work(self)).await;
        if !matches!(done, Ok(Ok(_)))
            && let Writing::Postgres(connection) = self
        {
            connection.close_on_drop();
        }
        done.map_err(|_| WriteError::Slow(WRITE_DEADLINE))?
    }
}
