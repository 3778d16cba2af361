//! Several events at a time, in order: one append of a channel under way, different channels side by
//! side, and the answers in the order of the questions.
//!
//! An append that fails in a way that a retry can heal takes the channel's waiting events with it:
//! stored after it, they would be before it once it is retried.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt as _};

use foghorn_core::channel::Channel;

use crate::error::PublishError;
use crate::publish::{Accepted, Checked, Door, Published, Publisher};

/// An answer.
pub(crate) type Answer = Result<Published, PublishError>;

/// Events on their way, in the order they were given. Nothing moves but in [`step`](Self::step).
pub(crate) struct Pipeline {
    publisher: Arc<Publisher>,
    door: Door,
    /// Answers, as far as they are known; the front is the next to be given out.
    answers: VecDeque<Option<Answer>>,
    /// The number of the event whose answer is in front.
    front: u64,
    /// Channels with an event on its way, and what waits behind it.
    busy: HashMap<Channel, VecDeque<(u64, Checked)>>,
    /// Next in their channels, waiting for one of the places for appends.
    ready: VecDeque<(u64, Checked)>,
    appends: usize,
    steps: FuturesUnordered<BoxFuture<'static, Step>>,
    broken: Option<PublishError>,
}

enum Step {
    Appended { number: u64, channel: Channel, result: Result<Accepted, PublishError> },
    Settled { number: u64, answer: Answer },
}

impl Pipeline {
    pub(crate) fn new(publisher: Arc<Publisher>, door: Door) -> Self {
        Pipeline {
            publisher,
            door,
            answers: VecDeque::new(),
            front: 0,
            busy: HashMap::new(),
            ready: VecDeque::new(),
            appends: 0,
            steps: FuturesUnordered::new(),
            broken: None,
        }
    }

    /// Publishes all of `events` and gives the answers in their order.
    pub(crate) async fn run(
        publisher: Arc<Publisher>,
        door: Door,
        events: Vec<Result<Checked, PublishError>>,
    ) -> Vec<Answer> {
        let mut pipeline = Pipeline::new(publisher, door);
        let mut answers = Vec::with_capacity(events.len());
        for event in events {
            pipeline.push(event);
        }
        while pipeline.step().await {}
        answers.extend(std::iter::from_fn(|| pipeline.take()));
        answers
    }

    /// Takes the next event, or the answer to one that can't be published.
    pub(crate) fn push(&mut self, event: Result<Checked, PublishError>) {
        let number = self.front + self.answers.len() as u64;
        match event {
            Err(error) => self.answers.push_back(Some(Err(error))),
            Ok(checked) => {
                self.answers.push_back(None);
                if let Some(waiting) = self.busy.get_mut(checked.channel()) {
                    waiting.push_back((number, checked));
                } else {
                    self.busy.insert(checked.channel().clone(), VecDeque::new());
                    self.ready.push_back((number, checked));
                    self.fill_places();
                }
            }
        }
    }

    /// Waits until something has moved; `false` when nothing is on its way. Cancel-safe.
    pub(crate) async fn step(&mut self) -> bool {
        match self.steps.next().await {
            None => return false,
            Some(Step::Settled { number, answer }) => self.answer(number, answer),
            Some(Step::Appended { number, channel, result }) => {
                self.appends -= 1;
                self.appended(number, &channel, result);
                self.fill_places();
            }
        }
        true
    }

    /// The next answer, if it is known.
    pub(crate) fn take(&mut self) -> Option<Answer> {
        if !self.has_answer() {
            return None;
        }
        self.front += 1;
        self.answers.pop_front().flatten()
    }

    /// Whether the next answer is known.
    pub(crate) fn has_answer(&self) -> bool {
        matches!(self.answers.front(), Some(Some(_)))
    }

    /// Whether anything is on its way.
    pub(crate) fn is_working(&self) -> bool {
        !self.steps.is_empty()
    }

    /// Events without an answer given out.
    pub(crate) fn len(&self) -> usize {
        self.answers.len()
    }

    /// What the journal failed with, if it did: events taken from now on could overtake the failed one.
    pub(crate) fn broken(&self) -> Option<&PublishError> {
        self.broken.as_ref()
    }

    fn appended(&mut self, number: u64, channel: &Channel, result: Result<Accepted, PublishError>) {
        match result {
            Ok(accepted) if !accepted.waits() => {
                let published = self.publisher.finish(self.door, accepted, None);
                self.answer(number, Ok(published));
            }
            Ok(accepted) => {
                let (publisher, door) = (self.publisher.clone(), self.door);
                let settle =
                    async move { Step::Settled { number, answer: publisher.settle(door, accepted).await } };
                self.steps.push(Box::pin(settle));
            }
            Err(error) => {
                if error.retryable {
                    for (waiting, _) in self.busy.remove(channel).unwrap_or_default() {
                        let not_tried = error.not_tried();
                        self.publisher.refused(self.door, &not_tried);
                        self.answer(waiting, Err(not_tried));
                    }
                    self.broken = Some(error.clone());
                }
                self.answer(number, Err(error));
            }
        }
        match self.busy.get_mut(channel).and_then(VecDeque::pop_front) {
            Some(next) => self.ready.push_back(next),
            None => drop(self.busy.remove(channel)),
        }
    }

    fn fill_places(&mut self) {
        while self.appends < self.publisher.config.parallel_appends {
            let Some((number, checked)) = self.ready.pop_front() else { return };
            self.appends += 1;
            let (publisher, door) = (self.publisher.clone(), self.door);
            self.steps.push(Box::pin(async move {
                let channel = checked.channel().clone();
                Step::Appended { number, channel, result: publisher.append(door, checked).await }
            }));
        }
    }

    fn answer(&mut self, number: u64, answer: Answer) {
        let at = usize::try_from(number - self.front).unwrap_or(usize::MAX);
        if let Some(slot) = self.answers.get_mut(at) {
            *slot = Some(answer);
        }
    }
}

#[cfg(test)]
mod tests {
    use foghorn_bus::journal::AppendError;

    use super::*;
    use crate::config::Config;
    use crate::publish::{Ack, PublishInput, Target};
    use crate::testing::{Bench, bench};

    fn event(bench: &Bench, channel: &str, data: &str) -> Result<Checked, PublishError> {
        let input = PublishInput {
            target: Target::Channel(channel.into()),
            event: None,
            data: data.to_owned().into(),
            id: None,
            ttl: None,
            ack: Ack::Accepted,
            traceparent: None,
        };
        bench.publisher.check(Door::Grpc, input)
    }

    #[tokio::test]
    async fn channels_keep_their_order_and_answers_that_of_the_questions() {
        let bench = bench(Config { parallel_appends: 3, ..Config::default() });
        let asked: Vec<(String, String)> =
            (0..500).map(|n| (format!("c{}", n * 7 % 5), n.to_string())).collect();
        let mut events: Vec<_> = asked.iter().map(|(channel, data)| event(&bench, channel, data)).collect();
        events.insert(100, event(&bench, "a..b", ""));
        let mut answers = Pipeline::run(bench.publisher.clone(), Door::Grpc, events).await;
        assert_eq!(answers.remove(100).unwrap_err().code, "bad-channel");
        let stored = bench.journal.stored();
        for ((channel, data), answer) in asked.iter().zip(&answers) {
            let seq = usize::try_from(answer.as_ref().unwrap().position.seq).unwrap();
            assert_eq!(stored[seq - 1], (channel.clone(), data.clone()));
        }
        for channel in ["c0", "c1", "c2", "c3", "c4"] {
            let of = |all: &[(String, String)]| {
                all.iter().filter(|(c, _)| c == channel).map(|(_, d)| d.clone()).collect::<Vec<_>>()
            };
            assert_eq!(of(&stored), of(&asked));
        }
        assert_eq!(bench.journal.most_at_once(), 1, "one append a channel at a time");
    }

    #[tokio::test]
    async fn what_waits_behind_a_failed_append_does_not_overtake_it() {
        let bench = bench(Config::default());
        bench.journal.failing.lock().insert("a".into(), AppendError::Unavailable("down".into()));
        bench.journal.failing.lock().insert("c".into(), AppendError::Refused("no".into()));
        let asked = [("a", "1"), ("b", "2"), ("a", "3"), ("c", "4"), ("c", "5"), ("b", "6")];
        let events = asked.iter().map(|(channel, data)| event(&bench, channel, data)).collect();
        let answers = Pipeline::run(bench.publisher.clone(), Door::Grpc, events).await;
        let codes: Vec<_> = answers.iter().map(|a| a.as_ref().map_or_else(|e| e.code, |_| "ok")).collect();
        let (down, no) = ("journal-unavailable", "journal-refused");
        assert_eq!(codes, [down, "ok", down, no, no, "ok"]);
        assert!(answers[2].as_ref().unwrap_err().message.starts_with("not tried"));
        assert!(!answers[4].as_ref().unwrap_err().message.starts_with("not tried"), "a retry can't heal it");
    }
}
