//! The webhook authoriser: an application that is asked where neither a token nor a policy grants something, and a
//! policy leaves it to it.
//!
//! What it answers is remembered for as long as it says, within bounds, and what several ask at once is asked once. It
//! never grants by silence: whatever isn't a readable `{"allow": true}` in time refuses. Nothing here sends anything;
//! whoever does is an [`Authoriser`].

mod answer;
mod context;
mod metrics;
mod signature;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use foghorn_core::channel::Channel;
use foghorn_core::pattern::Pattern;
use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared, WeakShared};
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use crate::cache::{self, Cache, Key};
use crate::config::Webhook as Config;
use crate::requester::{Requester, Waited};
use crate::token::Identity;

use answer::read;
pub use answer::{ANSWER_BYTES_MAX, Failure};
pub use context::Context;
pub(crate) use context::Forward;
use metrics::{From, Metrics};
pub use signature::{Signature, SigningSecret};

/// Most different questions that are under way or wait for their turn. With the most that a question may hold
/// ([`Context`]) about 24 MiB.
const UNDER_WAY_MAX: usize = 4096;
/// For how long at least what an open stream hears holds until it is asked about again.
const HOLDS_MIN: Duration = Duration::from_secs(10);

/// Whoever sends a question, and brings what came back.
pub trait Authoriser: Send + Sync + 'static {
    /// The body of a good answer to a question, both JSON. Takes as long as it takes; whoever asks has a deadline.
    fn ask(&self, question: Bytes) -> BoxFuture<'_, Result<Bytes, Failure>>;
}

/// What somebody wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action<'a> {
    /// Listen to all that this matches.
    Subscribe(&'a Pattern),
    /// Publish on this.
    Publish(&'a Channel),
}

/// What the webhook is asked, for as long as somebody may have to ask it again.
#[derive(Clone)]
pub struct Question {
    body: Bytes,
    key: Key,
}

/// What the webhook has allowed.
#[derive(Debug, Clone)]
pub struct Grant {
    question: Question,
    /// What may be listened to.
    pub topic: Pattern,
    /// Until when, by a stream that is open.
    pub ends: Instant,
    /// When to ask again, so that the answer is there in time.
    pub due: Instant,
}

/// It was not allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The webhook says so.
    Denied,
    /// There is no answer now.
    Unavailable,
    /// There is none, and it was waited for as long as it may take.
    Unanswered,
}

/// What the webhook has answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Answer {
    allow: bool,
    /// When it was asked.
    asked: Instant,
    /// Until when the answer may be given again.
    until: Instant,
}

/// Asks the webhook for all of a process. Clones are the same.
#[derive(Clone)]
pub struct Webhook(Arc<Inner>);

struct Inner {
    authoriser: Box<dyn Authoriser>,
    forward: Forward,
    deadline: Duration,
    ttl: Duration,
    ttl_max: Duration,
    turns: Semaphore,
    state: Mutex<State>,
    failing: AtomicBool,
    metrics: Metrics,
}

type Asking = BoxFuture<'static, Result<Answer, Refused>>;
type UnderWay = Shared<Asking>;

struct State {
    known: Cache<Answer>,
    /// What is asked now, and by which number; who waits for it holds it.
    under_way: HashMap<Key, (u64, WeakShared<Asking>)>,
    next_number: u64,
}

impl Question {
    fn new(identity: Option<&Identity>, context: &Context, action: Action<'_>) -> Self {
        let mut body = json!({
            "user": identity.map(|identity| &identity.subject), "address": context.address(),
            "headers": context.headers().unwrap_or(&BTreeMap::new()),
        });
        match action {
            Action::Subscribe(pattern) => {
                let named = if pattern.channel().is_some() { "channel" } else { "pattern" };
                (body["action"], body[named]) = (json!("subscribe"), json!(pattern.as_str()));
            }
            Action::Publish(channel) => {
                (body["action"], body["channel"]) = (json!("publish"), json!(channel.as_str()));
            }
        }
        let body = Bytes::from(body.to_string());
        Question { key: cache::key(&body), body }
    }
}

/// Without what it holds: cookies and tokens may be in it.
impl fmt::Debug for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Question").finish_non_exhaustive()
    }
}

impl Webhook {
    /// Asks `authoriser`, as its configuration says.
    pub fn new(config: &Config, authoriser: impl Authoriser) -> Self {
        let metrics = Metrics::default();
        let known = Cache::new(config.cache_entries, metrics.forgotten.clone());
        Webhook(Arc::new(Inner {
            authoriser: Box::new(authoriser),
            forward: Forward::new(config),
            deadline: config.deadline,
            ttl: config.ttl,
            ttl_max: config.ttl_max,
            turns: Semaphore::new(config.questions),
            state: Mutex::new(State { known, under_way: HashMap::new(), next_number: 0 }),
            failing: AtomicBool::new(false),
            metrics,
        }))
    }

    pub(crate) fn register(&self, registry: &mut Registry) {
        self.0.metrics.register(registry);
    }

    pub(crate) fn forward(&self) -> &Forward {
        &self.0.forward
    }

    /// Whether it allows what somebody wants to listen to.
    pub(crate) async fn may_listen(&self, by: &Requester, topic: &Pattern) -> Result<Grant, Refused> {
        let question = self.question(by, Action::Subscribe(topic))?;
        self.grant(question, topic, Instant::now(), &by.waited).await
    }

    /// Whether it allows what somebody wants to publish on.
    pub(crate) async fn may_publish(&self, by: &Requester, channel: &Channel) -> Result<(), Refused> {
        let question = self.question(by, Action::Publish(channel))?;
        let answer = self.ask(&question, Instant::now(), &by.waited).await?;
        if answer.allow { Ok(()) } else { Err(Refused::Denied) }
    }

    /// Whether it still allows it. What it had said by then doesn't count.
    pub(crate) async fn renew(&self, grant: &Grant) -> Result<Grant, Refused> {
        self.grant(grant.question.clone(), &grant.topic, grant.ends, &Waited::default()).await
    }

    fn question(&self, by: &Requester, action: Action<'_>) -> Result<Question, Refused> {
        if by.context.is_too_long() {
            self.0.failed(&Failure::TooLong);
            return Err(Refused::Denied);
        }
        Ok(Question::new(by.caller.identity().map(|identity| &**identity), &by.context, action))
    }

    async fn grant(
        &self,
        question: Question,
        topic: &Pattern,
        after: Instant,
        waited: &Waited,
    ) -> Result<Grant, Refused> {
        let answer = self.ask(&question, after, waited).await?;
        if !answer.allow {
            return Err(Refused::Denied);
        }
        let holds = (answer.until - answer.asked).max(HOLDS_MIN);
        let early = (holds / 10).max(self.0.deadline * 2).min(holds / 2);
        let ends = answer.asked + holds;
        Ok(Grant { question, topic: topic.clone(), ends, due: ends - early })
    }

    /// The answer to a question: one that is known and holds beyond `after`, the one that others wait for, or a new
    /// one. Whoever has `waited` in vain has one that is known, or none.
    async fn ask(&self, question: &Question, after: Instant, waited: &Waited) -> Result<Answer, Refused> {
        match self.join(question, after, waited.was_in_vain())? {
            Ok(answer) => Ok(answer),
            Err(under_way) => under_way.await.inspect_err(|why| {
                if *why == Refused::Unanswered {
                    waited.in_vain();
                }
            }),
        }
    }

    fn join(
        &self,
        question: &Question,
        after: Instant,
        waited: bool,
    ) -> Result<Result<Answer, UnderWay>, Refused> {
        let inner = &self.0;
        let mut state = inner.state.lock();
        let now = Instant::now();
        let known = state.known.get(&question.key, |answer| answer.until > now);
        if let Some(answer) = known.filter(|answer| answer.until > after.max(now)) {
            inner.metrics.answered(From::Cache);
            return Ok(Ok(answer));
        }
        if waited {
            drop(state);
            inner.failed(&Failure::Unasked);
            return Err(Refused::Unavailable);
        }
        if let Some(under_way) = state.under_way.get(&question.key).and_then(|(_, asked)| asked.upgrade()) {
            inner.metrics.answered(From::Flight);
            return Ok(Err(under_way));
        }
        if state.under_way.len() >= UNDER_WAY_MAX {
            drop(state);
            inner.failed(&Failure::Busy);
            return Err(Refused::Unavailable);
        }
        inner.metrics.answered(From::Webhook);
        state.next_number += 1;
        let (number, question) = (state.next_number, question.clone());
        let key = question.key;
        let place = Place { inner: inner.clone(), question, number };
        let asking = place.ask().boxed().shared();
        if let Some(asked) = asking.downgrade() {
            state.under_way.insert(key, (number, asked));
        }
        Ok(Err(asking))
    }
}

impl Inner {
    /// Asks within the deadline, waiting for a turn included.
    async fn ask(&self, question: &Question) -> Result<Answer, Refused> {
        let waiting = self.metrics.waiting();
        let mut has_turn = false;
        let asked = Instant::now();
        let answer = timeout(self.deadline, async {
            let turn = self.turns.acquire().await.map_err(|_| Failure::Busy)?;
            has_turn = true;
            let answer = self.authoriser.ask(question.body.clone()).await;
            drop(turn);
            read(&answer?)
        });
        let answer = answer.await;
        let late = if has_turn { Failure::Late(self.deadline) } else { Failure::Busy };
        let answer = answer.unwrap_or(Err(late));
        drop(waiting);
        let said = match answer {
            Ok(said) => said,
            // It has looked at it, and will not have it.
            Err(Failure::Status(403)) => answer::Said { allow: false, ttl: Some(0) },
            Err(failure) => {
                self.failed(&failure);
                let waited = matches!(failure, Failure::Late(_) | Failure::Busy);
                return Err(if waited { Refused::Unanswered } else { Refused::Unavailable });
            }
        };
        self.metrics.said(said.allow, asked.elapsed());
        if self.failing.swap(false, Ordering::SeqCst) {
            tracing::info!("the webhook authoriser answers again");
        }
        let ttl = said.ttl.map_or(self.ttl, Duration::from_secs).min(self.ttl_max);
        Ok(Answer { allow: said.allow, asked, until: asked + ttl })
    }

    fn failed(&self, failure: &Failure) {
        self.metrics.failed(failure);
        if *failure == Failure::TooLong || self.failing.swap(true, Ordering::SeqCst) {
            tracing::debug!(%failure, "the webhook authoriser grants nothing");
        } else {
            tracing::warn!(%failure, "the webhook authoriser grants nothing; what only it could grant is refused");
        }
    }
}

/// A question's place among those under way, which it leaves when it has its answer, or when nobody waits for it any
/// more.
struct Place {
    inner: Arc<Inner>,
    question: Question,
    number: u64,
}

impl Place {
    async fn ask(self) -> Result<Answer, Refused> {
        let answer = self.inner.ask(&self.question).await;
        self.leave(answer.ok());
        answer
    }

    fn leave(&self, answer: Option<Answer>) {
        let mut state = self.inner.state.lock();
        if state.under_way.get(&self.question.key).is_none_or(|(number, _)| *number != self.number) {
            return;
        }
        state.under_way.remove(&self.question.key);
        let now = Instant::now();
        if let Some(answer) = answer.filter(|answer| answer.until > now) {
            state.known.put(self.question.key, answer, |answer| answer.until > now);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.leave(None);
    }
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhook").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
