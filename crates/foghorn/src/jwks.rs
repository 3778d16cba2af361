//! The keys of tokens that are had by URL: fetched when they are due, for as long as the process runs.

mod source;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use foghorn_auth::Authenticator;
use foghorn_auth::config::Config;
use foghorn_auth::jwks::{Jwks, Set};

use crate::process::{Misconfigured, Process};
use source::Source;

/// How long a fetch may take in all.
const DEADLINE: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Of {
    set: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Fetched {
    set: String,
    outcome: &'static str,
}

#[derive(Debug, Clone, Default)]
struct Metrics {
    fetches: Family<Fetched, Counter>,
    fetched: Family<Of, Gauge>,
    keys: Family<Of, Gauge>,
    skipped: Family<Of, Gauge>,
}

impl Metrics {
    fn register(registry: &mut Registry) -> Self {
        let metrics = Metrics::default();
        let registry = registry.sub_registry_with_prefix("foghorn_auth_jwks");
        let by_outcome =
            "Fetches of keys by URL: fetched, unreachable, or unusable (an answer without a key for us)";
        registry.register("fetches", by_outcome, metrics.fetches.clone());
        registry.register(
            "fetched_timestamp_seconds",
            "When the keys in use were fetched, in seconds since 1970: time() less this is their age",
            metrics.fetched.clone(),
        );
        registry.register("keys", "Keys in use", metrics.keys.clone());
        registry.register(
            "skipped",
            "Members of the set in use that are no keys for us",
            metrics.skipped.clone(),
        );
        metrics
    }
}

/// What is wrong with the sets of a configuration, as far as it is seen without fetching them.
pub(crate) fn check(config: &Config) -> Result<(), String> {
    config.jwks.iter().try_for_each(|jwks| Source::new(jwks).map(|_| ()))
}

/// Fetches the sets that `auth` verifies with, now and whenever they are due, until the process ends.
pub(crate) fn follow(auth: &Authenticator, process: &Process) -> Result<(), Misconfigured> {
    let jwks = auth.jwks();
    if jwks.sets().is_empty() {
        return Ok(());
    }
    let metrics = Metrics::register(&mut process.registry.write());
    for set in jwks.sets() {
        let source = Source::new(set.config()).map_err(Misconfigured)?;
        let following = Following {
            name: source.name(),
            source,
            set: set.clone(),
            jwks: jwks.clone(),
            metrics: metrics.clone(),
        };
        tokio::spawn(following.run());
    }
    Ok(())
}

struct Following {
    /// Its URL without scheme and query, as metrics and logs have it.
    name: String,
    source: Source,
    set: Arc<Set>,
    jwks: Arc<Jwks>,
    metrics: Metrics,
}

impl Following {
    async fn run(self) {
        let mut failing = false;
        loop {
            self.set.due().await;
            let outcome = self.fetch().await;
            self.jwks.fetched();
            let label = Fetched {
                set: self.name.clone(),
                outcome: outcome.as_ref().map_or_else(|(what, _)| *what, |()| "fetched"),
            };
            self.metrics.fetches.get_or_create(&label).inc();
            let of = Of { set: self.name.clone() };
            self.metrics.keys.get_or_create(&of).set(i64::try_from(self.set.len()).unwrap_or(i64::MAX));
            let failed = outcome.err();
            if let Some((_, error)) = &failed
                && !failing
            {
                tracing::warn!(
                    set = self.name,
                    error,
                    keys = self.set.len(),
                    "can't fetch the keys of tokens; those that are known go on serving"
                );
            }
            failing = failed.is_some();
        }
    }

    /// What it is counted as, and why, when it brings no keys.
    async fn fetch(&self) -> Result<(), (&'static str, String)> {
        let fetched = tokio::time::timeout(DEADLINE, self.source.fetch()).await;
        let answer = fetched.unwrap_or_else(|_| Err(format!("no answer within {DEADLINE:?}")));
        let answer = answer.map_err(|error| {
            self.set.failed();
            ("unreachable", error)
        })?;
        let taken = self.set.took(&answer.body, answer.holds).map_err(|error| ("unusable", error))?;
        let of = Of { set: self.name.clone() };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        self.metrics.fetched.get_or_create(&of).set(i64::try_from(now).unwrap_or(i64::MAX));
        self.metrics.skipped.get_or_create(&of).set(i64::try_from(taken.skipped).unwrap_or(i64::MAX));
        if taken.new > 0 || taken.removed > 0 {
            let (keys, new, removed, skipped) = (taken.keys, taken.new, taken.removed, taken.skipped);
            tracing::info!(set = self.name, keys, new, removed, skipped, "the keys of tokens have changed");
        }
        Ok(())
    }
}
