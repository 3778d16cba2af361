//! Batches: what the live feed and Replay are made of.
//!
//! A batch covers a contiguous range `(from, to]` of one shard's journal and holds every valid event
//! in it (of a filtered Replay: every one that was asked for). So whoever reads batches knows by
//! arithmetic whether something is missing, and entries that are invalid, expired or purged need no
//! mention. An empty batch is a beacon.
//!
//! The wire form is little-endian, version 1:
//!
//! ```text
//! version u8 | header length u16 | shard u8 | bucket u8 (0: all of the shard) | epoch u64 | from u64 | to u64 |
//! tip u64 | digest of from u64 | digest of to u64 | sent at i64 (microseconds) | events u32 |
//! if any event is traced: the batch's trace u128 and span u64 | count u16 | per event: seq u64, trace u128, span u64
//!                                                                                                 = the header
//! per event: seq u64 | time i64 | ttl u32 (0: none) | channel u8 | type u8 (0: none) | id line u8 | frame u32 |
//!            the bytes of channel, type and frame
//! ```
//!
//! The header's length is stated so that later versions can add to it. What is traced was added so: binaries from
//! before pass over it.

use std::num::{NonZeroU64, NonZeroU128};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use bytestring::ByteString;

use crate::channel::Channel;
use crate::cursor::Cursor;
use crate::event::{Event, EventType, FRAME_BYTES_MAX, Ttl};
use crate::position::{Digest, Epoch, Position};
use crate::shard::{Shard, ShardCount};
use crate::sse;
use crate::time::Timestamp;
use crate::trace::TraceContext;

const VERSION: u8 = 1;
const HEADER_LEN: usize = 1 + 2 + 1 + 1 + 8 * 7 + 4;
const EVENT_HEADER_LEN: usize = 8 + 8 + 4 + 3 + 4;
const CONTEXT_LEN: usize = 16 + 8;
const TRACED_LEN: usize = CONTEXT_LEN + 2;
const TRACED_EVENT_LEN: usize = 8 + CONTEXT_LEN;

/// Most events of a batch that are traced: what its header has room for, and more than any stage traces in a second.
pub const TRACED_MAX: usize = 1024;

/// A contiguous range of a shard and the events in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Which sequence.
    pub shard: Shard,
    /// Which incarnation of it.
    pub epoch: Epoch,
    /// The range begins after this seq.
    pub from: u64,
    /// The range ends with this seq.
    pub to: u64,
    /// The last seq that the journal's leader is known to have; at least `to`.
    pub tip: u64,
    /// The digest of the entry at `from`, as far as the sender knows it.
    pub from_digest: Digest,
    /// The digest of the entry at `to`, as far as the sender knows it.
    pub to_digest: Digest,
    /// When it was sent, by the sender's clock.
    pub sent_at: Timestamp,
    /// In the order of their seqs, all within the range.
    pub events: Vec<FeedEvent>,
    /// Which of them are traced; none as a rule.
    pub traced: Option<Box<Traced>>,
}

/// The traced events of a batch, at most [`TRACED_MAX`] of them. All of it is sampled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Traced {
    /// The batch's own span, which they have in common.
    pub batch: TraceContext,
    /// Their seqs, in order, and the spans that what becomes of them is a part of.
    pub events: Vec<(u64, TraceContext)>,
}

/// An event with everything a gateway needs to deliver it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedEvent {
    /// Its sequence number.
    pub seq: u64,
    /// When the journal took it.
    pub time: Timestamp,
    /// Seconds after `time` when it is no longer owed.
    pub ttl: Option<Ttl>,
    /// Its channel.
    pub channel: Channel,
    /// Its type.
    pub event_type: Option<EventType>,
    /// Its SSE frame.
    pub frame: Frame,
}

/// An encoded SSE event block, its `id:` line first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    bytes: Bytes,
    id_line: u8,
}

/// Why bytes are not a batch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// It comes from another version of Foghorn.
    #[error("live-feed batch of version {0}; this binary reads version {VERSION}")]
    Version(u8),
    /// It is cut off or contradicts itself.
    #[error("malformed live-feed batch: {0}")]
    Malformed(&'static str),
}

impl Frame {
    /// Encodes an event at a position, once for the whole cluster. The `id:` line is the cursor of a
    /// listener on this shard alone.
    pub fn encode(position: Position, event_type: Option<&EventType>, data: &str) -> Self {
        let mut out = BytesMut::with_capacity(48 + sse::frame_len(event_type, data));
        sse::id_line(&mut out, &Cursor::single(position));
        // "id: ", 30 characters of cursor at most, a line break.
        let id_line = u8::try_from(out.len()).unwrap_or(u8::MAX);
        sse::encode_frame(&mut out, event_type, data);
        Frame { bytes: out.freeze(), id_line }
    }

    /// The block with the `id:` line of a listener on this shard alone.
    pub fn with_id(&self) -> &Bytes {
        &self.bytes
    }

    /// The block without an `id:` line.
    pub fn without_id(&self) -> &[u8] {
        &self.bytes[usize::from(self.id_line)..]
    }
}

impl FeedEvent {
    /// A journal entry's event as it is delivered.
    pub fn encode(position: Position, time: Timestamp, event: &Event) -> Self {
        FeedEvent {
            seq: position.seq,
            time,
            ttl: event.ttl,
            channel: event.channel.clone(),
            event_type: event.event_type.clone(),
            frame: Frame::encode(position, event.event_type.as_ref(), &event.data),
        }
    }

    /// Whether its ttl has run out at `now`.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.ttl.is_some_and(|ttl| {
            now.since(self.time) >= std::time::Duration::from_secs(u64::from(ttl.seconds()))
        })
    }

    /// Bytes it takes on the wire.
    pub fn wire_len(&self) -> usize {
        EVENT_HEADER_LEN
            + self.channel.as_str().len()
            + self.event_type.as_ref().map_or(0, |t| t.as_str().len())
            + self.frame.bytes.len()
    }
}

impl Batch {
    /// A batch without events that covers `(from, to]`.
    pub fn empty(shard: Shard, epoch: Epoch, from: u64, to: u64) -> Self {
        Batch {
            shard,
            epoch,
            from,
            to,
            tip: to,
            from_digest: Digest::NONE,
            to_digest: Digest::NONE,
            sent_at: Timestamp::default(),
            events: Vec::new(),
            traced: None,
        }
    }

    /// Bytes it takes on the wire.
    pub fn wire_len(&self) -> usize {
        self.header_len() + self.events.iter().map(FeedEvent::wire_len).sum::<usize>()
    }

    fn header_len(&self) -> usize {
        HEADER_LEN + self.traced.as_ref().map_or(0, |traced| Traced::wire_len(traced.events.len()))
    }

    /// The wire form.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "channel, type, id line and frame are bounded by their types, the header by `TRACED_MAX`"
    )]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(self.wire_len());
        out.put_u8(VERSION);
        out.put_u16_le(self.header_len() as u16);
        out.put_u8(self.shard.get());
        out.put_u8(0);
        out.put_u64_le(self.epoch.get());
        out.put_u64_le(self.from);
        out.put_u64_le(self.to);
        out.put_u64_le(self.tip);
        out.put_u64_le(self.from_digest.0);
        out.put_u64_le(self.to_digest.0);
        out.put_i64_le(self.sent_at.as_micros());
        out.put_u32_le(self.events.len() as u32);
        if let Some(traced) = &self.traced {
            traced.put(&mut out);
        }
        for event in &self.events {
            let event_type = event.event_type.as_ref().map_or("", EventType::as_str);
            out.put_u64_le(event.seq);
            out.put_i64_le(event.time.as_micros());
            out.put_u32_le(event.ttl.map_or(0, Ttl::seconds));
            out.put_u8(event.channel.as_str().len() as u8);
            out.put_u8(event_type.len() as u8);
            out.put_u8(event.frame.id_line);
            out.put_u32_le(event.frame.bytes.len() as u32);
            out.put_slice(event.channel.as_str().as_bytes());
            out.put_slice(event_type.as_bytes());
            out.put_slice(&event.frame.bytes);
        }
        out.freeze()
    }

    /// Reads the wire form. Channels, types and frames are slices of `bytes`.
    pub fn decode(mut bytes: Bytes, shards: ShardCount) -> Result<Self, BatchError> {
        use BatchError::Malformed;
        match bytes.first() {
            Some(&VERSION) => {}
            Some(other) => return Err(BatchError::Version(*other)),
            None => return Err(Malformed("empty")),
        }
        if bytes.len() < HEADER_LEN {
            return Err(Malformed("header cut off"));
        }
        let header_len = usize::from(u16::from_le_bytes([bytes[1], bytes[2]]));
        if header_len < HEADER_LEN || bytes.len() < header_len {
            return Err(Malformed("header length"));
        }
        let mut header = bytes.split_to(header_len).slice(3..);
        let shard = shards.shard(u64::from(header.get_u8())).ok_or(Malformed("shard"))?;
        if header.get_u8() != 0 {
            return Err(Malformed("bucket"));
        }
        let mut batch = Batch {
            shard,
            epoch: Epoch::new(header.get_u64_le()),
            from: header.get_u64_le(),
            to: header.get_u64_le(),
            tip: header.get_u64_le(),
            from_digest: Digest(header.get_u64_le()),
            to_digest: Digest(header.get_u64_le()),
            sent_at: Timestamp::from_micros(header.get_i64_le()),
            events: Vec::new(),
            traced: None,
        };
        if batch.from > batch.to || batch.to > batch.tip {
            return Err(Malformed("range"));
        }
        let count = header.get_u32_le() as usize;
        if count > bytes.len() / EVENT_HEADER_LEN {
            return Err(Malformed("event count"));
        }
        batch.traced = Traced::take(&mut header)?.map(Box::new);
        batch.events.reserve_exact(count);
        let mut last = batch.from;
        for _ in 0..count {
            let event = decode_event(&mut bytes)?;
            if event.seq <= last || event.seq > batch.to {
                return Err(Malformed("seq outside the range or out of order"));
            }
            last = event.seq;
            batch.events.push(event);
        }
        if bytes.is_empty() { Ok(batch) } else { Err(Malformed("bytes left over")) }
    }
}

impl Traced {
    /// Bytes that so many traced events take.
    pub const fn wire_len(events: usize) -> usize {
        TRACED_LEN + events * TRACED_EVENT_LEN
    }

    #[expect(clippy::cast_possible_truncation, reason = "bounded by `TRACED_MAX`")]
    fn put(&self, out: &mut BytesMut) {
        debug_assert!(self.events.len() <= TRACED_MAX);
        put_context(out, self.batch);
        out.put_u16_le(self.events.len() as u16);
        for (seq, context) in &self.events {
            out.put_u64_le(*seq);
            put_context(out, *context);
        }
    }

    /// Of what is left of a header; what a later version has behind it stays.
    fn take(header: &mut Bytes) -> Result<Option<Self>, BatchError> {
        use BatchError::Malformed;
        if header.is_empty() {
            return Ok(None);
        }
        if header.len() < TRACED_LEN {
            return Err(Malformed("traces cut off"));
        }
        let batch = take_context(header)?;
        let count = usize::from(header.get_u16_le());
        if count > TRACED_MAX || count * TRACED_EVENT_LEN > header.len() {
            return Err(Malformed("traces cut off"));
        }
        let event = |_| -> Result<_, BatchError> { Ok((header.get_u64_le(), take_context(header)?)) };
        let events = (0..count).map(event).collect::<Result<_, _>>()?;
        Ok(Some(Traced { batch, events }))
    }
}

fn put_context(out: &mut BytesMut, context: TraceContext) {
    out.put_u128_le(context.trace.get());
    out.put_u64_le(context.span.get());
}

/// There must be [`CONTEXT_LEN`] bytes.
fn take_context(bytes: &mut Bytes) -> Result<TraceContext, BatchError> {
    let (trace, span) = (NonZeroU128::new(bytes.get_u128_le()), NonZeroU64::new(bytes.get_u64_le()));
    let (trace, span) = trace.zip(span).ok_or(BatchError::Malformed("trace"))?;
    Ok(TraceContext { trace, span, sampled: true })
}

fn decode_event(bytes: &mut Bytes) -> Result<FeedEvent, BatchError> {
    use BatchError::Malformed;
    if bytes.len() < EVENT_HEADER_LEN {
        return Err(Malformed("event cut off"));
    }
    let mut header = bytes.split_to(EVENT_HEADER_LEN);
    let seq = header.get_u64_le();
    let time = Timestamp::from_micros(header.get_i64_le());
    let ttl = match header.get_u32_le() {
        0 => None,
        seconds => Some(Ttl::new(u64::from(seconds)).map_err(|_| Malformed("ttl"))?),
    };
    let (channel, event_type) = (usize::from(header.get_u8()), usize::from(header.get_u8()));
    let id_line = header.get_u8();
    let frame = header.get_u32_le() as usize;
    if frame > FRAME_BYTES_MAX + usize::from(id_line) || frame < usize::from(id_line) + 1 {
        return Err(Malformed("frame length"));
    }
    if bytes.len() < channel + event_type + frame {
        return Err(Malformed("event cut off"));
    }
    let mut text = |len: usize| ByteString::try_from(bytes.split_to(len)).map_err(|_| Malformed("not UTF-8"));
    let channel = Channel::parse_stored(text(channel)?).map_err(|_| Malformed("channel"))?;
    let event_type = match event_type {
        0 => None,
        len => Some(EventType::parse_stored(text(len)?).map_err(|_| Malformed("event type"))?),
    };
    let frame = Frame { bytes: bytes.split_to(frame), id_line };
    if !frame.bytes.ends_with(b"\n") {
        return Err(Malformed("frame"));
    }
    Ok(FeedEvent { seq, time, ttl, channel, event_type, frame })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_batch() -> impl Strategy<Value = Batch> {
        let event =
            (1u64..5, "[a-z]{1,8}(\\.[a-z]{1,3})?", prop::option::of("[a-z]{1,5}"), "\\PC{0,30}", 0u64..100);
        let traced = prop::option::of(prop::collection::vec(any::<u64>(), 0..4));
        let parts = (0u64..1000, prop::collection::vec(event, 0..6), 0u64..5, traced);
        parts.prop_map(|(from, specs, beyond, traced)| {
            let mut batch = Batch::empty(Shard::ZERO, Epoch::new(9), from, from);
            for (step, channel, event_type, data, ttl) in specs {
                batch.to += step;
                let position = Position { shard: Shard::ZERO, epoch: batch.epoch, seq: batch.to };
                let mut event = Event::new(Channel::parse(channel).unwrap(), data);
                event.event_type = event_type.and_then(|t| EventType::parse(t).ok());
                event.ttl = Ttl::new(ttl).ok();
                batch.events.push(FeedEvent::encode(position, Timestamp::from_micros(5), &event));
            }
            batch.to += beyond;
            batch.tip = batch.to;
            let context = |seq: u64| {
                let trace = NonZeroU128::new(u128::from(seq) | (1 << 100)).unwrap();
                TraceContext { trace, span: NonZeroU64::new(seq | 1).unwrap(), sampled: true }
            };
            batch.traced = traced.map(|seqs| {
                let events = seqs.into_iter().map(|seq| (seq, context(seq))).collect();
                Box::new(Traced { batch: context(7), events })
            });
            batch
        })
    }

    proptest! {
        #[test]
        fn what_is_sent_is_received(batch in any_batch()) {
            let bytes = batch.encode();
            prop_assert_eq!(bytes.len(), batch.wire_len());
            prop_assert_eq!(Batch::decode(bytes, ShardCount::ONE), Ok(batch));
        }

        #[test]
        fn damaged_batches_are_refused_without_panic(batch in any_batch(), at: prop::sample::Index, byte: u8, cut: prop::sample::Index) {
            let mut bytes = batch.encode().to_vec();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            drop(Batch::decode(bytes.into(), ShardCount::ONE));
            let whole = batch.encode();
            prop_assert!(Batch::decode(whole.slice(..cut.index(whole.len())), ShardCount::ONE).is_err());
        }
    }

    #[test]
    fn what_a_header_has_more_is_passed_over() {
        let mut batch = Batch::empty(Shard::ZERO, Epoch::new(9), 1, 1);
        let context = TraceContext::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").unwrap();
        assert_eq!(batch.encode().len(), HEADER_LEN, "who traces nothing sends nothing of it");
        batch.traced = Some(Box::new(Traced { batch: context, events: vec![(1, context)] }));
        let mut later = batch.encode().to_vec();
        assert_eq!(later.len(), HEADER_LEN + Traced::wire_len(1));
        later.extend_from_slice(b"of a later version");
        let header_len = u16::try_from(later.len()).unwrap();
        later[1..3].copy_from_slice(&header_len.to_le_bytes());
        assert_eq!(Batch::decode(later.into(), ShardCount::ONE), Ok(batch));
    }

    #[test]
    fn a_header_that_has_less_than_it_says_or_traces_of_zero_is_refused() {
        let mut batch = Batch::empty(Shard::ZERO, Epoch::new(9), 1, 1);
        let context = TraceContext::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").unwrap();
        batch.traced = Some(Box::new(Traced { batch: context, events: vec![(1, context)] }));
        let bytes = batch.encode();
        let with = |at: usize, some: &[u8]| {
            let mut changed = bytes.to_vec();
            changed[at..at + some.len()].copy_from_slice(some);
            Batch::decode(changed.into(), ShardCount::ONE)
        };
        let count = HEADER_LEN + CONTEXT_LEN;
        assert_eq!(with(count, &[2, 0]), Err(BatchError::Malformed("traces cut off")));
        assert_eq!(with(count, &[0xff; 2]), Err(BatchError::Malformed("traces cut off")));
        assert_eq!(with(HEADER_LEN, &[0; 16]), Err(BatchError::Malformed("trace")));
        assert_eq!(with(count + 2 + 8 + 16, &[0; 8]), Err(BatchError::Malformed("trace")));
    }

    #[test]
    fn a_frame_can_do_without_its_id() {
        let position = Position { shard: Shard::ZERO, epoch: Epoch::new(1_767_225_600), seq: 300 };
        let frame = Frame::encode(position, None, "x");
        assert_eq!(&frame.with_id()[..], b"id: 1AYDy1soGrAI\ndata: x\n\n");
        assert_eq!(frame.without_id(), b"data: x\n\n");
    }
}
