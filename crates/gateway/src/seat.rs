//! A stream's place in its gateway, from its request to its end, whoever serves it meanwhile.

use std::sync::Arc;
use std::time::Duration;

use foghorn_core::reason::StreamEnd;
use foghorn_core::time::Timestamp;

use crate::hub::Hub;

/// Counts a stream as open, and says why it ended. Moves with the stream.
#[derive(Debug)]
pub(crate) struct Seat {
    hub: Arc<Hub>,
    client_id: u128,
    ended: bool,
    /// How long it may last, when that is limited. In a box of its own, as most streams of some gateways have none.
    term: Option<Box<Term>>,
}

/// For how long a stream may last: for as long as the token that it was opened with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Term {
    ends: Timestamp,
    /// When it is to be told; none once it was.
    tell: Option<Timestamp>,
}

/// What a stream's term asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    /// Nothing, for so long at least; none for ever.
    Nothing(Option<Duration>),
    /// Telling that it ends then.
    Telling(Timestamp),
    /// Its end.
    End,
}

impl Term {
    /// Until `ends`, told so long before.
    pub(crate) fn new(ends: Timestamp, notice: Duration) -> Self {
        Term { ends, tell: Some(ends.minus(notice)) }
    }
}

impl Seat {
    /// One more stream of this hub. The id is 128 random bits.
    pub(crate) fn take(hub: &Arc<Hub>, client_id: u128) -> Self {
        hub.opened();
        Seat { hub: hub.clone(), client_id, ended: false, term: None }
    }

    /// Limits how long it may last.
    pub(crate) fn limit(&mut self, term: Option<Term>) {
        self.term = term.map(Box::new);
    }

    /// What its term asks for now. By the time of day, as tokens are.
    pub(crate) fn due(&self) -> Due {
        let Some(term) = &self.term else { return Due::Nothing(None) };
        let now = self.hub.clock.now();
        match term.tell {
            _ if now >= term.ends => Due::End,
            Some(tell) if now >= tell => Due::Telling(term.ends),
            Some(tell) => Due::Nothing(Some(tell.since(now))),
            None => Due::Nothing(Some(term.ends.since(now))),
        }
    }

    /// It was told when it ends.
    pub(crate) fn told(&mut self) {
        if let Some(term) = &mut self.term {
            term.tell = None;
        }
    }

    /// What the client calls itself by, as it is told in `connected`.
    pub(crate) fn client_id(&self) -> String {
        format!("{:032x}", self.client_id)
    }

    /// The stream is over.
    pub(crate) fn end(mut self, end: StreamEnd) {
        self.say(end);
    }

    fn say(&mut self, end: StreamEnd) {
        self.ended = true;
        self.hub.metrics.ended(end);
        tracing::debug!(client_id = self.client_id(), reason = end.as_str(), "stream ended");
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if !self.ended {
            self.say(StreamEnd::Internal);
        }
        self.hub.closed();
    }
}
