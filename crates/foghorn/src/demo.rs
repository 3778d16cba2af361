//! `foghorn demo`: a standalone that keeps nothing, an application beside it that has things to tell, and the page that
//! shows them. What the application does, it does over HTTP with a token, as any other would.

mod application;
mod door;
mod passes;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use foghorn_auth::Authenticator;
use foghorn_auth::config::{Algorithm, Key};

use crate::config::Config;
use crate::process::Process;
use crate::standalone;
use application::Application;
pub(crate) use door::Door;
use passes::Passes;

/// Whom the page is for.
const USER: &str = "demo";
/// Notifications that are kept: a demo that was forgotten goes on notifying.
const NOTIFICATIONS_MAX: u32 = 100;
/// Bytes of the secret that tokens are signed with.
const SECRET_BYTES: usize = 32;

/// A demo that has yet to begin.
pub(crate) struct Demo {
    passes: Passes,
    cookie: String,
}

/// What the demo runs with, whatever the environment says: in memory, with a key that nobody else has. An error for an
/// address that other machines can reach, as whoever opens the page is given a credential.
pub(crate) fn config(listen: SocketAddr) -> Result<Config, String> {
    if !listen.ip().is_loopback() {
        return Err(format!(
            "--listen: {listen} can be reached from other machines, and the demo gives a credential to whoever opens its \
             page; listen on an address of loopback, such as 127.0.0.1:8080"
        ));
    }
    let mut config = Config::default();
    config.listen.http = listen;
    // Nobody uses these here; another Foghorn on this machine may have the usual ones.
    config.listen.grpc = SocketAddr::new(listen.ip(), 0);
    config.listen.admin = config.listen.grpc;
    config.standalone.ephemeral = true;
    config.notifications.per_user = NOTIFICATIONS_MAX;
    "warn".clone_into(&mut config.log.filter);
    config.gateway.drain_window = Duration::ZERO;
    config.auth.keys = vec![Key { algorithm: Algorithm::HS256, secret: secret().into(), ..Key::default() }];
    // Cookies are a host's, whatever the port: two demos would take each other's away.
    config.auth.cookie = format!("foghorn_demo_{}", listen.port());
    Ok(config)
}

/// Runs until told to stop. `config` is from [`config`].
pub(crate) async fn run(config: Config) -> anyhow::Result<()> {
    let demo = Demo { passes: Passes::new(&config.auth)?, cookie: config.auth.cookie.clone() };
    standalone::serve(config, Some(demo)).await
}

impl Demo {
    /// Has the application work, against the server at `address`, until the process stops, and says where the page is.
    /// Gives what answers for the page and for its buttons.
    pub(crate) fn begin(
        self,
        address: SocketAddr,
        auth: Arc<Authenticator>,
        process: &Process,
    ) -> anyhow::Result<Door> {
        let passes = Arc::new(self.passes);
        let application = Arc::new(Application::new(address, passes.clone(), process.shutdown.clone())?);
        application.begin();
        println!(
            "The demo is at http://{address}/ (open it in a browser, and in a second tab). Ctrl-C ends it; nothing is kept."
        );
        Ok(Door::new(application, passes, auth, self.cookie))
    }
}

fn secret() -> String {
    let bytes: [u8; SECRET_BYTES] = rand::random();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_listens_on_loopback_alone_and_knows_who_asks() {
        for open in ["0.0.0.0:8080", "192.0.2.1:8080", "[::]:8080"] {
            let refused = config(open.parse().unwrap()).unwrap_err();
            assert!(refused.starts_with("--listen: ") && refused.contains("127.0.0.1"), "{refused}");
        }
        let config = config("[::1]:8080".parse().unwrap()).unwrap();
        assert_eq!(config.check(), Ok(()));
        assert!(config.listen.grpc.ip().is_loopback() && config.listen.admin.ip().is_loopback());
        assert!(config.auth.knows_tokens() && !config.allow_anonymous);
        assert_ne!(secret(), secret());
    }
}
