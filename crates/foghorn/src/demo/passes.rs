//! The tokens of the demo: the page's user's, and the application's. Their key was made when it began.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use foghorn_auth::config::Config;
use foghorn_auth::keys::material;
use foghorn_auth::mint::SigningKey;
use serde_json::{Value, json};

use super::USER;

/// How long the page's user is known. The client connects anew before, and has it renewed.
pub(super) const USER_LIFE: Duration = Duration::from_secs(3600);
/// One for each request, so it needs to live no longer than that.
const APPLICATION_LIFE: Duration = Duration::from_secs(60);

/// Makes tokens.
pub(super) struct Passes {
    key: SigningKey,
}

impl Passes {
    /// Signs with the key that the server verifies with.
    pub(super) fn new(auth: &Config) -> anyhow::Result<Self> {
        let [key] = &auth.keys[..] else { anyhow::bail!("the demo has one key, not {}", auth.keys.len()) };
        let secret = material(key).map_err(anyhow::Error::msg)?;
        Ok(Passes { key: SigningKey::new(key.algorithm, &secret).map_err(anyhow::Error::msg)? })
    }

    /// The page's user may listen to what the application publishes, and publish nothing.
    pub(super) fn user(&self) -> anyhow::Result<String> {
        self.mint(USER, &json!({ "subscribe": ["demo.>"] }), USER_LIFE)
    }

    /// The application may publish, on its channels and to the user, and listen to nothing.
    pub(super) fn application(&self) -> anyhow::Result<String> {
        let publish = ["demo.>".to_owned(), format!("user.{USER}")];
        self.mint("demo-application", &json!({ "subscribe": [], "publish": publish }), APPLICATION_LIFE)
    }

    fn mint(&self, subject: &str, grants: &Value, life: Duration) -> anyhow::Result<String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?.as_secs();
        let claims = json!({ "sub": subject, "iat": now, "exp": now + life.as_secs(), "foghorn": grants });
        self.key.mint("", &claims).map_err(anyhow::Error::msg)
    }
}
