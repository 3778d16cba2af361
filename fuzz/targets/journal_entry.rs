//! An entry that somebody appended to the journal. The input is the channel, as the rest of the subject, in
//! the first line; then the header block, a line `==` if there are data, and the data.

#![no_main]

use std::convert::Infallible;

use bytes::{Bytes, BytesMut};
use futures::{StreamExt as _, executor::block_on, stream};
use libfuzzer_sys::fuzz_target;

use foghorn_bus::nats::fuzzing::{block, readings, subject};
use foghorn_core::batch::FeedEvent;
use foghorn_core::cursor::Cursor;
use foghorn_core::entry::{Entry, InvalidEntry, Key, NewEntry, RawEntry, validate};
use foghorn_core::event::{Event, EventId, EventType};
use foghorn_core::position::{Digest, Epoch, Position};
use foghorn_core::shard::{Shard, ShardCount};
use foghorn_core::sse::{Decoder, envelope, frame_data};
use foghorn_fuzz::normalised;

/// Small enough to be exceeded.
const FRAME_BYTES: usize = 400;
const BETWEEN: &[u8] = b"\n==\n";

fuzz_target!(|input: &[u8]| {
    let (channel, rest) = foghorn_fuzz::first_line(input);
    let Ok(channel) = std::str::from_utf8(channel) else { return };
    // No subject has these, whoever publishes on it.
    if channel.contains([' ', '\t', '\r', '\0']) {
        return;
    }
    let rest = rest.unwrap_or_default();
    let (headers, data) = match rest.windows(BETWEEN.len()).position(|window| window == BETWEEN) {
        Some(at) => (&rest[..at], &rest[at + BETWEEN.len()..]),
        None => (rest, &b""[..]),
    };
    let data = Bytes::copy_from_slice(data);
    let shards = ShardCount::new(4).expect("within its bounds");
    let shard = shards.shard_of_str(channel.trim_end());
    let read = || readings(shard, shards, FRAME_BYTES, &subject(shard, channel), headers, &data);

    let entries = read();
    for entry in entries.iter().chain(&read()) {
        assert_same(&entries[0], entry);
    }
    assert_ne!(entries[0].digest, Digest::NONE);
    if let Ok(event) = &entries[0].event {
        belongs_to_one_shard(event, shards, shard);
        survives_the_journal(&entries[0], event, shards, shard);
        is_heard_as_published(&entries[0], event, shard);
    }
});

/// Whichever way an entry was read, it is the same.
fn assert_same(one: &Entry, other: &Entry) {
    assert_eq!(one.seq, other.seq);
    assert_eq!(one.time, other.time);
    assert_eq!(one.key, other.key);
    assert_eq!(one.event, other.event);
    // What is invalid for the bytes of its block alone has no other digest than that.
    assert_eq!(one.digest, other.digest);
}

fn belongs_to_one_shard(event: &Event, shards: ShardCount, shard: Shard) {
    assert_eq!(shards.shard_of(&event.channel), shard);
    for other in shards.shards().filter(|other| *other != shard) {
        let refused = validate(other, shards, FRAME_BYTES, raw(event, "", &event.data.clone().into_bytes()));
        assert!(matches!(refused, Err(InvalidEntry::WrongShard { .. })), "{refused:?}");
    }
}

/// The event is valid as such, and appended once more it is read as it was.
fn survives_the_journal(entry: &Entry, event: &Event, shards: ShardCount, shard: Shard) {
    let ttl = event.ttl.map(|ttl| ttl.seconds().to_string()).unwrap_or_default();
    let data = event.data.clone().into_bytes();
    assert_eq!(validate(shard, shards, FRAME_BYTES, raw(event, &ttl, &data)).as_ref(), Ok(event));

    let key = entry.key.unwrap_or_else(|| Key::invented(1));
    let again = NewEntry { event: event.clone(), key, traceparent: None };
    let subject = subject(shard, event.channel.as_str());
    let read = readings(shard, shards, FRAME_BYTES, &subject, &block(&again), &data);
    // What we write ourselves is taken in whatever form it comes, but for what looks like a line without an end.
    let texts = [event.event_type.as_ref().map(EventType::as_str), event.id.as_ref().map(EventId::as_str)];
    let odd = texts.into_iter().flatten().any(|text| text.contains("Nats-Stream:"));
    assert_eq!(read.len(), if odd { 2 } else { 3 });
    for read in read {
        assert_eq!((read.event.as_ref(), read.key), (Ok(event), Some(key)));
        if entry.key.is_some() {
            assert_eq!(read.digest, entry.digest);
        }
    }
}

/// The frame is within its bound, and every parser reads from it what was published, and no more.
fn is_heard_as_published(entry: &Entry, event: &Event, shard: Shard) {
    let position = Position { shard, epoch: Epoch::new(1_767_225_600), seq: entry.seq };
    let feed = FeedEvent::encode(position, entry.time, event);
    assert!(feed.frame.without_id().len() <= FRAME_BYTES);
    let expected = (
        event.event_type.as_ref().map_or("message", EventType::as_str).to_owned(),
        normalised(&event.data),
        Cursor::single(position).to_string(),
    );
    assert_eq!(frame_data(feed.frame.with_id()), expected.1);

    let chunks = stream::iter([Ok::<_, Infallible>(feed.frame.with_id().clone())]);
    let theirs: Vec<_> = block_on(eventsource_stream::EventStream::new(chunks).collect());
    let theirs: Vec<_> = theirs
        .into_iter()
        .map(|event| event.expect("a well-formed stream"))
        .map(|event| (event.event, event.data, event.id))
        .collect();
    assert_eq!(theirs, std::slice::from_ref(&expected));

    assert_eq!(decoded(feed.frame.with_id()), std::slice::from_ref(&expected));

    let mut framed = BytesMut::from(feed.frame.without_id());
    let enveloped = envelope(&event.channel, event.event_type.as_ref(), entry.time, &framed.split());
    let heard = decoded(&enveloped);
    assert_eq!(heard.len(), 1);
    let json: serde_json::Value = serde_json::from_str(&heard[0].1).expect("an envelope is JSON");
    let envelope = serde_json::json!({
        "channel": event.channel.as_str(), "event": expected.0, "time": entry.time.to_string(), "data": expected.1,
    });
    assert_eq!(json, envelope);
}

/// What our own clients hear.
fn decoded(bytes: &[u8]) -> Vec<(String, String, String)> {
    let mut heard = Vec::new();
    Decoder::default().feed(bytes, |block| {
        let (data, id) = (block.data.clone().unwrap_or_default(), block.id.clone().unwrap_or_default());
        heard.push((block.event_type().to_owned(), data, id));
    });
    heard
}

fn raw<'a>(event: &'a Event, ttl: &'a str, data: &'a Bytes) -> RawEntry<'a> {
    RawEntry {
        channel: event.channel.as_str(),
        event_type: event.event_type.as_ref().map(EventType::as_str),
        id: event.id.as_ref().map(EventId::as_str),
        ttl: Some(ttl).filter(|ttl| !ttl.is_empty()),
        data,
    }
}
