//! Journal entries: what a publish becomes.
//!
//! Anybody with the right NATS permissions may append to the journal, so an entry is input from
//! outside. Whether it is valid is one pure function of the entry, [`validate`], used alike by relay
//! and log writer: both skip the same entries, so what is heard and what is replayed agree.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use xxhash_rust::xxh3::Xxh3;

use crate::channel::Channel;
use crate::event::{Event, EventError, EventId, EventType, Ttl, parse_data};
use crate::position::Digest;
use crate::shard::{Shard, ShardCount};
use crate::time::Timestamp;
use crate::trace::TraceContext;

/// Header with the SSE event type.
pub const HEADER_EVENT: &str = "Foghorn-Event";
/// Header with the publisher's idempotency key.
pub const HEADER_ID: &str = "Foghorn-Id";
/// Header with the time to live in seconds.
pub const HEADER_TTL: &str = "Foghorn-Ttl";
/// Request header with the ack class, `accepted` or `durable`.
pub const HEADER_ACK: &str = "Foghorn-Ack";

/// What JetStream dedupes by, as `Nats-Msg-Id`: a hash of (channel, id), because the stream has one
/// space of message ids for all channels; without an id, 128 random bits of fan-out's, so that its own
/// retry never doubles. A cryptographic hash, or a publisher could choose an id that swallows another
/// channel's event.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key([u8; 16]);

impl Key {
    /// The key of an event with an idempotency key.
    pub fn of(channel: &Channel, id: &EventId) -> Self {
        let mut hash = Sha256::new();
        hash.update(channel.as_str());
        hash.update([0]);
        hash.update(id.as_str());
        Key::truncate(&hash.finalize())
    }

    /// 128 random bits from the caller.
    pub fn invented(random: u128) -> Self {
        Key(random.to_be_bytes())
    }

    /// As it was stored.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Key(bytes)
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// From a `Nats-Msg-Id`: ours are read back, a foreign publisher's own text is hashed.
    pub fn from_message_id(text: &str) -> Self {
        let ours = URL_SAFE_NO_PAD.decode(text).ok().and_then(|bytes| bytes.try_into().ok());
        ours.map_or_else(|| Key::truncate(&Sha256::digest(text)), Key)
    }

    fn truncate(hash: &[u8]) -> Self {
        let mut key = [0; 16];
        key.copy_from_slice(&hash[..16]);
        Key(key)
    }
}

/// The `Nats-Msg-Id` text: 22 characters of base64url.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An event on its way into the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEntry {
    /// What is published.
    pub event: Event,
    /// What it is deduped by.
    pub key: Key,
    /// Of which trace it is a part.
    pub traceparent: Option<TraceContext>,
}

/// A journal entry as it lies in the journal, unchecked.
#[derive(Debug, Clone, Copy)]
pub struct RawEntry<'a> {
    /// The subject after `foghorn.journal.<shard>.`.
    pub channel: &'a str,
    /// [`HEADER_EVENT`].
    pub event_type: Option<&'a str>,
    /// [`HEADER_ID`].
    pub id: Option<&'a str>,
    /// [`HEADER_TTL`].
    pub ttl: Option<&'a str>,
    /// The body.
    pub data: &'a Bytes,
}

/// An entry read back from the journal.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its sequence number.
    pub seq: u64,
    /// When the journal took it.
    pub time: Timestamp,
    /// What it is deduped by; none when a foreign publisher gave none.
    pub key: Option<Key>,
    /// Tells it apart from another that claims this position.
    pub digest: Digest,
    /// Of which trace it is a part, where the journal says so. No part of what the entry is.
    pub traceparent: Option<TraceContext>,
    /// The event, or why there is none. Invalid entries are covered by ranges, counted and skipped.
    pub event: Result<Event, InvalidEntry>,
}

/// Why an entry is skipped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidEntry {
    /// The event itself is malformed.
    #[error(transparent)]
    Event(#[from] EventError),
    /// It was appended to a shard that its channel doesn't belong to.
    #[error("channel {channel} belongs to shard {belongs}, but the entry is in shard {found}")]
    WrongShard {
        /// The channel.
        channel: Channel,
        /// Where it should be.
        belongs: Shard,
        /// Where it is.
        found: Shard,
    },
}

/// The event of an entry of `shard`. `frame_bytes` is the cluster's bound on an encoded frame.
pub fn validate(
    shard: Shard,
    shards: ShardCount,
    frame_bytes: usize,
    raw: RawEntry<'_>,
) -> Result<Event, InvalidEntry> {
    let channel = Channel::parse_stored(raw.channel).map_err(EventError::from)?;
    let belongs = shards.shard_of(&channel);
    if belongs != shard {
        return Err(InvalidEntry::WrongShard { channel, belongs, found: shard });
    }
    let event = Event {
        channel,
        event_type: raw.event_type.map(EventType::parse_stored).transpose()?,
        data: parse_data(raw.data.clone())?,
        id: raw.id.map(EventId::parse).transpose()?,
        ttl: raw.ttl.map(Ttl::parse).transpose()?,
    };
    event.check_size(frame_bytes)?;
    Ok(event)
}

/// The digest of an entry: XXH3-64 over time, key, type, channel and data, each with its length. Never
/// [`Digest::NONE`].
pub fn digest(
    time: Timestamp,
    key: Option<&Key>,
    channel: &str,
    event_type: Option<&str>,
    data: &[u8],
) -> Digest {
    let mut hash = Xxh3::new();
    let mut part = |bytes: &[u8]| {
        hash.update(&(bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    part(&time.as_micros().to_le_bytes());
    part(key.map_or(&[], |key| key.as_bytes()));
    part(event_type.unwrap_or_default().as_bytes());
    part(channel.as_bytes());
    part(data);
    Digest(hash.digest().max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw<'a>(channel: &'a str, data: &'a Bytes) -> RawEntry<'a> {
        RawEntry { channel, event_type: None, id: None, ttl: None, data }
    }

    #[test]
    fn keys_are_per_channel_and_survive_the_header() {
        let id = EventId::parse("7").unwrap();
        let a = Key::of(&Channel::parse("a").unwrap(), &id);
        let b = Key::of(&Channel::parse("b").unwrap(), &id);
        assert_ne!(a, b);
        assert_eq!(Key::from_message_id(&a.to_string()), a);
        assert_ne!(Key::from_message_id("order-7"), Key::from_message_id("order-8"));
    }

    #[test]
    fn absurd_entries_are_named() {
        let four = ShardCount::new(4).unwrap();
        let text = Bytes::from_static(b"x");
        let home = four.shard_of_str("a");
        assert!(validate(home, four, 100, raw("a", &text)).is_ok());
        let other = four.shards().find(|s| *s != home).unwrap();
        assert!(matches!(validate(other, four, 100, raw("a", &text)), Err(InvalidEntry::WrongShard { .. })));
        let bad = Bytes::from_static(b"ab\xff");
        assert_eq!(
            validate(home, four, 100, raw("a", &bad)),
            Err(InvalidEntry::Event(EventError::NotUtf8 { at: 2 }))
        );
        let ttl = RawEntry { ttl: Some("soon"), ..raw("a", &text) };
        assert_eq!(validate(home, four, 100, ttl), Err(InvalidEntry::Event(EventError::Ttl)));
        assert!(validate(home, four, 6, raw("a", &text)).is_err());
    }

    #[test]
    fn the_digest_tells_entries_apart() {
        let time = Timestamp::from_micros(5);
        let one = digest(time, None, "a", None, b"bc");
        assert_ne!(one, digest(time, None, "ab", None, b"c"));
        assert_ne!(one, digest(Timestamp::from_micros(6), None, "a", None, b"bc"));
        assert_ne!(one, digest(time, None, "a", Some("bc"), b""));
        assert_eq!(one, digest(time, None, "a", None, b"bc"));
    }
}
