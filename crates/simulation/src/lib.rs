//! The whole of Foghorn in one thread, deterministic from a seed.
//!
//! The relay, the gateways, the log's writers and readers and the publishers' way in are the product's own.
//! What they stand on is simulated: JetStream ([`journal`]), the live feed ([`live`]), leases ([`lease`]),
//! PostgreSQL's tables (`foghorn_eventlog::postgres::tables`), the network and the clock ([`world`]). Faults
//! ([`faults`]) happen at any step; when all is healed and time has passed, the [`oracle`] compares what
//! every client ([`client`]) was told with what the journal has.
//!
//! A run is a single-threaded runtime whose time is paused: it moves on when nobody has anything to do, so a
//! minute takes milliseconds, and with the dice seeded one seed is one story.
//!
//! [`mutant`]s are mechanisms broken on purpose; a test shows that they are noticed.

pub mod client;
pub mod cluster;
pub mod faults;
pub mod journal;
pub mod lease;
pub mod live;
pub mod log;
pub mod mutant;
pub mod oracle;
pub mod process;
pub mod publisher;
pub mod sse;
pub mod world;

mod run;

pub use run::{Outcome, run};
