//! Readiness, as a list of what is still missing.

use std::collections::BTreeMap;
use std::sync::Arc;

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
