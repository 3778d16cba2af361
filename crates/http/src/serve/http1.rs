//! HTTP/1.1: one request after another, and streams whose socket leaves hyper.

use std::convert::Infallible;
use std::future::{pending, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;

use bytes::Bytes;
use http::{Request, Version};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::watch;

use super::{Limits, Peer, stopped};
use crate::connections::Open;
use crate::takeover::{Take, Taken, Takeover, head};
use crate::transport::Transport;

/// Serves a connection until it ends, or is somebody else's.
pub(super) async fn serve(
    transport: Transport,
    open: Open,
    peer: Peer,
    limits: &Limits,
    mut stop: watch::Receiver<bool>,
) -> hyper::Result<()> {
    // Whoever takes over writes to a socket, and knows nothing of TLS.
    let can_leave = matches!(transport, Transport::Plain(_));
    // Filled by the service, within a poll of hyper's connection, and looked at after each.
    let taking: Arc<Mutex<Option<(Bytes, Take)>>> = Arc::default();
    let service = {
        let taking = taking.clone();
        service_fn(move |request: Request<Incoming>| {
            let (peer, taking) = (peer.clone(), taking.clone());
            async move {
                let chunked = request.version() == Version::HTTP_11;
                let response = peer.handler.handle(request, peer.address).await;
                let takeover = response.extensions().get::<Takeover>().filter(|_| chunked && can_leave);
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
        .serve_connection(TokioIo::new(transport), service);
    let mut stopping = false;
    loop {
        let served = poll_fn(|cx| match Pin::new(&mut connection).poll(cx) {
            Poll::Ready(ended) => Poll::Ready(Err(ended)),
            Poll::Pending => {
                let taken = taking.lock().unwrap_or_else(PoisonError::into_inner).take();
                taken.map_or(Poll::Pending, |taken| Poll::Ready(Ok(taken)))
            }
        });
        tokio::select! {
            served = served => match served {
                Err(ended) => return ended,
                Ok((head, take)) => {
                    // Whoever sent this request without having taken the answer before it loses both.
                    if let Transport::Plain(socket) = connection.into_parts().io.into_inner()
                        && !socket.waits()
                    {
                        take(Taken { head, socket, open }).await;
                    }
                    return Ok(());
                }
            },
            () = stopped(&mut stop), if !stopping => {
                stopping = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
        }
    }
}
