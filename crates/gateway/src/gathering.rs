//! Events on their way to become one `batch` block.

use foghorn_core::cursor::Cursor;
use foghorn_core::event::EventType;
use foghorn_core::sse;
use serde::Serialize;

use crate::ring::RingEvent;

/// Events that go out together: one block whose data are a JSON array, and whose id is that of the last.
#[derive(Debug, Default)]
pub(crate) struct Gathering {
    items: Vec<u8>,
    /// The last event's.
    id: Cursor,
}

/// An event as a batch has it.
#[derive(Serialize)]
struct Item<'a> {
    id: &'a str,
    event: &'a str,
    channel: &'a str,
    data: &'a str,
}

impl Gathering {
    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Bytes of what is gathered.
    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }

    /// Adds an event. `id` is the cursor of a listener that has been given it.
    pub(crate) fn push(&mut self, event: &RingEvent, id: Cursor) {
        let feed = &event.feed;
        let item = Item {
            id: &id.to_string(),
            event: feed.event_type.as_ref().map_or("message", EventType::as_str),
            channel: feed.channel.as_str(),
            data: &sse::frame_data(feed.frame.without_id()),
        };
        self.id = id;
        self.items.push(if self.items.is_empty() { b'[' } else { b',' });
        // Strings into memory: nothing that could fail.
        if let Err(error) = serde_json::to_writer(&mut self.items, &item) {
            tracing::error!(%error, "an event could not be written into a batch");
        }
    }

    /// Appends the block, and begins anew.
    pub(crate) fn write(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"id: ");
        self.id.write(out);
        out.extend_from_slice(b"\nevent: batch\ndata: ");
        out.append(&mut self.items);
        out.extend_from_slice(b"]\n\n");
    }
}

#[cfg(test)]
mod tests {
    use foghorn_core::position::{Epoch, Position};
    use foghorn_core::shard::Shard;
    use foghorn_core::sse::Decoder;
    use prometheus_client::metrics::counter::Counter;
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::batch;

    #[test]
    fn a_batch_is_one_line_of_json_whatever_its_data() {
        let mut gathering = Gathering::default();
        let at = |seq| Cursor::single(Position { shard: Shard::ZERO, epoch: Epoch::new(1), seq });
        let events = [(1, Some("paid"), "{\"a\": \"b\\\\\"}"), (2, None, "two\nlines"), (3, None, "")];
        for (seq, event_type, data) in events {
            let event = batch(1, seq - 1, seq, "a.b", event_type, data).events.remove(0);
            gathering.push(&RingEvent::new(event, Counter::default()), at(seq));
        }
        let mut out = Vec::new();
        gathering.write(&mut out);
        assert!(gathering.is_empty());
        let mut blocks = Vec::new();
        Decoder::default().feed(&out, |block| {
            blocks.push((block.event_type().to_owned(), block.id.clone(), block.data.clone()));
        });
        let [(event_type, id, data)] = &blocks[..] else { panic!("{blocks:?}") };
        assert_eq!((event_type.as_str(), id.as_deref()), ("batch", Some(at(3).to_string().as_str())));
        let data: Value = serde_json::from_str(data.as_deref().unwrap()).unwrap();
        let item = |(seq, event_type, data): (u64, Option<&str>, &str)| {
            json!({
                "id": at(seq).to_string(), "event": event_type.unwrap_or("message"), "channel": "a.b", "data": data,
            })
        };
        assert_eq!(data, json!(events.map(item)));
    }
}
