//! The ports between services, and what is behind them: the journal, the live feed, leases, and the
//! event log as the others see it. Beside the benchmark, this crate is the only user of
//! async-nats.
//!
//! Every port is a trait with two adapters that pass one behaviour suite: NATS for a cluster, memory
//! (and SQLite, in `foghorn-eventlog`) for standalone. Services know the traits alone.
//!
//! Read first: [`journal::Journal`] and [`log::EventLog`].

pub mod journal;
pub mod live;
pub mod log;

pub mod lease;
pub mod policies;
pub mod subscriptions;
pub mod tickets;

pub mod announce;
pub mod gateways;
pub mod notifications;
pub mod rollout;
pub mod statuses;

pub mod memory;
pub mod nats;

pub mod backoff;
pub mod clock;
pub mod metrics;
mod queue;

/// A boxed future, as the ports return them: they are used as trait objects.
pub type Future<'a, T> = futures::future::BoxFuture<'a, T>;
