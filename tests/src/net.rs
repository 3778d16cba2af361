//! One connection for one request, over TCP or TLS: HTTP/2 if a server agrees on that by TLS, as with a browser, and
//! HTTP/1.1 else.

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::{Request, Response, Uri, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
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
    let (stream, is_http2) = connect(&uri).await?;
    if is_http2 {
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        return Ok(sender.send_request(with_authority(request)?).await?);
    }
    let authority = uri.authority().context("the URL names no server")?;
    if !request.headers().contains_key(header::HOST) {
        request.headers_mut().insert(header::HOST, authority.as_str().parse()?);
    }
    // As a server wants it on the request line.
    *request.uri_mut() = uri.path_and_query().map_or("/", |path| path.as_str()).parse()?;

    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // Ends when the body is read or dropped. What goes wrong on the way, the body tells.
    tokio::spawn(connection);
    Ok(sender.send_request(request).await?)
}

/// HTTP/2 names the server in the URI, and whoever names another means that.
fn with_authority(mut request: Request<Full<Bytes>>) -> Result<Request<Full<Bytes>>> {
    if let Some(host) = request.headers_mut().remove(header::HOST) {
        let mut parts = request.uri().clone().into_parts();
        parts.authority = Some(host.to_str()?.parse()?);
        *request.uri_mut() = Uri::from_parts(parts)?;
    }
    Ok(request)
}

pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection to the server that a URI names, and whether HTTP/2 was agreed on.
pub(crate) async fn connect(uri: &Uri) -> Result<(Box<dyn Stream>, bool)> {
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
        return Ok((Box::new(tcp), false));
    }
    let name = ServerName::try_from(host.to_owned())?;
    let connecting = tls::connector(&["h2", "http/1.1"]).connect(name, tcp);
    let tls = connecting.await.with_context(|| format!("TLS with {host}:{port}"))?;
    let is_http2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
    Ok((Box::new(tls), is_http2))
}
