//! A stream while it has to ask or to wait for something: in a task, writing chunk by chunk.

use std::io;
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt as _;
use socket2::SockRef;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;

use foghorn_http::connections::Open;
use foghorn_http::stall::{Abort as _, StallLimit};
use foghorn_http::takeover::Taken;

use super::READ_BYTES;
use super::inbox::{Handed, Inbox};
use super::outbox::{CHUNK_FRAME_BYTES, LAST_CHUNK, put_chunk};
use crate::connection::{Connection, Shared};

/// With less than this, what else is there is written along: the first words of a stream in one piece.
const LITTLE_BYTES: usize = 4 * 1024;

/// Serves a stream from its request on.
pub(crate) async fn serve(connection: Connection, taken: Taken) {
    let Taken { head, socket, open } = taken;
    // With a stream's limits in place of an answer's.
    let (socket, slow_time) = (socket.into_inner(), connection.shared().config.slow_time);
    // The kernel's is for who isn't there any more, and longer: what somebody who takes nothing is called is decided here.
    if let Err(error) = SockRef::from(&socket).set_tcp_user_timeout(Some(slow_time * 3 / 2)) {
        tracing::debug!(%error, "could not set a socket's time limit");
    }
    let socket = StallLimit::new(socket, slow_time);
    go_on(connection, socket, open, head).await;
}

/// Serves a stream that a reactor gave back.
pub(super) async fn resume(shared: Arc<Shared>, handed: Handed) {
    let Handed { stream, socket, open } = handed;
    let slow_time = shared.config.slow_time;
    let connection = Connection::resumed(shared, stream);
    match TcpStream::from_std(socket) {
        Ok(socket) => go_on(connection, StallLimit::new(socket, slow_time), open, Bytes::new()).await,
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
        while !out.is_empty() {
            match write(&mut connection, &mut socket, &out, goes_on).await {
                Ok(next) => out = next,
                Err(()) => return,
            }
        }
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

/// Writes what a stream was given last, and makes the changes that are asked for meanwhile, if it `goes_on`. What is
/// to be written next because of them; an error when the stream is over.
async fn write(
    connection: &mut Connection,
    socket: &mut StallLimit<TcpStream>,
    out: &[u8],
    goes_on: bool,
) -> Result<Vec<u8>, ()> {
    // Also one that takes a little from time to time has an end.
    let lag_time = connection.shared().config.lag_time;
    let mut next = None;
    let written = {
        let mut writing = pin!(timeout(lag_time, socket.write_all(out)));
        loop {
            tokio::select! {
                biased;
                written = &mut writing => break written,
                // Where it goes on has to be said once: for as long as it waits it is there.
                said = connection.changed_meanwhile(), if goes_on => if !said.is_empty() {
                    next = Some(said);
                },
            }
        }
    };
    match written {
        Ok(Ok(())) => {
            let mut out = Vec::new();
            if let Some(said) = next {
                put_chunk(&mut out, |out| out.extend_from_slice(&connection.coded(said)));
            }
            Ok(out)
        }
        Ok(Err(error)) if error.kind() != io::ErrorKind::TimedOut => Err(()),
        given_up => {
            connection.stalled();
            if given_up.is_err() {
                socket.get_ref().abort();
            }
            Err(())
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
    let Some((stream, membership)) = connection.into_stream() else { return };
    match socket.into_inner().into_std() {
        Ok(socket) => reactor.adopt(Handed { stream, socket, open }, membership),
        Err(error) => tracing::warn!(%error, "a stream's socket could not be handed over; it ends"),
    }
}
