//! Listeners, all in one thread: a load of few wake-ups, and of one core.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use hdrhistogram::Histogram;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use crate::client::bench::latency::{histogram, record};
use crate::client::bench::publisher::nanos;
use crate::client::bench::scan::{Scanner, Seen, Stamp};

const REQUEST: &[u8] = b"GET /api/events?channels=bench HTTP/1.1\r\nHost: localhost\r\n\
    Accept: text/event-stream\r\n\r\n";
/// Streams that are being opened at a time.
const OPENING: usize = 100;
/// How long the next of them may take.
const OPEN_DEADLINE: Duration = Duration::from_secs(30);
/// Bytes read at a time.
const BUFFER_BYTES: usize = 256 * 1024;

struct Listener {
    socket: TcpStream,
    scanner: Scanner,
    live: bool,
    /// The number of the event that comes next.
    next: u64,
}

/// Everything that was heard since [`Audience::forget`].
#[derive(Debug, Clone)]
pub(in crate::client::bench) struct Heard {
    pub(in crate::client::bench) deliveries: u64,
    /// Deliveries that were not of the event that was next.
    pub(in crate::client::bench) disordered: u64,
    /// Reads that had something: about as many as the server's writes.
    pub(in crate::client::bench) reads: u64,
    /// From when an event was due to its receipt, in microseconds.
    pub(in crate::client::bench) latencies: Histogram<u64>,
}

/// Listeners of one server.
pub(in crate::client::bench) struct Audience {
    poll: Poll,
    listeners: Vec<Listener>,
    began: Instant,
    live: usize,
    heard: Heard,
    buffer: Vec<u8>,
}

impl Audience {
    /// Opens so many streams and waits until all are live. Stamps count from `began`.
    pub(in crate::client::bench) fn open(
        server: SocketAddr,
        connections: usize,
        began: Instant,
    ) -> anyhow::Result<Self> {
        let mut audience = Audience {
            poll: Poll::new()?,
            listeners: Vec::with_capacity(connections),
            began,
            live: 0,
            heard: Heard { deliveries: 0, disordered: 0, reads: 0, latencies: histogram()? },
            buffer: vec![0; BUFFER_BYTES],
        };
        for number in 0..connections {
            let socket = std::net::TcpStream::connect(server).context("can't connect")?;
            (&socket).write_all(REQUEST)?;
            socket.set_nonblocking(true)?;
            let mut socket = TcpStream::from_std(socket);
            audience.poll.registry().register(&mut socket, Token(number), Interest::READABLE)?;
            audience.listeners.push(Listener { socket, scanner: Scanner::default(), live: false, next: 0 });
            // At the server's pace.
            audience.until_live((number + 1).saturating_sub(OPENING))?;
        }
        audience.until_live(connections)?;
        Ok(audience)
    }

    fn until_live(&mut self, count: usize) -> anyhow::Result<()> {
        while self.live < count {
            let goes_on = self.read(Instant::now() + OPEN_DEADLINE)?;
            ensure!(goes_on, "no stream began within {OPEN_DEADLINE:?}; {} are open", self.live);
        }
        Ok(())
    }

    /// Waits until everybody has heard so many more events; if they don't come, for so long.
    pub(in crate::client::bench) fn hear(&mut self, events: usize, patience: Duration) -> anyhow::Result<()> {
        let target = self.heard.deliveries + (events * self.listeners.len()) as u64;
        let deadline = Instant::now() + patience;
        while self.heard.deliveries < target && self.read(deadline)? {}
        Ok(())
    }

    /// Begins to count anew.
    pub(in crate::client::bench) fn forget(&mut self) {
        let Heard { deliveries, disordered, reads, latencies } = &mut self.heard;
        (*deliveries, *disordered, *reads) = (0, 0, 0);
        latencies.reset();
    }

    /// What was heard until now.
    pub(in crate::client::bench) fn heard(&self) -> Heard {
        self.heard.clone()
    }

    /// Reads whatever comes next. False when nothing has come until `deadline`.
    pub(in crate::client::bench) fn read(&mut self, deadline: Instant) -> anyhow::Result<bool> {
        let mut events = Events::with_capacity(1024);
        match self.poll.poll(&mut events, Some(deadline.saturating_duration_since(Instant::now()))) {
            Ok(()) if events.is_empty() => return Ok(false),
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(true),
            Err(error) => return Err(error.into()),
        }
        for event in &events {
            self.read_all(event.token().0)?;
        }
        Ok(true)
    }

    fn read_all(&mut self, listener: usize) -> anyhow::Result<()> {
        let Audience { listeners, live, heard, buffer, began, .. } = self;
        let Listener { socket, scanner, live: is_live, next } = &mut listeners[listener];
        loop {
            let count = match socket.read(buffer) {
                Ok(0) => bail!("the server ended a stream"),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            let now = nanos(began.elapsed());
            heard.reads += 1;
            scanner.feed(&buffer[..count], |seen| match seen {
                Seen::Live => *live += usize::from(!std::mem::replace(is_live, true)),
                Seen::Reset => {}
                Seen::Event(Stamp { seq, sent }) => {
                    heard.disordered += u64::from(seq != *next);
                    *next = seq + 1;
                    heard.deliveries += 1;
                    record(&mut heard.latencies, Duration::from_nanos(now.saturating_sub(sent)));
                }
            });
            if count < buffer.len() {
                return Ok(());
            }
        }
    }
}
