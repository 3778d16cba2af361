//! The parsing rules of the WHATWG's event streams (HTML, section 9.2.6), but for what becomes of a block: one
//! without data is no event, and is given all the same.

use serde_json::Value;

/// All that stood between two blank lines.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Block {
    /// The last `id` field.
    pub id: Option<String>,
    /// The last `event` field.
    pub event: Option<String>,
    /// The `data` fields, joined by line feeds.
    pub data: Option<String>,
    /// The last `retry` field, in milliseconds.
    pub retry: Option<u64>,
    /// The comments, joined by line feeds.
    pub comment: Option<String>,
    /// Lines that say nothing to a browser: unknown fields, an `id` with NUL, a `retry` that is no number.
    /// A sound server sends none.
    pub ignored: Vec<String>,
}

impl Block {
    /// Whether a browser fires an event for it: it has a `data` field, if only an empty one (WPT
    /// `eventsource/format-field-data`).
    #[must_use]
    pub fn is_event(&self) -> bool {
        self.data.is_some()
    }

    /// The type a browser's event has.
    #[must_use]
    pub fn event_type(&self) -> &str {
        self.event.as_deref().filter(|name| !name.is_empty()).unwrap_or("message")
    }

    /// The data as JSON; panics when there is none, or it is not JSON.
    #[must_use]
    #[track_caller]
    pub fn json(&self) -> Value {
        let data = self.data.as_deref().unwrap_or_else(|| panic!("a block without data: {self:?}"));
        serde_json::from_str(data).unwrap_or_else(|error| panic!("data that is not JSON ({error}): {self:?}"))
    }
}

/// Turns the bytes of a stream, however they are cut, into blocks.
#[derive(Debug, Default)]
pub struct Parser {
    started: bool,
    line: Vec<u8>,
    after_cr: bool,
    /// The block that is being read, if it has a line yet.
    block: Option<Block>,
}

impl Parser {
    /// The blocks that `bytes` complete. Panics on what is not UTF-8: a server must not send it.
    #[track_caller]
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<Block> {
        let mut blocks = Vec::new();
        for &byte in bytes {
            let second_half = std::mem::take(&mut self.after_cr) && byte == b'\n';
            match byte {
                _ if second_half => {}
                b'\r' | b'\n' => {
                    self.after_cr = byte == b'\r';
                    blocks.extend(self.end_line());
                }
                _ => self.line.push(byte),
            }
        }
        blocks
    }

    /// Whether a stream that ended here would have lost something.
    #[must_use]
    pub fn inside_a_block(&self) -> bool {
        self.block.is_some() || !self.line.is_empty()
    }

    #[track_caller]
    fn end_line(&mut self) -> Option<Block> {
        let line = String::from_utf8(std::mem::take(&mut self.line));
        let line = line.unwrap_or_else(|error| panic!("the stream is not UTF-8: {error}"));
        let first = !std::mem::replace(&mut self.started, true);
        let line = line.strip_prefix('\u{feff}').filter(|_| first).unwrap_or(&line);
        if line.is_empty() {
            return self.block.take();
        }
        self.block.get_or_insert_default().add(line);
        None
    }
}

impl Block {
    fn add(&mut self, line: &str) {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
        match field {
            "" => append(&mut self.comment, value),
            "data" => append(&mut self.data, value),
            "event" => self.event = Some(value.to_owned()),
            "id" if !value.contains('\0') => self.id = Some(value.to_owned()),
            "retry" if digits => self.retry = value.parse().ok(),
            _ => self.ignored.push(line.to_owned()),
        }
    }
}

fn append(lines: &mut Option<String>, line: &str) {
    match lines {
        Some(text) => {
            text.push('\n');
            text.push_str(line);
        }
        None => *lines = Some(line.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::{Block, Parser};

    fn parse(text: &str) -> Vec<Block> {
        Parser::default().feed(text.as_bytes())
    }

    fn data(data: &str) -> Block {
        Block { data: Some(data.to_owned()), ..Block::default() }
    }

    #[test]
    fn lines_end_with_cr_lf_or_both() {
        let same = [data("a\nb"), data("c")];
        assert_eq!(parse("data: a\ndata: b\n\ndata: c\n\n"), same);
        assert_eq!(parse("data: a\rdata: b\r\rdata: c\r\r"), same);
        assert_eq!(parse("data: a\r\ndata: b\r\n\r\ndata: c\r\n\r\n"), same);
    }

    #[test]
    fn cuts_make_no_difference() {
        let text = "\u{feff}id: 1\r\ndata: ä\r\n\r\n: c\r\n\r\nretry: 5\r\n\r\n";
        let whole = parse(text);
        assert_eq!(whole.len(), 3);
        for cut in 0..text.len() {
            let (left, right) = text.as_bytes().split_at(cut);
            let mut parser = Parser::default();
            let mut blocks = parser.feed(left);
            blocks.extend(parser.feed(right));
            assert_eq!(blocks, whole, "cut at {cut}");
        }
    }

    #[test]
    fn a_byte_order_mark_counts_at_the_start_only() {
        assert_eq!(parse("\u{feff}data: a\n\n"), [data("a")]);
        let later = &parse("data: a\n\n\u{feff}data: b\n\n")[1];
        assert_eq!(later.ignored, ["\u{feff}data: b"]);
    }

    #[test]
    fn one_space_after_the_colon_is_left_out() {
        assert_eq!(parse("data:a\n\ndata:  b\n\ndata\n\n"), [data("a"), data(" b"), data("")]);
    }

    #[test]
    fn a_block_may_be_an_id_or_a_comment_alone() {
        let blocks = parse("id: 7\n\n: hello\n\nid\n\n");
        assert_eq!(blocks[0], Block { id: Some("7".into()), ..Block::default() });
        assert_eq!(blocks[1], Block { comment: Some("hello".into()), ..Block::default() });
        assert_eq!(blocks[2], Block { id: Some(String::new()), ..Block::default() });
        assert!(!blocks[0].is_event());
    }

    #[test]
    fn what_a_browser_ignores_is_shown_as_that() {
        let block = &parse("retry: 1.5\nid: a\0b\nspecial: x\nretry: 20\nevent: e\n\n")[0];
        assert_eq!(block.ignored, ["retry: 1.5", "id: a\0b", "special: x"]);
        assert_eq!((block.retry, block.event_type()), (Some(20), "e"));
    }

    #[test]
    fn an_unfinished_block_is_noticed() {
        let mut parser = Parser::default();
        assert!(parser.feed(b"data: a\n\n\n").len() == 1 && !parser.inside_a_block());
        parser.feed(b"data");
        assert!(parser.inside_a_block());
        parser.feed(b": b\n");
        assert!(parser.inside_a_block());
    }
}
