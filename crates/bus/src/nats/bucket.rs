//! Key-value buckets, wire-compatible with `nats kv`: the last value per key, read from the leader and
//! changed by compare-and-set.

use async_nats::{HeaderMap, Request, header};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::api::{Api, ApiError, Get, read_ack};

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
    /// Whether there is nothing: there never was, or it was deleted.
    pub(super) absent: bool,
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
        ensure(&self.api, self.name, self.replicas, Room::default()).await
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
                let absent = is_marker(&message.hdrs);
                let value = if absent { None } else { serde_json::from_slice(&message.data).ok() };
                Record { value, revision: message.seq, absent }
            }
            None => Record { value: None, revision: 0, absent: true },
        })
    }

    /// Sets `key` if it is still at `revision`. After an error it may have been set or not.
    pub(super) async fn put(
        &self,
        key: &str,
        value: &impl Serialize,
        revision: u64,
    ) -> Result<Put, ApiError> {
        let body = serde_json::to_vec(value).map_err(|error| ApiError::Unreachable(error.to_string()))?;
        let mut headers = HeaderMap::new();
        headers.insert(header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, revision.to_string());
        let request = Request::new().headers(headers).payload(body.into());
        let answer = self.api.request(format!("$KV.{}.{key}", self.name), request).await?;
        match read_ack(&answer) {
            Ok(seq) => Ok(Put::Done(seq)),
            Err(ApiError::Refused(refusal)) if refusal.is_conflict() => Ok(Put::Conflict),
            Err(error) => Err(error),
        }
    }
}

/// What a bucket may hold; by default as much as there is room for.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Room {
    pub(super) records: Option<usize>,
    pub(super) bytes: Option<usize>,
    /// Whether records may end by themselves (`Nats-TTL`).
    pub(super) ends: bool,
}

/// Creates a bucket unless it is there.
pub(super) async fn ensure(api: &Api, name: &str, replicas: usize, room: Room) -> Result<(), ApiError> {
    let bound = |most: Option<usize>| most.map_or(json!(-1), |most| json!(most));
    let config = json!({
        "name": format!("KV_{name}"),
        "description": "Foghorn",
        "subjects": [format!("$KV.{name}.>")],
        "retention": "limits",
        "storage": "file",
        "discard": "new",
        "num_replicas": replicas,
        "max_msgs_per_subject": 1,
        "max_msgs": bound(room.records),
        "max_bytes": bound(room.bytes),
        "max_consumers": -1,
        "allow_rollup_hdrs": true,
        "deny_delete": true,
        "allow_direct": true,
        "allow_msg_ttl": room.ends,
    });
    match api.call::<serde_json::Value>(&format!("STREAM.CREATE.KV_{name}"), &config).await {
        Ok(_) => Ok(()),
        // Somebody's own number of replicas, say: theirs stays.
        Err(error) if error.is_name_in_use() => Ok(()),
        Err(error) => Err(error),
    }
}

/// Whether a message with these headers says that its key was deleted, by `nats kv del` or `purge` or by
/// the server.
pub(super) fn is_marker(headers: &[u8]) -> bool {
    String::from_utf8_lossy(headers).lines().filter_map(|line| line.split_once(':')).any(|(name, value)| {
        match name {
            "KV-Operation" => matches!(value.trim(), "DEL" | "PURGE"),
            "Nats-Marker-Reason" => true,
            _ => false,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deleted_keys_are_told_from_unreadable_ones() {
        assert!(is_marker(b"NATS/1.0\r\nKV-Operation: DEL\r\n\r\n"));
        assert!(is_marker(b"NATS/1.0\r\nKV-Operation: PURGE\r\nNats-Rollup: sub\r\n\r\n"));
        assert!(is_marker(b"NATS/1.0\r\nNats-Marker-Reason: MaxAge\r\n\r\n"));
        assert!(!is_marker(b"NATS/1.0\r\nNats-Expected-Last-Subject-Sequence: 0\r\n\r\n"));
        assert!(!is_marker(b"NATS/1.0\r\nKV-Operation: PUT\r\n\r\n"));
        assert!(!is_marker(b""));
    }
}
