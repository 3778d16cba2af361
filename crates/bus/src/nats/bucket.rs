//! Key-value buckets, wire-compatible with `nats kv`: the last value per key, read from the leader and
//! changed by compare-and-set.

use async_nats::{HeaderMap, Request, header};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::api::{Api, ApiError, Get, read_answer};

/// A bucket of JSON values.
#[derive(Debug, Clone)]
pub(super) struct Bucket {
    api: Api,
    name: &'static str,
    replicas: usize,
}

/// What a key holds.
#[derive(Debug)]
pub(super) struct Record<T> {
    /// None when there is nothing, or nothing that this version can read.
    pub(super) value: Option<T>,
    /// To compare with; 0 when there never was anything.
    pub(super) revision: u64,
}

/// How a compare-and-set ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Put {
    /// Done; the new revision.
    Done(u64),
    /// Another was faster.
    Conflict,
}

impl Bucket {
    pub(super) fn new(api: Api, name: &'static str, replicas: usize) -> Self {
        Bucket { api, name, replicas }
    }

    /// Creates it unless it is there.
    pub(super) async fn ensure(&self) -> Result<(), ApiError> {
        let config = json!({
            "name": format!("KV_{}", self.name),
            "description": "Foghorn",
            "subjects": [format!("$KV.{}.>", self.name)],
            "retention": "limits",
            "storage": "file",
            "discard": "new",
            "num_replicas": self.replicas,
            "max_msgs_per_subject": 1,
            "max_msgs": -1,
            "max_bytes": -1,
            "max_consumers": -1,
            "allow_rollup_hdrs": true,
            "deny_delete": true,
            "allow_direct": true,
        });
        match self.api.call::<serde_json::Value>(&format!("STREAM.CREATE.KV_{}", self.name), &config).await {
            Ok(_) => Ok(()),
            // Somebody's own number of replicas, say: theirs stays.
            Err(error) if error.is_name_in_use() => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The subject that puts to any key go over.
    pub(super) fn subject(&self) -> String {
        format!("$KV.{}.>", self.name)
    }

    /// What the leader holds under `key`.
    pub(super) async fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Record<T>, ApiError> {
        let last_by_subject = Some(format!("$KV.{}.{key}", self.name));
        let get = Get { last_by_subject, ..Get::default() };
        Ok(match self.api.get(&format!("KV_{}", self.name), &get).await? {
            Some(message) => {
                Record { value: serde_json::from_slice(&message.data).ok(), revision: message.seq }
            }
            None => Record { value: None, revision: 0 },
        })
    }

    /// Sets `key` if it is still at `revision`. After an error it may have been set or not.
    pub(super) async fn put(
        &self,
        key: &str,
        value: &impl Serialize,
        revision: u64,
    ) -> Result<Put, ApiError> {
        #[derive(Deserialize)]
        struct Ack {
            seq: u64,
        }
        let body = serde_json::to_vec(value).map_err(|error| ApiError::Unreachable(error.to_string()))?;
        let mut headers = HeaderMap::new();
        headers.insert(header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, revision.to_string());
        let request = Request::new().headers(headers).payload(body.into());
        let answer = self.api.request(format!("$KV.{}.{key}", self.name), request).await?;
        match read_answer::<Ack>(&answer) {
            Ok(ack) => Ok(Put::Done(ack.seq)),
            Err(ApiError::Refused(refusal)) if refusal.is_conflict() => Ok(Put::Conflict),
            Err(error) => Err(error),
        }
    }
}
