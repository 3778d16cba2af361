//! The NATS door: requests on `foghorn.publish.<channel>`, answered with JSON, an event's result as over
//! HTTP or `{"error": problem}`.
//!
//! Requests are handled side by side, on this replica and on others: whoever needs order awaits each
//! answer, or uses a gRPC stream.

use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;
use foghorn_auth::Requester;
use foghorn_bus::nats::{NatsRequest, REQUEST_HEADERS, Requests};
use foghorn_core::event::Ttl;
use foghorn_core::secret::Secret;
use foghorn_core::trace::TraceContext;
use foghorn_http::hint::{near_match, shown};
use futures::stream::{FuturesUnordered, StreamExt as _};
use http::{HeaderMap, HeaderValue, header};

use crate::error::PublishError;
use crate::http::single;
use crate::pipeline::Answer;
use crate::publish::{Ack, Door, PublishInput, Publisher, Target};

/// The queue group in which all replicas take requests.
pub const GROUP: &str = "foghorn-fanout";

/// Answers publishers. As many at a time as [`Config::parallel_appends`](crate::config::Config) and the room for events
/// being published allow.
pub async fn serve(publisher: Arc<Publisher>, requests: Requests) {
    let most = publisher.config.parallel_appends;
    answer_all(&publisher, requests, most, |request| handle(&publisher, request)).await;
}

/// Answers `requests` until there are none any more. At shutdown it takes no new ones, and answers those that came already.
/// At most so many at a time; the rest wait in the bus's bounded queue.
pub(crate) async fn answer_all<F: Future<Output = ()>>(
    publisher: &Publisher,
    mut requests: Requests,
    most: usize,
    handle: impl Fn(NatsRequest) -> F,
) {
    let mut under_way = FuturesUnordered::new();
    let mut draining = false;
    loop {
        tokio::select! {
            request = requests.next(), if under_way.len() < most => match request {
                Some(request) => under_way.push(handle(request)),
                None => break,
            },
            Some(()) = under_way.next(), if !under_way.is_empty() => {}
            () = publisher.shutdown.wait(), if !draining => {
                draining = true;
                requests.drain();
            }
        }
    }
    while under_way.next().await.is_some() {}
}

async fn handle(publisher: &Publisher, request: NatsRequest) {
    let answer = answer(publisher, Request::from(&request)).await;
    if request.wants_answer() {
        request.respond(Bytes::from(single(&answer).to_string())).await;
    }
}

/// What a request says, as texts.
#[derive(Debug, Default)]
struct Request {
    channel: String,
    event: Option<String>,
    id: Option<String>,
    ttl: Option<String>,
    ack: Option<String>,
    traceparent: Option<TraceContext>,
    authorization: Option<Secret>,
    unknown_header: Option<String>,
    data: Bytes,
}

impl From<&NatsRequest> for Request {
    fn from(request: &NatsRequest) -> Self {
        Request {
            channel: request.channel.clone(),
            event: request.event_type.clone(),
            id: request.id.clone(),
            ttl: request.ttl.clone(),
            ack: request.ack.clone(),
            traceparent: request.traceparent,
            authorization: request.authorization.clone(),
            unknown_header: request.unknown_header.clone(),
            data: request.data.clone(),
        }
    }
}

impl Request {
    /// What of it a webhook may be told.
    fn forwardable(&self) -> HeaderMap {
        let value = self.authorization.as_ref().and_then(|value| HeaderValue::from_str(value.reveal()).ok());
        value.map(|value| (header::AUTHORIZATION, value)).into_iter().collect()
    }
}

/// Waits for room no longer than over HTTP: its sender would have given up before it is published.
async fn answer(publisher: &Publisher, request: Request) -> Answer {
    let refused = |error: &PublishError| publisher.refused(Door::Nats, error);
    let authorization = request.authorization.as_ref().map(Secret::reveal);
    let caller = publisher.auth.patiently(|| publisher.auth.caller_by(authorization)).await;
    let caller = caller.map_err(PublishError::from).inspect_err(refused)?;
    publisher.check_may(&caller).inspect_err(refused)?;
    publisher.check_rate(&caller, 1).inspect_err(refused)?;
    let _room = publisher.room(1, request.data.len()).await.inspect_err(refused)?;
    let context = publisher.auth.context(&request.forwardable(), None);
    let input = input(request).inspect_err(refused)?;
    publisher.publish(Door::Nats, &Requester::new(caller, context), input).await
}

fn input(request: Request) -> Result<PublishInput, PublishError> {
    // Passed over, a mistyped Foghorn-Id would double events, and nobody would know.
    if let Some(name) = &request.unknown_header {
        let hint = match near_match(name, REQUEST_HEADERS) {
            Some(near) => format!("did you mean {near}?"),
            None => format!("known are {}", REQUEST_HEADERS.join(", ")),
        };
        let name = shown(name);
        let what = format!("{name} is not a header of a publish request; {hint}");
        return Err(PublishError::invalid("bad-event", what).at(name));
    }
    Ok(PublishInput {
        target: Target::Channel(request.channel.into()),
        event: request.event.map(ByteString::from),
        data: request.data,
        id: request.id.map(ByteString::from),
        ttl: request.ttl.map(|text| Ttl::parse(&text)).transpose()?,
        ack: request.ack.map_or(Ok(Ack::default()), |name| Ack::parse(&name).map_err(|e| e.at("ack")))?,
        traceparent: request.traceparent,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::testing::bench;

    #[tokio::test(start_paused = true)]
    async fn a_full_house_refuses_a_request_before_its_sender_has_given_up() {
        let bench = bench(Config { inflight_bytes: 4 << 20, ..Config::default() });
        let all = bench.publisher.room(0, 4 << 20).await.unwrap();
        let request = || Request { channel: "a".into(), data: Bytes::from("x"), ..Request::default() };
        let began = tokio::time::Instant::now();
        assert_eq!(answer(&bench.publisher, request()).await.unwrap_err().code, "overloaded");
        assert_eq!(began.elapsed().as_secs(), 2);
        assert!(bench.metrics().contains(r#"door="nats",ack="accepted",outcome="overloaded"} 1"#));
        drop(all);
        assert!(answer(&bench.publisher, request()).await.is_ok());
        assert_eq!(bench.journal.stored().len(), 1);
    }

    #[test]
    fn headers_are_checked_like_keys_of_json() {
        let request = Request {
            channel: "orders".into(),
            event: Some("paid".into()),
            id: Some("7".into()),
            ttl: Some("60".into()),
            ack: Some("durable".into()),
            ..Request::default()
        };
        let good = input(request).unwrap();
        assert_eq!((good.ttl.map(Ttl::seconds), good.ack), (Some(60), Ack::Durable));
        let code = |request| input(request).unwrap_err().code;
        assert_eq!(code(Request { ttl: Some("soon".into()), ..Request::default() }), "bad-ttl");
        assert_eq!(code(Request { ack: Some("maybe".into()), ..Request::default() }), "bad-ack");
        let hint = |name: &str| {
            let unknown_header = Some(name.to_owned());
            let error = input(Request { unknown_header, ..Request::default() }).unwrap_err();
            assert_eq!((error.code, error.key.as_deref()), ("bad-event", Some(name)));
            error.message
        };
        assert!(hint("Foghorn-Evnt").contains("did you mean Foghorn-Event?"));
        assert!(hint("foghorn-id").contains("did you mean Foghorn-Id?"));
        assert!(hint("Foghorn-Priority").contains("Foghorn-"), "a near match, or all there are");
    }
}
