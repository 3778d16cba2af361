//! Leases: records in a bucket, renewed by compare-and-set, as `foghorn_bus::nats` has them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use foghorn_bus::Future;
use foghorn_bus::lease::{EXPIRES_AFTER, Lease, LeaseLost, Leases, RENEW_EVERY};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, sleep_until};

use crate::process::Process;

/// How long a failed renewal waits before the next.
const RETRY_EVERY: Duration = Duration::from_millis(100);

/// The bucket.
#[derive(Debug, Default)]
pub struct Bucket {
    records: Mutex<BTreeMap<String, Record>>,
    /// Whoever asks gets one, whoever has it.
    lavish: AtomicBool,
}

#[derive(Debug, Clone, Default)]
struct Record {
    holder: Option<u64>,
    term: u64,
    note: u64,
    revision: u64,
}

/// Leases as a process sees them.
pub struct SimLeases {
    process: Arc<Process>,
    bucket: Arc<Bucket>,
}

struct SimLease {
    process: Arc<Process>,
    bucket: Arc<Bucket>,
    name: String,
    holder: u64,
    term: u64,
    inherited: u64,
    revision: u64,
    renewed: Instant,
}

impl Bucket {
    /// The bucket is lost with everything in it.
    pub fn wipe(&self) {
        self.records.lock().clear();
    }

    /// Whether whoever asks for a lease gets it, whoever has it: nothing may rest on them.
    pub fn set_lavish(&self, lavish: bool) {
        self.lavish.store(lavish, Ordering::Relaxed);
    }

    fn get(&self, name: &str) -> Record {
        self.records.lock().get(name).cloned().unwrap_or_default()
    }

    fn put(&self, name: &str, seen: u64, record: &Record) -> Option<u64> {
        let mut records = self.records.lock();
        if records.get(name).map_or(0, |record| record.revision) != seen {
            return None;
        }
        let revision = seen + 1;
        records.insert(name.to_owned(), Record { revision, ..record.clone() });
        Some(revision)
    }
}

impl SimLeases {
    /// The leases of a process.
    pub fn new(process: &Arc<Process>, bucket: &Arc<Bucket>) -> Self {
        SimLeases { process: process.clone(), bucket: bucket.clone() }
    }

    async fn try_acquire(
        &self,
        name: &str,
        holder: u64,
        unchanged: &mut Option<(u64, Instant)>,
    ) -> Result<Option<SimLease>, String> {
        let begun = Instant::now();
        self.process.hop_to_nats().await?;
        let record = self.bucket.get(name);
        self.process.hop_to_nats().await?;
        let lease = |term, revision, inherited| SimLease {
            process: self.process.clone(),
            bucket: self.bucket.clone(),
            name: name.to_owned(),
            holder,
            term,
            inherited,
            revision,
            renewed: begun,
        };
        if record.holder == Some(holder) {
            return Ok(Some(lease(record.term, record.revision, record.note)));
        }
        let expired = match unchanged {
            Some((seen, since)) if *seen == record.revision => since.elapsed() >= EXPIRES_AFTER,
            _ => {
                *unchanged = Some((record.revision, Instant::now()));
                false
            }
        };
        let lavish = self.bucket.lavish.load(Ordering::Relaxed);
        if record.holder.is_some() && !expired && !lavish {
            return Ok(None);
        }
        let now = u64::try_from(self.process.now().as_micros() / 1000).unwrap_or(0);
        let term = now.max(record.term + 1);
        let ours = Record { holder: Some(holder), term, note: record.note, revision: 0 };
        self.process.hop_to_nats().await?;
        let put = self.bucket.put(name, record.revision, &ours);
        self.process.hop_to_nats().await?;
        Ok(put.map(|revision| lease(term, revision, record.note)))
    }
}

impl Leases for SimLeases {
    fn acquire(&self, name: String) -> Future<'_, Box<dyn Lease>> {
        Box::pin(async move {
            let holder = u64::try_from(self.process.world.pick(1..usize::MAX)).unwrap_or(1);
            let mut unchanged = None;
            loop {
                match self.try_acquire(&name, holder, &mut unchanged).await {
                    Ok(Some(lease)) => {
                        let term = lease.term;
                        self.process.world.tell(&self.process.name, &format!("holds {name} in term {term}"));
                        return Box::new(lease) as Box<dyn Lease>;
                    }
                    Ok(None) => {
                        let regular = Instant::now() + RENEW_EVERY;
                        let expiry = unchanged.map_or(regular, |(_, since)| since + EXPIRES_AFTER);
                        sleep_until(regular.min(expiry.max(Instant::now() + Duration::from_millis(1)))).await;
                    }
                    Err(_) => sleep(self.process.world.millis(50..400)).await,
                }
            }
        })
    }
}

impl SimLease {
    async fn try_renew(&mut self, note: u64) -> Result<bool, String> {
        self.process.hop_to_nats().await?;
        let ours = Record { holder: Some(self.holder), term: self.term, note, revision: 0 };
        let put = self.bucket.put(&self.name, self.revision, &ours);
        let found = self.bucket.get(&self.name);
        self.process.hop_to_nats().await?;
        if let Some(revision) = put {
            self.revision = revision;
            return Ok(true);
        }
        if self.bucket.lavish.load(Ordering::Relaxed) {
            return Ok(true);
        }
        if found.holder == Some(self.holder) {
            self.revision = found.revision;
            return Err("its revision is known anew".to_owned());
        }
        Ok(false)
    }
}

impl Lease for SimLease {
    fn term(&self) -> u64 {
        self.term
    }

    fn inherited(&self) -> u64 {
        self.inherited
    }

    fn renew(&mut self, note: u64) -> Future<'_, Result<(), LeaseLost>> {
        Box::pin(async move {
            let deadline = self.renewed + EXPIRES_AFTER;
            while Instant::now() < deadline {
                let begun = Instant::now();
                match tokio::time::timeout_at(deadline, self.try_renew(note)).await {
                    Ok(Ok(true)) => {
                        self.renewed = begun;
                        return Ok(());
                    }
                    Ok(Ok(false)) => return Err(LeaseLost("held by another".to_owned())),
                    Ok(Err(_)) | Err(_) => sleep(RETRY_EVERY).await,
                }
            }
            Err(LeaseLost("not renewed in time".to_owned()))
        })
    }

    fn release(self: Box<Self>) -> Future<'static, ()> {
        Box::pin(async move {
            if self.process.hop_to_nats().await.is_ok() {
                let record = self.bucket.get(&self.name);
                let free = Record { holder: None, ..record };
                let _taken = self.bucket.put(&self.name, self.revision, &free).is_some();
            }
        })
    }
}
