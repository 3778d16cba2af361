//! What streams ask of the event log: only so much at a time, and what several ask at once is asked once.
//!
//! When a gateway has lost what it held and all its clients come back, most of them ask the same.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared, WeakShared};
use parking_lot::Mutex;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use foghorn_bus::log::{EventLog, LogError, Replay, ReplayQuery};
use foghorn_core::batch::Batch;
use foghorn_core::pattern::Pattern;
use foghorn_core::position::{Digest, Epoch};
use foghorn_core::reason::ResetReason;
use foghorn_core::shard::Shard;

use crate::metrics::{How, Metrics};

/// For how long a page is given to whoever else asks for it: it might have been on its way for as long.
const KEPT_FOR: Duration = Duration::from_millis(500);
/// Bytes of all pages that are kept for that. Past it the oldest are forgotten sooner.
const KEPT_BYTES: usize = 16 << 20;

/// What a catch-up asks of the event log.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Question {
    pub(crate) shard: Shard,
    /// The epoch that `after` is of.
    pub(crate) epoch: Epoch,
    /// Events after this seq.
    pub(crate) after: u64,
    /// Only events on these.
    pub(crate) topics: Arc<[Pattern]>,
    /// Most events of the page.
    pub(crate) events: usize,
    /// About the most bytes of it.
    pub(crate) bytes: usize,
}

/// What the event log says, for all who asked.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    /// See [`Replay::Page`].
    Page(Arc<Batch>),
    /// See [`Replay::Reset`].
    Reset { reason: ResetReason, epoch: Epoch, after: u64 },
}

/// The way to the event log for all streams of a gateway. Clones are the same.
#[derive(Clone)]
pub(crate) struct Replays(Arc<Inner>);

struct Inner {
    log: Arc<dyn EventLog>,
    turns: Semaphore,
    metrics: Metrics,
    answers: Mutex<Answers>,
}

type UnderWay = Shared<BoxFuture<'static, Result<Answer, LogError>>>;

/// Answers that are awaited, one at most for each stream, and those that are kept, bounded in bytes.
#[derive(Default)]
struct Answers {
    of: HashMap<Question, Known>,
    /// Pages that are kept, the oldest first, with their bytes.
    kept: VecDeque<(Instant, Question, usize)>,
    kept_bytes: usize,
    next_number: u64,
}

enum Known {
    /// Somebody has asked and waits, or did.
    UnderWay {
        number: u64,
        answer: WeakShared<BoxFuture<'static, Result<Answer, LogError>>>,
    },
    Kept(Arc<Batch>),
}

impl Replays {
    /// At most `most` questions to `log` at a time.
    pub(crate) fn new(log: Arc<dyn EventLog>, most: usize, metrics: Metrics) -> Self {
        let turns = Semaphore::new(most);
        Replays(Arc::new(Inner { log, turns, metrics, answers: Mutex::default() }))
    }

    /// Waits for a turn at the event log; until it is dropped nobody else has it.
    pub(crate) async fn turn(&self) -> Result<SemaphorePermit<'_>, LogError> {
        self.0.turn().await
    }

    /// The answer to a question: that of whoever asks or has just asked the same, or else the event log's. A failure
    /// is that of all who waited for the answer, and of nobody who asks after it.
    pub(crate) async fn ask(&self, question: Question) -> Result<Answer, LogError> {
        match self.join(question) {
            Ok(page) => Ok(Answer::Page(page)),
            Err(under_way) => under_way.await,
        }
    }

    /// A page that is kept, or an answer to wait for.
    fn join(&self, question: Question) -> Result<Arc<Batch>, UnderWay> {
        let inner = &self.0;
        let mut answers = inner.answers.lock();
        answers.forget_old();
        let shared = match answers.of.get(&question) {
            Some(Known::Kept(page)) => Some(Ok(page.clone())),
            // None when nobody waits for it any more.
            Some(Known::UnderWay { answer, .. }) => answer.upgrade().map(Err),
            None => None,
        };
        if let Some(shared) = shared {
            inner.metrics.replay(How::Shared);
            return shared;
        }
        answers.next_number += 1;
        let number = answers.next_number;
        let place = Place { inner: inner.clone(), question: question.clone(), number };
        let asking = place.ask().boxed().shared();
        if let Some(answer) = asking.downgrade() {
            answers.of.insert(question, Known::UnderWay { number, answer });
        }
        Err(asking)
    }
}

impl Inner {
    async fn turn(&self) -> Result<SemaphorePermit<'_>, LogError> {
        let _waiting = Waiting::new(&self.metrics.replays_waiting);
        self.turns.acquire().await.map_err(|closed| LogError(closed.to_string()))
    }
}

impl Answers {
    fn forget_old(&mut self) {
        while let Some((since, ..)) = self.kept.front()
            && (since.elapsed() >= KEPT_FOR || self.kept_bytes > KEPT_BYTES)
            && let Some((_, question, bytes)) = self.kept.pop_front()
        {
            self.of.remove(&question);
            self.kept_bytes -= bytes;
        }
    }

    fn keep(&mut self, question: &Question, page: Arc<Batch>) {
        let bytes = page.wire_len();
        self.kept_bytes += bytes;
        self.kept.push_back((Instant::now(), question.clone(), bytes));
        self.of.insert(question.clone(), Known::Kept(page));
        self.forget_old();
    }
}

/// An answer's place among those awaited, which it leaves when it is there, or when nobody waits for it any more.
struct Place {
    inner: Arc<Inner>,
    question: Question,
    number: u64,
}

impl Place {
    async fn ask(self) -> Result<Answer, LogError> {
        let turn = self.inner.turn().await?;
        self.inner.metrics.replay(How::Asked);
        let answer = self.inner.log.replay(self.question.to_query()).await;
        drop(turn);
        match answer {
            Ok(Replay::Page(page)) => {
                let page = Arc::new(page);
                // What is not there yet may be a moment later.
                if page.to > page.from {
                    self.leave(Some(page.clone()));
                }
                Ok(Answer::Page(page))
            }
            Ok(Replay::Reset { reason, epoch, after }) => Ok(Answer::Reset { reason, epoch, after }),
            Err(error) => {
                self.inner.metrics.log_failed();
                Err(error)
            }
        }
    }

    fn leave(&self, page: Option<Arc<Batch>>) {
        let mut answers = self.inner.answers.lock();
        let here = |known: &Known| matches!(known, Known::UnderWay { number, .. } if *number == self.number);
        if answers.of.get(&self.question).is_some_and(here) {
            answers.of.remove(&self.question);
            if let Some(page) = page {
                answers.keep(&self.question, page);
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.leave(None);
    }
}

impl Question {
    fn to_query(&self) -> ReplayQuery {
        ReplayQuery {
            shard: self.shard,
            epoch: self.epoch,
            after: self.after,
            digest: Digest::NONE,
            topics: self.topics.clone(),
            events: self.events,
            bytes: self.bytes,
            fill: false,
        }
    }
}

/// Counts one who waits.
struct Waiting<'a>(&'a Gauge);

impl<'a> Waiting<'a> {
    fn new(gauge: &'a Gauge) -> Self {
        gauge.inc();
        Waiting(gauge)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests;
