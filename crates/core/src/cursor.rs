//! Cursors: the positions a client has been given, as the SSE `id:`.
//!
//! Opaque to clients and never trusted: a cursor neither reveals nor grants anything, it only says
//! where to go on. The text is a version character and base64url, at most 128 bytes of
//! `[A-Za-z0-9._~-]`, because a longer or stranger `Last-Event-ID` will need a CORS preflight
//! (whatwg/fetch #568).
//!
//! Version 1: a byte with a bit per shard; then for each shard the epoch (the first as a varint, the
//! others as the zigzag difference to the one before) and the seq as a varint (LEB128). Of a stream that was changed
//! to another subscription than its URL's, a `.` and that subscription's id in base64url follow.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::position::{Epoch, Position};
use crate::shard::{SHARDS_MAX, Shard, ShardCount};

/// Most bytes in a cursor's text.
pub const CURSOR_BYTES_MAX: usize = 128;

const VERSION: u8 = b'1';
const SHARDS: usize = SHARDS_MAX as usize;

/// Between the positions and a subscription's id.
const SEPARATOR: char = '.';
/// Bytes of a subscription's id in a cursor's text, with the separator: 64 bits in base64url.
const SUBSCRIPTION_BYTES: usize = 1 + 11;

/// A position for each shard that the client's channels lie in; the others are absent.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Cursor {
    at: [Option<(Epoch, u64)>; SHARDS],
    subscription: Option<SubscriptionId>,
}

/// Names what a stream was changed to hear. It grants nothing: whoever comes back with it may hear what they may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubscriptionId(u64);

impl SubscriptionId {
    /// The id of these bits.
    pub const fn new(bits: u64) -> Self {
        SubscriptionId(bits)
    }

    /// Its bits.
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// Why a text is not a cursor of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CursorError {
    /// Of another version, or not ours at all.
    #[error("not a cursor of this version")]
    Version,
    /// Cut off, over-long or otherwise not what we write.
    #[error("malformed cursor")]
    Malformed,
}

/// The cursor would not fit into [`CURSOR_BYTES_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the subscription spans {shards} shards whose positions can't fit into a cursor of {CURSOR_BYTES_MAX} bytes; \
     name channels instead of patterns, or use several connections"
)]
pub struct CursorTooLong {
    /// How many shards it spans.
    pub shards: usize,
}

impl Cursor {
    /// The cursor of one position.
    pub fn single(position: Position) -> Self {
        let mut cursor = Cursor::default();
        cursor.set(position);
        cursor
    }

    /// Moves the position's shard to it.
    pub fn set(&mut self, position: Position) {
        self.at[position.shard.index()] = Some((position.epoch, position.seq));
    }

    /// Where the client is in `shard`.
    pub fn get(&self, shard: Shard) -> Option<(Epoch, u64)> {
        self.at[shard.index()]
    }

    /// The same, of a stream that was changed to a subscription, or of one that hears what its URL says.
    #[must_use]
    pub fn of(self, subscription: Option<SubscriptionId>) -> Self {
        Cursor { subscription, ..self }
    }

    /// What the stream was changed to hear; none for what its URL says.
    pub fn subscription(&self) -> Option<SubscriptionId> {
        self.subscription
    }

    /// Whether it names a shard that a cluster of `shards` doesn't have.
    pub fn beyond(&self, shards: ShardCount) -> bool {
        self.at[usize::from(shards.get())..].iter().any(Option::is_some)
    }

    /// Whether it holds no position.
    pub fn is_empty(&self) -> bool {
        self.at.iter().all(Option::is_none)
    }

    /// Fails when the text could come to exceed [`CURSOR_BYTES_MAX`] while the stream lives: every seq
    /// is given room to grow to 2^42 (a century at 1,000 events a second), and the stream may be changed to another
    /// subscription.
    pub fn check_fits(&self) -> Result<(), CursorTooLong> {
        let mut grown = self.of(None);
        for (_, seq) in grown.at.iter_mut().flatten() {
            *seq = (*seq).max((1 << 42) - 1);
        }
        if grown.text_len() + SUBSCRIPTION_BYTES <= CURSOR_BYTES_MAX {
            return Ok(());
        }
        Err(CursorTooLong { shards: self.at.iter().flatten().count() })
    }

    /// Appends the text to `out`. Nothing is allocated but what `out` lacks.
    pub fn write(&self, out: &mut Vec<u8>) {
        let (bytes, len) = self.bytes();
        let mut text = [0; BINARY_MAX * 2];
        // The buffer is twice the input; base64 takes four thirds.
        let written = URL_SAFE_NO_PAD.encode_slice(&bytes[..len], &mut text).unwrap_or(0);
        out.push(VERSION);
        out.extend_from_slice(&text[..written]);
        if let Some(SubscriptionId(bits)) = self.subscription {
            let written = URL_SAFE_NO_PAD.encode_slice(bits.to_be_bytes(), &mut text).unwrap_or(0);
            out.extend_from_slice(SEPARATOR.encode_utf8(&mut [0; 4]).as_bytes());
            out.extend_from_slice(&text[..written]);
        }
    }

    /// Reads what [`write`](Self::write) wrote, and nothing else: one cursor has one text.
    pub fn parse(text: &str) -> Result<Self, CursorError> {
        let Some(encoded) = text.strip_prefix(char::from(VERSION)) else {
            return Err(CursorError::Version);
        };
        if text.len() > CURSOR_BYTES_MAX {
            return Err(CursorError::Malformed);
        }
        let (positions, subscription) = match encoded.split_once(SEPARATOR) {
            Some((positions, id)) => (positions, Some(read_id(id).ok_or(CursorError::Malformed)?)),
            None => (encoded, None),
        };
        let bytes = URL_SAFE_NO_PAD.decode(positions).map_err(|_| CursorError::Malformed)?;
        let cursor = Cursor::read(&bytes).ok_or(CursorError::Malformed)?;
        let (canonical, len) = cursor.bytes();
        if canonical[..len] != bytes[..] { Err(CursorError::Malformed) } else { Ok(cursor.of(subscription)) }
    }

    fn text_len(&self) -> usize {
        let subscription = if self.subscription.is_some() { SUBSCRIPTION_BYTES } else { 0 };
        1 + (self.bytes().1 * 4).div_ceil(3) + subscription
    }

    fn bytes(&self) -> ([u8; BINARY_MAX], usize) {
        let mut out = Binary { bytes: [0; BINARY_MAX], len: 1 };
        let mut last: Option<u64> = None;
        for (shard, at) in self.at.iter().enumerate() {
            let Some((epoch, seq)) = at else { continue };
            out.bytes[0] |= 1 << shard;
            match last {
                None => out.varint(epoch.get()),
                Some(last) => out.varint(zigzag(epoch.get().wrapping_sub(last))),
            }
            last = Some(epoch.get());
            out.varint(*seq);
        }
        (out.bytes, out.len)
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let (mask, mut rest) = bytes.split_first()?;
        let mut cursor = Cursor::default();
        let mut last: Option<u64> = None;
        for shard in 0..SHARDS {
            if mask & (1 << shard) == 0 {
                continue;
            }
            let raw = varint(&mut rest)?;
            let epoch = last.map_or(raw, |last| last.wrapping_add(unzigzag(raw)));
            last = Some(epoch);
            cursor.at[shard] = Some((Epoch::new(epoch), varint(&mut rest)?));
        }
        (*mask != 0 && rest.is_empty()).then_some(cursor)
    }
}

/// The text that [`Cursor::write`] writes.
impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = Vec::with_capacity(CURSOR_BYTES_MAX);
        self.write(&mut text);
        text.iter().try_for_each(|byte| fmt::Write::write_char(f, char::from(*byte)))
    }
}

/// The positions, for logs: `{0:1767225600:42 1:…}`.
impl fmt::Debug for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let positions = self.at.iter().enumerate();
        let mut set = f.debug_set();
        for (shard, at) in positions {
            if let Some((epoch, seq)) = at {
                set.entry(&format_args!("{shard}:{epoch}:{seq}"));
            }
        }
        if let Some(SubscriptionId(bits)) = self.subscription {
            set.entry(&format_args!("of {bits:016x}"));
        }
        set.finish()
    }
}

/// The id as it is written, and in no other way.
fn read_id(text: &str) -> Option<SubscriptionId> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    Some(SubscriptionId(u64::from_be_bytes(bytes.try_into().ok()?)))
}

/// A mask, and two varints of at most ten bytes for each shard.
const BINARY_MAX: usize = 1 + SHARDS * 20;

struct Binary {
    bytes: [u8; BINARY_MAX],
    len: usize,
}

impl Binary {
    #[expect(clippy::cast_possible_truncation, reason = "seven bits at a time")]
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.push((value as u8) | 0x80);
            value >>= 7;
        }
        self.push(value as u8);
    }

    fn push(&mut self, byte: u8) {
        self.bytes[self.len] = byte;
        self.len += 1;
    }
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value: u64 = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let bits = u64::from(byte & 0x7f);
        if shift == 63 && bits > 1 {
            return None;
        }
        value |= bits << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// Small differences either way become small numbers.
fn zigzag(difference: u64) -> u64 {
    (difference << 1) ^ (0u64.wrapping_sub(difference >> 63))
}

fn unzigzag(value: u64) -> u64 {
    (value >> 1) ^ (0u64.wrapping_sub(value & 1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_cursor() -> impl Strategy<Value = Cursor> {
        let at = prop::collection::vec(prop::option::of((0u64..1 << 33, 0u64..1 << 42)), SHARDS);
        (at, any::<Option<u64>>()).prop_map(|(at, subscription)| {
            let mut cursor = Cursor::default().of(subscription.map(SubscriptionId::new));
            for (slot, at) in cursor.at.iter_mut().zip(at) {
                *slot = at.map(|(epoch, seq)| (Epoch::new(epoch), seq));
            }
            cursor
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(cursor in any_cursor()) {
            prop_assume!(!cursor.is_empty());
            let text = cursor.to_string();
            if text.len() <= CURSOR_BYTES_MAX {
                prop_assert_eq!(Cursor::parse(&text), Ok(cursor));
            } else {
                prop_assert!(cursor.check_fits().is_err());
            }
            prop_assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._~-".contains(&b)));
        }

        #[test]
        fn a_cursor_that_fits_goes_on_fitting(cursor in any_cursor(), seqs in prop::collection::vec(0u64..1 << 42, SHARDS), id: u64) {
            prop_assume!(cursor.check_fits().is_ok());
            let mut later = cursor.of(Some(SubscriptionId::new(id)));
            for (slot, seq) in later.at.iter_mut().zip(seqs) {
                if let Some((_, at)) = slot { *at = (*at).max(seq) }
            }
            prop_assert!(later.text_len() <= CURSOR_BYTES_MAX);
        }

        #[test]
        fn anything_else_is_refused_without_panic(text in "1?[A-Za-z0-9_-]{0,140}|1[A-Za-z0-9_-]{2,12}\\.[A-Za-z0-9_-]{10,12}|.{0,20}") {
            if let Ok(cursor) = Cursor::parse(&text) {
                prop_assert_eq!(cursor.to_string(), text);
            }
        }

        #[test]
        fn zigzag_is_its_own_inverse(value: u64) {
            prop_assert_eq!(unzigzag(zigzag(value)), value);
        }
    }

    #[test]
    fn eight_shards_started_together_fit() {
        let mut cursor = Cursor::default();
        for shard in ShardCount::new(8).unwrap().shards() {
            cursor.set(Position {
                shard,
                epoch: Epoch::new(1_790_000_000 + u64::from(shard.get())),
                seq: 1 << 40,
            });
        }
        assert_eq!(cursor.check_fits(), Ok(()));
        assert!(cursor.to_string().len() <= CURSOR_BYTES_MAX);
    }

    #[test]
    fn a_cursor_that_cannot_fit_says_why() {
        let mut cursor = Cursor::default();
        for shard in ShardCount::new(8).unwrap().shards() {
            let epoch = if shard.get() % 2 == 0 { 1 } else { u64::MAX >> 1 };
            cursor.set(Position { shard, epoch: Epoch::new(epoch), seq: 0 });
        }
        assert_eq!(cursor.check_fits(), Err(CursorTooLong { shards: 8 }));
    }

    #[test]
    fn foreign_and_truncated_cursors_are_told_apart() {
        let text =
            Cursor::single(Position { shard: Shard::ZERO, epoch: Epoch::new(1_767_225_600), seq: 300 })
                .to_string();
        assert_eq!(text, "1AYDy1soGrAI");
        assert_eq!(Cursor::parse(&text[..text.len() - 2]), Err(CursorError::Malformed));
        for foreign in ["", "42", "2AYDy1soGrAI", "urn:uuid:x"] {
            assert_eq!(Cursor::parse(foreign), Err(CursorError::Version), "{foreign}");
        }
        assert_eq!(Cursor::parse("1"), Err(CursorError::Malformed));
        let changed = Cursor::parse(&text).unwrap().of(Some(SubscriptionId::new(0xfe)));
        assert_eq!(changed.to_string(), "1AYDy1soGrAI.AAAAAAAAAP4");
        for malformed in ["", "AAAAAAAAAP", "AAAAAAAAAP5", "AAAAAAAAAP4=", "AAAAAAAAAP4.AAAAAAAAAP4"] {
            assert_eq!(
                Cursor::parse(&format!("{text}.{malformed}")),
                Err(CursorError::Malformed),
                "{malformed}"
            );
        }
    }
}
