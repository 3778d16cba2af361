//! Leases: who does a job that one process at a time should do.
//!
//! A lease is a hint that keeps work from being done twice, never a proof: a stopped process may wake
//! up and still believe in its own. What must not happen twice is fenced where it happens (the log
//! writer's compare-and-set in SQL) or harmless twice (the relay).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::Future;

/// How often a holder renews, and a candidate looks.
pub const RENEW_EVERY: Duration = Duration::from_millis(400);
/// How long a lease outlives its last renewal, by the candidate's own clock: no clocks are compared.
pub const EXPIRES_AFTER: Duration = Duration::from_millis(1600);

/// Named leases.
pub trait Leases: Send + Sync + 'static {
    /// Waits until the lease is ours.
    fn acquire(&self, name: String) -> Future<'_, Box<dyn Lease>>;
}

/// A lease that is ours. Dropping it lets others have it after [`EXPIRES_AFTER`].
pub trait Lease: Send {
    /// The term: above that of every holder before.
    fn term(&self) -> u64;

    /// The note that the holder before left with its last renewal.
    fn inherited(&self) -> u64;

    /// Keeps it, leaving `note` for the next holder. To be called every [`RENEW_EVERY`].
    fn renew(&mut self, note: u64) -> Future<'_, Result<(), LeaseLost>>;

    /// Gives it up at once, so that a standby need not wait.
    fn release(self: Box<Self>) -> Future<'static, ()>;
}

/// The lease is no longer ours, or can't be shown to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("lease lost: {0}")]
pub struct LeaseLost(pub String);

/// The term after `last`: milliseconds since the Unix epoch, always above the last. By the clock, so
/// that terms go on rising when the record of them is lost (a wiped bucket, a restarted process), and
/// what a log fenced with an older term stays fenced.
pub(crate) fn next_term(last: u64) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(0).max(last + 1)
}
