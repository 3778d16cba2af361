//! Building the bytes that go out together.

use bytes::{BufMut as _, Bytes, BytesMut};
use serde_json::json;

use foghorn_core::cursor::{Cursor, SubscriptionId};
use foghorn_core::policy::Policies;
use foghorn_core::reason::{ResetReason, StreamEnd};
use foghorn_core::sse::{self, ControlFrame};
use foghorn_core::time::Timestamp;

use super::course::{Course, cursor};
use crate::gathering::Gathering;
use crate::gzip::{Coder, Deflated};
use crate::ring::RingEvent;
use crate::subscription::{Form, Subscription};

/// Bytes of a `batch` block beside its events, about.
const BATCH_FRAME_BYTES: usize = 160;

/// The last `id:` of a stream that a newer one of its user has taken the place of: no cursor, but by it who comes back
/// is known for somebody who shouldn't.
pub(crate) const OUSTED_ID: &str = "~";

/// Blocks to be written in one piece.
pub(super) struct Chunk {
    form: Form,
    /// What cursors call what is heard.
    id: Option<SubscriptionId>,
    /// Whether events may be given out compressed.
    gzip: bool,
    out: BytesMut,
    /// What is compressed already, and before which of the bytes it stands.
    deflated: Vec<(usize, Deflated)>,
    deflated_bytes: usize,
    /// Events that are to be one block, the next one.
    gathering: Gathering,
    /// A lone event of a plain stream is given out as the shared bytes it is.
    lone: Option<Bytes>,
    events: u64,
}

impl Chunk {
    /// For who listens so.
    pub(super) fn new(subscription: &Subscription) -> Self {
        Chunk { form: subscription.form, id: subscription.id(), gzip: subscription.gzip, ..Chunk::plain() }
    }

    /// For what is the same in all forms.
    fn plain() -> Self {
        Chunk {
            form: Form::Plain,
            id: None,
            gzip: false,
            out: BytesMut::new(),
            deflated: Vec::new(),
            deflated_bytes: 0,
            gathering: Gathering::default(),
            lone: None,
            events: 0,
        }
    }

    /// From here on something else is heard.
    pub(super) fn heard_as(&mut self, id: Option<SubscriptionId>) {
        self.id = id;
    }

    fn cursor(&self, courses: &[Course]) -> Cursor {
        cursor(courses).of(self.id)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn len(&self) -> usize {
        self.out.len() + self.deflated_bytes + self.gathering.len() + self.lone.as_ref().map_or(0, Bytes::len)
    }

    /// How many events it holds.
    pub(super) fn events(&self) -> u64 {
        self.events
    }

    pub(super) fn into_said(mut self) -> Said {
        let text = self.lone.take().unwrap_or_else(|| std::mem::take(self.out()).freeze());
        Said { text, deflated: self.deflated }
    }

    /// Appends an event. Its course already stands at it.
    pub(super) fn event(&mut self, event: &RingEvent, courses: &[Course], policies: &Policies) {
        self.events += 1;
        if self.form.gathered_for().is_some() {
            self.gathering.push(event, self.cursor(courses), false);
            return;
        }
        let deflated = if self.gzip { event.deflated(self.form.is_envelope(), policies) } else { None };
        if let Some(deflated) = deflated {
            let id = self.cursor(courses);
            sse::id_line(self.out(), &id);
            self.deflated_bytes += deflated.len();
            self.deflated.push((self.out.len(), deflated.clone()));
            return;
        }
        // With one shard the `id:` line is the same for all listeners, and encoded with the frame.
        let shared_id = courses.len() == 1 && self.id.is_none();
        let envelope = self.form.is_envelope();
        if shared_id && !envelope {
            let bytes = event.feed.frame.with_id();
            if self.is_empty() {
                self.lone = Some(bytes.clone());
            } else {
                self.out().put_slice(bytes);
            }
            return;
        }
        let id = self.cursor(courses);
        let out = self.out();
        sse::id_line(out, &id);
        out.put_slice(event.block(envelope));
    }

    /// `connected`. Without an `id:` when a `stream-reset` follows: were the connection cut between the
    /// two, the client must come back with its old cursor and be told again.
    pub(super) fn connected(
        &mut self,
        client_id: &str,
        now: Timestamp,
        recovered: bool,
        retry_ms: u64,
        id: Option<&Cursor>,
    ) {
        let data = json!({ "clientId": client_id, "timestamp": now.to_string(), "recovered": recovered })
            .to_string();
        ControlFrame { id, event: Some("connected"), retry_ms: Some(retry_ms), data: Some(&data) }
            .write(self.out());
    }

    /// How many notifications of the stream's user are unread, as it begins.
    pub(super) fn unread(&mut self, unread: u64) {
        let data = json!({ "unread": unread }).to_string();
        ControlFrame { event: Some("notification-count"), data: Some(&data), ..ControlFrame::default() }
            .write(self.out());
    }

    /// `stream-reset`: something that was asked for is gone; the stream goes on at `courses`.
    pub(super) fn reset(&mut self, reason: ResetReason, courses: &[Course]) {
        let data = json!({ "reason": reason.as_str() }).to_string();
        let id = self.cursor(courses);
        ControlFrame { id: Some(&id), event: Some("stream-reset"), retry_ms: None, data: Some(&data) }
            .write(self.out());
    }

    /// `stream-live`: caught up, or the live feed is back.
    pub(super) fn live(&mut self, replayed: u64, courses: &[Course]) {
        self.live_at(replayed, &self.cursor(courses));
    }

    fn live_at(&mut self, replayed: u64, id: &Cursor) {
        let data = json!({ "replayed": replayed }).to_string();
        ControlFrame { id: Some(id), event: Some("stream-live"), retry_ms: None, data: Some(&data) }
            .write(self.out());
    }

    /// `stream-stale`: events may be late, none will be lost.
    pub(super) fn stale(&mut self) {
        ControlFrame { event: Some("stream-stale"), data: Some("{}"), ..ControlFrame::default() }
            .write(self.out());
    }

    /// A block of only `id:`: EventSource takes the cursor and fires nothing.
    pub(super) fn keep_alive(&mut self, courses: &[Course]) {
        self.keep_alive_at(&self.cursor(courses));
    }

    fn keep_alive_at(&mut self, id: &Cursor) {
        ControlFrame { id: Some(id), ..ControlFrame::default() }.write(self.out());
    }

    /// A visible sign of life.
    pub(super) fn heartbeat(&mut self, now: Timestamp) {
        let data = json!({ "timestamp": now.to_string() }).to_string();
        ControlFrame { event: Some("heartbeat"), data: Some(&data), ..ControlFrame::default() }
            .write(self.out());
    }

    /// `stream-expiring`: the token that it was opened with ends then, and the stream with it.
    pub(super) fn expiring(&mut self, ends: Timestamp) {
        let data = json!({ "expires": ends.to_string() }).to_string();
        ControlFrame { event: Some("stream-expiring"), data: Some(&data), ..ControlFrame::default() }
            .write(self.out());
    }

    /// `stream-end`: the server ends the stream; come back after `retry_ms`, unless it is said that one shouldn't.
    pub(super) fn end(&mut self, end: StreamEnd, retry_ms: u64, courses: &[Course]) {
        self.end_at(end, retry_ms, &self.cursor(courses));
    }

    fn end_at(&mut self, end: StreamEnd, retry_ms: u64, id: &Cursor) {
        let data = json!({ "reason": end.as_str() }).to_string();
        if end == StreamEnd::Ousted {
            let block = format!("id: {OUSTED_ID}\nevent: stream-end\ndata: {data}\n\n");
            self.out().put_slice(block.as_bytes());
            return;
        }
        let id = (!id.is_empty()).then_some(id);
        ControlFrame { id, event: Some("stream-end"), retry_ms: Some(retry_ms), data: Some(&data) }
            .write(self.out());
    }

    fn out(&mut self) -> &mut BytesMut {
        if let Some(lone) = self.lone.take() {
            self.out.put_slice(&lone);
        }
        if !self.gathering.is_empty() {
            let mut block = Vec::with_capacity(self.gathering.len() + BATCH_FRAME_BYTES);
            self.gathering.write(&mut block);
            self.out.put_slice(&block);
        }
        &mut self.out
    }
}

/// What is to be written to a stream.
#[derive(Debug, Default)]
pub(crate) struct Said {
    text: Bytes,
    /// What is compressed already, and before which byte of the text it stands.
    deflated: Vec<(usize, Deflated)>,
}

impl Said {
    /// Whether it is nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.text.is_empty() && self.deflated.is_empty()
    }

    /// Bytes, about.
    pub(crate) fn len(&self) -> usize {
        self.text.len() + self.deflated.iter().map(|(_, deflated)| deflated.len()).sum::<usize>()
    }

    /// As the text that it is, where nothing in it is compressed.
    pub(crate) fn into_text(self) -> Bytes {
        self.text
    }

    /// Writes it to a compressed stream.
    pub(crate) fn write(&self, coder: &mut Coder<'_>) {
        let mut from = 0;
        for (at, deflated) in &self.deflated {
            coder.text(&self.text[from..*at]);
            coder.deflated(deflated);
            from = *at;
        }
        coder.text(&self.text[from..]);
    }
}

/// A keep-alive at this cursor, and a heartbeat if `now` is given.
pub(crate) fn keep_alive(id: &Cursor, heartbeat: Option<Timestamp>) -> Bytes {
    let mut chunk = Chunk::plain();
    chunk.keep_alive_at(id);
    if let Some(now) = heartbeat {
        chunk.heartbeat(now);
    }
    chunk.into_said().into_text()
}

/// `stream-stale`, or `stream-live` when that is over.
pub(crate) fn notice(stale: bool, id: &Cursor) -> Bytes {
    let mut chunk = Chunk::plain();
    if stale {
        chunk.stale();
    } else {
        chunk.live_at(0, id);
    }
    chunk.into_said().into_text()
}

/// `stream-expiring`.
pub(crate) fn expiring(ends: Timestamp) -> Bytes {
    let mut chunk = Chunk::plain();
    chunk.expiring(ends);
    chunk.into_said().into_text()
}

/// `stream-end` at this cursor.
pub(crate) fn stream_end(end: StreamEnd, retry_ms: u64, id: &Cursor) -> Bytes {
    let mut chunk = Chunk::plain();
    chunk.end_at(end, retry_ms, id);
    chunk.into_said().into_text()
}

/// A stream that is refused politely: `200`, when to come back, and the end. A native EventSource never
/// comes back after anything else.
pub(crate) fn goodbye(end: StreamEnd, retry_ms: u64) -> Bytes {
    stream_end(end, retry_ms, &Cursor::default())
}
