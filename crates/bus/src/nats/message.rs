//! Stored messages as journal entries.

use async_nats::{HeaderMap, HeaderName, header};
use bytes::Bytes;

use foghorn_core::entry::{
    Entry, HEADER_EVENT, HEADER_ID, HEADER_TTL, Key, NewEntry, RawEntry, digest, validate,
};
use foghorn_core::shard::{Shard, ShardCount};
use foghorn_core::time::Timestamp;

use super::Parameters;

const MESSAGE_ID: &str = "Nats-Msg-Id";
const TRACEPARENT: &str = "traceparent";
/// A W3C trace context is 55 characters; later versions may be longer.
const TRACEPARENT_BYTES_MAX: usize = 128;

/// What decides, beside the entry itself, whether it is valid.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    pub(super) shard: Shard,
    pub(super) shards: ShardCount,
    pub(super) frame_bytes: usize,
}

/// The headers that matter to us. Of several with one name the first counts, as it does for JetStream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Fields<'a> {
    event_type: Option<&'a str>,
    id: Option<&'a str>,
    ttl: Option<&'a str>,
    message_id: Option<&'a str>,
}

impl Rules {
    pub(super) fn new(shard: Shard, parameters: &Parameters) -> Self {
        Rules { shard, shards: parameters.shards, frame_bytes: parameters.event_bytes }
    }

    /// The entry of a message whose subject ends in `channel`.
    pub(super) fn entry(
        &self,
        seq: u64,
        time: Timestamp,
        channel: &str,
        fields: Fields<'_>,
        data: &Bytes,
    ) -> Entry {
        let key = fields.message_id.map(Key::from_message_id);
        let raw = RawEntry { channel, event_type: fields.event_type, id: fields.id, ttl: fields.ttl, data };
        Entry {
            seq,
            time,
            digest: digest(time, key.as_ref(), channel, fields.event_type, data),
            key,
            event: validate(self.shard, self.shards, self.frame_bytes, raw),
        }
    }
}

impl<'a> Fields<'a> {
    /// Of a message that the client library has read.
    pub(super) fn of(headers: Option<&'a HeaderMap>) -> Self {
        const EVENT: HeaderName = HeaderName::from_static(HEADER_EVENT);
        const ID: HeaderName = HeaderName::from_static(HEADER_ID);
        const TTL: HeaderName = HeaderName::from_static(HEADER_TTL);
        let Some(headers) = headers else { return Fields::default() };
        let text = |name| headers.get(name).map(|value| value.as_str());
        let message_id = text(header::NATS_MESSAGE_ID);
        // Most entries have no other header.
        if headers.len() == usize::from(message_id.is_some()) {
            return Fields { message_id, ..Fields::default() };
        }
        Fields { event_type: text(EVENT), id: text(ID), ttl: text(TTL), message_id }
    }

    /// Of a header block as it is stored, for one that the client library can't read: it drops the
    /// connection over it. What it can read gives the same fields either way.
    pub(super) fn parse(block: &'a [u8], unfolded: &'a mut String) -> Self {
        let Ok(block) = std::str::from_utf8(block) else {
            // Nobody can say which header the bad bytes were meant for; NUL makes the entry invalid.
            return Fields { event_type: Some("\0"), ..Fields::default() };
        };
        // A line that begins with white space goes on with the one before, white space and all.
        for line in block.lines().skip(1) {
            if line.starts_with(char::is_whitespace) {
                unfolded.push_str(line);
            } else if let Some((name, value)) = line.split_once(':') {
                unfolded.extend(["\n", name, ":", value.trim_start()]);
            }
        }
        let mut fields = Fields::default();
        for (name, value) in unfolded.lines().filter_map(|line| line.split_once(':')) {
            let field = match name {
                HEADER_EVENT => &mut fields.event_type,
                HEADER_ID => &mut fields.id,
                HEADER_TTL => &mut fields.ttl,
                MESSAGE_ID => &mut fields.message_id,
                _ => continue,
            };
            field.get_or_insert(value.trim_end());
        }
        fields
    }
}

/// The headers of an entry on its way into the journal: as few as can be, each is stored and read again
/// by every tail.
pub(super) fn headers(entry: &NewEntry) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::NATS_MESSAGE_ID, entry.key.to_string());
    if let Some(event_type) = &entry.event.event_type {
        headers.insert(HEADER_EVENT, event_type.as_str());
    }
    if let Some(id) = &entry.event.id {
        headers.insert(HEADER_ID, id.as_str());
    }
    if let Some(ttl) = entry.event.ttl {
        headers.insert(HEADER_TTL, ttl.seconds().to_string());
    }
    // It is passed on as it came; a line break in it would forge headers.
    let is_plain = |text: &&String| {
        text.len() <= TRACEPARENT_BYTES_MAX && text.bytes().all(|byte| byte.is_ascii_graphic())
    };
    if let Some(traceparent) = entry.traceparent.as_ref().filter(is_plain) {
        headers.insert(TRACEPARENT, traceparent.as_str());
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_headers_are_read_as_the_client_reads_them() {
        let block = b"NATS/1.0\r\nFoghorn-Event:  tick \r\nFoghorn-Event: tock\r\nX: y\r\nNats-Msg-Id: a\r\n b\r\n\r\n";
        let mut unfolded = String::new();
        let fields = Fields::parse(block, &mut unfolded);
        let expected = Fields { event_type: Some("tick"), message_id: Some("a b"), ..Fields::default() };
        assert_eq!(fields, expected);

        let mut map = HeaderMap::new();
        map.append(HEADER_EVENT, "tick");
        map.append(HEADER_EVENT, "tock");
        map.append("X", "y");
        map.append(header::NATS_MESSAGE_ID, "a b");
        assert_eq!(Fields::of(Some(&map)), expected);
    }

    #[test]
    fn headers_that_are_no_text_make_the_entry_invalid() {
        let rules = Rules { shard: Shard::ZERO, shards: ShardCount::ONE, frame_bytes: 100 };
        for block in [&b"NATS/1.0\r\nFoghorn-Id: \xff\r\n\r\n"[..], b"NATS/1.0\r\nX: \xff\r\n\r\n"] {
            let mut unfolded = String::new();
            let fields = Fields::parse(block, &mut unfolded);
            let entry = rules.entry(7, Timestamp::default(), "a", fields, &Bytes::from_static(b"x"));
            assert!(entry.event.is_err());
        }
        // Lines that are no headers are passed over.
        let mut unfolded = String::new();
        let fields = Fields::parse(b"NATS/1.0\r\nnonsense\r\nFoghorn-Ttl: 5\r\n\r\n", &mut unfolded);
        assert_eq!(fields.ttl, Some("5"));
    }
}
