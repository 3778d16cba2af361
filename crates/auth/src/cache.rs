//! Tokens that were verified already.

use std::collections::HashMap;
use std::sync::Arc;

use foghorn_core::time::Timestamp;
use prometheus_client::metrics::counter::Counter;
use ring::digest::{SHA256, digest};

use crate::token::Identity;

/// What a token is known by: its SHA-256, so that no token lies in memory for longer than its request.
type Key = [u8; 32];

/// Identities by their whole token. Bounded: those used least lately go, half of them at a time.
#[derive(Debug)]
pub(crate) struct Cache {
    /// Most in either half.
    half: usize,
    young: HashMap<Key, Arc<Identity>>,
    old: HashMap<Key, Arc<Identity>>,
    forgotten: Counter,
}

impl Cache {
    /// Of at most so many entries. Counts in `forgotten` those that it gives up though they were still good.
    pub(crate) fn new(entries: usize, forgotten: Counter) -> Self {
        Cache { half: entries.div_ceil(2), young: HashMap::new(), old: HashMap::new(), forgotten }
    }

    pub(crate) fn key(token: &str) -> Key {
        let mut key = [0; 32];
        key.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        key
    }

    pub(crate) fn get(&mut self, key: &Key, now: Timestamp) -> Option<Arc<Identity>> {
        if let Some(known) = self.young.get(key) {
            return Some(known.clone());
        }
        let known = self.old.remove(key)?;
        self.put(*key, known.clone(), now);
        Some(known)
    }

    pub(crate) fn put(&mut self, key: Key, identity: Arc<Identity>, now: Timestamp) {
        if self.young.len() >= self.half {
            let given_up = std::mem::replace(&mut self.old, std::mem::take(&mut self.young));
            let good = given_up.values().filter(|identity| identity.expires > now).count();
            self.forgotten.inc_by(good as u64);
        }
        self.young.insert(key, identity);
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_bounded_and_keeps_what_is_used() {
        let (forgotten, now) = (Counter::default(), Timestamp::from_micros(1));
        let mut cache = Cache::new(10, forgotten.clone());
        let until =
            |micros| Arc::new(Identity { expires: Timestamp::from_micros(micros), ..Identity::default() });
        let identity = until(2);
        let often = Cache::key("often");
        cache.put(often, identity.clone(), now);
        for n in 0..1000 {
            cache.put(Cache::key(&n.to_string()), identity.clone(), now);
            assert!(cache.len() <= 10, "{}", cache.len());
            assert!(cache.get(&often, now).is_some(), "{n}");
        }
        assert!(cache.get(&Cache::key("0"), now).is_none());
        assert_eq!(forgotten.get() + cache.len() as u64, 1001, "each is remembered or counted");
        let counted = forgotten.get();
        let end = until(1);
        for n in 1000..1010 {
            cache.put(Cache::key(&n.to_string()), end.clone(), Timestamp::from_micros(2));
        }
        assert_eq!(forgotten.get(), counted, "of tokens that have ended nothing is missed");
    }
}
