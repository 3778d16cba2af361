//! Transactional publishing: `foghorn outbox`, its installation, and the same within standalone.

use std::sync::Arc;

use foghorn_bus::backoff::{Backoff, Rarely};
use foghorn_bus::gateways::GatewayName;
use foghorn_bus::journal::Journal;
use foghorn_bus::log::EventLog;
use foghorn_bus::policies::SharedPolicies;
use foghorn_eventlog::postgres::{MigrateError, PostgresOptions, migrate_by};
use foghorn_eventlog::sqlite::SqliteLog;
use foghorn_outbox::metrics::Metrics;
use foghorn_outbox::publisher::OutboxPublisher;
use foghorn_outbox::schema::{self, Right};
use foghorn_outbox::table::{Outbox, OutboxError};
use foghorn_telemetry::health::Part;
use foghorn_telemetry::shutdown::Shutdown;
use foghorn_telemetry::status::Service;
use tokio::task::JoinHandle;

use crate::cluster::{bus_error, connect, migrate_error, parameters, remote_log};
use crate::config::Config;
use crate::policies::{self, Reader};
use crate::process::{Misconfigured, Process, check_exposure, spawn_admin};
use crate::status;

/// `foghorn outbox install`.
pub(crate) async fn install(
    config: Config,
    applications: Vec<String>,
    publishers: Vec<String>,
) -> anyhow::Result<()> {
    let url = &config.outbox.postgres;
    let installed = migrate_by(url, schema::migrator(), schema::RECORD).await.map_err(migrate_error)?;
    for (roles, right) in [(applications, Right::Publish), (publishers, Right::Drain)] {
        for role in roles {
            schema::grant(url, &role, right).await.map_err(|error| {
                migrate_error(MigrateError::Database { place: place(&config), error })
                    .context(format!("the role {role} was not given its rights"))
            })?;
        }
    }
    if installed.steps.is_empty() {
        println!("the outbox is at version {} already", installed.to);
    } else {
        println!("the outbox went from version {} to {}", installed.from, installed.to);
    }
    Ok(())
}

/// `foghorn outbox`.
pub(crate) async fn serve(config: Config) -> anyhow::Result<()> {
    check_exposure(&config, &[config.listen.admin])?;
    let process = Process::start(&config, "outbox")?;
    spawn_admin(&config, &process)?;
    // Not watched: without NATS what is published waits, and no other replica could do better.
    let Some((bus, _)) = connect(&config, &process, "outbox").await? else { return Ok(()) };
    status::tell(&process, Service::Outbox, GatewayName::random(), Arc::new(bus.statuses()));
    let parameters = parameters(&config)?;
    let Some(journal) = process.unless_stopped(bus.journal(&parameters)).await else { return Ok(()) };
    let journal = Arc::new(journal.map_err(bus_error)?);
    let Some(policies) = policies::of_cluster(&bus, &config, Reader::Keeping, &process).await? else {
        return Ok(());
    };
    let publisher = publisher(&config, journal, remote_log(&config, &process)?, policies, &process)?;
    let place = place(&config);
    let part = process.health.part("outbox", format!("the outbox in PostgreSQL at {place}"));
    process.unready_when_stopping();
    drain(&publisher, Some(&part), &place, &process.shutdown).await
}

/// The same within standalone, if an outbox is configured. Standalone is ready without it: it has others to serve.
pub(crate) fn drain_into(
    config: &Config,
    log: Arc<SqliteLog>,
    policies: SharedPolicies,
    process: &Process,
) -> anyhow::Result<JoinHandle<()>> {
    if !config.outbox.is_configured() {
        return Ok(tokio::spawn(async {}));
    }
    let publisher = publisher(config, log.clone(), log, policies, process)?;
    let (place, shutdown) = (place(config), process.shutdown.clone());
    Ok(tokio::spawn(async move {
        if let Err(error) = drain(&publisher, None, &place, &shutdown).await {
            tracing::error!(%error, "the outbox is not drained");
        }
    }))
}

fn publisher(
    config: &Config,
    journal: Arc<dyn Journal>,
    log: Arc<dyn EventLog>,
    policies: SharedPolicies,
    process: &Process,
) -> anyhow::Result<OutboxPublisher> {
    let outbox = Outbox::new(&config.outbox.postgres)
        .map_err(|error| Misconfigured(format!("outbox.postgres: {error}")))?;
    let metrics = Metrics::register(&mut process.registry.write());
    Ok(OutboxPublisher { outbox, journal, log, policies, metrics })
}

/// Drains until shutdown; an error when that can never begin.
async fn drain(
    publisher: &OutboxPublisher,
    part: Option<&Part>,
    place: &str,
    shutdown: &Shutdown,
) -> anyhow::Result<()> {
    tokio::select! {
        ready = wait_for(&publisher.outbox, part, place) => ready?,
        () = shutdown.wait() => return Ok(()),
    }
    publisher.run(shutdown).await;
    Ok(())
}

/// Waits until the outbox is there, as when everything starts at once. What a later Foghorn has installed is no
/// choice of this one's.
async fn wait_for(outbox: &Outbox, part: Option<&Part>, place: &str) -> anyhow::Result<()> {
    let mut backoff = Backoff::default();
    let rarely = Rarely::default();
    loop {
        let error = match outbox.check().await {
            Ok(()) => {
                if let Some(part) = part {
                    part.ready();
                }
                return Ok(());
            }
            Err(error @ OutboxError::Newer { .. }) => return Err(Misconfigured(error.to_string()).into()),
            Err(error) => error,
        };
        if let Some(part) = part {
            part.not_ready(format!("{place}: {error}"));
        }
        if rarely.now() {
            tracing::warn!(place, %error, "the outbox can't be drained yet; trying again");
        }
        backoff.wait().await;
    }
}

fn place(config: &Config) -> String {
    PostgresOptions::new(&config.outbox.postgres).place()
}
