//! Tokens that were verified already.

use std::collections::HashMap;
use std::sync::Arc;

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
}

impl Cache {
    /// Of at most so many entries.
    pub(crate) fn new(entries: usize) -> Self {
        Cache { half: entries.div_ceil(2), young: HashMap::new(), old: HashMap::new() }
    }

    pub(crate) fn key(token: &str) -> Key {
        let mut key = [0; 32];
        key.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        key
    }

    pub(crate) fn get(&mut self, key: &Key) -> Option<Arc<Identity>> {
        if let Some(known) = self.young.get(key) {
            return Some(known.clone());
        }
        let known = self.old.remove(key)?;
        self.put(*key, known.clone());
        Some(known)
    }

    pub(crate) fn put(&mut self, key: Key, identity: Arc<Identity>) {
        if self.young.len() >= self.half {
            self.old = std::mem::take(&mut self.young);
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
        let mut cache = Cache::new(10);
        let identity = Arc::new(Identity::default());
        let often = Cache::key("often");
        cache.put(often, identity.clone());
        for n in 0..1000 {
            cache.put(Cache::key(&n.to_string()), identity.clone());
            assert!(cache.len() <= 10, "{}", cache.len());
            assert!(cache.get(&often).is_some(), "{n}");
        }
        assert!(cache.get(&Cache::key("0")).is_none());
    }
}
