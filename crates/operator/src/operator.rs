//! Going round: all objects, what holds of them, the document, their status.

use std::time::Duration;

use foghorn_bus::backoff::Backoff;
use foghorn_bus::nats::{Bus, NatsPolicies, RecordError, StoredPolicies, WrittenPolicies};
use foghorn_bus::policies::{Document, DocumentError};
use foghorn_telemetry::health::Part;
use foghorn_telemetry::shutdown::Shutdown;
use futures::StreamExt as _;
use jiff::Timestamp;
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, ListParams, Patch, PatchParams, WatchEvent, WatchParams};
use prometheus_client::registry::Registry;
use serde_json::json;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use crate::config::Config;
use crate::crd::{ChannelPolicy, ChannelPolicyStatus};
use crate::lease::{Lease, Turn};
use crate::metrics::Metrics;
use crate::pacing::Pacing;
use crate::resolve::{Candidate, Verdict, resolve};
use crate::status::status;

/// Objects that are read at a time.
const PAGE: u32 = 250;
/// Most objects there may be: of more, not all could be told.
const OBJECTS_MAX: usize = 5000;
/// How long a round may take.
const ROUND_LIMIT: Duration = Duration::from_secs(30);
/// How long changes are gathered before the next round.
const GATHERED_FOR: Duration = Duration::from_millis(100);
/// How long it is waited for a change, in seconds; then comes a round anyway, which sees what else has changed what
/// services read.
const WATCHED_FOR: u32 = 30;
/// After how long a watch that says nothing is given up, when the server should have ended it before.
const WATCH_LIMIT: Duration = Duration::from_secs(WATCHED_FOR as u64 + 5);
/// The name under which the status is written.
pub(crate) const MANAGER: &str = "foghorn-operator";

/// An operator.
pub struct Operator {
    objects: Api<DynamicObject>,
    lease: Lease,
    bucket: NatsPolicies,
    /// Most bytes of an event in this cluster.
    event_bytes: usize,
    pacing: Pacing,
    metrics: Metrics,
    part: Part,
}

/// There is no way to Kubernetes.
#[derive(Debug, thiserror::Error)]
#[error("no Kubernetes to be found, neither by KUBECONFIG nor as a pod: {0}")]
pub struct ClientError(String);

/// The way to Kubernetes, found as kubectl or a pod does, and the namespace to look after.
pub async fn client(config: &Config) -> Result<(Client, String), ClientError> {
    let found = kube::Config::infer().await.map_err(|error| ClientError(error.to_string()))?;
    let namespace = match &*config.namespace {
        "" => found.default_namespace.clone(),
        given => given.to_owned(),
    };
    let client = Client::try_from(found).map_err(|error| ClientError(error.to_string()))?;
    Ok((client, namespace))
}

/// Why a round failed.
#[derive(Debug, thiserror::Error)]
enum RoundError {
    #[error("Kubernetes: {}", said(.0))]
    Kubernetes(#[from] kube::Error),
    #[error("there are more than {OBJECTS_MAX} ChannelPolicies")]
    Many,
    #[error("the policies together make no document: {0}")]
    Document(#[from] DocumentError),
    #[error("the policies can't be published: {0}")]
    Unpublished(String),
    #[error("it took longer than {ROUND_LIMIT:?}")]
    Slow,
    #[error("it panicked")]
    Panicked,
}

impl Operator {
    /// One that looks after the objects of this namespace, writes to `bucket`, and hears gateways by `bus`. `event_bytes`
    /// is the most that an event may take in this cluster. `part` is ready once the API server has answered.
    pub fn new(
        config: &Config,
        (client, namespace): (Client, String),
        (bus, bucket): (Bus, NatsPolicies),
        event_bytes: usize,
        part: Part,
        registry: &mut Registry,
    ) -> Self {
        let own = format!("{}-{:08x}", std::env::var("HOSTNAME").unwrap_or_default(), fastrand::u32(..));
        let resource = ApiResource::erase::<ChannelPolicy>(&());
        let leases = Api::namespaced(client.clone(), &namespace);
        let metrics = Metrics::register(registry);
        let fleet = config.fleet.clone();
        let pacing = Pacing::new(client.clone(), namespace.clone(), fleet, own.clone(), bus, metrics.clone());
        Operator {
            // Not as its type: one object that can't be read must not keep the others from being.
            objects: Api::namespaced_with(client, &namespace, &resource),
            lease: Lease::new(leases, config.lease.clone(), own, config.lease_duration),
            bucket,
            event_bytes,
            pacing,
            metrics,
            part,
        }
    }

    /// Leads when it is its turn, until shutdown.
    pub async fn run(self, shutdown: &Shutdown) {
        let Operator { objects, mut lease, bucket, event_bytes, pacing, metrics, part } = self;
        let leading = Leading { objects, bucket, event_bytes, metrics };
        loop {
            let mut told = false;
            let tried = |turn: &Result<Turn, kube::Error>| match turn {
                Ok(_) => part.ready(),
                Err(error) if !std::mem::replace(&mut told, true) => {
                    tracing::warn!(error = said(error), "can't look at the operator's lease; trying again");
                }
                Err(_) => {}
            };
            tokio::select! {
                () = lease.acquire(tried) => {}
                () = shutdown.wait() => return,
            }
            tracing::info!("this operator leads");
            leading.metrics.leader.set(1);
            let stops = tokio::select! {
                () = lease.keep() => false,
                () = leading.lead() => false,
                () = pacing.run() => false,
                () = shutdown.wait() => true,
            };
            leading.metrics.leads_no_more();
            if stops {
                return lease.release().await;
            }
        }
    }
}

/// What a leader works with.
struct Leading {
    objects: Api<DynamicObject>,
    bucket: NatsPolicies,
    event_bytes: usize,
    metrics: Metrics,
}

impl Leading {
    /// Goes round for ever.
    async fn lead(&self) {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
        loop {
            self.metrics.rounds.inc();
            match timeout(ROUND_LIMIT, self.round()).await.unwrap_or(Err(RoundError::Slow)) {
                Ok(version) => {
                    backoff.reset();
                    self.changed_since(&version).await;
                }
                Err(error) => {
                    self.metrics.failures.inc();
                    tracing::warn!(%error, "a round over the ChannelPolicies failed; trying again");
                    backoff.wait().await;
                }
            }
        }
    }

    /// One round; the version of the objects that it has seen.
    async fn round(&self) -> Result<String, RoundError> {
        // First, as what is written is compared with it: who was deposed meanwhile overwrites nothing newer.
        let found = self.bucket.get().await;
        let (objects, version) = self.list().await?;
        let held = match &found {
            Ok((StoredPolicies::Document { bytes, .. }, _)) => Document::read(bytes).map(Some),
            _ => Ok(None),
        };
        let (held, unreadable) = match held {
            Ok(held) => (held.map_or(Vec::new(), |document| document.policies().to_vec()), None),
            Err(error) => (Vec::new(), Some(error)),
        };
        let candidates: Vec<Candidate> = objects.iter().map(candidate).collect();
        let event_bytes = self.event_bytes;
        // Thousands of objects take their time, in which the lease is to be kept.
        let resolving = spawn_blocking(move || resolve(&candidates, &held, event_bytes));
        let (document, verdicts) = resolving.await.map_err(|_| RoundError::Panicked)??;
        self.metrics.decided(&verdicts);
        let all_accepted = verdicts.iter().all(|verdict| matches!(verdict, Verdict::Accepted { .. }));
        let published = match (found, unreadable) {
            // A newer operator's, perhaps. What it says of the patterns of objects that are refused must go on.
            (Ok(_), Some(error)) if !all_accepted => Err(format!(
                "what holds now can't be read here ({error}), so it isn't known what goes on for the objects that are refused; mend or delete those"
            )),
            (Ok((found, revision)), _) => self.publish(document, !objects.is_empty(), &found, revision).await,
            (Err(error), _) => Err(unread(&error)),
        };
        self.report(&objects, &verdicts, &published).await?;
        published.map(|()| version).map_err(RoundError::Unpublished)
    }

    /// All objects, and their version together.
    async fn list(&self) -> Result<(Vec<DynamicObject>, String), RoundError> {
        let (mut objects, mut asked) = (Vec::new(), ListParams::default().limit(PAGE));
        loop {
            let page = self.objects.list(&asked).await?;
            objects.extend(page.items);
            if objects.len() > OBJECTS_MAX {
                return Err(RoundError::Many);
            }
            match page.metadata.continue_.filter(|more| !more.is_empty()) {
                Some(more) => asked = asked.continue_token(&more),
                None => return Ok((objects, page.metadata.resource_version.unwrap_or_default())),
            }
        }
    }

    /// Has services read this, if they don't yet. Without any object they are told that there is nothing: what each is
    /// configured with holds. Also where the bucket is empty, as one that has lost what it had says nothing.
    async fn publish(
        &self,
        document: Document,
        has_objects: bool,
        found: &StoredPolicies,
        revision: u64,
    ) -> Result<(), String> {
        let written = match (found, has_objects) {
            (StoredPolicies::Document { bytes, .. }, true) if *bytes == document.to_bytes() => return Ok(()),
            (_, true) => self.bucket.put(&document, revision).await,
            (StoredPolicies::Withdrawn, false) => return Ok(()),
            (_, false) => self.bucket.withdraw(revision).await,
        };
        match written {
            Ok(WrittenPolicies::Done(revision)) => {
                self.metrics.published.inc();
                tracing::info!(revision, policies = document.policies().len(), "published the policies");
                Ok(())
            }
            Ok(WrittenPolicies::Conflict) => Err("somebody else has written them meanwhile".to_owned()),
            Err(error) => Err(unread(&error)),
        }
    }

    /// Writes the verdicts where they aren't yet. One that fails keeps none of the others from being written.
    async fn report(
        &self,
        objects: &[DynamicObject],
        verdicts: &[Verdict],
        published: &Result<(), String>,
    ) -> Result<(), RoundError> {
        let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let mut failed = None;
        for (object, verdict) in objects.iter().zip(verdicts) {
            let before: ChannelPolicyStatus =
                serde_json::from_value(object.data["status"].clone()).unwrap_or_default();
            let after = status(verdict, published, object.metadata.generation, &before, &now);
            if after == before {
                continue;
            }
            let parameters =
                PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
            let patch = Patch::Merge(json!({ "status": after }));
            let name = object.metadata.name.as_deref().unwrap_or_default();
            match self.objects.patch_status(name, &parameters, &patch).await {
                Ok(_) => {}
                // Deleted meanwhile.
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(()), |error| Err(error.into()))
    }

    /// Returns when something may have changed since that version. A version that the server knows no more, a watch that
    /// ends or fails, and silence are all reasons to look.
    async fn changed_since(&self, version: &str) {
        let watched = async {
            let parameters = WatchParams::default().timeout(WATCHED_FOR).disable_bookmarks();
            let mut events = match self.objects.watch(&parameters, version).await {
                Ok(events) => Box::pin(events),
                Err(error) => {
                    return tracing::debug!(error = said(&error), "can't watch the ChannelPolicies");
                }
            };
            match events.next().await {
                Some(Ok(WatchEvent::Error(status))) => tracing::debug!(%status, "the watch is over"),
                Some(Err(error)) => tracing::debug!(error = said(&error), "the watch broke"),
                Some(Ok(_)) | None => {}
            }
        };
        if timeout(WATCH_LIMIT, watched).await.is_err() {
            tracing::debug!("a watch was silent for longer than it was to last");
        }
        sleep(GATHERED_FOR.mul_f64(1.0 + fastrand::f64())).await;
    }
}

fn candidate(object: &DynamicObject) -> Candidate {
    let created = object.metadata.creation_timestamp.as_ref();
    Candidate {
        name: object.metadata.name.clone().unwrap_or_default(),
        created: created.map_or(String::new(), |time| time.0.to_string()),
        patterns: serde_json::from_value(object.data["spec"]["patterns"].clone()).unwrap_or_default(),
        spec: serde_json::from_value(object.data["spec"].clone()).map_err(|error| format!("spec: {error}")),
    }
}

fn unread(error: &RecordError) -> String {
    format!("NATS: {error}")
}

/// What an error says, without the noise around it.
pub(crate) fn said(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => format!("{} ({})", status.message, status.code),
        other => other.to_string(),
    }
}
