//! The operator: takes `ChannelPolicy` objects of Kubernetes to the running services, says on each what became of it, and
//! takes gateways through rollouts. The only user of kube.
//!
//! Of several replicas one leads (`lease.rs`). It goes round (`operator.rs`): reads all objects, decides which of their
//! policies hold (`resolve.rs`, pure), writes these as one document to where services read it, writes the verdicts into
//! the objects' status (`status.rs`), and waits until something changes. So each round is the whole truth, and whatever
//! one of them misses the next one mends.
//!
//! Meanwhile it paces gateways (`pacing.rs`), which report to it over NATS: `pace.rs`, pure, decides who drains and who
//! sheds, by the `GatewayFleet` object (`fleet.rs`).
//!
//! Read first: `crd.rs` and `resolve.rs`; then `fleet.rs` and `pace.rs`.

pub mod config;
pub mod crd;
mod fleet;
mod lease;
mod metrics;
mod operator;
mod pace;
mod pacing;
mod resolve;
mod status;

pub use crd::crds;
pub use operator::{ClientError, Operator, client};
