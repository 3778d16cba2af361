//! The relay of a shard: tails the journal, encodes every event once, sends batches to all gateways.
//!
//! One replica at a time by a lease, whose note is the last seq sent. Two at once are harmless: gateways
//! take only what is above their head. A range that a relay doesn't cover is no loss either, gateways
//! find it missing by arithmetic and get it from the event log; but that is the slow way.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use foghorn_bus::backoff::Backoff;
use foghorn_bus::clock::Clock;
use foghorn_bus::journal::{Bounds, Journal, JournalError};
use foghorn_bus::lease::{EXPIRES_AFTER, Lease, LeaseLost, Leases, RENEW_EVERY};
use foghorn_bus::live::LiveFeed;
use foghorn_core::shard::Shard;
use foghorn_telemetry::shutdown::Shutdown;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::metrics::{Metrics, shard_label};

mod feed;
mod term;

/// How often the leader's tip is asked for.
const TIP_EVERY: Duration = Duration::from_secs(1);
/// How long the journal may take to say what it holds.
const BOUNDS_DEADLINE: Duration = Duration::from_secs(5);
/// How far before the last seq sent a new relay begins, in the journal's time: what the one before may
/// have noted and not sent, or sent to a gateway that was not there yet.
const OVERLAP: Duration = Duration::from_secs(2);
/// How long giving up the lease may take at shutdown; after that it expires by itself.
const RELEASE_DEADLINE: Duration = Duration::from_secs(2);

/// Relays one shard whenever the lease `relay.<shard>` is ours.
pub struct Relay {
    shard: Shard,
    journal: Arc<dyn Journal>,
    feed: Arc<dyn LiveFeed>,
    leases: Arc<dyn Leases>,
    beacon_interval: Duration,
    clock: Clock,
    metrics: Metrics,
    shutdown: Shutdown,
}

/// Where the journal's leader is, asked for every [`TIP_EVERY`].
type Tip = watch::Receiver<Option<Bounds>>;

impl Relay {
    /// Of `shard`. Nothing happens before [`run`](Self::run).
    pub fn new(
        shard: Shard,
        journal: Arc<dyn Journal>,
        feed: Arc<dyn LiveFeed>,
        leases: Arc<dyn Leases>,
        beacon_interval: Duration,
        metrics: Metrics,
        shutdown: Shutdown,
    ) -> Self {
        let clock = Clock::default();
        Relay { shard, journal, feed, leases, beacon_interval, clock, metrics, shutdown }
    }

    /// With another clock than the system's.
    pub fn with_clock(self, clock: Clock) -> Self {
        Relay { clock, ..self }
    }

    /// Waits for the lease, relays, and waits again when it is lost. Returns at shutdown, having given
    /// the lease up.
    pub async fn run(self) {
        let name = format!("relay.{}", self.shard);
        let leader = self.metrics.relay_leader.get_or_create_owned(&shard_label(self.shard));
        leader.set(0);
        let mut backoff = Backoff::new(RENEW_EVERY, EXPIRES_AFTER);
        loop {
            let lease = tokio::select! {
                biased;
                lease = self.leases.acquire(name.clone()) => lease,
                () = self.shutdown.wait() => return,
            };
            tracing::info!(shard = %self.shard, term = lease.term(), after = lease.inherited(), "relaying");
            leader.set(1);
            let stop = self.lead(lease).await;
            leader.set(0);
            if stop {
                return;
            }
            tokio::select! {
                biased;
                () = backoff.wait() => {}
                () = self.shutdown.wait() => return,
            }
        }
    }

    /// Relays while the lease is ours; whether it is time to stop for good.
    async fn lead(&self, mut lease: Box<dyn Lease>) -> bool {
        let inherited = lease.inherited();
        let sent = AtomicU64::new(inherited);
        let (tips, tip) = watch::channel(None);
        tokio::select! {
            biased;
            lost = renew(&mut *lease, &sent) => {
                tracing::warn!(shard = %self.shard, error = %lost, "another may relay now");
                return false;
            }
            () = self.relay(inherited, &sent, tip) => {}
            () = self.watch_tip(&tips) => {}
            () = self.shutdown.wait() => {}
        }
        // A standby need not wait for the lease to expire, and begins where we ended.
        let release = async {
            if let Err(error) = lease.renew(sent.load(Ordering::Relaxed)).await {
                tracing::debug!(%error, shard = %self.shard, "the relay's last note was not taken");
            }
            lease.release().await;
        };
        if timeout(RELEASE_DEADLINE, release).await.is_err() {
            tracing::warn!(shard = %self.shard, "could not give up the relay's lease in time; it expires by itself");
        }
        true
    }

    /// Keeps asking where the leader is. A failure changes nothing: the next one may succeed.
    async fn watch_tip(&self, tips: &watch::Sender<Option<Bounds>>) {
        let mut ticks = interval(TIP_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            match self.bounds().await {
                Ok(bounds) => drop(tips.send_replace(Some(bounds))),
                Err(error) => tracing::debug!(%error, shard = %self.shard, "the journal's tip is unknown"),
            }
        }
    }

    async fn bounds(&self) -> Result<Bounds, JournalError> {
        match timeout(BOUNDS_DEADLINE, self.journal.bounds(self.shard)).await {
            Ok(bounds) => bounds,
            Err(_) => Err(JournalError::Unavailable(format!("no answer within {BOUNDS_DEADLINE:?}"))),
        }
    }
}

/// Renews with the last seq sent until that fails.
async fn renew(lease: &mut dyn Lease, sent: &AtomicU64) -> LeaseLost {
    let mut ticks = interval(RENEW_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match timeout(EXPIRES_AFTER, lease.renew(sent.load(Ordering::Relaxed))).await {
            Ok(Ok(())) => {}
            Ok(Err(lost)) => return lost,
            Err(_) => return LeaseLost(format!("not renewed within {EXPIRES_AFTER:?}")),
        }
    }
}

#[cfg(test)]
mod tests;
