//! What an operator counts.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::resolve::Verdict;

/// Whether a word is for a verdict.
type IsMeant = fn(&Verdict) -> bool;

/// Every word for what is said of an object.
const WORDS: [(&str, IsMeant); 3] = [
    ("accepted", |verdict| matches!(verdict, Verdict::Accepted { .. })),
    ("conflict", |verdict| matches!(verdict, Verdict::Conflict(_))),
    ("invalid", |verdict| matches!(verdict, Verdict::Invalid(_))),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VerdictLabel {
    verdict: &'static str,
}

/// The operator's metrics.
#[derive(Debug, Clone, Default)]
pub(crate) struct Metrics {
    pub(crate) leader: Gauge,
    pub(crate) rounds: Counter,
    pub(crate) failures: Counter,
    pub(crate) published: Counter,
    objects: Family<VerdictLabel, Gauge>,
}

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Metrics::default();
        let registry = registry.sub_registry_with_prefix("foghorn_operator");
        registry.register("leader", "1 while this replica leads", metrics.leader.clone());
        registry.register("rounds", "Rounds over all objects", metrics.rounds.clone());
        registry.register("failures", "Rounds that failed and were tried again", metrics.failures.clone());
        registry.register(
            "published",
            "Documents of policies written for services",
            metrics.published.clone(),
        );
        registry.register("objects", "ChannelPolicies, by what is said of them", metrics.objects.clone());
        metrics.decided(&[]);
        metrics
    }

    pub(crate) fn decided(&self, verdicts: &[Verdict]) {
        for (word, is_meant) in WORDS {
            let count = verdicts.iter().filter(|verdict| is_meant(verdict)).count();
            let label = VerdictLabel { verdict: word };
            self.objects.get_or_create(&label).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }
}
