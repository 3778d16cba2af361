//! What was found out before, by a digest of what it is about.

use std::collections::HashMap;

use prometheus_client::metrics::counter::Counter;
use ring::digest::{SHA256, digest};

/// What something is known by: the SHA-256 of a token or a question, so that neither lies in memory for longer than its
/// request.
pub(crate) type Key = [u8; 32];

/// The key of these bytes.
pub(crate) fn key(bytes: &[u8]) -> Key {
    let mut key = [0; 32];
    key.copy_from_slice(digest(&SHA256, bytes).as_ref());
    key
}

/// Values by the whole of what they are about. Bounded: those used least lately go, half of them at a time.
#[derive(Debug)]
pub(crate) struct Cache<T> {
    /// Most in either half.
    half: usize,
    young: HashMap<Key, T>,
    old: HashMap<Key, T>,
    forgotten: Counter,
}

impl<T: Clone> Cache<T> {
    /// Of at most so many entries. Counts in `forgotten` those that it gives up though they were still good.
    pub(crate) fn new(entries: usize, forgotten: Counter) -> Self {
        Cache { half: entries.div_ceil(2), young: HashMap::new(), old: HashMap::new(), forgotten }
    }

    /// What is known of a key, good or not.
    pub(crate) fn get(&mut self, key: &Key, is_good: impl Fn(&T) -> bool) -> Option<T> {
        if let Some(known) = self.young.get(key) {
            return Some(known.clone());
        }
        let known = self.old.remove(key)?;
        self.put(*key, known.clone(), is_good);
        Some(known)
    }

    /// Remembers it. `is_good` says what is missed of what has to go for it.
    pub(crate) fn put(&mut self, key: Key, value: T, is_good: impl Fn(&T) -> bool) {
        if self.young.len() >= self.half {
            let given_up = std::mem::replace(&mut self.old, std::mem::take(&mut self.young));
            let good = given_up.values().filter(|value| is_good(value)).count();
            self.forgotten.inc_by(good as u64);
        }
        self.young.insert(key, value);
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
        let forgotten = Counter::default();
        let mut cache = Cache::new(10, forgotten.clone());
        let often = key(b"often");
        let of = |n: u32| key(&n.to_be_bytes());
        cache.put(often, true, |good| *good);
        for n in 0..1000 {
            cache.put(of(n), true, |good| *good);
            assert!(cache.len() <= 10, "{}", cache.len());
            assert!(cache.get(&often, |good| *good).is_some(), "{n}");
        }
        assert!(cache.get(&of(0), |good| *good).is_none());
        assert_eq!(forgotten.get() + cache.len() as u64, 1001, "each is remembered or counted");
        let counted = forgotten.get();
        for n in 1000..1010 {
            cache.put(of(n), false, |_| false);
        }
        assert_eq!(forgotten.get(), counted, "of what has ended nothing is missed");
    }
}
