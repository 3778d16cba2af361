//! The forms in which the server gives a stored message back, as the client library reads them: for tests
//! that all readings agree.

use async_nats::{HeaderMap, HeaderName, HeaderValue, Message, Subject};
use bytes::Bytes;

use super::Block;

/// The stream of every message here.
pub(in crate::nats) const STREAM: &str = "FOGHORN_0";
/// The seq of every message here.
pub(in crate::nats) const SEQ: u64 = 7;
/// The time of every message here.
pub(in crate::nats) const TIME: &str = "2026-01-01T00:00:00Z";

/// As a push consumer gives it; none when the client library can't read that.
pub(in crate::nats) fn pushed(subject: &str, block: &[u8], data: &[u8]) -> Option<Message> {
    // The line of the message is cut at white space.
    if subject.contains(char::is_whitespace) {
        return None;
    }
    received(subject, block, data)
}

/// As a batched direct get gives it; none when the client library can't read that.
pub(in crate::nats) fn direct(subject: &str, block: &[u8], data: &[u8]) -> Option<Message> {
    let mut direct = match block.len() {
        ..=2 => b"NATS/1.0\r\n".to_vec(),
        len => block[..len - 2].to_vec(),
    };
    let of_server = [
        ("Nats-Stream", STREAM),
        ("Nats-Subject", subject),
        ("Nats-Sequence", &SEQ.to_string()),
        ("Nats-Time-Stamp", TIME),
        ("Nats-Num-Pending", "0"),
        ("Nats-Last-Sequence", "6"),
    ];
    for (name, value) in of_server {
        direct.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    }
    direct.extend_from_slice(b"\r\n");
    received("_INBOX.x", &direct, data)
}

fn received(subject: &str, block: &[u8], data: &[u8]) -> Option<Message> {
    let mut headers = HeaderMap::new();
    if !block.is_empty() {
        let parsed = Block::parse(block).filter(|parsed| parsed.readable)?;
        for (name, value) in parsed.headers {
            // It would drop the connection over one that it doesn't take: then the block was not readable.
            let (name, value) = (name.parse::<HeaderName>(), value.parse::<HeaderValue>());
            headers.append(name.expect("a name it takes"), value.expect("a value it takes"));
        }
    }
    Some(Message {
        subject: Subject::from(subject),
        reply: None,
        payload: Bytes::copy_from_slice(data),
        headers: (!block.is_empty()).then_some(headers),
        status: None,
        description: None,
        length: subject.len() + block.len() + data.len(),
    })
}
