//! A cluster's services, each a process of its own.
//!
//! All start alike: the admin port first, so that probes hear what a start waits for; then the bus; then
//! what the service is. Nothing here needs another service to be there: each waits for what it needs,
//! unready, and says so. Meanwhile its other ports are reserved and refuse connections: one that was
//! accepted and not answered would keep a listener or publisher from the replicas that are ready.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tonic::service::Routes;

use foghorn_bus::clock::Clock;
use foghorn_bus::gateways::GatewayName;
use foghorn_bus::log::EventLog;
use foghorn_bus::nats::{Bus, BusError, Credentials, NatsOptions, NatsTls, Parameters};
use foghorn_bus::subscriptions::SUBSCRIPTIONS_MAX;
use foghorn_core::entry::Key;
use foghorn_core::position::{Epoch, Position};
use foghorn_core::shard::Shard;
use foghorn_eventlog::postgres::writer::TRIM_BEHIND_DEFAULT;
use foghorn_eventlog::postgres::{MigrateError, PostgresOptions};
use foghorn_eventlog::service::Service as EventLogService;
use foghorn_fanout::service::{Fanout, NatsDoors, Ports as FanoutPorts};
use foghorn_gateway::service::{Gateway, Ports as GatewayPorts};
use foghorn_rpc::client::RemoteEventLog;
use foghorn_rpc::v1::event_log_server;
use foghorn_telemetry::health::Part;
use foghorn_telemetry::status::Service;

use crate::config::{Config, given};
use crate::keys;
use crate::policies::{self, Reader};
use crate::process::{self, Misconfigured, Process, check_exposure, last_requests, spawn_admin, spawn_http};
use crate::router::WithConsole;
use crate::{revocations, status, tickets};

/// `foghorn gateway`.
pub(crate) async fn gateway(config: Config) -> anyhow::Result<()> {
    check_exposure(&config, &[config.listen.http, config.listen.admin])?;
    let auth = process::authenticator(&config, config.allow_anonymous)?;
    let preamble = process::preamble(&config)?;
    let process = Process::start(&config, "gateway")?;
    keys::follow(&auth, &process)?;
    auth.register(&mut process.registry.write());
    let http = process::reserve("http", config.listen.http)?;
    spawn_admin(&config, &process)?;
    // Not watched: without NATS a gateway goes on from what it has, and says `stream-stale`.
    let Some((bus, _)) = connect(&config, &process, "gateway").await? else { return Ok(()) };
    let parameters = parameters(&config)?;
    let Some(agreed) = process.unless_stopped(bus.agree(&parameters)).await else { return Ok(()) };
    agreed.map_err(bus_error)?;
    let kept = revocations::of_cluster(&bus, auth.revocations(), &process).await.map_err(bus_error)?;
    let Some(kept) = kept else { return Ok(()) };
    let tickets = tickets::of_cluster(&bus, &process).await.map_err(bus_error)?;
    let Some(tickets) = tickets else { return Ok(()) };

    let Some(policies) = policies::of_cluster(&bus, &config, Reader::Asking, &process).await? else {
        return Ok(());
    };
    let subscriptions = process.unless_stopped(bus.subscriptions(SUBSCRIPTIONS_MAX)).await;
    let Some(subscriptions) = subscriptions else { return Ok(()) };
    let subscriptions = Arc::new(subscriptions.map_err(bus_error)?);

    let log = remote_log(&config, &process)?;
    let announcer = Arc::new(bus.announcer());
    let ports = GatewayPorts {
        feed: Arc::new(bus.live(parameters.shards)),
        log,
        shards: parameters.shards,
        policies,
        auth,
        revocations: kept,
        tickets,
        subscriptions,
        gateways: Arc::new(bus.gateways()),
        unread: Arc::new(bus.unread()),
        announcer: announcer.clone(),
        statuses: Arc::new(bus.statuses()),
        proxies: config.http.proxies().map_err(Misconfigured)?,
        clock: Clock::default(),
        health: process.health.clone(),
    };
    let (settings, dashboard) = (config.gateway.clone(), config.dashboard.clone());
    let mut gateway = Gateway::start(settings, dashboard, ports, &mut process.registry.write());
    gateway.begin_canary(&config.canary, announcer, &mut process.registry.write());
    gateway.begin_paced(Arc::new(bus.pacer()), status::host());
    status::tell(&process, Service::Gateway, gateway.name(), Arc::new(bus.statuses()));
    let (stop, stopped) = watch::channel(false);
    let handler = Arc::new(WithConsole(gateway.api()));
    let http = spawn_http(process::listen(http)?, handler, &config, &process, preamble, stopped);

    process.shutdown.wait().await;
    gateway.drain(|| _ = stop.send_replace(true)).await;
    last_requests(async { Ok(http.await?) }).await
}

/// `foghorn fanout`.
pub(crate) async fn fanout(config: Config) -> anyhow::Result<()> {
    check_exposure(&config, &[config.listen.http, config.listen.grpc, config.listen.admin])?;
    let auth = process::authenticator(&config, config.allow_anonymous)?;
    let preamble = process::preamble(&config)?;
    let process = Process::start(&config, "fanout")?;
    keys::follow(&auth, &process)?;
    auth.register(&mut process.registry.write());
    let http = process::reserve("http", config.listen.http)?;
    let grpc = process::reserve("grpc", config.listen.grpc)?;
    let grpc_tls = config.grpc.tls.load().map_err(Misconfigured)?;
    spawn_admin(&config, &process)?;
    let Some((bus, nats)) = connect(&config, &process, "fanout").await? else { return Ok(()) };
    status::tell(&process, Service::Fanout, GatewayName::random(), Arc::new(bus.statuses()));
    let parameters = parameters(&config)?;
    let opened = process.unless_stopped(async {
        let (journal, leases) = (bus.journal(&parameters).await?, bus.leases().await?);
        let group = foghorn_fanout::nats::GROUP;
        let (publishers, gateways) = (bus.serve_requests(group).await?, bus.serve_presence(group).await?);
        let canaries = bus.serve_canaries(group).await?;
        Ok((journal, leases, NatsDoors { publishers, gateways, canaries }))
    });
    let Some(opened) = opened.await else { return Ok(()) };
    let (journal, leases, requests) = opened.map_err(bus_error)?;
    let kept = revocations::of_cluster(&bus, auth.revocations(), &process).await.map_err(bus_error)?;
    if kept.is_none() {
        return Ok(());
    }
    let Some(policies) = policies::of_cluster(&bus, &config, Reader::Asking, &process).await? else {
        return Ok(());
    };
    process.unready_when_stopping();
    let connection = bus.clone();
    process.watch(nats, move || {
        let stands = connection.connected();
        async move { if stands { Ok(()) } else { Err("NATS: the connection is lost".to_owned()) } }
    });

    let ports = FanoutPorts {
        journal: Arc::new(journal),
        feed: Arc::new(bus.live(parameters.shards)),
        leases: Arc::new(leases),
        log: remote_log(&config, &process)?,
        auth,
        proxies: config.http.proxies().map_err(Misconfigured)?,
        clock: Clock::default(),
    };
    let fanout = Fanout::new(
        ports,
        policies,
        config.fanout.clone(),
        &process.health,
        process.shutdown.clone(),
        &mut process.registry.write(),
    );
    let (http, grpc) = (process::listen(http)?, process::listen(grpc)?);
    let http =
        spawn_http(http, Arc::new(fanout.http()), &config, &process, preamble, process.shutdown.receiver());
    let grpc = tokio::spawn(foghorn_rpc::serve::serve(
        grpc,
        Routes::new(fanout.grpc()),
        &[foghorn_fanout::grpc::SERVICE],
        process.grpc_connections(),
        grpc_tls,
        process.shutdown.receiver(),
    ));
    // Returns when it is time to stop, leases given up and requests answered.
    fanout.run(Some(requests)).await;
    last_requests(async {
        http.await?;
        Ok(grpc.await??)
    })
    .await
}

/// `foghorn eventlog`.
pub(crate) async fn eventlog(config: Config) -> anyhow::Result<()> {
    config.check_log_exposure().map_err(Misconfigured)?;
    check_exposure(&config, &[config.listen.admin])?;
    let process = Process::start(&config, "eventlog")?;
    let grpc = process::reserve("grpc", config.listen.grpc)?;
    let grpc_tls = config.grpc.tls.load().map_err(Misconfigured)?;
    spawn_admin(&config, &process)?;
    // Not watched: without NATS the log still answers from PostgreSQL.
    let Some((bus, _)) = connect(&config, &process, "eventlog").await? else { return Ok(()) };
    status::tell(&process, Service::Eventlog, GatewayName::random(), Arc::new(bus.statuses()));
    let parameters = parameters(&config)?;
    let opened = process.unless_stopped(async { Ok((bus.journal(&parameters).await?, bus.leases().await?)) });
    let Some(opened) = opened.await else { return Ok(()) };
    let (journal, leases) = opened.map_err(bus_error)?;

    let place = postgres_options(&config).place();
    let postgres = process.health.part("postgres", format!("PostgreSQL at {place}"));
    let metrics = foghorn_eventlog::metrics::Metrics::register(&mut process.registry.write());
    let Some(policies) = policies::of_cluster(&bus, &config, Reader::Keeping, &process).await? else {
        return Ok(());
    };
    let service = EventLogService {
        postgres: postgres_options(&config),
        journal: Arc::new(journal),
        leases: Arc::new(leases),
        policies,
        trim_behind: TRIM_BEHIND_DEFAULT,
        metrics,
    };
    let Some(running) = process.unless_stopped(service.start()).await else { return Ok(()) };
    let running = running.map_err(migrate_error)?;
    process.unready_when_stopping();
    let log = running.log();
    process.watch(postgres, move || ask_postgres(log.clone(), place.clone()));
    let routes = Routes::new(foghorn_rpc::server::event_log(running.log(), parameters.shards));
    let grpc = tokio::spawn(foghorn_rpc::serve::serve(
        process::listen(grpc)?,
        routes,
        &[event_log_server::SERVICE_NAME],
        process.grpc_connections(),
        grpc_tls,
        process.shutdown.receiver(),
    ));
    process.shutdown.wait().await;
    last_requests(async { Ok(grpc.await??) }).await?;
    running.stop().await;
    Ok(())
}

/// `foghorn eventlog migrate`.
pub(crate) async fn migrate(config: Config) -> anyhow::Result<()> {
    let migrated = foghorn_eventlog::postgres::migrate(&config.postgres.url).await.map_err(migrate_error)?;
    if migrated.steps.is_empty() {
        println!("the schema is at version {} already", migrated.to);
    } else {
        println!(
            "the schema went from version {} to {}: {}",
            migrated.from,
            migrated.to,
            migrated.steps.join(", ")
        );
    }
    Ok(())
}

/// Asks the log what only PostgreSQL can answer, and cheaply: about a position before every other.
async fn ask_postgres(log: Arc<dyn EventLog>, place: String) -> Result<(), String> {
    let before_all = Position { shard: Shard::ZERO, epoch: Epoch::new(0), seq: 0 };
    let asked = log.committed(before_all, Key::from_bytes([0; 16]), Duration::ZERO).await;
    asked.map(|_| ()).map_err(|error| format!("PostgreSQL at {place}: {error}"))
}

/// The bus, once it answers, and what its connection is to readiness. `None` when the process is told to stop first.
/// `service` is its kind, below which it has its answers.
pub(crate) async fn connect(
    config: &Config,
    process: &Process,
    service: &str,
) -> anyhow::Result<Option<(Bus, Part)>> {
    config.check_nats_files().map_err(Misconfigured)?;
    let waiting = process.health.part("nats", "NATS");
    let metrics = foghorn_bus::metrics::Metrics::register(&mut process.registry.write());
    let connecting = Bus::connect(nats_options(config, service), metrics);
    let Some(bus) = process.unless_stopped(connecting).await else { return Ok(None) };
    let bus = bus.map_err(bus_error)?;
    waiting.ready();
    Ok(Some((bus, waiting)))
}

pub(crate) fn nats_options(config: &Config, service: &str) -> NatsOptions {
    let nats = &config.nats;
    let credentials = if !nats.credentials.as_os_str().is_empty() {
        Some(Credentials::File(nats.credentials.clone()))
    } else if !nats.user.is_empty() {
        Some(Credentials::User { user: nats.user.clone(), password: nats.password.clone() })
    } else if !nats.token.is_empty() {
        Some(Credentials::Token(nats.token.clone()))
    } else {
        None
    };
    let tls =
        NatsTls { authority: given(&nats.ca), certificate: given(&nats.certificate).zip(given(&nats.key)) };
    NatsOptions {
        urls: nats.url.split(',').map(|url| url.trim().to_owned()).collect(),
        credentials,
        // Without any of it the URL says whether TLS is meant.
        tls: (tls.authority.is_some() || tls.certificate.is_some()).then_some(tls),
        replicas: nats.replicas,
        journal_bytes: nats.journal_bytes,
        live_queue_bytes: config.gateway.feed_bytes,
        inbox: format!("_INBOX.{service}"),
        ..NatsOptions::default()
    }
}

fn postgres_options(config: &Config) -> PostgresOptions {
    PostgresOptions { readers: config.postgres.connections, ..PostgresOptions::new(&config.postgres.url) }
}

pub(crate) fn parameters(config: &Config) -> Result<Parameters, Misconfigured> {
    Ok(Parameters {
        shards: config.shard_count().map_err(Misconfigured)?,
        event_bytes: config.limits.event_bytes,
    })
}

pub(crate) fn remote_log(config: &Config, process: &Process) -> anyhow::Result<Arc<RemoteEventLog>> {
    let shards = config.shard_count().map_err(Misconfigured)?;
    let mut registry = process.registry.write();
    let log = RemoteEventLog::new(&config.eventlog.url, config.eventlog.tls(), shards, &mut registry);
    log.map(Arc::new).map_err(|error| Misconfigured(format!("eventlog.url: {error}")).into())
}

/// What was configured wrongly exits with 2; what NATS refuses, with 1.
pub(crate) fn bus_error(error: BusError) -> anyhow::Error {
    match error {
        BusError::Options(_) | BusError::Parameters(_) => Misconfigured(error.to_string()).into(),
        BusError::Stream { .. } | BusError::Refused { .. } => error.into(),
    }
}

/// A schema that isn't this binary's is a wrong choice of binary: exit code 2. All else failed: 1.
pub(crate) fn migrate_error(error: MigrateError) -> anyhow::Error {
    match error {
        MigrateError::Newer { .. } => Misconfigured(error.to_string()).into(),
        MigrateError::Database { .. } | MigrateError::Failed { .. } | MigrateError::Slow { .. } => {
            error.into()
        }
    }
}
