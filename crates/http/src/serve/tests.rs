use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::*;

/// A body without an end; what is sent on its channel is that it is dropped.
struct Endless(mpsc::Sender<()>);

impl Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[b'x'; 64 * 1024])))))
    }
}

impl Drop for Endless {
    fn drop(&mut self) {
        self.0.try_send(()).unwrap();
    }
}

struct Endlessly(mpsc::Sender<()>);

impl Handler for Endlessly {
    fn handle(
        &self,
        _: Request<Incoming>,
        _: SocketAddr,
    ) -> Pin<Box<dyn Future<Output = crate::Response> + Send + '_>> {
        let body = Endless(self.0.clone());
        Box::pin(async move { Response::new(body.boxed_unsync()) })
    }
}

#[tokio::test]
async fn an_answer_that_nobody_reads_is_let_go_and_its_connection_reset() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (dropped, mut on_drop) = mpsc::channel(8);
    let (_stop, stopped) = watch::channel(false);
    let limits = Limits { write_stall: Duration::from_millis(200), ..Limits::default() };
    tokio::spawn(serve(listener, Arc::new(Endlessly(dropped)), limits, stopped));

    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    timeout(Duration::from_secs(20), on_drop.recv()).await.expect("the body is still held").unwrap();
    let mut taken = vec![0; 1 << 20];
    let end = loop {
        match timeout(Duration::from_secs(20), socket.read(&mut taken)).await.unwrap() {
            Ok(0) => panic!("an answer cut off looks like a whole one, or the kernel still holds it"),
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(end.kind(), std::io::ErrorKind::ConnectionReset);
}
