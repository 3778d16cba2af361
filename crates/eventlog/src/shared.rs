//! What the services that hold a log give it and may change while it runs.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use foghorn_core::policy::Policies;
use foghorn_core::time::Timestamp;
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

/// Where the time comes from: the system's clock, or a test's.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Timestamp + Send + Sync>);

impl Clock {
    /// A clock that says what `now` says.
    pub fn new(now: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Clock(Arc::new(now))
    }

    /// The time.
    pub fn now(&self) -> Timestamp {
        (self.0)()
    }
}

impl Default for Clock {
    /// The system's clock.
    fn default() -> Self {
        Clock::new(|| Timestamp::from_system(SystemTime::now()))
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Clock({})", self.now())
    }
}
