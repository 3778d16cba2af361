//! The accept loop.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::Handler;
use crate::stall::StallLimit;

/// How long a peer may take nothing of what waits for it. One limit for answers and for event streams:
/// both hold memory while they wait, and neither loses by it. A listener is a position, so one that was cut
/// off (a phone asleep, say, once the kernel's buffers are full) comes back with its cursor and goes on
/// where it was; and proxies are no more patient, nginx's `send_timeout` is 60 s too.
pub const WRITE_STALL: Duration = Duration::from_secs(60);

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

/// Listens on `address`, and says in the log where (`listening`, with the service's name): with port 0
/// that is how one knows.
pub async fn bind(service: &'static str, address: SocketAddr) -> std::io::Result<TcpListener> {
    let listener = TcpListener::bind(address).await.map_err(|error| {
        let hint = match error.kind() {
            std::io::ErrorKind::AddrInUse => {
                "; another process listens there, choose another port or stop it"
            }
            std::io::ErrorKind::PermissionDenied => "; ports below 1024 need privileges",
            _ => "",
        };
        std::io::Error::new(error.kind(), format!("can't listen on {address} for {service}: {error}{hint}"))
    })?;
    tracing::info!(service, address = %listener.local_addr()?, "listening");
    Ok(listener)
}

/// Serves until `stop` turns true, then finishes the requests under way (streams end by themselves,
/// their service lets them go) and returns.
pub async fn serve(
    listener: TcpListener,
    handler: Arc<dyn Handler>,
    limits: Limits,
    mut stop: watch::Receiver<bool>,
) {
    let open = Arc::new(AtomicUsize::new(0));
    let (closed, mut on_close) = watch::channel(());
    let closed = Arc::new(closed);
    loop {
        if open.load(Ordering::Acquire) >= limits.connections {
            // Paced by whoever leaves.
            tokio::select! {
                _ = on_close.changed() => continue,
                () = stopped(&mut stop) => break,
            }
        }
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((socket, peer)) => {
                    open.fetch_add(1, Ordering::AcqRel);
                    let (open, closed) = (open.clone(), closed.clone());
                    let connection = connection(socket, peer, handler.clone(), limits, stop.clone());
                    tokio::spawn(async move {
                        connection.await;
                        open.fetch_sub(1, Ordering::AcqRel);
                        closed.send_replace(());
                    });
                }
                Err(error) => accept_failed(&error).await,
            },
            () = stopped(&mut stop) => break,
        }
    }
    drop(listener);
    while open.load(Ordering::Acquire) > 0 {
        if on_close.changed().await.is_err() {
            break;
        }
    }
}

async fn connection(
    socket: TcpStream,
    peer: SocketAddr,
    handler: Arc<dyn Handler>,
    limits: Limits,
    mut stop: watch::Receiver<bool>,
) {
    // An event is small and must go at once.
    if let Err(error) = socket.set_nodelay(true) {
        tracing::debug!(%error, %peer, "could not set TCP_NODELAY");
    }
    let service = service_fn(move |request| {
        let handler = handler.clone();
        async move { Ok::<_, std::convert::Infallible>(handler.handle(request, peer).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_deadline)
        .max_buf_size(limits.head_bytes.max(8192))
        .serve_connection(TokioIo::new(StallLimit::new(socket, limits.write_stall)), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stopped(&mut stop) => {
            connection.as_mut().graceful_shutdown();
            connection.await
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
