//! An answer by HTTP/1.1 whose body isn't lines as they come: it is cut into chunks anywhere, or compressed.

use anyhow::{Context as _, ensure};

use super::content::Content;
use crate::client::bench::scan::Seen;

/// Most bytes of an answer's head.
const HEAD_BYTES: usize = 16 * 1024;

/// What has come of an answer.
pub(super) struct Http1 {
    /// Until it is complete.
    head: Option<Vec<u8>>,
    next: Next,
    content: Content,
}

/// What comes next of the body.
#[derive(Clone, Copy)]
enum Next {
    /// A chunk's size, of which this is what has come.
    Size(usize),
    /// So many bytes of a chunk, the line's end behind it included.
    Chunk(usize),
}

/// The line's end behind a chunk.
const END: usize = 2;

impl Http1 {
    pub(super) fn new(gzip: bool) -> Self {
        Http1 { head: Some(Vec::new()), next: Next::Size(0), content: Content::new(gzip) }
    }

    /// Takes the next bytes.
    pub(super) fn feed(
        &mut self,
        bytes: &[u8],
        room: &mut [u8],
        mut on_seen: impl FnMut(Seen),
    ) -> anyhow::Result<()> {
        let whole;
        let mut bytes = bytes;
        if let Some(mut head) = self.head.take() {
            head.extend_from_slice(bytes);
            let Some(end) = memchr::memmem::find(&head, b"\r\n\r\n") else {
                ensure!(head.len() < HEAD_BYTES, "an answer's head has no end");
                self.head = Some(head);
                return Ok(());
            };
            check(&head[..end])?;
            whole = head;
            bytes = &whole[end + 4..];
        }
        while !bytes.is_empty() {
            match self.next {
                Next::Size(size) => bytes = self.size(size, bytes)?,
                Next::Chunk(left) => {
                    let (now, rest) = bytes.split_at(left.min(bytes.len()));
                    let data = left.saturating_sub(END).min(now.len());
                    self.content.feed(&now[..data], room, &mut on_seen)?;
                    let left = left - now.len();
                    self.next = if left == 0 { Next::Size(0) } else { Next::Chunk(left) };
                    bytes = rest;
                }
            }
        }
        Ok(())
    }

    /// The next digit of a chunk's size, or the end of its line. What is left.
    fn size<'a>(&mut self, size: usize, bytes: &'a [u8]) -> anyhow::Result<&'a [u8]> {
        let (byte, rest) = bytes.split_first().context("no byte")?;
        self.next = match byte {
            b'\r' => Next::Size(size),
            b'\n' => {
                ensure!(size > 0, "the server ended a stream");
                Next::Chunk(size + END)
            }
            digit => {
                let digit = char::from(*digit).to_digit(16).context("a chunk has no size")?;
                ensure!(size <= usize::MAX >> 8, "a chunk is larger than memory");
                Next::Size(size << 4 | digit as usize)
            }
        };
        Ok(rest)
    }
}

fn check(head: &[u8]) -> anyhow::Result<()> {
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    ensure!(
        head.starts_with("http/1.1 200"),
        "a stream was refused: {}",
        head.lines().next().unwrap_or_default()
    );
    ensure!(head.contains("\r\ntransfer-encoding: chunked"), "a stream is not chunked");
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use proptest::prelude::*;

    use super::*;
    use crate::client::bench::scan::Stamp;

    fn event(seq: u64) -> (Vec<u8>, Seen) {
        let stamp = Stamp { seq, sent: seq * 3 };
        let mut bytes = b"id: c\ndata: ".to_vec();
        stamp.write(&mut bytes, 64);
        bytes.extend_from_slice(b"\n\n");
        (bytes, Seen::Event(stamp))
    }

    proptest! {
        #[test]
        fn a_body_is_read_however_it_is_cut(
            events in 1u64..20,
            chunk in 1usize..200,
            step in 1usize..200,
            gzip: bool,
        ) {
            let (texts, expected): (Vec<_>, Vec<_>) = (0..events).map(event).unzip();
            let mut body = Vec::new();
            if gzip {
                let mut encoder = GzEncoder::new(&mut body, Compression::fast());
                for text in &texts {
                    encoder.write_all(text).unwrap();
                    encoder.flush().unwrap();
                }
                // Not its end, which a live stream doesn't have.
                std::mem::forget(encoder);
            } else {
                body = texts.concat();
            }
            let mut wire = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
            for chunk in body.chunks(chunk) {
                write!(wire, "{:X}\r\n", chunk.len()).unwrap();
                wire.extend_from_slice(chunk);
                wire.extend_from_slice(b"\r\n");
            }
            let (mut answer, mut seen) = (Http1::new(gzip), Vec::new());
            for piece in wire.chunks(step) {
                answer.feed(piece, &mut [0; 50], |what| seen.push(what)).unwrap();
            }
            prop_assert_eq!(seen, expected);
        }
    }

    #[test]
    fn refusals_and_ends_are_errors() {
        let feed = |bytes: &[u8]| Http1::new(false).feed(bytes, &mut [], |_| {}).unwrap_err().to_string();
        assert!(feed(b"HTTP/1.1 401 Unauthorized\r\n\r\n").contains("401"));
        assert!(feed(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n").contains("ended"));
        assert!(feed(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n").contains("size"));
        assert!(feed(&vec![b'x'; HEAD_BYTES]).contains("no end"));
    }
}
