//! Listeners, all in one thread: what they cost must not show beside the server.

use std::io::{ErrorKind, Read as _, Write as _};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use hdrhistogram::Histogram;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use super::server::Server;
use crate::client::bench::latency::record;
use crate::client::bench::publisher::nanos;
use crate::client::bench::scan::{Scanner, Seen, Stamp};

const REQUEST: &[u8] = b"GET /api/events?channels=bench HTTP/1.1\r\nHost: localhost\r\n\r\n";

struct Listener {
    socket: TcpStream,
    scanner: Scanner,
    live: bool,
    /// The number of the event that comes next.
    next: u64,
}

/// Everything that was heard since [`Audience::forget`].
pub(super) struct Heard {
    pub(super) deliveries: u64,
    pub(super) missing: u64,
    pub(super) disordered: u64,
    /// Milliseconds from publish to receipt: median, 99th percentile, the longest.
    pub(super) latency: [f64; 3],
}

/// Listeners of one server.
pub(super) struct Audience {
    poll: Poll,
    events: Events,
    listeners: Vec<Listener>,
    began: Instant,
    live: usize,
    deliveries: u64,
    disordered: u64,
    latencies: Histogram<u64>,
    buffer: Vec<u8>,
}

impl Audience {
    /// Opens so many streams and waits until all are live.
    pub(super) fn open(server: &Server, connections: usize, began: Instant) -> anyhow::Result<Self> {
        let mut audience = Audience {
            poll: Poll::new()?,
            events: Events::with_capacity(1024),
            listeners: Vec::with_capacity(connections),
            began,
            live: 0,
            deliveries: 0,
            disordered: 0,
            latencies: Histogram::new(3)?,
            buffer: vec![0; 256 * 1024],
        };
        for number in 0..connections {
            let socket = std::net::TcpStream::connect(server.address).context("can't connect")?;
            (&socket).write_all(REQUEST)?;
            socket.set_nonblocking(true)?;
            let mut socket = TcpStream::from_std(socket);
            audience.poll.registry().register(&mut socket, Token(number), Interest::READABLE)?;
            audience.listeners.push(Listener { socket, scanner: Scanner::default(), live: false, next: 0 });
            // At the server's pace.
            while audience.live + 100 < number {
                audience.read(Instant::now() + Duration::from_secs(30))?;
            }
        }
        while audience.live < connections {
            audience.read(Instant::now() + Duration::from_secs(30))?;
        }
        Ok(audience)
    }

    /// Waits until everybody has heard so many more events.
    pub(super) fn hear(&mut self, events: usize, patience: Duration) -> anyhow::Result<()> {
        let target = self.deliveries + (events * self.listeners.len()) as u64;
        let deadline = Instant::now() + patience;
        while self.deliveries < target {
            if !self.read(deadline)? {
                // What is missing is told in the end.
                return Ok(());
            }
        }
        Ok(())
    }

    /// Begins to count anew.
    pub(super) fn forget(&mut self) {
        (self.deliveries, self.disordered) = (0, 0);
        self.latencies.reset();
    }

    /// What was heard of so many events.
    pub(super) fn heard(&self, events: usize) -> anyhow::Result<Heard> {
        let owed = (events * self.listeners.len()) as u64;
        let millis = |micros: u64| micros as f64 / 1000.0;
        let at = |percentile| millis(self.latencies.value_at_percentile(percentile));
        Ok(Heard {
            deliveries: self.deliveries,
            missing: owed.saturating_sub(self.deliveries),
            disordered: self.disordered,
            latency: [at(50.0), at(99.0), millis(self.latencies.max())],
        })
    }

    /// Reads whatever comes next. False when nothing comes until `deadline`.
    fn read(&mut self, deadline: Instant) -> anyhow::Result<bool> {
        match self.poll.poll(&mut self.events, Some(deadline.saturating_duration_since(Instant::now()))) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(true),
            Err(error) => return Err(error.into()),
        }
        if self.events.is_empty() {
            return Ok(false);
        }
        for event in &self.events {
            let listener = &mut self.listeners[event.token().0];
            loop {
                let count = match listener.socket.read(&mut self.buffer) {
                    Ok(0) => bail!("the server ended a stream"),
                    Ok(count) => count,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error.into()),
                };
                let now = nanos(self.began.elapsed());
                listener.scanner.feed(&self.buffer[..count], |seen| match seen {
                    Seen::Live => self.live += usize::from(!std::mem::replace(&mut listener.live, true)),
                    Seen::Reset => {}
                    Seen::Event(Stamp { seq, sent }) => {
                        self.disordered += u64::from(seq != listener.next);
                        listener.next = seq + 1;
                        self.deliveries += 1;
                        record(&mut self.latencies, Duration::from_nanos(now.saturating_sub(sent)));
                    }
                });
                if count < self.buffer.len() {
                    break;
                }
            }
        }
        Ok(true)
    }
}
