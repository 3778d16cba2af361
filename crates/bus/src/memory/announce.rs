//! Where nobody publishes.

use futures::FutureExt as _;

use foghorn_core::channel::Channel;

use crate::Future;
use crate::announce::{AnnounceError, Announcer, Canary};

/// Refuses everything: for gateways whose policies tell nobody who listens, and that have no canary.
#[derive(Debug, Clone, Copy)]
pub struct Mute;

impl Announcer for Mute {
    fn announce(&self, _: Channel, _: String) -> Future<'_, Result<(), AnnounceError>> {
        futures::future::ready(Err(AnnounceError::Refused("nobody publishes here".to_owned()))).boxed()
    }

    fn canary(&self, _: Canary) -> Future<'_, Result<(), AnnounceError>> {
        futures::future::ready(Err(AnnounceError::Refused("nobody publishes here".to_owned()))).boxed()
    }
}
