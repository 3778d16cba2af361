//! What the server knows of gateways: their pods, what is said of them, and their fleet.

use http::Method;
use serde_json::{Value, json};

use super::{Answer, ApiServer, answered, key, refused};

pub(super) const PODS: &str = "/api/v1/namespaces/push/pods";
pub(super) const EVENTS: &str = "/apis/events.k8s.io/v1/namespaces/push/events";
pub(super) const FLEETS: &str = "/apis/foghorn.dev/v1alpha1/namespaces/push/gatewayfleets";

/// What deletion costs.
const COST: &str = "controller.kubernetes.io/pod-deletion-cost";
/// What gateways' pods are labelled with, and the fleet selects by.
const LABEL: (&str, &str) = ("component", "gateway");

#[derive(Debug, Default)]
pub(super) struct Pods {
    pods: Vec<Value>,
    fleet: Option<Value>,
    events: Vec<Value>,
}

impl ApiServer {
    /// Creates the fleet of that name, or changes it.
    pub fn apply_fleet(&self, name: &str, accept_share: u32, shed_from: u32) {
        self.state.lock().pods.fleet = Some(json!({
            "apiVersion": "foghorn.dev/v1alpha1", "kind": "GatewayFleet",
            "metadata": { "name": name, "namespace": "push", "generation": 1 },
            "spec": {
                "selector": format!("{}={}", LABEL.0, LABEL.1), "acceptShare": accept_share, "shedFrom": shed_from,
            },
        }));
    }

    /// Creates a pod of a gateway, ready, of a revision.
    pub fn create_pod(&self, name: &str, revision: &str) {
        let mut state = self.state.lock();
        let second = state.pods.pods.len();
        state.pods.pods.push(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": name, "namespace": "push", "labels": { LABEL.0: LABEL.1, "pod-template-hash": revision },
                "creationTimestamp": format!("2026-01-01T00:00:{second:02}Z"),
            },
            "status": { "conditions": [{ "type": "Ready", "status": "True" }] },
        }));
    }

    /// Has a pod told to stop, as far as the server goes.
    pub fn terminate_pod(&self, name: &str) {
        let mut state = self.state.lock();
        if let Some(pod) = state.pods.find(name) {
            pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:01:00Z");
            pod["status"]["conditions"][0]["status"] = json!("False");
        }
    }

    /// A pod is gone.
    pub fn delete_pod(&self, name: &str) {
        self.state.lock().pods.pods.retain(|pod| pod["metadata"]["name"] != name);
    }

    /// What deleting a pod is said to cost.
    #[must_use]
    pub fn deletion_cost(&self, name: &str) -> Option<i64> {
        let mut state = self.state.lock();
        state.pods.find(name)?["metadata"]["annotations"][COST].as_str()?.parse().ok()
    }

    /// Of which reasons there are events about a pod, in their order.
    #[must_use]
    pub fn events_of(&self, pod: &str) -> Vec<String> {
        let state = self.state.lock();
        let about = state.pods.events.iter().filter(|event| event["regarding"]["name"] == pod);
        about.filter_map(|event| Some(event["reason"].as_str()?.to_owned())).collect()
    }

    /// The fleet's status.
    #[must_use]
    pub fn fleet_status(&self) -> Option<Value> {
        Some(self.state.lock().pods.fleet.as_ref()?["status"].clone())
    }

    pub(super) fn pods(&self, method: &Method, name: &str, query: &str, patch: &Value) -> Answer {
        let mut state = self.state.lock();
        if *method == Method::PATCH {
            let Some(pod) = state.pods.find(name) else { return refused(404) };
            pod["metadata"]["annotations"] = patch["metadata"]["annotations"].clone();
            return answered(pod);
        }
        // `=` within a value is escaped there.
        let selected = key(query, "labelSelector") == format!("{}%3D{}", LABEL.0, LABEL.1);
        let items = if selected { state.pods.pods.clone() } else { Vec::new() };
        let metadata = json!({ "resourceVersion": state.version.to_string() });
        answered(&json!({ "apiVersion": "v1", "kind": "PodList", "items": items, "metadata": metadata }))
    }

    pub(super) fn event(&self, event: &Value) -> Answer {
        // As the real one does.
        let names = ["reportingController", "reportingInstance", "action", "reason", "eventTime", "type"];
        if names.iter().any(|name| event[name].as_str().is_none_or(str::is_empty)) {
            return refused(422);
        }
        self.state.lock().pods.events.push(event.clone());
        answered(event)
    }

    pub(super) fn fleet(&self, method: &Method, name: &str, patch: &Value) -> Answer {
        let mut state = self.state.lock();
        // Of the object itself the real one overlooks the status.
        if *method == Method::PATCH && !name.ends_with("/status") {
            return refused(405);
        }
        let of_that_name = |fleet: &&mut Value| fleet["metadata"]["name"] == name.trim_end_matches("/status");
        let Some(fleet) = state.pods.fleet.as_mut().filter(of_that_name) else { return refused(404) };
        if *method == Method::PATCH {
            fleet["status"] = patch["status"].clone();
        }
        answered(fleet)
    }
}

impl Pods {
    fn find(&mut self, name: &str) -> Option<&mut Value> {
        self.pods.iter_mut().find(|pod| pod["metadata"]["name"] == name)
    }
}
