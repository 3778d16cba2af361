//! The live feed: what fan-out's relays send to every gateway.
//!
//! At most once and unacknowledged by design: a receiver knows by arithmetic what it missed (see
//! [`foghorn_core::batch`]) and gets it from the event log.

use std::sync::Arc;

use foghorn_core::batch::Batch;
use foghorn_core::shard::Shard;

use crate::Future;

/// Sends and receives batches.
pub trait LiveFeed: Send + Sync + 'static {
    /// Sends to every gateway. An error means that it was surely not sent.
    fn send(&self, batch: Arc<Batch>) -> Future<'_, Result<(), LiveError>>;

    /// The most bytes a batch may take, encoded.
    fn batch_bytes(&self) -> usize;

    /// What is sent on `shard` from now on. Returns when the subscription is in place.
    fn subscribe(&self, shard: Shard) -> Future<'_, Result<Box<dyn LiveSubscription>, LiveError>>;
}

/// Batches of one shard as they come. Its queue is bounded in bytes; what doesn't fit is dropped,
/// counted and found missing by the receiver's arithmetic.
pub trait LiveSubscription: Send {
    /// The next batch; `None` when the feed has ended and must be subscribed anew. Cancel-safe.
    fn next(&mut self) -> Future<'_, Option<Arc<Batch>>>;
}

/// Why a batch was not sent or a subscription not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the live feed can't be reached: {0}")]
pub struct LiveError(pub String);
