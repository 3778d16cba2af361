//! Listeners that share a connection over HTTP/2. Frames are read in place: what a library does for a client costs about
//! as much as the server that is to be measured.

use anyhow::{Context as _, bail, ensure};

use super::content::Content;
use crate::client::bench::scan::Seen;
use crate::client::bench::sweep::asks::Asks;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEAD_BYTES: usize = 9;
/// The largest payload that a server may send, unless it is told otherwise.
const FRAME_BYTES: usize = 16 * 1024;
/// As much as a window can have: nothing is to wait for it.
const WINDOW: u32 = (1 << 31) - 1;
const FIRST_WINDOW: u32 = 65_535;
/// After so many bytes the connection's window is opened again.
const TAKEN: u32 = 1 << 30;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

/// END_STREAM of DATA and HEADERS, ACK of SETTINGS and PING.
const END_OR_ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;

/// Of the static table: `:status: 200` as an answer has it.
const STATUS_200: u8 = 0x88;

/// What has come on a connection.
pub(super) struct Http2 {
    head: Vec<u8>,
    /// Bytes of the frame that are yet to come.
    left: usize,
    /// What came of the payload, but of DATA.
    payload: Vec<u8>,
    taken: u32,
    streams: Vec<Content>,
    /// What the server is to be told.
    replies: Vec<u8>,
}

/// What a client says first, and the requests of these listeners.
pub(super) fn hello(asks: &Asks, first: usize, listeners: usize) -> Vec<u8> {
    let mut out = PREFACE.to_vec();
    // SETTINGS_INITIAL_WINDOW_SIZE.
    let mut settings = vec![0, 4];
    settings.extend_from_slice(&WINDOW.to_be_bytes());
    frame(&mut out, SETTINGS, 0, 0, &settings);
    frame(&mut out, WINDOW_UPDATE, 0, 0, &(WINDOW - FIRST_WINDOW).to_be_bytes());
    for listener in 0..listeners {
        let fields = fields(asks, first + listener);
        frame(&mut out, HEADERS, END_OR_ACK | END_HEADERS, 2 * listener + 1, &fields);
    }
    out
}

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: usize, payload: &[u8]) {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    let stream = u32::try_from(stream).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// A request's header fields: names of HPACK's static table by their index, nothing compressed or remembered.
fn fields(asks: &Asks, listener: usize) -> Vec<u8> {
    // `:method: GET`, and `:scheme: https` or `http`.
    let mut out = vec![0x82, if asks.tls.is_some() { 0x87 } else { 0x86 }];
    // `:path` and `:authority`, then `accept-encoding` (16) and `authorization` (23).
    field(&mut out, &[4], &asks.path(listener));
    field(&mut out, &[1], "localhost");
    if asks.variant.gzip {
        field(&mut out, &[15, 16 - 15], "gzip");
    }
    if let Some(token) = asks.token(listener) {
        field(&mut out, &[15, 23 - 15], &format!("Bearer {token}"));
    }
    out
}

fn field(out: &mut Vec<u8>, name: &[u8], value: &str) {
    out.extend_from_slice(name);
    // A length below 127 is a byte; else seven bits of the rest at a time.
    let mut length = value.len();
    if length < 127 {
        out.extend(u8::try_from(length));
    } else {
        out.push(127);
        length -= 127;
        while length >= 128 {
            out.extend(u8::try_from(length % 128 + 128));
            length /= 128;
        }
        out.extend(u8::try_from(length));
    }
    out.extend_from_slice(value.as_bytes());
}

impl Http2 {
    pub(super) fn new(listeners: usize, gzip: bool) -> Self {
        let streams = (0..listeners).map(|_| Content::new(gzip)).collect();
        let (head, payload) = (Vec::with_capacity(HEAD_BYTES), Vec::new());
        Http2 { head, left: 0, payload, taken: 0, streams, replies: Vec::new() }
    }

    /// What the server is to be told by now.
    pub(super) fn replies(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.replies)
    }

    /// Takes the next bytes; says which listener saw what.
    pub(super) fn feed(
        &mut self,
        mut bytes: &[u8],
        room: &mut [u8],
        mut on_seen: impl FnMut(usize, Seen),
    ) -> anyhow::Result<()> {
        while !bytes.is_empty() {
            if self.head.len() < HEAD_BYTES {
                let (now, rest) = bytes.split_at((HEAD_BYTES - self.head.len()).min(bytes.len()));
                self.head.extend_from_slice(now);
                bytes = rest;
                if self.head.len() < HEAD_BYTES {
                    return Ok(());
                }
                self.left = u32::from_be_bytes([0, self.head[0], self.head[1], self.head[2]]) as usize;
                ensure!(self.left <= FRAME_BYTES, "a frame of {} bytes", self.left);
            }
            let (now, rest) = bytes.split_at(self.left.min(bytes.len()));
            self.left -= now.len();
            bytes = rest;
            if self.head[3] == DATA {
                ensure!(self.head[4] & PADDED == 0, "a frame is padded");
                let stream = self.stream()?;
                let content = self.streams.get_mut(stream).context("a stream that nobody asked for")?;
                content.feed(now, room, |seen| on_seen(stream, seen))?;
                self.take(now.len());
            } else {
                self.payload.extend_from_slice(now);
            }
            if self.left == 0 {
                self.end()?;
                self.head.clear();
                self.payload.clear();
            }
        }
        Ok(())
    }

    /// The listener that a frame is for.
    fn stream(&self) -> anyhow::Result<usize> {
        let id: [u8; 4] = self.head[5..HEAD_BYTES].try_into()?;
        Ok(u32::from_be_bytes(id) as usize / 2)
    }

    fn take(&mut self, bytes: usize) {
        self.taken += u32::try_from(bytes).unwrap_or_default();
        if self.taken >= TAKEN {
            let taken = std::mem::take(&mut self.taken);
            frame(&mut self.replies, WINDOW_UPDATE, 0, 0, &taken.to_be_bytes());
        }
    }

    /// A frame is complete.
    fn end(&mut self) -> anyhow::Result<()> {
        let (kind, flags) = (self.head[3], self.head[4]);
        match kind {
            DATA => ensure!(flags & END_OR_ACK == 0, "the server ended a stream"),
            HEADERS => {
                let refused = self.payload.first() != Some(&STATUS_200);
                ensure!(!refused && flags & END_OR_ACK == 0, "the server refused a stream, or ended it");
            }
            SETTINGS if flags & END_OR_ACK == 0 => frame(&mut self.replies, SETTINGS, END_OR_ACK, 0, &[]),
            PING if flags & END_OR_ACK == 0 => {
                frame(&mut self.replies, PING, END_OR_ACK, 0, &self.payload);
            }
            RST_STREAM | GOAWAY => {
                bail!("the server ended a stream, or all of a connection: {:?}", self.payload)
            }
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::bench::scan::Stamp;
    use crate::client::bench::sweep::variant::Variant;

    fn event(seq: u64) -> Vec<u8> {
        let mut data = b"data: ".to_vec();
        Stamp { seq, sent: 0 }.write(&mut data, 64);
        data.extend_from_slice(b"\n\n");
        data
    }

    /// A server's settings, a ping, and the answers to two requests, with an event each that is cut in two.
    fn answers() -> Vec<u8> {
        let mut wire = Vec::new();
        frame(&mut wire, SETTINGS, 0, 0, &[]);
        frame(&mut wire, PING, 0, 0, &[7; 8]);
        for stream in [1, 3] {
            frame(&mut wire, HEADERS, END_HEADERS, stream, &[STATUS_200, 0x0f]);
        }
        let (one, other) = (event(1), event(2));
        for part in [0..20, 20..one.len()] {
            frame(&mut wire, DATA, 0, 3, &other[part.clone()]);
            frame(&mut wire, DATA, 0, 1, &one[part]);
        }
        wire
    }

    #[test]
    fn each_listener_of_a_connection_sees_its_own() {
        for step in 1..50 {
            let (mut connection, mut seen) = (Http2::new(2, false), Vec::new());
            for piece in answers().chunks(step) {
                connection.feed(piece, &mut [], |listener, what| seen.push((listener, what))).unwrap();
            }
            let stamp = |seq| Seen::Event(Stamp { seq, sent: 0 });
            assert_eq!(seen, [(1, stamp(2)), (0, stamp(1))], "in pieces of {step} bytes");
            let mut replies = Vec::new();
            frame(&mut replies, SETTINGS, END_OR_ACK, 0, &[]);
            frame(&mut replies, PING, END_OR_ACK, 0, &[7; 8]);
            assert_eq!(connection.replies(), replies);
            assert!(connection.replies().is_empty());
        }
    }

    #[test]
    fn what_is_no_live_stream_is_an_error() {
        let feed = |kind, flags, stream, payload: &[u8]| {
            let mut wire = Vec::new();
            frame(&mut wire, kind, flags, stream, payload);
            Http2::new(1, false).feed(&wire, &mut [], |_, _| {}).unwrap_err().to_string()
        };
        assert!(feed(HEADERS, END_HEADERS, 1, &[0x8c]).contains("refused"));
        assert!(feed(DATA, END_OR_ACK, 1, b"x").contains("ended"));
        assert!(feed(DATA, 0, 3, b"x").contains("nobody asked"));
        assert!(feed(GOAWAY, 0, 0, &[0; 8]).contains("ended"));
    }

    #[test]
    fn long_fields_have_their_length_in_several_bytes() {
        let asks = Asks { tokens: vec!["t".repeat(400)], variant: Variant::default(), ..Asks::default() };
        let fields = fields(&asks, 0);
        // 407 bytes with `Bearer `: 127, and 280 in sevens.
        let at = memchr::memmem::find(&fields, b"Bearer ").unwrap();
        assert_eq!(fields[at - 5..at], [15, 8, 127, 152, 2]);
    }
}
