//! What pages of other origins may do, in the words of browsers (CORS), and what is refused to all others:
//! one place before every door.
//!
//! An answer says which origin may read it, and only to a page of a listed one, by name and with
//! credentials; never `*`. Also refusals say so, or a page could not tell `401` from a broken network. That an
//! answer depends on who asks (`Vary`) is said always: a cache must not give the one's to the other.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use hyper::body::Incoming;

use crate::body::full;
use crate::guard::{Asker, Guard};
use crate::problem::Problem;
use crate::{Handler, Response};

/// What a page may ask with.
const METHODS: HeaderValue = HeaderValue::from_static("GET, POST, DELETE");
/// The headers that are read and that browsers ask leave for.
const HEADERS: HeaderValue =
    HeaderValue::from_static("authorization, content-type, last-event-id, traceparent");
/// What a page may read of an answer's head, beside what it always may.
const EXPOSED: HeaderValue = HeaderValue::from_static("retry-after, www-authenticate");
/// For how many seconds a browser need not ask for leave again. Chromium takes no more.
const MAX_AGE: HeaderValue = HeaderValue::from_static("7200");
const TRUE: HeaderValue = HeaderValue::from_static("true");

/// A handler behind a [`Guard`]: what the guard refuses doesn't reach it. Whose request it is, the [`Asker`], is in
/// the request's extensions.
pub struct Guarded {
    guard: Guard,
    handler: Arc<dyn Handler>,
}

impl Guarded {
    /// Has `handler` answer what passes `guard`.
    pub fn new(guard: Guard, handler: Arc<dyn Handler>) -> Self {
        Guarded { guard, handler }
    }
}

impl Handler for Guarded {
    fn handle(
        &self,
        mut request: Request<Incoming>,
        peer: SocketAddr,
    ) -> Pin<Box<dyn Future<Output = Response> + Send + '_>> {
        let asker = match self.guard.check(request.headers()) {
            Ok(asker) => asker,
            Err(problem) => return Box::pin(async move { refused(problem) }),
        };
        let asks_first = is_preflight(&request, &asker);
        request.extensions_mut().insert(asker.clone());
        Box::pin(async move {
            let mut response =
                if asks_first { no_content() } else { self.handler.handle(request, peer).await };
            admit(response.headers_mut(), &asker, asks_first);
            response
        })
    }
}

/// Whether a browser asks for leave on behalf of a page of another origin, before it sends the request itself.
fn is_preflight<B>(request: &Request<B>, asker: &Asker) -> bool {
    let asks = request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    request.method() == Method::OPTIONS && asks && matches!(asker, Asker::Listed(_))
}

fn no_content() -> Response {
    let mut response = http::Response::new(full(Bytes::new()));
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

fn refused(problem: Problem) -> Response {
    let mut response = problem.into_response();
    response.headers_mut().append(header::VARY, HeaderValue::from_static("origin"));
    response
}

/// Says who may read an answer.
fn admit(headers: &mut HeaderMap, asker: &Asker, preflight: bool) {
    headers.append(header::VARY, HeaderValue::from_static("origin"));
    let Asker::Listed(origin) = asker else { return };
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, TRUE);
    if preflight {
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HEADERS);
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, MAX_AGE);
    } else {
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    }
}

#[cfg(test)]
mod tests;
