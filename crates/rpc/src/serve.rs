//! The gRPC server of every service that has one: accept loop with a bound, TLS, reflection, health, drain.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

pub use foghorn_http::connections::Connections;
use foghorn_http::connections::{Open, Places};
use foghorn_http::tls::{Identity, follow};
use futures::stream::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::{Connected, TcpConnectInfo};
use tonic_health::ServingStatus;

/// Most connections that a service's gRPC listener should have.
pub const CONNECTIONS_MAX: usize = 4096;
/// Most calls at a time on one connection.
const STREAMS_MAX: u32 = 1024;
/// Bytes of headers that a call may have.
const HEADER_BYTES_MAX: u32 = 16 * 1024;
/// Bytes that a connection may send before they are read: the bound on what waits unread.
const WINDOW_BYTES: u32 = 1 << 20;
/// How often a silent connection is asked whether it is alive, and how long it may take to answer.
const PING_EVERY: Duration = Duration::from_secs(10);
const PING_DEADLINE: Duration = Duration::from_secs(5);
/// How long a client may take to agree on TLS.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);

/// How long calls under way may take to end once it is time to stop; then they are cut off.
pub const DRAIN_DEADLINE: Duration = Duration::from_secs(20);

/// Serves `routes` (made with [`Routes::new`] and `add_service`), with gRPC health and reflection (v1)
/// beside them, over so many `connections` at a time, with `tls` or without, until `stop` turns true; then who watches health hears
/// NOT_SERVING, new connections and calls are refused, and those under way have [`DRAIN_DEADLINE`] to end.
/// `services` are the full names that health answers for, such as `foghorn.v1.Publisher`.
pub async fn serve(
    listener: TcpListener,
    routes: Routes,
    services: &[&str],
    connections: Connections,
    tls: Option<Arc<Identity>>,
    mut stop: watch::Receiver<bool>,
) -> io::Result<()> {
    let (mut health, health_service) = tonic_health::server::health_reporter();
    for service in services {
        health.set_service_status(service, ServingStatus::Serving).await;
    }
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(crate::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .map_err(io::Error::other)?;
    let routes = routes.add_service(health_service).add_service(reflection);

    let mut stopped = stop.clone();
    let serving = Server::builder()
        .max_concurrent_streams(STREAMS_MAX)
        .http2_max_header_list_size(HEADER_BYTES_MAX)
        .initial_connection_window_size(WINDOW_BYTES)
        .initial_stream_window_size(WINDOW_BYTES)
        .http2_keepalive_interval(Some(PING_EVERY))
        .http2_keepalive_timeout(Some(PING_DEADLINE))
        .add_routes(routes)
        .serve_with_incoming_shutdown(Incoming::new(listener, connections, tls.clone()), async move {
            let _ended = stopped.wait_for(|stop| *stop).await.is_err();
        });
    let cut_off = async {
        let _ended = stop.wait_for(|stop| *stop).await.is_err();
        for service in services.iter().chain(&[""]) {
            health.set_service_status(service, ServingStatus::NotServing).await;
            // Whoever watches hears that, and then the end: a watch would hold its connection open.
            health.clear_service_status(service).await;
        }
        tokio::time::sleep(DRAIN_DEADLINE).await;
    };
    tokio::select! {
        never = follow(tls.as_deref()) => match never {},
        served = serving => served.map_err(io::Error::other),
        () = cut_off => {
            tracing::warn!("gRPC calls under way did not end within {DRAIN_DEADLINE:?}; cutting them off");
            Ok(())
        }
    }
}

/// Connections as they come, those of TLS once hands are shaken. tonic would end the whole server at the first error
/// of accept; this waits and goes on.
struct Incoming {
    ready: mpsc::Receiver<Connection>,
    /// Ends with the server.
    _accepting: JoinSet<()>,
}

impl Incoming {
    fn new(listener: TcpListener, connections: Connections, tls: Option<Arc<Identity>>) -> Self {
        let (sender, ready) = mpsc::channel(1);
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, Places::new(connections), tls, sender));
        Incoming { ready, _accepting: accepting }
    }
}

impl Stream for Incoming {
    type Item = Result<Connection, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.ready.poll_recv(cx).map(|connection| connection.map(Ok))
    }
}

/// For ever, or until nobody takes connections any more.
async fn accept(
    listener: TcpListener,
    places: Arc<Places>,
    tls: Option<Arc<Identity>>,
    ready: mpsc::Sender<Connection>,
) {
    // As many as there are places.
    let mut shaking = JoinSet::new();
    loop {
        places.room().await;
        let (socket, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            // Out of descriptors, most likely: the loop must neither spin nor stop.
            Err(error) => {
                tracing::warn!(%error, "could not accept a gRPC connection; trying again in 100 ms");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        if let Err(error) = socket.set_nodelay(true) {
            tracing::debug!(%error, %peer, "could not set TCP_NODELAY");
        }
        while shaking.try_join_next().is_some() {}
        let open = places.take();
        let Some(identity) = &tls else {
            if ready.send(Connection { socket: Either::Left(socket), _open: open }).await.is_err() {
                return;
            }
            continue;
        };
        let (acceptor, ready) = (identity.acceptor(), ready.clone());
        shaking.spawn(async move {
            let error = match timeout(HANDSHAKE_DEADLINE, acceptor.accept(socket)).await {
                Ok(Ok(socket)) => {
                    let socket = Either::Right(Box::new(socket));
                    // Else the server is gone, and the connection with it.
                    let _gone = ready.send(Connection { socket, _open: open }).await.is_err();
                    return;
                }
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("not within {HANDSHAKE_DEADLINE:?}"),
            };
            tracing::debug!(error, %peer, "a gRPC connection's TLS could not be agreed on");
        });
    }
}

/// A connection that holds its place until it ends.
struct Connection {
    socket: Either<TcpStream, Box<TlsStream<TcpStream>>>,
    _open: Open,
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        match &self.socket {
            Either::Left(socket) => socket.connect_info(),
            Either::Right(socket) => socket.get_ref().0.connect_info(),
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
