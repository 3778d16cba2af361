//! Tickets in a key-value bucket. Each record ends by itself, and spending one is a compare-and-set: of all that
//! try, one wins. Beside them lies the secret that all gateways seal with, made by the first.

use std::time::Duration;

use async_nats::{HeaderMap, Request, header};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use futures::FutureExt as _;

use super::api::{Api, ApiError, Get, read_ack};
use super::bucket::{self, Room, is_marker};
use super::setup::patiently;
use super::{Bus, BusError};
use crate::Future;
use crate::tickets::{TICKETS_BYTES_MAX, TicketError, TicketId, Tickets, Waiting};

const BUCKET: &str = "FOGHORN_tickets";
const STREAM: &str = "KV_FOGHORN_tickets";
/// What a ticket's subject begins with; its digest follows in base64url.
const PREFIX: &str = "$KV.FOGHORN_tickets.ticket.";
/// Where the secret lies, in base64.
const SECRET: &str = "$KV.FOGHORN_tickets.secret";
/// How long it is remembered that a ticket was spent. Nothing depends on it: without a record there is no ticket.
const SPENT_TTL: &str = "1s";

/// The bucket. Cheap to clone.
#[derive(Debug, Clone)]
pub struct NatsTickets {
    api: Api,
    replicas: usize,
    most: usize,
    secret: [u8; 32],
}

impl NatsTickets {
    /// The bucket, of at most so many tickets; made if it isn't there. Waits until JetStream answers.
    pub(super) async fn open(bus: &Bus, most: usize) -> Result<Self, BusError> {
        let (api, replicas) = (bus.0.api.clone(), bus.0.options.replicas);
        let tickets = NatsTickets { api, replicas, most, secret: rand::random() };
        let secret = patiently("set up the bucket of tickets", &bus.0.metrics, || async {
            tickets.ensure().await?;
            tickets.agree().await
        });
        let secret = secret.await?;
        Ok(NatsTickets { secret, ..tickets })
    }

    /// What all gateways of the cluster seal with.
    pub fn secret(&self) -> &[u8; 32] {
        &self.secret
    }

    async fn ensure(&self) -> Result<(), ApiError> {
        // And the secret.
        let room = Room { records: Some(self.most + 1), bytes: Some(TICKETS_BYTES_MAX), ends: true };
        bucket::ensure(&self.api, BUCKET, self.replicas, room).await
    }

    /// The secret that is there, or ours as the first.
    async fn agree(&self) -> Result<[u8; 32], ApiError> {
        let get = Get { last_by_subject: Some(SECRET.to_owned()), ..Get::default() };
        if let Some(message) = self.api.get(STREAM, &get).await? {
            let secret = STANDARD.decode(&message.data).ok().and_then(|bytes| bytes.try_into().ok());
            return secret.ok_or_else(|| ApiError::Unreachable(format!("{SECRET} is no secret; delete it")));
        }
        let ours = STANDARD.encode(self.secret);
        match self.put(SECRET.to_owned(), ours.into(), 0, &[]).await {
            Ok(()) => Ok(self.secret),
            // Another was first; what it set may not be there to read yet.
            Err(ApiError::Refused(refusal)) if refusal.is_conflict() => {
                Err(ApiError::Unreachable("another process is setting the secret".to_owned()))
            }
            Err(error) => Err(error),
        }
    }

    /// Sets a subject if it is still at `revision`.
    async fn put(
        &self,
        subject: String,
        value: Bytes,
        revision: u64,
        more: &[(&'static str, &str)],
    ) -> Result<(), ApiError> {
        let mut headers = HeaderMap::new();
        headers.insert(header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, revision.to_string());
        for (name, value) in more {
            headers.insert(*name, *value);
        }
        let request = Request::new().headers(headers).payload(value);
        read_ack(&self.api.request(subject, request).await?).map(|_| ())
    }

    async fn keep_now(&self, id: TicketId, value: Bytes, ttl: Duration) -> Result<(), TicketError> {
        // Whole seconds, and none would be for ever.
        let ttl = format!("{}s", ttl.as_millis().div_ceil(1000).max(1));
        let more = [("Nats-TTL", ttl.as_str())];
        let put = || self.put(subject(&id), value.clone(), 0, &more);
        match put().await {
            // The bucket was lost. What is sealed is sealed with our secret, so whoever comes next is to have it.
            Err(ApiError::Unreachable(_)) if self.is_lost().await => {
                self.ensure().await?;
                self.agree().await?;
                Ok(put().await?)
            }
            done => Ok(done?),
        }
    }

    async fn is_lost(&self) -> bool {
        let get = Get { last_by_subject: Some(SECRET.to_owned()), ..Get::default() };
        matches!(self.api.get(STREAM, &get).await, Err(error) if error.is_no_stream())
    }

    async fn find_now(&self, id: TicketId) -> Result<Option<Waiting>, TicketError> {
        let get = Get { last_by_subject: Some(subject(&id)), ..Get::default() };
        match self.api.get(STREAM, &get).await {
            Err(error) if error.is_no_stream() => Ok(None),
            found => Ok(found?
                .filter(|message| !is_marker(&message.hdrs))
                .map(|message| Waiting { value: message.data.into(), revision: message.seq })),
        }
    }

    async fn spend_now(&self, id: TicketId, revision: u64) -> Result<bool, TicketError> {
        let marker = [("KV-Operation", "DEL"), ("Nats-TTL", SPENT_TTL)];
        match self.put(subject(&id), Bytes::new(), revision, &marker).await {
            Ok(()) => Ok(true),
            Err(ApiError::Refused(refusal)) if refusal.is_conflict() => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

impl Tickets for NatsTickets {
    fn keep(&self, id: TicketId, value: Bytes, ttl: Duration) -> Future<'_, Result<(), TicketError>> {
        self.keep_now(id, value, ttl).boxed()
    }

    fn find(&self, id: TicketId) -> Future<'_, Result<Option<Waiting>, TicketError>> {
        self.find_now(id).boxed()
    }

    fn spend(&self, id: TicketId, revision: u64) -> Future<'_, Result<bool, TicketError>> {
        self.spend_now(id, revision).boxed()
    }
}

impl From<ApiError> for TicketError {
    fn from(error: ApiError) -> Self {
        match error {
            ApiError::Refused(refusal) if refusal.is_full() => TicketError::Full,
            error => TicketError::Unavailable(error.to_string()),
        }
    }
}

fn subject(id: &TicketId) -> String {
    format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(id))
}
