//! What the fuzz target `publish_body` sees; no part of the crate otherwise.

use foghorn_core::event::Event;

use crate::error::PublishError;
use crate::json;
use crate::publish::Ack;

/// A body, read as the HTTP door reads it.
#[derive(Debug, PartialEq)]
pub struct Body {
    /// Whether the answer is an array.
    pub several: bool,
    /// In order, every event or what is wrong with it, and which element of the array it comes from.
    pub events: Vec<(usize, Result<(Event, Ack), PublishError>)>,
}

/// Reads a body of at most `most` events. An error is about the whole body.
pub fn read(body: &[u8], most: usize) -> Result<Body, PublishError> {
    let requested = json::read(body, most, None)?;
    let event = |asked: json::Asked| {
        let event = asked.input.and_then(|input| {
            let ack = input.ack;
            Ok((input.into_event()?, ack))
        });
        (asked.index, event)
    };
    Ok(Body { several: requested.several, events: requested.events.into_iter().map(event).collect() })
}
