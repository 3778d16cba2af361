//! A batch on the live feed. The input is its wire form; and, apart from that, what a batch to be sent is
//! made of.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

use foghorn_core::batch::{Batch, BatchError, FeedEvent};
use foghorn_core::channel::Channel;
use foghorn_core::event::{Event, EventType, FRAME_BYTES_MAX, Ttl};
use foghorn_core::position::{Epoch, Position};
use foghorn_core::shard::ShardCount;
use foghorn_core::time::Timestamp;

/// Of the header as this version writes it.
const HEADER_LEN: u16 = 65;

fuzz_target!(|input: &[u8]| {
    receive(input);
    send(input);
});

/// Whatever is accepted holds what a batch promises, and is the one form of it.
fn receive(input: &[u8]) {
    let shards = ShardCount::new(4).expect("within its bounds");
    let bytes = Bytes::copy_from_slice(input);
    // An event takes 29 bytes on the wire at least, and some 130 in memory.
    let decoded = foghorn_fuzz::within_memory(input.len(), 6, || Batch::decode(bytes.clone(), shards));
    assert_eq!(decoded, Batch::decode(bytes, shards));
    let batch = match decoded {
        Ok(batch) => batch,
        Err(BatchError::Version(version)) => return assert_eq!(input.first(), Some(&version)),
        Err(BatchError::Malformed(_)) => return,
    };
    assert!(batch.shard.get() < shards.get());
    assert!(batch.from <= batch.to && batch.to <= batch.tip);
    let mut last = batch.from;
    for event in &batch.events {
        assert!(event.seq > last && event.seq <= batch.to);
        last = event.seq;
        assert_eq!(Channel::parse_stored(event.channel.as_str()).as_ref(), Ok(&event.channel));
        if let Some(event_type) = &event.event_type {
            assert_eq!(EventType::parse_stored(event_type.as_str()).as_ref(), Ok(event_type));
        }
        let (with, without) = (event.frame.with_id(), event.frame.without_id());
        assert!(with.ends_with(without) && without.ends_with(b"\n"));
        assert!(without.len() <= FRAME_BYTES_MAX);
    }
    let encoded = batch.encode();
    assert_eq!(encoded.len(), batch.wire_len());
    // A later version's header is longer, and what is new in it is passed over.
    if input[1..3] == HEADER_LEN.to_le_bytes() {
        assert_eq!(encoded, input);
    }
    assert_eq!(Batch::decode(encoded, shards), Ok(batch));
}

/// What is sent is received, also by who has more shards, and not by who has fewer.
fn send(input: &[u8]) {
    let mut input = input.iter().copied();
    let mut next = || u64::from(input.next().unwrap_or_default());
    let shards = ShardCount::new(8).expect("within its bounds");
    let shard = shards.shard(next() % 8).expect("one of eight");
    let from = next() << (next() % 50);
    let mut batch = Batch::empty(shard, Epoch::new(next() << (next() % 50)), from, from);
    for _ in 0..next() % 5 {
        batch.to += next() + 1;
        let position = Position { shard, epoch: batch.epoch, seq: batch.to };
        let text = |len: u64, next: &mut dyn FnMut() -> u64| -> String {
            // Bytes as characters: all of Latin-1, line breaks too.
            (0..len).filter_map(|_| u8::try_from(next()).ok()).map(char::from).collect()
        };
        let channel = Channel::parse(text(next() % 9, &mut next)).unwrap_or_else(|_| Channel::broadcast());
        let mut event = Event::new(channel, text(next() % 17, &mut next));
        event.event_type = EventType::parse(text(next() % 9, &mut next)).ok();
        event.ttl = Ttl::new(next() << (next() % 30)).ok();
        let time = Timestamp::from_micros((next() << (next() % 56)).cast_signed());
        batch.events.push(FeedEvent::encode(position, time, &event));
    }
    batch.to += next();
    batch.tip = batch.to + next();
    batch.sent_at = Timestamp::from_micros(-next().cast_signed());

    let bytes = batch.encode();
    assert_eq!(bytes.len(), batch.wire_len());
    assert_eq!(Batch::decode(bytes.clone(), shards).as_ref(), Ok(&batch));
    let fewer = ShardCount::new(u64::from(shard.get()).max(1)).expect("within its bounds");
    assert_eq!(Batch::decode(bytes, fewer).is_ok(), shard.get() < fewer.get());
}
