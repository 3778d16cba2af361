//! The journal: JetStream as it behaves, and a process's view of it as `foghorn_bus::nats` has it.

mod servers;
mod view;

pub use servers::{Copy, EpochRecord, Servers, Stored};
pub use view::SimJournal;
