//! The words of Foghorn as types: channel, pattern, event, position, cursor, policy, and the two
//! formats that cross a boundary as bytes, SSE frames and live-feed batches.
//!
//! Pure: no IO, no clock, no randomness, no async. Whatever is outside becomes one of these types at
//! the edge or is refused there with an error that says where and what to do; past the edge nobody
//! checks again.
//!
//! Read first: [`event::Event`] (what is published) and [`cursor::Cursor`] (what a client carries).

pub mod shard;

pub mod channel;
pub mod pattern;

pub mod time;

pub mod event;

pub mod entry;
pub mod position;

pub mod cursor;

pub mod sse;

pub mod batch;

pub mod secret;
pub mod trace;

pub mod policy;
pub mod reason;
