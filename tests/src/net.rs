//! One HTTP/1.1 connection for one request, over TCP or TLS.

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::{Request, Response, Uri, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::{PATIENCE, tls};

/// Sends `request`, whose URI is absolute; gives the answer's head, its body still to come.
/// The connection ends with the body.
pub(crate) async fn send(request: Request<Full<Bytes>>) -> Result<Response<Incoming>> {
    let what = format!("{} {}", request.method(), request.uri());
    let answer = tokio::time::timeout(PATIENCE, exchange(request)).await;
    answer.with_context(|| format!("{what}: no answer within {PATIENCE:?}"))?.with_context(|| what)
}

async fn exchange(mut request: Request<Full<Bytes>>) -> Result<Response<Incoming>> {
    let uri = request.uri().clone();
    let authority = uri.authority().context("the URL names no server")?;
    if !request.headers().contains_key(header::HOST) {
        request.headers_mut().insert(header::HOST, authority.as_str().parse()?);
    }
    // As a server wants it on the request line.
    *request.uri_mut() = uri.path_and_query().map_or("/", |path| path.as_str()).parse()?;

    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(connect(&uri).await?)).await?;
    // Ends when the body is read or dropped. What goes wrong on the way, the body tells.
    tokio::spawn(connection);
    Ok(sender.send_request(request).await?)
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

async fn connect(uri: &Uri) -> Result<Box<dyn Stream>> {
    let host = uri.host().context("the URL names no host")?;
    let secure = match uri.scheme_str() {
        Some("http") => false,
        Some("https") => true,
        other => bail!("the URL's scheme is {other:?}, not http or https"),
    };
    let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let tcp =
        TcpStream::connect((host, port)).await.with_context(|| format!("connecting to {host}:{port}"))?;
    tcp.set_nodelay(true)?;
    if !secure {
        return Ok(Box::new(tcp));
    }
    let name = ServerName::try_from(host.to_owned())?;
    let tls = tls::connector().connect(name, tcp).await.with_context(|| format!("TLS with {host}:{port}"))?;
    Ok(Box::new(tls))
}
