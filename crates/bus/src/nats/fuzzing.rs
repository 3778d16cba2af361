//! What the fuzz target `journal_entry` sees; no part of the crate otherwise.

use bytes::Bytes;

use foghorn_core::entry::{Entry, NewEntry};
use foghorn_core::shard::{Shard, ShardCount};
use foghorn_core::time::Timestamp;

use super::block::forms::{SEQ, STREAM, TIME, direct, pushed};
use super::block::{is_usual, is_usual_direct};
use super::message::{Fields, Rules, headers};
use super::{read, stream};

/// The subject that a channel's entries have.
pub fn subject(shard: Shard, channel: &str) -> String {
    stream::subject_prefix(shard) + channel
}

/// The entry of a message, by each of the ways that take it from the server; the first is the message as it
/// is stored. All have to say the same.
pub fn readings(
    shard: Shard,
    shards: ShardCount,
    frame_bytes: usize,
    subject: &str,
    block: &[u8],
    data: &Bytes,
) -> Vec<Entry> {
    let rules = Rules { shard, shards, frame_bytes, prefix: stream::subject_prefix(shard) };
    let time: Timestamp = TIME.parse().unwrap_or_default();
    let mut readings = vec![rules.stored(SEQ, time, subject, block, data)];
    if let Some(message) = pushed(subject, block, data).filter(is_usual) {
        let fields = Fields::of(message.headers.as_ref());
        readings.push(rules.entry(SEQ, time, &message.subject, fields, &message.payload));
    }
    if let Some(message) = direct(subject, block, data).filter(|message| is_usual_direct(message, STREAM))
        && let Some((seq, time, subject)) = message.headers.as_ref().and_then(read::stored)
    {
        let fields = Fields::of(message.headers.as_ref());
        readings.push(rules.entry(seq, time, subject, fields, &message.payload));
    }
    readings
}

/// The header block that an entry is appended with.
pub fn block(entry: &NewEntry) -> Vec<u8> {
    let mut block = "NATS/1.0\r\n".to_owned();
    for (name, values) in headers(entry).iter() {
        for value in values {
            block += &format!("{name}: {}\r\n", value.as_str());
        }
    }
    (block + "\r\n").into()
}
