//! Whoever makes a request, with what the webhook is told of it.

use crate::access::Caller;
use crate::webhook::Context;

/// Whoever makes a request.
#[derive(Debug, Clone)]
pub struct Requester {
    /// Who it is.
    pub caller: Caller,
    /// What the webhook is told of the request.
    pub context: Context,
}

/// By a request that nothing is told of.
impl From<Caller> for Requester {
    fn from(caller: Caller) -> Self {
        Requester { caller, context: Context::default() }
    }
}
