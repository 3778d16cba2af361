//! A small web server, to have something to ask. It says what a handler makes of a request's head.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;

/// What a request gets: an answer as bytes, and, once somebody asks for it, the rest.
pub(super) struct Answer {
    pub(super) first: String,
    pub(super) rest: String,
}

/// A web server, which ends with the runtime of its test.
pub(super) struct Web {
    pub(super) address: SocketAddr,
    go_on: watch::Sender<bool>,
}

impl Web {
    pub(super) async fn serve(handler: impl Fn(&str) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (go_on, told) = watch::channel(false);
        let handler = Arc::new(handler);
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(answer(socket, Arc::clone(&handler), told.clone()));
            }
        });
        Self { address, go_on }
    }

    /// Lets every answer's rest go.
    pub(super) fn send_the_rest(&self) {
        self.go_on.send_replace(true);
    }
}

/// An answer that ends with its connection.
pub(super) fn head(status: u16, content_type: &str) -> String {
    format!("HTTP/1.1 {status} X\r\nContent-Type: {content_type}\r\nConnection: close\r\n\r\n")
}

async fn answer(
    mut socket: TcpStream,
    handler: Arc<impl Fn(&str) -> Answer>,
    mut told: watch::Receiver<bool>,
) {
    let mut request = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        let mut chunk = [0; 4096];
        let read = timeout(Duration::from_secs(10), socket.read(&mut chunk)).await;
        let Ok(Ok(length @ 1..)) = read else { return };
        request.extend_from_slice(&chunk[..length]);
    }
    let answer = handler(&String::from_utf8_lossy(&request));
    // Who has gone away needs no answer.
    socket.write_all(answer.first.as_bytes()).await.ok();
    if !answer.rest.is_empty() && timeout(Duration::from_secs(30), told.wait_for(|go| *go)).await.is_ok() {
        socket.write_all(answer.rest.as_bytes()).await.ok();
    }
}
