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
}

impl Decoder {
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
    use super::*;

    fn blocks(text: &str) -> Vec<Block> {
        let mut all = Vec::new();
        Decoder::default().feed(text.as_bytes(), |block| all.push(block.clone()));
        all
    }

    #[test]
    fn follows_the_standard() {
        let data = |text: &str| Block { data: Some(text.to_owned()), ..Block::default() };
        for (input, expected) in [
            ("data: a\n\n", vec![data("a")]),
            ("\u{feff}data: a\r\rdata:b\r\n\r\n", vec![data("a"), data("b")]),
            ("data\ndata\n\n", vec![data("\n")]),
            (": ping\n\ndata: x", vec![]),
            ("Data: no\nretry: 1s\n\n", vec![]),
            ("retry: 12\n\n", vec![Block { retry_ms: Some(12), ..Block::default() }]),
            ("id: a\0b\nid:  c\n\n", vec![Block { id: Some(" c".into()), ..Block::default() }]),
            ("id\n\n", vec![Block { id: Some(String::new()), ..Block::default() }]),
        ] {
            assert_eq!(blocks(input), expected, "{input:?}");
        }
    }
}
