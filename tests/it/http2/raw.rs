//! HTTP/2 frame by frame, as no honest client writes them.

use std::time::Duration;

use foghorn_tests::PATIENCE;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Frame types (RFC 9113, 6).
pub(super) const HEADERS: u8 = 1;
pub(super) const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;

/// The largest window there is.
const WINDOW_MAX: u32 = (1 << 31) - 1;

/// One frame.
pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The header block of `GET path` (RFC 7541), nothing of it remembered.
pub(super) fn get(path: &str, authority: &str) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    // `:method: GET` and `:scheme: http` are in the static table, as are the names of the two others.
    [&[0x82, 0x86, 0x04][..], &text(path), &[0x01], &text(authority)].concat()
}

/// What a client says first. With `greedy` its windows are as large as can be.
fn hello(greedy: bool) -> Vec<u8> {
    if !greedy {
        return [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
    }
    let initial_window = [&4_u16.to_be_bytes()[..], &WINDOW_MAX.to_be_bytes()].concat();
    let more = (WINDOW_MAX - 65_535).to_be_bytes();
    [PREFACE, &frame(SETTINGS, 0, 0, &initial_window), &frame(WINDOW_UPDATE, 0, 0, &more)].concat()
}

/// A connection that has said hello.
pub(super) async fn connect(address: &str, greedy: bool) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(address.parse().unwrap()).await.unwrap();
    stream.write_all(&hello(greedy)).await.unwrap();
    stream
}

/// Listens so many times on one connection, and takes nothing of it: reads no byte when it is greedy, and reads
/// everything but opens no window when it isn't.
pub(super) async fn never_take(address: &str, path: &str, streams: u32, greedy: bool) -> TcpStream {
    let mut connection = connect(address, greedy).await;
    for number in 0..streams {
        let asking = frame(HEADERS, END_STREAM | END_HEADERS, 2 * number + 1, &get(path, address));
        connection.write_all(&asking).await.unwrap();
    }
    connection
}

/// How the server ended a connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// It said why: the code of its GOAWAY (RFC 9113, 7).
    Said(u32),
    Closed,
}

/// Writes `frames` again and again, `times` at most, until the server ends the connection; how it did, or none when it
/// took all. `make` gets the number of the turn.
pub(super) async fn flood(address: &str, times: u32, mut make: impl FnMut(u32) -> Vec<u8>) -> Option<End> {
    let (mut reading, mut writing) = connect(address, false).await.into_split();
    let ending = tokio::spawn(async move {
        loop {
            let mut head = [0; 9];
            if reading.read_exact(&mut head).await.is_err() {
                return End::Closed;
            }
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; usize::try_from(length).unwrap()];
            if reading.read_exact(&mut payload).await.is_err() {
                return End::Closed;
            }
            if head[3] == GOAWAY {
                return End::Said(u32::from_be_bytes(payload[4..8].try_into().unwrap()));
            }
        }
    });
    for turn in 0..times {
        let written = timeout(PATIENCE, writing.write_all(&make(turn))).await.expect("the flood is read");
        if written.is_err() || ending.is_finished() {
            return Some(timeout(PATIENCE, ending).await.expect("a connection that ended says so").unwrap());
        }
    }
    timeout(Duration::from_secs(2), ending).await.ok().map(Result::unwrap)
}
