//! Channels: what events are published on and listened to.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytestring::ByteString;

/// Most bytes in a channel or pattern.
pub const CHANNEL_BYTES_MAX: usize = 200;
/// Most dot-separated tokens in a channel or pattern.
pub const CHANNEL_TOKENS_MAX: usize = 16;

/// The first token of channels that are Foghorn's own.
pub const RESERVED: &str = "~foghorn";

/// A channel: 1 to 16 dot-separated tokens of `[A-Za-z0-9_~-]+`, at most 200 bytes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Channel(ByteString);

/// Why a text is not a channel (or, with wildcards allowed, not a pattern).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChannelError {
    /// Nothing at all.
    #[error("a channel can't be empty")]
    Empty,
    /// Over 200 bytes.
    #[error("a channel has at most {CHANNEL_BYTES_MAX} bytes; this one has {0}")]
    TooLong(usize),
    /// Over 16 tokens.
    #[error("a channel has at most {CHANNEL_TOKENS_MAX} dot-separated tokens; this one has {0}")]
    TooManyTokens(usize),
    /// Two dots in a row, or one at either end.
    #[error("token {0} is empty: a channel neither begins nor ends with a dot, nor has two in a row")]
    EmptyToken(usize),
    /// A character outside the alphabet.
    #[error("{character:?} in token {token} can't be in a channel: tokens are made of A-Z a-z 0-9 _ ~ -")]
    BadCharacter {
        /// The offender.
        character: char,
        /// Which token, from 1.
        token: usize,
    },
    /// A wildcard where a channel is needed.
    #[error("{0:?} is a pattern; a channel has no wildcards (to publish, name one channel)")]
    Wildcard(String),
    /// A `*` or `>` that is not a whole token.
    #[error("token {0} mixes a wildcard with other characters: * and > stand alone between dots")]
    PartialWildcard(usize),
    /// A channel of Foghorn's own where anybody else's is needed.
    #[error(
        "{0:?} is reserved: whatever is below {RESERVED} is Foghorn's own, to publish on and to listen to"
    )]
    Reserved(String),
    /// A `>` that is not last.
    #[error("> stands for one or more tokens and can only be the last token; here it is token {0}")]
    TailNotLast(usize),
}

impl Channel {
    /// The channel that reaches everyone; subscribed without asking.
    pub fn broadcast() -> Self {
        Channel(ByteString::from_static("broadcast"))
    }

    /// Parses and takes over `text`, as it comes from outside: no [reserved](Self::is_reserved) one.
    pub fn parse(text: impl Into<ByteString>) -> Result<Self, ChannelError> {
        let channel = Channel::parse_stored(text)?;
        check_open(channel.as_str())?;
        Ok(channel)
    }

    /// Parses one that is in the journal or comes from there: anybody's, or Foghorn's own.
    pub fn parse_stored(text: impl Into<ByteString>) -> Result<Self, ChannelError> {
        let text = text.into();
        check_tokens(&text, |number, token| match token {
            "*" | ">" => Err(ChannelError::Wildcard(text.to_string())),
            _ => check_literal(number, token),
        })?;
        Ok(Channel(text))
    }

    /// The channel that reaches one user's every connection. An id outside `[A-Za-z0-9_-]+` becomes
    /// one token, `~` and its base64url, so that it can never be read as a pattern or as more tokens.
    pub fn user(id: &str) -> Result<Self, ChannelError> {
        if id.is_empty() {
            return Err(ChannelError::Empty);
        }
        let plain = id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        let token = if plain { id.to_owned() } else { format!("~{}", URL_SAFE_NO_PAD.encode(id)) };
        Channel::parse(format!("user.{token}"))
    }

    /// The channel on which a gateway hears its own canaries, by the number that is its name. It has 256 of them, so that
    /// there is one in each shard.
    pub fn canary(gateway: u64, lane: u8) -> Self {
        Channel(format!("{RESERVED}.canary.{gateway:012x}.{lane}").into())
    }

    /// A channel that is one of the fences of an outbox, and published on for nothing else. `outbox` is a token.
    pub fn fence(outbox: &str, number: u32) -> Result<Self, ChannelError> {
        Channel::parse_stored(format!("{RESERVED}.fence.{outbox}.{number}"))
    }

    /// Whether it is Foghorn's own. Nobody else publishes on it, and no pattern that begins with a wildcard matches it.
    pub fn is_reserved(&self) -> bool {
        is_reserved(&self.0)
    }

    /// The channel's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The same channel in memory of its own. A channel read out of a batch is a slice of the batch
    /// and keeps all of it alive; whoever stores channels for long calls this.
    pub fn detached(&self) -> Self {
        Channel(ByteString::from(self.0.as_ref() as &str))
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::borrow::Borrow<str> for Channel {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

/// Whether a channel of this name is Foghorn's own.
pub fn is_reserved(name: &str) -> bool {
    name.strip_prefix(RESERVED).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// An error for what is Foghorn's own.
pub(crate) fn check_open(name: &str) -> Result<(), ChannelError> {
    if is_reserved(name) { Err(ChannelError::Reserved(name.to_owned())) } else { Ok(()) }
}

/// Checks length and token count, and each token (numbered from 1) with `check`.
pub(crate) fn check_tokens(
    text: &str,
    mut check: impl FnMut(usize, &str) -> Result<(), ChannelError>,
) -> Result<(), ChannelError> {
    if text.is_empty() {
        return Err(ChannelError::Empty);
    }
    if text.len() > CHANNEL_BYTES_MAX {
        return Err(ChannelError::TooLong(text.len()));
    }
    let tokens = text.split('.').count();
    if tokens > CHANNEL_TOKENS_MAX {
        return Err(ChannelError::TooManyTokens(tokens));
    }
    text.split('.').enumerate().try_for_each(|(at, token)| check(at + 1, token))
}

/// Checks one token that is not a wildcard.
pub(crate) fn check_literal(number: usize, token: &str) -> Result<(), ChannelError> {
    if token.is_empty() {
        return Err(ChannelError::EmptyToken(number));
    }
    // Bytes first: a channel is parsed for every entry of the journal.
    if token.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'~' | b'-')) {
        return Ok(());
    }
    match token.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '~' | '-'))) {
        None => Ok(()),
        Some('*' | '>') => Err(ChannelError::PartialWildcard(number)),
        Some(character) => Err(ChannelError::BadCharacter { character, token: number }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_channels_and_names_what_is_wrong() {
        for good in ["a", "orders.eu.42", "user.~YUBi", "A-b_c~d", &"x".repeat(200)] {
            assert!(Channel::parse(good).is_ok(), "{good}");
        }
        let many = vec!["t"; 17].join(".");
        for (bad, error) in [
            ("", ChannelError::Empty),
            (".a", ChannelError::EmptyToken(1)),
            ("a..b", ChannelError::EmptyToken(2)),
            ("a.", ChannelError::EmptyToken(2)),
            ("a b", ChannelError::BadCharacter { character: ' ', token: 1 }),
            ("a.é", ChannelError::BadCharacter { character: 'é', token: 2 }),
            ("a.*", ChannelError::Wildcard("a.*".into())),
            ("a.b*", ChannelError::PartialWildcard(2)),
            (&"x".repeat(201), ChannelError::TooLong(201)),
            (&many, ChannelError::TooManyTokens(17)),
        ] {
            assert_eq!(Channel::parse(bad), Err(error), "{bad}");
        }
    }

    #[test]
    fn what_is_foghorns_own_is_nobody_elses() {
        let canary = Channel::canary(0xc0ffee, 255);
        assert_eq!(canary.as_str(), "~foghorn.canary.000000c0ffee.255");
        assert!(canary.is_reserved());
        for name in [canary.as_str(), "~foghorn", "~foghorn.anything"] {
            assert_eq!(Channel::parse(name), Err(ChannelError::Reserved(name.to_owned())));
            assert_eq!(Channel::parse_stored(name).unwrap().as_str(), name);
        }
        for name in ["~foghorns", "foghorn.canary", "a.~foghorn", "~Foghorn.a"] {
            assert!(!Channel::parse(name).unwrap().is_reserved(), "{name}");
        }
    }

    #[test]
    fn a_strange_user_id_is_one_token_and_distinct() {
        assert_eq!(Channel::user("ann-1").unwrap().as_str(), "user.ann-1");
        assert_eq!(Channel::user("*").unwrap().as_str(), "user.~Kg");
        assert_eq!(Channel::user(">").unwrap().as_str(), "user.~Pg");
        assert_ne!(Channel::user("~Kg").unwrap(), Channel::user("*").unwrap());
        assert!(Channel::user("").is_err());
        assert!(matches!(Channel::user(&"é".repeat(100)), Err(ChannelError::TooLong(_))));
    }
}
