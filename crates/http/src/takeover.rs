//! Responses that leave hyper.
//!
//! An HTTP/1.1 connection that hyper serves costs some 15 KB while it waits, and a stream waits nearly all the
//! time. So a handler may answer with a [`Takeover`] beside its body: over HTTP/1.1 whoever made it gets the
//! socket, with the response's head still to be written; over anything else the body is sent as usual.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use tokio::net::TcpStream;

use crate::connections::Open;
use crate::stall::StallLimit;

pub(crate) type Take = Box<dyn FnOnce(Taken) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send>;

/// What is to be done with the socket instead of sending the body. An extension of the response.
#[derive(Clone)]
pub struct Takeover(Arc<Mutex<Option<Take>>>);

impl Takeover {
    /// Has `take` called with the socket. What it returns runs in the task of the connection.
    pub fn new<F: Future<Output = ()> + Send + 'static>(
        take: impl FnOnce(Taken) -> F + Send + 'static,
    ) -> Self {
        let take: Take = Box::new(move |taken| Box::pin(take(taken)));
        Takeover(Arc::new(Mutex::new(Some(take))))
    }

    pub(crate) fn take(&self) -> Option<Take> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A socket after its request was read.
pub struct Taken {
    /// What is to be written first: the status line and the headers, for a chunked body (RFC 9112, 7.1).
    pub head: Bytes,
    /// Its peer has to take what is written to it.
    pub socket: StallLimit<TcpStream>,
    /// To be kept while the socket is open.
    pub open: Open,
}

/// The head of a response whose body is chunked and whose connection ends with it.
pub(crate) fn head(status: StatusCode, headers: &HeaderMap) -> Bytes {
    let mut head = Vec::with_capacity(256);
    head.extend_from_slice(b"HTTP/1.1 ");
    head.extend_from_slice(status.as_str().as_bytes());
    head.push(b' ');
    head.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    for (name, value) in headers {
        head.extend_from_slice(b"\r\n");
        head.extend_from_slice(name.as_str().as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
    }
    head.extend_from_slice(b"\r\ndate: ");
    head.extend_from_slice(httpdate::fmt_http_date(std::time::SystemTime::now()).as_bytes());
    head.extend_from_slice(b"\r\ntransfer-encoding: chunked\r\n\r\n");
    head.into()
}
