//! Stored messages as journal entries.

use async_nats::{HeaderMap, HeaderName, header};
use bytes::Bytes;

use foghorn_core::entry::{
    Entry, HEADER_EVENT, HEADER_ID, HEADER_TTL, Key, NewEntry, RawEntry, digest, validate,
};
use foghorn_core::shard::{Shard, ShardCount};
use foghorn_core::time::Timestamp;
use foghorn_core::trace::{HEADER_TRACEPARENT, TraceContext};

use super::block::{Block, canonical};
use super::{Parameters, stream};
use crate::journal::Fence;

const MESSAGE_ID: &str = "Nats-Msg-Id";
const EXPECTED_LAST_SUBJECT: &str = "Nats-Expected-Last-Subject-Sequence-Subject";

/// What decides, beside the entry itself, whether it is valid.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    pub(super) shard: Shard,
    pub(super) shards: ShardCount,
    pub(super) frame_bytes: usize,
    /// What the shard's subjects begin with.
    pub(super) prefix: String,
}

/// The headers that matter to us. Of several with one name the first counts, as it does for JetStream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Fields<'a> {
    event_type: Option<&'a str>,
    id: Option<&'a str>,
    ttl: Option<&'a str>,
    message_id: Option<&'a str>,
    traceparent: Option<&'a str>,
}

impl Rules {
    pub(super) fn new(shard: Shard, parameters: &Parameters) -> Self {
        Rules {
            shard,
            shards: parameters.shards,
            frame_bytes: parameters.event_bytes,
            prefix: stream::subject_prefix(shard),
        }
    }

    /// The entry of a message as it is stored.
    pub(super) fn stored(
        &self,
        seq: u64,
        time: Timestamp,
        subject: &str,
        block: &[u8],
        data: &Bytes,
    ) -> Entry {
        let block = canonical(block, subject.len() - subject.trim_end().len());
        self.entry(seq, time, subject, Fields::stored(block.as_ref()), data)
    }

    /// The entry of a message that was published on `subject`.
    pub(super) fn entry(
        &self,
        seq: u64,
        time: Timestamp,
        subject: &str,
        fields: Fields<'_>,
        data: &Bytes,
    ) -> Entry {
        // Without white space at the end, as the client library gives the subject of a direct get.
        let channel = subject.strip_prefix(&*self.prefix).unwrap_or_default().trim_end();
        let key = fields.message_id.map(Key::from_message_id);
        let raw = RawEntry { channel, event_type: fields.event_type, id: fields.id, ttl: fields.ttl, data };
        Entry {
            seq,
            time,
            digest: digest(time, key.as_ref(), channel, fields.event_type, data),
            key,
            traceparent: fields.traceparent.and_then(TraceContext::parse),
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
        const TRACE: HeaderName = HeaderName::from_static(HEADER_TRACEPARENT);
        let Some(headers) = headers else { return Fields::default() };
        let text = |name| headers.get(name).map(|value| value.as_str());
        let message_id = text(header::NATS_MESSAGE_ID);
        // Most entries have no other header.
        if headers.len() == usize::from(message_id.is_some()) {
            return Fields { message_id, ..Fields::default() };
        }
        Fields { event_type: text(EVENT), id: text(ID), ttl: text(TTL), message_id, traceparent: text(TRACE) }
    }

    /// Of a header block as it is stored; none for one that can't be read.
    fn stored(block: Option<&'a Block<'a>>) -> Self {
        let Some(block) = block else {
            // NUL makes the entry invalid, and its digest depends on nothing else in the block.
            return Fields { event_type: Some("\0"), ..Fields::default() };
        };
        let mut fields = Fields::default();
        for (name, value) in &block.headers {
            let field = match *name {
                HEADER_EVENT => &mut fields.event_type,
                HEADER_ID => &mut fields.id,
                HEADER_TTL => &mut fields.ttl,
                MESSAGE_ID => &mut fields.message_id,
                HEADER_TRACEPARENT => &mut fields.traceparent,
                _ => continue,
            };
            field.get_or_insert(value);
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
    if let Some(traceparent) = entry.traceparent {
        headers.insert(HEADER_TRACEPARENT, traceparent.to_string());
    }
    headers
}

/// What has the server take an entry only while the fence's last entry is where it was raised. With the name of
/// another subject than the entry's own: NATS 2.11.
pub(super) fn expect(headers: &mut HeaderMap, shard: Shard, fence: &Fence) {
    let subject = format!("{}{}", stream::subject_prefix(shard), fence.channel.as_str());
    headers.insert(header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, fence.seq.to_string());
    headers.insert(EXPECTED_LAST_SUBJECT, subject);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> Rules {
        Rules {
            shard: Shard::ZERO,
            shards: ShardCount::ONE,
            frame_bytes: 100,
            prefix: stream::subject_prefix(Shard::ZERO),
        }
    }

    fn entry(block: &[u8]) -> Entry {
        let data = Bytes::from_static(b"x");
        rules().stored(7, Timestamp::default(), "foghorn.journal.0.a", block, &data)
    }

    #[test]
    fn stored_headers_are_read_as_the_client_reads_them() {
        let block = b"NATS/1.0\r\nFoghorn-Event:  tick \r\nFoghorn-Event: tock\r\nX: y\r\nNats-Msg-Id: a\r\n b\r\n\r\n";
        let block = canonical(block, 0);
        let expected = Fields { event_type: Some("tick"), message_id: Some("a b"), ..Fields::default() };
        assert_eq!(Fields::stored(block.as_ref()), expected);

        let mut map = HeaderMap::new();
        map.append(HEADER_EVENT, "tick");
        map.append(HEADER_EVENT, "tock");
        map.append("X", "y");
        map.append(header::NATS_MESSAGE_ID, "a b");
        assert_eq!(Fields::of(Some(&map)), expected);
    }

    #[test]
    fn headers_that_are_no_text_or_have_no_end_make_the_entry_invalid() {
        let bad = [
            &b"NATS/1.0\r\nFoghorn-Id: \xff\r\n\r\n"[..],
            b"NATS/1.0\r\nX: \xff\r\n\r\n",
            b"NATS/1.0\r\nFoghorn-Event: a",
            b"NATS/1.0\r\nFoghorn-Event: a\r\n",
            b"NATS/1.0\r\nFoghorn-Event: a\n\n",
            b"GARBAGE",
        ];
        let digests: Vec<_> = bad.iter().map(|block| entry(block).digest).collect();
        assert!(bad.iter().all(|block| entry(block).event.is_err()));
        assert!(digests.iter().all(|digest| *digest == digests[0]), "nothing in them counts");
        // Lines that are no headers are passed over.
        let event = entry(b"NATS/1.0\r\nnonsense\r\nFoghorn-Event: a\r\n\r\n").event.unwrap();
        assert_eq!(event.event_type.unwrap().as_str(), "a");
    }

    #[test]
    fn white_space_after_the_subject_is_no_part_of_the_channel() {
        let data = Bytes::from_static(b"x");
        let subject = "foghorn.journal.0.a\u{2003}";
        let entry = rules().stored(7, Timestamp::default(), subject, b"", &data);
        assert_eq!(entry.event.unwrap().channel.as_str(), "a");
    }
}
