//! Changed subscriptions within one process: standalone, and tests of services.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use parking_lot::Mutex;
use tokio::time::Instant;

use foghorn_core::cursor::SubscriptionId;

use crate::Future;
use crate::subscriptions::{
    Revision, SUBSCRIPTIONS_BYTES_MAX, SUBSCRIPTIONS_MAX, SubscriptionError, Subscriptions, Written,
};

/// How often at most all are looked at for those whose time is over.
const FORGET_EVERY: Duration = Duration::from_secs(60);

/// Subscriptions in memory, bounded in number and bytes: at the bound a new one is refused.
#[derive(Debug)]
pub struct MemorySubscriptions {
    state: Mutex<State>,
    most: usize,
}

#[derive(Debug)]
struct State {
    kept: HashMap<SubscriptionId, Kept>,
    bytes: usize,
    writes: u64,
    looked: Instant,
}

#[derive(Debug)]
struct Kept {
    value: Bytes,
    /// Until when.
    end: Instant,
    revision: Revision,
}

impl Default for MemorySubscriptions {
    fn default() -> Self {
        MemorySubscriptions::new(SUBSCRIPTIONS_MAX)
    }
}

impl MemorySubscriptions {
    /// Room for so many.
    pub fn new(most: usize) -> Self {
        let state = State { kept: HashMap::new(), bytes: 0, writes: 0, looked: Instant::now() };
        MemorySubscriptions { state: Mutex::new(state), most }
    }
}

impl State {
    fn forget_ended(&mut self, now: Instant) {
        self.looked = now;
        self.kept.retain(|_, kept| kept.end > now);
        self.bytes = self.kept.values().map(|kept| kept.value.len()).sum();
    }

    fn has_room(&self, most: usize, id: SubscriptionId, bytes: usize) -> bool {
        let before = self.kept.get(&id).map(|kept| kept.value.len());
        let number = self.kept.len() + usize::from(before.is_none());
        number <= most && self.bytes - before.unwrap_or(0) + bytes <= SUBSCRIPTIONS_BYTES_MAX
    }
}

impl Subscriptions for MemorySubscriptions {
    fn keep(
        &self,
        id: SubscriptionId,
        value: Bytes,
        ttl: Duration,
        last: Option<Revision>,
    ) -> Future<'_, Result<Written, SubscriptionError>> {
        let (mut state, now) = (self.state.lock(), Instant::now());
        if now >= state.looked + FORGET_EVERY || !state.has_room(self.most, id, value.len()) {
            state.forget_ended(now);
        }
        if !state.has_room(self.most, id, value.len()) {
            return futures::future::ready(Err(SubscriptionError::Full)).boxed();
        }
        state.bytes += value.len();
        state.writes += 1;
        let revision = Revision(state.writes);
        let before = state.kept.insert(id, Kept { value, end: now + ttl, revision });
        state.bytes -= before.as_ref().map_or(0, |before| before.value.len());
        let alone = before.filter(|before| before.end > now).map(|before| before.revision) == last;
        futures::future::ready(Ok(Written { revision, alone })).boxed()
    }

    fn shorten(
        &self,
        id: SubscriptionId,
        _: Bytes,
        ttl: Duration,
        last: Revision,
    ) -> Future<'_, Result<(), SubscriptionError>> {
        let mut state = self.state.lock();
        if let Some(kept) = state.kept.get_mut(&id).filter(|kept| kept.revision == last) {
            kept.end = kept.end.min(Instant::now() + ttl);
        }
        futures::future::ready(Ok(())).boxed()
    }

    fn find(&self, id: SubscriptionId) -> Future<'_, Result<Option<Bytes>, SubscriptionError>> {
        let state = self.state.lock();
        let found = state.kept.get(&id).filter(|kept| kept.end > Instant::now());
        futures::future::ready(Ok(found.map(|kept| kept.value.clone()))).boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_subscription_is_there_for_as_long_as_it_was_last_kept_and_what_has_ended_makes_room() {
        let kept = MemorySubscriptions::new(2);
        let (ttl, id) = (Duration::from_secs(30), SubscriptionId::new);
        let value = |text: &'static str| Bytes::from_static(text.as_bytes());
        kept.keep(id(1), value("one"), ttl, None).await.unwrap();
        kept.keep(id(2), value("two"), ttl, None).await.unwrap();
        assert_eq!(kept.keep(id(3), value("three"), ttl, None).await, Err(SubscriptionError::Full));
        tokio::time::advance(ttl / 2).await;
        kept.keep(id(1), value("once"), ttl, None).await.unwrap();
        tokio::time::advance(ttl / 2).await;
        assert_eq!(kept.find(id(1)).await, Ok(Some(value("once"))), "renewed");
        assert_eq!(kept.find(id(2)).await, Ok(None));
        assert_eq!(kept.keep(id(3), value("three"), ttl, None).await.map(|_| ()), Ok(()));
        let state = kept.state.lock();
        assert_eq!((state.kept.len(), state.bytes), (2, 9));
    }
}
