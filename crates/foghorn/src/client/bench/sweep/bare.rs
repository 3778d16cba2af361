//! The bare loop: sockets, one buffer, and `send()`. It has none of a server's duties; it is what a server
//! can come near to and not get past.

use std::io::{ErrorKind, Read as _, Write as _};
use std::time::Duration;

use anyhow::Context as _;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

const LISTENER: Token = Token(usize::MAX);
/// Listeners visited between two looks at what is published.
const SLICE: usize = 256;
const HEAD: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\nevent: stream-live\ndata: {}\n\n";

struct Peer {
    socket: TcpStream,
    /// How far into the log it has been sent; none until it asked to listen.
    sent: Option<usize>,
    asked: Vec<u8>,
}

/// Serves until it is killed. Whoever sends `GET` listens; who sends `PUBLISH <data>` publishes.
pub(super) fn serve(sweeps: bool) -> anyhow::Result<()> {
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(1024);
    let mut listener = TcpListener::bind(([127, 0, 0, 1], 0).into())?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let address = listener.local_addr()?;
    eprintln!("{{\"message\":\"listening\",\"service\":\"http\",\"address\":\"{address}\"}}");
    let (mut peers, mut log): (Vec<Peer>, Vec<u8>) = (Vec::new(), Vec::new());
    let (mut next, mut level) = (0, true);
    loop {
        match poll.poll(&mut events, (!level).then_some(Duration::ZERO)) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error).context("can't wait"),
        }
        for event in &events {
            if event.token() == LISTENER {
                accept(&listener, &poll, &mut peers)?;
            } else if hear(&mut peers[event.token().0], &mut log)? {
                level = false;
                // Each event to each, before the next is looked at.
                while !sweeps && !level {
                    level = send_slice(&mut peers, &log, &mut next);
                }
            }
        }
        if !level && send_slice(&mut peers, &log, &mut next) {
            level = peers.iter().all(|peer| peer.sent.is_none_or(|sent| sent == log.len()));
        }
    }
}

fn accept(listener: &TcpListener, poll: &Poll, peers: &mut Vec<Peer>) -> anyhow::Result<()> {
    loop {
        let mut socket = match listener.accept() {
            Ok((socket, _)) => socket,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        socket.set_nodelay(true)?;
        poll.registry().register(&mut socket, Token(peers.len()), Interest::READABLE)?;
        peers.push(Peer { socket, sent: None, asked: Vec::new() });
    }
}

/// Reads what a peer asks. Whether something was published.
fn hear(peer: &mut Peer, log: &mut Vec<u8>) -> anyhow::Result<bool> {
    let mut bytes = [0; 4096];
    while let Ok(count @ 1..) = peer.socket.read(&mut bytes) {
        peer.asked.extend_from_slice(&bytes[..count]);
    }
    if peer.sent.is_none() && peer.asked.starts_with(b"GET ") && peer.asked.ends_with(b"\r\n\r\n") {
        peer.socket.write_all(HEAD)?;
        peer.sent = Some(log.len());
        peer.asked = Vec::new();
        return Ok(false);
    }
    let Some(data) = peer.asked.strip_prefix(b"PUBLISH ").and_then(|rest| rest.strip_suffix(b"\n")) else {
        return Ok(false);
    };
    log.extend_from_slice(b"id: 1AceW-K2hNAA\ndata: ");
    log.extend_from_slice(data);
    log.extend_from_slice(b"\n\n");
    peer.asked.clear();
    peer.socket.write_all(b"k")?;
    Ok(true)
}

/// Sends to some what they lack, in one piece each. True at the end of a round.
fn send_slice(peers: &mut [Peer], log: &[u8], next: &mut usize) -> bool {
    let end = (*next + SLICE).min(peers.len());
    for peer in &mut peers[*next..end] {
        if let Some(sent) = peer.sent
            && sent < log.len()
            && let Ok(count) = peer.socket.write(&log[sent..])
        {
            peer.sent = Some(sent + count);
        }
    }
    *next = if end == peers.len() { 0 } else { end };
    *next == 0
}
