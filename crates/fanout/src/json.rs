//! Events as JSON: `{channel | channels | user, event?, data, id?, ttl?, ack?}`, one or an array.
//!
//! The text of `data` is kept: numbers beyond what any language holds and the order of keys survive,
//! only white space between tokens goes.

use std::fmt;

use bytes::Bytes;
use bytestring::ByteString;
use foghorn_core::event::{EventError, Ttl};
use foghorn_core::trace::TraceContext;
use foghorn_http::hint::{near_match, shown};
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use self::text::data_text;
use crate::error::PublishError;
use crate::publish::{Ack, PublishInput, Target};

mod text;

const KEYS: [&str; 8] = ["channel", "channels", "user", "event", "data", "id", "ttl", "ack"];

/// A body, read.
#[derive(Debug, PartialEq)]
pub(crate) struct Requested {
    /// Whether the answer is an array.
    pub(crate) several: bool,
    /// Every event: one per channel of every object, in order.
    pub(crate) events: Vec<Asked>,
}

/// One event of a body, or what is wrong with it.
#[derive(Debug, PartialEq)]
pub(crate) struct Asked {
    /// Which element of the array it comes from; 0 without an array.
    pub(crate) index: usize,
    pub(crate) input: Result<PublishInput, PublishError>,
}

/// Reads a body of at most `most` events. `traceparent` is passed on with each. An error is about the
/// whole body, none of it is to be published.
pub(crate) fn read(
    body: &[u8],
    most: usize,
    traceparent: Option<TraceContext>,
) -> Result<Requested, PublishError> {
    let text = std::str::from_utf8(body).map_err(|error| {
        PublishError::invalid(
            "not-utf8",
            format!("the body is not UTF-8: the first bad byte is at {}", error.valid_up_to()),
        )
    })?;
    let (mut several, objects) = match text.bytes().find(|b| !b" \t\r\n".contains(b)) {
        Some(b'[') => (true, array(text, most)?),
        Some(b'{') => (false, vec![text]),
        Some(_) => {
            // Syntax first: `{'channel': …` and the like are no JSON at all.
            serde_json::from_str::<IgnoredAny>(text).map_err(|error| syntax(&error))?;
            return Err(PublishError::invalid(
                "bad-event",
                "the body must be an object, or an array of them",
            ));
        }
        None => {
            return Err(PublishError::invalid(
                "bad-json",
                "the body is empty; it must be a JSON object or array",
            ));
        }
    };
    let mut events = Vec::new();
    for (index, object) in objects.into_iter().enumerate() {
        let inputs = match serde_json::from_str::<Fields<'_>>(object) {
            Ok(fields) => {
                let of_channels = fields.channels.is_some();
                let targets = fields.targets(most);
                // Channels that can't be read are one error, not an array of them.
                several |= of_channels && targets.is_ok();
                fields.into_inputs(targets, traceparent)?
            }
            // The array itself is well-formed, so the others can be published.
            Err(error) if several || error.is_data() => {
                vec![Err(PublishError::invalid("bad-event", error.to_string()))]
            }
            Err(error) => return Err(syntax(&error)),
        };
        events.extend(inputs.into_iter().map(|input| Asked { index, input }));
        if events.len() > most {
            return Err(too_many(events.len(), most));
        }
    }
    if !several && let [Asked { input: Err(error), .. }] = &events[..] {
        return Err(error.clone());
    }
    Ok(Requested { several, events })
}

/// The elements of an array, unread; an error when there are more than `most`.
fn array(text: &str, most: usize) -> Result<Vec<&str>, PublishError> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let (elements, count) = reader
        .deserialize_seq(Elements { most })
        .and_then(|read| reader.end().map(|()| read))
        .map_err(|error| {
            if error.is_data() {
                PublishError::invalid("bad-event", error.to_string())
            } else {
                syntax(&error)
            }
        })?;
    if count > most { Err(too_many(count, most)) } else { Ok(elements) }
}

/// Reads all elements but keeps no more than `most`.
struct Elements {
    most: usize,
}

impl<'de> Visitor<'de> for Elements {
    type Value = (Vec<&'de str>, usize);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut elements = Vec::new();
        while elements.len() < self.most {
            match seq.next_element::<&RawValue>()? {
                Some(element) => elements.push(element.get()),
                None => {
                    let count = elements.len();
                    return Ok((elements, count));
                }
            }
        }
        let mut count = elements.len();
        while seq.next_element::<IgnoredAny>()?.is_some() {
            count += 1;
        }
        Ok((elements, count))
    }
}

fn too_many(count: usize, most: usize) -> PublishError {
    PublishError::too_large(
        "too-many-events",
        format!(
            "{count} events in one request (each channel of `channels` counts); at most {most} are taken"
        ),
    )
}

fn syntax(error: &serde_json::Error) -> PublishError {
    PublishError::invalid("bad-json", error.to_string())
}

/// The keys of an event object, values unread.
#[derive(Default)]
struct Fields<'a> {
    channel: Option<&'a RawValue>,
    channels: Option<&'a RawValue>,
    user: Option<&'a RawValue>,
    event: Option<&'a RawValue>,
    data: Option<&'a RawValue>,
    id: Option<&'a RawValue>,
    ttl: Option<&'a RawValue>,
    ack: Option<&'a RawValue>,
    /// The first key that doesn't belong.
    wrong: Option<PublishError>,
}

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FieldsVisitor)
    }
}

struct FieldsVisitor;

/// Each target or what is wrong with it; or what is wrong with the keys that name them.
type Targets = Result<Vec<Result<Target, PublishError>>, PublishError>;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an event: an object with channel and data")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
        let mut fields = Fields::default();
        while let Some(key) = map.next_key::<String>()? {
            let value: &RawValue = map.next_value()?;
            let slot = match key.as_str() {
                "channel" => &mut fields.channel,
                "channels" => &mut fields.channels,
                "user" => &mut fields.user,
                "event" => &mut fields.event,
                "data" => &mut fields.data,
                "id" => &mut fields.id,
                "ttl" => &mut fields.ttl,
                "ack" => &mut fields.ack,
                _ => {
                    fields.wrong.get_or_insert_with(|| unknown_key(&key));
                    continue;
                }
            };
            if slot.replace(value).is_some() {
                let twice = || bad(&key, "is given twice");
                fields.wrong.get_or_insert_with(twice);
            }
        }
        // Null is how many a language writes "not given"; as data it is data.
        for slot in [
            &mut fields.channel,
            &mut fields.channels,
            &mut fields.user,
            &mut fields.event,
            &mut fields.id,
            &mut fields.ttl,
            &mut fields.ack,
        ] {
            *slot = slot.filter(|value| value.get() != "null");
        }
        Ok(fields)
    }
}

impl Fields<'_> {
    /// An event for every target. What is wrong with the object is wrong with each of them; an error of
    /// the whole is only that there are too many.
    fn into_inputs(
        self,
        targets: Targets,
        traceparent: Option<TraceContext>,
    ) -> Result<Vec<Result<PublishInput, PublishError>>, PublishError> {
        let targets = match targets {
            Ok(targets) => targets,
            Err(error) if error.code == "too-many-events" => return Err(error),
            Err(error) => return Ok(vec![Err(self.wrong.unwrap_or(error))]),
        };
        let rest = self.rest(traceparent);
        let inputs = targets.into_iter().map(|target| {
            let (target, rest) = (target?, rest.clone()?);
            Ok(PublishInput { target, ..rest })
        });
        Ok(inputs.collect())
    }

    fn targets(&self, most: usize) -> Targets {
        let channel = |value: &str, key| text(value, key).map(Target::Channel);
        match (self.channel, self.channels, self.user) {
            (Some(value), None, None) => Ok(vec![channel(value.get(), "channel")]),
            (None, None, Some(value)) => Ok(vec![text(value.get(), "user").map(Target::User)]),
            (None, Some(value), None) => {
                if !value.get().starts_with('[') {
                    return Err(bad("channels", "must be an array of strings; for one channel use channel"));
                }
                let names = array(value.get(), most)?;
                if names.is_empty() {
                    return Err(bad("channels", "is empty: name at least one channel"));
                }
                Ok(names.into_iter().map(|name| channel(name, "channels")).collect())
            }
            (None, None, None) => {
                Err(bad("channel", "is missing: say where the event goes with channel, channels or user"))
            }
            _ => Err(bad("channel", "give exactly one of channel, channels and user")),
        }
    }

    /// Everything but the target.
    fn rest(&self, traceparent: Option<TraceContext>) -> Result<PublishInput, PublishError> {
        if let Some(wrong) = &self.wrong {
            return Err(wrong.clone());
        }
        let data =
            self.data.ok_or_else(|| bad("data", "is missing: give a string or any other JSON value"))?;
        let ttl = |value: &RawValue| {
            // Digits only: 60.0 and 6e1 are no whole numbers to every parser.
            let seconds: u64 = value.get().parse().map_err(|_| EventError::Ttl)?;
            Ttl::new(seconds)
        };
        Ok(PublishInput {
            target: Target::Channel(ByteString::new()),
            event: self.event.map(|value| text(value.get(), "event")).transpose()?,
            data: Bytes::from(data_text(data.get()).map_err(|error| error.at("data"))?),
            id: self.id.map(|value| text(value.get(), "id")).transpose()?,
            ttl: self.ttl.map(ttl).transpose().map_err(|error| PublishError::from(error).at("ttl"))?,
            ack: match self.ack {
                Some(value) => Ack::parse(&text(value.get(), "ack")?).map_err(|error| error.at("ack"))?,
                None => Ack::default(),
            },
            traceparent,
        })
    }
}

fn bad(key: &str, what: &str) -> PublishError {
    PublishError::invalid("bad-event", format!("{key}: {what}")).at(key)
}

fn unknown_key(key: &str) -> PublishError {
    let hint = match near_match(key, &KEYS) {
        Some(near) => format!("did you mean {near}?"),
        None => format!("known are {}", KEYS.join(", ")),
    };
    bad(&shown(key), &format!("is no key of an event; {hint}"))
}

fn text(value: &str, key: &str) -> Result<ByteString, PublishError> {
    if !value.starts_with('"') {
        return Err(bad(key, "must be a string"));
    }
    let text: String = serde_json::from_str(value).map_err(|error| bad(key, &error.to_string()))?;
    Ok(text.into())
}

#[cfg(test)]
mod tests;
