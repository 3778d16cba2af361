//! Pacing gateways, for as long as one leads: answers what they report by what `pace.rs` decides, and looks every few
//! seconds at Kubernetes: how the fleet is to be paced and which pods are told to stop; and says there what is decided, as
//! the cost of deleting each pod, events and the fleet's status.

use std::time::Duration;

use foghorn_bus::backoff::Backoff;
use foghorn_bus::nats::{Bus, Reports};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ObjectReference, Pod as KubernetesPod};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::Client;
use kube::api::{Api, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use parking_lot::Mutex;
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};

use crate::crd::Condition;
use crate::fleet::{GatewayFleet, GatewayFleetStatus};
use crate::metrics::Metrics;
use crate::operator::{MANAGER, said};
use crate::pace::{Fleet, Happening, Pod, Settings, Summary};

/// How often it looks while a gateway leaves, and while none does.
const LEAVING_EVERY: Duration = Duration::from_secs(1);
const SERVING_EVERY: Duration = Duration::from_secs(5);
/// How long a look may take.
const LOOK_LIMIT: Duration = Duration::from_secs(10);
/// After how long the fleet's status is written though only its streams are others.
const STREAMS_EVERY: Duration = Duration::from_secs(30);
/// Most events and costs that are written in one look; the rest waits for the next.
const TOLD_AT_ONCE: usize = 100;
const COSTS_AT_ONCE: usize = 100;
/// How often it is tried to create an event.
const TELL_TRIES: u8 = 5;
/// Most pods that are looked at.
const PODS_MAX: usize = 10_000;
const PAGE: u32 = 500;

/// By this annotation Kubernetes knows which pod to delete first.
const COST: &str = "controller.kubernetes.io/pod-deletion-cost";
/// By this label the pods of one template are told from those of another.
const REVISION: &str = "pod-template-hash";

/// Paces the gateways of a namespace.
pub(crate) struct Pacing {
    fleets: Api<GatewayFleet>,
    pods: Api<KubernetesPod>,
    events: Api<Event>,
    namespace: String,
    /// The fleet's name.
    name: String,
    /// Who we are.
    own: String,
    bus: Bus,
    metrics: Metrics,
}

impl Pacing {
    pub(crate) fn new(
        client: Client,
        namespace: String,
        name: String,
        own: String,
        bus: Bus,
        metrics: Metrics,
    ) -> Self {
        Pacing {
            fleets: Api::namespaced(client.clone(), &namespace),
            pods: Api::namespaced(client.clone(), &namespace),
            events: Api::namespaced(client, &namespace),
            namespace,
            name,
            own,
            bus,
            metrics,
        }
    }

    /// Paces them, for ever.
    pub(crate) async fn run(&self) {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
        loop {
            match self.bus.reports().await {
                Ok(reports) => {
                    backoff.reset();
                    let fleet = Mutex::new(Fleet::new(Instant::now()));
                    // Kubernetes may be slow, and gateways are not to wait for it.
                    tokio::select! {
                        () = answer(reports, &fleet) => {}
                        () = self.look_again(&fleet) => {}
                    }
                }
                Err(error) => {
                    self.metrics.pacing_failures.inc();
                    tracing::warn!(%error, "gateways can't be heard; trying again");
                }
            }
            backoff.wait().await;
        }
    }

    async fn look_again(&self, fleet: &Mutex<Fleet>) {
        let mut written = None;
        loop {
            {
                let mut fleet = fleet.lock();
                fleet.forget(Instant::now());
                self.metrics.paced(&fleet.summary(), fleet.counted());
            }
            let looked = timeout(LOOK_LIMIT, self.look(fleet, &mut written)).await;
            let failed = match looked {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(said(&error)),
                Err(_) => Some(format!("it took longer than {LOOK_LIMIT:?}")),
            };
            if let Some(error) = failed {
                self.metrics.pacing_failures.inc();
                tracing::warn!(error, "looking at the gateways' pods failed; trying again");
            }
            let every = if fleet.lock().is_leaving() { LEAVING_EVERY } else { SERVING_EVERY };
            sleep(every.mul_f64(0.75 + 0.25 * fastrand::f64())).await;
        }
    }

    /// Looks once; `written` is when the fleet's status was last. What can't be read stays as it was known last.
    async fn look(&self, fleet: &Mutex<Fleet>, written: &mut Option<Instant>) -> Result<(), kube::Error> {
        let object = self.fleets.get_opt(&self.name).await?;
        let Some(object) = object else {
            fleet.lock().unpaced();
            return Ok(());
        };
        let pods = self.list(&object.spec.selector).await?;
        let (mut costs, summary) = {
            let mut fleet = fleet.lock();
            let now = Instant::now();
            fleet.paced(Settings::from(&object.spec), pods, now);
            fleet.look(now);
            (fleet.costs(), fleet.summary())
        };
        // One that fails keeps none of the others from being written.
        let mut failed = self.report(&object, &summary, written).await.err();
        for _ in 0..TOLD_AT_ONCE {
            let Some(happening) = fleet.lock().next_happening() else { break };
            if let Err(error) = self.tell(&happening).await {
                failed = Some(error);
                let tries = happening.tries + 1;
                // The log has it in any case.
                if tries < TELL_TRIES {
                    fleet.lock().untold(Happening { tries, ..happening });
                }
                break;
            }
        }
        // From anywhere on: of more than can be written at once, each has its turn.
        let from = fastrand::usize(..costs.len().max(1)).min(costs.len());
        costs.rotate_left(from);
        for (pod, cost) in costs.into_iter().take(COSTS_AT_ONCE) {
            failed = self.cost(&pod, cost).await.err().or(failed);
        }
        failed.map_or(Ok(()), Err)
    }

    async fn list(&self, selector: &str) -> Result<Vec<Pod>, kube::Error> {
        let (mut pods, mut asked) = (Vec::new(), ListParams::default().labels(selector).limit(PAGE));
        loop {
            let page = self.pods.list(&asked).await?;
            pods.extend(page.items.iter().map(pod));
            if pods.len() > PODS_MAX {
                let many = format!("more than {PODS_MAX} pods are selected by {selector:?}");
                return Err(kube::Error::Service(many.into()));
            }
            match page.metadata.continue_.filter(|more| !more.is_empty()) {
                Some(more) => asked = asked.continue_token(&more),
                None => return Ok(pods),
            }
        }
    }

    /// Writes what deleting a pod costs.
    async fn cost(&self, pod: &str, cost: i64) -> Result<(), kube::Error> {
        let patch = Patch::Merge(json!({ "metadata": { "annotations": { COST: cost.to_string() } } }));
        gone_is_fine(self.pods.patch(pod, &PatchParams::default(), &patch).await.map(drop))
    }

    /// Tells people about a pod.
    async fn tell(&self, happening: &Happening) -> Result<(), kube::Error> {
        let Happening { pod, reason, message, .. } = happening.clone();
        let event = Event {
            metadata: ObjectMeta {
                // Names of events are random, as those of Kubernetes' own are.
                name: Some(format!("{pod}.{:016x}", fastrand::u64(..))),
                namespace: Some(self.namespace.clone()),
                ..ObjectMeta::default()
            },
            event_time: Some(MicroTime(Timestamp::now())),
            reporting_controller: Some("foghorn.dev/operator".to_owned()),
            reporting_instance: Some(self.own.clone()),
            action: Some("Pace".to_owned()),
            reason: Some(reason.to_owned()),
            note: Some(message),
            type_: Some("Normal".to_owned()),
            regarding: Some(ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                name: Some(pod),
                namespace: Some(self.namespace.clone()),
                ..ObjectReference::default()
            }),
            ..Event::default()
        };
        self.events.create(&PostParams::default(), &event).await.map(drop)
    }

    /// Writes the fleet's status, if it is another by now.
    async fn report(
        &self,
        object: &GatewayFleet,
        summary: &Summary,
        written: &mut Option<Instant>,
    ) -> Result<(), kube::Error> {
        let before = object.status.clone().unwrap_or_default();
        let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let after = status(summary, object.metadata.generation, &before, &now);
        let but_streams = GatewayFleetStatus { streams: before.streams, ..after.clone() };
        let is_recent = written.is_some_and(|at| at.elapsed() < STREAMS_EVERY);
        if after == before || (but_streams == before && is_recent) {
            return Ok(());
        }
        let parameters = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        let patch = Patch::Merge(json!({ "status": after }));
        gone_is_fine(self.fleets.patch_status(&self.name, &parameters, &patch).await.map(drop))?;
        *written = Some(Instant::now());
        Ok(())
    }
}

/// Answers gateways until none can be heard any more.
async fn answer(mut reports: Reports, fleet: &Mutex<Fleet>) {
    while let Some(reported) = reports.next().await {
        let order = fleet.lock().order(reported.report.clone(), Instant::now());
        reported.answer(&order).await;
    }
}

/// What was deleted meanwhile needs nothing any more.
fn gone_is_fine(done: Result<(), kube::Error>) -> Result<(), kube::Error> {
    match done {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        done => done,
    }
}

/// What is of interest of a pod.
fn pod(pod: &KubernetesPod) -> Pod {
    let metadata = &pod.metadata;
    let text = |of: Option<&String>| of.cloned().unwrap_or_default();
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    Pod {
        name: text(metadata.name.as_ref()),
        revision: text(metadata.labels.as_ref().and_then(|labels| labels.get(REVISION))),
        created: metadata.creation_timestamp.as_ref().map_or(String::new(), |time| time.0.to_string()),
        ready: conditions.into_iter().flatten().any(|is| is.type_ == "Ready" && is.status == "True"),
        terminating: metadata.deletion_timestamp.is_some(),
        cost: metadata
            .annotations
            .as_ref()
            .and_then(|annotations| annotations.get(COST))
            .and_then(|cost| cost.parse().ok()),
    }
}

/// The status that says this; its time is that of `before` where nothing has changed.
fn status(
    summary: &Summary,
    generation: Option<i64>,
    before: &GatewayFleetStatus,
    now: &str,
) -> GatewayFleetStatus {
    let Summary { gateways, streams, waiting, draining, shedding } = summary;
    let (settled, reason, message) = match (waiting.len(), draining.len(), shedding.len()) {
        (0, 0, 0) if *gateways == 0 => ("False", "Silent", "no gateway reports".to_owned()),
        (0, 0, 0) => ("True", "Settled", "every gateway takes streams on".to_owned()),
        (0, 0, shedding) => {
            ("False", "Shedding", format!("{shedding} gateways shed what others have room for"))
        }
        (waiting, 0, _) => ("False", "Waiting", format!("{waiting} gateways wait for their turn to drain")),
        (waiting, draining, _) => {
            ("False", "Draining", format!("{draining} gateways drain, {waiting} wait for their turn"))
        }
    };
    let same = before.conditions.iter().find(|known| known.kind == "Settled" && known.status == settled);
    let since = same.map_or_else(|| now.to_owned(), |known| known.last_transition_time.clone());
    GatewayFleetStatus {
        observed_generation: generation,
        gateways: *gateways,
        streams: *streams,
        waiting: waiting.clone(),
        draining: draining.clone(),
        shedding: shedding.clone(),
        conditions: vec![Condition {
            kind: "Settled".to_owned(),
            status: settled.to_owned(),
            observed_generation: generation,
            last_transition_time: since,
            reason: reason.to_owned(),
            message,
        }],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fleet_is_settled_when_nobody_leaves_or_sheds() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let summary = |gateways, waiting: &[&str], draining: &[&str], shedding: &[&str]| Summary {
            gateways,
            streams: 5,
            waiting: names(waiting),
            draining: names(draining),
            shedding: names(shedding),
        };
        for (summary, settled, reason, message) in [
            (summary(0, &[], &[], &[]), "False", "Silent", "no gateway"),
            (summary(2, &[], &[], &[]), "True", "Settled", "every gateway"),
            (summary(2, &[], &[], &["a"]), "False", "Shedding", "1 gateways shed"),
            (summary(2, &["a"], &[], &[]), "False", "Waiting", "1 gateways wait"),
            (summary(3, &["a"], &["b"], &[]), "False", "Draining", "1 gateways drain, 1 wait"),
        ] {
            let said = status(&summary, Some(3), &GatewayFleetStatus::default(), "now");
            let [condition] = &said.conditions[..] else { panic!("{said:?}") };
            assert_eq!((&*condition.status, &*condition.reason), (settled, reason));
            assert!(condition.message.contains(message), "{condition:?}");
            assert_eq!(status(&summary, Some(3), &said, "later"), said, "its time is that of the change");
        }
    }
}
