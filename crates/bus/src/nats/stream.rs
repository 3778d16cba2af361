//! The journal's streams: their names, their settings, and that nobody changes those under us.

use serde::Deserialize;
use serde_json::{Value, json};

use foghorn_core::shard::Shard;
use foghorn_core::time::Timestamp;

use super::BusError;
use super::api::{Api, ApiError};
use super::connect::NatsOptions;
use crate::journal::Size;

/// The stream of a shard.
pub(super) fn name(shard: Shard) -> String {
    format!("FOGHORN_{shard}")
}

/// What a shard's subjects begin with; the channel follows.
pub(super) fn subject_prefix(shard: Shard) -> String {
    format!("foghorn.journal.{shard}.")
}

/// What the leader says about a stream.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Info {
    /// When it was made, to the nanosecond: tells a stream from another that took its name.
    pub(super) created: String,
    config: Value,
    state: State,
}

#[derive(Debug, Clone, Deserialize)]
struct State {
    messages: u64,
    bytes: u64,
    first_seq: u64,
    last_seq: u64,
    last_ts: String,
}

impl Info {
    /// The first seq there is, `last + 1` when there is none.
    pub(super) fn first(&self) -> u64 {
        if self.state.messages == 0 { self.state.last_seq + 1 } else { self.state.first_seq }
    }

    /// What it holds of what it may hold.
    pub(super) fn size(&self) -> Size {
        // -1 for no bound.
        Size { bytes: self.state.bytes, most: self.config.get("max_bytes").and_then(Value::as_u64) }
    }

    /// The last seq given out.
    pub(super) fn last(&self) -> u64 {
        self.state.last_seq
    }

    /// When the last message was taken; none when there is none.
    pub(super) fn last_time(&self) -> Option<Timestamp> {
        if self.state.messages == 0 { None } else { self.state.last_ts.parse().ok() }
    }

    /// An error for a setting with which events could be lost or seqs mean something else.
    fn verify(&self, stream: &str, wanted: &Value) -> Result<(), BusError> {
        // What the server leaves out is off.
        const CONTRACT: [(&str, bool); 17] = [
            ("subjects", true),
            ("retention", true),
            ("storage", true),
            ("discard", true),
            ("max_age", true),
            ("max_msgs", true),
            ("max_msgs_per_subject", true),
            ("max_msg_size", true),
            ("allow_rollup_hdrs", false),
            ("allow_msg_ttl", false),
            ("allow_msg_counter", false),
            ("allow_msg_schedules", false),
            ("allow_direct", false),
            ("no_ack", false),
            ("sealed", false),
            ("deny_purge", false),
            ("subject_transform", false),
        ];
        for (setting, always) in CONTRACT {
            let off = if always { Value::Null } else { Value::Bool(false) };
            let found = self.config.get(setting).unwrap_or(&off);
            let wanted = wanted.get(setting).unwrap_or(&Value::Bool(false));
            if found != wanted {
                let (found, wanted) = (found.to_string(), wanted.to_string());
                return Err(BusError::Stream { stream: stream.to_owned(), setting, found, wanted });
            }
        }
        for (setting, bad) in
            [("mirror", Value::Null), ("sources", Value::Null), ("persist_mode", json!("default"))]
        {
            if let Some(found) = self.config.get(setting).filter(|found| **found != bad) {
                let (found, wanted) = (found.to_string(), bad.to_string());
                return Err(BusError::Stream { stream: stream.to_owned(), setting, found, wanted });
            }
        }
        Ok(())
    }
}

/// Settings of a shard's stream.
fn wanted(shard: Shard, options: &NatsOptions) -> Value {
    json!({
        "name": name(shard),
        "description": "Foghorn: the journal of a shard",
        "subjects": [format!("{}>", subject_prefix(shard))],
        "retention": "limits",
        "storage": "file",
        "num_replicas": options.replicas,
        // At the bound publishing is refused; nothing is dropped that the log doesn't have yet.
        "discard": "new",
        "max_bytes": options.journal_bytes,
        "max_age": 0,
        "max_msgs": -1,
        "max_msgs_per_subject": -1,
        "max_msg_size": -1,
        "max_consumers": -1,
        "duplicate_window": u64::try_from(options.dedupe_window.as_nanos()).unwrap_or(u64::MAX),
        "allow_direct": true,
        "allow_rollup_hdrs": false,
    })
}

/// What the leader says now.
pub(super) async fn info(api: &Api, shard: Shard) -> Result<Info, ApiError> {
    api.call(&format!("STREAM.INFO.{}", name(shard)), &json!({})).await
}

/// What the leader says, of a stream that is created if it isn't there.
pub(super) async fn ensure(api: &Api, shard: Shard, options: &NatsOptions) -> Result<Info, ApiError> {
    match info(api, shard).await {
        Err(error) if error.is_no_stream() => {
            let created: Info =
                api.call(&format!("STREAM.CREATE.{}", name(shard)), &wanted(shard, options)).await?;
            tracing::info!(stream = name(shard), "created the journal's stream");
            Ok(created)
        }
        answer => answer,
    }
}

/// Verifies the settings that matter, and raises those which may grow.
pub(super) async fn verify(
    api: &Api,
    shard: Shard,
    options: &NatsOptions,
    info: &Info,
) -> Result<(), BusError> {
    let (name, wanted) = (name(shard), wanted(shard, options));
    info.verify(&name, &wanted)?;
    let mut raised = info.config.clone();
    for setting in ["max_bytes", "num_replicas"] {
        let number = |config: &Value| config.get(setting).and_then(Value::as_i64).unwrap_or(-1);
        let (found, ours) = (number(&info.config), number(&wanted));
        // Unlimited is -1. Only upwards, or two services configured differently would undo each other.
        if found == ours {
            continue;
        }
        if found != -1 && ours > found {
            raised[setting] = json!(ours);
        } else {
            tracing::warn!(
                stream = name,
                setting,
                found,
                configured = ours,
                "the stream's setting stays as it is"
            );
        }
    }
    if raised != info.config {
        match api.call::<Info>(&format!("STREAM.UPDATE.{name}"), &raised).await {
            Ok(_) => tracing::info!(stream = name, "raised the stream's bounds to what is configured"),
            Err(error) => tracing::warn!(stream = name, %error, "the stream's bounds can't be raised"),
        }
    }
    Ok(())
}
