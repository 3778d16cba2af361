//! What is counted of the webhook.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use super::answer::Failure;

/// Where an answer comes from.
#[derive(Debug, Clone, Copy)]
pub(super) enum From {
    Cache,
    Flight,
    Webhook,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Source {
    from: &'static str,
}

pub(super) struct Metrics {
    questions: Family<Outcome, Counter>,
    answers: Family<Source, Counter>,
    seconds: Histogram,
    under_way: Gauge,
    pub(super) forgotten: Counter,
}

impl From {
    const fn as_str(self) -> &'static str {
        match self {
            From::Cache => "cache",
            From::Flight => "flight",
            From::Webhook => "webhook",
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Metrics {
            questions: Family::default(),
            answers: Family::default(),
            // From 1 ms to 16 s.
            seconds: Histogram::new(exponential_buckets(0.001, 2.0, 15)),
            under_way: Gauge::default(),
            forgotten: Counter::default(),
        };
        for outcome in ["allowed", "denied"].into_iter().chain(Failure::WORDS) {
            drop(metrics.questions.get_or_create(&Outcome { outcome }));
        }
        for from in [From::Cache, From::Flight, From::Webhook].map(From::as_str) {
            drop(metrics.answers.get_or_create(&Source { from }));
        }
        metrics
    }
}

impl Metrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("webhook");
        let by_outcome =
            "Questions to the webhook authoriser by what came of them: allowed, denied, or why nothing did";
        registry.register("questions", by_outcome, self.questions.clone());
        let by_source = "What was left to the webhook authoriser, by where the answer came from: cache, flight (others had asked), webhook";
        registry.register("answers", by_source, self.answers.clone());
        registry.register(
            "question_seconds",
            "From a question to its good answer, waiting for a turn included",
            self.seconds.clone(),
        );
        registry.register("under_way", "Questions under way or waiting for a turn", self.under_way.clone());
        registry.register(
            "answers_forgotten",
            "Answers that were forgotten for want of room though they still held",
            self.forgotten.clone(),
        );
    }

    pub(super) fn answered(&self, from: From) {
        self.answers.get_or_create(&Source { from: from.as_str() }).inc();
    }

    pub(super) fn said(&self, allowed: bool, after: Duration) {
        let outcome = if allowed { "allowed" } else { "denied" };
        self.questions.get_or_create(&Outcome { outcome }).inc();
        self.seconds.observe(after.as_secs_f64());
    }

    pub(super) fn failed(&self, failure: &Failure) {
        self.questions.get_or_create(&Outcome { outcome: failure.as_str() }).inc();
    }

    /// Counts a question as under way until it is dropped.
    pub(super) fn waiting(&self) -> impl Drop + use<> {
        self.under_way.inc();
        UnderWay(self.under_way.clone())
    }
}

struct UnderWay(Gauge);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.dec();
    }
}
