//! Tickets within one process: standalone, and tests of services.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::Future;
use crate::tickets::{TICKETS_BYTES_MAX, TICKETS_MAX, TicketError, TicketId, Tickets, Waiting};

/// Tickets in memory, bounded in number and bytes: at the bound a new one is refused.
#[derive(Debug)]
pub struct MemoryTickets {
    state: Mutex<State>,
    most: usize,
}

#[derive(Debug, Default)]
struct State {
    waiting: HashMap<TicketId, (Instant, Waiting)>,
    ends: BTreeSet<(Instant, TicketId)>,
    bytes: usize,
    revision: u64,
}

impl Default for MemoryTickets {
    fn default() -> Self {
        MemoryTickets::new(TICKETS_MAX)
    }
}

impl MemoryTickets {
    /// Room for so many.
    pub fn new(most: usize) -> Self {
        MemoryTickets { state: Mutex::default(), most }
    }
}

impl State {
    fn forget_ended(&mut self, now: Instant) {
        while let Some((end, id)) = self.ends.first().copied().filter(|(end, _)| *end <= now) {
            self.remove(end, id);
        }
    }

    fn remove(&mut self, end: Instant, id: TicketId) {
        self.ends.remove(&(end, id));
        if let Some((_, gone)) = self.waiting.remove(&id) {
            self.bytes -= gone.value.len();
        }
    }

    fn keep(&mut self, most: usize, id: TicketId, value: Bytes, end: Instant) -> Result<(), TicketError> {
        if self.waiting.len() >= most || self.bytes + value.len() > TICKETS_BYTES_MAX {
            return Err(TicketError::Full);
        }
        if self.waiting.contains_key(&id) {
            return Err(TicketError::Unavailable("there is one of this id already".to_owned()));
        }
        self.revision += 1;
        self.bytes += value.len();
        self.ends.insert((end, id));
        self.waiting.insert(id, (end, Waiting { value, revision: self.revision }));
        Ok(())
    }

    fn spend(&mut self, id: TicketId, revision: u64) -> bool {
        let found = self.waiting.get(&id).filter(|(_, waiting)| waiting.revision == revision);
        let Some(end) = found.map(|(end, _)| *end) else { return false };
        self.remove(end, id);
        true
    }
}

impl Tickets for MemoryTickets {
    fn keep(&self, id: TicketId, value: Bytes, ttl: Duration) -> Future<'_, Result<(), TicketError>> {
        let (mut state, now) = (self.state.lock(), Instant::now());
        state.forget_ended(now);
        futures::future::ready(state.keep(self.most, id, value, now + ttl)).boxed()
    }

    fn find(&self, id: TicketId) -> Future<'_, Result<Option<Waiting>, TicketError>> {
        let mut state = self.state.lock();
        state.forget_ended(Instant::now());
        let found = state.waiting.get(&id).map(|(_, waiting)| waiting.clone());
        futures::future::ready(Ok(found)).boxed()
    }

    fn spend(&self, id: TicketId, revision: u64) -> Future<'_, Result<bool, TicketError>> {
        let mut state = self.state.lock();
        state.forget_ended(Instant::now());
        futures::future::ready(Ok(state.spend(id, revision))).boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_ticket_is_there_for_its_time_and_not_a_moment_longer() {
        let tickets = MemoryTickets::new(2);
        let (ttl, value) = (Duration::from_secs(30), Bytes::from_static(b"x"));
        for id in [1, 2] {
            tickets.keep([id; 32], value.clone(), ttl).await.unwrap();
        }
        assert_eq!(tickets.keep([3; 32], value.clone(), ttl).await, Err(TicketError::Full));
        tokio::time::advance(ttl - Duration::from_millis(1)).await;
        let waiting = tickets.find([1; 32]).await.unwrap().unwrap();
        assert_eq!(waiting.value, value);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(tickets.find([1; 32]).await, Ok(None));
        assert_eq!(tickets.spend([1; 32], waiting.revision).await, Ok(false));
        assert_eq!(tickets.keep([3; 32], value, ttl).await, Ok(()));
        let state = tickets.state.lock();
        assert_eq!((state.waiting.len(), state.ends.len(), state.bytes), (1, 1, 1));
    }
}
