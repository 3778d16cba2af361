//! The gateway: takes the whole live feed, keeps its recent part in a ring, and serves every listener
//! from there by position.
//!
//! A connection is a cursor, not a queue. One that keeps up, one whose socket is full, one that comes
//! back and one that just arrived are the same thing: a position behind the head, served from the ring,
//! or from the event log while it is older than the ring. Nothing here waits for a listener, and nothing
//! here is lost with the process that matters: a listener goes on at another gateway by its cursor.
//!
//! Read first: [`ring::Ring`] (what is held), `connection::Connection` (what a listener is) and `engine` (how
//! most of them are served).

pub mod canary;
pub mod config;
pub mod metrics;

pub mod ring;

pub mod hub;
mod index;

mod ingest;

mod client_id;
mod subscription;
mod ticket;

mod admin;
mod change;
mod directory;
mod kept;
mod subscribe;

mod connection;
pub mod dashboard;
mod drain;
mod engine;
mod erase;
mod gathering;
mod grants;
mod gzip;
mod history;
mod http;
mod keep_alive;
mod latest;
mod limits;
mod members;
pub mod places;
mod presence;
mod replays;
mod revoke;
mod rollout;
mod seat;
mod survey;
mod traced;

pub mod service;

#[cfg(test)]
mod testing;

#[cfg(fuzzing)]
#[doc(hidden)]
pub use http::fuzzing;
