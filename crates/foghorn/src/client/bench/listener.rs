//! Listeners on bare sockets.

use std::cell::RefCell;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout};

use foghorn_bus::backoff::Backoff;

use super::body::Reader;
use super::door::{CONNECT_DEADLINE, Target};
use super::latency::{Latencies, record};
use super::oracle::Heard;
use super::publisher::nanos;
use super::scan::{Scanner, Seen};

/// Bytes read at a time.
const READ_BYTES: usize = 128 * 1024;
/// Connections being made at a time.
const CONNECTING_MAX: usize = 128;

thread_local! {
    /// Read into by one listener at a time, never across an await: ten thousand buffers would be a
    /// gigabyte.
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES]);
}

/// How far the listeners are.
#[derive(Debug, Default, Clone)]
pub(super) struct Live {
    /// How many have caught up.
    pub(super) count: usize,
    /// What the server said when it refused one for good.
    pub(super) refused: Option<String>,
}

/// What all listeners share.
pub(super) struct Audience {
    pub(super) latencies: Latencies,
    /// When the benchmark began.
    pub(super) epoch: Instant,
    pub(super) live: watch::Sender<Live>,
    /// Different events heard, over all listeners.
    pub(super) heard: AtomicU64,
    /// When the last of them was heard, in nanoseconds since the epoch.
    pub(super) last: AtomicU64,
    pub(super) resets: AtomicU64,
    pub(super) reconnects: AtomicU64,
    /// The latest trouble with a connection.
    pub(super) trouble: Mutex<Option<String>>,
    connecting: Semaphore,
}

impl Audience {
    pub(super) fn new(epoch: Instant) -> anyhow::Result<Self> {
        Ok(Audience {
            latencies: Latencies::new()?,
            epoch,
            live: watch::Sender::new(Live::default()),
            heard: AtomicU64::new(0),
            last: AtomicU64::new(0),
            resets: AtomicU64::new(0),
            reconnects: AtomicU64::new(0),
            trouble: Mutex::new(None),
            connecting: Semaphore::new(CONNECTING_MAX),
        })
    }
}

/// One listener of one channel.
pub(super) struct Listener {
    pub(super) index: usize,
    pub(super) target: Target,
    pub(super) channel: String,
    pub(super) audience: Arc<Audience>,
    /// What it heard; read by others when the listener has been stopped.
    pub(super) heard: Arc<Mutex<Heard>>,
}

impl Listener {
    /// Listens, and comes back with its cursor, until it is aborted.
    pub(super) async fn run(self) {
        let mut scanner = Scanner::default();
        let mut was_live = false;
        let mut backoff = Backoff::default();
        loop {
            let why = match self.stream(&mut scanner, &mut was_live, &mut backoff).await {
                Ok(()) => "the server ended the stream".to_owned(),
                Err(why) => why,
            };
            *self.audience.trouble.lock() = Some(why);
            self.audience.reconnects.fetch_add(1, Ordering::Relaxed);
            scanner.restart();
            backoff.wait().await;
        }
    }

    async fn stream(
        &self,
        scanner: &mut Scanner,
        was_live: &mut bool,
        backoff: &mut Backoff,
    ) -> Result<(), String> {
        let socket = self.open(scanner.cursor()).await?;
        let mut reader = Reader::default();
        loop {
            socket.readable().await.map_err(|error| error.to_string())?;
            let read = BUFFER.with_borrow_mut(|buffer| {
                let length = socket.try_read(buffer)?;
                let more = length > 0 && self.take(&buffer[..length], &mut reader, scanner, was_live)?;
                Ok(more)
            });
            match read {
                Ok(true) => {}
                Ok(false) => return reader.refusal().map_or(Ok(()), Err),
                Err(error) if would_block(&error) => continue,
                Err(error) => return Err(error.to_string()),
            }
            if let Some(refusal) = reader.refusal() {
                if refusal.starts_with('4') && !refusal.starts_with("429") {
                    self.audience.live.send_modify(|live| live.refused = Some(refusal.clone()));
                }
                return Err(refusal);
            }
            if *was_live {
                backoff.reset();
            }
        }
    }

    async fn open(&self, cursor: &[u8]) -> Result<TcpStream, String> {
        let Ok(_turn) = self.audience.connecting.acquire().await else {
            return Err("the benchmark is over".to_owned());
        };
        let Target { address, authority, path } = &self.target;
        let last_event_id = match std::str::from_utf8(cursor) {
            Ok(cursor) if !cursor.is_empty() => format!("Last-Event-ID: {cursor}\r\n"),
            _ => String::new(),
        };
        let request = format!(
            "GET {path}api/events?channels={} HTTP/1.1\r\nHost: {authority}\r\nAccept: text/event-stream\r\n{last_event_id}\r\n",
            self.channel
        );
        let opening = async {
            let mut socket = TcpStream::connect(address).await?;
            socket.set_nodelay(true)?;
            socket.write_all(request.as_bytes()).await?;
            Ok(socket)
        };
        match timeout(CONNECT_DEADLINE, opening).await {
            Ok(opened) => opened.map_err(|error: io::Error| format!("can't connect to {address}: {error}")),
            Err(_) => Err(format!("can't connect to {address} within {} s", CONNECT_DEADLINE.as_secs())),
        }
    }

    fn take(
        &self,
        bytes: &[u8],
        reader: &mut Reader,
        scanner: &mut Scanner,
        was_live: &mut bool,
    ) -> io::Result<bool> {
        let now = nanos(self.audience.epoch.elapsed());
        let mut heard = self.heard.lock();
        let before = heard.unique();
        let mut latencies = None;
        let more = reader.feed(bytes, |body| {
            scanner.feed(body, |seen| match seen {
                Seen::Event(stamp) => {
                    if heard.hear(stamp.seq) {
                        let latency = Duration::from_nanos(now.saturating_sub(stamp.sent));
                        record(
                            latencies.get_or_insert_with(|| self.audience.latencies.of(self.index)),
                            latency,
                        );
                    }
                }
                Seen::Live => {
                    if !std::mem::replace(was_live, true) {
                        self.audience.live.send_modify(|live| live.count += 1);
                    }
                }
                Seen::Reset => {
                    self.audience.resets.fetch_add(1, Ordering::Relaxed);
                }
            });
        });
        let fresh = heard.unique() - before;
        if fresh > 0 {
            self.audience.heard.fetch_add(fresh, Ordering::Relaxed);
            self.audience.last.fetch_max(now, Ordering::Relaxed);
        }
        more.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }
}

fn would_block(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}
