//! Listeners, all in one thread: a load of few wake-ups, and of one core.

mod content;
mod http1;
mod http2;
mod wire;

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use hdrhistogram::Histogram;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use self::wire::{Room, Wire};
use super::asks::Asks;
use super::variant::placed;
use crate::client::bench::latency::{histogram, record};
use crate::client::bench::publisher::nanos;
use crate::client::bench::scan::{Seen, Stamp};

/// Streams that are being opened at a time.
const OPENING: usize = 100;
/// How long the next of them may take.
const OPEN_DEADLINE: Duration = Duration::from_secs(30);
/// Most events whose last listener is looked for.
const LASTS_MAX: usize = 1 << 20;
/// Bytes read at a time.
const BUFFER_BYTES: usize = 256 * 1024;

struct Connection {
    socket: TcpStream,
    wire: Wire,
    /// The first of its listeners.
    first: usize,
}

struct Listener {
    live: bool,
    /// The first channel that it hears.
    first: usize,
    /// The number of the event that comes next, in each of its channels.
    next: Vec<u64>,
}

/// Everything that was heard since [`Audience::forget`].
#[derive(Debug, Clone)]
pub(in crate::client::bench) struct Heard {
    pub(in crate::client::bench) deliveries: u64,
    /// Deliveries that were not of the event that was next, or of none that was asked for.
    pub(in crate::client::bench) disordered: u64,
    /// Reads that had something: about as many as the server's writes.
    pub(in crate::client::bench) reads: u64,
    /// From when an event was due to its receipt, in microseconds.
    pub(in crate::client::bench) latencies: Histogram<u64>,
    /// Of each event of the first channel, by its number: from when it was due until the last listener had it, in
    /// nanoseconds. 0 of those that were forgotten.
    lasts: Vec<u64>,
}

/// Listeners of one server.
pub(in crate::client::bench) struct Audience {
    poll: Poll,
    connections: Vec<Connection>,
    listeners: Vec<Listener>,
    began: Instant,
    live: usize,
    heard: Heard,
    buffer: Vec<u8>,
    room: Room,
}

impl Audience {
    /// Opens so many streams and waits until all are live. Stamps count from `began`.
    pub(in crate::client::bench) fn open(
        server: SocketAddr,
        listeners: usize,
        began: Instant,
    ) -> anyhow::Result<Self> {
        Audience::open_with(server, &Asks::default(), listeners, began)
    }

    /// The same, with listeners that ask for something.
    pub(in crate::client::bench) fn open_with(
        server: SocketAddr,
        asks: &Asks,
        listeners: usize,
        began: Instant,
    ) -> anyhow::Result<Self> {
        let mut audience = Audience {
            poll: Poll::new()?,
            connections: Vec::new(),
            listeners: Vec::with_capacity(listeners),
            began,
            live: 0,
            heard: Heard::nothing()?,
            buffer: vec![0; BUFFER_BYTES],
            room: Room::new(),
        };
        while audience.listeners.len() < listeners {
            let left = listeners - audience.listeners.len();
            audience.connect(server, asks, left.min(asks.variant.h2.map_or(1, usize::from)))?;
            // At the server's pace.
            audience.until_live(audience.listeners.len().saturating_sub(OPENING))?;
        }
        audience.until_live(listeners)?;
        Ok(audience)
    }

    /// Opens a connection with so many listeners.
    fn connect(&mut self, server: SocketAddr, asks: &Asks, listeners: usize) -> anyhow::Result<()> {
        let first = self.listeners.len();
        for listener in first..first + listeners {
            let channels = asks.variant.heard_by(listener);
            self.listeners.push(Listener {
                live: false,
                first: channels.start,
                next: vec![0; channels.len()],
            });
        }
        let socket = std::net::TcpStream::connect(server).context("can't connect")?;
        let wire = Wire::begin(&socket, asks, first, listeners)?;
        socket.set_nonblocking(true)?;
        let mut socket = TcpStream::from_std(socket);
        let token = Token(self.connections.len());
        self.poll.registry().register(&mut socket, token, Interest::READABLE)?;
        self.connections.push(Connection { socket, wire, first });
        self.take(token.0, 0)
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
        self.hear_deliveries(events * self.listeners.len(), patience)
    }

    /// Waits until so many more deliveries are heard, whoever hears them; if they don't come, for so long.
    pub(in crate::client::bench) fn hear_deliveries(
        &mut self,
        deliveries: usize,
        patience: Duration,
    ) -> anyhow::Result<()> {
        let target = self.heard.deliveries + deliveries as u64;
        let deadline = Instant::now() + patience;
        while self.heard.deliveries < target && self.read(deadline)? {}
        Ok(())
    }

    /// Begins to count anew.
    pub(in crate::client::bench) fn forget(&mut self) {
        let Heard { deliveries, disordered, reads, latencies, lasts } = &mut self.heard;
        (*deliveries, *disordered, *reads) = (0, 0, 0);
        latencies.reset();
        lasts.fill(0);
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

    fn read_all(&mut self, connection: usize) -> anyhow::Result<()> {
        loop {
            let count = match self.connections[connection].socket.read(&mut self.buffer) {
                Ok(0) => bail!("the server ended a stream"),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            self.heard.reads += 1;
            self.take(connection, count)?;
            if count < self.buffer.len() {
                return Ok(());
            }
        }
    }

    /// Takes so many bytes of the buffer as what has come on a connection.
    fn take(&mut self, connection: usize, count: usize) -> anyhow::Result<()> {
        let Audience { connections, listeners, live, heard, buffer, room, began, .. } = self;
        let Connection { socket, wire, first } = &mut connections[connection];
        let now = nanos(began.elapsed());
        let replies = wire.feed(&buffer[..count], room, |at, seen| {
            let listener = &mut listeners[*first + at];
            match seen {
                Seen::Live => *live += usize::from(!std::mem::replace(&mut listener.live, true)),
                Seen::Reset => {}
                Seen::Event(stamp) => heard.hear(listener, stamp, now),
            }
        })?;
        // A few bytes now and then: a socket that nothing was written to takes them whole.
        if !replies.is_empty() {
            socket.write_all(&replies).context("can't answer the server")?;
        }
        Ok(())
    }
}

impl Heard {
    fn nothing() -> anyhow::Result<Self> {
        Ok(Heard { deliveries: 0, disordered: 0, reads: 0, latencies: histogram()?, lasts: Vec::new() })
    }

    /// The median time, over events of the first channel, until the last listener had one; in milliseconds.
    pub(super) fn last_ms(&self) -> f64 {
        let mut lasts: Vec<u64> = self.lasts.iter().copied().filter(|last| *last > 0).collect();
        lasts.sort_unstable();
        lasts.get(lasts.len() / 2).map_or(0.0, |nanos| Duration::from_nanos(*nanos).as_secs_f64() * 1000.0)
    }

    fn hear(&mut self, listener: &mut Listener, Stamp { seq, sent }: Stamp, now: u64) {
        let (channel, number) = placed(seq);
        let next = channel.checked_sub(listener.first).and_then(|at| listener.next.get_mut(at));
        let Some(next) = next else {
            self.disordered += 1;
            return;
        };
        self.disordered += u64::from(number != *next);
        *next = number + 1;
        self.deliveries += 1;
        let took = now.saturating_sub(sent);
        record(&mut self.latencies, Duration::from_nanos(took));
        if channel == 0
            && let Some(number) = usize::try_from(number).ok().filter(|number| *number < LASTS_MAX)
        {
            if self.lasts.len() <= number {
                self.lasts.resize(number + 1, 0);
            }
            self.lasts[number] = self.lasts[number].max(took);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::bench::sweep::variant::{UNASKED, place};

    #[test]
    fn what_a_listener_hears_is_held_against_what_is_next_in_its_channels() {
        let mut heard = Heard::nothing().unwrap();
        let mut listener = Listener { live: true, first: 0, next: vec![0; 2] };
        let mut hear = |seq| {
            heard.hear(&mut listener, Stamp { seq, sent: 0 }, 0);
            (heard.deliveries, heard.disordered)
        };
        // Of two channels, the second's may come first.
        for (at, number) in [1, 0, 2, 3].into_iter().enumerate() {
            assert_eq!(hear(place(number, 2).1), (at as u64 + 1, 0));
        }
        assert_eq!(hear(place(8, 2).1), (5, 1), "two are missing before it");
        assert_eq!(hear(UNASKED), (5, 2), "nobody asked for it");
        // The last of two listeners counts.
        let mut heard = Heard::nothing().unwrap();
        for took in [3_000_000, 7_000_000] {
            let mut listener = Listener { live: true, first: 0, next: vec![0] };
            heard.hear(&mut listener, Stamp { seq: 0, sent: 1_000_000 }, 1_000_000 + took);
        }
        assert!((heard.last_ms() - 7.0).abs() < 0.001, "{}", heard.last_ms());
    }
}
