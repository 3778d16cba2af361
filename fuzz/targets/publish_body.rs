//! The body of `POST /api/publish`, as it comes.

#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::Value;

use foghorn_core::channel::Channel;
use foghorn_core::entry::{RawEntry, validate};
use foghorn_core::event::{Event, EventId, EventType, FRAME_BYTES_DEFAULT};
use foghorn_core::shard::ShardCount;
use foghorn_fanout::error::PublishError;
use foghorn_fanout::fuzzing::read;
use foghorn_fanout::publish::Ack;

/// Few enough to be exceeded.
const MOST: usize = 8;

fuzz_target!(|input: &[u8]| {
    let body = foghorn_fuzz::within_memory(input.len(), 40, || read(input, MOST));
    assert_eq!(body, read(input, MOST));
    let elements = elements(input);
    if let Some(elements) = &elements {
        plain_events_are_taken(elements);
    }
    let body = match body {
        Ok(body) => body,
        Err(error) => {
            check_error(&error);
            return;
        }
    };
    assert!(body.events.len() <= MOST);
    assert!(body.events.is_sorted_by_key(|(index, _)| *index));
    if !body.several {
        assert_eq!(body.events.len(), 1, "one object, one answer");
    }
    for (index, event) in &body.events {
        let element = elements.as_ref().map(|elements| &elements[*index]);
        match event {
            Ok((event, ack)) => {
                check_event(event);
                if let Some(element) = element {
                    assert_is_asked(event, *ack, element);
                }
            }
            Err(error) => check_error(error),
        }
    }
});

/// The events of a body as another parser reads them, one or an array; none when it can't read all of it: it
/// refuses numbers that are too large, and lone surrogates anywhere.
fn elements(input: &[u8]) -> Option<Vec<Value>> {
    match serde_json::from_slice(input).ok()? {
        Value::Array(elements) => Some(elements),
        object @ Value::Object(_) => Some(vec![object]),
        _ => None,
    }
}

/// Events that nothing is wrong with are accepted. Written anew: in the input they may have had a key twice.
fn plain_events_are_taken(elements: &[Value]) {
    let plain: Vec<&Value> = elements.iter().filter(|element| is_plain(element)).take(MOST).collect();
    let text = serde_json::to_vec(&plain).expect("it was read from JSON");
    // What this parser makes of a number may be the last digit off from what it wrote.
    let plain: Vec<Value> = serde_json::from_slice(&text).expect("it was written as JSON");
    let body = read(&text, MOST).expect("an array of events");
    assert!(body.several && body.events.len() == plain.len());
    for ((_, event), element) in body.events.iter().zip(&plain) {
        let (event, ack) = event.as_ref().expect("nothing is wrong with it");
        assert_is_asked(event, *ack, element);
    }
}

/// Whether it has a valid channel, data and nothing else.
fn is_plain(element: &Value) -> bool {
    let Some(object) = element.as_object() else { return false };
    let known = object.keys().all(|key| ["channel", "data"].contains(&key.as_str()));
    let channel =
        object.get("channel").and_then(Value::as_str).is_some_and(|name| Channel::parse(name).is_ok());
    known && channel && object.contains_key("data")
}

fn check_error(error: &PublishError) {
    let problem = error.to_problem();
    assert!(problem.status.is_client_error() && !error.retryable);
    assert_eq!(problem.to_json()["type"], format!("https://foghorn.dev/problems/{}", error.code));
    problem.into_response();
}

/// What gets in is what relay and log take from the journal.
fn check_event(event: &Event) {
    let ttl = event.ttl.map(|ttl| ttl.seconds().to_string());
    let data = event.data.clone().into_bytes();
    let raw = RawEntry {
        channel: event.channel.as_str(),
        event_type: event.event_type.as_ref().map(EventType::as_str),
        id: event.id.as_ref().map(EventId::as_str),
        ttl: ttl.as_deref(),
        data: &data,
    };
    let shards = ShardCount::new(4).expect("within its bounds");
    let validated = validate(shards.shard_of(&event.channel), shards, FRAME_BYTES_DEFAULT, raw);
    assert_eq!(validated.as_ref(), Ok(event));
}

/// Whether there is no space outside the strings of a JSON text.
fn is_compact(json: &str) -> bool {
    let (mut inside, mut escaped) = (false, false);
    json.bytes().all(|byte| {
        let quote = byte == b'"' && !escaped;
        escaped = inside && byte == b'\\' && !escaped;
        inside ^= quote;
        inside || !byte.is_ascii_whitespace()
    })
}

/// The event is the one that the body describes.
fn assert_is_asked(event: &Event, ack: Ack, element: &Value) {
    match &element["data"] {
        Value::String(text) => assert_eq!(&*event.data, text.as_str()),
        other => {
            let data: Value = serde_json::from_str(&event.data).expect("data are JSON, or a string's text");
            assert_eq!(data, *other);
            assert!(is_compact(&event.data), "{:?}", event.data);
        }
    }
    let text = |key: &str| element[key].as_str();
    assert_eq!(event.event_type.as_ref().map(EventType::as_str), text("event"));
    assert_eq!(event.id.as_ref().map(EventId::as_str), text("id"));
    assert_eq!(event.ttl.map(|ttl| u64::from(ttl.seconds())), element["ttl"].as_u64());
    assert_eq!(ack.as_str(), text("ack").unwrap_or("accepted"));
    let channel = event.channel.as_str();
    match (text("channel"), &element["channels"], text("user")) {
        (Some(name), Value::Null, None) => assert_eq!(channel, name),
        (None, Value::Array(names), None) => assert!(names.iter().any(|name| name == channel)),
        (None, Value::Null, Some(user)) => assert_eq!(Channel::user(user).as_ref(), Ok(&event.channel)),
        targets => panic!("not one target: {targets:?}"),
    }
}
