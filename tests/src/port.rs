//! Ports that are ours until we give them back.
//!
//! Not port 0: the kernel would choose from the range that outgoing connections use, and while a killed server is
//! down one of those could take its port, or even connect to itself there.

use std::fs::{File, TryLockError};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU16, Ordering};

use crate::network::Site;

/// Below the kernel's own choices (32768 and up) and Kubernetes's (30000 and up).
const FIRST: u16 = 20_000;
const COUNT: u16 = 10_000;

/// A port of 127.0.0.1 that no other test uses as long as this value lives.
#[derive(Debug)]
pub struct Port {
    number: u16,
    /// Locked; the lock ends with the file, that is with this value or with the process.
    _lease: File,
}

impl Port {
    /// A port that nobody listens on.
    #[must_use]
    pub fn lease() -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        // Test programs begin in different places, so that they seldom meet.
        let start = std::process::id().wrapping_mul(97);
        for _ in 0..COUNT {
            let step = u32::from(NEXT.fetch_add(1, Ordering::Relaxed));
            let offset = u16::try_from(start.wrapping_add(step) % u32::from(COUNT)).expect("less than COUNT");
            if let Some(port) = Self::try_lease(FIRST + offset) {
                return port;
            }
        }
        panic!("no port from {FIRST} to {} is free on 127.0.0.1", FIRST + COUNT - 1)
    }

    fn try_lease(number: u16) -> Option<Self> {
        let path = folder().join(number.to_string());
        let file = File::create(&path).unwrap_or_else(|error| panic!("creating {}: {error}", path.display()));
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return None,
            Err(TryLockError::Error(error)) => panic!("locking {}: {error}", path.display()),
        }
        TcpListener::bind((Ipv4Addr::LOCALHOST, number)).ok()?;
        Some(Self { number, _lease: file })
    }

    /// Its number.
    #[must_use]
    pub fn number(&self) -> u16 {
        self.number
    }

    /// With the address: `127.0.0.1:20017`.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.number).into()
    }

    /// With the address of another site: `10.77.3.2:20017`.
    #[must_use]
    pub fn at(&self, site: &Site) -> String {
        format!("{}:{}", site.address(), self.number)
    }
}

fn folder() -> PathBuf {
    let folder = std::env::temp_dir().join(format!("foghorn-test-ports-{}", nix::unistd::geteuid()));
    std::fs::create_dir_all(&folder).unwrap_or_else(|error| panic!("creating {}: {error}", folder.display()));
    folder
}

#[cfg(test)]
mod tests {
    use super::Port;

    #[test]
    fn a_leased_port_is_nobody_elses() {
        let ports: Vec<Port> = (0..20).map(|_| Port::lease()).collect();
        let mut numbers: Vec<u16> = ports.iter().map(Port::number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), 20);
        let again = Port::try_lease(numbers[0]);
        assert!(again.is_none(), "{again:?}");
    }

    #[test]
    fn a_port_given_back_can_be_had_again() {
        let number = Port::lease().number();
        assert!(Port::try_lease(number).is_some());
    }
}
