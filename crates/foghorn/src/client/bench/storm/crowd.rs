//! Clients that come back with a cursor, all in one thread.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use hdrhistogram::Histogram;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use super::CHANNEL;
use crate::client::bench::latency::{histogram, record};
use crate::client::bench::scan::{Scanner, Seen};

/// Bytes read at a time.
const BUFFER_BYTES: usize = 64 * 1024;
/// Connections that are begun between two looks at those there are.
const CONNECTS: usize = 64;
/// How long a stream for a cursor may take to begin.
const CURSOR_DEADLINE: Duration = Duration::from_secs(30);

/// What became of them.
pub(super) struct Storm {
    /// From the first that came until all were level.
    pub(super) took: Duration,
    /// From when each came until it was level, in microseconds.
    pub(super) each: Histogram<u64>,
    /// Events that nobody sent.
    pub(super) missing: u64,
    /// Events that were not the next.
    pub(super) disordered: u64,
}

struct Client {
    socket: TcpStream,
    scanner: Scanner,
    came: Instant,
    asked: bool,
    level: bool,
    heard: u64,
}

/// The clients that have come.
pub(super) struct Crowd {
    poll: Poll,
    clients: Vec<Client>,
    request: String,
    buffer: Vec<u8>,
    level: usize,
    storm: Storm,
}

/// The cursor of a stream that begins now.
pub(super) fn cursor(server: SocketAddr) -> anyhow::Result<String> {
    let mut socket = std::net::TcpStream::connect(server).context("can't connect")?;
    socket.set_read_timeout(Some(CURSOR_DEADLINE))?;
    socket.write_all(request("").as_bytes())?;
    let (mut scanner, mut live, mut buffer) = (Scanner::default(), false, vec![0; BUFFER_BYTES]);
    while !live {
        let count = socket.read(&mut buffer)?;
        ensure!(count > 0, "the server ended a stream");
        scanner.feed(&buffer[..count], |seen| live |= seen == Seen::Live);
    }
    Ok(String::from_utf8(scanner.cursor().to_vec())?)
}

fn request(headers: &str) -> String {
    format!("GET /api/events?channels={CHANNEL} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n")
}

impl Crowd {
    /// Has so many clients come, evenly over a time, each with this cursor and so many events behind, and waits
    /// until all of them are level.
    pub(super) fn come(
        server: SocketAddr,
        cursor: &str,
        clients: usize,
        within: Duration,
        behind: usize,
        patience: Duration,
    ) -> anyhow::Result<Storm> {
        let mut crowd = Crowd {
            poll: Poll::new()?,
            clients: Vec::with_capacity(clients),
            request: request(&format!("Last-Event-ID: {cursor}\r\n")),
            buffer: vec![0; BUFFER_BYTES],
            level: 0,
            storm: Storm { took: Duration::ZERO, each: histogram()?, missing: 0, disordered: 0 },
        };
        let begun = Instant::now();
        while crowd.level < clients && begun.elapsed() < within + patience {
            let passed = begun.elapsed().as_nanos().min(within.as_nanos());
            let due = clients as u128 * passed / within.as_nanos().max(1);
            let due = if within.is_zero() { clients } else { usize::try_from(due).unwrap_or(clients) };
            for _ in crowd.clients.len()..due.min(crowd.clients.len() + CONNECTS) {
                crowd.add(server)?;
            }
            crowd.read(Duration::from_millis(1))?;
        }
        crowd.storm.took = begun.elapsed();
        let heard: u64 = crowd.clients.iter().map(|client| client.heard).sum();
        crowd.storm.missing = ((clients * behind) as u64).saturating_sub(heard);
        ensure!(crowd.level == clients, "{} of {clients} are level after {patience:?}", crowd.level);
        Ok(crowd.storm)
    }

    fn add(&mut self, server: SocketAddr) -> anyhow::Result<()> {
        let mut socket = TcpStream::connect(server).context("can't connect")?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut socket, Token(self.clients.len()), interest)?;
        let scanner = Scanner::default();
        let came = Instant::now();
        self.clients.push(Client { socket, scanner, came, asked: false, level: false, heard: 0 });
        Ok(())
    }

    fn read(&mut self, limit: Duration) -> anyhow::Result<()> {
        let mut events = Events::with_capacity(1024);
        match self.poll.poll(&mut events, Some(limit)) {
            Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error.into()),
            _ => {}
        }
        for event in &events {
            if event.is_writable() {
                self.ask(event.token().0)?;
            }
            if event.is_readable() {
                self.read_all(event.token().0)?;
            }
        }
        Ok(())
    }

    fn ask(&mut self, number: usize) -> anyhow::Result<()> {
        let Client { socket, asked, .. } = &mut self.clients[number];
        if std::mem::replace(asked, true) {
            return Ok(());
        }
        if let Some(error) = socket.take_error()? {
            return Err(error).context("can't connect");
        }
        // An empty socket takes a request whole.
        Ok(socket.write_all(self.request.as_bytes())?)
    }

    fn read_all(&mut self, number: usize) -> anyhow::Result<()> {
        let Crowd { clients, buffer, level, storm, .. } = self;
        let Client { socket, scanner, came, level: is_level, heard, .. } = &mut clients[number];
        loop {
            let count = match socket.read(buffer) {
                Ok(0) => bail!(
                    "the server ended a stream; it refuses some where gateway.streams_burst is below --clients"
                ),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            scanner.feed(&buffer[..count], |seen| match seen {
                Seen::Event(stamp) => {
                    storm.disordered += u64::from(stamp.seq != *heard);
                    *heard += 1;
                }
                Seen::Reset => storm.disordered += 1,
                Seen::Live => {
                    if !std::mem::replace(is_level, true) {
                        *level += 1;
                        record(&mut storm.each, came.elapsed());
                    }
                }
            });
            if count < buffer.len() {
                return Ok(());
            }
        }
    }
}
