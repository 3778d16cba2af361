//! Revocations in a key-value bucket: every process reads what was put since it last looked, and all of it at
//! its start. Each record ends by itself.
//!
//! Looked at, and not subscribed to: a look that fails is tried again, and one that succeeds has seen
//! everything, whatever connections were lost in between.

use std::time::Duration;

use async_nats::{HeaderMap, Request};
use serde_json::json;

use super::api::{Api, ApiError, Get, read_ack};
use super::bucket::{self, Room, is_marker};
use super::setup::patiently;
use super::stream::Info;
use super::{Bus, BusError};

const BUCKET: &str = "FOGHORN_revocations";
const STREAM: &str = "KV_FOGHORN_revocations";
const SUBJECTS: &str = "$KV.FOGHORN_revocations.>";
const PREFIX: &str = "$KV.FOGHORN_revocations.";
/// Most records that one look reads.
const LOOK_RECORDS: usize = 1000;

/// The bucket. Cheap to clone.
#[derive(Debug, Clone)]
pub struct NatsRevocations {
    api: Api,
    replicas: usize,
    most: usize,
}

/// How far a process has read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// When the bucket was made: another one begins anew.
    created: String,
    seq: u64,
}

/// What a look found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Look {
    /// Keys and values that were put.
    pub records: Vec<(String, Vec<u8>)>,
    /// Whether there are more.
    pub more: bool,
    /// Whether the bucket is another than that of the last look: what was in that one is not in this.
    pub is_another: bool,
}

/// Why a record was not put, or none were read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// There are as many as may be.
    #[error("the bucket is full")]
    Full,
    /// No answer, or none that helps.
    #[error("{0}")]
    Unavailable(String),
}

impl NatsRevocations {
    /// The bucket, of at most so many records; made if it isn't there. Waits until JetStream answers.
    pub(super) async fn open(bus: &Bus, most: usize) -> Result<Self, BusError> {
        let records = NatsRevocations { api: bus.0.api.clone(), replicas: bus.0.options.replicas, most };
        patiently("set up the bucket of revocations", &bus.0.metrics, || records.ensure()).await?;
        Ok(records)
    }

    async fn ensure(&self) -> Result<(), ApiError> {
        let room = Room { records: Some(self.most), bytes: None, ends: true };
        bucket::ensure(&self.api, BUCKET, self.replicas, room).await
    }

    /// Puts a record that ends by itself after `ttl`. The key is made of `[A-Za-z0-9.-]`. After
    /// [`RecordError::Unavailable`] it may have been put or not.
    pub async fn put(&self, key: &str, value: String, ttl: Duration) -> Result<(), RecordError> {
        let mut headers = HeaderMap::new();
        // Whole seconds, and none would be for ever.
        headers.insert("Nats-TTL", format!("{}s", ttl.as_secs() + 1));
        let request = Request::new().headers(headers).payload(value.into());
        let answer = self.api.request(format!("{PREFIX}{key}"), request).await?;
        read_ack(&answer).map(|_| ()).map_err(RecordError::from)
    }

    /// What was put since `seen`, which is moved on.
    pub async fn look(&self, seen: &mut Seen) -> Result<Look, RecordError> {
        let info = match self.info().await {
            Err(error) if error.is_no_stream() => {
                self.ensure().await?;
                self.info().await?
            }
            info => info?,
        };
        let mut look = Look::default();
        if info.created != seen.created {
            look.is_another = !seen.created.is_empty();
            *seen = Seen { created: info.created.clone(), seq: 0 };
        }
        while seen.seq < info.last() {
            if look.records.len() == LOOK_RECORDS {
                look.more = true;
                break;
            }
            let get = Get { seq: Some(seen.seq + 1), next_by_subject: Some(SUBJECTS), ..Get::default() };
            let Some(message) = self.api.get(STREAM, &get).await? else {
                seen.seq = info.last();
                break;
            };
            seen.seq = message.seq;
            if let Some(key) = message.subject.strip_prefix(PREFIX).filter(|_| !is_marker(&message.hdrs)) {
                look.records.push((key.to_owned(), message.data));
            }
        }
        Ok(look)
    }

    async fn info(&self) -> Result<Info, ApiError> {
        self.api.call(&format!("STREAM.INFO.{STREAM}"), &json!({})).await
    }
}

impl From<ApiError> for RecordError {
    fn from(error: ApiError) -> Self {
        match error {
            ApiError::Refused(refusal) if refusal.is_full() => RecordError::Full,
            error => RecordError::Unavailable(error.to_string()),
        }
    }
}
