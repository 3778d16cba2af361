//! One connection over HTTP/2 for many requests: after TLS, or on a bare socket without asking.

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{Method, Request, Uri};
use http_body_util::Full;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;

use crate::http::Reply;
use crate::sse::SseClient;
use crate::{PATIENCE, net};

/// Bytes that the client takes of each stream while nobody reads it.
pub const WINDOW: u32 = 65_535;

/// A connection. Ends with its value and the streams on it.
#[derive(Debug)]
pub struct Http2 {
    base: String,
    sender: SendRequest<Full<Bytes>>,
}

impl Http2 {
    /// Connects to `https://127.0.0.1:20017`, or to `http://…`, where the server has to take HTTP/2 right away.
    pub async fn connect(base: &str) -> Result<Self> {
        let uri: Uri = base.parse()?;
        let (stream, agreed) = net::connect(&uri).await?;
        anyhow::ensure!(agreed || uri.scheme_str() == Some("http"), "{base} agreed on no HTTP/2");
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(WINDOW)
            // Only a stream's own window holds it up.
            .initial_connection_window_size(1 << 30)
            .handshake(TokioIo::new(stream))
            .await?;
        tokio::spawn(connection);
        Ok(Self { base: base.to_owned(), sender })
    }

    /// A stream of it, whatever the status of the answer is.
    pub async fn listen(&self, path: &str, headers: &[(&str, &str)]) -> Result<SseClient> {
        let request = self.request(Method::GET, path, headers, None)?;
        Ok(SseClient::of(self.send(request).await?, headers))
    }

    /// `GET path`
    pub async fn get(&self, path: &str) -> Result<Reply> {
        self.ask(Method::GET, path, &[], None).await
    }

    /// `POST path` with `body` as JSON.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Reply> {
        self.ask(Method::POST, path, &[("content-type", "application/json")], Some(body)).await
    }

    /// Any request.
    pub async fn ask(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Reply> {
        let request = self.request(method, path, headers, body)?;
        Reply::read(self.send(request).await?).await.with_context(|| path.to_owned())
    }

    /// Whether the server has ended it, or is about to.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Request<Full<Bytes>>> {
        let mut builder = Request::builder().method(method).uri(format!("{}{path}", self.base));
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        Ok(builder.body(Full::new(body.map_or_else(Bytes::new, |json| json.to_string().into())))?)
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Result<http::Response<hyper::body::Incoming>> {
        let what = format!("{} {}", request.method(), request.uri());
        let mut sender = self.sender.clone();
        let answer = tokio::time::timeout(PATIENCE, sender.send_request(request)).await;
        answer.with_context(|| format!("{what}: no answer within {PATIENCE:?}"))?.with_context(|| what)
    }
}
