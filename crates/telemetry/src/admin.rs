//! The admin port: `/healthz`, `/readyz`, `/metrics`.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use foghorn_http::body::{json, with_type};
use foghorn_http::problem::Problem;
use foghorn_http::{Handler, Response};
use http::{Method, StatusCode};
use hyper::body::Incoming;
use parking_lot::RwLock;
use prometheus_client::registry::Registry;

use crate::health::Health;

/// The process's metrics. Shared, because the admin port is there first: it says what a start waits for.
pub type SharedRegistry = Arc<RwLock<Registry>>;

/// Answers probes and scrapes.
pub struct Admin {
    health: Health,
    registry: SharedRegistry,
}

impl Admin {
    /// Shows `health` and the metrics of `registry`.
    pub fn new(health: Health, registry: SharedRegistry) -> Self {
        Admin { health, registry }
    }

    /// The answer to a request for `path`, when the path is one of ours. Only asking is allowed: a probe or
    /// a scraper that sends something means another server.
    fn answer(&self, method: &Method, path: &str) -> Option<Response> {
        let answer: fn(&Self) -> Response = match path {
            "/healthz" => |_| with_type(StatusCode::OK, "text/plain", "ok\n"),
            "/readyz" => Admin::ready,
            "/metrics" => Admin::metrics,
            _ => return None,
        };
        if !matches!(*method, Method::GET | Method::HEAD) {
            return Some(Problem::method("GET").into_response());
        }
        Some(answer(self))
    }

    fn ready(&self) -> Response {
        let missing = self.health.missing();
        if missing.is_empty() {
            return json(StatusCode::OK, &serde_json::json!({ "ready": true }));
        }
        let missing: serde_json::Map<_, _> =
            missing.into_iter().map(|(part, what)| (part, what.into())).collect();
        json(StatusCode::SERVICE_UNAVAILABLE, &serde_json::json!({ "ready": false, "waiting_for": missing }))
    }

    fn metrics(&self) -> Response {
        let mut text = String::new();
        match prometheus_client::encoding::text::encode(&mut text, &self.registry.read()) {
            Ok(()) => {
                with_type(StatusCode::OK, "application/openmetrics-text; version=1.0.0; charset=utf-8", text)
            }
            Err(error) => Problem::internal(error).into_response(),
        }
    }
}

impl Handler for Admin {
    fn handle(
        &self,
        request: http::Request<Incoming>,
        _peer: SocketAddr,
    ) -> Pin<Box<dyn Future<Output = Response> + Send + '_>> {
        Box::pin(async move {
            let path = request.uri().path();
            self.answer(request.method(), path).unwrap_or_else(|| Problem::not_found(path).into_response())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_asking_is_answered() {
        let health = Health::default();
        let admin = Admin::new(health.clone(), SharedRegistry::default());
        let status = |method: Method, path: &str| admin.answer(&method, path).map(|answer| answer.status());
        for path in ["/healthz", "/readyz", "/metrics"] {
            assert_eq!(status(Method::GET, path), Some(StatusCode::OK), "{path}");
            assert_eq!(status(Method::HEAD, path), Some(StatusCode::OK), "{path}");
            for method in [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS] {
                assert_eq!(status(method, path), Some(StatusCode::METHOD_NOT_ALLOWED), "{path}");
            }
        }
        for path in ["/", "/metrics/", "/metrics/x", "/METRICS"] {
            assert!(status(Method::GET, path).is_none(), "{path}");
            assert!(status(Method::POST, path).is_none(), "{path}");
        }
        health.part("bus", "the bus");
        assert_eq!(status(Method::GET, "/readyz"), Some(StatusCode::SERVICE_UNAVAILABLE));
    }
}
