//! Reading: the event stream parser of `foghorn subscribe`, `foghorn bench` and the tests.

/// Most bytes in one line or one event's data that [`Decoder`] keeps; longer input is cut there.
const DECODER_BYTES_MAX: usize = 4 * 1024 * 1024;

/// One block of a stream, ended by a blank line. Unlike EventSource it is given even without data, so
/// that keep-alives with a cursor are seen.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Block {
    /// The `id` field, when the block has one that counts (no NUL).
    pub id: Option<String>,
    /// The `event` field.
    pub event: Option<String>,
    /// The `data` lines joined with LF; none when there was no such line.
    pub data: Option<String>,
    /// The `retry` field in milliseconds, when it was all digits.
    pub retry_ms: Option<u64>,
}

impl Block {
    /// The type EventSource would dispatch.
    pub fn event_type(&self) -> &str {
        match self.event.as_deref() {
            None | Some("") => "message",
            Some(event) => event,
        }
    }
}

/// An incremental parser. Bytes may be cut anywhere.
#[derive(Debug, Default)]
pub struct Decoder {
    line: Vec<u8>,
    block: Block,
    touched: bool,
    after_cr: bool,
    started: bool,
    retry_ms: Option<u64>,
}

impl Decoder {
    /// The last `retry` of the stream, in milliseconds: it counts at once, whatever becomes of its block.
    pub fn retry_ms(&self) -> Option<u64> {
        self.retry_ms
    }

    /// Feeds the next bytes; `on_block` gets each block that they complete.
    pub fn feed(&mut self, bytes: &[u8], mut on_block: impl FnMut(&Block)) {
        for byte in bytes {
            let skip = std::mem::take(&mut self.after_cr) && *byte == b'\n';
            match byte {
                b'\n' if skip => {}
                b'\r' | b'\n' => {
                    self.after_cr = *byte == b'\r';
                    self.end_line(&mut on_block);
                }
                _ if self.line.len() < DECODER_BYTES_MAX => self.line.push(*byte),
                _ => {}
            }
        }
    }

    fn end_line(&mut self, on_block: &mut impl FnMut(&Block)) {
        let line = std::mem::take(&mut self.line);
        let mut text = String::from_utf8_lossy(&line);
        if !self.started {
            self.started = true;
            if let Some(rest) = text.strip_prefix('\u{feff}') {
                text = rest.to_owned().into();
            }
        }
        if text.is_empty() {
            if std::mem::take(&mut self.touched) {
                on_block(&std::mem::take(&mut self.block));
            }
        } else {
            self.field(&text);
        }
        self.line = line;
        self.line.clear();
    }

    fn field(&mut self, line: &str) {
        let (name, value) = match line.split_once(':') {
            Some(("", _)) => return,
            Some((name, value)) => (name, value.strip_prefix(' ').unwrap_or(value)),
            None => (line, ""),
        };
        match name {
            "event" => self.block.event = Some(value.to_owned()),
            "id" if !value.contains('\0') => self.block.id = Some(value.to_owned()),
            "retry" if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) => {
                self.block.retry_ms = value.parse().ok();
                self.retry_ms = self.block.retry_ms.or(self.retry_ms);
            }
            "data" => match &mut self.block.data {
                Some(data) if data.len() + value.len() < DECODER_BYTES_MAX => {
                    data.push('\n');
                    data.push_str(value);
                }
                Some(_) => {}
                None => self.block.data = Some(value.to_owned()),
            },
            _ => return,
        }
        self.touched = true;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// Shared with every other reader of event streams here.
    const VECTORS: &str = include_str!("../../../../tests/vectors/event-stream.json");

    fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Block>, Decoder) {
        let (mut decoder, mut all) = (Decoder::default(), Vec::new());
        for piece in pieces {
            decoder.feed(piece, |block| all.push(block.clone()));
        }
        (all, decoder)
    }

    /// What an EventSource makes of these pieces, in the words of the vectors.
    fn heard<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Value {
        let (blocks, decoder) = read(pieces);
        let (mut events, mut id) = (Vec::new(), "");
        for block in &blocks {
            id = block.id.as_deref().unwrap_or(id);
            if let Some(data) = &block.data {
                events.push(json!({ "type": block.event_type(), "data": data, "id": id }));
            }
        }
        json!({ "events": events, "id": id, "retry": decoder.retry_ms() })
    }

    fn bytes(vector: &Value) -> Vec<u8> {
        match vector["hex"].as_str() {
            Some(hex) => (0..hex.len())
                .step_by(2)
                .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
                .collect(),
            None => vector["input"].as_str().unwrap().into(),
        }
    }

    #[test]
    fn streams_are_read_as_the_standard_has_it_however_they_are_cut() {
        let vectors: Value = serde_json::from_str(VECTORS).unwrap();
        let vectors = vectors["vectors"].as_array().unwrap();
        assert!(vectors.len() > 50, "{}", vectors.len());
        for vector in vectors {
            let input = bytes(vector);
            let expected =
                json!({ "events": vector["events"], "id": vector["id"], "retry": vector["retry"] });
            for size in [1, 2, 3, 7, input.len().max(1)] {
                assert_eq!(heard(input.chunks(size)), expected, "{} (in pieces of {size})", vector["name"]);
            }
        }
    }

    #[test]
    fn a_block_without_data_is_given_all_the_same() {
        let input: &[u8] = b"id: 7\n\n: a comment\n\nretry: 12\n\n";
        let of_id = Block { id: Some("7".to_owned()), ..Block::default() };
        assert_eq!(read([input]).0, [of_id, Block { retry_ms: Some(12), ..Block::default() }]);
    }
}
