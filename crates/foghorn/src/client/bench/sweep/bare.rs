//! The bare loop: sockets, one buffer, and `send()`. It has none of a server's duties; it is what a server
//! can come near to and not get past.

use std::collections::HashMap;
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
    /// The channel that it hears, none until it asked, and how far into its log it has been sent.
    hears: Option<usize>,
    sent: usize,
    asked: Vec<u8>,
}

/// What was published on a channel.
#[derive(Default)]
struct Channel {
    log: Vec<u8>,
    /// Who hears it.
    peers: Vec<usize>,
}

#[derive(Default)]
struct Loop {
    peers: Vec<Peer>,
    channels: Vec<Channel>,
    names: HashMap<Vec<u8>, usize>,
    /// The peer whose turn it is in the round.
    next: usize,
}

/// Serves until it is killed. Whoever sends `GET …?channels=<name> …` listens; who sends `PUBLISH <name> <data>`
/// publishes.
pub(super) fn serve(sweeps: bool) -> anyhow::Result<()> {
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(1024);
    let mut listener = TcpListener::bind(([127, 0, 0, 1], 0).into())?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let address = listener.local_addr()?;
    eprintln!("{{\"message\":\"listening\",\"service\":\"http\",\"address\":\"{address}\"}}");
    let mut all = Loop::default();
    let mut level = true;
    loop {
        match poll.poll(&mut events, (!level).then_some(Duration::ZERO)) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error).context("can't wait"),
        }
        for event in &events {
            if event.token() == LISTENER {
                accept(&listener, &poll, &mut all.peers)?;
            } else {
                level &= !all.hear(event.token().0, sweeps)?;
            }
        }
        if !level && all.send_slice() {
            level = all.is_level();
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
        peers.push(Peer { socket, hears: None, sent: 0, asked: Vec::new() });
    }
}

impl Loop {
    /// Reads what a peer asks. Whether something was published that isn't sent to everybody yet.
    fn hear(&mut self, number: usize, sweeps: bool) -> anyhow::Result<bool> {
        let mut bytes = [0; 64 * 1024];
        let peer = &mut self.peers[number];
        while let Ok(count @ 1..) = peer.socket.read(&mut bytes) {
            peer.asked.extend_from_slice(&bytes[..count]);
        }
        let mut asked = std::mem::take(&mut peer.asked);
        let mut open = false;
        if asked.starts_with(b"GET ") {
            if asked.ends_with(b"\r\n\r\n") {
                self.listen(number, &asked)?;
                asked.clear();
            }
        } else {
            let mut published = Vec::new();
            let mut done = 0;
            while let Some(end) = memchr::memchr(b'\n', &asked[done..]) {
                published.push(self.publish(&asked[done..done + end]));
                done += end + 1;
            }
            asked.drain(..done);
            // Before anything is sent, as servers do that keep events first: who waits for the answer sleeps, and listeners
            // that sleep meanwhile need not be woken, which is a good part of what a send costs.
            self.peers[number].socket.write_all(&vec![b'k'; published.len()])?;
            if sweeps {
                open = !published.is_empty();
            } else {
                published.into_iter().for_each(|(channel, end)| self.send_to_each(channel, end));
            }
        }
        self.peers[number].asked = asked;
        Ok(open)
    }

    fn channel(&mut self, name: &[u8]) -> usize {
        if let Some(number) = self.names.get(name) {
            return *number;
        }
        self.names.insert(name.to_owned(), self.channels.len());
        self.channels.push(Channel::default());
        self.channels.len() - 1
    }

    fn listen(&mut self, number: usize, request: &[u8]) -> anyhow::Result<()> {
        let begin = memchr::memmem::find(request, b"channels=").context("no channel")? + b"channels=".len();
        let name = request[begin..].split(|byte| *byte == b' ').next().unwrap_or_default();
        let channel = self.channel(name);
        self.channels[channel].peers.push(number);
        let peer = &mut self.peers[number];
        (peer.hears, peer.sent) = (Some(channel), self.channels[channel].log.len());
        Ok(peer.socket.write_all(HEAD)?)
    }

    /// The channel of an event, and the end of its log by then.
    fn publish(&mut self, line: &[u8]) -> (usize, usize) {
        let line = line.strip_prefix(b"PUBLISH ").unwrap_or(line);
        let (name, data) = line.split_at(memchr::memchr(b' ', line).unwrap_or(line.len()));
        let channel = self.channel(name);
        let log = &mut self.channels[channel].log;
        log.extend_from_slice(b"id: 1AceW-K2hNAA\ndata:");
        log.extend_from_slice(data);
        log.extend_from_slice(b"\n\n");
        (channel, log.len())
    }

    /// An event to each who hears it, before the next is looked at.
    fn send_to_each(&mut self, channel: usize, end: usize) {
        let Channel { log, peers } = &self.channels[channel];
        for peer in peers {
            self.peers[*peer].send(&log[..end]);
        }
    }

    /// Sends to some what they lack, in one piece each. True at the end of a round.
    fn send_slice(&mut self) -> bool {
        let Loop { peers, channels, next, .. } = self;
        let end = (*next + SLICE).min(peers.len());
        for peer in &mut peers[*next..end] {
            if let Some(channel) = peer.hears {
                peer.send(&channels[channel].log);
            }
        }
        *next = if end == peers.len() { 0 } else { end };
        *next == 0
    }

    fn is_level(&self) -> bool {
        self.peers
            .iter()
            .all(|peer| peer.hears.is_none_or(|channel| peer.sent == self.channels[channel].log.len()))
    }
}

impl Peer {
    fn send(&mut self, log: &[u8]) {
        if self.sent < log.len()
            && let Ok(count) = self.socket.write(&log[self.sent..])
        {
            self.sent += count;
        }
    }
}
