use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body, Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prometheus_client::registry::Registry;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::*;
use crate::connections;

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
    tokio::spawn(serve(listener, Arc::new(Endlessly(dropped)), limits, Preamble::default(), stopped));

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

/// A connection over HTTP/2 to a server with these limits that answers endlessly.
async fn over_http2(
    limits: Limits,
    dropped: mpsc::Sender<()>,
) -> (hyper::client::conn::http2::SendRequest<Full<Bytes>>, watch::Sender<bool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(serve(listener, Arc::new(Endlessly(dropped)), limits, Preamble::default(), stopped));
    let socket = TcpStream::connect(address).await.unwrap();
    let (sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(65_535)
        .handshake(TokioIo::new(socket))
        .await
        .unwrap();
    tokio::spawn(connection);
    (sender, stop)
}

fn asked() -> Request<Full<Bytes>> {
    Request::get("http://localhost/").body(Full::default()).unwrap()
}

#[tokio::test]
async fn over_http2_an_answer_that_is_not_taken_is_reset_and_those_beside_it_go_on() {
    let (dropped, mut on_drop) = mpsc::channel(8);
    let limits = Limits { write_stall: Duration::from_millis(500), ..Limits::default() };
    let (mut sender, _stop) = over_http2(limits, dropped).await;
    let mut forgotten = sender.send_request(asked()).await.unwrap().into_body();
    let mut read = sender.send_request(asked()).await.unwrap().into_body();
    let mut since_the_drop = 0;
    let going_on = async {
        let mut gone = false;
        while since_the_drop < 1 << 20 {
            let frame = read.frame().await.unwrap().expect("the one that is read goes on");
            gone = gone || on_drop.try_recv().is_ok();
            since_the_drop += if gone { frame.into_data().unwrap().len() } else { 0 };
        }
    };
    timeout(Duration::from_secs(20), going_on).await.expect("the other one is still held");
    let mut held = 0;
    let end = loop {
        match timeout(Duration::from_secs(20), forgotten.frame()).await.unwrap() {
            Some(Ok(frame)) => held += frame.into_data().unwrap().len(),
            Some(Err(error)) => break error,
            None => panic!("an answer cut off looks like a whole one"),
        }
    };
    assert_eq!(held, 65_535, "its window, and no more");
    assert!(format!("{end:?}").contains("CANCEL"), "{end:?}");
}

#[tokio::test]
async fn over_http2_a_connection_without_a_request_is_ended_and_one_with_a_stream_is_not() {
    let (dropped, _on_drop) = mpsc::channel(8);
    let limits = Limits { idle: Duration::from_millis(100), ..Limits::default() };
    let (mut sender, _stop) = over_http2(limits.clone(), dropped.clone()).await;
    let mut read = sender.send_request(asked()).await.unwrap().into_body();
    let (idler, _also) = over_http2(limits, dropped).await;
    timeout(Duration::from_secs(20), async {
        while !idler.is_closed() {
            read.frame().await.unwrap().unwrap();
        }
    })
    .await
    .expect("an idle connection is kept");
    read.frame().await.unwrap().unwrap();
}

/// Answers with whom it is asked by.
struct Echo;

impl Handler for Echo {
    fn handle(
        &self,
        _: Request<Incoming>,
        peer: SocketAddr,
    ) -> Pin<Box<dyn Future<Output = crate::Response> + Send + '_>> {
        Box::pin(async move { Response::new(crate::body::full(peer.to_string())) })
    }
}

/// From 203.0.113.9:4660.
const PROXIED: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xcb\0\x71\x09\x0a\0\0\x01\x12\x34\0\x50";
/// The proxy's own.
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

/// A connection to a server that is told by the networks' proxies who asks, and on which these bytes were sent.
async fn sent(networks: &[&str], bytes: &[u8]) -> (TcpStream, watch::Sender<bool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = watch::channel(false);
    let preamble =
        Preamble { proxied: networks.iter().map(|text| text.parse().unwrap()).collect(), tls: None };
    let limits = Limits { head_deadline: Duration::from_millis(300), ..Limits::default() };
    tokio::spawn(serve(listener, Arc::new(Echo), limits, preamble, stopped));
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(bytes).await.unwrap();
    (socket, stop)
}

/// All that is answered, until the server has closed the connection.
async fn answered(networks: &[&str], bytes: &[u8]) -> String {
    let (mut socket, _stop) = sent(networks, bytes).await;
    let mut answer = Vec::new();
    // It may be reset, with what was sent and not read.
    let _closed = timeout(Duration::from_secs(20), socket.read_to_end(&mut answer)).await.expect("kept open");
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn whom_a_connection_is_from_is_believed_of_the_listed_networks_alone() {
    let request = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let with = |header: &[u8]| [header, request].concat();
    let listed = ["10.0.0.0/8", "127.0.0.1"];
    let answer = answered(&listed, &with(PROXIED)).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("203.0.113.9:4660"), "{answer}");
    assert!(answered(&listed, &with(LOCAL)).await.contains("\r\n127.0.0.1:"));
    // They have to say it, and whole, and in time.
    for bytes in [with(b""), PROXIED[..20].to_vec(), with(b"PROXY TCP4 1.1.1.1 1.1.1.1 1 1\r\n")] {
        assert_eq!(answered(&listed, &bytes).await, "");
    }
    // Others can't.
    assert!(answered(&["10.0.0.0/8"], &with(PROXIED)).await.starts_with("HTTP/1.1 400"));
    assert!(answered(&["10.0.0.0/8"], &with(b"")).await.contains("\r\n127.0.0.1:"));
}

#[tokio::test]
async fn http2_may_follow_whom_a_connection_is_from() {
    let (socket, _stop) = sent(&["127.0.0.0/8"], PROXIED).await;
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(socket)).await.unwrap();
    tokio::spawn(connection);
    let body = sender.send_request(asked()).await.unwrap().into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "203.0.113.9:4660");
}

#[tokio::test]
async fn one_connection_too_many_waits_until_another_ends_and_that_is_counted() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut registry = Registry::default();
    let connections = connections::Metrics::register(&mut registry).listener("http", 1);
    let limits = Limits { connections, ..Limits::default() };
    let (stop, stopped) = watch::channel(false);
    let serving = tokio::spawn(serve(listener, Arc::new(Echo), limits, Preamble::default(), stopped));
    let shown = |open: u32, full: u32| {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for (name, value) in [("connections", open), ("connections_max", 1), ("full_total", full)] {
            let line = format!("foghorn_listener_{name}{{listener=\"http\"}} {value}\n");
            assert!(text.contains(&line), "no {line} in {text}");
        }
    };
    async fn ask(socket: &mut TcpStream) {
        socket.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let answer = timeout(Duration::from_secs(20), socket.read(&mut [0; 1024])).await;
        assert!(answer.expect("no answer").unwrap() > 0);
    }
    shown(0, 0);
    let mut first = TcpStream::connect(address).await.unwrap();
    ask(&mut first).await;
    let mut second = TcpStream::connect(address).await.unwrap();
    let (mut asking, mut busy) = (Box::pin(ask(&mut second)), 0);
    while busy < 20 {
        tokio::select! {
            () = &mut asking => panic!("two connections are served"),
            () = ask(&mut first) => busy += 1,
        }
    }
    shown(1, 1);
    drop(first);
    asking.await;
    shown(1, 2);
    drop(second);
    stop.send_replace(true);
    timeout(Duration::from_secs(20), serving).await.expect("it waits for who is gone").unwrap();
    shown(0, 2);
}
