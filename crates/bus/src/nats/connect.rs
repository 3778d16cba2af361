//! Connecting: options, and patience.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use async_nats::{Client, ConnectOptions, Event, ServerAddr};

use super::BusError;
use super::link::Role;
use crate::backoff::{Backoff, Rarely};
use crate::metrics::Metrics;

/// Silence after which the server is pinged. The third ping without an answer ends the connection, so a
/// server that hangs is left after three of these.
const PING_EVERY: Duration = Duration::from_secs(2);
/// How long a TCP connection with its handshake may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// The longest wait between two attempts to reconnect.
const RECONNECT_MOST: Duration = Duration::from_secs(4);

/// How to reach NATS, and what to make there.
#[derive(Debug, Clone)]
pub struct NatsOptions {
    /// Servers to try, `nats://host:port` or `tls://host:port`; the cluster's others are found by
    /// themselves. Credentials in a URL are taken as [`credentials`](Self::credentials).
    pub urls: Vec<String>,
    /// Who we are.
    pub credentials: Option<Credentials>,
    /// Requires TLS. A `tls://` URL does too, with the system's certificate authorities.
    pub tls: Option<NatsTls>,
    /// Copies of every stream and bucket, 1 to 5. Raised on existing streams, never lowered.
    pub replicas: usize,
    /// Bytes a shard's journal may take, at which publishing is refused. Raised on existing streams,
    /// never lowered.
    pub journal_bytes: u64,
    /// How long a publisher's id is remembered; of streams that this process creates.
    pub dedupe_window: Duration,
    /// Bytes of batches that a live subscription holds before it drops.
    pub live_queue_bytes: usize,
    /// Bytes of publish requests held before they are dropped.
    pub request_queue_bytes: usize,
    /// What the server lists this process as.
    pub name: String,
    /// Below which subjects this process has its answers: those of its kind may be its own, which no other kind may
    /// read or write (`deploy/nats/accounts.conf`).
    pub inbox: String,
}

/// Who we are to NATS. Secrets don't show in `Debug`.
#[derive(Clone)]
pub enum Credentials {
    /// A `.creds` file with a JWT and a seed.
    File(PathBuf),
    /// A user and password.
    User {
        /// The user.
        user: String,
        /// The password.
        password: String,
    },
    /// A token.
    Token(String),
}

/// TLS towards NATS.
#[derive(Debug, Clone, Default)]
pub struct NatsTls {
    /// PEM file of a certificate authority beside the system's.
    pub authority: Option<PathBuf>,
    /// PEM files of a client certificate and its key.
    pub certificate: Option<(PathBuf, PathBuf)>,
}

impl Default for NatsOptions {
    /// One local server, one copy, 1 GiB per shard, a dedupe window of 2 minutes, queues of 64 MiB.
    fn default() -> Self {
        NatsOptions {
            urls: vec!["nats://127.0.0.1:4222".to_owned()],
            credentials: None,
            tls: None,
            replicas: 1,
            journal_bytes: 1 << 30,
            dedupe_window: Duration::from_secs(120),
            live_queue_bytes: 64 << 20,
            request_queue_bytes: 64 << 20,
            name: "foghorn".to_owned(),
            inbox: "_INBOX".to_owned(),
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Credentials::File(path) => f.debug_tuple("File").field(path).finish(),
            Credentials::User { user, .. } => {
                f.debug_struct("User").field("user", user).finish_non_exhaustive()
            }
            Credentials::Token(_) => f.write_str("Token(..)"),
        }
    }
}

/// A client of its own connection. Tries for ever.
pub(super) async fn connect(
    options: &NatsOptions,
    role: Role,
    metrics: &Metrics,
) -> Result<Client, BusError> {
    let (servers, in_url) = servers(&options.urls)?;
    let names: Vec<String> = servers.iter().map(|s| format!("{}:{}", s.host(), s.port())).collect();
    let names = names.join(", ");
    let name = format!("{}{}", options.name, role.suffix());
    let credentials = options.credentials.clone().or(in_url);
    let rarely = Rarely::default();
    let mut backoff = Backoff::default();
    loop {
        // Anew each time: a credentials file may be renewed while we wait. One that is missing is final.
        let attempt = connect_options(options, &name, credentials.as_ref(), metrics).await?;
        let attempt = attempt.name(&name).subscription_capacity(role.queue_messages());
        match attempt.connect(servers.clone()).await {
            Ok(client) => return Ok(client),
            Err(error) => {
                metrics.connect_retries.inc();
                if rarely.now() {
                    tracing::warn!(servers = names, %error, "waiting for NATS: can't connect");
                }
            }
        }
        backoff.wait().await;
    }
}

async fn connect_options(
    options: &NatsOptions,
    name: &str,
    credentials: Option<&Credentials>,
    metrics: &Metrics,
) -> Result<ConnectOptions, BusError> {
    let (metrics, name, rarely) = (metrics.clone(), name.to_owned(), Rarely::default());
    let mut connect = ConnectOptions::new()
        .ping_interval(PING_EVERY)
        .connection_timeout(CONNECT_TIMEOUT)
        .custom_inbox_prefix(&options.inbox)
        // The subjects we send on are made of checked channels.
        .skip_subject_validation(true)
        // The client's own delays have no jitter.
        .reconnect_delay_callback(|attempts| {
            let doublings = u32::try_from(attempts.saturating_sub(1).min(16)).unwrap_or(16);
            let bound = Duration::from_millis(50).saturating_mul(1 << doublings).min(RECONNECT_MOST);
            bound.mul_f64(fastrand::f64())
        })
        .event_callback(move |event| {
            note(&event, &name, &rarely, &metrics);
            std::future::ready(())
        });
    connect = match credentials {
        None => connect,
        Some(Credentials::User { user, password }) => {
            connect.user_and_password(user.clone(), password.clone())
        }
        Some(Credentials::Token(token)) => connect.token(token.clone()),
        Some(Credentials::File(path)) => connect.credentials_file(path).await.map_err(|error| {
            BusError::Options(format!("the credentials file {} can't be read: {error}", path.display()))
        })?,
    };
    if let Some(tls) = &options.tls {
        connect = connect.require_tls(true);
        if let Some(authority) = &tls.authority {
            connect = connect.add_root_certificates(authority.clone());
        }
        if let Some((certificate, key)) = &tls.certificate {
            connect = connect.add_client_certificate(certificate.clone(), key.clone());
        }
    }
    Ok(connect)
}

/// The servers without the credentials that their URLs hold: the client logs URLs whole.
fn servers(urls: &[String]) -> Result<(Vec<ServerAddr>, Option<Credentials>), BusError> {
    let mut servers = Vec::with_capacity(urls.len());
    let mut credentials = None;
    for url in urls {
        // No error quotes the URL: it may hold a password.
        let wrong =
            || BusError::Options("a URL is not of the form nats://host:port or tls://host:port".to_owned());
        let server: ServerAddr = url.trim().parse().map_err(|_| wrong())?;
        if server.is_websocket() {
            return Err(wrong());
        }
        credentials = credentials.or_else(|| match (server.username(), server.password()) {
            (Some(user), Some(password)) => {
                Some(Credentials::User { user: user.to_owned(), password: password.to_owned() })
            }
            (Some(token), None) => Some(Credentials::Token(token.to_owned())),
            _ => None,
        });
        let mut url = server.into_inner();
        if url.set_username("").is_err() || url.set_password(None).is_err() {
            return Err(wrong());
        }
        servers.push(ServerAddr::from_url(url).map_err(|_| wrong())?);
    }
    if servers.is_empty() {
        return Err(BusError::Options("no URL is given".to_owned()));
    }
    Ok((servers, credentials))
}

/// Events come through a short queue that drops: good for telling people, not for counting on.
fn note(event: &Event, connection: &str, rarely: &Rarely, metrics: &Metrics) {
    match event {
        Event::Connected => tracing::info!(connection, "connected to NATS"),
        Event::Disconnected => {
            metrics.connections_lost.inc();
            // Whoever may publish can make the client drop a connection, as often as they like.
            if rarely.now() {
                tracing::warn!(connection, "lost the connection to NATS; reconnecting");
            }
        }
        Event::LameDuckMode => {
            tracing::info!("the NATS server is about to stop; the client moves on by itself");
        }
        Event::SlowConsumer(_) => {
            metrics.client_queue_overflows.inc();
        }
        Event::ServerError(error) => {
            metrics.server_errors.inc();
            tracing::warn!(%error, "NATS reports an error");
        }
        Event::ClientError(error) => {
            metrics.connect_retries.inc();
            tracing::debug!(%error, "NATS client");
        }
        Event::Draining | Event::Closed => tracing::debug!(%event, "NATS client"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_leave_the_url_and_stay_out_of_debug() {
        let (servers, credentials) =
            servers(&["nats://ann:hunter2@a:4223".to_owned(), "tls://b".to_owned()]).unwrap();
        assert_eq!(servers[0].as_url_str(), "nats://a:4223");
        assert_eq!((servers[1].host(), servers[1].port()), ("b", 4222));
        let options = NatsOptions { credentials, ..NatsOptions::default() };
        assert!(matches!(&options.credentials, Some(Credentials::User { user, .. }) if user == "ann"));
        assert!(!format!("{options:?}").contains("hunter2"));
        assert!(!format!("{:?}", Credentials::Token("hunter2".to_owned())).contains("hunter2"));
    }

    #[test]
    fn a_bad_url_is_refused_without_being_quoted() {
        for bad in ["http://x:hunter2@y", "nats://[hunter2", "ws://y"] {
            let error = servers(&[bad.to_owned()]).unwrap_err().to_string();
            assert!(error.contains("nats://host:port") && !error.contains("hunter2"), "{error}");
        }
        assert!(servers(&[]).is_err());
    }
}
