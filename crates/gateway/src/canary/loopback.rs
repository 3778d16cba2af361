//! A stream of the gateway's own, by a socket like any client's: the engine writes to one end, and an HTTP client reads
//! from the other.

use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::Request;
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use foghorn_http::connections::{Connections, Places};
use foghorn_http::stall::StallLimit;
use foghorn_http::takeover::Taken;

use crate::connection::Connection;
use crate::engine;

/// How long the beginning of the answer is waited for.
const OPENED_WITHIN: Duration = Duration::from_secs(5);
/// Strangers that may come to the port before the socket of ours does.
const STRANGERS_MAX: usize = 16;
/// What hyper says for clients, as far as it is needed.
const HEAD: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";

/// What a connection says, as its client reads it.
pub(super) struct Stream {
    body: Incoming,
    /// While it is there, so is the connection.
    _sender: SendRequest<Empty<Bytes>>,
    /// Both ends. They are over with this.
    _ends: JoinSet<()>,
}

impl Stream {
    /// More of it; none when it is over.
    pub(super) async fn next(&mut self) -> io::Result<Option<Bytes>> {
        let frame = self.body.frame().await.transpose().map_err(io::Error::other)?;
        Ok(frame.map(|frame| frame.into_data().unwrap_or_default()))
    }
}

/// Has the engine serve a connection, which may take nothing for so long.
pub(super) async fn open(connection: Connection, slow_time: Duration) -> io::Result<Stream> {
    let opening = timeout(OPENED_WITHIN, open_now(connection, slow_time)).await;
    opening.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn open_now(connection: Connection, slow_time: Duration) -> io::Result<Stream> {
    let (near, far) = pair().await?;
    let mut ends = JoinSet::new();
    ends.spawn(async move {
        // What it asks for is known; the engine overlooks it.
        if far.readable().await.is_ok() {
            let open = Places::new(Connections::up_to(1)).take();
            let socket = StallLimit::new(far, slow_time);
            engine::serve(connection, Taken { head: Bytes::from_static(HEAD), socket, open }).await;
        }
    });
    let (mut sender, read) = handshake(TokioIo::new(near)).await.map_err(io::Error::other)?;
    ends.spawn(async move {
        if let Err(error) = read.await {
            tracing::debug!(%error, "the canary's connection broke");
        }
    });
    let response = sender.send_request(Request::new(Empty::new())).await.map_err(io::Error::other)?;
    Ok(Stream { body: response.into_body(), _sender: sender, _ends: ends })
}

/// Two ends of one socket.
async fn pair() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let near = TcpStream::connect(listener.local_addr()?).await?;
    let own = near.local_addr()?;
    for _ in 0..STRANGERS_MAX {
        let (far, peer) = listener.accept().await?;
        if peer == own {
            return Ok((near, far));
        }
    }
    Err(io::Error::other("others connect to a port that is open for this process alone"))
}
