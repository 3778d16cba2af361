//! The configuration: one TOML file, every key also in the environment, and flags over both.
//!
//! A key `section.name` is `FOGHORN_SECTION_NAME` in the environment. What is wrong is said with its
//! place: the line in the file, the variable, or the flag.

mod check;
mod place;
mod read;
mod secrets;
mod urls;
mod watched;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use foghorn_core::event::FRAME_BYTES_DEFAULT;
use foghorn_core::policy::{Policies, Policy};
use foghorn_core::shard::ShardCount;
use foghorn_http::client::{ForwardedBy, Network, NoNetwork, Proxies};
use foghorn_http::guard::Guard;
use foghorn_http::tls::{ClientFiles, Identity};
use foghorn_telemetry::logging::LogFormat;

pub(crate) use read::{ADDRESS, environment, policies_to_toml, read, read_policies};
pub(crate) use secrets::without_secrets;
pub(crate) use watched::{Seen, Watched};

/// Everything that can be configured.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    /// How many totally ordered sequences there are, 1 to 8; the same in every process of a cluster.
    pub shards: u64,
    /// Whether those without a credential may publish and listen to everything, from other machines too.
    pub allow_anonymous: bool,
    pub log: Log,
    pub telemetry: Telemetry,
    pub listen: Listen,
    pub http: Http,
    pub grpc: Grpc,
    pub auth: foghorn_auth::config::Config,
    pub limits: Limits,
    pub standalone: Standalone,
    pub nats: Nats,
    pub eventlog: EventLog,
    pub postgres: Postgres,
    pub outbox: Outbox,
    pub notifications: foghorn_notifications::config::Config,
    pub operator: foghorn_operator::config::Config,
    pub gateway: foghorn_gateway::config::Config,
    pub dashboard: foghorn_gateway::dashboard::Config,
    pub canary: foghorn_gateway::canary::Config,
    pub fanout: foghorn_fanout::config::Config,
    /// What holds for which channels.
    #[serde(rename = "policy")]
    pub policies: Vec<Policy>,
    /// The file that all of this is from, if it is from one.
    #[serde(skip)]
    pub file: Option<PathBuf>,
}

/// What logs look like and how much they say.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Log {
    pub format: LogFormat,
    /// A level, or tracing directives such as `info,foghorn_gateway=debug`.
    pub filter: String,
}

/// What a process shows of what it does, beside logs and metrics.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Telemetry {
    pub traces: foghorn_telemetry::traces::Config,
}

/// Where to listen. Port 0 takes a free one and the log says which.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Listen {
    pub http: SocketAddr,
    pub grpc: SocketAddr,
    /// Probes and metrics.
    pub admin: SocketAddr,
}

/// Who may ask over HTTP, besides loopback.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Http {
    /// Host names that are served; `*` for all (behind a proxy that checks them).
    pub hosts: Vec<String>,
    /// Origins whose pages may use the API, besides the server's own.
    pub origins: Vec<String>,
    /// Networks of proxies that are believed about whose requests they pass on, `10.0.0.0/8` or single addresses.
    pub trusted_proxies: Vec<String>,
    /// In which header they say it.
    pub forwarded_by: ForwardedBy,
    /// Networks of load balancers whose every connection begins with a header of the PROXY protocol, version 2.
    pub proxy_protocol: Vec<String>,
    /// Most connections to one listener; more wait. Above `gateway.connections`, or a gateway could never
    /// take the connection on which it says that it is full.
    pub connections: usize,
    pub tls: Tls,
}

/// Who the HTTP listener is. Without both it speaks no TLS.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Tls {
    /// PEM file of the server's certificate and its chain, the server's own first. Read again when it changes.
    pub certificate: PathBuf,
    /// PEM file of the certificate's key.
    pub key: PathBuf,
}

/// What gRPC is served with.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Grpc {
    pub tls: GrpcTls,
}

/// Who the gRPC listener is, and who may speak to it. Without certificate and key it speaks no TLS.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct GrpcTls {
    /// PEM file of the server's certificate and its chain, the server's own first. Read again when it changes.
    pub certificate: PathBuf,
    /// PEM file of the certificate's key.
    pub key: PathBuf,
    /// PEM file of the authority by which clients' certificates have to be; empty: none is asked for.
    pub client_ca: PathBuf,
}

/// What holds for the whole cluster.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Limits {
    /// Most bytes of an event as an SSE frame.
    pub event_bytes: usize,
}

/// The laptop.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Standalone {
    /// Where events are kept.
    pub data: PathBuf,
    /// Whether they are kept in memory alone.
    pub ephemeral: bool,
}

/// Where gateways and fan-outs find the event log.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct EventLog {
    /// One or more gRPC URLs, separated by commas; `https://` with `ca`.
    pub url: String,
    /// PEM file of the authority by which event logs' certificates have to be.
    pub ca: PathBuf,
    /// PEM file of this process's own certificate and its chain, if event logs ask for one.
    pub certificate: PathBuf,
    /// PEM file of the certificate's key.
    pub key: PathBuf,
}

/// The bus. Secrets are better given in the environment.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Nats {
    /// One or more server URLs, separated by commas.
    pub url: String,
    pub user: String,
    pub password: String,
    pub token: String,
    /// A `.creds` file.
    pub credentials: PathBuf,
    /// PEM file of a certificate authority beside the system's. This or a certificate requires TLS.
    pub ca: PathBuf,
    /// PEM file of a client certificate.
    pub certificate: PathBuf,
    /// PEM file of the certificate's key.
    pub key: PathBuf,
    /// Copies of the journal; 3 for a cluster that survives the loss of a server.
    pub replicas: usize,
    /// Bytes of each shard's journal; at the bound, publishing is refused until the log has caught up.
    pub journal_bytes: u64,
}

/// The event log's database.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Postgres {
    /// `postgres://user:password@host/database`.
    pub url: String,
    /// Most connections that one process reads with. Its writers and chores take up to 10 more.
    pub connections: u32,
}

/// The outbox of an application, for transactional publishing.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Outbox {
    /// The database that it is in, `postgres://user:password@host/database`; empty for none. Standalone drains
    /// it, and `foghorn outbox` does.
    pub postgres: String,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            shards: 1,
            allow_anonymous: false,
            log: Log::default(),
            telemetry: Telemetry::default(),
            listen: Listen::default(),
            http: Http::default(),
            grpc: Grpc::default(),
            auth: foghorn_auth::config::Config::default(),
            limits: Limits::default(),
            standalone: Standalone::default(),
            nats: Nats::default(),
            eventlog: EventLog::default(),
            postgres: Postgres::default(),
            outbox: Outbox::default(),
            notifications: foghorn_notifications::config::Config::default(),
            operator: foghorn_operator::config::Config::default(),
            gateway: foghorn_gateway::config::Config::default(),
            dashboard: foghorn_gateway::dashboard::Config::default(),
            canary: foghorn_gateway::canary::Config::default(),
            fanout: foghorn_fanout::config::Config::default(),
            policies: Vec::new(),
            file: None,
        }
    }
}

impl Default for Http {
    fn default() -> Self {
        Http {
            hosts: Vec::new(),
            origins: Vec::new(),
            trusted_proxies: vec!["127.0.0.0/8".to_owned(), "::1".to_owned()],
            forwarded_by: ForwardedBy::XForwardedFor,
            proxy_protocol: Vec::new(),
            connections: 101_000,
            tls: Tls::default(),
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Log { format: LogFormat::Text, filter: "info".to_owned() }
    }
}

impl Default for Listen {
    fn default() -> Self {
        Listen {
            http: SocketAddr::from(([127, 0, 0, 1], 8080)),
            grpc: SocketAddr::from(([127, 0, 0, 1], 50051)),
            admin: SocketAddr::from(([127, 0, 0, 1], 9090)),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits { event_bytes: FRAME_BYTES_DEFAULT }
    }
}

impl Default for Standalone {
    fn default() -> Self {
        Standalone { data: PathBuf::from("foghorn-data"), ephemeral: false }
    }
}

impl Default for Nats {
    fn default() -> Self {
        Nats {
            url: "nats://127.0.0.1:4222".to_owned(),
            user: String::new(),
            password: String::new(),
            token: String::new(),
            credentials: PathBuf::new(),
            ca: PathBuf::new(),
            certificate: PathBuf::new(),
            key: PathBuf::new(),
            replicas: 1,
            journal_bytes: 1 << 30,
        }
    }
}

impl Default for Postgres {
    fn default() -> Self {
        Postgres { url: "postgres://foghorn@127.0.0.1/foghorn".to_owned(), connections: 16 }
    }
}

/// Without the secrets.
impl std::fmt::Debug for Nats {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Nats")
            .field("replicas", &self.replicas)
            .field("journal_bytes", &self.journal_bytes)
            .finish_non_exhaustive()
    }
}

/// Without the URL, which holds the password.
impl std::fmt::Debug for Postgres {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Postgres").field("connections", &self.connections).finish_non_exhaustive()
    }
}

/// Without the URL, which holds the password.
impl std::fmt::Debug for Outbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outbox").field("is_configured", &self.is_configured()).finish_non_exhaustive()
    }
}

impl Outbox {
    /// Whether there is one.
    pub(crate) fn is_configured(&self) -> bool {
        !self.postgres.is_empty()
    }
}

impl Default for EventLog {
    fn default() -> Self {
        EventLog {
            url: "http://127.0.0.1:50052".to_owned(),
            ca: PathBuf::new(),
            certificate: PathBuf::new(),
            key: PathBuf::new(),
        }
    }
}

impl EventLog {
    /// How event logs are known and this process to them, if they speak TLS.
    pub(crate) fn tls(&self) -> Option<ClientFiles> {
        let identity = given(&self.certificate).zip(given(&self.key));
        given(&self.ca).map(|authority| ClientFiles { table: "eventlog", authority, identity })
    }
}

impl GrpcTls {
    /// The files' certificate and key, if there are some.
    pub(crate) fn load(&self) -> Result<Option<Arc<Identity>>, String> {
        let Some(certificate) = given(&self.certificate) else { return Ok(None) };
        let identity = Identity::load_grpc(&certificate, &self.key, given(&self.client_ca).as_deref())?;
        Ok(Some(Arc::new(identity)))
    }
}

/// A path that is configured; an empty one is none.
pub(crate) fn given(path: &Path) -> Option<PathBuf> {
    (!path.as_os_str().is_empty()).then(|| path.to_owned())
}

impl Http {
    /// The proxies that are believed.
    pub(crate) fn proxies(&self) -> Result<Proxies, String> {
        let networks = networks("http.trusted_proxies", &self.trusted_proxies)?;
        Ok(Proxies::new(networks, self.forwarded_by))
    }

    /// Whose connections begin with whom they are from.
    pub(crate) fn proxied(&self) -> Result<Vec<Network>, String> {
        networks("http.proxy_protocol", &self.proxy_protocol)
    }
}

impl Tls {
    /// Whether the HTTP listener speaks TLS.
    pub(crate) fn is_configured(&self) -> bool {
        !self.certificate.as_os_str().is_empty()
    }

    /// The files' certificate and key, if there are some.
    pub(crate) fn load(&self) -> Result<Option<Arc<Identity>>, String> {
        if !self.is_configured() {
            return Ok(None);
        }
        Identity::load(&self.certificate, &self.key).map(|identity| Some(Arc::new(identity)))
    }
}

fn networks(key: &str, texts: &[String]) -> Result<Vec<Network>, String> {
    let read = |text: &String| text.parse().map_err(|what: NoNetwork| format!("{key}: {text:?} {what}"));
    texts.iter().map(read).collect()
}

impl Config {
    /// The number of shards as its type.
    pub(crate) fn shard_count(&self) -> Result<ShardCount, String> {
        ShardCount::new(self.shards).map_err(|error| format!("shards: {error}"))
    }

    /// Who may ask this process over HTTP.
    pub(crate) fn guard(&self) -> Guard {
        Guard::new(&self.http.hosts, &self.http.origins).over_tls(self.http.tls.is_configured())
    }

    /// The policies, checked against each other.
    pub(crate) fn checked_policies(&self) -> Result<Arc<Policies>, String> {
        Policies::new(self.policies.clone()).map(Arc::new).map_err(|error| error.to_string())
    }
}
