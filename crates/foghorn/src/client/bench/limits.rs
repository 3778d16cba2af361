//! Open files, of which every connection is one.

use anyhow::{Context as _, bail};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Files open beside the connections.
const OTHERS: u64 = 64;

/// Makes room for so many connections, up to the hard limit, or says what to do.
pub(super) fn allow(connections: usize) -> anyhow::Result<()> {
    let needed = connections as u64 + OTHERS;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("can't read the limit of open files")?;
    check(needed, hard)?;
    if soft < needed {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("can't raise the limit of open files")?;
    }
    Ok(())
}

fn check(needed: u64, hard: u64) -> anyhow::Result<()> {
    if needed > hard {
        bail!(
            "{needed} open files are needed and this process may have {hard}: use at most {} connections, run \
             several benchmarks at a time, or raise the limit (ulimit -n); the server needs as many",
            hard.saturating_sub(OTHERS)
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_connections_are_refused_with_what_to_do() {
        let error = check(30_064, 20_000).unwrap_err().to_string();
        assert!(error.contains("at most 19936 connections"), "{error}");
        assert!(check(20_000, 20_000).is_ok());
        allow(1).unwrap();
    }
}
