//! Live notifications: what a user is told is stored, and published on `user.<id>`, in one transaction.
//!
//! - Committed means published, exactly once in effect. In a cluster the transaction writes rows of PostgreSQL and of
//!   the outbox beside them ([`postgres`]); in standalone it is one of the database that is the journal ([`sqlite`]).
//! - What a transaction does, on either, is said once ([`change`]). Transactions of one user follow each other, and
//!   each that changes how many notifications are unread counts them and publishes the number: so the last number
//!   heard is the last one committed.
//! - The doors: [`http`], and how many are unread for gateways, whose streams begin with it.
//!
//! Read first: [`notification`], then [`change`].

pub mod config;
pub mod http;
pub mod metrics;
pub mod notification;
pub mod postgres;
pub mod service;
pub mod sqlite;
pub mod store;

mod change;
mod link;
mod rows;
