//! A stream's place in its gateway, from its request to its end, whoever serves it meanwhile.

use std::sync::Arc;

use foghorn_core::reason::StreamEnd;

use crate::hub::Hub;

/// Counts a stream as open, and says why it ended. Moves with the stream.
#[derive(Debug)]
pub(crate) struct Seat {
    hub: Arc<Hub>,
    client_id: u128,
    ended: bool,
}

impl Seat {
    /// One more stream of this hub. The id is 128 random bits.
    pub(crate) fn take(hub: &Arc<Hub>, client_id: u128) -> Self {
        hub.opened();
        Seat { hub: hub.clone(), client_id, ended: false }
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
