//! What all benchmarks take that have a server on one core and its load on another.

use anyhow::ensure;

use super::rounds::ROUNDS;
use super::scan::STAMP_BYTES;
use super::sweep::server::pin_this_thread;
use super::{at_least_one, limits};

/// Flattened into their arguments.
#[derive(Debug, clap::Args)]
pub(super) struct Pinned {
    /// Bytes of data in an event
    #[arg(long, value_name = "BYTES", default_value_t = 256)]
    pub(super) size: usize,
    /// How many rounds; what is printed are medians, and the range
    #[arg(long, value_name = "N", default_value_t = ROUNDS, value_parser = at_least_one)]
    pub(super) rounds: usize,
    /// The core that a server is pinned to
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) server_core: usize,
    /// The core that listeners and publisher are pinned to
    #[arg(long, value_name = "N", default_value_t = 1)]
    load_core: usize,
    /// Print one JSON object
    #[arg(long)]
    pub(super) json: bool,
}

impl Pinned {
    /// Makes of this thread and this process a load of so many connections.
    pub(super) fn prepare(&self, connections: usize) -> anyhow::Result<()> {
        ensure!(self.size >= STAMP_BYTES, "--size must be at least {STAMP_BYTES}: a number and a time");
        limits::allow(connections)?;
        pin_this_thread(self.load_core)
    }
}
