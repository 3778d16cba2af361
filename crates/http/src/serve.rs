//! The accept loop.

use std::convert::Infallible;
use std::future::{pending, poll_fn};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Version};
use hyper::body::Incoming;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::Handler;
use crate::stall::StallLimit;
use crate::takeover::{Open, Places, Take, Taken, Takeover, head};

/// How long a peer may take nothing of an answer that waits for it: it holds memory while it waits. Proxies
/// are no more patient, nginx's `send_timeout` is 60 s too. A socket that is taken over has the limit of
/// whoever takes it.
pub const WRITE_STALL: Duration = Duration::from_secs(60);

/// A peer that says nothing for so long is asked whether it is still there, and how often until it is given
/// up: half-open connections (a machine that vanished, a NAT that forgot) are found within two minutes.
const PROBE_AFTER: Duration = Duration::from_secs(60);
const PROBE_EVERY: Duration = Duration::from_secs(15);
const PROBES: u32 = 4;

/// What one listener bears.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Most connections at a time; more wait in the kernel's queue until one ends.
    pub connections: usize,
    /// How long a request's head may take (hyper enforces it only because it gets a timer).
    pub head_deadline: Duration,
    /// Bytes hyper may buffer of a request's head.
    pub head_bytes: usize,
    /// How long a peer may take nothing of what is written to it before its connection is reset.
    pub write_stall: Duration,
}

impl Default for Limits {
    /// 100,000 connections, 10 s, 16 KiB, 60 s.
    fn default() -> Self {
        Limits {
            connections: 100_000,
            head_deadline: Duration::from_secs(10),
            head_bytes: 16 * 1024,
            write_stall: WRITE_STALL,
        }
    }
}

/// Serves until `stop` turns true, then finishes the requests under way (streams end by themselves,
/// their service lets them go) and returns.
pub async fn serve(
    listener: TcpListener,
    handler: Arc<dyn Handler>,
    limits: Limits,
    mut stop: watch::Receiver<bool>,
) {
    let (places, mut on_close) = Places::new();
    loop {
        if places.open() >= limits.connections {
            // Paced by whoever leaves.
            tokio::select! {
                _ = on_close.changed() => continue,
                () = stopped(&mut stop) => break,
            }
        }
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((socket, peer)) => {
                    let socket = prepared(socket, limits, peer);
                    tokio::spawn(connection(socket, places.take(), peer, handler.clone(), stop.clone(), limits));
                }
                Err(error) => accept_failed(&error).await,
            },
            () = stopped(&mut stop) => break,
        }
    }
    drop(listener);
    while places.open() > 0 {
        if on_close.changed().await.is_err() {
            break;
        }
    }
}

/// A socket whose peer has to be there and to take what is written to it.
fn prepared(socket: TcpStream, limits: Limits, peer: SocketAddr) -> StallLimit<TcpStream> {
    let keep_alive =
        TcpKeepalive::new().with_time(PROBE_AFTER).with_interval(PROBE_EVERY).with_retries(PROBES);
    let options = SockRef::from(&socket);
    // An event is small and must go at once.
    let prepared = options
        .set_tcp_nodelay(true)
        .and_then(|()| options.set_tcp_keepalive(&keep_alive))
        // Longer than a peer that is there may take nothing: what that is called is decided here.
        .and_then(|()| options.set_tcp_user_timeout(Some(limits.write_stall * 3 / 2)));
    if let Err(error) = prepared {
        tracing::debug!(%error, %peer, "could not set a socket's options");
    }
    StallLimit::new(socket, limits.write_stall)
}

async fn connection(
    socket: StallLimit<TcpStream>,
    open: Open,
    peer: SocketAddr,
    handler: Arc<dyn Handler>,
    mut stop: watch::Receiver<bool>,
    limits: Limits,
) {
    // Filled by the service, within a poll of hyper's connection, and looked at after each.
    let taking: Arc<Mutex<Option<(Bytes, Take)>>> = Arc::default();
    let service = {
        let taking = taking.clone();
        service_fn(move |request: Request<Incoming>| {
            let (handler, taking) = (handler.clone(), taking.clone());
            async move {
                let chunked = request.version() == Version::HTTP_11;
                let response = handler.handle(request, peer).await;
                let takeover = response.extensions().get::<Takeover>().filter(|_| chunked);
                if let Some(take) = takeover.and_then(Takeover::take) {
                    *taking.lock().unwrap_or_else(PoisonError::into_inner) =
                        Some((head(response.status(), response.headers()), take));
                    // hyper hears no answer: it is dropped.
                    pending::<()>().await;
                }
                Ok::<_, Infallible>(response)
            }
        })
    };
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_deadline)
        .max_buf_size(limits.head_bytes.max(8192))
        .serve_connection(TokioIo::new(socket), service);
    let mut stopping = false;
    let ended = loop {
        let served = poll_fn(|cx| match Pin::new(&mut connection).poll(cx) {
            Poll::Ready(ended) => Poll::Ready(Err(ended)),
            Poll::Pending => {
                let taken = taking.lock().unwrap_or_else(PoisonError::into_inner).take();
                taken.map_or(Poll::Pending, |taken| Poll::Ready(Ok(taken)))
            }
        });
        tokio::select! {
            served = served => match served {
                Err(ended) => break ended,
                Ok((head, take)) => {
                    let socket = connection.into_parts().io.into_inner();
                    // Whoever sent this request without having taken the answer before it loses both.
                    if !socket.waits() {
                        take(Taken { head, socket, open }).await;
                    }
                    return;
                }
            },
            () = stopped(&mut stop), if !stopping => {
                stopping = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
        }
    };
    if let Err(error) = ended {
        // hyper says what it was doing, its source what went wrong.
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        tracing::debug!(%error, cause, %peer, "connection ended");
    }
}

/// Returns once `stop` is true, or nobody is left who could say so.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ended = stop.wait_for(|stop| *stop).await.is_err();
}

/// Out of descriptors, most likely: the loop must neither spin nor stop.
async fn accept_failed(error: &std::io::Error) {
    tracing::warn!(%error, "could not accept a connection; trying again in 100 ms");
    tokio::time::sleep(Duration::from_millis(100)).await;
}

#[cfg(test)]
mod tests;
