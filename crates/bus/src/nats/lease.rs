//! Leases in a key-value bucket, by compare-and-set. No clocks are compared: a candidate waits until the
//! record has not changed for a while by its own.

use std::time::Duration;

use futures::FutureExt;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use super::api::ApiError;
use super::bucket::{Bucket, Put};
use super::setup::patiently;
use super::{Bus, BusError};
use crate::Future;
use crate::backoff::{Backoff, Rarely};
use crate::lease::{EXPIRES_AFTER, Lease, LeaseLost, Leases, RENEW_EVERY, next_term};
use crate::metrics::Metrics;

const BUCKET: &str = "FOGHORN_leases";
/// How long one request may take; well under the expiry, so that one lost on the way costs no lease.
const REQUEST_TIMEOUT: Duration = Duration::from_millis(500);
/// Between attempts to renew while NATS doesn't answer.
const RETRY_EVERY: Duration = Duration::from_millis(50);

/// The leases of a cluster. Cheap to clone.
#[derive(Debug, Clone)]
pub struct NatsLeases {
    bucket: Bucket,
    metrics: Metrics,
}

struct NatsLease {
    bucket: Bucket,
    metrics: Metrics,
    name: String,
    held: Stored,
    revision: u64,
    inherited: u64,
    /// When the last successful renewal was begun.
    renewed: Instant,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Stored {
    /// Random per lease; empty when it was given up.
    holder: String,
    term: u64,
    note: u64,
}

impl NatsLeases {
    pub(super) async fn open(bus: &Bus) -> Result<Self, BusError> {
        let bucket = Bucket::new(bus.0.api.clone(), BUCKET, bus.0.options.replicas);
        let metrics = bus.0.metrics.clone();
        patiently("set up the bucket of leases", &metrics, || bucket.ensure()).await?;
        Ok(NatsLeases { bucket, metrics })
    }

    /// Waits for the lease. The name is made of `[A-Za-z0-9_-]`.
    async fn acquire_patiently(&self, name: String) -> NatsLease {
        let holder = format!("{:032x}", rand::random::<u128>());
        let rarely = Rarely::default();
        let mut backoff = Backoff::new(Duration::from_millis(50), RENEW_EVERY);
        let mut candidate = Candidate { unchanged: None };
        loop {
            match within(self.try_acquire(&name, &holder, &mut candidate)).await {
                Ok(Some(lease)) => {
                    self.metrics.leases_acquired.inc();
                    tracing::info!(lease = lease.name, term = lease.held.term, "lease acquired");
                    return lease;
                }
                Ok(None) => {
                    backoff.reset();
                    sleep_until(candidate.look_at()).await;
                }
                Err(error) => {
                    self.metrics.lease_retries.inc();
                    if rarely.now() {
                        tracing::warn!(lease = name, %error, "can't look at the lease; trying again");
                    }
                    if error.is_no_stream() {
                        // The bucket was wiped with the rest; an error shows at the next look.
                        drop(within(self.bucket.ensure()).await);
                    }
                    backoff.wait().await;
                }
            }
        }
    }

    async fn try_acquire(
        &self,
        name: &str,
        holder: &str,
        candidate: &mut Candidate,
    ) -> Result<Option<NatsLease>, ApiError> {
        let begun = Instant::now();
        let record = self.bucket.get::<Stored>(name).await?;
        let lease = |held: Stored, revision, inherited| NatsLease {
            bucket: self.bucket.clone(),
            metrics: self.metrics.clone(),
            name: name.to_owned(),
            held,
            revision,
            inherited,
            renewed: begun,
        };
        if let Some(held) = record.value.as_ref().filter(|held| held.holder == holder) {
            // An earlier attempt succeeded without our hearing of it.
            return Ok(Some(lease(held.clone(), record.revision, held.note)));
        }
        let free = record.value.as_ref().is_none_or(|held| held.holder.is_empty());
        if !free && !candidate.has_expired(record.revision) {
            return Ok(None);
        }
        let (term, note) = record.value.map_or((0, 0), |last| (last.term, last.note));
        let ours = Stored { holder: holder.to_owned(), term: next_term(term), note };
        Ok(match self.bucket.put(name, &ours, record.revision).await? {
            Put::Done(revision) => Some(lease(ours, revision, note)),
            Put::Conflict => None,
        })
    }
}

/// What a candidate knows about the lease.
struct Candidate {
    /// The record's revision, and since when it has not changed.
    unchanged: Option<(u64, Instant)>,
}

impl Candidate {
    fn has_expired(&mut self, revision: u64) -> bool {
        match self.unchanged {
            Some((seen, since)) if seen == revision => since.elapsed() >= EXPIRES_AFTER,
            _ => {
                self.unchanged = Some((revision, Instant::now()));
                false
            }
        }
    }

    /// When to look again: as often as holders renew, and at the moment of expiry.
    fn look_at(&self) -> Instant {
        let regular = Instant::now() + RENEW_EVERY;
        self.unchanged.map_or(regular, |(_, since)| regular.min(since + EXPIRES_AFTER))
    }
}

impl NatsLease {
    async fn renew_in_time(&mut self, note: u64) -> Result<(), LeaseLost> {
        // From the last renewal's beginning: a candidate can't have seen it earlier.
        let deadline = self.renewed + EXPIRES_AFTER;
        let ours = Stored { note, ..self.held.clone() };
        let mut why = "it was not renewed in time".to_owned();
        while Instant::now() < deadline {
            let begun = Instant::now();
            let request_deadline = deadline.min(begun + REQUEST_TIMEOUT);
            match timeout_at(request_deadline, self.try_renew(&ours)).await {
                Ok(Ok(Some(revision))) => {
                    (self.revision, self.held.note, self.renewed) = (revision, note, begun);
                    return Ok(());
                }
                // The revision is known anew; at once again.
                Ok(Ok(None)) => continue,
                Ok(Err(Lost::ToAnother(lost))) => return Err(lost),
                Ok(Err(Lost::Unreachable(error))) => why = error.to_string(),
                Err(_) => why = "no answer in time".to_owned(),
            }
            self.metrics.lease_retries.inc();
            sleep(RETRY_EVERY).await;
        }
        Err(LeaseLost(format!("{} can't be shown to be ours: {why}", self.name)))
    }

    /// The new revision; none when an earlier attempt had succeeded unheard, and its revision is known now.
    async fn try_renew(&mut self, ours: &Stored) -> Result<Option<u64>, Lost> {
        match self.bucket.put(&self.name, ours, self.revision).await.map_err(Lost::Unreachable)? {
            Put::Done(revision) => Ok(Some(revision)),
            Put::Conflict => {
                let record = self.bucket.get::<Stored>(&self.name).await.map_err(Lost::Unreachable)?;
                match record.value {
                    Some(held) if held.holder == self.held.holder => {
                        self.revision = record.revision;
                        Ok(None)
                    }
                    Some(Stored { term, .. }) => {
                        let ours = self.held.term;
                        let text = format!("{} is held in term {term}, ours was {ours}", self.name);
                        Err(Lost::ToAnother(LeaseLost(text)))
                    }
                    None => Err(Lost::ToAnother(LeaseLost(format!("the record of {} is gone", self.name)))),
                }
            }
        }
    }
}

enum Lost {
    ToAnother(LeaseLost),
    Unreachable(ApiError),
}

impl Leases for NatsLeases {
    fn acquire(&self, name: String) -> Future<'_, Box<dyn Lease>> {
        async move { Box::new(self.acquire_patiently(name).await) as Box<dyn Lease> }.boxed()
    }
}

impl Lease for NatsLease {
    fn term(&self) -> u64 {
        self.held.term
    }

    fn inherited(&self) -> u64 {
        self.inherited
    }

    fn renew(&mut self, note: u64) -> Future<'_, Result<(), LeaseLost>> {
        async move {
            let renewed = self.renew_in_time(note).await;
            if renewed.is_err() {
                self.metrics.leases_lost.inc();
            }
            renewed
        }
        .boxed()
    }

    fn release(self: Box<Self>) -> Future<'static, ()> {
        async move {
            // With the holder's name gone anybody may have it at once; the term stays, to be exceeded.
            let free = Stored { holder: String::new(), ..self.held.clone() };
            if let Err(error) = within(self.bucket.put(&self.name, &free, self.revision)).await {
                tracing::debug!(lease = self.name, %error, "the lease can't be given up; it will expire");
            }
        }
        .boxed()
    }
}

async fn within<T>(request: impl std::future::Future<Output = Result<T, ApiError>>) -> Result<T, ApiError> {
    match timeout(REQUEST_TIMEOUT, request).await {
        Ok(answer) => answer,
        Err(_) => Err(ApiError::Unreachable("no answer in time".to_owned())),
    }
}
