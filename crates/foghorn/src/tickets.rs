//! Where one-time tickets wait, and the secret that is sealed with for them: in a cluster both in a bucket of NATS;
//! in standalone tickets are in memory, and the secret in its data directory, so that streams come back by their
//! cookies after a restart.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;

use foghorn_bus::memory::MemoryTickets;
use foghorn_bus::nats::{Bus, BusError};
use foghorn_bus::tickets::TICKETS_MAX;
use foghorn_gateway::service::Tickets;

use crate::process::Process;

/// The file of the secret in standalone's data directory.
const FILE: &str = "ticket-secret";

/// A cluster's. `None` when the process is told to stop first.
pub(crate) async fn of_cluster(bus: &Bus, process: &Process) -> Result<Option<Tickets>, BusError> {
    let Some(opened) = process.unless_stopped(bus.tickets(TICKETS_MAX)).await else { return Ok(None) };
    let store = opened?;
    let secret = *store.secret();
    Ok(Some(Tickets::new(Arc::new(store), &secret)))
}

/// Standalone's. Without a data directory nothing outlives the process.
pub(crate) fn of_standalone(data: Option<&Path>) -> anyhow::Result<Tickets> {
    let secret = match data {
        None => rand::random(),
        Some(folder) => {
            let path = folder.join(FILE);
            secret(&path).with_context(|| format!("{} can't be read or written", path.display()))?
        }
    };
    Ok(Tickets::new(Arc::new(MemoryTickets::default()), &secret))
}

/// The secret that the file has, or a new one, which it then has.
fn secret(path: &Path) -> io::Result<[u8; 32]> {
    match std::fs::read(path) {
        Ok(bytes) => {
            let secret = bytes.try_into();
            return secret.map_err(|_| io::Error::other("it is not the 32 bytes that were written"));
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Err(_) => {}
    }
    let secret: [u8; 32] = rand::random();
    let beside = path.with_extension("new");
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    file.write_all(&secret)?;
    file.sync_all()?;
    std::fs::rename(&beside, path)?;
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_secret_outlives_the_process_and_is_nobody_elses() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let made = secret(&path).unwrap();
        assert_eq!(secret(&path).unwrap(), made);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::write(&path, "short").unwrap();
        assert!(secret(&path).is_err(), "not replaced: it may be another program's");
    }
}
