//! Live notifications: `foghorn notifications`, and the same within standalone.

use std::sync::Arc;

use foghorn_bus::backoff::{Backoff, Rarely};
use foghorn_bus::clock::Clock;
use foghorn_bus::gateways::GatewayName;
use foghorn_bus::policies::SharedPolicies;
use foghorn_eventlog::postgres::{MigrateError, PostgresOptions, is_passing, migrate_by, words};
use foghorn_eventlog::sqlite::SqliteLog;
use foghorn_notifications::postgres::{PostgresStore, RECORD, migrator};
use foghorn_notifications::service::{Notifications, Ports};
use foghorn_notifications::sqlite::SqliteStore;
use foghorn_notifications::store::Store as _;
use foghorn_outbox::metrics::Metrics as OutboxMetrics;
use foghorn_outbox::publisher::OutboxPublisher;
use foghorn_outbox::schema;
use foghorn_outbox::table::Outbox;
use foghorn_telemetry::status::Service;

use crate::cluster::{bus_error, connect, migrate_error, parameters, remote_log};
use crate::config::Config;
use crate::policies::{self, Reader};
use crate::process::{self, Misconfigured, Process, check_exposure, last_requests, spawn_admin, spawn_http};
use crate::{keys, revocations, status};

/// `foghorn notifications`: the door, and the outbox of its database, which one of all its processes drains.
pub(crate) async fn serve(config: Config) -> anyhow::Result<()> {
    check_exposure(&config, &[config.listen.http, config.listen.admin])?;
    let auth = process::authenticator(&config, config.allow_anonymous)?;
    let preamble = process::preamble(&config)?;
    let process = Process::start(&config, "notifications")?;
    keys::follow(&auth, &process)?;
    auth.register(&mut process.registry.write());
    let http = process::reserve("http", config.listen.http)?;
    spawn_admin(&config, &process)?;
    // Not watched: without NATS what is published waits in the outbox, and no other replica could do better.
    let Some((bus, _)) = connect(&config, &process, "notifications").await? else { return Ok(()) };
    status::tell(&process, Service::Notifications, GatewayName::random(), Arc::new(bus.statuses()));
    let parameters = parameters(&config)?;
    let Some(journal) = process.unless_stopped(bus.journal(&parameters)).await else { return Ok(()) };
    let journal = Arc::new(journal.map_err(bus_error)?);
    let Some(questions) = process.unless_stopped(bus.unread_questions()).await else { return Ok(()) };
    let questions = questions.map_err(bus_error)?;
    let kept = revocations::of_cluster(&bus, auth.revocations(), &process).await.map_err(bus_error)?;
    if kept.is_none() {
        return Ok(());
    }

    let place = PostgresOptions::new(&config.postgres.url).place();
    let postgres = process.health.part("postgres", format!("PostgreSQL at {place}"));
    let Some(migrated) = process.unless_stopped(migrate(&config.postgres.url, &place)).await else {
        return Ok(());
    };
    migrated.map_err(migrate_error)?;
    let misconfigured = |error| Misconfigured(format!("postgres.url: {error}"));
    let store = PostgresStore::new(&config.postgres.url, config.notifications.connections);
    let store = Arc::new(store.map_err(misconfigured)?);
    let Some(policies) = policies::of_cluster(&bus, &config, Reader::Asking, &process).await? else {
        return Ok(());
    };
    let outbox = OutboxPublisher {
        outbox: Outbox::new(&config.postgres.url).map_err(misconfigured)?,
        journal,
        log: remote_log(&config, &process)?,
        policies: policies.clone(),
        metrics: OutboxMetrics::register(&mut process.registry.write()),
    };
    let ports = Ports {
        store: store.clone(),
        auth,
        policies,
        frame_bytes: parameters.event_bytes,
        proxies: config.http.proxies().map_err(Misconfigured)?,
        clock: Clock::default(),
    };
    let notifications = Notifications::new(
        ports,
        config.notifications.clone(),
        process.shutdown.clone(),
        &mut process.registry.write(),
    );
    process.unready_when_stopping();
    process.watch(postgres, move || {
        let (store, place) = (store.clone(), place.clone());
        async move { store.look().await.map_err(|error| format!("PostgreSQL at {place}: {error}")) }
    });
    let http = spawn_http(
        process::listen(http)?,
        Arc::new(notifications.http()),
        &config,
        &process,
        preamble,
        process.shutdown.receiver(),
    );
    tokio::join!(outbox.run(&process.shutdown), notifications.retain(), notifications.answer(questions));
    last_requests(async { Ok(http.await?) }).await
}

/// The same within standalone, in the database of its journal.
pub(crate) async fn within(
    config: &Config,
    log: Arc<SqliteLog>,
    auth: Arc<foghorn_auth::Authenticator>,
    policies: SharedPolicies,
    process: &Process,
) -> anyhow::Result<Arc<Notifications>> {
    let ports = Ports {
        store: Arc::new(SqliteStore::open(log).await?),
        auth,
        policies,
        frame_bytes: config.limits.event_bytes,
        proxies: config.http.proxies().map_err(Misconfigured)?,
        clock: Clock::default(),
    };
    let (shutdown, config) = (process.shutdown.clone(), config.notifications.clone());
    Ok(Notifications::new(ports, config, shutdown, &mut process.registry.write()))
}

/// Brings the outbox's tables and those of notifications up to date, waiting for the database as long as it takes.
async fn migrate(url: &str, place: &str) -> Result<(), MigrateError> {
    let mut backoff = Backoff::default();
    let rarely = Rarely::default();
    loop {
        let migrated = async {
            migrate_by(url, schema::migrator(), schema::RECORD).await?;
            migrate_by(url, migrator(), RECORD).await
        };
        match migrated.await {
            Ok(_) => return Ok(()),
            Err(MigrateError::Database { error, .. }) if is_passing(&error) => {
                if rarely.now() {
                    let error = words(&error);
                    tracing::warn!(place, error, "PostgreSQL can't be reached yet; trying again");
                }
            }
            Err(error) => return Err(error),
        }
        backoff.wait().await;
    }
}
