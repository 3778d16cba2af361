//! Writing: frames of published events, and the stream's own events.

use bytes::{BufMut, Bytes, BytesMut};
use memchr::memchr2;

use crate::channel::Channel;
use crate::cursor::Cursor;
use crate::event::EventType;
use crate::time::Timestamp;

/// Bytes that [`encode_frame`] writes after the `id:` line.
pub fn frame_len(event_type: Option<&EventType>, data: &str) -> usize {
    let event = event_type.map_or(0, |t| "event: \n".len() + t.as_str().len());
    let (mut lines, mut breaks) = (1, 0);
    let mut rest = data.as_bytes();
    while let Some((at, len)) = line_break(rest) {
        (lines, breaks) = (lines + 1, breaks + len);
        rest = &rest[at + len..];
    }
    event + lines * "data: \n".len() + data.len() - breaks + 1
}

/// Where the first line ends, and the length of its CR, LF or CRLF. Nearly all data are one line, and every
/// event comes past here several times.
fn line_break(bytes: &[u8]) -> Option<(usize, usize)> {
    let at = memchr2(b'\r', b'\n', bytes)?;
    Some((at, if bytes[at..].starts_with(b"\r\n") { 2 } else { 1 }))
}

/// Appends one event block without its `id:` line: `event`, then a `data` line for each line of `data`.
/// CR, LF and CRLF end a line.
pub fn encode_frame(out: &mut BytesMut, event_type: Option<&EventType>, data: &str) {
    out.reserve(frame_len(event_type, data));
    if let Some(event_type) = event_type {
        out.put_slice(b"event: ");
        out.put_slice(event_type.as_str().as_bytes());
        out.put_u8(b'\n');
    }
    put_data(out, data);
    out.put_u8(b'\n');
}

/// Appends `id: <cursor>` and its line break.
pub fn id_line(out: &mut BytesMut, cursor: &Cursor) {
    let mut text = Vec::with_capacity(crate::cursor::CURSOR_BYTES_MAX);
    cursor.write(&mut text);
    out.put_slice(b"id: ");
    out.put_slice(&text);
    out.put_u8(b'\n');
}

/// The data of a frame written by [`encode_frame`] (with or without an `id:` line), as a listener gets
/// it: the `data` lines joined with LF.
pub fn frame_data(frame: &[u8]) -> String {
    let text = String::from_utf8_lossy(frame);
    let lines: Vec<&str> = text.split('\n').filter_map(|line| line.strip_prefix("data: ")).collect();
    lines.join("\n")
}

/// The envelope form of a frame: the same type, `data` as one line of JSON
/// `{"channel", "event", "time", "data"}`. Without an `id:` line.
pub fn envelope(channel: &Channel, event_type: Option<&EventType>, time: Timestamp, frame: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(frame.len() + 160);
    if let Some(event_type) = event_type {
        out.put_slice(b"event: ");
        out.put_slice(event_type.as_str().as_bytes());
        out.put_u8(b'\n');
    }
    out.put_slice(b"data: {\"channel\":");
    put_json_string(&mut out, channel.as_str());
    out.put_slice(b",\"event\":");
    put_json_string(&mut out, event_type.map_or("message", EventType::as_str));
    out.put_slice(b",\"time\":");
    put_json_string(&mut out, &time.to_string());
    out.put_slice(b",\"data\":");
    put_json_string(&mut out, &frame_data(frame));
    out.put_slice(b"}\n\n");
    out.freeze()
}

/// One of the stream's own blocks, built field by field in the order `id`, `event`, `retry`, `data`.
#[derive(Debug, Default, Clone)]
pub struct ControlFrame<'a> {
    /// The cursor to carry.
    pub id: Option<&'a Cursor>,
    /// `connected`, `heartbeat`, `stream-…`.
    pub event: Option<&'a str>,
    /// Milliseconds before the client may reconnect.
    pub retry_ms: Option<u64>,
    /// JSON.
    pub data: Option<&'a str>,
}

impl ControlFrame<'_> {
    /// Appends the block.
    pub fn write(&self, out: &mut BytesMut) {
        if let Some(id) = self.id {
            id_line(out, id);
        }
        if let Some(event) = self.event {
            out.put_slice(b"event: ");
            out.put_slice(event.as_bytes());
            out.put_u8(b'\n');
        }
        if let Some(retry) = self.retry_ms {
            out.put_slice(format!("retry: {retry}\n").as_bytes());
        }
        if let Some(data) = self.data {
            put_data(out, data);
        }
        out.put_u8(b'\n');
    }
}

fn put_data(out: &mut BytesMut, data: &str) {
    let mut rest = data.as_bytes();
    while let Some((at, len)) = line_break(rest) {
        put_data_line(out, &rest[..at]);
        rest = &rest[at + len..];
    }
    put_data_line(out, rest);
}

fn put_data_line(out: &mut BytesMut, line: &[u8]) {
    out.put_slice(b"data: ");
    out.put_slice(line);
    out.put_u8(b'\n');
}

/// A JSON string (RFC 8259) on one line. U+2028 and U+2029 are left: they end no SSE line.
fn put_json_string(out: &mut BytesMut, text: &str) {
    out.put_u8(b'"');
    let mut start = 0;
    for (at, byte) in text.bytes().enumerate() {
        let escape: &[u8] = match byte {
            b'"' => b"\\\"",
            b'\\' => b"\\\\",
            b'\n' => b"\\n",
            b'\r' => b"\\r",
            b'\t' => b"\\t",
            0..=0x1f => b"",
            _ => continue,
        };
        out.put_slice(&text.as_bytes()[start..at]);
        start = at + 1;
        if escape.is_empty() {
            out.put_slice(format!("\\u{byte:04x}").as_bytes());
        } else {
            out.put_slice(escape);
        }
    }
    out.put_slice(&text.as_bytes()[start..]);
    out.put_u8(b'"');
}

#[cfg(test)]
mod tests {
    use futures::{StreamExt, executor::block_on, stream};
    use proptest::prelude::*;

    use super::*;
    use crate::position::{Epoch, Position};
    use crate::shard::Shard;

    fn frame(event_type: Option<&str>, data: &str) -> BytesMut {
        let mut out = BytesMut::new();
        encode_frame(&mut out, event_type.map(|t| EventType::parse(t).unwrap()).as_ref(), data);
        out
    }

    #[test]
    fn lines_end_at_cr_lf_and_crlf() {
        assert_eq!(
            frame(Some("note"), "a\rb\nc\r\nd\n"),
            "event: note\ndata: a\ndata: b\ndata: c\ndata: d\ndata: \n\n"
        );
        assert_eq!(frame(None, ""), "data: \n\n");
    }

    #[test]
    fn control_frames_keep_the_order_of_fields() {
        let cursor =
            Cursor::single(Position { shard: Shard::ZERO, epoch: Epoch::new(1_767_225_600), seq: 300 });
        let mut out = BytesMut::new();
        ControlFrame { id: Some(&cursor), event: Some("connected"), retry_ms: Some(3000), data: Some("{}") }
            .write(&mut out);
        assert_eq!(out, "id: 1AYDy1soGrAI\nevent: connected\nretry: 3000\ndata: {}\n\n");
        out.clear();
        ControlFrame { id: Some(&cursor), ..ControlFrame::default() }.write(&mut out);
        assert_eq!(out, "id: 1AYDy1soGrAI\n\n");
    }

    /// What any listener ends up with: line breaks are LF.
    fn normalised(data: &str) -> String {
        data.replace("\r\n", "\n").replace('\r', "\n")
    }

    proptest! {
        /// The promise of the encoder, judged by a parser that is not ours: what was published is what
        /// is heard, whatever is in the data, and no data forge another field or event.
        #[test]
        fn an_independent_parser_reads_back_what_was_written(
            events in prop::collection::vec((prop::option::of("[a-z][a-z0-9.:-]{0,12}"), "(\\PC|\r|\n|:|data: |id: |\u{feff}|\u{2028}){0,40}"), 1..5)
        ) {
            let cursor = Cursor::single(Position { shard: Shard::ZERO, epoch: Epoch::new(7), seq: 9 });
            let mut wire = BytesMut::new();
            let mut expected = Vec::new();
            for (event_type, data) in &events {
                let Ok(event_type) = event_type.clone().map(EventType::parse).transpose() else { continue };
                id_line(&mut wire, &cursor);
                let before = wire.len();
                encode_frame(&mut wire, event_type.as_ref(), data);
                prop_assert_eq!(wire.len() - before, frame_len(event_type.as_ref(), data));
                prop_assert_eq!(frame_data(&wire[before..]), normalised(data));
                expected.push((event_type.map_or("message".to_owned(), |t| t.to_string()), normalised(data), cursor.to_string()));
            }
            let chunks = stream::iter([Ok::<_, std::convert::Infallible>(wire.clone().freeze())]);
            let parsed: Vec<_> = block_on(
                eventsource_stream::EventStream::new(chunks).map(|e| { let e = e.unwrap(); (e.event, e.data, e.id) }).collect(),
            );
            prop_assert_eq!(&parsed, &expected);
            // Our own decoder agrees, however the bytes are cut.
            let mut decoder = super::super::Decoder::default();
            let mut heard = Vec::new();
            for byte in &wire {
                decoder.feed(std::slice::from_ref(byte), |block| {
                    heard.push((block.event_type().to_owned(), block.data.clone().unwrap_or_default(), block.id.clone().unwrap_or_default()));
                });
            }
            prop_assert_eq!(&heard, &expected);
        }

        #[test]
        fn an_envelope_is_one_line_of_json_with_the_same_data(data in "(\\PC|\r|\n|\"|\\\\|\t|\u{1}){0,40}") {
            let channel = Channel::parse("orders.eu").unwrap();
            let plain = frame(Some("created"), &data);
            let event_type = EventType::parse("created").unwrap();
            let bytes = envelope(&channel, Some(&event_type), Timestamp::from_micros(0), &plain);
            let mut heard = Vec::new();
            super::super::Decoder::default().feed(&bytes, |block| heard.push(block.clone()));
            prop_assert_eq!(heard.len(), 1);
            let json: serde_json::Value = serde_json::from_str(heard[0].data.as_deref().unwrap()).unwrap();
            prop_assert_eq!(json, serde_json::json!({
                "channel": "orders.eu", "event": "created", "time": "1970-01-01T00:00:00Z", "data": normalised(&data)
            }));
        }
    }
}
