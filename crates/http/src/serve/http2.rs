//! HTTP/2: many requests at a time on one connection, each answered in a task of its own.
//!
//! What one connection may have the process hold or do has a bound, and every number here is one of them.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use http::{HeaderValue, Request, header};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::{Limits, PROBE_AFTER, Peer, stopped};
use crate::pace::{Pace, Paced};
use crate::transport::Transport;

/// Most requests at a time: the fifty streams of a page, all else that it fetches, and room. One more waits in
/// the client (SETTINGS_MAX_CONCURRENT_STREAMS); who opens it nevertheless has it refused.
const STREAMS: u32 = 256;
/// Bytes of one answer that are with h2 while the client's window for it or the socket is full. A client may
/// announce windows of 2 GiB and read nothing.
const SEND_BYTES: usize = 32 * 1024;
/// Bytes of request bodies that a client may send ahead of those who read them: of one, and of all of a
/// connection. A body of 1 MiB over 100 ms takes half a second with it.
const RECEIVE_BYTES: u32 = 256 * 1024;
const RECEIVE_BYTES_ALL: u32 = 512 * 1024;
/// Requests taken back before anybody has looked at them, at a time; one more ends the connection. A page that is
/// left at once takes back its fifty streams. Whoever sends requests only to take them back ("rapid reset")
/// would have us answer more than `STREAMS` at a time.
const UNSEEN_RESETS: usize = 64;
/// Streams that we had to reset because of what the client sent on them; one more ends the connection. None
/// is the client's right, but a response and a reset may cross.
const ERROR_RESETS: usize = 256;
/// How long an answer to a PING may take; it waits behind what is in the kernel's buffer.
const PONG_DEADLINE: Duration = Duration::from_secs(60);
/// What a client of HTTP/2 says first (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// So much of it nobody else says: `PRI` is no method.
const TELLING_BYTES: usize = 3;
/// How long to wait for a byte that an honest client had sent with the one before.
const BYTE_PAUSE: Duration = Duration::from_millis(10);

tokio::task_local! {
    /// Of the request whose task it is. hyper hands the request and the task that answers it to two who don't know of
    /// each other.
    static PACE: Arc<Pace>;
}

/// Whether a client on a bare socket speaks HTTP/2 right away ("prior knowledge"). Its first bytes stay in the
/// socket. Waits for them for as long as the caller does.
pub(super) async fn is_spoken(socket: &TcpStream) -> std::io::Result<bool> {
    let mut first = [0; TELLING_BYTES];
    loop {
        let length = socket.peek(&mut first).await?;
        if length == 0 || first[..length] != PREFACE[..length] {
            return Ok(false);
        }
        if length == TELLING_BYTES {
            return Ok(true);
        }
        tokio::time::sleep(BYTE_PAUSE).await;
    }
}

/// Serves a connection until it ends.
pub(super) async fn serve(
    transport: Transport,
    peer: Peer,
    limits: &Limits,
    mut stop: watch::Receiver<bool>,
) -> hyper::Result<()> {
    let service = service_fn(move |request: Request<Incoming>| {
        let peer = peer.clone();
        async move {
            let pace = PACE.try_with(Arc::clone).unwrap_or_else(|_| Arc::new(Pace::new()));
            let mut response = peer.handler.handle(with_host(request), peer.address).await;
            // Of HTTP/1 alone.
            response.headers_mut().remove(header::CONNECTION);
            Ok::<_, Infallible>(response.map(|body| Paced::new(body, pace)))
        }
    });
    let streams = Streams { limit: limits.write_stall, count: Arc::default() };
    let mut connection = pin!(
        http2::Builder::new(streams.clone())
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS)
            // Of all names and values with 32 bytes each, as HPACK has it unpacked. More is answered with 431, and
            // h2 derives from it how many CONTINUATION frames it reads before it ends the connection.
            .max_header_list_size(u32::try_from(limits.head_bytes).unwrap_or(u32::MAX))
            .max_send_buf_size(SEND_BYTES)
            .initial_stream_window_size(RECEIVE_BYTES)
            .initial_connection_window_size(RECEIVE_BYTES_ALL)
            .max_pending_accept_reset_streams(UNSEEN_RESETS)
            .max_local_error_reset_streams(ERROR_RESETS)
            // The kernel finds peers that are gone; this finds those whose kernel is all that is left, and
            // those behind a proxy that keeps its side open.
            .keep_alive_interval(PROBE_AFTER)
            .keep_alive_timeout(PONG_DEADLINE)
            .serve_connection(TokioIo::new(transport), service)
    );
    let (mut stopping, mut begun) = (false, 0);
    loop {
        tokio::select! {
            ended = connection.as_mut() => return ended,
            () = stopped(&mut stop), if !stopping => {}
            // Nothing was asked for meanwhile, not even a request's head that was begun.
            () = tokio::time::sleep(limits.idle) => {
                let last = std::mem::replace(&mut begun, streams.count.begun.load(Ordering::Relaxed));
                if begun != last || streams.count.open.load(Ordering::Relaxed) > 0 {
                    continue;
                }
                if stopping {
                    // Asked to go, and without an answer under way: it only keeps others from this place.
                    return Ok(());
                }
            }
        }
        stopping = true;
        connection.as_mut().graceful_shutdown();
    }
}

/// Names the server where HTTP/1 does, for whoever checks it. `:authority` counts, and not a `Host` beside it (RFC 9113,
/// 8.3.1).
fn with_host(mut request: Request<Incoming>) -> Request<Incoming> {
    let authority = request.uri().authority().map(|named| HeaderValue::from_str(named.as_str()));
    if let Some(Ok(host)) = authority {
        request.headers_mut().insert(header::HOST, host);
    }
    request
}

/// Runs the answers of a connection, each until it is sent, taken back, or not taken for too long.
#[derive(Debug, Clone)]
struct Streams {
    limit: Duration,
    count: Arc<Count>,
}

/// How many there are, and have been.
#[derive(Debug, Default)]
struct Count {
    open: AtomicUsize,
    begun: AtomicU64,
}

/// One of those that are open.
struct Counted(Arc<Count>);

impl Counted {
    fn new(count: &Arc<Count>) -> Self {
        count.open.fetch_add(1, Ordering::Relaxed);
        count.begun.fetch_add(1, Ordering::Relaxed);
        Counted(count.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Streams {
    fn execute(&self, answering: F) {
        let (limit, counted) = (self.limit, Counted::new(&self.count));
        let pace = Arc::new(Pace::new());
        tokio::spawn(PACE.scope(pace.clone(), async move {
            let _counted = counted;
            tokio::select! {
                () = answering => {}
                // h2 resets what is dropped before its end.
                () = pace.stalled(limit) => tracing::debug!(?limit, "a stream was not taken; it is reset"),
            }
        }));
    }
}
