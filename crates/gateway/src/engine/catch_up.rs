//! A stream while it has to ask or to wait for something: in a task, writing chunk by chunk.

use std::io;
use std::net::TcpStream as StdStream;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use foghorn_http::stall::StallLimit;
use foghorn_http::takeover::{Open, Taken};

use super::inbox::{Adoptee, Inbox};
use super::outbox::{CHUNK_FRAME_BYTES, LAST_CHUNK, put_chunk};
use crate::connection::{Connection, Course, Level, Shared};
use crate::seat::Seat;
use crate::subscription::Subscription;

/// With less than this, what else is there is written along: the first words of a stream in one piece.
const LITTLE_BYTES: usize = 4 * 1024;
/// A client has said all it had to say; so much more is overlooked.
const READ_BYTES: usize = 64 * 1024;

/// A stream that a reactor can't serve for now.
pub(super) struct Returned {
    pub(super) socket: StdStream,
    pub(super) open: Open,
    pub(super) seat: Seat,
    pub(super) subscription: Arc<Subscription>,
    pub(super) courses: Vec<Course>,
    pub(super) told_stale: bool,
    pub(super) keep_alive: Duration,
    pub(super) write_stall: Duration,
}

/// Serves a stream from its request on.
pub(crate) async fn serve(connection: Connection, taken: Taken) {
    let Taken { head, socket, open } = taken;
    go_on(connection, socket, open, head).await;
}

/// Serves a stream that a reactor gave back.
pub(super) async fn resume(shared: Arc<Shared>, returned: Returned) {
    let Returned { socket, open, seat, subscription, courses, told_stale, keep_alive, write_stall } =
        returned;
    let connection = Connection::resumed(shared, subscription, courses, told_stale, keep_alive, seat);
    match TcpStream::from_std(socket) {
        Ok(socket) => go_on(connection, StallLimit::new(socket, write_stall), open, Bytes::new()).await,
        Err(error) => tracing::warn!(%error, "a stream's socket could not be taken back; it ends"),
    }
}

async fn go_on(mut connection: Connection, mut socket: StallLimit<TcpStream>, open: Open, first: Bytes) {
    let mut out = Vec::from(first);
    loop {
        let goes_on = tokio::select! {
            biased;
            goes_on = gather(&mut connection, &mut out) => goes_on,
            () = gone(&socket) => return,
        };
        if let Err(error) = socket.write_all(&out).await {
            if error.kind() == io::ErrorKind::TimedOut {
                connection.stalled();
            }
            return;
        }
        out = Vec::new();
        if !goes_on {
            // Both ways: the client should see the end and not a reset.
            _ = socket.shutdown().await.is_ok();
            return;
        }
        if connection.is_level()
            && let Some(reactor) = connection.shared().engine.reactor(connection.shared())
        {
            return hand_over(&reactor, connection, socket, open);
        }
    }
}

/// The next bytes, and what else is there without waiting. False when the stream is over.
async fn gather(connection: &mut Connection, out: &mut Vec<u8>) -> bool {
    let mut next = connection.next_chunk().await;
    loop {
        let Some(chunk) = next else {
            out.extend_from_slice(LAST_CHUNK);
            return false;
        };
        // Exactly: it may lie here for as long as the client takes nothing.
        out.reserve_exact(chunk.len() + CHUNK_FRAME_BYTES);
        put_chunk(out, |out| out.extend_from_slice(&chunk));
        if out.len() >= LITTLE_BYTES {
            return true;
        }
        match connection.next_chunk().now_or_never() {
            Some(more) => next = more,
            None => return true,
        }
    }
}

/// Returns once the client has gone away.
async fn gone(socket: &StallLimit<TcpStream>) {
    let socket = socket.get_ref();
    let (mut waste, mut overlooked) = ([0; 1024], 0);
    while socket.readable().await.is_ok() {
        match socket.try_read(&mut waste) {
            Ok(0) => return,
            Ok(read) => {
                overlooked += read;
                if overlooked > READ_BYTES {
                    return;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

fn hand_over(reactor: &Inbox, connection: Connection, socket: StallLimit<TcpStream>, open: Open) {
    let write_stall = socket.limit();
    let Some(level) = connection.into_level() else { return };
    let Level { seat, subscription, courses, told_stale, keep_alive, membership } = level;
    match socket.into_inner().into_std() {
        Ok(socket) => reactor.adopt(Adoptee {
            socket,
            open,
            seat,
            subscription,
            courses,
            told_stale,
            keep_alive,
            write_stall,
            membership,
        }),
        Err(error) => tracing::warn!(%error, "a stream's socket could not be handed over; it ends"),
    }
}
