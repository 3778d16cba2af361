//! Finding our own events in a stream, fast: the listeners of a benchmark should cost little beside the
//! server that they measure.

/// What marks an event's data as ours.
const MARK: &[u8] = b"fb1 ";
/// Bytes of a stamp: the mark, and two hexadecimal numbers with a blank between.
pub(super) const STAMP_BYTES: usize = 4 + 16 + 1 + 16;
/// Bytes kept of a line: all that is looked at (the longest is an id).
const LINE_KEPT: usize = 160;

/// What an event carries: its number in the channel, from 0, and when it was published, in nanoseconds
/// since the benchmark's beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) seq: u64,
    pub(super) sent: u64,
}

impl Stamp {
    /// Appends the stamp, filled up to `size` bytes. Nothing in it needs escaping in JSON.
    pub(super) fn write(self, out: &mut Vec<u8>, size: usize) {
        let begin = out.len();
        out.extend_from_slice(MARK);
        out.extend_from_slice(format!("{:016x} {:016x}", self.seq, self.sent).as_bytes());
        out.resize((begin + size).max(out.len()), b'x');
    }

    fn parse(data: &[u8]) -> Option<Self> {
        let rest = data.strip_prefix(MARK)?;
        Some(Stamp { seq: hex(rest.get(..16)?)?, sent: hex(rest.get(17..33)?)? })
    }
}

fn hex(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0, |number, digit| Some(number << 4 | u64::from(char::from(*digit).to_digit(16)?)))
}

/// What was seen.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// An event of the benchmark.
    Event(Stamp),
    /// `stream-live`.
    Live,
    /// `stream-reset`.
    Reset,
}

/// Reads an event stream as Foghorn writes it: lines end with LF, the id comes before the rest.
#[derive(Debug, Default)]
pub(super) struct Scanner {
    partial: Vec<u8>,
    id: Vec<u8>,
    cursor: Vec<u8>,
}

impl Scanner {
    /// Takes the next bytes.
    pub(super) fn feed(&mut self, mut bytes: &[u8], mut on_seen: impl FnMut(Seen)) {
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            let line = &bytes[..end];
            bytes = &bytes[end + 1..];
            if self.partial.is_empty() {
                self.line(line, &mut on_seen);
            } else {
                self.keep(line);
                let mut partial = std::mem::take(&mut self.partial);
                self.line(&partial, &mut on_seen);
                partial.clear();
                self.partial = partial;
            }
        }
        self.keep(bytes);
    }

    /// The id of the last whole block that had one.
    pub(super) fn cursor(&self) -> &[u8] {
        &self.cursor
    }

    /// Another stream begins. The cursor stays.
    pub(super) fn restart(&mut self) {
        self.partial.clear();
        self.id.clear();
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = LINE_KEPT.saturating_sub(self.partial.len());
        self.partial.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn line(&mut self, line: &[u8], on_seen: &mut impl FnMut(Seen)) {
        match line {
            [] if !self.id.is_empty() => {
                std::mem::swap(&mut self.cursor, &mut self.id);
                self.id.clear();
            }
            [b'i', b'd', b':', b' ', id @ ..] => {
                self.id.clear();
                self.id.extend_from_slice(id);
            }
            [b'd', b'a', b't', b'a', b':', b' ', data @ ..] => {
                if let Some(stamp) = Stamp::parse(data) {
                    on_seen(Seen::Event(stamp));
                }
            }
            // The second is how nchan begins.
            b"event: stream-live" | b": hi" => on_seen(Seen::Live),
            b"event: stream-reset" => on_seen(Seen::Reset),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_split_sees_the_same(
            events in prop::collection::vec((any::<u64>(), any::<u64>(), 0usize..400), 0..5),
            step in 1usize..50,
        ) {
            let mut wire = b"id: c0\nevent: connected\nretry: 3000\ndata: {}\n\nevent: stream-live\ndata: {}\n\n".to_vec();
            let mut expected = vec![Seen::Live];
            for (seq, sent, size) in &events {
                let stamp = Stamp { seq: *seq, sent: *sent };
                wire.extend_from_slice(format!("id: c{seq}\ndata: ").as_bytes());
                stamp.write(&mut wire, *size);
                wire.extend_from_slice(b"\n\n");
                expected.push(Seen::Event(stamp));
            }
            let cursor = events.last().map_or("c0".to_owned(), |(seq, ..)| format!("c{seq}"));
            // A block that is not complete moves no cursor.
            wire.extend_from_slice(b"id: never\ndata: fb1 ");
            let (mut scanner, mut seen) = (Scanner::default(), Vec::new());
            for piece in wire.chunks(step) {
                scanner.feed(piece, |what| seen.push(what));
            }
            prop_assert_eq!(seen, expected);
            prop_assert_eq!(scanner.cursor(), cursor.as_bytes());
        }
    }
}
