//! What every service's process does alike: sockets, the admin port, signals.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::sync::watch;

use foghorn_auth::Authenticator;
use foghorn_auth::keys::Keys;
use foghorn_bus::clock::Clock;
use foghorn_http::Handler;
use foghorn_http::connections::{self, Connections};
use foghorn_http::cors::Guarded;
use foghorn_http::listen::Reserved;
use foghorn_http::serve::{Limits, Preamble, serve};
use foghorn_telemetry::admin::{Admin, SharedRegistry};
use foghorn_telemetry::health::{Health, Part};
use foghorn_telemetry::shutdown::{self, Shutdown};
use foghorn_telemetry::traces;

use crate::config::Config;
use crate::webhook;

/// How long connections may take to end after everything was said.
const LAST_REQUESTS: Duration = Duration::from_secs(5);

/// How often what a process needs is looked at, and how long it must have been gone to be called lost. A
/// change of leader or a restart behind a load balancer is over by then.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const LOST_AFTER: Duration = Duration::from_secs(15);
/// How long a look may take.
const LOOK_DEADLINE: Duration = Duration::from_secs(10);

/// A service can't start because of how it was told to: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Misconfigured(pub(crate) String);

/// What a process has whatever it serves.
pub(crate) struct Process {
    pub(crate) health: Health,
    pub(crate) registry: SharedRegistry,
    pub(crate) shutdown: Shutdown,
    listeners: connections::Metrics,
}

impl Process {
    /// Takes over the signals, and traces as `service` if that is configured.
    pub(crate) fn start(config: &Config, service: &str) -> anyhow::Result<Self> {
        let (trigger, shutdown) = shutdown::channel();
        shutdown::on_signals(trigger)?;
        let registry = SharedRegistry::default();
        foghorn_telemetry::process::register(&mut registry.write(), env!("CARGO_PKG_VERSION"));
        traces::start(&config.telemetry.traces, service, &mut registry.write())
            .map_err(|error| Misconfigured(format!("telemetry.traces.{error}")))?;
        let listeners = connections::Metrics::register(&mut registry.write());
        Ok(Process { health: Health::default(), registry, shutdown, listeners })
    }
}

impl Process {
    /// The connections that its gRPC listener may have.
    pub(crate) fn grpc_connections(&self) -> Connections {
        self.listeners.listener("grpc", foghorn_rpc::serve::CONNECTIONS_MAX)
    }

    /// What comes of `starting`; `None` when the process is told to stop first.
    pub(crate) async fn unless_stopped<T>(&self, starting: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            started = starting => Some(started),
            () = self.shutdown.wait() => None,
        }
    }
}

impl Process {
    /// Looks whether what `part` stands for is still there, until the process stops: unready when it is lost,
    /// and ready when it is back. The part is ready now.
    pub(crate) fn watch<F>(&self, part: Part, mut look: impl FnMut() -> F + Send + 'static)
    where
        F: Future<Output = Result<(), String>> + Send,
    {
        let mut watched = part.watched(LOST_AFTER);
        let shutdown = self.shutdown.clone();
        let looking = async move {
            loop {
                tokio::time::sleep(LOOK_EVERY).await;
                let found = tokio::time::timeout(LOOK_DEADLINE, look()).await;
                watched.saw(Instant::now(), found.unwrap_or_else(|_| Err("no answer".to_owned())));
            }
        };
        tokio::spawn(async move {
            tokio::select! {
                () = looking => {}
                () = shutdown.wait() => {}
            }
        });
    }

    /// Turns unready as soon as the process is told to stop.
    pub(crate) fn unready_when_stopping(&self) {
        let (health, shutdown) = (self.health.clone(), self.shutdown.clone());
        tokio::spawn(async move {
            shutdown.wait().await;
            health.part("drain", "its end: the process is stopping, and sends its clients elsewhere");
        });
    }
}

/// Waits for what runs to end, but not for long: whoever killed us politely won't wait for ever either.
pub(crate) async fn last_requests(ending: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    if let Ok(ended) = tokio::time::timeout(LAST_REQUESTS, ending).await {
        return ended;
    }
    tracing::warn!("some requests did not end within {LAST_REQUESTS:?}; they are cut off");
    Ok(())
}

/// Keeps an address for a service that will listen on it once it can answer; an error when it is taken.
pub(crate) fn reserve(service: &'static str, address: SocketAddr) -> anyhow::Result<Reserved> {
    foghorn_http::listen::reserve(service, address).map_err(|error| Misconfigured(error.to_string()).into())
}

/// Accepts connections from now on.
pub(crate) fn listen(reserved: Reserved) -> anyhow::Result<TcpListener> {
    reserved.listen().map_err(|error| Misconfigured(error.to_string()).into())
}

/// Serves HTTP in a task of its own until `stop` turns true, to the hosts and origins that are configured.
pub(crate) fn spawn_http(
    listener: TcpListener,
    handler: Arc<dyn Handler>,
    config: &Config,
    process: &Process,
    preamble: Preamble,
    stop: watch::Receiver<bool>,
) -> tokio::task::JoinHandle<()> {
    let limits = Limits {
        connections: process.listeners.listener("http", config.http.connections),
        // The same for a stream, whatever it is written over.
        write_stall: config.gateway.slow_time,
        ..Limits::default()
    };
    let handler = Arc::new(Guarded::new(config.guard(), handler));
    tokio::spawn(serve(listener, handler, limits, preamble, stop))
}

/// What the HTTP listener's connections begin with.
pub(crate) fn preamble(config: &Config) -> Result<Preamble, Misconfigured> {
    let proxied = config.http.proxied().map_err(Misconfigured)?;
    Ok(Preamble { proxied: proxied.into(), tls: config.http.tls.load().map_err(Misconfigured)? })
}

/// Serves the admin port until the process ends: probes must see it drain.
pub(crate) fn spawn_admin(config: &Config, process: &Process) -> anyhow::Result<()> {
    let admin = Admin::new(process.health.clone(), process.registry.clone());
    let listener = listen(reserve("admin", config.listen.admin)?)?;
    let (forever, stop) = watch::channel(false);
    let limits = Limits { connections: process.listeners.listener("admin", 256), ..Limits::default() };
    tokio::spawn(async move {
        // Without TLS: probes know no certificate, and come by no proxy.
        serve(listener, Arc::new(admin), limits, Preamble::default(), stop).await;
        drop(forever);
    });
    Ok(())
}

/// Who knows callers. `open`: whoever has no credential may do everything.
pub(crate) fn authenticator(config: &Config, open: bool) -> Result<Arc<Authenticator>, Misconfigured> {
    let keys = Keys::load(&config.auth).map_err(Misconfigured)?;
    match (keys.is_empty(), open) {
        (true, false) if !config.auth.webhook.is_configured() => tracing::warn!(
            "no auth.keys and no auth.jwks are configured: nobody can publish, and only what policies call public can be listened \
             to; --allow-anonymous lets everybody do everything"
        ),
        (false, true) => tracing::warn!("whoever has no credential may publish and listen to everything"),
        _ => {}
    }
    config.check_webhook(&config.policies).map_err(Misconfigured)?;
    let webhook = webhook::of(&config.auth).map_err(Misconfigured)?;
    let clock = Clock::default();
    let authenticator = Authenticator::new(&config.auth, keys, open, move || clock.now());
    Ok(Arc::new(authenticator.with_webhook(webhook)))
}

/// Checks that what is listened on may be.
pub(crate) fn check_exposure(config: &Config, addresses: &[SocketAddr]) -> Result<(), Misconfigured> {
    config.check_exposure(addresses).map_err(Misconfigured)
}
