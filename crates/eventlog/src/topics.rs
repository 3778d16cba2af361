//! What a reader asks for: channels by name, and patterns.

use std::collections::HashSet;
use std::sync::Arc;

use foghorn_core::pattern::Pattern;
use foghorn_core::policy::{Policies, Policy, RetentionClass};

/// A reader's topics, sorted into what an index can answer and what must be matched. Channels that a
/// pattern covers anyway are left out.
#[derive(Debug, Clone)]
pub(crate) struct Topics {
    /// Channels by name.
    pub(crate) channels: Vec<String>,
    /// Patterns with wildcards.
    pub(crate) patterns: Vec<Pattern>,
    names: HashSet<String>,
    asked: Arc<[Pattern]>,
}

impl Topics {
    pub(crate) fn new(asked: &Arc<[Pattern]>) -> Self {
        let (patterns, exact): (Vec<_>, Vec<_>) =
            asked.iter().cloned().partition(|topic| topic.channel().is_none());
        let mut channels: Vec<String> = exact
            .into_iter()
            .filter(|topic| !patterns.iter().any(|pattern| pattern.covers(topic)))
            .map(String::from)
            .collect();
        channels.sort_unstable();
        channels.dedup();
        Topics { names: channels.iter().cloned().collect(), channels, patterns, asked: Arc::clone(asked) }
    }

    pub(crate) fn matches(&self, channel: &str) -> bool {
        self.names.contains(channel) || self.patterns.iter().any(|pattern| pattern.matches(channel))
    }

    /// Whether every event matches.
    pub(crate) fn is_everything(&self) -> bool {
        self.patterns.iter().any(|pattern| *pattern == Pattern::everything())
    }

    /// Whether nothing but an index on channels is needed.
    pub(crate) fn is_exact(&self) -> bool {
        self.patterns.is_empty()
    }

    /// Whether events of `class` can be among its events under `policies`.
    pub(crate) fn concerns(&self, class: RetentionClass, policies: &Policies) -> bool {
        self.asked.iter().any(|topic| policies.intersecting(topic).any(|policy| policy.class() == class))
    }

    /// The classes that its events are of under `policies`.
    pub(crate) fn classes<'a>(&'a self, policies: &'a Policies) -> impl Iterator<Item = RetentionClass> + 'a {
        self.asked.iter().flat_map(|topic| policies.intersecting(topic)).map(Policy::class)
    }

    /// How many topics were asked for.
    pub(crate) fn count(&self) -> usize {
        self.asked.len()
    }

    /// The channels as a JSON array, for SQLite. Names hold nothing that JSON would escape.
    pub(crate) fn channels_json(&self) -> String {
        json_array(self.channels.iter().cloned())
    }

    /// SQLite GLOBs that match at least what the patterns match: `*` there also spans dots, so what
    /// comes back is matched again. No channel holds a character that GLOB would interpret.
    pub(crate) fn globs_json(&self) -> String {
        json_array(self.patterns.iter().map(|pattern| pattern.as_str().replace('>', "*")))
    }

    /// PostgreSQL regular expressions that match what the patterns match. Of what a pattern can hold,
    /// only the dot means something in an expression.
    pub(crate) fn regexes(&self) -> Vec<String> {
        self.patterns.iter().map(|pattern| regex(pattern.as_str())).collect()
    }
}

fn json_array(items: impl Iterator<Item = String>) -> String {
    let quoted: Vec<String> = items.map(|item| format!("\"{item}\"")).collect();
    format!("[{}]", quoted.join(","))
}

fn regex(pattern: &str) -> String {
    let tokens: Vec<&str> = pattern
        .split('.')
        .map(|token| match token {
            "*" => "[^.]+",
            ">" => ".+",
            literal => literal,
        })
        .collect();
    format!("^{}$", tokens.join("\\."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topics(asked: &[&str]) -> Topics {
        Topics::new(&asked.iter().map(|topic| Pattern::parse(*topic).unwrap()).collect())
    }

    #[test]
    fn covered_channels_are_left_to_their_pattern() {
        let topics = topics(&["a.b", "a.*", "c", "c"]);
        assert_eq!((topics.channels.as_slice(), topics.is_exact()), (&["c".to_owned()][..], false));
        assert!(topics.matches("a.b") && topics.matches("c") && !topics.matches("c.d"));
    }

    #[test]
    fn patterns_become_expressions_of_the_databases() {
        let topics = topics(&["a.*.~b-1", "x.>"]);
        assert_eq!(topics.regexes(), ["^a\\.[^.]+\\.~b-1$", "^x\\..+$"]);
        assert_eq!(topics.globs_json(), r#"["a.*.~b-1","x.*"]"#);
    }
}
