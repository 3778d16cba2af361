//! A stored event, as both databases give it back.

use bytes::Bytes;
use foghorn_bus::log::{HistoryEvent, LogError};
use foghorn_core::batch::FeedEvent;
use foghorn_core::channel::Channel;
use foghorn_core::entry::{self, Entry, Key};
use foghorn_core::event::{Event, EventError, EventId, EventType, Ttl, parse_data};
use foghorn_core::position::{Digest, Epoch, Position};
use foghorn_core::shard::Shard;
use foghorn_core::time::Timestamp;

/// An event of the log.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) seq: u64,
    pub(crate) time: Timestamp,
    pub(crate) key: Option<Key>,
    pub(crate) event: Event,
}

/// The columns, unchecked: a disk is outside too.
#[derive(Debug, sqlx::FromRow)]
pub(crate) struct Columns {
    seq: i64,
    time_us: i64,
    channel: String,
    #[sqlx(rename = "type")]
    event_type: Option<String>,
    id: Option<String>,
    ttl: Option<i64>,
    key: Option<Vec<u8>>,
    data: Vec<u8>,
}

impl Columns {
    /// The event in these columns. A row that is none is damage: an error and not silence.
    pub(crate) fn check(self) -> Result<Record, LogError> {
        let (seq, time_us) = (self.seq, self.time_us);
        let key = self.key.as_ref().map(|key| <[u8; 16]>::try_from(key.as_slice()));
        let event = self.event().map_err(|error| {
            LogError(format!(
                "the row of seq {seq} is damaged ({error}); restore the database or delete the row"
            ))
        })?;
        let key = key.transpose().map_err(|_| LogError(format!("the row of seq {seq} has a damaged key")))?;
        Ok(Record {
            seq: to_u64(seq),
            time: Timestamp::from_micros(time_us),
            key: key.map(Key::from_bytes),
            event,
        })
    }

    fn event(self) -> Result<Event, EventError> {
        Ok(Event {
            channel: Channel::parse_stored(self.channel)?,
            event_type: self.event_type.map(EventType::parse_stored).transpose()?,
            data: parse_data(Bytes::from(self.data))?,
            id: self.id.map(EventId::parse).transpose()?,
            ttl: self.ttl.map(|seconds| Ttl::new(to_u64(seconds))).transpose()?,
        })
    }
}

impl Record {
    /// The event of a journal entry; none when the entry is invalid.
    pub(crate) fn of(entry: Entry) -> Option<Self> {
        let event = entry.event.ok()?;
        Some(Record { seq: entry.seq, time: entry.time, key: entry.key, event })
    }

    /// As it lies in the journal, but for the trace that it may be a part of.
    pub(crate) fn entry(self) -> Entry {
        Entry {
            seq: self.seq,
            time: self.time,
            key: self.key,
            digest: self.digest(),
            traceparent: None,
            event: Ok(self.event),
        }
    }

    pub(crate) fn digest(&self) -> Digest {
        let event_type = self.event.event_type.as_ref().map(EventType::as_str);
        entry::digest(
            self.time,
            self.key.as_ref(),
            self.event.channel.as_str(),
            event_type,
            self.event.data.as_bytes(),
        )
    }

    pub(crate) fn feed(&self, shard: Shard, epoch: Epoch) -> FeedEvent {
        FeedEvent::encode(Position { shard, epoch, seq: self.seq }, self.time, &self.event)
    }

    pub(crate) fn history(self) -> HistoryEvent {
        HistoryEvent {
            seq: self.seq,
            time: self.time,
            event_type: self.event.event_type.map(|text| text.to_string()),
            id: self.event.id.map(|text| text.to_string()),
            data: self.event.data.into_bytes(),
        }
    }

    /// Whether its ttl has run out at `now`.
    pub(crate) fn is_expired(&self, now: Timestamp) -> bool {
        self.event.ttl.is_some_and(|ttl| now.since(self.time).as_secs() >= u64::from(ttl.seconds()))
    }

    /// What is left of its ttl at `now`; a second if that is less.
    pub(crate) fn rest_of_ttl(&self, now: Timestamp) -> Option<Ttl> {
        let ttl = u64::from(self.event.ttl?.seconds());
        // Never above what it was, so it is a ttl.
        Ttl::new(ttl.saturating_sub(now.since(self.time).as_secs()).max(1)).ok()
    }

    pub(crate) fn bytes(&self) -> usize {
        event_bytes(&self.event)
    }

    /// At most how many bytes it takes as JSON: its texts, escaped, and room for what stands around them.
    pub(crate) fn json_bytes(&self) -> usize {
        let event = &self.event;
        let texts = event.event_type.as_ref().map_or(0, |text| text.as_str().len())
            + event.id.as_ref().map_or(0, |text| text.as_str().len());
        // Neither type nor id holds what takes more than two bytes.
        256 + 2 * texts + json_text_bytes(event.data.as_bytes())
    }
}

/// About the bytes an event takes in memory and on disk: its texts and a constant for the rest.
pub(crate) fn event_bytes(event: &Event) -> usize {
    96 + event.data.len()
        + event.channel.as_str().len()
        + event.event_type.as_ref().map_or(0, |text| text.as_str().len())
        + event.id.as_ref().map_or(0, |text| text.as_str().len())
}

/// How many bytes a text takes in JSON, without its quotes.
fn json_text_bytes(text: &[u8]) -> usize {
    let of = |byte: &u8| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 2,
        0x00..=0x1f => 6,
        _ => 1,
    };
    text.iter().map(of).sum()
}

/// A number of ours as SQL keeps it. Seqs, epochs and terms stay far below 2^63.
pub(crate) fn to_i64(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The number that [`to_i64`] stored.
pub(crate) fn to_u64(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaped_texts_are_as_long_as_serde_makes_them() {
        let all: String = (0..0x250).filter_map(char::from_u32).collect();
        let escaped = serde_json::to_string(&all).unwrap();
        assert_eq!(json_text_bytes(all.as_bytes()), escaped.len() - 2);
    }

    #[test]
    fn of_a_ttl_what_is_left_goes_on_and_is_a_second_at_least() {
        let began = Timestamp::from_micros(1_000_000);
        let record = |ttl: Option<u64>| {
            let ttl = ttl.map(|seconds| Ttl::new(seconds).unwrap());
            let event = Event {
                channel: Channel::parse("a").unwrap(),
                event_type: None,
                data: "x".into(),
                id: None,
                ttl,
            };
            Record { seq: 1, time: began, key: None, event }
        };
        let left = |ttl, passed| {
            let now = began.plus(std::time::Duration::from_secs(passed));
            record(ttl).rest_of_ttl(now).map(Ttl::seconds)
        };
        assert_eq!([left(Some(10), 0), left(Some(10), 4)], [Some(10), Some(6)]);
        assert_eq!([left(Some(10), 10), left(Some(10), 100)], [Some(1), Some(1)]);
        assert_eq!(left(None, 100), None);
    }
}
