//! The operator: takes `ChannelPolicy` objects of Kubernetes to the running services, and says on each what became of
//! it. The only user of kube.
//!
//! Of several replicas one leads (`lease.rs`). It goes round (`operator.rs`): reads all objects, decides which of their
//! policies hold (`resolve.rs`, pure), writes these as one document to where services read it, writes the verdicts into
//! the objects' status (`status.rs`), and waits until something changes. So each round is the whole truth, and whatever
//! one of them misses the next one mends.
//!
//! Read first: `crd.rs` and `resolve.rs`.

pub mod config;
pub mod crd;
mod lease;
mod metrics;
mod operator;
mod resolve;
mod status;

pub use crd::crds;
pub use operator::{ClientError, Operator, client};
