//! Where one-time tickets wait to be redeemed. What is kept of one is a digest and what is sealed for it: nobody
//! who reads the store can redeem anything.

use std::time::Duration;

use bytes::Bytes;

use crate::Future;

/// Most tickets that wait at a time.
pub const TICKETS_MAX: usize = 100_000;
/// Most bytes of all that wait.
pub const TICKETS_BYTES_MAX: usize = 128 << 20;

/// A digest of a ticket.
pub type TicketId = [u8; 32];

/// The tickets that wait to be redeemed, in the whole cluster.
pub trait Tickets: Send + Sync + 'static {
    /// Keeps `value` for `ttl`, and for two seconds more at most. After [`TicketError::Unavailable`] it may have
    /// been kept or not.
    fn keep(&self, id: TicketId, value: Bytes, ttl: Duration) -> Future<'_, Result<(), TicketError>>;

    /// What is kept for a ticket; none when it is unknown, spent, or its time is over.
    fn find(&self, id: TicketId) -> Future<'_, Result<Option<Waiting>, TicketError>>;

    /// Whether the ticket is spent by this: by one of all that try, however many. After
    /// [`TicketError::Unavailable`] it may be spent or not.
    fn spend(&self, id: TicketId, revision: u64) -> Future<'_, Result<bool, TicketError>>;
}

/// A ticket that waits to be redeemed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// What was kept.
    pub value: Bytes,
    /// To spend it by.
    pub revision: u64,
}

/// Why a ticket can't be kept, found or spent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    /// As many wait as may.
    #[error("{TICKETS_MAX} tickets wait to be redeemed, or {TICKETS_BYTES_MAX} bytes of them")]
    Full,
    /// No answer, or none that helps.
    #[error("{0}")]
    Unavailable(String),
}
