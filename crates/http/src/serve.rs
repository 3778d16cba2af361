//! The accept loop, and how a connection begins: with a word from a proxy or without, with TLS or without, over
//! HTTP/1.1 or HTTP/2.

mod http1;
mod http2;
mod proxied;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::Version;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::Handler;
use crate::client::Network;
use crate::connections::{Connections, Open, Places};
use crate::stall::StallLimit;
use crate::tls::{H2, Identity, follow};
use crate::transport::Transport;

/// How long a peer may take nothing of an answer that waits for it: it holds memory while it waits. Proxies
/// are no more patient, nginx's `send_timeout` is 60 s too. A socket that is taken over has the limit of
/// whoever takes it.
pub const WRITE_STALL: Duration = Duration::from_secs(60);

/// Browsers keep a connection for the next page for some minutes; making another costs them little.
const IDLE: Duration = Duration::from_secs(60);

/// A peer that says nothing for so long is asked whether it is still there, and how often until it is given
/// up: half-open connections (a machine that vanished, a NAT that forgot) are found within two minutes.
const PROBE_AFTER: Duration = Duration::from_secs(60);
const PROBE_EVERY: Duration = Duration::from_secs(15);
const PROBES: u32 = 4;

/// What one listener bears.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections at a time; more wait in the kernel's queue until one ends.
    pub connections: Connections,
    /// How long a request's head may take, and TLS before it (hyper enforces it only because it gets a timer).
    pub head_deadline: Duration,
    /// Bytes hyper may buffer of a request's head.
    pub head_bytes: usize,
    /// How long a peer may take nothing of what is written to it before its connection is reset; over HTTP/2
    /// also of one answer before that is.
    pub write_stall: Duration,
    /// How long a connection over HTTP/2 may be without a request until it is ended. (Over HTTP/1.1 it is the
    /// next head's deadline.)
    pub idle: Duration,
}

/// What comes on a connection before HTTP. By default nothing does.
#[derive(Debug, Clone, Default)]
pub struct Preamble {
    /// From these networks each connection begins with a header of the PROXY protocol, which is believed; from
    /// others none does.
    pub proxied: Arc<[Network]>,
    /// With an identity all that is spoken is TLS.
    pub tls: Option<Arc<Identity>>,
}

/// Who asks, and who answers.
#[derive(Clone)]
struct Peer {
    address: SocketAddr,
    handler: Arc<dyn Handler>,
}

impl Default for Limits {
    /// 100,000 connections, 10 s, 16 KiB, 60 s, 60 s.
    fn default() -> Self {
        Limits {
            connections: Connections::up_to(100_000),
            head_deadline: Duration::from_secs(10),
            head_bytes: 16 * 1024,
            write_stall: WRITE_STALL,
            idle: IDLE,
        }
    }
}

/// Serves until `stop` turns true, then finishes the requests under way (streams end by themselves,
/// their service lets them go) and returns.
pub async fn serve(
    listener: TcpListener,
    handler: Arc<dyn Handler>,
    limits: Limits,
    preamble: Preamble,
    stop: watch::Receiver<bool>,
) {
    tokio::select! {
        never = follow(preamble.tls.as_deref()) => match never {},
        () = accept(listener, handler, limits, preamble.clone(), stop) => {}
    }
}

async fn accept(
    listener: TcpListener,
    handler: Arc<dyn Handler>,
    limits: Limits,
    preamble: Preamble,
    mut stop: watch::Receiver<bool>,
) {
    let (places, limits) = (Places::new(limits.connections.clone()), Arc::new(limits));
    loop {
        let next = async {
            // Paced by whoever leaves.
            places.room().await;
            listener.accept().await
        };
        tokio::select! {
            accepted = next => match accepted {
                Ok((socket, address)) => {
                    let socket = prepared(socket, &limits, address);
                    let peer = Peer { address, handler: handler.clone() };
                    let (open, preamble) = (places.take(), preamble.clone());
                    tokio::spawn(connection(socket, open, peer, preamble, limits.clone(), stop.clone()));
                }
                Err(error) => accept_failed(&error).await,
            },
            () = stopped(&mut stop) => break,
        }
    }
    drop(listener);
    places.emptied().await;
}

/// A socket whose peer has to be there and to take what is written to it.
fn prepared(socket: TcpStream, limits: &Limits, peer: SocketAddr) -> StallLimit<TcpStream> {
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
    mut peer: Peer,
    preamble: Preamble,
    limits: Arc<Limits>,
    mut stop: watch::Receiver<bool>,
) {
    let begun = tokio::select! {
        begun = tokio::time::timeout(limits.head_deadline, begin(socket, &mut peer.address, preamble)) => begun,
        () = stopped(&mut stop) => return,
    };
    let address = peer.address;
    let (transport, version) = match begun {
        Ok(Ok(Some(begun))) => begun,
        // It went away without a word, as those do who look whether somebody is here.
        Ok(Ok(None)) => return,
        Ok(Err(error)) => return tracing::debug!(%error, peer = %address, "no connection came about"),
        Err(_) => return tracing::debug!(peer = %address, "no connection came about in time"),
    };
    let ended = match version {
        Version::HTTP_2 => {
            let _open = open;
            // In a box, so that tasks of HTTP/1.1 don't have room for it.
            Box::pin(http2::serve(transport, peer, &limits, stop)).await
        }
        _ => http1::serve(transport, open, peer, &limits, stop).await,
    };
    if let Err(error) = ended {
        // hyper says what it was doing, its source what went wrong.
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        tracing::debug!(%error, cause, peer = %address, "connection ended");
    }
}

/// What is spoken on a connection, by ALPN or by its first bytes. None when nothing is. Whom it is from, a proxy may
/// say before.
async fn begin(
    mut socket: StallLimit<TcpStream>,
    from: &mut SocketAddr,
    Preamble { proxied, tls }: Preamble,
) -> std::io::Result<Option<(Transport, Version)>> {
    if proxied.iter().any(|network| network.has(from.ip())) {
        *from = proxied::read(&mut socket).await?.unwrap_or(*from);
    }
    let (transport, is_http2) = match tls {
        None => {
            let is_http2 = http2::is_spoken(socket.get_ref()).await?;
            (Transport::Plain(socket), is_http2)
        }
        Some(identity) => {
            if socket.get_ref().peek(&mut [0]).await? == 0 {
                return Ok(None);
            }
            let stream = identity.acceptor().accept(socket).await?;
            let is_http2 = stream.get_ref().1.alpn_protocol() == Some(H2);
            (Transport::Tls(Box::new(stream)), is_http2)
        }
    };
    Ok(Some((transport, if is_http2 { Version::HTTP_2 } else { Version::HTTP_11 })))
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
