//! How a gateway has listeners told who comes and goes: it may not publish, so it asks whoever may.

use foghorn_core::channel::Channel;

use crate::Future;

/// Publishes events of who listens.
pub trait Announcer: Send + Sync + 'static {
    /// Publishes one on a channel, of the type `presence`. It is behind those that were published before. After an error
    /// it may have been published or not.
    fn announce(&self, channel: Channel, data: String) -> Future<'_, Result<(), AnnounceError>>;
}

/// Why an event of who listens was not published.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnnounceError {
    /// Nobody could publish it now.
    #[error("{0}")]
    Unavailable(String),
    /// It is refused, now and later.
    #[error("{0}")]
    Refused(String),
}
