//! Whoever makes a request, with what the webhook is told of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::access::Caller;
use crate::webhook::Context;

/// Whoever makes a request. Clones are of the same request.
#[derive(Debug, Clone)]
pub struct Requester {
    /// Who it is.
    pub caller: Caller,
    /// What the webhook is told of the request.
    pub context: Context,
    /// Whether the request has waited for the webhook in vain.
    pub(crate) waited: Waited,
}

impl Requester {
    /// Who makes one request, of which the webhook is told this.
    pub fn new(caller: Caller, context: Context) -> Self {
        Requester { caller, context, waited: Waited::default() }
    }

    /// Who makes another one, of which the same is told.
    pub fn again(&self) -> Self {
        Requester::new(self.caller.clone(), self.context.clone())
    }
}

/// By a request that nothing is told of.
impl From<Caller> for Requester {
    fn from(caller: Caller) -> Self {
        Requester::new(caller, Context::default())
    }
}

/// Whether the webhook has left a question of a request without an answer for as long as it may take: that request
/// waits for no other. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Waited(Arc<AtomicBool>);

impl Waited {
    pub(crate) fn in_vain(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(crate) fn was_in_vain(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
