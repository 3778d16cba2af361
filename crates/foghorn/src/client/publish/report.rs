//! What the person (or the script) is told: results on standard output, trouble and progress on
//! standard error.

use std::io::{self, IsTerminal as _, Stderr, Write};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::batch::Numbered;

/// How often progress is drawn anew.
const REDRAW: Duration = Duration::from_millis(200);

/// Counts of events, and of attempts.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) published: u64,
    /// Of those, how many the server had already.
    pub(super) duplicates: u64,
    /// Accepted, but the event log's commit did not come in time.
    pub(super) not_durable: u64,
    /// Not published: refused, skipped or given up.
    pub(super) failed: u64,
    pub(super) retries: u64,
}

/// Tells.
pub(super) struct Report<O, E> {
    out: O,
    err: E,
    json: bool,
    terminal: bool,
    drawn: Option<Instant>,
    began: Instant,
    pub(super) counts: Counts,
}

impl<O: Write> Report<O, Stderr> {
    /// Draws progress if `err` is a terminal.
    pub(super) fn new(out: O, err: Stderr, json: bool) -> Self {
        let terminal = err.is_terminal();
        Report { terminal, ..Report::plain(out, err, json) }
    }
}

impl<O: Write, E: Write> Report<O, E> {
    /// Never draws progress.
    pub(super) fn plain(out: O, err: E, json: bool) -> Self {
        let counts = Counts::default();
        Report { out, err, json, terminal: false, drawn: None, began: Instant::now(), counts }
    }

    /// An event is stored; `answer` is the server's.
    pub(super) fn published(&mut self, event: &Numbered, answer: &Value) -> io::Result<()> {
        let is = |key| answer.get(key).and_then(Value::as_bool);
        self.counts.published += 1;
        self.counts.duplicates += u64::from(is("duplicate") == Some(true));
        let not_durable = is("durable") == Some(false);
        self.counts.not_durable += u64::from(not_durable);
        if self.json {
            let mut object = json!({ "line": event.line, "id": event.event.id });
            if event.line.is_none() {
                object = json!({ "id": event.event.id });
            }
            for key in ["position", "duplicate", "durable"] {
                if let (Some(value), Some(object)) = (answer.get(key), object.as_object_mut()) {
                    object.insert(key.to_owned(), value.clone());
                }
            }
            return writeln!(self.out, "{object}");
        }
        if event.line.is_none() {
            let duplicate = if is("duplicate") == Some(true) { " (it was there already)" } else { "" };
            writeln!(self.out, "{} {}{duplicate}", position(answer), event.event.id)?;
            if not_durable {
                self.note("accepted, but not committed to the event log in time")?;
            }
        }
        Ok(())
    }

    /// What was to be an event is none.
    pub(super) fn unusable(&mut self, line: Option<u64>, why: &str) -> io::Result<()> {
        self.counts.failed += 1;
        match (self.json, line) {
            (true, Some(line)) => writeln!(self.out, "{}", json!({ "line": line, "error": why })),
            (true, None) => writeln!(self.out, "{}", json!({ "error": why })),
            (false, Some(line)) => self.note(&format!("line {line} is not published: {why}")),
            (false, None) => self.note(&format!("not published: {why}")),
        }
    }

    /// An event will not be published.
    pub(super) fn unpublished(&mut self, event: &Numbered, why: &str) -> io::Result<()> {
        self.counts.failed += 1;
        if self.json {
            return writeln!(self.out, "{}", failure(event, why));
        }
        match event.line {
            Some(line) => self.note(&format!("line {line} is not published: {why}")),
            None => self.note(&format!("not published (id {}): {why}", event.event.id)),
        }
    }

    /// Events were sent, perhaps, and never answered.
    pub(super) fn gave_up(&mut self, events: &[Numbered], why: &str) -> io::Result<()> {
        self.counts.failed += events.len() as u64;
        if self.json {
            return events.iter().try_for_each(|event| {
                let mut object = failure(event, why);
                object["unknown"] = true.into();
                writeln!(self.out, "{object}")
            });
        }
        match (events.first().and_then(|e| e.line), events.last().and_then(|e| e.line)) {
            (Some(first), Some(last)) if first == last => {
                self.note(&format!("line {first} may be missing: {why}"))
            }
            (Some(first), Some(last)) => self.note(&format!("lines {first} to {last} may be missing: {why}")),
            _ => {
                let id = events.first().map_or("", |event| event.event.id.as_str());
                self.note(&format!(
                    "not published, as far as is known: {why}. Publish it again with --id {id}, and it is \
                     stored once whatever became of this"
                ))
            }
        }
    }

    /// Something worth a line of its own.
    pub(super) fn note(&mut self, text: &str) -> io::Result<()> {
        self.wipe()?;
        writeln!(self.err, "foghorn: {text}")
    }

    /// Draws how far it is, now and then.
    pub(super) fn progress(&mut self) -> io::Result<()> {
        if !self.terminal || self.drawn.is_some_and(|drawn| drawn.elapsed() < REDRAW) {
            return Ok(());
        }
        self.draw(&self.so_far())
    }

    /// Says that the same is tried again, and why: on a terminal as progress, else once an outage.
    pub(super) fn retrying(&mut self, why: &str, first: bool, left: Duration) -> io::Result<()> {
        self.counts.retries += 1;
        let text = format!("{why}; trying again for up to {} s", left.as_secs());
        if self.terminal {
            self.draw(&format!("{}; {text}", self.so_far()))
        } else if first {
            self.note(&text)
        } else {
            Ok(())
        }
    }

    /// The final word on many lines.
    pub(super) fn summary(&mut self, lines: u64) -> io::Result<()> {
        let Counts { published, duplicates, not_durable, failed, retries } = self.counts;
        let seconds = self.began.elapsed().as_secs_f64();
        if self.json {
            let summary = json!({
                "lines": lines, "published": published, "duplicates": duplicates, "notDurable": not_durable,
                "failed": failed, "retries": retries, "seconds": seconds,
            });
            return writeln!(self.out, "{}", json!({ "summary": summary }));
        }
        let mut text = format!("{} in {seconds:.1} s", self.so_far());
        for (count, what) in [
            (failed, "not published"),
            (duplicates, "were there already"),
            (not_durable, "not committed to the event log in time"),
        ] {
            if count > 0 {
                text = format!("{text}; {count} {what}");
            }
        }
        self.note(&text)
    }

    fn so_far(&self) -> String {
        let Counts { published, retries, .. } = self.counts;
        #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
        let rate = published as f64 / self.began.elapsed().as_secs_f64().max(0.001);
        let retries = if retries > 0 { format!(", {retries} retries") } else { String::new() };
        format!("{published} lines published, {rate:.0}/s{retries}")
    }

    fn draw(&mut self, text: &str) -> io::Result<()> {
        self.wipe()?;
        self.drawn = Some(Instant::now());
        write!(self.err, "{text}")?;
        self.err.flush()
    }

    fn wipe(&mut self) -> io::Result<()> {
        if self.drawn.take().is_some() {
            write!(self.err, "\r\x1b[K")?;
        }
        Ok(())
    }
}

/// What became of an event that isn't published, as JSON.
fn failure(event: &Numbered, why: &str) -> Value {
    let mut object = json!({ "id": event.event.id, "error": why });
    if let Some(line) = event.line {
        object["line"] = line.into();
    }
    object
}

/// `0:1767225600:42`, or what the server says instead.
fn position(answer: &Value) -> String {
    let at = |key| answer.get("position").and_then(|position| position.get(key)).and_then(Value::as_u64);
    match (at("shard"), at("epoch"), at("seq")) {
        (Some(shard), Some(epoch), Some(seq)) => format!("{shard}:{epoch}:{seq}"),
        _ => answer.get("position").map_or_else(|| "published".to_owned(), Value::to_string),
    }
}
