//! What is printed, in three forms.

use std::borrow::Cow;
use std::io::{self, Write};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use foghorn_core::sse::Block;

/// How events are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// `time channel event data`, for people.
    Text,
    /// The data alone.
    Raw,
    /// An object a line.
    Json,
}

/// Prints events to `out`, and what happens to the stream to `err`.
pub(super) struct Output<O, E> {
    out: O,
    err: E,
    form: Form,
}

/// The data of an event as servers give them when asked for envelopes.
#[derive(Debug, Deserialize)]
struct Envelope {
    channel: String,
    time: String,
    data: Value,
}

#[derive(Debug, Serialize)]
struct Printed<'a> {
    channel: Option<&'a str>,
    event: &'a str,
    id: Option<&'a str>,
    time: Option<&'a str>,
    data: &'a Value,
}

impl<O: Write, E: Write> Output<O, E> {
    pub(super) fn new(out: O, err: E, form: Form) -> Self {
        Output { out, err, form }
    }

    /// Whether the channel is to be shown, so that envelopes are needed.
    pub(super) fn wants_envelope(&self) -> bool {
        self.form != Form::Raw
    }

    /// Prints an event.
    pub(super) fn event(&mut self, block: &Block, data: &str) -> io::Result<()> {
        if self.form == Form::Raw {
            return writeln!(self.out, "{data}");
        }
        // A server that knows no envelopes is listened to all the same.
        let envelope: Option<Envelope> = serde_json::from_str(data).ok();
        let (channel, time) = match &envelope {
            Some(envelope) => (Some(envelope.channel.as_str()), Some(envelope.time.as_str())),
            None => (None, None),
        };
        let data = envelope.as_ref().map_or_else(|| Value::from(data), |envelope| envelope.data.clone());
        if self.form == Form::Json {
            let printed =
                Printed { channel, event: block.event_type(), id: block.id.as_deref(), time, data: &data };
            serde_json::to_writer(&mut self.out, &printed)?;
            return writeln!(self.out);
        }
        let text = data.as_str().map_or_else(|| Cow::from(data.to_string()), Cow::from);
        let (time, channel) = (time.unwrap_or("-"), channel.unwrap_or("-"));
        writeln!(
            self.out,
            "{} {} {} {}",
            visible(time),
            visible(channel),
            visible(block.event_type()),
            visible(&text)
        )
    }

    /// Says what happened to the stream: an object of which `control` names the kind, or the same in words.
    pub(super) fn control(&mut self, kind: &str, object: Value, words: &str) -> io::Result<()> {
        if self.form != Form::Json {
            return writeln!(self.err, "foghorn: {}", visible(words));
        }
        let mut all = json!({ "control": kind });
        if let (Some(all), Value::Object(object)) = (all.as_object_mut(), object) {
            all.extend(object);
        }
        writeln!(self.err, "{all}")
    }

    /// Everything printed so far goes out.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Text as a terminal may show it: on one line, and without the escapes by which data could act on the
/// terminal of whoever listens.
fn visible(text: &str) -> Cow<'_, str> {
    let acts = |c: char| c.is_control() && c != '\t';
    if !text.contains(acts) {
        return text.into();
    }
    text.chars()
        .fold(String::with_capacity(text.len() + 8), |mut shown, c| {
            if acts(c) {
                shown.extend(c.escape_default());
            } else {
                shown.push(c);
            }
            shown
        })
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(form: Form, event: Option<&str>, data: &str) -> String {
        let mut output = Output::new(Vec::new(), Vec::new(), form);
        let block = Block { id: Some("1a".into()), event: event.map(str::to_owned), ..Block::default() };
        output.event(&block, data).unwrap();
        String::from_utf8(output.out).unwrap()
    }

    #[test]
    fn events_are_printed_in_three_forms() {
        let envelope =
            r#"{"channel":"a.b","event":"e","time":"2026-02-03T04:05:06Z","data":"x\ny\u001b[2J"}"#;
        assert_eq!(printed(Form::Text, Some("e"), envelope), "2026-02-03T04:05:06Z a.b e x\\ny\\u{1b}[2J\n");
        assert_eq!(
            printed(Form::Json, Some("e"), envelope),
            "{\"channel\":\"a.b\",\"event\":\"e\",\"id\":\"1a\",\"time\":\"2026-02-03T04:05:06Z\",\"data\":\"x\\ny\\u001b[2J\"}\n"
        );
        assert_eq!(printed(Form::Raw, Some("e"), "x\ny"), "x\ny\n");
        assert_eq!(printed(Form::Text, None, "{\"a\":1}"), "- - message {\"a\":1}\n");
    }
}
