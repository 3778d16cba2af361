//! The policies of a process, which change while it runs: in a cluster as a bucket of NATS says, in standalone as its
//! configuration file does. And the commands that write that bucket.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use foghorn_bus::nats::{
    Bus, NatsPolicies, POLICIES_BUCKET, RecordError, SeenPolicies, StoredPolicies, WrittenPolicies,
};
use foghorn_bus::policies::{Document, SharedPolicies};
use foghorn_core::policy::{Policies, Policy};

use crate::cluster::{bus_error, nats_options};
use crate::config::{self, Config, Seen, Watched};
use crate::process::{Misconfigured, Process};

/// How often a process looks for other policies, at the least.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long a command waits for NATS.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a process does with policies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reader {
    /// It asks the webhook where they leave it to that, so it has to have one.
    Asking,
    /// It asks nobody.
    Keeping,
}

#[derive(Debug, Clone, Default)]
struct Metrics {
    revision: Gauge,
    changes: Counter,
    refused: Gauge,
    unseen: Gauge,
}

impl Metrics {
    fn register(registry: &mut Registry) -> Self {
        let metrics = Metrics::default();
        let registry = registry.sub_registry_with_prefix("foghorn_policies");
        registry.register(
            "revision",
            "Revision of the document whose policies hold here; 0 for the configuration's",
            metrics.revision.clone(),
        );
        registry.register(
            "changes",
            "Times that other policies began to hold while the process ran",
            metrics.changes.clone(),
        );
        registry.register(
            "refused",
            "1 while what was written last is refused here, or is gone, and what held before goes on",
            metrics.refused.clone(),
        );
        registry.register(
            "unseen",
            "1 while this process can't see which policies are to hold",
            metrics.unseen.clone(),
        );
        metrics
    }
}

// A cluster's

/// The policies that the cluster has, or where it has none those of the configuration; goes on looking for others until
/// the process ends. Whoever served before this has returned would let people listen to what they may not. `None` when
/// the process is told to stop first.
pub(crate) async fn of_cluster(
    bus: &Bus,
    config: &Config,
    reader: Reader,
    process: &Process,
) -> anyhow::Result<Option<SharedPolicies>> {
    let configured = config.checked_policies().map_err(Misconfigured)?;
    let shared = SharedPolicies::from(configured.clone());
    let part = process.health.part("policies", format!("NATS, to read the bucket {POLICIES_BUCKET}"));
    let mut following = Following {
        bucket: bus.policies(),
        seen: SeenPolicies::default(),
        revision: 0,
        refused: None,
        runs: false,
        shared: shared.clone(),
        configured,
        config: config.clone(),
        reader,
        metrics: Metrics::register(&mut process.registry.write()),
    };
    let first = async {
        while let Err(why) = following.look().await.map_err(|error| error.to_string()).and_then(|()| {
            // Nothing has held before: who may listen isn't known.
            following.refused.clone().map_or(Ok(()), Err)
        }) {
            part.not_ready(format!("policies in the bucket {POLICIES_BUCKET} that can be used: {why}"));
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    if process.unless_stopped(first).await.is_none() {
        return Ok(None);
    }
    part.ready();
    tokio::spawn(following.run());
    Ok(Some(shared))
}

/// Takes over what the bucket has.
struct Following {
    bucket: NatsPolicies,
    seen: SeenPolicies,
    /// Of the document that holds; 0 when none does.
    revision: u64,
    /// What is wrong with what the bucket has.
    refused: Option<String>,
    /// Whether the process serves by what it has found.
    runs: bool,
    shared: SharedPolicies,
    configured: Arc<Policies>,
    config: Config,
    reader: Reader,
    metrics: Metrics,
}

impl Following {
    async fn run(mut self) {
        self.runs = true;
        let mut told = false;
        loop {
            // Jittered, so that a cluster's processes don't all look together.
            tokio::time::sleep(LOOK_EVERY.mul_f64(rand::random_range(0.5..1.0))).await;
            let looked = self.look().await;
            self.metrics.unseen.set(i64::from(looked.is_err()));
            match looked {
                Ok(()) => told = false,
                Err(error) if !std::mem::replace(&mut told, true) => {
                    tracing::warn!(%error, "can't look for other policies; those that hold go on");
                }
                Err(_) => {}
            }
        }
    }

    /// Takes over what was written since the last look.
    async fn look(&mut self) -> Result<(), RecordError> {
        let Some(found) = self.bucket.look(&mut self.seen).await? else { return Ok(()) };
        self.refused = match self.read(found) {
            Ok((policies, revision)) => {
                let before = self.shared.get();
                self.shared.set(policies);
                if self.runs && before != self.shared.get() {
                    self.metrics.changes.inc();
                    tracing::info!(revision, "other policies hold from now on");
                }
                self.revision = revision;
                self.metrics.revision.set(i64::try_from(revision).unwrap_or(i64::MAX));
                None
            }
            Err(why) => {
                let goes_on = self.revision;
                tracing::error!(bucket = POLICIES_BUCKET, why, goes_on, "the policies are refused");
                Some(why)
            }
        };
        self.metrics.refused.set(i64::from(self.refused.is_some()));
        Ok(())
    }

    /// What is to hold from now on, and its revision.
    fn read(&self, found: StoredPolicies) -> Result<(Policies, u64), String> {
        match found {
            // Whoever withdraws them says so: one that lost its storage must not open what was closed.
            StoredPolicies::Nothing if self.revision > 0 => {
                Err("the bucket has lost them; apply them again, or clear them".to_owned())
            }
            StoredPolicies::Nothing | StoredPolicies::Withdrawn => Ok(((*self.configured).clone(), 0)),
            StoredPolicies::Document { revision, bytes } => {
                let document = Document::read(&bytes).map_err(|error| error.to_string())?;
                check(&self.config, self.reader, document.policies())?;
                let policies = document.into_policies().map_err(|error| error.to_string())?;
                Ok((policies, revision))
            }
        }
    }
}

/// Whether a process with this configuration can do as policies say.
fn check(config: &Config, reader: Reader, policies: &[Policy]) -> Result<(), String> {
    config.check_policy_sizes(policies)?;
    match reader {
        Reader::Asking => config.check_webhook(policies),
        Reader::Keeping => Ok(()),
    }
}

// Standalone's

/// The policies of the configuration, and those of its file from when that changes until the process ends.
pub(crate) fn of_standalone(config: &Config, process: &Process) -> anyhow::Result<SharedPolicies> {
    let shared = SharedPolicies::from(config.checked_policies().map_err(Misconfigured)?);
    let metrics = Metrics::register(&mut process.registry.write());
    if let Some(file) = Watched::of(config) {
        tokio::spawn(follow_file(file, config.clone(), shared.clone(), metrics));
    }
    Ok(shared)
}

async fn follow_file(mut file: Watched, config: Config, shared: SharedPolicies, metrics: Metrics) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let seen = file.look().await;
        metrics.unseen.set(i64::from(matches!(seen, Seen::Nothing)));
        let Seen::Changed(read) = seen else { continue };
        let read = read.and_then(|read| {
            check(&config, Reader::Asking, &read.policies)?;
            read.checked_policies()
        });
        metrics.refused.set(i64::from(read.is_err()));
        match read {
            Ok(policies) if policies == shared.get() => {}
            Ok(policies) => {
                shared.set((*policies).clone());
                metrics.changes.inc();
                tracing::info!("other policies hold from now on");
            }
            Err(why) => tracing::error!(why, "the policies are refused; those that hold go on"),
        }
    }
}

// The commands

/// `foghorn policies apply`: has the cluster's processes take over the policies of a file.
pub(crate) async fn apply(config: Config, file: PathBuf) -> anyhow::Result<()> {
    let policies = config::read_policies(&file).map_err(Misconfigured)?;
    let wrong = |why: String| Misconfigured(format!("{}: {why}", file.display()));
    check(&config, Reader::Keeping, &policies).map_err(wrong)?;
    let document = Document::new(policies).map_err(|error| wrong(error.to_string()))?;
    let bucket = to_write(&config).await?;
    let (found, revision) = read(&bucket).await?;
    if matches!(found, StoredPolicies::Document { bytes, .. } if bytes == document.to_bytes()) {
        println!("the cluster has these policies already, as revision {revision}");
        return Ok(());
    }
    let revision = done(bucket.put(&document, revision).await)?;
    println!("the cluster has {} policies now, as revision {revision}", document.policies().len());
    Ok(())
}

/// `foghorn policies clear`: what processes are configured with holds again.
pub(crate) async fn clear(config: Config) -> anyhow::Result<()> {
    let bucket = to_write(&config).await?;
    match read(&bucket).await? {
        (StoredPolicies::Withdrawn, _) => {
            println!("the cluster has no policies; those of each process's configuration hold");
        }
        // Also where there is nothing: processes go on by what a bucket had that was lost, until somebody says so.
        (_, revision) => {
            done(bucket.withdraw(revision).await)?;
            println!("the policies are withdrawn; those of each process's configuration hold again");
        }
    }
    Ok(())
}

/// `foghorn policies show`: what the cluster has, as TOML.
pub(crate) async fn show(config: Config) -> anyhow::Result<()> {
    let bucket = connect(&config).await?.policies();
    match read(&bucket).await? {
        (StoredPolicies::Document { bytes, .. }, revision) => {
            let document = Document::read(&bytes)
                .with_context(|| format!("revision {revision} in the bucket {POLICIES_BUCKET}"))?;
            println!("# Revision {revision}.");
            println!("{}", config::policies_to_toml(document.policies())?);
        }
        _ => println!("# The cluster has no policies; those of each process's configuration hold."),
    }
    Ok(())
}

async fn connect(config: &Config) -> anyhow::Result<Bus> {
    config.check_nats_files().map_err(Misconfigured)?;
    let metrics = foghorn_bus::metrics::Metrics::default();
    let connecting = Bus::connect(nats_options(config, "operator"), metrics);
    within_patience(connecting).await?.map_err(bus_error)
}

async fn to_write(config: &Config) -> anyhow::Result<NatsPolicies> {
    let bus = connect(config).await?;
    within_patience(bus.policies_to_write()).await?.map_err(bus_error)
}

async fn within_patience<T>(asking: impl Future<Output = T>) -> anyhow::Result<T> {
    tokio::time::timeout(PATIENCE, asking).await.context("NATS doesn't answer; see nats.url")
}

async fn read(bucket: &NatsPolicies) -> anyhow::Result<(StoredPolicies, u64)> {
    bucket.get().await.with_context(|| format!("the bucket {POLICIES_BUCKET} can't be read"))
}

fn done(written: Result<WrittenPolicies, RecordError>) -> anyhow::Result<u64> {
    match written.with_context(|| format!("the bucket {POLICIES_BUCKET} can't be written"))? {
        WrittenPolicies::Done(revision) => Ok(revision),
        WrittenPolicies::Conflict => anyhow::bail!(
            "somebody else has written the policies meanwhile: look at them with `foghorn policies show`, and try again"
        ),
    }
}
