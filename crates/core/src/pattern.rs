//! Patterns: channels with NATS wildcards.

use std::cmp::Ordering;
use std::fmt;

use crate::channel::{Channel, ChannelError, RESERVED, check_literal, check_open, check_tokens};

/// A channel in which a whole token may be `*` (exactly one token) and the last one may be `>` (one or
/// more). A pattern without wildcards matches the one channel of that name.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pattern(String);

impl Pattern {
    /// Parses `text`, by the rules of a channel plus wildcards, as it comes from outside: none of channels that are
    /// [Foghorn's own](Channel::is_reserved).
    pub fn parse(text: impl Into<String>) -> Result<Self, ChannelError> {
        let pattern = Pattern::parse_inner(text)?;
        check_open(pattern.as_str())?;
        Ok(pattern)
    }

    /// The same of what another service of Foghorn's asks for: also of those.
    pub fn parse_inner(text: impl Into<String>) -> Result<Self, ChannelError> {
        let text = text.into();
        let last = text.split('.').count();
        check_tokens(&text, |number, token| match token {
            "*" => Ok(()),
            ">" if number == last => Ok(()),
            ">" => Err(ChannelError::TailNotLast(number)),
            _ => check_literal(number, token),
        })?;
        Ok(Pattern(text))
    }

    /// The pattern of all that is Foghorn's own.
    pub fn reserved() -> Self {
        Pattern(format!("{RESERVED}.>"))
    }

    /// The pattern that every channel matches. To a listener it is all but [what is Foghorn's own](Self::reserved).
    pub fn everything() -> Self {
        Pattern(">".to_owned())
    }

    /// The pattern of all that is for single users.
    pub fn users() -> Self {
        Pattern("user.>".to_owned())
    }

    /// The pattern's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The one channel it matches, when it has no wildcard.
    pub fn channel(&self) -> Option<Channel> {
        Channel::parse_stored(self.0.as_str()).ok()
    }

    /// Whether a channel of this name matches.
    pub fn matches(&self, channel: &str) -> bool {
        let mut tokens = channel.split('.');
        for wanted in self.0.split('.') {
            match (wanted, tokens.next()) {
                (_, None) => return false,
                (">", Some(_)) => return true,
                ("*", Some(_)) => {}
                (wanted, Some(token)) if wanted == token => {}
                _ => return false,
            }
        }
        tokens.next().is_none()
    }

    /// Whether every channel that `other` matches is matched by `self` too.
    pub fn covers(&self, other: &Pattern) -> bool {
        let mut theirs = other.0.split('.');
        for mine in self.0.split('.') {
            match (mine, theirs.next()) {
                (_, None) => return false,
                (">", Some(_)) => return true,
                (_, Some(">")) => return false,
                ("*", Some(_)) => {}
                (mine, Some(token)) if mine == token => {}
                _ => return false,
            }
        }
        theirs.next().is_none()
    }

    /// Whether some channel matches both.
    pub fn intersects(&self, other: &Pattern) -> bool {
        let (mut mine, mut theirs) = (self.0.split('.'), other.0.split('.'));
        loop {
            match (mine.next(), theirs.next()) {
                (None, None) => return true,
                (Some(">"), Some(_)) | (Some(_), Some(">")) => return true,
                (Some(a), Some(b)) if a == b || a == "*" || b == "*" => {}
                _ => return false,
            }
        }
    }

    /// Which of two patterns is the more specific: `Less` when `other` covers `self`. `None` when
    /// neither covers the other, which for intersecting patterns is a tie.
    pub fn specificity(&self, other: &Pattern) -> Option<Ordering> {
        match (self.covers(other), other.covers(self)) {
            (true, true) => Some(Ordering::Equal),
            (false, true) => Some(Ordering::Less),
            (true, false) => Some(Ordering::Greater),
            (false, false) => None,
        }
    }
}

impl From<&Channel> for Pattern {
    fn from(channel: &Channel) -> Self {
        Pattern(channel.as_str().to_owned())
    }
}

impl TryFrom<String> for Pattern {
    type Error = ChannelError;
    fn try_from(text: String) -> Result<Self, ChannelError> {
        Pattern::parse(text)
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> String {
        pattern.0
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn p(text: &str) -> Pattern {
        Pattern::parse(text).unwrap()
    }

    #[test]
    fn wildcards_match_as_in_nats() {
        for (pattern, channel, expected) in [
            ("orders", "orders", true),
            ("orders", "orders.eu", false),
            ("orders.*", "orders.eu", true),
            ("orders.*", "orders", false),
            ("orders.*", "orders.eu.1", false),
            ("orders.>", "orders.eu.1", true),
            ("orders.>", "orders", false),
            ("*.eu", "orders.eu", true),
            (">", "a.b.c", true),
        ] {
            assert_eq!(p(pattern).matches(channel), expected, "{pattern} {channel}");
        }
    }

    #[test]
    fn malformed_patterns_are_named() {
        assert_eq!(Pattern::parse("a.>.b"), Err(ChannelError::TailNotLast(2)));
        assert_eq!(Pattern::parse("a.b>"), Err(ChannelError::PartialWildcard(2)));
        assert_eq!(Pattern::parse("*x"), Err(ChannelError::PartialWildcard(1)));
        for own in ["~foghorn.>", "~foghorn.*.a", "~foghorn"] {
            assert_eq!(Pattern::parse(own), Err(ChannelError::Reserved(own.to_owned())));
            assert_eq!(Pattern::parse_inner(own).unwrap().as_str(), own);
        }
    }

    fn any_pattern() -> impl Strategy<Value = Pattern> {
        (prop::collection::vec(prop_oneof![Just("a"), Just("b"), Just("*")], 1..4), any::<bool>()).prop_map(
            |(mut tokens, tail)| {
                if tail {
                    tokens.push(">");
                }
                p(&tokens.join("."))
            },
        )
    }

    /// Every name of up to five tokens of `a`, `b` and `c`. Patterns of up to four tokens of `a`, `b` and
    /// wildcards can't tell names apart that these don't: `c` stands for all other tokens, and a fifth token
    /// for all that follow.
    fn names() -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        let mut longest = vec![String::new()];
        for _ in 0..5 {
            let longer = |name: &String| ["a", "b", "c"].map(|token| format!("{name}.{token}"));
            longest = longest.iter().flat_map(longer).collect();
            names.extend(longest.iter().map(|name| name[1..].to_owned()));
        }
        names
    }

    proptest! {
        #[test]
        fn covering_and_intersecting_are_what_matching_says(x in any_pattern(), y in any_pattern()) {
            let names = names();
            let matching = |pattern: &Pattern| names.iter().map(|name| pattern.matches(name)).collect::<Vec<_>>();
            let (by_x, by_y) = (matching(&x), matching(&y));
            let both: Vec<(bool, bool)> = by_x.into_iter().zip(by_y).collect();
            prop_assert_eq!(x.covers(&y), both.iter().all(|(x, y)| *x || !*y));
            prop_assert_eq!(x.intersects(&y), both.iter().any(|(x, y)| *x && *y));
            prop_assert_eq!(y.intersects(&x), x.intersects(&y));
        }
    }
}
