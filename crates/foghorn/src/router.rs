//! Which service answers which path, where one listener serves several.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use foghorn_http::problem::Problem;
use foghorn_http::{Handler, Response};
use foghorn_notifications::http::{PATH, STREAM_PATH};
use http::{Method, Request};
use hyper::body::Incoming;

use crate::demo::Door;
use crate::{console, page};

/// Standalone's HTTP port.
pub(crate) struct Router {
    pub(crate) publish: Arc<dyn Handler>,
    pub(crate) notifications: Arc<dyn Handler>,
    pub(crate) events: Arc<dyn Handler>,
    /// The demo's page, in place of the one to try things with.
    pub(crate) demo: Option<Door>,
}

impl Handler for Router {
    fn handle(
        &self,
        request: Request<Incoming>,
        peer: SocketAddr,
    ) -> Pin<Box<dyn Future<Output = Response> + Send + '_>> {
        if let Some(demo) = self.demo.as_ref().filter(|_| Door::has(request.uri().path())) {
            return demo.handle(request, peer);
        }
        match request.uri().path() {
            "/api/publish" => self.publish.handle(request, peer),
            STREAM_PATH => self.events.handle(request, peer),
            path if is_below(path, PATH) => self.notifications.handle(request, peer),
            path if path.starts_with("/api/") => self.events.handle(request, peer),
            _ => Box::pin(std::future::ready(other(&request))),
        }
    }
}

/// Whether it is that path or one below it.
fn is_below(path: &str, above: &str) -> bool {
    path.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn other(request: &Request<Incoming>) -> Response {
    let path = request.uri().path();
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Problem::method("GET").into_response();
    }
    let answer = page::answer(path).or_else(|| console::answer(path));
    answer.unwrap_or_else(|| Problem::not_found(path).into_response())
}

/// A gateway's port: its API, and the console that shows the cluster by it.
pub(crate) struct WithConsole(pub(crate) Arc<dyn Handler>);

impl Handler for WithConsole {
    fn handle(
        &self,
        request: Request<Incoming>,
        peer: SocketAddr,
    ) -> Pin<Box<dyn Future<Output = Response> + Send + '_>> {
        let asked = matches!(*request.method(), Method::GET | Method::HEAD);
        match console::answer(request.uri().path()).filter(|_| asked) {
            Some(file) => Box::pin(std::future::ready(file)),
            None => self.0.handle(request, peer),
        }
    }
}
