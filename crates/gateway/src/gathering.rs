//! Events on their way to become one `batch` block.

use foghorn_core::channel::Channel;
use foghorn_core::cursor::Cursor;
use foghorn_core::event::EventType;
use foghorn_core::sse;
use serde::Serialize;

use crate::ring::RingEvent;

/// Events that go out together: one block whose data are a JSON array, and whose id is that of the last.
#[derive(Debug, Default)]
pub(crate) struct Gathering {
    runs: Vec<Run>,
    bytes: usize,
    /// The last event's.
    id: Cursor,
}

/// Items of the array, each after a comma: as many as came one after another, or one alone that a newer one of its
/// channel may take the place of.
#[derive(Debug)]
struct Run {
    latest: Option<Channel>,
    items: Vec<u8>,
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
        self.runs.is_empty()
    }

    /// Bytes of what is gathered.
    pub(crate) fn len(&self) -> usize {
        self.bytes
    }

    /// Adds an event; of its channel only this one is to be kept if it is the `latest`. `id` is the cursor of a
    /// listener that has been given it. Whether it takes the place of an older one.
    pub(crate) fn push(&mut self, event: &RingEvent, id: Cursor, latest: bool) -> bool {
        let feed = &event.feed;
        let superseded = latest && self.forget(&feed.channel);
        let item = Item {
            id: &id.to_string(),
            event: feed.event_type.as_ref().map_or("message", EventType::as_str),
            channel: feed.channel.as_str(),
            data: &sse::frame_data(feed.frame.without_id()),
        };
        self.id = id;
        let mut run = match self.runs.pop_if(|run| !latest && run.latest.is_none()) {
            Some(run) => run,
            None => Run { latest: latest.then(|| feed.channel.clone()), items: Vec::new() },
        };
        let before = run.items.len();
        run.items.push(b',');
        // Strings into memory: nothing that could fail.
        if let Err(error) = serde_json::to_writer(&mut run.items, &item) {
            tracing::error!(%error, "an event could not be written into a batch");
        }
        self.bytes += run.items.len() - before;
        self.runs.push(run);
        superseded
    }

    /// Drops the event of a channel of which only the latest is kept, if there is one.
    fn forget(&mut self, channel: &Channel) -> bool {
        let Some(at) = self.runs.iter().position(|run| run.latest.as_ref() == Some(channel)) else {
            return false;
        };
        self.bytes -= self.runs.remove(at).items.len();
        true
    }

    /// Appends the block, and begins anew.
    pub(crate) fn write(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"id: ");
        self.id.write(out);
        out.extend_from_slice(b"\nevent: batch\ndata: ");
        let begin = out.len();
        self.runs.drain(..).for_each(|run| out.extend_from_slice(&run.items));
        // In place of the first comma.
        out[begin] = b'[';
        out.extend_from_slice(b"]\n\n");
        self.bytes = 0;
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
            assert!(!gathering.push(&RingEvent::new(event, Counter::default()), at(seq), false));
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

    #[test]
    fn of_a_channel_whose_latest_is_wanted_there_is_one_in_the_place_of_the_newest() {
        let mut gathering = Gathering::default();
        let at = |seq| Cursor::single(Position { shard: Shard::ZERO, epoch: Epoch::new(1), seq });
        let events = [(1, "p", true), (2, "q", false), (3, "r", true), (4, "p", true), (5, "q", false)];
        for (seq, channel, latest) in events {
            let event = batch(1, seq - 1, seq, channel, None, &seq.to_string()).events.remove(0);
            let superseded = gathering.push(&RingEvent::new(event, Counter::default()), at(seq), latest);
            assert_eq!(superseded, seq == 4);
        }
        let (bytes, mut out) = (gathering.len(), Vec::new());
        gathering.write(&mut out);
        let begin = out.windows(6).position(|some| some == b"data: ").unwrap() + 6;
        assert_eq!(out.len() - begin, bytes + 3, "its bytes, a bracket and two line feeds");
        let data: Value = serde_json::from_slice(&out[begin..]).unwrap();
        let data: Vec<_> =
            data.as_array().unwrap().iter().map(|item| item["data"].as_str().unwrap()).collect();
        assert_eq!(data, ["2", "3", "4", "5"]);
        assert_eq!((gathering.len(), gathering.is_empty()), (0, true));
    }
}
