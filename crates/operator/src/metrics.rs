//! What an operator counts.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::pace::{REASONS, Summary};
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

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PhaseLabel {
    phase: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

/// The operator's metrics.
#[derive(Debug, Clone, Default)]
pub(crate) struct Metrics {
    pub(crate) leader: Gauge,
    pub(crate) rounds: Counter,
    pub(crate) failures: Counter,
    pub(crate) published: Counter,
    pub(crate) pacing_failures: Counter,
    objects: Family<VerdictLabel, Gauge>,
    gateways: Family<PhaseLabel, Gauge>,
    paced: Family<ReasonLabel, Counter>,
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
        registry.register(
            "pacing_failures",
            "Looks at gateways' pods and fleet that failed and were tried again",
            metrics.pacing_failures.clone(),
        );
        registry.register("gateways", "Gateways that report, by how far they are", metrics.gateways.clone());
        registry.register("paced", "What gateways were told, by its event's reason", metrics.paced.clone());
        metrics.decided(&[]);
        metrics.paced(&Summary::default(), [0; REASONS.len()]);
        metrics
    }

    /// Another may lead, and says all of this.
    pub(crate) fn leads_no_more(&self) {
        self.leader.set(0);
        self.paced(&Summary::default(), [0; REASONS.len()]);
    }

    pub(crate) fn paced(&self, summary: &Summary, counted: [u64; REASONS.len()]) {
        let leaving = summary.waiting.len() + summary.draining.len();
        let serving = usize::try_from(summary.gateways).unwrap_or(usize::MAX).saturating_sub(leaving);
        let phases =
            [("serving", serving), ("waiting", summary.waiting.len()), ("draining", summary.draining.len())];
        for (phase, count) in phases {
            self.gateways.get_or_create(&PhaseLabel { phase }).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        for (reason, count) in REASONS.into_iter().zip(counted) {
            self.paced.get_or_create(&ReasonLabel { reason }).inc_by(count);
        }
    }

    pub(crate) fn decided(&self, verdicts: &[Verdict]) {
        for (word, is_meant) in WORDS {
            let count = verdicts.iter().filter(|verdict| is_meant(verdict)).count();
            let label = VerdictLabel { verdict: word };
            self.objects.get_or_create(&label).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }
}
