//! Streams as `gzip` (RFC 1952), compressed once for each event and not once for each stream.
//!
//! An event's block is compressed by itself and ended by a full flush, so that it ends with a whole byte and refers to
//! nothing before it: the same bytes can stand anywhere in any stream. What is not worth it, or differs between
//! streams, stands between in stored blocks. What a trailer says of a stream's whole text is put together from what is
//! known of its parts, and nobody looks at a byte twice.

use std::cell::RefCell;

use bytes::Bytes;
use crc32fast::Hasher;
use flate2::{Compress, Compression, FlushCompress};

/// What a stream begins with: deflate, no name, no time, of no particular system.
const HEAD: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
/// Most bytes of a stored block (RFC 1951, 3.2.4).
const STORED_MAX: usize = 0xffff;
/// The last block of a stream, stored and empty.
const LAST_BLOCK: [u8; 5] = [1, 0, 0, 0xff, 0xff];
/// Time is worth more than the last percent: the reactor waits meanwhile.
const LEVEL: u32 = 4;

thread_local! {
    /// Its memory, some 300 KiB, is had once for each thread that compresses.
    static DEFLATE: RefCell<Compress> = RefCell::new(Compress::new(Compression::new(LEVEL), false));
}

/// The length of a text and its CRC-32: what a trailer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Sum {
    crc: u32,
    bytes: u64,
}

impl Sum {
    fn of(text: &[u8]) -> Self {
        Sum { crc: crc32fast::hash(text), bytes: text.len() as u64 }
    }

    /// Of this text with another behind it.
    pub(crate) fn then(self, next: Sum) -> Sum {
        let mut crc = Hasher::new_with_initial_len(self.crc, self.bytes);
        crc.combine(&Hasher::new_with_initial_len(next.crc, next.bytes));
        Sum { crc: crc.finalize(), bytes: self.bytes + next.bytes }
    }

    /// Of what follows the text `before`, with which this one begins.
    pub(crate) fn since(self, before: Sum) -> Sum {
        let bytes = self.bytes - before.bytes;
        // A CRC is linear: that of `before` is in this one, moved on by what follows.
        let moved = before.then(Sum { crc: 0, bytes });
        Sum { crc: self.crc ^ moved.crc, bytes }
    }

    /// Whether there is no text yet.
    fn is_empty(self) -> bool {
        self.bytes == 0
    }
}

/// A text as blocks that can stand anywhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Deflated {
    blocks: Bytes,
    sum: Sum,
}

impl Deflated {
    /// A text, if it becomes smaller.
    pub(crate) fn of(text: &[u8]) -> Option<Self> {
        let mut blocks = Vec::with_capacity(text.len());
        let done = DEFLATE.with_borrow_mut(|deflate| {
            deflate.reset();
            // A flush is whole when it leaves room.
            let went = deflate.compress_vec(text, &mut blocks, FlushCompress::Full);
            went.is_ok() && deflate.total_in() == text.len() as u64 && blocks.len() < text.len()
        });
        blocks.shrink_to_fit();
        done.then(|| Deflated { blocks: blocks.into(), sum: Sum::of(text) })
    }

    /// How many bytes it takes.
    pub(crate) fn len(&self) -> usize {
        self.blocks.len()
    }
}

/// Writes a stream's text as it is, or as `gzip`.
pub(crate) struct Coder<'a> {
    out: &'a mut Vec<u8>,
    /// Of all that the stream was written, if it is `gzip`.
    sum: Option<&'a mut Sum>,
}

impl<'a> Coder<'a> {
    /// Appends to `out`; as `gzip` where there is a sum of what the stream was written before.
    pub(crate) fn new(out: &'a mut Vec<u8>, sum: Option<&'a mut Sum>) -> Self {
        Coder { out, sum }
    }

    /// Whether it writes `gzip`.
    pub(crate) fn compresses(&self) -> bool {
        self.sum.is_some()
    }

    /// Begins a stream, unless that was done before.
    pub(crate) fn begin(&mut self) {
        if self.sum.as_deref().is_some_and(|sum| sum.is_empty()) {
            self.out.extend_from_slice(&HEAD);
        }
    }

    /// Appends text.
    pub(crate) fn text(&mut self, text: &[u8]) {
        let Some(sum) = &mut self.sum else { return self.out.extend_from_slice(text) };
        for part in text.chunks(STORED_MAX) {
            // At most 65,535.
            let length = u16::try_from(part.len()).unwrap_or_default();
            self.out.push(0);
            self.out.extend_from_slice(&length.to_le_bytes());
            self.out.extend_from_slice(&(!length).to_le_bytes());
            self.out.extend_from_slice(part);
        }
        **sum = sum.then(Sum::of(text));
    }

    /// Appends what `write` writes.
    pub(crate) fn write(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        if self.sum.is_none() {
            return write(self.out);
        }
        let mut text = Vec::new();
        write(&mut text);
        self.text(&text);
    }

    /// Appends text that was compressed. Only to `gzip`.
    pub(crate) fn deflated(&mut self, deflated: &Deflated) {
        let Some(sum) = &mut self.sum else { return debug_assert!(false, "not a compressed stream") };
        self.out.extend_from_slice(&deflated.blocks);
        **sum = sum.then(deflated.sum);
    }

    /// Ends the stream.
    #[expect(clippy::cast_possible_truncation, reason = "the length is told modulo 2^32 (RFC 1952, 2.3.1)")]
    pub(crate) fn end(&mut self) {
        let Some(sum) = self.sum.as_deref() else { return };
        self.out.extend_from_slice(&LAST_BLOCK);
        self.out.extend_from_slice(&sum.crc.to_le_bytes());
        self.out.extend_from_slice(&(sum.bytes as u32).to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use flate2::read::GzDecoder;
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Part {
        Text(Vec<u8>),
        Deflated(Vec<u8>),
    }

    fn parts() -> impl Strategy<Value = Vec<Part>> {
        let text = prop::collection::vec(any::<u8>(), 1..300);
        let long = (1usize..140_000, any::<u8>()).prop_map(|(length, byte)| vec![byte; length]);
        let part = prop_oneof![
            4 => text.prop_map(Part::Text),
            1 => long.clone().prop_map(Part::Text),
            4 => long.prop_map(Part::Deflated),
        ];
        prop::collection::vec(part, 1..12)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        #[test]
        fn whatever_stands_behind_whatever_is_one_gzip_text(parts in parts()) {
            let (mut out, mut sum, mut all) = (Vec::new(), Sum::default(), Vec::new());
            for part in &parts {
                let mut coder = Coder::new(&mut out, Some(&mut sum));
                coder.begin();
                match part {
                    Part::Text(text) => { coder.text(text); all.extend_from_slice(text); }
                    Part::Deflated(text) => {
                        match Deflated::of(text) {
                            Some(deflated) => coder.deflated(&deflated),
                            None => coder.text(text),
                        }
                        all.extend_from_slice(text);
                    }
                }
            }
            Coder::new(&mut out, Some(&mut sum)).end();
            // It checks the trailer.
            let mut read = Vec::new();
            GzDecoder::new(&out[..]).read_to_end(&mut read).unwrap();
            prop_assert!(read == all);
            prop_assert_eq!(sum, Sum::of(&all));
        }

        #[test]
        fn what_follows_a_text_is_known_from_the_two_of_them(before: Vec<u8>, after: Vec<u8>) {
            let all = [before.clone(), after.clone()].concat();
            prop_assert_eq!(Sum::of(&all).since(Sum::of(&before)), Sum::of(&after));
        }
    }

    #[test]
    fn what_does_not_become_smaller_is_not_compressed() {
        let noise: Vec<u8> = (0..5000).map(|_| fastrand::u8(..)).collect();
        assert_eq!(Deflated::of(&noise), None);
        assert_eq!(Deflated::of(b"short"), None);
        let text = "a readable text ".repeat(100);
        assert!(Deflated::of(text.as_bytes()).unwrap().len() < 100);
    }
}
