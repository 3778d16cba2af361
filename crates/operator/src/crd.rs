//! `ChannelPolicy`, the custom resource of policies. Its schema is made of these types; what they allow and a policy
//! doesn't, the operator refuses by the same code that reads a configuration.

#![allow(unreachable_pub, reason = "of what derives make within functions")]
#![allow(clippy::duplicated_attributes, reason = "columns are of the same kind")]

use foghorn_core::policy::Policy;
use kube::{CustomResource, CustomResourceExt as _, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::fleet::GatewayFleet;

/// As many as a list of the API may have without its rules costing too much.
pub(crate) const PATTERNS_MAX: usize = 100;

/// What holds for the channels under some patterns. Of several policies that match, the most specific one holds, alone:
/// what it leaves out has the default's value. See docs/configuration.md of Foghorn.
#[derive(CustomResource, KubeSchema, Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "foghorn.dev",
    version = "v1alpha1",
    kind = "ChannelPolicy",
    plural = "channelpolicies",
    shortname = "chpol",
    namespaced,
    status = "ChannelPolicyStatus",
    doc = "Who may listen to the channels under some patterns, and what is kept of them.",
    printcolumn(name = "Patterns", type_ = "string", json_path = ".spec.patterns"),
    printcolumn(
        name = "Accepted",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Accepted')].status"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Accepted')].reason"
    ),
    printcolumn(
        name = "Published",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Published')].status"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(
    validation = ("!has(self.access) || self.access != 'owner' || self.patterns.all(p, p.startsWith('user.'))", "access: owner is for patterns under user. alone, such as user.*"),
    validation = ("!has(self.coalescing) || self.coalescing != 'latest' || !has(self.presence) || self.presence != 'events'", "coalescing: latest and presence: events exclude each other; presence: counts goes with latest"),
)]
#[serde(rename_all = "camelCase")]
pub struct ChannelPolicySpec {
    /// Channels with NATS wildcards: `orders.eu`, `orders.*`, `orders.>`. No other object may have the same.
    #[schemars(length(min = 1, max = 100), inner(length(min = 1, max = 200), regex(pattern = PATTERN)))]
    #[schemars(extend("x-kubernetes-list-type" = "set"))]
    pub patterns: Vec<String>,
    /// Who may listen. Left out: whoever has a credential; of channels under `user.` their user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<Access>,
    /// How much is kept to be replayed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<Retention>,
    /// Whether events can be replayed at all; they can unless it is false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay: Option<bool>,
    /// How large events may be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    /// What is compressed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compression: Option<Compression>,
    /// What a listener is owed that is behind, or asks for batches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub coalescing: Option<Coalescing>,
    /// Whether it is known who listens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub presence: Option<Presence>,
    /// Event types that metrics count by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 200)))]
    pub metric_types: Vec<String>,
}

/// What a pattern looks like: tokens between dots, `*` for any one, `>` at the end for any more.
const PATTERN: &str = r"^(([A-Za-z0-9_~-]+|\*)\.)*([A-Za-z0-9_~-]+|\*|>)$";
/// What a time looks like: `5m`, `24h`, `30days`.
const TIME: &str = r"^[0-9]+[a-z]+( ?[0-9]+[a-z]+)*$";

/// Who may listen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// Anybody, without a credential too.
    Public,
    /// Whoever has a credential, within what it says.
    Authenticated,
    /// The user of that id, for patterns under `user.`.
    Owner,
    /// Whom the webhook authoriser allows it.
    Webhook,
}

/// How much is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Retention {
    /// For how long at least, `5m`, `24h`, `30days`; 1 min to 10 years, 24 h if it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40), regex(pattern = TIME))]
    pub age: Option<String>,
    /// Of each channel only so many newest events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub count: Option<u32>,
}

/// How large events may be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// Most bytes of an event as an SSE frame; at most what the cluster allows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 64))]
    pub event_bytes: Option<u32>,
}

/// What is compressed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Compression {
    /// Bytes of the smallest event that compressed streams are sent compressed; 0 for none, 1024 if it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<u32>,
    /// Bytes of the smallest data that are stored and sent compressed, for all who listen; 0, or left out, for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_from: Option<u32>,
}

/// What a listener is owed that is behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Coalescing {
    /// Every event.
    None,
    /// Only the newest of each channel.
    Latest,
}

/// Whether it is known who listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Presence {
    /// It isn't.
    Off,
    /// To whoever asks, how many.
    Counts,
    /// Beside that, listeners are told who comes and goes.
    Events,
}

/// What became of an object.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ChannelPolicyStatus {
    /// Which of its generations this is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Accepted`, with the reason Accepted, Conflict or Invalid; `Published`, with Published, NotAccepted or Unavailable.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// One thing that holds of an object or not, as all of Kubernetes writes it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// What: `Accepted`, `Published`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True` or `False`.
    pub status: String,
    /// Of which generation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Since when the status is what it is.
    pub last_transition_time: String,
    /// Why, in one word.
    pub reason: String,
    /// Why, in more.
    pub message: String,
}

impl ChannelPolicySpec {
    /// The policy for one of its patterns, read as a `[[policy]]` of a configuration is.
    pub(crate) fn policy(&self, pattern: &str) -> Result<Policy, serde_json::Error> {
        let mut policy = Map::new();
        let mut set = |key: &str, value: Option<Value>| {
            if let Some(value) = value {
                policy.insert(key.to_owned(), value);
            }
        };
        let word = |value: Result<Value, serde_json::Error>| value.map(Some);
        let retention = self.retention.clone().unwrap_or_default();
        let compression = self.compression.clone().unwrap_or_default();
        set("pattern", Some(json!(pattern)));
        set("access", self.access.map_or(Ok(None), |access| word(serde_json::to_value(access)))?);
        set("retention", retention.age.map(Value::from));
        set("retention_count", retention.count.map(Value::from));
        set("replay", self.replay.map(Value::from));
        set("event_bytes", self.limits.as_ref().and_then(|limits| limits.event_bytes).map(Value::from));
        set("compress_from", compression.from.map(Value::from));
        set("compress_data_from", compression.data_from.map(Value::from));
        set("latest", self.coalescing.map(|coalescing| json!(coalescing == Coalescing::Latest)));
        set(
            "presence",
            match self.presence {
                None | Some(Presence::Off) => None,
                Some(Presence::Counts) => Some(json!("counts")),
                Some(Presence::Events) => Some(json!("events")),
            },
        );
        set("metric_types", Some(json!(self.metric_types)));
        serde_json::from_value(Value::Object(policy))
    }
}

/// The definitions that have to be in Kubernetes, as YAML documents.
pub fn crds() -> Result<String, CrdError> {
    let definitions = [ChannelPolicy::crd(), GatewayFleet::crd()];
    let documents = definitions.iter().map(|definition| {
        let definition = serde_json::to_value(definition).map_err(|error| CrdError(error.to_string()))?;
        serde_saphyr::to_string(&definition).map_err(|error| CrdError(error.to_string()))
    });
    Ok(documents.collect::<Result<Vec<_>, _>>()?.join("---\n"))
}

/// The definitions can't be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the custom resource definitions can't be written: {0}")]
pub struct CrdError(String);

#[cfg(test)]
mod tests {
    use foghorn_core::policy::{Access as CoreAccess, Presence as CorePresence};

    use super::*;

    #[test]
    fn what_an_object_says_is_the_policy_that_a_configuration_would_say() {
        let spec: ChannelPolicySpec = serde_json::from_value(json!({
            "patterns": ["orders.>", "prices.*"], "access": "public", "retention": { "age": "5m", "count": 10 },
            "replay": true, "limits": { "eventBytes": 1000 }, "compression": { "from": 0, "dataFrom": 4096 },
            "coalescing": "latest", "presence": "counts", "metricTypes": ["quote"],
        }))
        .unwrap();
        let policy = spec.policy("orders.>").unwrap();
        assert_eq!((policy.access, policy.retention.as_secs()), (Some(CoreAccess::Public), 300));
        assert_eq!((policy.retention_count, policy.replay, policy.event_bytes), (Some(10), true, Some(1000)));
        assert_eq!((policy.compress_from, policy.compress_data_from, policy.latest), (0, 4096, true));
        assert_eq!((policy.presence, policy.metric_types), (CorePresence::Counts, vec!["quote".to_owned()]));
        let plain: ChannelPolicySpec = serde_json::from_value(json!({ "patterns": ["a"] })).unwrap();
        assert_eq!(
            plain.policy("a").unwrap(),
            Policy::new(foghorn_core::pattern::Pattern::parse("a").unwrap())
        );
        assert!(plain.policy("a..b").is_err());
    }

    #[test]
    fn the_schema_is_structural_and_has_the_rules() {
        let crd = serde_json::to_value(ChannelPolicy::crd()).unwrap();
        assert_eq!(crd["metadata"]["name"], "channelpolicies.foghorn.dev");
        let version = &crd["spec"]["versions"][0];
        assert_eq!(version["subresources"]["status"], json!({}));
        let spec = &version["schema"]["openAPIV3Schema"]["properties"]["spec"];
        let rules = spec["x-kubernetes-validations"].as_array().unwrap();
        assert_eq!(rules.len(), 2, "{spec:#}");
        let patterns = &spec["properties"]["patterns"];
        assert_eq!(
            (&patterns["maxItems"], &patterns["x-kubernetes-list-type"]),
            (&json!(PATTERNS_MAX), &json!("set"))
        );
        assert_eq!(patterns["items"]["pattern"], PATTERN);
        assert_eq!(spec["properties"]["access"]["enum"].as_array().unwrap().len(), 4, "{spec:#}");
        fn walk(value: &Value, place: &str) {
            for word in ["$ref", "anyOf", "oneOf", "allOf", "additionalProperties", "definitions", "$defs"] {
                assert!(value.get(word).is_none(), "{word} in {place}: {value:#}");
            }
            if let Some(members) = value.as_object() {
                members.iter().for_each(|(key, value)| walk(value, &format!("{place}.{key}")));
            }
        }
        walk(&version["schema"]["openAPIV3Schema"], "");
    }
}
