//! Several events at a time, in order: a channel's events one run after the other (what came while the
//! last run was under way), different channels side by side, and the answers in the order of the
//! questions.
//!
//! An event that fails in a way that a retry can heal takes those of its channel that wait behind it with
//! it: stored after it, they would be before it once it is retried.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt as _};

use foghorn_core::channel::Channel;

use crate::error::PublishError;
use crate::publish::{Accepted, Checked, Door, Published, Publisher, Run};

/// Most events, and about the most bytes of data, that go to the journal in one run: what one transaction
/// of standalone takes.
const RUN_EVENTS: usize = 256;
const RUN_BYTES: usize = 1 << 20;

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
    /// Channels with a run under way or soon to be, and what waits for it or behind it.
    busy: HashMap<Channel, VecDeque<(u64, Checked)>>,
    /// Channels without a run under way: each waits for one of the places.
    ready: VecDeque<Channel>,
    runs: usize,
    steps: FuturesUnordered<BoxFuture<'static, Step>>,
    broken: Option<PublishError>,
}

enum Step {
    Appended { number: u64, result: Result<Accepted, PublishError>, channel: Channel, rest: Box<Numbered> },
    Settled { number: u64, answer: Answer },
}

/// A run, and the numbers of its events without an answer.
struct Numbered {
    run: Run,
    numbers: VecDeque<u64>,
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
            runs: 0,
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
                let channel = checked.channel();
                if !self.busy.contains_key(channel) {
                    self.ready.push_back(channel.clone());
                }
                self.busy.entry(channel.clone()).or_default().push_back((number, checked));
            }
        }
    }

    /// Waits until something has moved; `false` when nothing is on its way. Cancel-safe.
    pub(crate) async fn step(&mut self) -> bool {
        self.fill_places();
        match self.steps.next().await {
            None => return false,
            Some(Step::Settled { number, answer }) => self.answer(number, answer),
            Some(Step::Appended { number, result, channel, rest }) => {
                self.appended(number, &channel, result);
                self.go_on(channel, rest);
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
        !self.steps.is_empty() || !self.ready.is_empty()
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
                    let waiting = self.busy.get_mut(channel).map(std::mem::take);
                    for (waiting, _) in waiting.unwrap_or_default() {
                        let not_tried = error.not_tried();
                        self.publisher.refused(self.door, &not_tried);
                        self.answer(waiting, Err(not_tried));
                    }
                    // The first says why; those of its run that come after only that they were not tried.
                    self.broken.get_or_insert_with(|| error.clone());
                }
                self.answer(number, Err(error));
            }
        }
    }

    fn fill_places(&mut self) {
        while self.runs < self.publisher.config.parallel_appends {
            let Some(channel) = self.ready.pop_front() else { return };
            let waiting = self.busy.get_mut(&channel).map(next_run);
            let (numbers, events) = waiting.into_iter().flatten().unzip();
            let run = self.publisher.append_in_order(self.door, events);
            self.runs += 1;
            self.go_on(channel, Box::new(Numbered { run, numbers }));
        }
    }

    /// Waits for the run's next answer; after the last the channel's next run may begin.
    fn go_on(&mut self, channel: Channel, mut rest: Box<Numbered>) {
        let Some(number) = rest.numbers.pop_front() else {
            self.runs -= 1;
            match self.busy.get(&channel) {
                Some(waiting) if !waiting.is_empty() => self.ready.push_back(channel),
                _ => drop(self.busy.remove(&channel)),
            }
            return;
        };
        let publisher = self.publisher.clone();
        self.steps.push(Box::pin(async move {
            let result = rest.run.next(&publisher).await.unwrap_or_else(|| Err(PublishError::draining()));
            Step::Appended { number, result, channel, rest }
        }));
    }

    fn answer(&mut self, number: u64, answer: Answer) {
        let at = usize::try_from(number - self.front).unwrap_or(usize::MAX);
        if let Some(slot) = self.answers.get_mut(at) {
            *slot = Some(answer);
        }
    }
}

/// What goes into the journal next of what waits: at least one event, within the bounds of a run.
fn next_run(waiting: &mut VecDeque<(u64, Checked)>) -> Vec<(u64, Checked)> {
    let mut bytes = 0;
    let fitting = waiting.iter().take(RUN_EVENTS).take_while(|(_, checked)| {
        bytes += checked.bytes();
        bytes <= RUN_BYTES
    });
    let events = fitting.count().max(1).min(waiting.len());
    waiting.drain(..events).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use foghorn_bus::journal::AppendError;
    use futures::FutureExt as _;
    use tokio::sync::Semaphore;
    use tokio::time::Instant;

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
        let by = foghorn_auth::Caller::Unchecked.into();
        bench.publisher.check(Door::Grpc, &by, input).now_or_never().unwrap()
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
        assert_eq!(bench.journal.runs(), 5, "what waits goes together");
    }

    #[tokio::test]
    async fn what_waits_behind_a_failed_append_does_not_overtake_it() {
        let bench = bench(Config::default());
        bench.journal.failing.lock().insert("a".into(), AppendError::Unavailable("down".into()));
        bench.journal.failing.lock().insert("c".into(), AppendError::Refused("no".into()));
        let asked = [("a", "1"), ("b", "2"), ("a", "3"), ("c", "4"), ("c", "5"), ("b", "6")];
        let events = asked.iter().map(|(channel, data)| event(&bench, channel, data)).collect();
        let answers = Pipeline::run(bench.publisher.clone(), Door::Grpc, events).await;
        let (down, no) = ("journal-unavailable", "journal-refused");
        assert_eq!(codes(&answers), [down, "ok", down, no, no, "ok"]);
        assert!(answers[2].as_ref().unwrap_err().message.starts_with("not tried"));
        assert!(!answers[4].as_ref().unwrap_err().message.starts_with("not tried"), "a retry can't heal it");
    }
    fn codes(answers: &[Answer]) -> Vec<&str> {
        answers.iter().map(|answer| answer.as_ref().map_or_else(|error| error.code, |_| "ok")).collect()
    }

    fn data(bench: &Bench) -> Vec<String> {
        bench.journal.stored().into_iter().map(|(_, data)| data).collect()
    }

    #[tokio::test]
    async fn a_run_ends_at_a_failure_and_its_cause_is_what_broke() {
        let bench = bench(Config::default());
        bench.journal.failing.lock().insert("2".into(), AppendError::Refused("no".into()));
        bench.journal.failing.lock().insert("4".into(), AppendError::Unavailable("down".into()));
        let mut pipeline = Pipeline::new(bench.publisher.clone(), Door::Grpc);
        for n in 1..=6 {
            pipeline.push(event(&bench, "a", &n.to_string()));
        }
        while pipeline.step().await {}
        let answers: Vec<Answer> = std::iter::from_fn(|| pipeline.take()).collect();
        let down = "journal-unavailable";
        assert_eq!(codes(&answers), ["ok", "journal-refused", "ok", down, down, down]);
        assert_eq!(data(&bench), ["1", "3"]);
        assert_eq!(bench.journal.runs(), 1);
        let messages: Vec<_> = answers.iter().skip(3).map(|a| &a.as_ref().unwrap_err().message).collect();
        let not_tried: Vec<_> = messages.iter().map(|text| text.matches("not tried").count()).collect();
        assert_eq!(not_tried, [0, 1, 1]);
        assert_eq!(pipeline.broken().map(|error| &error.message), Some(messages[0]));
    }

    #[tokio::test(start_paused = true)]
    async fn an_ack_that_never_comes_ends_the_run_at_one_deadline() {
        let bench = bench(Config::default());
        bench.journal.gate.forget_permits(Semaphore::MAX_PERMITS);
        bench.journal.gate.add_permits(1);
        let events = ["1", "2", "3", "4"].map(|data| event(&bench, "a", data)).into();
        let began = Instant::now();
        let answers = Pipeline::run(bench.publisher.clone(), Door::Grpc, events).await;
        let down = "journal-unavailable";
        assert_eq!(codes(&answers), ["ok", down, down, down]);
        assert_eq!(began.elapsed().as_secs(), Config::default().publish_deadline.as_secs());
        bench.journal.gate.add_permits(100);
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(data(&bench), ["1"], "what was given up is no longer on its way");
    }

    #[tokio::test]
    async fn runs_are_bounded_and_a_hot_channel_leaves_the_others_their_turn() {
        let bench = bench(Config { parallel_appends: 1, ..Config::default() });
        let mut events: Vec<_> = (0..600).map(|n| event(&bench, "hot", &n.to_string())).collect();
        events.push(event(&bench, "cold", "me too"));
        let answers = Pipeline::run(bench.publisher.clone(), Door::Grpc, events).await;
        assert!(answers.iter().all(Result::is_ok));
        let turn = data(&bench).iter().position(|data| data == "me too");
        assert_eq!(turn, Some(RUN_EVENTS), "after one run");
        assert_eq!(bench.journal.runs(), 3 + 1);
        let large = "x".repeat(RUN_BYTES / 5);
        let events = (0..11).map(|_| event(&bench, "large", &large)).collect();
        Pipeline::run(bench.publisher.clone(), Door::Grpc, events).await;
        assert_eq!(bench.journal.runs(), 4 + 3, "five fit");
    }

    #[tokio::test]
    async fn a_step_that_is_dropped_loses_nothing() {
        let bench = bench(Config { parallel_appends: 2, ..Config::default() });
        bench.journal.gate.forget_permits(Semaphore::MAX_PERMITS);
        let mut pipeline = Pipeline::new(bench.publisher.clone(), Door::Grpc);
        for n in 0..300 {
            pipeline.push(event(&bench, ["a", "b", "c"][n % 3], &n.to_string()));
        }
        let mut answers = Vec::new();
        while pipeline.is_working() {
            // Dropped at once unless something has moved already.
            if pipeline.step().now_or_never().is_none() {
                bench.journal.gate.add_permits(1);
                tokio::task::yield_now().await;
            }
            answers.extend(std::iter::from_fn(|| pipeline.take()));
        }
        assert_eq!(answers.len(), 300);
        let stored = bench.journal.stored();
        assert_eq!(stored.len(), 300);
        for (n, answer) in answers.iter().enumerate() {
            let seq = usize::try_from(answer.as_ref().unwrap().position.seq).unwrap();
            assert_eq!(stored[seq - 1].1, n.to_string());
        }
        for channel in ["a", "b", "c"] {
            let of_channel = stored.iter().filter(|(c, _)| c == channel);
            assert!(of_channel.map(|(_, n)| n.parse::<u32>().unwrap()).is_sorted());
        }
    }
}
