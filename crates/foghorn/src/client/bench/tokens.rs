//! Tokens for a server that a benchmark starts.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, anyhow};
use foghorn_auth::config::Algorithm;
use foghorn_auth::mint::SigningKey;
use serde_json::json;

/// The server's key: it is reached from this machine alone, and for as long as a turn takes.
const SECRET: &str = "a secret of a benchmark, for a server that soon ends";
const KEY: &str = "bench";

/// The server's configuration of who is believed. Nothing is said of anybody.
pub(super) fn configuration() -> String {
    format!(
        "[auth]\nticket_life = \"5m\"\naudit_per_second = 0\n\
         [[auth.keys]]\nid = \"{KEY}\"\nalgorithm = \"HS256\"\nsecret = \"{SECRET}\"\n"
    )
}

/// Of one who may listen to any one channel, and publish on these.
pub(super) fn token(subject: &str, publish: &[&str]) -> anyhow::Result<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?.as_secs();
    let grants = json!({ "publish": publish });
    let claims = json!({ "sub": subject, "iat": now, "exp": now + 3600, "foghorn": grants });
    let key = SigningKey::new(Algorithm::HS256, SECRET.as_bytes()).map_err(|error| anyhow!(error))?;
    key.mint(KEY, &claims).map_err(|error| anyhow!(error))
}
