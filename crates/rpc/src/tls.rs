//! TLS to the event log's replicas.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};

use foghorn_http::tls::ClientFiles;
use futures::FutureExt;
use futures::future::BoxFuture;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tonic::codegen::Service;
use tonic::transport::Uri;

/// Connects to one replica, whatever URL it is asked for, and checks that it is who the configured URL names.
#[derive(Clone)]
pub(crate) struct TlsConnector {
    address: SocketAddr,
    name: ServerName<'static>,
    files: Arc<ClientFiles>,
}

impl TlsConnector {
    /// To `address`, which `uri` led to.
    pub(crate) fn new(address: SocketAddr, uri: &Uri, files: &Arc<ClientFiles>) -> Result<Self, String> {
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(host).map_err(|error| error.to_string())?;
        Ok(TlsConnector { address, name, files: files.clone() })
    }

    async fn connect(self) -> io::Result<TokioIo<TlsStream<TcpStream>>> {
        let config = self.files.config().map_err(io::Error::other)?;
        let socket = TcpStream::connect(self.address).await?;
        socket.set_nodelay(true)?;
        let stream = tokio_rustls::TlsConnector::from(config).connect(self.name, socket).await?;
        Ok(TokioIo::new(stream))
    }
}

impl Service<Uri> for TlsConnector {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = io::Error;
    type Future = BoxFuture<'static, Result<Self::Response, io::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), io::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        self.clone().connect().boxed()
    }
}
