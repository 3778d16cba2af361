//! Where it is kept what streams were changed to hear, for when they come back, to whichever gateway. What is kept
//! grants nothing: who comes back is asked anew what they may hear.

use std::time::Duration;

use bytes::Bytes;
use foghorn_core::cursor::SubscriptionId;

use crate::Future;

/// Most subscriptions that are kept at a time.
pub const SUBSCRIPTIONS_MAX: usize = 100_000;
/// Most bytes of all that are kept.
pub const SUBSCRIPTIONS_BYTES_MAX: usize = 256 << 20;

/// The subscriptions that streams of the whole cluster were changed to.
pub trait Subscriptions: Send + Sync + 'static {
    /// Keeps `value` for `ttl` from now on, and for two seconds more at most; in place of what was kept under this id.
    /// `last` is what the writer's last write of it was, if this isn't its first. After
    /// [`SubscriptionError::Unavailable`] it may have been kept or not.
    fn keep(
        &self,
        id: SubscriptionId,
        value: Bytes,
        ttl: Duration,
        last: Option<Revision>,
    ) -> Future<'_, Result<Written, SubscriptionError>>;

    /// Keeps `value` for `ttl` from now on and no longer, unless somebody has written it since `last`. After
    /// [`SubscriptionError::Unavailable`] it may have been shortened or not.
    fn shorten(
        &self,
        id: SubscriptionId,
        value: Bytes,
        ttl: Duration,
        last: Revision,
    ) -> Future<'_, Result<(), SubscriptionError>>;

    /// What is kept under an id; none when nothing ever was, or its time is over.
    fn find(&self, id: SubscriptionId) -> Future<'_, Result<Option<Bytes>, SubscriptionError>>;
}

/// A write of a record: it tells whether there were others since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Revision(pub(crate) u64);

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// This write.
    pub revision: Revision,
    /// Whether nothing but the writer's last write was there, or nothing at all if this is its first.
    pub alone: bool,
}

/// Why a subscription can't be kept or found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubscriptionError {
    /// As many are kept as may be.
    #[error("{SUBSCRIPTIONS_MAX} changed subscriptions are kept, or {SUBSCRIPTIONS_BYTES_MAX} bytes of them")]
    Full,
    /// No answer, or none that helps.
    #[error("{0}")]
    Unavailable(String),
}
