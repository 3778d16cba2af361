//! The event log: the long memory of every shard, and which ranges of it can be vouched for.
//!
//! [`sqlite::SqliteLog`] is journal and log at once, for standalone. [`postgres`] is the log of a
//! cluster: a writer per shard copies the journal into PostgreSQL, and any replica replays any shard
//! from PostgreSQL and, for what is not committed yet, from the journal.
//!
//! Both are thin. What a reader may be told is decided in one pure place, `standing`; how a page, the
//! newest events or history are put together is written once, in `pages`, over the few queries that a
//! database has to answer (`source`).
//!
//! Read first: [`sqlite`], then [`postgres::writer`].

pub mod postgres;
pub mod sqlite;

pub mod service;

pub mod metrics;

mod pages;
mod record;
mod source;
mod standing;
mod topics;
