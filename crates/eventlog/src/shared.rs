//! What the services that hold a log give it and may change while it runs.

use std::sync::Arc;

pub use foghorn_bus::clock::Clock;
use foghorn_core::policy::Policies;
use parking_lot::RwLock;

/// The policies in force. Clones share them; [`set`](Self::set) holds for every clone from the next
/// event written or page read.
#[derive(Debug, Clone, Default)]
pub struct SharedPolicies(Arc<RwLock<Arc<Policies>>>);

impl SharedPolicies {
    /// The policies now.
    pub fn get(&self) -> Arc<Policies> {
        Arc::clone(&self.0.read())
    }

    /// Replaces them.
    pub fn set(&self, policies: Policies) {
        *self.0.write() = Arc::new(policies);
    }
}

impl From<Policies> for SharedPolicies {
    fn from(policies: Policies) -> Self {
        SharedPolicies(Arc::new(RwLock::new(Arc::new(policies))))
    }
}
