//! The admin port: `/healthz`, `/readyz`, `/metrics`.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use foghorn_http::body::{json, with_type};
use foghorn_http::problem::Problem;
use foghorn_http::{Handler, Response};
use http::StatusCode;
use hyper::body::Incoming;
use parking_lot::RwLock;
use prometheus_client::registry::Registry;

use crate::health::Health;

/// The process's metrics. Shared, because the admin port is there first: it says what a start waits for.
pub type SharedRegistry = Arc<RwLock<Registry>>;

/// Answers probes and scrapes.
#[derive(Clone)]
pub struct Admin {
    health: Health,
    registry: SharedRegistry,
}

impl Admin {
    /// Shows `health` and the metrics of `registry`.
    pub fn new(health: Health, registry: SharedRegistry) -> Self {
        Admin { health, registry }
    }

    /// The answer to `GET path`, when the path is one of ours.
    pub fn answer(&self, path: &str) -> Option<Response> {
        match path {
            "/healthz" => Some(with_type(StatusCode::OK, "text/plain", "ok\n")),
            "/readyz" => Some(self.ready()),
            "/metrics" => Some(self.metrics()),
            _ => None,
        }
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
            self.answer(path).unwrap_or_else(|| Problem::not_found(path).into_response())
        })
    }
}
