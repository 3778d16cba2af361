//! Fan-out: takes events in through three doors and relays what the journal has taken to every gateway.
//!
//! ```text
//! http.rs ─┐
//! grpc.rs ─┼─► publish.rs (check, append, ack) ─► the journal ─► relay.rs ─► the live feed
//! nats.rs ─┘      in order per channel: pipeline.rs               ranges: batching.rs
//! ```
//!
//! Read first: [`publish::Publisher`]; then [`service::Fanout`], which puts everything together.

pub mod service;

pub mod config;

pub mod error;
pub mod publish;

pub mod room;

mod pack;
mod pipeline;

pub mod http;
mod json;

pub mod grpc;

mod grpc_stream;

pub mod nats;
mod presence;

pub mod relay;

mod batching;

pub mod metrics;

#[cfg(test)]
mod testing;

#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
