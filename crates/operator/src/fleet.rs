//! `GatewayFleet`, the custom resource of all gateways together: how they are paced, and how they are.

#![allow(unreachable_pub, reason = "of what derives make within functions")]
#![allow(clippy::duplicated_attributes, reason = "columns are of the same kind")]

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::crd::Condition;

/// How gateways are taken through rollouts. The operator looks after the one that `operator.fleet` names.
#[derive(CustomResource, KubeSchema, Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "foghorn.dev",
    version = "v1alpha1",
    kind = "GatewayFleet",
    plural = "gatewayfleets",
    shortname = "gwf",
    namespaced,
    status = "GatewayFleetStatus",
    doc = "How gateways are taken through rollouts, and how they are.",
    printcolumn(name = "Gateways", type_ = "integer", json_path = ".status.gateways"),
    printcolumn(name = "Streams", type_ = "integer", json_path = ".status.streams"),
    printcolumn(
        name = "Settled",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Settled')].status"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Settled')].reason"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct GatewayFleetSpec {
    /// The labels that the gateways' pods have and no others: `key=value`, with commas between.
    #[schemars(length(min = 1, max = 1000))]
    pub selector: String,
    /// Of the streams that may begin at gateways in a second (`gateway.streams_per_second`), how many percent may come of
    /// gateways that drain or shed; 1 to 100, 10 if it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub accept_share: Option<u32>,
    /// Where a gateway has so many percent fewer streams than the mean, the others shed what they have above the mean; 0 for
    /// never, 25 if it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 100))]
    pub shed_from: Option<u32>,
}

/// How gateways are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct GatewayFleetStatus {
    /// Which of its generations this is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Gateways that report.
    pub gateways: u32,
    /// Their streams; renewed every half a minute while nothing else changes.
    pub streams: u64,
    /// Pods that were told to stop and wait for their turn.
    pub waiting: Vec<String>,
    /// Pods that let their streams go.
    pub draining: Vec<String>,
    /// Pods that shed streams that others have more room for.
    pub shedding: Vec<String>,
    /// `Settled`, with the reason Settled, Waiting, Draining, Shedding, or Silent where no gateway reports.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}
