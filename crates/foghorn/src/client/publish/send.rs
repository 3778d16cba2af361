//! Requests to `POST /api/publish`, repeated until every event has an answer or the time is up.

use std::io::Write;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::time::Instant;

use foghorn_bus::backoff::Backoff;

use super::batch::Numbered;
use super::report::Report;
use super::{Ack, Args};
use crate::client::http::{Head, Refusal, Server, is_final, problem_text, read_body};

/// How long one request may take at most: longer than a server takes to give up by itself.
const REQUEST_DEADLINE: Duration = Duration::from_secs(30);
/// How long the last one may take, however little time is left.
const REQUEST_LEAST: Duration = Duration::from_secs(1);

/// Publishes events of one kind.
pub(super) struct Sender {
    server: Server,
    channel: String,
    event_type: Option<String>,
    ttl: Option<u32>,
    ack: Option<&'static str>,
    retry_for: Duration,
}

/// What became of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
    /// Each event is stored or refused for good.
    Answered,
    /// Some events had no answer when the time was up.
    GaveUp,
}

#[derive(Serialize)]
struct Body<'a> {
    channel: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<&'a str>,
    data: &'a RawValue,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ack: Option<&'a str>,
}

/// Why a request as a whole came to nothing.
enum Failure {
    /// It may go better next time, not before the wait is over.
    Passing(String, Duration),
    /// Too many events for one request.
    TooLarge(String),
    /// It will never go.
    Final(String),
}

impl Sender {
    pub(super) fn new(server: Server, args: &Args) -> Self {
        Sender {
            server,
            channel: args.channel.to_string(),
            event_type: args.event.as_ref().map(ToString::to_string),
            ttl: args.ttl.map(foghorn_core::event::Ttl::seconds),
            ack: (args.ack == Ack::Durable).then_some("durable"),
            retry_for: args.retry_for,
        }
    }

    /// Publishes a batch, in order. Every event is reported as published or not.
    pub(super) async fn deliver<O: Write, E: Write>(
        &self,
        mut waiting: Vec<Numbered>,
        report: &mut Report<O, E>,
    ) -> anyhow::Result<Sent> {
        let deadline = Instant::now() + self.retry_for;
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
        let mut most = waiting.len();
        let mut first = true;
        while !waiting.is_empty() {
            let count = waiting.len().min(most);
            let left = deadline.saturating_duration_since(Instant::now());
            let (why, at_least) = match self.attempt(&waiting[..count], self.limit(left)).await {
                Ok(answers) => {
                    let Some(why) = settle(&mut waiting, answers, report)? else {
                        backoff.reset();
                        continue;
                    };
                    (why, Duration::ZERO)
                }
                Err(Failure::Passing(why, at_least)) => (why, at_least),
                Err(Failure::TooLarge(_)) if count > 1 => {
                    most = count / 2;
                    continue;
                }
                Err(Failure::Final(why) | Failure::TooLarge(why)) => {
                    for event in waiting.drain(..count) {
                        report.unpublished(&event, &why)?;
                    }
                    continue;
                }
            };
            let wait = backoff.next_wait().max(at_least);
            let left = deadline.saturating_duration_since(Instant::now());
            if wait >= left {
                let why = format!("gave up after {} s: {why}", self.retry_for.as_secs_f64());
                report.gave_up(&waiting, &why)?;
                return Ok(Sent::GaveUp);
            }
            report.retrying(&why, std::mem::take(&mut first), left)?;
            tokio::time::sleep(wait).await;
        }
        Ok(Sent::Answered)
    }

    /// How long a request may take when so much of the time for all attempts is left. Who has given none
    /// for further attempts wants one, and not a short one.
    fn limit(&self, left: Duration) -> Duration {
        if self.retry_for.is_zero() { REQUEST_DEADLINE } else { left.clamp(REQUEST_LEAST, REQUEST_DEADLINE) }
    }

    /// One request: an answer for each event, or none at all.
    async fn attempt(&self, events: &[Numbered], limit: Duration) -> Result<Vec<Value>, Failure> {
        let body: Vec<Body<'_>> = events.iter().map(|event| self.body(event)).collect();
        let body = serde_json::to_vec(&body).map_err(|error| Failure::Final(error.to_string()))?;
        let request = self
            .server
            .client
            .post(self.server.at("api/publish"))
            .header("content-type", "application/json")
            .timeout(limit)
            .body(body);
        let failure = |error: reqwest::Error| match self.server.explain(&error) {
            why if is_final(&error) => Failure::Final(why),
            why => Failure::Passing(why, Duration::ZERO),
        };
        let response = request.send().await.map_err(failure)?;
        let head = Head::of(&response);
        let body = read_body(response).await.map_err(failure)?;
        if !head.status.is_success() {
            let refusal = Refusal::new(&head, &body);
            return Err(if refusal.status == reqwest::StatusCode::PAYLOAD_TOO_LARGE {
                Failure::TooLarge(refusal.text)
            } else if refusal.passes {
                Failure::Passing(refusal.text, refusal.retry_after.unwrap_or_default())
            } else {
                Failure::Final(refusal.text)
            });
        }
        match serde_json::from_slice::<Vec<Value>>(&body) {
            Ok(answers) if answers.len() == events.len() => Ok(answers),
            Ok(answers) => Err(Failure::Final(format!(
                "the server gave {} answers to {} events; whether they are stored is unknown",
                answers.len(),
                events.len()
            ))),
            Err(error) => Err(Failure::Final(format!(
                "the answer is not one of a Foghorn server ({error}); is --url right?"
            ))),
        }
    }

    fn body<'a>(&'a self, Numbered { event, .. }: &'a Numbered) -> Body<'a> {
        Body {
            channel: &self.channel,
            event: self.event_type.as_deref(),
            data: &event.data,
            id: &event.id,
            ttl: self.ttl,
            ack: self.ack,
        }
    }
}

/// Reports the first events of `waiting` by their answers. Those that may yet be published stay; why, is
/// returned. The server doesn't try what follows them on the channel, so the order holds.
fn settle<O: Write, E: Write>(
    waiting: &mut Vec<Numbered>,
    answers: Vec<Value>,
    report: &mut Report<O, E>,
) -> anyhow::Result<Option<String>> {
    let untouched = waiting.split_off(answers.len());
    let mut why = None;
    let mut again = Vec::new();
    for (event, answer) in waiting.drain(..).zip(answers) {
        let Some(problem) = answer.get("error") else {
            if let Some(Numbered { line: Some(earlier), .. }) = again.first() {
                report.note(&format!(
                    "line {earlier} is sent again after line {} was stored: the order of the two is lost",
                    event.line.unwrap_or_default()
                ))?;
            }
            report.published(&event, &answer)?;
            continue;
        };
        let text = problem_text(problem).unwrap_or_else(|| problem.to_string());
        if problem.get("retryable").and_then(Value::as_bool) == Some(true) {
            why.get_or_insert(text);
            again.push(event);
        } else {
            report.unpublished(&event, &text)?;
        }
    }
    *waiting = again;
    waiting.extend(untouched);
    Ok(why)
}
