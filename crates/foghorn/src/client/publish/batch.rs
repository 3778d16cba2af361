//! Lines out of bytes, and as many of them at a time as make a good request.

use std::collections::VecDeque;

use serde_json::value::RawValue;

use foghorn_core::event::FRAME_BYTES_MAX;

/// Most bytes of a line; no server takes an event beyond it.
pub(super) const LINE_BYTES_MAX: usize = FRAME_BYTES_MAX;
/// Most events in one request, below what servers allow by default (1,000).
pub(super) const BATCH_EVENTS: usize = 250;
/// Bytes of data in one request, unless its first event alone has more.
const BATCH_BYTES: usize = 256 * 1024;

/// What is published.
#[derive(Debug, Clone)]
pub(super) struct Event {
    /// The idempotency key.
    pub(super) id: String,
    /// As JSON.
    pub(super) data: Box<RawValue>,
}

/// An event and the line that it comes from.
#[derive(Debug, Clone)]
pub(super) struct Numbered {
    pub(super) line: Option<u64>,
    pub(super) event: Event,
}

/// A line of input, numbered from 1, or what is wrong with it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) number: u64,
    pub(super) text: Result<String, String>,
}

/// Cuts bytes into lines. Keeps at most one unfinished line, and of that no more than
/// [`LINE_BYTES_MAX`].
#[derive(Debug, Default)]
pub(super) struct Splitter {
    partial: Vec<u8>,
    /// Bytes of the unfinished line, kept or not.
    length: usize,
    lines: u64,
}

impl Splitter {
    /// Takes the next bytes; the lines that they complete are appended to `out`.
    pub(super) fn feed(&mut self, mut bytes: &[u8], out: &mut VecDeque<Line>) {
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            self.keep(&bytes[..end]);
            bytes = &bytes[end + 1..];
            out.push_back(self.line());
        }
        self.keep(bytes);
    }

    /// The input is over: what is unfinished is the last line.
    pub(super) fn finish(&mut self, out: &mut VecDeque<Line>) {
        if self.length > 0 {
            out.push_back(self.line());
        }
    }

    /// How many lines there were so far.
    pub(super) fn lines(&self) -> u64 {
        self.lines
    }

    /// Whether there is an unfinished line.
    pub(super) fn is_within_line(&self) -> bool {
        self.length > 0
    }

    fn keep(&mut self, bytes: &[u8]) {
        self.length += bytes.len();
        let room = LINE_BYTES_MAX.saturating_sub(self.partial.len());
        self.partial.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn line(&mut self) -> Line {
        self.lines += 1;
        let length = std::mem::take(&mut self.length);
        let mut bytes = std::mem::take(&mut self.partial);
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
        let text = if length > LINE_BYTES_MAX {
            Err(format!("the line has {length} bytes; no server takes more than {LINE_BYTES_MAX}"))
        } else {
            String::from_utf8(bytes).map_err(|error| {
                format!(
                    "the line is not UTF-8 (first bad byte at {}); encode binary data as base64",
                    error.utf8_error().valid_up_to()
                )
            })
        };
        Line { number: self.lines, text }
    }
}

/// Takes lines from the front for one request: at least one, if there is any.
pub(super) fn take_batch(lines: &mut VecDeque<Line>) -> Vec<Line> {
    let mut bytes = 0;
    let mut count = 0;
    for line in lines.iter().take(BATCH_EVENTS) {
        bytes += line.text.as_ref().map_or(0, String::len);
        if bytes > BATCH_BYTES && count > 0 {
            break;
        }
        count += 1;
    }
    lines.drain(..count).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(pieces: &[&[u8]]) -> Vec<Line> {
        let (mut splitter, mut out) = (Splitter::default(), VecDeque::new());
        for piece in pieces {
            splitter.feed(piece, &mut out);
        }
        splitter.finish(&mut out);
        out.into()
    }

    fn line(number: u64, text: &str) -> Line {
        Line { number, text: Ok(text.to_owned()) }
    }

    #[test]
    fn lines_end_at_lf_and_crlf_and_the_last_needs_neither() {
        assert_eq!(
            split(&[b"a\r\nb", b"c\n\nlast"]),
            [line(1, "a"), line(2, "bc"), line(3, ""), line(4, "last")]
        );
        assert_eq!(split(&[b"a\n"]), [line(1, "a")]);
        assert_eq!(split(&[]), []);
    }

    #[test]
    fn a_bad_line_spoils_no_other() {
        let long = vec![b'x'; LINE_BYTES_MAX + 1];
        let lines = split(&[b"a\n", &long[..1000], &long[1000..], b"\nb\xff\nc\n"]);
        assert_eq!((lines[0].number, &lines[3]), (1, &line(4, "c")));
        assert!(lines[1].text.as_ref().unwrap_err().contains("491521 bytes"), "{:?}", lines[1].text);
        assert!(lines[2].text.as_ref().unwrap_err().contains("bad byte at 1"));
    }

    #[test]
    fn a_batch_is_bounded_by_count_and_by_bytes() {
        let mut lines: VecDeque<Line> = (1..=300).map(|n| line(n, "x")).collect();
        assert_eq!((take_batch(&mut lines).len(), take_batch(&mut lines).len()), (BATCH_EVENTS, 50));
        let mut large: VecDeque<Line> =
            (1..=3).map(|n| line(n, &"x".repeat(if n == 1 { 400_000 } else { 100_000 }))).collect();
        assert_eq!((take_batch(&mut large).len(), take_batch(&mut large).len()), (1, 2));
        assert!(take_batch(&mut large).is_empty());
    }

    proptest! {
        #[test]
        fn however_the_bytes_are_cut_the_lines_are_the_same(
            text in "([a-c\u{e9}\r]{0,4}\n){0,8}[a-c]{0,3}", cuts in prop::collection::vec(0usize..64, 0..6)
        ) {
            let bytes = text.as_bytes();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.sort_unstable();
            let mut pieces = Vec::new();
            let mut from = 0;
            for cut in cuts {
                pieces.push(&bytes[from..cut]);
                from = cut;
            }
            pieces.push(&bytes[from..]);
            prop_assert_eq!(split(&pieces), split(&[bytes]));
        }
    }
}
