//! Gateways ask each other over NATS's core: `foghorn.gateway.<name>`, one subject and one subscription a gateway, and
//! `foghorn.gateway.all`, which all hear.

use std::time::Duration;

use async_nats::{HeaderMap, Request, RequestErrorKind};
use bytes::Bytes;
use futures::FutureExt as _;
use tokio::time::timeout;

use foghorn_core::secret::Secret;

use super::Bus;
use super::link::Link;
use super::pump::{Pumped, Shared};
use super::request::may_answer;
use crate::Future;
use crate::gateways::{About, AskError, Asked, GatewayName, Gateways, Notices, Question, Questions};
use crate::metrics::Metrics;

const PREFIX: &str = "foghorn.gateway.";
/// The queue group of a gateway's subscription: it alone is in it.
const GROUP: &str = "foghorn-gateway";
/// Where a question carries its token.
const HEADER_TOKEN: &str = "Authorization";
/// Where it carries what a webhook authoriser is to be told, as JSON.
const HEADER_CONTEXT: &str = "Foghorn-Context";
/// What it is about; without it, a stream.
const HEADER_ABOUT: &str = "Foghorn-About";
/// What all gateways hear is sent here; no gateway has this name.
const ALL: &str = "foghorn.gateway.all";
/// How long an answer is waited for: longer than who is asked takes at most.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(4);
/// How long telling all something may take.
const TELL_TIMEOUT: Duration = Duration::from_secs(1);
/// Bytes of questions that wait; what doesn't fit is dropped and counted.
const QUEUE_BYTES: usize = 4 << 20;

/// The gateways of a cluster. Cheap to clone.
#[derive(Debug, Clone)]
pub struct NatsGateways(Bus);

impl NatsGateways {
    pub(super) fn new(bus: Bus) -> Self {
        NatsGateways(bus)
    }

    async fn ask_now(&self, gateway: GatewayName, question: Question) -> Result<Bytes, AskError> {
        let unavailable = |why: &str| AskError::Unavailable(why.to_owned());
        let bus = &self.0.0;
        // Not sent into a broken connection: it would be sent when that is back, and done long after it was given up.
        let client = bus.main.connected_client().ok_or_else(|| unavailable("no connection to NATS"))?;
        let mut headers = HeaderMap::new();
        headers.insert(HEADER_ABOUT, question.about.as_str());
        if let Some(token) = &question.token {
            headers.insert(HEADER_TOKEN, token.reveal());
        }
        if let Some(context) = &question.context {
            headers.insert(HEADER_CONTEXT, context.reveal());
        }
        let request = Request::new().headers(headers).payload(question.body).timeout(None);
        match timeout(ANSWER_TIMEOUT, client.send_request(format!("{PREFIX}{gateway}"), request)).await {
            Ok(Ok(answer)) => Ok(answer.payload),
            Ok(Err(error)) if error.kind() == RequestErrorKind::NoResponders => Err(AskError::Nobody),
            Ok(Err(error)) => Err(AskError::Unavailable(error.to_string())),
            Err(_) => Err(unavailable("no answer in time")),
        }
    }

    async fn listen_now(&self, name: GatewayName) -> Result<Box<dyn Questions>, AskError> {
        let messages = self.hear(format!("{PREFIX}{name}"), GROUP.to_owned()).await?;
        let bus = &self.0.0;
        Ok(Box::new(NatsQuestions { messages, answers: bus.main.clone(), metrics: bus.metrics.clone() }))
    }

    async fn hear_all_now(&self) -> Result<Box<dyn Notices>, AskError> {
        // A group of its own, or one of several would hear it.
        let group = GatewayName::random().to_string();
        Ok(Box::new(NatsNotices(self.hear(ALL.to_owned(), group).await?)))
    }

    async fn hear(&self, subject: String, group: String) -> Result<Pumped, AskError> {
        let unavailable = |error: &dyn std::fmt::Display| AskError::Unavailable(error.to_string());
        // A connection of its own: whoever may send here could make it break.
        let link = self.0.requests_link().await.map_err(|error| unavailable(&error))?.clone();
        let shared = Shared { link, subject, group };
        let messages = Pumped::lasting(shared, QUEUE_BYTES, self.0.0.metrics.requests_dropped.clone());
        messages.await.map_err(|error| unavailable(&error))
    }

    async fn tell_all_now(&self, notice: Bytes) -> Result<(), AskError> {
        let client = self.0.0.main.connected_client();
        let client = client.ok_or_else(|| AskError::Unavailable("no connection to NATS".to_owned()))?;
        let unavailable = |error: &dyn std::fmt::Display| AskError::Unavailable(error.to_string());
        client.publish(ALL, notice).await.map_err(|error| unavailable(&error))?;
        // On its way when this returns: whoever tells it may be about to end.
        match timeout(TELL_TIMEOUT, client.flush()).await {
            Ok(flushed) => flushed.map_err(|error| unavailable(&error)),
            Err(_) => Err(AskError::Unavailable("NATS takes nothing".to_owned())),
        }
    }
}

impl Gateways for NatsGateways {
    fn ask(&self, gateway: GatewayName, question: Question) -> Future<'_, Result<Bytes, AskError>> {
        self.ask_now(gateway, question).boxed()
    }

    fn listen(&self, name: GatewayName) -> Future<'_, Result<Box<dyn Questions>, AskError>> {
        self.listen_now(name).boxed()
    }

    fn tell_all(&self, notice: Bytes) -> Future<'_, Result<(), AskError>> {
        self.tell_all_now(notice).boxed()
    }

    fn hear_all(&self) -> Future<'_, Result<Box<dyn Notices>, AskError>> {
        self.hear_all_now().boxed()
    }
}

struct NatsNotices(Pumped);

impl Notices for NatsNotices {
    fn next(&mut self) -> Future<'_, Option<Bytes>> {
        async { self.0.next().await.map(|message| message.payload) }.boxed()
    }
}

struct NatsQuestions {
    messages: Pumped,
    answers: Link,
    metrics: Metrics,
}

impl NatsQuestions {
    async fn next_answerable(&mut self) -> Option<Asked> {
        loop {
            let message = self.messages.next().await?;
            let Some(reply) = message.reply.filter(|reply| may_answer(reply)) else {
                self.metrics.requests_refused.inc();
                continue;
            };
            let about = message.headers.as_ref().and_then(|headers| headers.get(HEADER_ABOUT));
            let Some(about) = about.map_or(Some(About::Stream), |about| About::parse(about.as_str())) else {
                self.metrics.requests_refused.inc();
                continue;
            };
            let secret = |name: &str| {
                let value = message.headers.as_ref().and_then(|headers| headers.get(name));
                value.map(|value| Secret::from(value.as_str()))
            };
            let (token, context) = (secret(HEADER_TOKEN), secret(HEADER_CONTEXT));
            let answers = self.answers.clone();
            let answer = move |answer: Bytes| {
                async move {
                    let Some(client) = answers.client() else { return };
                    if let Err(error) = client.publish(reply, answer).await {
                        tracing::debug!(%error, "another gateway's question can't be answered");
                    }
                }
                .boxed()
            };
            return Some(Asked::new(Question { about, token, context, body: message.payload }, answer));
        }
    }
}

impl Questions for NatsQuestions {
    fn next(&mut self) -> Future<'_, Option<Asked>> {
        self.next_answerable().boxed()
    }
}
