//! Events as publishers give them.

use std::fmt;

use bytes::Bytes;
use bytestring::ByteString;

use crate::channel::Channel;
use crate::sse;

/// Most bytes in an event type.
pub const EVENT_TYPE_BYTES_MAX: usize = 128;
/// Most bytes in an idempotency key.
pub const EVENT_ID_BYTES_MAX: usize = 256;
/// Most seconds an event may live: a year.
pub const TTL_SECONDS_MAX: u32 = 366 * 86_400;
/// Bytes of an encoded frame, without its `id:` line, that an event may take unless configured
/// otherwise.
pub const FRAME_BYTES_DEFAULT: usize = 256 * 1024;
/// The highest that limit can be set: two frames must fit into one NATS message of 1 MiB.
pub const FRAME_BYTES_MAX: usize = 480 * 1024;

/// The type of events of who listens, which no publisher may use.
const PRESENCE: &str = "presence";

/// What a publisher gives, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Where it goes.
    pub channel: Channel,
    /// The SSE event type; none is what EventSource calls `message`.
    pub event_type: Option<EventType>,
    /// The payload. CR, LF and CRLF in it all reach a listener as line breaks.
    pub data: ByteString,
    /// The publisher's idempotency key, unique within the channel for the dedupe window.
    pub id: Option<EventId>,
    /// Seconds after which it is no longer owed to anybody.
    pub ttl: Option<Ttl>,
}

/// An SSE event type: 1 to 128 bytes without CR, LF, NUL, comma or space at either end, and none of ours.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventType(ByteString);

/// An idempotency key: 1 to 256 bytes without CR, LF, NUL or space at either end.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct EventId(ByteString);

/// Seconds, `1..=TTL_SECONDS_MAX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ttl(u32);

/// Why something is not an event. `code` names the kind for machines, the text says it to people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    /// The channel is malformed.
    #[error("channel: {0}")]
    Channel(#[from] crate::channel::ChannelError),
    /// The event type is malformed.
    #[error("event: {0}")]
    EventType(TextError),
    /// The type is one the stream itself uses.
    #[error(
        "event: {0:?} is reserved (connected, batch, heartbeat, presence and stream-* are Foghorn's own)"
    )]
    Reserved(String),
    /// The id is malformed.
    #[error("id: {0}")]
    Id(TextError),
    /// The ttl is out of range.
    #[error("ttl: must be a whole number of seconds from 1 to {TTL_SECONDS_MAX}")]
    Ttl,
    /// The data are not UTF-8.
    #[error(
        "data: not UTF-8 (first bad byte at {at}); SSE carries text only, so encode binary data as base64"
    )]
    NotUtf8 {
        /// Offset of the first byte that is not UTF-8.
        at: usize,
    },
    /// The encoded frame is over the limit.
    #[error("data: the event takes {bytes} bytes as an SSE frame, {limit} are allowed")]
    TooLarge {
        /// What it takes.
        bytes: usize,
        /// What is allowed.
        limit: usize,
    },
}

/// What is wrong with an event type or id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// Nothing at all.
    #[error("can't be empty; leave it out instead")]
    Empty,
    /// Too long.
    #[error("has {bytes} bytes, at most {max} are allowed")]
    TooLong {
        /// What it has.
        bytes: usize,
        /// What is allowed.
        max: usize,
    },
    /// A character that would end the SSE field or void it.
    #[error("has a {0} at byte {1}, which would forge or void an SSE field")]
    Control(&'static str, usize),
    /// A comma in an event type.
    #[error(
        "has a comma at byte {0}, so no listener could ask for it: `events=` separates types with commas"
    )]
    Comma(usize),
    /// White space at an end, which SSE and NATS headers don't keep.
    #[error("begins or ends with white space, which doesn't survive the way")]
    Padded,
}

impl EventError {
    /// The problem type (see docs/problems.md) this error is reported as.
    pub fn code(&self) -> &'static str {
        match self {
            EventError::Channel(_) => "bad-channel",
            EventError::EventType(_) => "bad-event-type",
            EventError::Reserved(_) => "reserved-event-type",
            EventError::Id(_) => "bad-event-id",
            EventError::Ttl => "bad-ttl",
            EventError::NotUtf8 { .. } => "not-utf8",
            EventError::TooLarge { .. } => "event-too-large",
        }
    }
}

impl Event {
    /// An event without type, id or ttl.
    pub fn new(channel: Channel, data: impl Into<ByteString>) -> Self {
        Event { channel, event_type: None, data: data.into(), id: None, ttl: None }
    }

    /// An error when the encoded frame, without its `id:` line, is over `limit` bytes.
    pub fn check_size(&self, limit: usize) -> Result<(), EventError> {
        let bytes = sse::frame_len(self.event_type.as_ref(), &self.data);
        if bytes > limit { Err(EventError::TooLarge { bytes, limit }) } else { Ok(()) }
    }
}

/// Bytes from outside as event data.
pub fn parse_data(bytes: Bytes) -> Result<ByteString, EventError> {
    ByteString::try_from(bytes).map_err(|error| EventError::NotUtf8 { at: error.valid_up_to() })
}

impl EventType {
    /// Parses a publisher's event type.
    pub fn parse(text: impl Into<ByteString>) -> Result<Self, EventError> {
        let parsed = EventType::parse_stored(text)?;
        if parsed.is_presence() { Err(EventError::Reserved(PRESENCE.to_owned())) } else { Ok(parsed) }
    }

    /// Parses the type of an event that is in the journal or comes from there: a publisher's, or `presence`.
    pub fn parse_stored(text: impl Into<ByteString>) -> Result<Self, EventError> {
        let text = text.into();
        check_text(&text, EVENT_TYPE_BYTES_MAX).map_err(EventError::EventType)?;
        if let Some(at) = text.find(',') {
            return Err(EventError::EventType(TextError::Comma(at)));
        }
        if matches!(&*text, "connected" | "batch" | "heartbeat") || text.starts_with("stream-") {
            return Err(EventError::Reserved(text.to_string()));
        }
        Ok(EventType(text))
    }

    /// The type of Foghorn's own events of who listens.
    pub fn presence() -> Self {
        EventType(ByteString::from_static(PRESENCE))
    }

    /// Whether it is that one.
    pub fn is_presence(&self) -> bool {
        self.as_str() == PRESENCE
    }

    /// The type's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl EventId {
    /// Parses a publisher's idempotency key.
    pub fn parse(text: impl Into<ByteString>) -> Result<Self, EventError> {
        let text = text.into();
        check_text(&text, EVENT_ID_BYTES_MAX).map_err(EventError::Id)?;
        Ok(EventId(text))
    }

    /// The key's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Ttl {
    /// `seconds`, if in range.
    pub fn new(seconds: u64) -> Result<Self, EventError> {
        match u32::try_from(seconds) {
            Ok(s) if (1..=TTL_SECONDS_MAX).contains(&s) => Ok(Ttl(s)),
            _ => Err(EventError::Ttl),
        }
    }

    /// Parses decimal digits, as headers carry them.
    pub fn parse(text: &str) -> Result<Self, EventError> {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        if !digits {
            return Err(EventError::Ttl);
        }
        Ttl::new(text.parse().map_err(|_| EventError::Ttl)?)
    }

    /// In seconds.
    pub fn seconds(self) -> u32 {
        self.0
    }
}

fn check_text(text: &str, max: usize) -> Result<(), TextError> {
    if text.is_empty() {
        return Err(TextError::Empty);
    }
    if text.len() > max {
        return Err(TextError::TooLong { bytes: text.len(), max });
    }
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'\r' => return Err(TextError::Control("CR", at)),
            b'\n' => return Err(TextError::Control("LF", at)),
            0 => return Err(TextError::Control("NUL", at)),
            _ => {}
        }
    }
    if text.trim().len() != text.len() { Err(TextError::Padded) } else { Ok(()) }
}

macro_rules! text_impls {
    ($name:ident) => {
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(self.as_str(), f)
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}
text_impls!(EventType);
text_impls!(EventId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_or_id_that_would_forge_a_field_is_refused() {
        for (text, what) in [("a\nb", "LF"), ("a\rb", "CR"), ("a\0b", "NUL")] {
            let error = EventError::EventType(TextError::Control(what, 1));
            assert_eq!(EventType::parse(text), Err(error), "{text:?}");
            assert_eq!(EventId::parse(text), Err(EventError::Id(TextError::Control(what, 1))));
        }
        assert_eq!(EventType::parse(" a"), Err(EventError::EventType(TextError::Padded)));
        assert_eq!(EventType::parse(""), Err(EventError::EventType(TextError::Empty)));
        // It could not be asked for. An id is never in a list.
        assert_eq!(EventType::parse("a,b"), Err(EventError::EventType(TextError::Comma(1))));
        assert!(EventId::parse("a,b").is_ok());
    }

    #[test]
    fn our_own_types_are_reserved() {
        for ours in ["connected", "batch", "heartbeat", "presence", "stream-reset", "stream-anything"] {
            assert!(matches!(EventType::parse(ours), Err(EventError::Reserved(_))), "{ours}");
        }
        assert!(EventType::parse("streamed").is_ok());
        // The one of them that the journal carries.
        assert_eq!(EventType::parse_stored("presence"), Ok(EventType::presence()));
        assert!(
            EventType::parse_stored("connected").is_err() && EventType::parse_stored("stream-end").is_err()
        );
    }

    #[test]
    fn size_is_that_of_the_frame() {
        let channel = Channel::parse("a").unwrap();
        // "data: \n" eight times and the blank line.
        let event = Event::new(channel, "\n\n\n\n\n\n\n");
        assert_eq!(event.check_size(57), Ok(()));
        assert_eq!(event.check_size(56), Err(EventError::TooLarge { bytes: 57, limit: 56 }));
    }

    #[test]
    fn a_ttl_is_digits_in_range() {
        assert_eq!(Ttl::parse("60").unwrap().seconds(), 60);
        for bad in ["", "0", "-1", "+5", "1.5", "99999999999", "ten"] {
            assert_eq!(Ttl::parse(bad), Err(EventError::Ttl), "{bad}");
        }
    }
}
