//! The HTTP door: `POST /api/publish`, and the JSON that the NATS door answers with too.
//!
//! One object is answered with its result, or with a problem and its status. An array, or an object with
//! `channels`, is answered with `200` and an array: per event and channel, in order, its result or
//! `{"error": problem}`; the good ones are published whatever becomes of the others. A request that can't
//! be read at all is a problem, and nothing of it is published.

use std::fmt::Display;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use foghorn_auth::Requester;
use foghorn_core::trace::TraceContext;
use foghorn_http::body::{BodyRoom, json, read_json};
use foghorn_http::client::{AddressLimiter, Proxies};
use foghorn_http::problem::Problem;
use foghorn_http::query::bad_value;
use foghorn_http::{Handler, Response};
use foghorn_telemetry::traces::carried;
use futures::stream::{self, StreamExt as _};
use http::{HeaderMap, Method, Request, StatusCode};
use hyper::body::{Body, Incoming};
use serde::Serialize;
use serde_json::Value;

use crate::error::PublishError;
use crate::json::{Asked, read};
use crate::pipeline::{Answer, Pipeline};
use crate::publish::{Door, Published, Publisher};
use crate::room::{RequestRoom, bytes_of};

/// Events of a request that may be asked about at a time.
pub(crate) const CHECKED_AT_A_TIME: usize = 16;

/// Where it is served.
pub const PATH: &str = "/api/publish";

/// Answers `POST /api/publish`, and that there is nothing else.
pub struct PublishHandler {
    publisher: Arc<Publisher>,
    addresses: AddressLimiter,
}

/// What a request takes of the room for all events being published, from its first byte on.
struct Intake<'a> {
    publisher: &'a Publisher,
    room: RequestRoom,
}

/// An event's result as JSON.
#[derive(Debug, Serialize)]
struct Answered<'a> {
    position: JsonPosition,
    id: Option<&'a str>,
    duplicate: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    durable: Option<bool>,
}

#[derive(Debug, Serialize)]
struct JsonPosition {
    shard: u8,
    epoch: u64,
    seq: u64,
}

impl PublishHandler {
    /// Publishes with `publisher`, for each client address as often as its configuration says; who they are,
    /// `proxies` say.
    pub fn new(publisher: Arc<Publisher>, proxies: Proxies) -> Self {
        let addresses = AddressLimiter::new(proxies, publisher.config.address_rate());
        PublishHandler { publisher, addresses }
    }

    /// Counts a request of an address.
    fn check_address(&self, peer: SocketAddr, headers: &HeaderMap) -> Result<(), Problem> {
        let checked = self.addresses.check(peer, headers);
        checked.map_err(|exceeded| {
            refuse(&self.publisher, &PublishError::limited("fanout.address_per_minute", exceeded))
        })
    }

    async fn answer<B>(&self, request: Request<B>, peer: SocketAddr) -> Result<Response, Problem>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Display,
    {
        if request.uri().path() != PATH {
            return Err(Problem::not_found(request.uri().path()));
        }
        if request.method() != Method::POST {
            return Err(Problem::method("POST"));
        }
        if request.uri().query().is_some_and(|query| !query.is_empty()) {
            return Err(bad_value("query", "isn't read here; everything goes into the JSON body"));
        }
        self.publisher.check_open().map_err(|error| refuse(&self.publisher, &error))?;
        // Before the body: who may not publish can't have it read either.
        let (auth, headers) = (&self.publisher.auth, request.headers());
        let caller = auth.patiently(|| auth.caller(headers, None)).await;
        let caller = caller.map_err(|why| refuse(&self.publisher, &why.into()))?;
        self.publisher.check_may(&caller).map_err(|error| refuse(&self.publisher, &error))?;
        let client = self.addresses.client(peer, headers);
        let context = auth.context(headers, client);
        let by = Requester::new(caller, context);
        let trace = carried(request.headers());
        let mut intake = Intake { publisher: &self.publisher, room: self.publisher.growing_room(client) };
        let body = read_json(request, self.publisher.config.body_bytes, &mut intake).await?;
        self.publish(&by, body, trace, intake.room).await.map_err(|error| error.to_problem())
    }

    /// Publishes a body, which has its room already. An error is about all of it, or about the only event.
    async fn publish(
        &self,
        by: &Requester,
        body: Vec<u8>,
        trace: Option<TraceContext>,
        mut room: RequestRoom,
    ) -> Result<Response, PublishError> {
        let refused = |error: &PublishError| self.publisher.refused(Door::Http, error);
        let requested = read(&body, self.publisher.config.batch_events, trace).inspect_err(refused)?;
        // The events have copies of what they need.
        drop(body);
        self.publisher.check_rate(&by.caller, requested.events.len()).inspect_err(refused)?;
        room.grow(bytes_of(requested.events.len(), 0)).await.inspect_err(refused)?;
        let checked = stream::iter(requested.events).map(|Asked { index, input }| async move {
            let checked = match input {
                Ok(input) => self.publisher.check(Door::Http, by, input).await,
                Err(error) => {
                    self.publisher.refused(Door::Http, &error);
                    Err(error)
                }
            };
            (index, checked)
        });
        let (indices, events): (Vec<usize>, Vec<_>) = checked.buffered(CHECKED_AT_A_TIME).unzip().await;
        let answers = Pipeline::run(self.publisher.clone(), Door::Http, events).await;
        if requested.several {
            let answers = indices.into_iter().zip(&answers);
            let values: Vec<Value> = answers.map(|(index, answer)| element(index, answer)).collect();
            return Ok(json(StatusCode::OK, &values));
        }
        match answers.into_iter().next() {
            Some(answer) => answer.map(|published| json(StatusCode::OK, &Answered::new(&published))),
            None => Err(PublishError::invalid("bad-event", "there is no event in the body")),
        }
    }
}

impl BodyRoom for Intake<'_> {
    async fn grow(&mut self, bytes: usize) -> Result<(), Problem> {
        self.room.grow(bytes).await.map_err(|error| refuse(self.publisher, &error))
    }
}

impl Handler for PublishHandler {
    fn handle(
        &self,
        request: Request<Incoming>,
        peer: SocketAddr,
    ) -> Pin<Box<dyn Future<Output = Response> + Send + '_>> {
        Box::pin(async move {
            let answered = match self.check_address(peer, request.headers()) {
                Ok(()) => self.answer(request, peer).await,
                Err(problem) => Err(problem),
            };
            answered.unwrap_or_else(Problem::into_response)
        })
    }
}

impl<'a> Answered<'a> {
    fn new(published: &'a Published) -> Self {
        let position = published.position;
        Answered {
            position: JsonPosition {
                shard: position.shard.get(),
                epoch: position.epoch.get(),
                seq: position.seq,
            },
            id: published.id.as_ref().map(|id| id.as_str()),
            duplicate: published.duplicate,
            durable: published.durable,
        }
    }
}

fn refuse(publisher: &Publisher, error: &PublishError) -> Problem {
    publisher.refused(Door::Http, error);
    error.to_problem()
}

/// One element of an answer to several events. An error also says which element of the request it is
/// about.
fn element(index: usize, answer: &Answer) -> Value {
    match answer {
        Ok(published) => value(published),
        Err(error) => serde_json::json!({ "error": error.to_problem().member("index", index).to_json() }),
    }
}

/// What one event is answered with: its result, or `{"error": problem}`.
pub(crate) fn single(answer: &Answer) -> Value {
    match answer {
        Ok(published) => value(published),
        Err(error) => serde_json::json!({ "error": error.to_problem().to_json() }),
    }
}

fn value(published: &Published) -> Value {
    // Numbers, strings and booleans: nothing that could fail.
    serde_json::to_value(Answered::new(published)).unwrap_or_default()
}

#[cfg(test)]
mod tests;
