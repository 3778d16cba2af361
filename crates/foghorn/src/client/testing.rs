//! A server that answers by script, and remembers what it was asked.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::time::Instant;

use super::http::{ServerArgs, base_url};

/// An answer, and what happens after its last byte.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: String,
    then: Then,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    End,
    Cut,
    Hold,
}

/// A request as it came.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) path_and_query: String,
    pub(super) headers: http::HeaderMap,
    pub(super) body: String,
    pub(super) at: Instant,
}

/// A running server.
pub(super) struct Script {
    pub(super) args: ServerArgs,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Answer {
    pub(super) fn json(status: u16, body: &impl ToString) -> Self {
        let headers = vec![("content-type", "application/json".to_owned())];
        Answer { status, headers, body: body.to_string(), then: Then::End }
    }

    /// An event stream that ends after these bytes.
    pub(super) fn stream(body: impl Into<String>) -> Self {
        let headers = vec![("content-type", "text/event-stream".to_owned())];
        Answer { status: 200, headers, body: body.into(), then: Then::End }
    }

    /// The connection breaks after the body.
    pub(super) fn cut(mut self) -> Self {
        self.then = Then::Cut;
        self
    }

    /// The connection stays open and silent after the body.
    pub(super) fn hold(mut self) -> Self {
        self.then = Then::Hold;
        self
    }

    pub(super) fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    fn response(self) -> http::Response<UnsyncBoxBody<Bytes, io::Error>> {
        let first = futures::stream::iter([Ok(Frame::data(Bytes::from(self.body)))]);
        let rest = match self.then {
            Then::End => futures::stream::empty().boxed(),
            Then::Hold => futures::stream::pending().boxed(),
            // What was written is flushed before the connection is dropped for the error.
            Then::Cut => futures::stream::once(async {
                tokio::task::yield_now().await;
                Err(io::ErrorKind::ConnectionReset.into())
            })
            .boxed(),
        };
        let mut response = http::Response::builder().status(self.status);
        for (name, value) in self.headers {
            response = response.header(name, value);
        }
        response.body(StreamBody::new(first.chain(rest)).boxed_unsync()).unwrap()
    }
}

impl Script {
    /// Answers each request by `answer`, which is told how many there were before.
    pub(super) async fn serve(answer: impl Fn(usize, &Asked) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (record, answer) = (asked.clone(), Arc::new(answer));
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (record, answer) = (record.clone(), answer.clone());
                let service = service_fn(move |request| {
                    let (record, answer) = (record.clone(), answer.clone());
                    async move {
                        let asked = read(request).await;
                        let before = {
                            let mut all = record.lock();
                            all.push(asked.clone());
                            all.len() - 1
                        };
                        Ok::<_, Infallible>(answer(before, &asked).response())
                    }
                });
                tokio::spawn(async move {
                    let connection = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(socket), service);
                    // A cut is an error here, and meant.
                    let _cut = connection.await.is_err();
                });
            }
        });
        Script { args: ServerArgs { url: base_url(&url).unwrap(), ca: None, token: None }, asked }
    }

    /// What it was asked so far.
    pub(super) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().clone()
    }
}

async fn read(request: http::Request<Incoming>) -> Asked {
    let at = Instant::now();
    let path_and_query = request.uri().to_string();
    let headers = request.headers().clone();
    let body = request.into_body().collect().await.unwrap().to_bytes();
    Asked { path_and_query, headers, body: String::from_utf8(body.to_vec()).unwrap(), at }
}

/// Fails a test that hangs, with what it waited for.
pub(super) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(Duration::from_secs(20), future).await {
        Ok(output) => output,
        Err(_) => panic!("waited 20 s for {what}"),
    }
}
