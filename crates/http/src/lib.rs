//! Serving HTTP/1.1 and HTTP/2, with TLS or without: listening sockets, the accept loop with its limits, who may ask
//! (Host and Origin), and answers in `application/problem+json`. Services hand in a [`Handler`]; this crate knows none of them.
//!
//! Read first: [`serve::serve`] and [`problem::Problem`].

pub mod body;
pub mod client;
pub mod connections;
pub mod cors;
pub mod guard;
pub mod hint;
pub mod limit;
pub mod listen;
mod pace;
pub mod path;
pub mod problem;
pub mod query;
pub mod serve;
pub mod stall;
pub mod takeover;
pub mod tls;
mod transport;

/// A response as every handler gives it.
pub type Response = http::Response<body::Body>;

/// Answers requests. Handlers are composed by path, in the binary.
pub trait Handler: Send + Sync + 'static {
    /// The answer to `request`. Dropped when the client goes away first.
    fn handle(
        &self,
        request: http::Request<hyper::body::Incoming>,
        peer: std::net::SocketAddr,
    ) -> std::pin::Pin<Box<dyn Future<Output = Response> + Send + '_>>;
}
