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
use foghorn_core::pattern::Pattern;
use foghorn_core::policy::Policies;
use foghorn_core::secret::Secret;
use foghorn_http::Response;
use foghorn_http::body::{Unaccounted, json as json_response, read_json, with_type};
use foghorn_http::problem::Problem;
use foghorn_telemetry::health::Part;

use crate::change::{self, Ask, Changed};
use crate::client_id::ClientId;
use crate::directory::NotAsked;
use crate::http::{Api, check_number, check_types, topic};
use crate::hub::Hub;
use crate::metrics::ChangeOutcome;
use crate::subscription::Subscription;

/// Where it is answered.
pub(crate) const PATH: &str = "/api/events/subscribe";
/// Most bytes of a request: room for as many channels and types as a stream may have.
const BODY_BYTES: usize = 64 * 1024;
/// How long a stream may take to be changed. One whose socket takes nothing may take longer than anybody waits.
const PATIENCE: Duration = Duration::from_secs(2);
/// Changes that other gateways ask for which are made at a time, each with a body of up to 64 KiB; more are refused at
/// once. Streams whose sockets take nothing hold each for as long as it may take.
const CHANGED_MAX: usize = 512;
/// Places that other gateways ask for which are decided about at a time, about 1 KiB each; of more nobody decides. They
/// wait while gateways agree who lives.
const DECIDED_MAX: usize = 8192;

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
        // An array would be taken for one by the order of the fields.
        if body.trim_ascii_start().first() != Some(&b'{') {
            return Err(malformed("is no JSON object"));
        }
        let said: Said = serde_json::from_slice(body).map_err(|error| malformed(&error.to_string()))?;
        let client_id = ClientId::parse(&said.client_id).ok_or_else(|| {
            malformed("clientId: is what `connected` says, 32 hexadecimal digits").member("key", "clientId")
        })?;
        let topics = said.channels.map(|list| {
            check_number(list.len(), channels_most)?;
            list.iter().map(|text| topic(text)).collect::<Result<Vec<_>, _>>()
        });
        let topics = topics.transpose().map_err(|problem| problem.member("key", "channels"))?;
        check_types(said.events.as_deref().unwrap_or_default())
            .map_err(|what| malformed(&format!("events {what}")).member("key", "events"))?;
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
            let changed = self.change(&Requester::new(caller, context), wanted).await?;
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

    /// What another gateway is told at once; none where the answer takes a while.
    fn answer_at_once(&self, question: &Question) -> Option<Vec<u8>> {
        let hub = &self.shared.hub;
        match question.about {
            About::Users => hub.places.answer_at_once(&question.body),
            About::Presence => Some(self.presence_here(&question.body)),
            About::Listeners => Some(hub.presence.answer_to(&question.body)),
            About::Stream | About::Survey => None,
        }
    }

    /// What another gateway is told that asks more than can wait here.
    fn answer_too_many(&self, about: About) -> Vec<u8> {
        match about {
            About::Stream => {
                self.shared.hub.metrics.changed(ChangeOutcome::Unreachable);
                let problem = change::unreachable("its gateway changes as many streams as it may");
                json!({ "problem": problem.to_json() }).to_string().into_bytes()
            }
            About::Survey => b"{\"partial\":true}".to_vec(),
            // No answer: whoever asks goes on without one.
            About::Users | About::Presence | About::Listeners => b"{}".to_vec(),
        }
    }

    /// What another gateway is told after a while.
    async fn answer_gateway(&self, asked: Asked) {
        let body = &asked.question.body;
        let answer = match asked.question.about {
            About::Users => self.shared.hub.places.answer_to(body).await,
            About::Survey => self.answer_survey(body).await,
            About::Presence | About::Listeners => self.answer_at_once(&asked.question).unwrap_or_default(),
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
        let by = Requester::new(caller, context.unwrap_or_default());
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
        let policies = self.shared.hub.policies();
        let wanted = match topics {
            Some(topics) => Some(self.subscription_to(by, topics, &policies).await?),
            None => None,
        };
        let (answer, answered) = oneshot::channel();
        let (shards, grants) = wanted.map(|(subscription, grants)| (subscription.shards, grants)).unzip();
        let (caller, auth) = (by.caller.clone(), self.auth.clone());
        let ask = Ask { client_id, caller, shards, types, grants, auth, policies, answer };
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
        policies: &Policies,
    ) -> Result<(Subscription, Vec<Grant>), Problem> {
        let granted = self.check_all(by, &topics, policies).await;
        let grants = granted.map_err(|why| self.refused(&why).of(by.caller.subject()))?;
        let all = [by.caller.implied(policies), topics].concat();
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

/// What needs no wait is answered as it comes; the rest side by side, each kind within its own bound, so that neither
/// streams that take nothing nor gateways that don't agree yet keep an answer from anybody else.
async fn answer_all(api: &Api, mut questions: Box<dyn Questions>) {
    let (mut changes, mut places) = (FuturesUnordered::new(), FuturesUnordered::new());
    loop {
        tokio::select! {
            asked = questions.next() => {
                let Some(asked) = asked else { break };
                let about = asked.question.about;
                let (waiting, most) = match about {
                    About::Users => (&places, DECIDED_MAX),
                    About::Stream | About::Survey | About::Presence | About::Listeners => {
                        (&changes, CHANGED_MAX)
                    }
                };
                match api.answer_at_once(&asked.question) {
                    Some(answer) => asked.answer(answer.into()).await,
                    None if waiting.len() >= most => asked.answer(api.answer_too_many(about).into()).await,
                    None => waiting.push(api.answer_gateway(asked)),
                }
            },
            Some(()) = changes.next(), if !changes.is_empty() => {}
            Some(()) = places.next(), if !places.is_empty() => {}
        }
    }
    while changes.next().await.is_some() || places.next().await.is_some() {}
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use foghorn_bus::Future;
    use foghorn_bus::clock::Clock;
    use foghorn_bus::gateways::GatewayName;
    use foghorn_bus::memory::Alone;
    use foghorn_core::policy::Policies;
    use foghorn_core::shard::ShardCount;
    use futures::FutureExt as _;
    use prometheus_client::registry::Registry;
    use tokio::sync::mpsc;

    use super::*;
    use crate::config::Config;
    use crate::connection::Shared;
    use crate::metrics::Metrics;
    use crate::places::{Beyond, Limit, Places};
    use crate::testing::{TestLog, api};

    struct Asking(mpsc::Receiver<Asked>);

    impl Questions for Asking {
        fn next(&mut self) -> Future<'_, Option<Asked>> {
            self.0.recv().boxed()
        }
    }

    /// A gateway whose users may have one stream each, and which doesn't know yet who else lives.
    fn gateway() -> Api {
        let metrics = Metrics::register(&mut Registry::default());
        let limit = Limit { most: 1, beyond: Beyond::Reject };
        let places = Places::new(limit, GatewayName::new(7), Arc::new(Alone), metrics.clone());
        let (policies, clock) = (Arc::new(Policies::default()), Clock::default());
        let hub = Hub::new(ShardCount::ONE, 1 << 20, policies, clock, metrics).with_places(Arc::new(places));
        let log = TestLog::new(1, 0, 0, |_| unreachable!("nothing is read"));
        api(Arc::new(Shared::new(Arc::new(hub), log, Config::default())))
    }

    /// A question; whoever answers it says so.
    fn asked(about: About, body: &str, answered: impl FnOnce(Bytes) + Send + 'static) -> Asked {
        let body = Bytes::copy_from_slice(body.as_bytes());
        let question = Question { about, token: None, context: None, body };
        Asked::new(question, move |answer| async move { answered(answer) }.boxed())
    }

    #[tokio::test(start_paused = true)]
    async fn what_needs_no_wait_is_answered_at_once_however_much_waits_and_what_waits_has_a_bound() {
        const MORE: usize = 100;
        let api = gateway();
        let (ask, asking) = mpsc::channel(1);
        let (refused, unchecked) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let asks = async {
            // Streams that nobody serves, so that no change of them is ever made.
            for _ in 0..CHANGED_MAX + MORE {
                let id = ClientId::random(api.shared.name);
                api.shared.hub.directory.opened(id);
                let refused = refused.clone();
                let change = json!({ "clientId": id.to_string(), "events": [] }).to_string();
                let answered = move |answer: Bytes| {
                    let answer: Value = serde_json::from_slice(&answer).unwrap();
                    assert_eq!(answer["problem"]["status"], 503);
                    refused.fetch_add(1, Ordering::SeqCst);
                };
                ask.send(asked(About::Stream, &change, answered)).await.unwrap();
            }
            for n in 0..DECIDED_MAX + MORE {
                let unchecked = unchecked.clone();
                let place = json!({ "ask": "admit", "user": format!("{n:x}"), "stream": "1", "since": 0 });
                let answered = move |answer: Bytes| {
                    assert_eq!(answer, "{}");
                    unchecked.fetch_add(1, Ordering::SeqCst);
                };
                ask.send(asked(About::Users, &place.to_string(), answered)).await.unwrap();
            }
            let compare = r#"{"ask":"compare","gateway":"9","view":0,"digests":[]}"#;
            let reported = r#"{"gateway":9,"anew":false,"changes":[],"sum":0}"#;
            let at_once = [
                (About::Users, compare, r#"{"differing":[]}"#),
                (About::Users, r#"{"ask":"ended","streams":[]}"#, "{}"),
                (About::Users, "what can't be read", "{}"),
                (About::Presence, "room", r#"{"users":{},"anonymous":0,"connections":0,"partial":false}"#),
                (About::Listeners, reported, r#"{"anew":false}"#),
            ];
            for (about, body, expected) in at_once {
                let is_answered = Arc::new(AtomicBool::new(false));
                let done = is_answered.clone();
                let answered = move |answer: Bytes| {
                    assert_eq!(answer, expected);
                    done.store(true, Ordering::SeqCst);
                };
                ask.send(asked(about, body, answered)).await.unwrap();
                // Taken once there is room for another.
                drop(ask.reserve().await.unwrap());
                tokio::task::yield_now().await;
                assert!(is_answered.load(Ordering::SeqCst), "{about:?} {body}");
            }
        };
        let began = tokio::time::Instant::now();
        tokio::select! {
            () = answer_all(&api, Box::new(Asking(asking))) => panic!("there is more to ask"),
            () = asks => {}
        }
        assert_eq!(began.elapsed(), Duration::ZERO);
        assert_eq!((refused.load(Ordering::SeqCst), unchecked.load(Ordering::SeqCst)), (MORE, MORE));
    }
}
