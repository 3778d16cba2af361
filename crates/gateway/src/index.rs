//! Who listens to which pattern, found by a channel's tokens.
//!
//! A tree with a level for each token. Looking a channel up costs by its tokens and by what begins like
//! it, not by how many patterns there are: thousands of listeners with patterns of their own must not
//! slow down what happens on everybody else's channels.

use std::collections::{BTreeMap, HashMap};

use foghorn_core::channel;
use foghorn_core::pattern::Pattern;

/// Values under patterns, each by a key of its own.
#[derive(Debug)]
pub(crate) struct PatternIndex<K, V> {
    root: Node<K, V>,
}

#[derive(Debug)]
struct Node<K, V> {
    /// By the next token, where it is not a wildcard.
    literal: HashMap<Box<str>, Node<K, V>>,
    /// Whatever the next token is.
    any: Option<Box<Node<K, V>>>,
    /// Under patterns that end with `>` here.
    tail: BTreeMap<K, V>,
    /// Under patterns that end here.
    here: BTreeMap<K, V>,
}

impl<K: Ord, V> PatternIndex<K, V> {
    /// An empty one.
    pub(crate) fn new() -> Self {
        PatternIndex { root: Node::default() }
    }

    /// Whether nothing is under any pattern.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.root.is_empty()
    }

    /// Puts a value under a pattern, in place of what the key had there.
    pub(crate) fn insert(&mut self, pattern: &Pattern, key: K, value: V) {
        let mut node = &mut self.root;
        for token in pattern.as_str().split('.') {
            node = match token {
                ">" => {
                    node.tail.insert(key, value);
                    return;
                }
                "*" => node.any.get_or_insert_default(),
                _ => node.literal.entry(token.into()).or_default(),
            };
        }
        node.here.insert(key, value);
    }

    /// Takes away what the key has under a pattern.
    pub(crate) fn remove(&mut self, pattern: &Pattern, key: &K) {
        self.root.remove(pattern.as_str().split('.'), key);
    }

    /// Gives every value whose pattern matches a channel of this name to `found`. None does match what is Foghorn's own:
    /// that is heard by its name alone.
    pub(crate) fn matching<'a>(&'a self, channel: &str, found: &mut impl FnMut(&'a V)) {
        if channel::is_reserved(channel) {
            return;
        }
        self.root.matching(channel.split('.'), found);
    }
}

impl<K: Ord, V> Node<K, V> {
    fn is_empty(&self) -> bool {
        self.literal.is_empty() && self.any.is_none() && self.tail.is_empty() && self.here.is_empty()
    }

    /// As deep as a pattern has tokens, which the grammar bounds.
    fn remove<'t>(&mut self, mut tokens: impl Iterator<Item = &'t str>, key: &K) {
        match tokens.next() {
            None => drop(self.here.remove(key)),
            Some(">") => drop(self.tail.remove(key)),
            Some("*") => {
                if let Some(next) = &mut self.any {
                    next.remove(tokens, key);
                }
                self.any.take_if(|next| next.is_empty());
            }
            Some(token) => {
                if let Some(next) = self.literal.get_mut(token) {
                    next.remove(tokens, key);
                    if next.is_empty() {
                        self.literal.remove(token);
                    }
                }
            }
        }
    }

    fn matching<'a, 't>(
        &'a self,
        mut tokens: impl Iterator<Item = &'t str> + Clone,
        found: &mut impl FnMut(&'a V),
    ) {
        let Some(token) = tokens.next() else {
            self.here.values().for_each(found);
            return;
        };
        self.tail.values().for_each(&mut *found);
        if let Some(next) = self.literal.get(token) {
            next.matching(tokens.clone(), found);
        }
        if let Some(next) = &self.any {
            next.matching(tokens, found);
        }
    }
}

impl<K, V> Default for Node<K, V> {
    fn default() -> Self {
        Node { literal: HashMap::new(), any: None, tail: BTreeMap::new(), here: BTreeMap::new() }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn tokens(of: &'static [&'static str]) -> impl Strategy<Value = String> {
        prop::collection::vec(prop::sample::select(of), 1..5).prop_map(|tokens| tokens.join("."))
    }

    #[test]
    fn no_pattern_matches_what_is_foghorns_own() {
        let mut index = PatternIndex::new();
        for (key, pattern) in [">", "*.>", "*.canary.*.*"].into_iter().enumerate() {
            index.insert(&Pattern::parse(pattern).unwrap(), key, ());
        }
        let count = |name: &str| {
            let mut found = 0;
            index.matching(name, &mut |()| found += 1);
            found
        };
        assert_eq!((count("a.canary.b.0"), count("~foghorn.canary.000000000001.0")), (3, 0));
    }

    proptest! {
        /// Whatever is inserted and removed, a channel finds exactly the patterns that match it.
        #[test]
        fn a_channel_finds_exactly_the_patterns_that_match(
            patterns in prop::collection::vec((tokens(&["a", "b", "*"]), any::<bool>(), any::<bool>()), 0..30),
            channel in tokens(&["a", "b", "c"]),
        ) {
            let all: Vec<(Pattern, bool)> = patterns
                .into_iter()
                .map(|(text, tail, stays)| (Pattern::parse(text + if tail { ".>" } else { "" }).unwrap(), stays))
                .collect();
            let mut index = PatternIndex::new();
            for (key, (pattern, _)) in all.iter().enumerate() {
                index.insert(pattern, key, key);
            }
            for (key, (pattern, _)) in all.iter().enumerate().filter(|(_, (_, stays))| !stays) {
                index.remove(pattern, &key);
            }
            let mut found = HashSet::new();
            index.matching(&channel, &mut |key| assert!(found.insert(*key), "each once"));
            let wanted: HashSet<usize> = (0..all.len())
                .filter(|key| all[*key].1 && all[*key].0.matches(&channel))
                .collect();
            prop_assert_eq!(found, wanted);
            for (key, (pattern, _)) in all.iter().enumerate() {
                index.remove(pattern, &key);
            }
            prop_assert!(index.is_empty(), "nothing is left behind: {:?}", index);
        }
    }
}
