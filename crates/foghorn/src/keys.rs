//! The keys of tokens while a process runs: those in files are read again, those by URL are fetched.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use foghorn_auth::Authenticator;
use foghorn_auth::keys::{Keys, Reread};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

use crate::jwks;
use crate::process::{Misconfigured, Process};

/// How often files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Of {
    outcome: &'static str,
}

/// Keeps the keys that `auth` verifies with up to date, until the process ends.
pub(crate) fn follow(auth: &Authenticator, process: &Process) -> Result<(), Misconfigured> {
    let keys = auth.keys().clone();
    if keys.has_files() {
        let rereads: Family<Of, Counter> = Family::default();
        process.registry.write().register(
            "foghorn_auth_keys_reread",
            "Files of keys that had changed: taken, or not (the key before goes on)",
            rereads.clone(),
        );
        for outcome in ["taken", "refused"] {
            drop(rereads.get_or_create(&Of { outcome }));
        }
        tokio::spawn(reread(keys, rereads));
    }
    jwks::follow(auth, process)
}

async fn reread(keys: Arc<Keys>, rereads: Family<Of, Counter>) {
    // Said once for each way in which a file is wrong.
    let mut wrong: HashMap<String, String> = HashMap::new();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let keys = keys.clone();
        // A file may be on a network.
        let Ok(reread) = tokio::task::spawn_blocking(move || keys.reread()).await else { return };
        for (key, outcome) in reread {
            match outcome {
                Reread::Same => drop(wrong.remove(&key)),
                Reread::Taken => {
                    wrong.remove(&key);
                    rereads.get_or_create(&Of { outcome: "taken" }).inc();
                    tracing::info!(key, "a key of tokens is another; tokens of the one before are refused");
                }
                Reread::Refused(error) => {
                    if wrong.get(&key) != Some(&error) {
                        rereads.get_or_create(&Of { outcome: "refused" }).inc();
                        tracing::warn!(
                            key,
                            error,
                            "a key of tokens can't be read again; the one before goes on"
                        );
                        wrong.insert(key, error);
                    }
                }
            }
        }
    }
}
