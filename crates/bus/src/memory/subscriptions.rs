//! Changed subscriptions within one process: standalone, and tests of services.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use parking_lot::Mutex;
use tokio::time::Instant;

use foghorn_core::cursor::SubscriptionId;

use crate::Future;
use crate::subscriptions::{SUBSCRIPTIONS_BYTES_MAX, SUBSCRIPTIONS_MAX, SubscriptionError, Subscriptions};

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
    /// Until when each is kept.
    kept: HashMap<SubscriptionId, (Instant, Bytes)>,
    bytes: usize,
    looked: Instant,
}

impl Default for MemorySubscriptions {
    fn default() -> Self {
        MemorySubscriptions::new(SUBSCRIPTIONS_MAX)
    }
}

impl MemorySubscriptions {
    /// Room for so many.
    pub fn new(most: usize) -> Self {
        let state = State { kept: HashMap::new(), bytes: 0, looked: Instant::now() };
        MemorySubscriptions { state: Mutex::new(state), most }
    }
}

impl State {
    fn forget_ended(&mut self, now: Instant) {
        self.looked = now;
        self.kept.retain(|_, (end, _)| *end > now);
        self.bytes = self.kept.values().map(|(_, value)| value.len()).sum();
    }

    fn has_room(&self, most: usize, id: SubscriptionId, bytes: usize) -> bool {
        let before = self.kept.get(&id).map(|(_, value)| value.len());
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
    ) -> Future<'_, Result<(), SubscriptionError>> {
        let (mut state, now) = (self.state.lock(), Instant::now());
        if now >= state.looked + FORGET_EVERY || !state.has_room(self.most, id, value.len()) {
            state.forget_ended(now);
        }
        if !state.has_room(self.most, id, value.len()) {
            return futures::future::ready(Err(SubscriptionError::Full)).boxed();
        }
        state.bytes += value.len();
        if let Some((_, before)) = state.kept.insert(id, (now + ttl, value)) {
            state.bytes -= before.len();
        }
        futures::future::ready(Ok(())).boxed()
    }

    fn find(&self, id: SubscriptionId) -> Future<'_, Result<Option<Bytes>, SubscriptionError>> {
        let state = self.state.lock();
        let found = state.kept.get(&id).filter(|(end, _)| *end > Instant::now());
        futures::future::ready(Ok(found.map(|(_, value)| value.clone()))).boxed()
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
        kept.keep(id(1), value("one"), ttl).await.unwrap();
        kept.keep(id(2), value("two"), ttl).await.unwrap();
        assert_eq!(kept.keep(id(3), value("three"), ttl).await, Err(SubscriptionError::Full));
        tokio::time::advance(ttl / 2).await;
        kept.keep(id(1), value("once"), ttl).await.unwrap();
        tokio::time::advance(ttl / 2).await;
        assert_eq!(kept.find(id(1)).await, Ok(Some(value("once"))), "renewed");
        assert_eq!(kept.find(id(2)).await, Ok(None));
        assert_eq!(kept.keep(id(3), value("three"), ttl).await, Ok(()));
        let state = kept.state.lock();
        assert_eq!((state.kept.len(), state.bytes), (2, 9));
    }
}
