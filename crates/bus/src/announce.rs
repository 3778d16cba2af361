//! How a gateway has events published: of who comes and goes, and to hear them itself. It may not publish, so it asks
//! whoever may.

use foghorn_core::channel::Channel;

use crate::Future;
use crate::gateways::GatewayName;

/// Publishes what gateways have to say: who listens, and their canaries.
pub trait Announcer: Send + Sync + 'static {
    /// Publishes one on a channel, of the type `presence`. It is behind those that were published before. After an error
    /// it may have been published or not.
    fn announce(&self, channel: Channel, data: String) -> Future<'_, Result<(), AnnounceError>>;

    /// Publishes an event with this number as its data on one of the gateway's [own channels](Channel::canary), once.
    /// After an error it may have been published or not.
    fn canary(&self, canary: Canary) -> Future<'_, Result<(), AnnounceError>>;
}

/// An event that a gateway has published to hear it itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Canary {
    /// Whose it is.
    pub gateway: GatewayName,
    /// On which of the gateway's channels.
    pub lane: u8,
    /// Which of the gateway's it is.
    pub number: u64,
}

impl Canary {
    /// Where it is heard.
    pub fn channel(self) -> Channel {
        Channel::canary(self.gateway.get(), self.lane)
    }
}

/// Why what a gateway has to say was not published.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnnounceError {
    /// Nobody could publish it now.
    #[error("{0}")]
    Unavailable(String),
    /// It is refused, now and later.
    #[error("{0}")]
    Refused(String),
}
