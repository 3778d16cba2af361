//! Where nobody publishes.

use futures::FutureExt as _;

use foghorn_core::channel::Channel;

use crate::Future;
use crate::announce::{AnnounceError, Announcer};

/// Refuses everything: for gateways whose policies tell nobody who listens.
#[derive(Debug, Clone, Copy)]
pub struct Mute;

impl Announcer for Mute {
    fn announce(&self, _: Channel, _: String) -> Future<'_, Result<(), AnnounceError>> {
        futures::future::ready(Err(AnnounceError::Refused("nobody publishes here".to_owned()))).boxed()
    }
}
