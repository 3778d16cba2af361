//! Readiness, as a list of what is still missing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Collects what keeps a process from being ready. Fails closed: a part is registered not ready and
/// says when it is. Cheap to clone; all clones are one.
#[derive(Debug, Clone, Default)]
pub struct Health {
    parts: Arc<Mutex<BTreeMap<String, Option<String>>>>,
}

/// One thing that must be in order for the process to be ready.
#[derive(Debug, Clone)]
pub struct Part {
    name: String,
    health: Health,
}

/// A part that can be lost after it was ready. A failure is not a loss yet: readiness that flaps sends
/// clients to and fro, and when all replicas are unready at once there is none left to answer. So it takes
/// nothing but failures for a while, and one success to be ready again.
#[derive(Debug)]
pub struct Watched {
    part: Part,
    lost_after: Duration,
    failing_since: Option<Instant>,
    lost: bool,
}

impl Health {
    /// Registers a part that is not ready because of `waiting_for`.
    pub fn part(&self, name: impl Into<String>, waiting_for: impl Into<String>) -> Part {
        let part = Part { name: name.into(), health: self.clone() };
        part.not_ready(waiting_for);
        part
    }

    /// What is missing, by part; empty when ready.
    pub fn missing(&self) -> Vec<(String, String)> {
        let parts = self.parts.lock();
        parts.iter().filter_map(|(name, missing)| Some((name.clone(), missing.clone()?))).collect()
    }
}

impl Part {
    /// The part is in order.
    pub fn ready(&self) {
        self.set(None);
    }

    /// The part isn't in order; `waiting_for` says what it lacks.
    pub fn not_ready(&self, waiting_for: impl Into<String>) {
        self.set(Some(waiting_for.into()));
    }

    /// The part, ready now, is lost once it has failed for `lost_after`, at least 10 s.
    pub fn watched(self, lost_after: Duration) -> Watched {
        self.ready();
        let lost_after = lost_after.max(Duration::from_secs(10));
        Watched { part: self, lost_after, failing_since: None, lost: false }
    }

    fn set(&self, missing: Option<String>) {
        let before = self.health.parts.lock().insert(self.name.clone(), missing.clone());
        match (before, missing) {
            (Some(Some(_)), None) => tracing::info!(part = self.name, "ready"),
            (Some(before), Some(now)) if before.as_ref() != Some(&now) => {
                tracing::info!(part = self.name, waiting_for = now, "not ready");
            }
            _ => {}
        }
    }
}

impl Watched {
    /// Takes note of what a look at `now` has found: an error says what is missing.
    pub fn saw(&mut self, now: Instant, found: Result<(), String>) {
        let Err(missing) = found else {
            self.failing_since = None;
            if std::mem::take(&mut self.lost) {
                self.part.ready();
            }
            return;
        };
        let since = *self.failing_since.get_or_insert(now);
        // Once, so that a reason whose words change isn't logged at every look.
        if !self.lost && now.saturating_duration_since(since) >= self.lost_after {
            self.lost = true;
            self.part.not_ready(missing);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_there_is_lost_only_after_a_while_of_nothing_but_failures() {
        let health = Health::default();
        let part = health.part("bus", "the bus");
        assert_eq!(health.missing(), [("bus".to_owned(), "the bus".to_owned())]);
        let mut bus = part.watched(Duration::from_secs(15));
        let start = Instant::now();
        let mut saw = |second: u64, found: Result<(), &str>| {
            bus.saw(start + Duration::from_secs(second), found.map_err(str::to_owned));
            health.missing().into_iter().map(|(_, missing)| missing).collect::<Vec<_>>()
        };
        let nothing: [&str; 0] = [];
        assert_eq!(saw(0, Ok(())), nothing);
        assert_eq!(saw(1, Err("gone")), nothing);
        assert_eq!(saw(15, Err("gone")), nothing);
        // A success begins the count anew.
        assert_eq!(saw(16, Ok(())), nothing);
        assert_eq!(saw(17, Err("gone")), nothing);
        assert_eq!(saw(31, Err("gone")), nothing);
        assert_eq!(saw(32, Err("gone")), ["gone"]);
        assert_eq!(saw(60, Err("still gone")), ["gone"]);
        assert_eq!(saw(61, Ok(())), nothing);
        assert_eq!(saw(62, Err("gone")), nothing);
    }

    #[test]
    fn no_loss_is_declared_within_ten_seconds() {
        let health = Health::default();
        let mut bus = health.part("bus", "").watched(Duration::ZERO);
        let start = Instant::now();
        bus.saw(start, Err("gone".to_owned()));
        bus.saw(start + Duration::from_secs(9), Err("gone".to_owned()));
        assert!(health.missing().is_empty());
        bus.saw(start + Duration::from_secs(10), Err("gone".to_owned()));
        assert!(!health.missing().is_empty());
    }
}
