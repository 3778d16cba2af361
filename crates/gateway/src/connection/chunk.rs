//! Building the bytes that go out together.

use bytes::{BufMut as _, Bytes, BytesMut};
use serde_json::json;

use foghorn_core::cursor::Cursor;
use foghorn_core::reason::{ResetReason, StreamEnd};
use foghorn_core::sse::{self, ControlFrame};
use foghorn_core::time::Timestamp;

use super::course::{Course, cursor};
use crate::gathering::Gathering;
use crate::ring::RingEvent;
use crate::subscription::Form;

/// Bytes of a `batch` block beside its events, about.
const BATCH_FRAME_BYTES: usize = 160;

/// The last `id:` of a stream that a newer one of its user has taken the place of: no cursor, but by it who comes back
/// is known for somebody who shouldn't.
pub(crate) const OUSTED_ID: &str = "~";

/// Blocks to be written in one piece.
pub(super) struct Chunk {
    form: Form,
    out: BytesMut,
    /// Events that are to be one block, the next one.
    gathering: Gathering,
    /// A lone event of a plain stream is given out as the shared bytes it is.
    lone: Option<Bytes>,
    events: u64,
}

impl Chunk {
    pub(super) fn new(form: Form) -> Self {
        Chunk { form, out: BytesMut::new(), gathering: Gathering::default(), lone: None, events: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn len(&self) -> usize {
        self.out.len() + self.gathering.len() + self.lone.as_ref().map_or(0, Bytes::len)
    }

    /// How many events it holds.
    pub(super) fn events(&self) -> u64 {
        self.events
    }

    pub(super) fn into_bytes(mut self) -> Bytes {
        self.lone.take().unwrap_or_else(|| std::mem::take(self.out()).freeze())
    }

    /// Appends an event. Its course already stands at it.
    pub(super) fn event(&mut self, event: &RingEvent, courses: &[Course]) {
        self.events += 1;
        if self.form.gathered_for().is_some() {
            self.gathering.push(event, cursor(courses), false);
            return;
        }
        // With one shard the `id:` line is the same for all listeners, and encoded with the frame.
        let shared_id = courses.len() == 1;
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
        let out = self.out();
        sse::id_line(out, &cursor(courses));
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

    /// `stream-reset`: something that was asked for is gone; the stream goes on at `courses`.
    pub(super) fn reset(&mut self, reason: ResetReason, courses: &[Course]) {
        let data = json!({ "reason": reason.as_str() }).to_string();
        let id = cursor(courses);
        ControlFrame { id: Some(&id), event: Some("stream-reset"), retry_ms: None, data: Some(&data) }
            .write(self.out());
    }

    /// `stream-live`: caught up, or the live feed is back.
    pub(super) fn live(&mut self, replayed: u64, courses: &[Course]) {
        let data = json!({ "replayed": replayed }).to_string();
        let id = cursor(courses);
        ControlFrame { id: Some(&id), event: Some("stream-live"), retry_ms: None, data: Some(&data) }
            .write(self.out());
    }

    /// `stream-stale`: events may be late, none will be lost.
    pub(super) fn stale(&mut self) {
        ControlFrame { event: Some("stream-stale"), data: Some("{}"), ..ControlFrame::default() }
            .write(self.out());
    }

    /// A block of only `id:`: EventSource takes the cursor and fires nothing.
    pub(super) fn keep_alive(&mut self, courses: &[Course]) {
        let id = cursor(courses);
        ControlFrame { id: Some(&id), ..ControlFrame::default() }.write(self.out());
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
        let data = json!({ "reason": end.as_str() }).to_string();
        if end == StreamEnd::Ousted {
            let block = format!("id: {OUSTED_ID}\nevent: stream-end\ndata: {data}\n\n");
            self.out().put_slice(block.as_bytes());
            return;
        }
        let id = cursor(courses);
        let id = (!id.is_empty()).then_some(&id);
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

/// A keep-alive at these positions, and a heartbeat if `now` is given.
pub(crate) fn keep_alive(courses: &[Course], heartbeat: Option<Timestamp>) -> Bytes {
    let mut chunk = Chunk::new(Form::Plain);
    chunk.keep_alive(courses);
    if let Some(now) = heartbeat {
        chunk.heartbeat(now);
    }
    chunk.into_bytes()
}

/// `stream-stale`, or `stream-live` when that is over.
pub(crate) fn notice(stale: bool, courses: &[Course]) -> Bytes {
    let mut chunk = Chunk::new(Form::Plain);
    if stale {
        chunk.stale();
    } else {
        chunk.live(0, courses);
    }
    chunk.into_bytes()
}

/// `stream-expiring`.
pub(crate) fn expiring(ends: Timestamp) -> Bytes {
    let mut chunk = Chunk::new(Form::Plain);
    chunk.expiring(ends);
    chunk.into_bytes()
}

/// `stream-end` at these positions.
pub(crate) fn stream_end(end: StreamEnd, retry_ms: u64, courses: &[Course]) -> Bytes {
    let mut chunk = Chunk::new(Form::Plain);
    chunk.end(end, retry_ms, courses);
    chunk.into_bytes()
}

/// A stream that is refused politely: `200`, when to come back, and the end. A native EventSource never
/// comes back after anything else.
pub(crate) fn goodbye(end: StreamEnd, retry_ms: u64) -> Bytes {
    stream_end(end, retry_ms, &[])
}
