//! Everything in one process: the same services as a cluster's, over an in-process bus and SQLite.

use std::sync::Arc;

use tokio::sync::watch;
use tonic::service::Routes;

use foghorn_bus::clock::Clock;
use foghorn_bus::memory::{Alone, MemoryLeases, MemoryLive, MemoryStatuses, MemorySubscriptions};
use foghorn_bus::policies::SharedPolicies;
use foghorn_eventlog::sqlite::{OpenError, SqliteLog, SqliteOptions};
use foghorn_fanout::service::{Fanout, Ports as FanoutPorts};
use foghorn_gateway::service::{Gateway, Ports as GatewayPorts};
use foghorn_telemetry::status::Service;

use crate::config::Config;
use crate::demo::Demo;
use crate::keys;
use crate::notifications;
use crate::outbox;
use crate::policies;
use crate::process::{self, Misconfigured, Process, check_exposure, spawn_admin, spawn_http};
use crate::revocations;
use crate::router::Router;
use crate::status;
use crate::tickets;

/// Runs until told to stop.
pub(crate) async fn run(config: Config) -> anyhow::Result<()> {
    serve(config, None).await
}

/// The same with a demo of it, if there is one.
pub(crate) async fn serve(config: Config, demo: Option<Demo>) -> anyhow::Result<()> {
    check_exposure(&config, &[config.listen.http, config.listen.grpc, config.listen.admin])?;
    // On a laptop nobody has to configure anything; elsewhere it isn't reached without.
    let auth = process::authenticator(&config, config.allow_anonymous || !config.auth.is_configured())?;
    let preamble = process::preamble(&config)?;
    let http = process::reserve("http", config.listen.http)?;
    let grpc = process::reserve("grpc", config.listen.grpc)?;
    let grpc_tls = config.grpc.tls.load().map_err(Misconfigured)?;
    let process = Process::start(&config, "standalone")?;
    spawn_admin(&config, &process)?;
    keys::follow(&auth, &process)?;
    auth.register(&mut process.registry.write());
    let policies = policies::of_standalone(&config, &process)?;
    let log = open_log(&config, policies.clone(), &process).await?;

    let data = (!config.standalone.ephemeral).then_some(config.standalone.data.as_path());
    let kept = revocations::of_standalone(data, auth.revocations(), &process)?;
    let tickets = tickets::of_standalone(data)?;
    let shards = config.shard_count().map_err(Misconfigured)?;
    let proxies = config.http.proxies().map_err(Misconfigured)?;
    let bus_metrics = foghorn_bus::metrics::Metrics::register(&mut process.registry.write());
    let feed = Arc::new(MemoryLive::new(shards, config.gateway.feed_bytes, bus_metrics));
    let fanout = Fanout::new(
        FanoutPorts {
            journal: log.clone(),
            feed: feed.clone(),
            leases: Arc::new(MemoryLeases::new()),
            log: log.clone(),
            auth: auth.clone(),
            proxies: proxies.clone(),
            clock: Clock::default(),
        },
        policies.clone(),
        config.fanout.clone(),
        &process.health,
        process.shutdown.clone(),
        &mut process.registry.write(),
    );
    let notifications =
        notifications::within(&config, log.clone(), auth.clone(), policies.clone(), &process).await?;
    let statuses = Arc::new(MemoryStatuses::default());
    let mut gateway = Gateway::start(
        config.gateway.clone(),
        config.dashboard.clone(),
        GatewayPorts {
            feed,
            log: log.clone(),
            shards,
            policies: policies.clone(),
            auth: auth.clone(),
            revocations: kept,
            tickets,
            subscriptions: Arc::new(MemorySubscriptions::default()),
            gateways: Arc::new(Alone),
            unread: notifications.clone(),
            announcer: fanout.publisher(),
            statuses: statuses.clone(),
            proxies,
            clock: Clock::default(),
            health: process.health.clone(),
        },
        &mut process.registry.write(),
    );
    if config.canary.standalone {
        gateway.begin_canary(&config.canary, fanout.publisher(), &mut process.registry.write());
    }

    status::tell(&process, Service::Standalone, gateway.name(), statuses);
    let (http, grpc) = (process::listen(http)?, process::listen(grpc)?);
    let demo = match demo {
        Some(demo) => Some(demo.begin(http.local_addr()?, auth, &process)?),
        None => greet(&config, &http).map(|()| None)?,
    };
    let router = Router {
        publish: Arc::new(fanout.http()),
        notifications: Arc::new(notifications.http()),
        events: gateway.api(),
        demo,
    };
    let (stop, stopped) = watch::channel(false);
    let http = spawn_http(http, Arc::new(router), &config, &process, preamble, stopped);
    let grpc = tokio::spawn(foghorn_rpc::serve::serve(
        grpc,
        Routes::new(fanout.grpc()),
        &[foghorn_fanout::grpc::SERVICE],
        process.grpc_connections(),
        grpc_tls,
        process.shutdown.receiver(),
    ));
    let retaining = tokio::spawn({
        let log = log.clone();
        async move { log.run_retention().await }
    });
    let keeping = tokio::spawn(async move { notifications.retain().await });
    let outbox = outbox::drain_into(&config, log.clone(), policies, &process)?;
    let fanout = tokio::spawn(fanout.run(None));

    process.shutdown.wait().await;
    gateway.drain(|| _ = stop.send_replace(true)).await;
    process::last_requests(async {
        outbox.await?;
        keeping.await?;
        fanout.await?;
        http.await?;
        grpc.await??;
        Ok(())
    })
    .await?;
    retaining.abort();
    log.close().await;
    Ok(())
}

async fn open_log(
    config: &Config,
    policies: SharedPolicies,
    process: &Process,
) -> anyhow::Result<Arc<SqliteLog>> {
    let place = if config.standalone.ephemeral {
        SqliteOptions::in_memory()
    } else {
        SqliteOptions::at(&config.standalone.data)
    };
    let options = SqliteOptions {
        shards: config.shard_count().map_err(Misconfigured)?,
        frame_bytes: config.limits.event_bytes,
        policies,
        metrics: foghorn_eventlog::metrics::Metrics::register(&mut process.registry.write()),
        ..place
    };
    SqliteLog::open(options).await.map(Arc::new).map_err(open_error)
}

/// A directory that isn't for this process, or not for this binary, is a wrong choice of one: exit code 2.
fn open_error(error: OpenError) -> anyhow::Error {
    match error {
        OpenError::Locked(_) | OpenError::Newer { .. } | OpenError::Shards { .. } | OpenError::Io { .. } => {
            Misconfigured(error.to_string()).into()
        }
        OpenError::Sqlite { .. } | OpenError::Policies(_) => {
            anyhow::Error::from(error).context("can't open the event log")
        }
    }
}

/// Says where it listens, and how to try it.
fn greet(config: &Config, http: &tokio::net::TcpListener) -> std::io::Result<()> {
    let address = http.local_addr()?;
    let kept = if config.standalone.ephemeral {
        "in memory, gone when it stops".to_owned()
    } else {
        format!("in {}", config.standalone.data.display())
    };
    let scheme = if config.http.tls.is_configured() { "https" } else { "http" };
    println!(
        "Foghorn listens on {scheme}://{address}/ (open it in a browser; /console shows what goes on). Events are kept {kept}."
    );
    println!();
    println!("  listen:   curl -N '{scheme}://{address}/api/events?channels=hello'");
    println!(
        "  publish:  curl -H 'Content-Type: application/json' -d '{{\"channel\":\"hello\",\"data\":\"world\"}}' \
         {scheme}://{address}/api/publish"
    );
    if config.auth.knows_tokens() && !config.allow_anonymous {
        println!();
        println!("  Both with -H \"Authorization: Bearer $TOKEN\"; `foghorn token mint` makes one to try.");
    }
    println!();
    Ok(())
}
