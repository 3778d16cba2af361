//! `POST /api/events/subscribe`: changes until when a live stream lasts, and what it hears, without reconnecting.
//!
//! The stream may be another gateway's, which its id names: that one is asked then, with the caller's own token, and
//! decides by itself. Whether a request may be made with a cookie, the gateway that it came to decides.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{FuturesUnordered, StreamExt as _};
use http::{HeaderValue, Request, StatusCode, header};
use hyper::body::Body;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::time::timeout;

use foghorn_auth::webhook::Grant;
use foghorn_auth::{Context, Refusal, Requester};
use foghorn_bus::backoff::Backoff;
use foghorn_bus::gateways::{About, AskError, Asked, Question, Questions};
use foghorn_core::event::EVENT_TYPE_BYTES_MAX;
use foghorn_core::pattern::Pattern;
use foghorn_core::secret::Secret;
use foghorn_http::Response;
use foghorn_http::body::{Unaccounted, json as json_response, read_json, with_type};
use foghorn_http::problem::Problem;
use foghorn_telemetry::health::Part;

use crate::change::{self, Ask, Changed};
use crate::client_id::ClientId;
use crate::directory::NotAsked;
use crate::http::{Api, TYPES_MAX, are_types, check_number, topic};
use crate::hub::Hub;
use crate::metrics::ChangeOutcome;
use crate::subscription::Subscription;

/// Where it is answered.
pub(crate) const PATH: &str = "/api/events/subscribe";
/// Most bytes of a request: room for as many channels and types as a stream may have.
const BODY_BYTES: usize = 64 * 1024;
/// How long a stream may take to be changed. One whose socket takes nothing may take longer than anybody waits.
const PATIENCE: Duration = Duration::from_secs(2);
/// Questions of other gateways that are answered at a time, each with a body of up to 64 KiB; the rest wait in the
/// bus's bounded queue. Streams whose sockets take nothing hold each for as long as it may take.
const ANSWERED_MAX: usize = 512;

/// What a request says.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Said {
    client_id: String,
    channels: Option<Vec<String>>,
    events: Option<Vec<String>>,
}

/// What is wanted of which stream.
#[derive(Debug)]
struct Wanted {
    client_id: ClientId,
    topics: Option<Vec<Pattern>>,
    types: Option<Vec<String>>,
}

impl Wanted {
    fn read(body: &[u8], channels_most: usize) -> Result<Self, Problem> {
        let said: Said = serde_json::from_slice(body).map_err(|error| malformed(&error.to_string()))?;
        let client_id = ClientId::parse(&said.client_id).ok_or_else(|| {
            malformed("clientId: is what `connected` says, 32 hexadecimal digits").member("key", "clientId")
        })?;
        let topics = said.channels.map(|list| {
            check_number(list.len(), channels_most)?;
            list.iter().map(|text| topic(text)).collect::<Result<Vec<_>, _>>()
        });
        let topics = topics.transpose().map_err(|problem| problem.member("key", "channels"))?;
        if said.events.as_ref().is_some_and(|types| !are_types(types)) {
            let what =
                format!("events: are at most {TYPES_MAX} event types, of 1 to {EVENT_TYPE_BYTES_MAX} bytes");
            return Err(malformed(&what).member("key", "events"));
        }
        Ok(Wanted { client_id, topics, types: said.events })
    }
}

impl Api {
    /// The answer to a request to change a stream. By then it is changed.
    pub(crate) async fn subscribe<B>(
        &self,
        request: Request<B>,
        address: Option<IpAddr>,
    ) -> Result<Response, Problem>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: std::fmt::Display,
    {
        let caller = self.poster(request.method(), request.uri(), request.headers()).await?;
        let context = self.auth.context(request.headers(), address);
        let token = self.auth.token(request.headers());
        let body = read_json(request, BODY_BYTES, &mut Unaccounted).await?;
        let wanted = Wanted::read(&body, self.shared.config.channels_per_connection)?;
        if let Err(limited) = self.limits.check_subject(&caller) {
            return Err(self.too_many(
                limited,
                "more streams, tickets and changes are asked for than gateway.subject_per_minute allows",
            ));
        }
        if wanted.client_id.gateway() == self.shared.name {
            let changed = self.change(&Requester { caller, context }, wanted).await?;
            return Ok(answered(&changed));
        }
        let context = context.to_text().map(Secret::from);
        let question = Question { about: About::Stream, token, context, body: body.into() };
        match self.gateways.ask(wanted.client_id.gateway(), question).await {
            Ok(answer) => Ok(relayed(&answer)),
            Err(AskError::Nobody) => {
                self.shared.hub.metrics.changed(ChangeOutcome::Unknown);
                Err(change::unknown())
            }
            Err(AskError::Unavailable(why)) => {
                tracing::debug!(why, "another gateway can't be asked");
                self.shared.hub.metrics.changed(ChangeOutcome::Unreachable);
                Err(change::unreachable("its gateway doesn't answer"))
            }
        }
    }

    /// What another gateway is told.
    async fn answer_gateway(&self, asked: Asked) {
        let body = &asked.question.body;
        let answer = match asked.question.about {
            About::Users => self.shared.hub.places.answer_to(body).await,
            About::Presence => self.presence_here(body),
            About::Listeners => self.shared.hub.presence.answer_to(body),
            About::Survey => self.answer_survey(body).await,
            About::Stream => self.answer_change(&asked.question).await,
        };
        asked.answer(answer.into()).await;
    }

    async fn answer_change(&self, question: &Question) -> Vec<u8> {
        let answer = match self.answer_to(question).await {
            Ok(changed) => json!({ "changed": changed }),
            Err(problem) => json!({ "problem": problem.to_json() }),
        };
        answer.to_string().into()
    }

    async fn answer_to(&self, question: &Question) -> Result<Value, Problem> {
        let authorization = question.token.as_ref().map(|token| format!("Bearer {}", token.reveal()));
        let caller = self.auth.patiently(|| self.auth.caller_by(authorization.as_deref())).await;
        let caller = caller.map_err(|why| self.refused(&why))?;
        let wanted = Wanted::read(&question.body, self.shared.config.channels_per_connection)?;
        let context = question.context.as_ref().map(|text| Context::from_text(text.reveal()));
        let by = Requester { caller, context: context.unwrap_or_default() };
        self.change(&by, wanted).await
    }

    /// Changes a stream of this gateway.
    async fn change(&self, by: &Requester, wanted: Wanted) -> Result<Value, Problem> {
        let Wanted { client_id, topics, types } = wanted;
        let changed = self.change_own(by, client_id, topics, types).await;
        self.shared.hub.metrics.changed(match &changed {
            Ok(_) => ChangeOutcome::Changed,
            Err(problem) if problem.status == StatusCode::NOT_FOUND => ChangeOutcome::Unknown,
            Err(problem) if problem.status == StatusCode::SERVICE_UNAVAILABLE => ChangeOutcome::Unreachable,
            Err(_) => ChangeOutcome::Refused,
        });
        let Changed { cursor, expires, kept } = changed?;
        // It hears it in any case; only a reconnect may have to be told otherwise.
        let kept = match kept {
            Some(kept) => self.keeper.keep(&self.shared.hub, &kept).await.is_ok(),
            None => true,
        };
        let expires = expires.map(|time| time.to_string());
        Ok(json!({
            "clientId": client_id.to_string(), "cursor": cursor.to_string(), "expires": expires, "kept": kept,
        }))
    }

    async fn change_own(
        &self,
        by: &Requester,
        client_id: ClientId,
        topics: Option<Vec<Pattern>>,
        types: Option<Vec<String>>,
    ) -> Result<Changed, Problem> {
        let wanted = match topics {
            Some(topics) => Some(self.subscription_to(by, topics).await?),
            None => None,
        };
        let (answer, answered) = oneshot::channel();
        let (shards, grants) = wanted.map(|(subscription, grants)| (subscription.shards, grants)).unzip();
        let (caller, auth) = (by.caller.clone(), self.auth.clone());
        let ask = Ask { client_id, caller, shards, types, grants, auth, answer };
        self.shared.hub.ask(ask).map_err(|why| match why {
            NotAsked::Unknown => change::unknown(),
            NotAsked::Busy => change::unreachable("several changes of it wait to be made"),
        })?;
        // Also where whoever asked has gone. It is dropped after the receiver, by which an ask that is given up is known.
        let _given_up = GivenUp { hub: &self.shared.hub, client_id };
        match timeout(PATIENCE, answered).await {
            Ok(Ok(changed)) => changed,
            // It ended first.
            Ok(Err(_)) => Err(change::unknown()),
            Err(_) => Err(change::unreachable("it is beginning, or its socket takes nothing")),
        }
    }

    /// What a stream of theirs would hear, if they may, and what of it the webhook has allowed.
    async fn subscription_to(
        &self,
        by: &Requester,
        topics: Vec<Pattern>,
    ) -> Result<(Subscription, Vec<Grant>), Problem> {
        let granted = self.check_all(by, &topics).await;
        let grants = granted.map_err(|why| self.refused(&why).of(by.caller.subject()))?;
        let all = [by.caller.implied(self.shared.hub.policies()), topics].concat();
        if all.is_empty() {
            return Err(self.refused(&Refusal::NoCredential("listening to broadcast".to_owned())));
        }
        let subscription = Subscription::new(&all, self.shared.hub.shard_count());
        self.check_cursor_fits(&subscription)?;
        Ok((subscription, grants))
    }
}

/// When it is dropped, what nobody waits for any more is forgotten.
struct GivenUp<'a> {
    hub: &'a Hub,
    client_id: ClientId,
}

impl Drop for GivenUp<'_> {
    fn drop(&mut self) {
        self.hub.directory.forget_given_up(self.client_id);
    }
}

/// Answers what other gateways ask, until the gateway ends. `part` is ready once they can.
pub(crate) async fn answer_gateways(api: Arc<Api>, part: Part) {
    let mut backoff = Backoff::default();
    loop {
        match api.gateways.listen(api.shared.name).await {
            Ok(questions) => {
                part.ready();
                answer_all(&api, questions).await;
            }
            Err(error) => tracing::warn!(%error, "can't hear what other gateways ask; trying again"),
        }
        backoff.wait().await;
    }
}

async fn answer_all(api: &Api, mut questions: Box<dyn Questions>) {
    let mut under_way = FuturesUnordered::new();
    loop {
        tokio::select! {
            asked = questions.next(), if under_way.len() < ANSWERED_MAX => match asked {
                Some(asked) => under_way.push(api.answer_gateway(asked)),
                None => break,
            },
            Some(()) = under_way.next(), if !under_way.is_empty() => {}
        }
    }
    while under_way.next().await.is_some() {}
}

fn answered(changed: &Value) -> Response {
    let mut response = json_response(StatusCode::OK, changed);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// What another gateway answers, as HTTP.
fn relayed(answer: &[u8]) -> Response {
    let answer: Value = serde_json::from_slice(answer).unwrap_or_default();
    if let Some(changed) = answer.get("changed") {
        return answered(changed);
    }
    let problem = answer.get("problem").and_then(|problem| {
        let status = problem["status"].as_u64().and_then(|status| u16::try_from(status).ok())?;
        Some((problem, StatusCode::from_u16(status).ok()?))
    });
    let Some((problem, status)) = problem else {
        return change::unreachable("its gateway's answer can't be read").into_response();
    };
    let mut response = with_type(status, "application/problem+json", problem.to_string());
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if status == StatusCode::UNAUTHORIZED {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(rand::random_range(1..=3)));
    }
    response
}

fn malformed(what: &str) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "bad-subscription", "The subscription is malformed").detail(what)
}
