//! What every process says of itself, once a second, to whoever shows the cluster.

use bytes::Bytes;

use crate::Future;
use crate::gateways::{AskError, Notices};

/// Where processes say how they are.
///
/// At most once: nobody waits for it, and the next one is a second away.
pub trait Statuses: Send + Sync + 'static {
    /// Tells whoever listens.
    fn tell(&self, status: Bytes) -> Future<'_, Result<(), AskError>>;

    /// What processes say from now on, this one too.
    fn hear(&self) -> Future<'_, Result<Box<dyn Notices>, AskError>>;
}
