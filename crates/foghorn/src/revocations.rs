//! Where revocations are kept, and how a process hears of them: in a cluster by a bucket of NATS, in standalone
//! by a file in its data directory.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::sync::Mutex;
use tokio::time::Instant;

use foghorn_auth::revocation::{
    InMemory, Keeping, REVOCATIONS_MAX, Revocation, Revocations, Store, StoreError,
};
use foghorn_bus::backoff::Backoff;
use foghorn_bus::clock::Clock;
use foghorn_bus::nats::{Bus, BusError, NatsRevocations, RecordError, Seen};

use crate::process::Process;

/// How often a process looks for what others have revoked.
const LOOK_EVERY: Duration = Duration::from_millis(300);
/// How often those that have ended are forgotten.
const FORGET_EVERY: Duration = Duration::from_secs(60);
/// The file in standalone's data directory.
const FILE: &str = "revocations";

#[derive(Debug, Clone, Default)]
struct Metrics {
    known: Gauge,
    failures: Counter,
    unseen: Gauge,
}

impl Metrics {
    fn register(registry: &mut Registry) -> Self {
        let metrics = Metrics::default();
        let registry = registry.sub_registry_with_prefix("foghorn_auth");
        registry.register("revocations", "Revocations that hold", metrics.known.clone());
        registry.register(
            "revocation_failures",
            "Looks for revocations, and attempts to keep one of a closed stream, that failed",
            metrics.failures.clone(),
        );
        registry.register(
            "revocations_unseen",
            "1 while this process can't see what is revoked elsewhere",
            metrics.unseen.clone(),
        );
        metrics
    }
}

/// A cluster's.
struct InNats(NatsRevocations);

impl Store for InNats {
    fn keep(&self, revocation: Revocation) -> Keeping<'_> {
        Box::pin(async move {
            let ttl = revocation.until.since(Clock::default().now());
            let put = self.0.put(&revocation.key.to_string(), revocation.value(), ttl).await;
            put.map_err(|error| match error {
                RecordError::Full => StoreError::Full,
                RecordError::Unavailable(why) => StoreError::Unavailable(format!("NATS: {why}")),
            })
        })
    }
}

/// Reads what is revoked in the cluster, and goes on looking for more until the process ends. Whoever serves
/// before this has returned would serve what was revoked. `None` when the process is told to stop first.
pub(crate) async fn of_cluster(
    bus: &Bus,
    revocations: &Arc<Revocations>,
    process: &Process,
) -> Result<Option<Arc<dyn Store>>, BusError> {
    let metrics = Metrics::register(&mut process.registry.write());
    let Some(records) = process.unless_stopped(bus.revocations(REVOCATIONS_MAX)).await else {
        return Ok(None);
    };
    let records = records?;
    let store: Arc<dyn Store> = Arc::new(InNats(records.clone()));
    let mut following = Following { records, seen: Seen::default(), revocations: revocations.clone() };
    let mut backoff = Backoff::default();
    let first = async {
        while let Err(error) = following.look().await {
            tracing::warn!(%error, "can't read what is revoked; trying again");
            backoff.wait().await;
        }
    };
    if process.unless_stopped(first).await.is_none() {
        return Ok(None);
    }
    let upkeep = Upkeep::new(store.clone(), revocations.clone(), metrics);
    tokio::spawn(following.run(upkeep));
    Ok(Some(store))
}

/// Takes in what others have revoked.
struct Following {
    records: NatsRevocations,
    seen: Seen,
    revocations: Arc<Revocations>,
}

impl Following {
    async fn run(mut self, mut upkeep: Upkeep) {
        let mut told = false;
        loop {
            // Jittered, so that a cluster's processes don't all look together.
            tokio::time::sleep(LOOK_EVERY.mul_f64(rand::random_range(0.5..1.0))).await;
            let looked = self.look().await;
            upkeep.metrics.unseen.set(i64::from(looked.is_err()));
            if let Err(error) = looked {
                upkeep.metrics.failures.inc();
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(%error, "can't look for what is revoked; what is known goes on being refused");
                }
                continue;
            }
            told = false;
            upkeep.turn().await;
        }
    }

    /// Takes in everything that was put since the last look.
    async fn look(&mut self) -> Result<(), RecordError> {
        loop {
            let look = self.records.look(&mut self.seen).await?;
            if look.is_another {
                // It was wiped: what it had is put into it again.
                self.revocations.say_later(self.revocations.all());
            }
            let now = Clock::default().now();
            let read = look.records.iter().filter_map(|(key, value)| Revocation::parse(key, value));
            self.revocations.apply(read.filter(|revocation| revocation.until > now));
            if !look.more {
                return Ok(());
            }
        }
    }
}

/// What is to be done about a process's revocations now and then.
struct Upkeep {
    store: Arc<dyn Store>,
    revocations: Arc<Revocations>,
    metrics: Metrics,
    forgotten: Instant,
}

impl Upkeep {
    fn new(store: Arc<dyn Store>, revocations: Arc<Revocations>, metrics: Metrics) -> Self {
        Upkeep { store, revocations, metrics, forgotten: Instant::now() }
    }

    async fn turn(&mut self) {
        self.say().await;
        if self.forgotten.elapsed() >= FORGET_EVERY {
            self.forgotten = Instant::now();
            self.revocations.forget_ended(Clock::default().now());
        }
        self.metrics.known.set(i64::try_from(self.revocations.len()).unwrap_or(i64::MAX));
    }

    /// Keeps what streams that were closed leave to be kept. What fails is tried again.
    async fn say(&self) {
        let mut unsaid = self.revocations.take_unsaid().into_iter();
        while let Some(revocation) = unsaid.next() {
            if let Err(error) = self.store.keep(revocation).await {
                self.metrics.failures.inc();
                tracing::warn!(%error, "can't keep the revocation of a closed stream's token; trying again");
                self.revocations.say_later(std::iter::once(revocation).chain(unsaid));
                return;
            }
        }
    }
}

/// Standalone's, beside its events.
struct InFile {
    path: PathBuf,
    revocations: Arc<Revocations>,
    /// One writes at a time.
    writing: Mutex<()>,
}

impl Store for InFile {
    fn keep(&self, revocation: Revocation) -> Keeping<'_> {
        Box::pin(async move {
            let _turn = self.writing.lock().await;
            let now = Clock::default().now();
            let mut all = self.revocations.all();
            all.retain(|known| known.until > now && known.key != revocation.key);
            all.push(revocation);
            let path = self.path.clone();
            let written = tokio::task::spawn_blocking(move || write(&path, &all)).await;
            let written =
                written.map_err(|error| error.to_string()).and_then(|done| done.map_err(|e| e.to_string()));
            if let Err(error) = written {
                return Err(StoreError::Unavailable(format!("{}: {error}", self.path.display())));
            }
            // Before the next one writes all that are known.
            self.revocations.apply([revocation]);
            Ok(())
        })
    }
}

/// Reads what was revoked before a restart. Without a data directory nothing outlives the process.
pub(crate) fn of_standalone(
    data: Option<&Path>,
    revocations: &Arc<Revocations>,
    process: &Process,
) -> anyhow::Result<Arc<dyn Store>> {
    let metrics = Metrics::register(&mut process.registry.write());
    let store: Arc<dyn Store> = match data {
        None => Arc::new(InMemory),
        Some(folder) => {
            let path = folder.join(FILE);
            let read = read(&path).with_context(|| format!("{} can't be read", path.display()))?;
            let now = Clock::default().now();
            revocations.apply(read.into_iter().filter(|revocation| revocation.until > now));
            Arc::new(InFile { path, revocations: revocations.clone(), writing: Mutex::default() })
        }
    };
    let mut upkeep = Upkeep::new(store.clone(), revocations.clone(), metrics);
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            upkeep.turn().await;
        }
    });
    Ok(store)
}

/// A line for each: key, and value.
fn write(path: &Path, revocations: &[Revocation]) -> io::Result<()> {
    let beside = path.with_extension("new");
    let mut file = io::BufWriter::new(std::fs::File::create(&beside)?);
    for revocation in revocations {
        writeln!(file, "{} {}", revocation.key, revocation.value())?;
    }
    file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    std::fs::rename(&beside, path)?;
    match path.parent() {
        Some(folder) => std::fs::File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

/// What was written. A line that can't be read is an error: something would not be refused that should be.
fn read(path: &Path) -> io::Result<Vec<Revocation>> {
    let text = match std::fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        text => text?,
    };
    let parsed = text.lines().enumerate().map(|(at, line)| {
        let revocation =
            line.split_once(' ').and_then(|(key, value)| Revocation::parse(key, value.as_bytes()));
        revocation.ok_or_else(|| io::Error::other(format!("line {} is no revocation", at + 1)))
    });
    parsed.collect()
}

#[cfg(test)]
mod tests {
    use foghorn_auth::revocation::Key;

    use super::*;

    #[tokio::test]
    async fn a_file_has_all_that_were_kept_and_a_broken_one_is_not_taken_for_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        assert!(read(&path).unwrap().is_empty());
        let store = InFile { path: path.clone(), revocations: Arc::default(), writing: Mutex::default() };
        let now = Clock::default().now();
        let of = |key| Revocation { key, said: now, until: now.plus(Duration::from_secs(60)) };
        let kept = [of(Key::subject("ann")), of(Key::token_id("7"))];
        let (one, other) = tokio::join!(store.keep(kept[0]), store.keep(kept[1]));
        assert_eq!((one, other), (Ok(()), Ok(())));
        let ended = Revocation { until: now, ..of(Key::stream(7)) };
        store.revocations.apply([ended]);
        store.keep(kept[0]).await.unwrap();
        let mut found = read(&path).unwrap();
        found.sort_by_key(|revocation| revocation.key.to_string());
        assert_eq!(found, kept);
        std::fs::write(&path, "subject.1 {}\n").unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("line 1"));
    }
}
