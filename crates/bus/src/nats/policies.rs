//! The cluster's policies in a key-value bucket: one document under one key, so that they change together. Services
//! read it, whoever operates them writes it.
//!
//! Looked at, and not subscribed to, for the same reasons as revocations.

use async_nats::{HeaderMap, Request, header};
use serde_json::json;

use super::api::{Api, ApiError, Get, read_ack};
use super::bucket::{self, Room, is_marker};
use super::revocations::RecordError;
use super::setup::patiently;
use super::stream::Info;
use super::{Bus, BusError};
use crate::policies::{DOCUMENT_BYTES_MAX, Document};

/// Of this name.
pub const POLICIES_BUCKET: &str = "FOGHORN_policies";
const STREAM: &str = "KV_FOGHORN_policies";
const SUBJECT: &str = "$KV.FOGHORN_policies.policies";
/// The document, the next one, and the little beside them.
const BYTES_MAX: usize = 4 * DOCUMENT_BYTES_MAX;

/// The bucket. Cheap to clone.
#[derive(Debug, Clone)]
pub struct NatsPolicies {
    api: Api,
    replicas: usize,
}

/// What a process saw last, to see whether there is something else.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SeenPolicies(Option<(String, u64)>);

/// What the bucket has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoredPolicies {
    /// Nothing: no bucket, or nobody has written to it.
    Nothing,
    /// No document any more: it was withdrawn.
    Withdrawn,
    /// A document.
    Document {
        /// Which; they rise.
        revision: u64,
        /// As it was written, by whoever may.
        bytes: Vec<u8>,
    },
}

/// How writing ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WrittenPolicies {
    /// Done; the revision.
    Done(u64),
    /// Another has written since what was compared with.
    Conflict,
}

impl NatsPolicies {
    pub(super) fn new(bus: &Bus) -> Self {
        NatsPolicies { api: bus.0.api.clone(), replicas: bus.0.options.replicas }
    }

    /// Makes the bucket if it isn't there: for whoever writes. Waits until JetStream answers.
    pub(super) async fn ensure(&self, bus: &Bus) -> Result<(), BusError> {
        patiently("set up the bucket of policies", &bus.0.metrics, || self.make()).await
    }

    async fn make(&self) -> Result<(), ApiError> {
        let room = Room { records: Some(1), bytes: Some(BYTES_MAX), ends: false };
        bucket::ensure(&self.api, POLICIES_BUCKET, self.replicas, room).await
    }

    /// What the bucket has, unless that was `seen` already.
    pub async fn look(&self, seen: &mut SeenPolicies) -> Result<Option<StoredPolicies>, RecordError> {
        let info = self.api.call::<Info>(&format!("STREAM.INFO.{STREAM}"), &json!({})).await;
        let now = match info {
            Ok(info) => (info.created.clone(), info.last()),
            // As one that is empty.
            Err(error) if error.is_no_stream() => (String::new(), 0),
            Err(error) => return Err(error.into()),
        };
        if seen.0.as_ref() == Some(&now) {
            return Ok(None);
        }
        let found = if now.1 == 0 { StoredPolicies::Nothing } else { self.get().await?.0 };
        seen.0 = Some(now);
        Ok(Some(found))
    }

    /// What the bucket has, and the revision to compare with when it is written.
    pub async fn get(&self) -> Result<(StoredPolicies, u64), RecordError> {
        let get = Get { last_by_subject: Some(SUBJECT.to_owned()), ..Get::default() };
        let message = match self.api.get(STREAM, &get).await {
            Err(error) if error.is_no_stream() => None,
            message => message?,
        };
        Ok(match message {
            None => (StoredPolicies::Nothing, 0),
            Some(message) if is_marker(&message.hdrs) => (StoredPolicies::Withdrawn, message.seq),
            Some(message) => {
                (StoredPolicies::Document { revision: message.seq, bytes: message.data }, message.seq)
            }
        })
    }

    /// Writes a document if the bucket is still at `revision`. After an error it may have been written or not.
    pub async fn put(&self, document: &Document, revision: u64) -> Result<WrittenPolicies, RecordError> {
        self.write(HeaderMap::new(), document.to_bytes(), revision).await
    }

    /// Takes the document away, likewise: what processes are configured with holds again.
    pub async fn withdraw(&self, revision: u64) -> Result<WrittenPolicies, RecordError> {
        let mut headers = HeaderMap::new();
        headers.insert("KV-Operation", "DEL");
        self.write(headers, Vec::new(), revision).await
    }

    async fn write(
        &self,
        mut headers: HeaderMap,
        bytes: Vec<u8>,
        revision: u64,
    ) -> Result<WrittenPolicies, RecordError> {
        if revision == 0 {
            // Perhaps there is no bucket any more.
            self.make().await?;
        }
        headers.insert(header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, revision.to_string());
        let request = Request::new().headers(headers).payload(bytes.into());
        let answer = self.api.request(SUBJECT.to_owned(), request).await?;
        match read_ack(&answer) {
            Ok(seq) => Ok(WrittenPolicies::Done(seq)),
            Err(ApiError::Refused(refusal)) if refusal.is_conflict() => Ok(WrittenPolicies::Conflict),
            Err(error) => Err(error.into()),
        }
    }
}
