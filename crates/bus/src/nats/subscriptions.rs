//! Changed subscriptions in a key-value bucket. Each record ends by itself unless it is written again.

use std::time::Duration;

use async_nats::{HeaderMap, Request, header};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use futures::FutureExt as _;

use foghorn_core::cursor::SubscriptionId;

use super::api::{Api, ApiError, Get, read_ack};
use super::bucket::{self, Room, is_marker};
use super::setup::patiently;
use super::{Bus, BusError};
use crate::Future;
use crate::subscriptions::{Revision, SUBSCRIPTIONS_BYTES_MAX, SubscriptionError, Subscriptions, Written};

const BUCKET: &str = "FOGHORN_subscriptions";
const STREAM: &str = "KV_FOGHORN_subscriptions";
/// What a subscription's subject begins with; its id follows in base64url, as a cursor has it.
const PREFIX: &str = "$KV.FOGHORN_subscriptions.";

/// The bucket. Cheap to clone.
#[derive(Debug, Clone)]
pub struct NatsSubscriptions {
    api: Api,
    replicas: usize,
    most: usize,
}

/// What is written.
struct Record {
    id: SubscriptionId,
    value: Bytes,
    ttl: Duration,
}

impl NatsSubscriptions {
    /// The bucket, of at most so many; made if it isn't there. Waits until JetStream answers.
    pub(super) async fn open(bus: &Bus, most: usize) -> Result<Self, BusError> {
        let (api, replicas) = (bus.0.api.clone(), bus.0.options.replicas);
        let kept = NatsSubscriptions { api, replicas, most };
        patiently("set up the bucket of subscriptions", &bus.0.metrics, || kept.ensure()).await?;
        Ok(kept)
    }

    async fn ensure(&self) -> Result<(), ApiError> {
        let room = Room { records: Some(self.most), bytes: Some(SUBSCRIPTIONS_BYTES_MAX), ends: true };
        bucket::ensure(&self.api, BUCKET, self.replicas, room).await
    }

    /// Where the record's last write was `last` (0: there is none), or whatever it was.
    async fn put(&self, record: &Record, last: Option<u64>) -> Result<u64, ApiError> {
        let mut headers = HeaderMap::new();
        // Whole seconds, and none would be for ever.
        headers.insert("Nats-TTL", format!("{}s", record.ttl.as_millis().div_ceil(1000).max(1)));
        if let Some(last) = last {
            headers.insert(header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, last.to_string());
        }
        let request = Request::new().headers(headers).payload(record.value.clone());
        read_ack(&self.api.request(subject(record.id), request).await?)
    }

    async fn write(&self, record: &Record, last: u64) -> Result<Written, ApiError> {
        let written = |revision, alone| Written { revision: Revision(revision), alone };
        match self.put(record, Some(last)).await {
            Err(ApiError::Refused(refusal)) if refusal.is_conflict() => {
                Ok(written(self.put(record, None).await?, false))
            }
            done => Ok(written(done?, true)),
        }
    }

    async fn keep_now(&self, record: Record, last: u64) -> Result<Written, SubscriptionError> {
        match self.write(&record, last).await {
            Err(ApiError::Unreachable(_)) if self.is_lost().await => {
                self.ensure().await?;
                Ok(self.write(&record, 0).await?)
            }
            done => Ok(done?),
        }
    }

    async fn shorten_now(&self, record: Record, last: u64) -> Result<(), SubscriptionError> {
        match self.put(&record, Some(last)).await {
            Err(ApiError::Refused(refusal)) if refusal.is_conflict() => Ok(()),
            done => Ok(done.map(|_| ())?),
        }
    }

    async fn is_lost(&self) -> bool {
        let get = Get { last_by_subject: Some(format!("{PREFIX}none")), ..Get::default() };
        matches!(self.api.get(STREAM, &get).await, Err(error) if error.is_no_stream())
    }

    async fn find_now(&self, id: SubscriptionId) -> Result<Option<Bytes>, SubscriptionError> {
        let get = Get { last_by_subject: Some(subject(id)), ..Get::default() };
        match self.api.get(STREAM, &get).await {
            Err(error) if error.is_no_stream() => Ok(None),
            found => {
                Ok(found?.filter(|message| !is_marker(&message.hdrs)).map(|message| message.data.into()))
            }
        }
    }
}

impl Subscriptions for NatsSubscriptions {
    fn keep(
        &self,
        id: SubscriptionId,
        value: Bytes,
        ttl: Duration,
        last: Option<Revision>,
    ) -> Future<'_, Result<Written, SubscriptionError>> {
        self.keep_now(Record { id, value, ttl }, last.map_or(0, |last| last.0)).boxed()
    }

    fn shorten(
        &self,
        id: SubscriptionId,
        value: Bytes,
        ttl: Duration,
        last: Revision,
    ) -> Future<'_, Result<(), SubscriptionError>> {
        self.shorten_now(Record { id, value, ttl }, last.0).boxed()
    }

    fn find(&self, id: SubscriptionId) -> Future<'_, Result<Option<Bytes>, SubscriptionError>> {
        self.find_now(id).boxed()
    }
}

impl From<ApiError> for SubscriptionError {
    fn from(error: ApiError) -> Self {
        match error {
            ApiError::Refused(refusal) if refusal.is_full() => SubscriptionError::Full,
            error => SubscriptionError::Unavailable(error.to_string()),
        }
    }
}

fn subject(id: SubscriptionId) -> String {
    format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(id.get().to_be_bytes()))
}
