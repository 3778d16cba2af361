//! Changed subscriptions in a key-value bucket. Each record ends by itself unless it is written again.

use std::time::Duration;

use async_nats::{HeaderMap, Request};
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
use crate::subscriptions::{SUBSCRIPTIONS_BYTES_MAX, SubscriptionError, Subscriptions};

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

    async fn put(&self, id: SubscriptionId, value: Bytes, ttl: &str) -> Result<(), ApiError> {
        let mut headers = HeaderMap::new();
        headers.insert("Nats-TTL", ttl);
        let request = Request::new().headers(headers).payload(value);
        read_ack(&self.api.request(subject(id), request).await?).map(|_| ())
    }

    async fn keep_now(
        &self,
        id: SubscriptionId,
        value: Bytes,
        ttl: Duration,
    ) -> Result<(), SubscriptionError> {
        // Whole seconds, and none would be for ever.
        let ttl = format!("{}s", ttl.as_millis().div_ceil(1000).max(1));
        match self.put(id, value.clone(), &ttl).await {
            Err(ApiError::Unreachable(_)) if self.is_lost().await => {
                self.ensure().await?;
                Ok(self.put(id, value, &ttl).await?)
            }
            done => Ok(done?),
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
    ) -> Future<'_, Result<(), SubscriptionError>> {
        self.keep_now(id, value, ttl).boxed()
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
