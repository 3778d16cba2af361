//! What the tests stand on: real servers, each a process of its own on a port of its own, and clients to
//! look at them from outside.
//!
//! A server panics when it cannot do what it is asked, with the end of its log in the message: there is no test
//! to go on with. A client gives a `Result`: that nobody answers can be what a test is about. All end with the
//! value that stands for them, and with the test process however that ends; the logs stay if a test fails.

pub mod apiserver;
pub mod chrome;
pub mod cluster;
pub mod collector;
pub mod env;
pub mod envoy;
pub mod faults;
pub mod foghorn;
pub mod http;
pub mod http2;
pub mod kubernetes;
pub mod load;
pub mod nats;
mod net;
pub mod network;
pub mod nginx;
pub mod port;
pub mod postgres;
pub mod process;
pub mod prometheus;
pub mod sse;
pub mod tls;
pub mod wait;
pub mod wire;

use std::time::Duration;

/// How long a server may take to start or to end, and an answer to come, on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);
