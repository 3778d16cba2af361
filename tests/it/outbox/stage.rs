//! An application's database with an outbox, and a journal to drain it into.

use std::process::{Command, Output};
use std::time::Duration;

use foghorn_bus::journal::Journal as _;
use foghorn_bus::metrics::Metrics;
use foghorn_bus::nats::{Bus, NatsJournal, NatsOptions, Parameters};
use foghorn_core::event::FRAME_BYTES_DEFAULT;
use foghorn_core::shard::{Shard, ShardCount};
use foghorn_tests::env;
use foghorn_tests::foghorn::Foghorn;
use foghorn_tests::nats::NatsServer;
use foghorn_tests::postgres::PostgresServer;
use foghorn_tests::wait::until;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tempfile::TempDir;

use crate::deployment::wait_ready;

pub(crate) const LIMIT: Duration = Duration::from_secs(60);
/// How long the journal's dedupe remembers here: shorter than the lease, so that it is no help to who takes over.
pub(crate) const WINDOW: Duration = Duration::from_secs(2);

pub(crate) struct Stage {
    pub(crate) nats: NatsServer,
    pub(crate) postgres: PostgresServer,
    /// The application's database.
    pub(crate) app_url: String,
    pub(crate) journal: NatsJournal,
    _bus: Bus,
    config: String,
    _folder: TempDir,
}

impl Stage {
    /// With an outbox that is installed and that nobody drains, and a configuration.
    pub(crate) async fn start(config: &str) -> Self {
        let (nats, postgres) = tokio::join!(NatsServer::start(), PostgresServer::start());
        // Whoever makes the stream says how long ids are remembered.
        let options = NatsOptions { urls: vec![nats.url()], dedupe_window: WINDOW, ..NatsOptions::default() };
        let bus = Bus::connect(options, Metrics::default()).await.unwrap();
        let parameters = Parameters { shards: ShardCount::ONE, event_bytes: FRAME_BYTES_DEFAULT };
        let journal = bus.journal(&parameters).await.unwrap();
        let app_url = postgres.url(&postgres.create_database().await);
        assert!(install(&app_url, &[]).status.success());
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("foghorn.toml");
        std::fs::write(&file, config).unwrap();
        let config = file.display().to_string();
        Stage { nats, postgres, app_url, journal, _bus: bus, config, _folder: folder }
    }

    /// A connection of the application's.
    pub(crate) async fn app(&self) -> PgConnection {
        PgConnection::connect(&self.app_url).await.unwrap()
    }

    /// An outbox publisher, ready; the event log is nowhere.
    pub(crate) async fn publisher(&self) -> Foghorn {
        self.publisher_with("http://127.0.0.1:9").await
    }

    /// The same, with an event log.
    pub(crate) async fn publisher_with(&self, eventlog: &str) -> Foghorn {
        self.publisher_by(&self.nats.url(), eventlog).await
    }

    /// The same, by another way to NATS.
    pub(crate) async fn publisher_by(&self, nats: &str, eventlog: &str) -> Foghorn {
        let own = ["outbox", "--postgres", &self.app_url, "--eventlog", eventlog];
        let publisher = self.spawn_by(nats, &own).await;
        wait_ready(publisher.admin()).await;
        publisher
    }

    /// Any service on this journal.
    pub(crate) async fn spawn(&self, own: &[&str]) -> Foghorn {
        self.spawn_by(&self.nats.url(), own).await
    }

    async fn spawn_by(&self, nats: &str, own: &[&str]) -> Foghorn {
        let common = ["--config", &self.config, "--nats", nats, "--admin", "127.0.0.1:0"];
        Foghorn::spawn(&[own, &common].concat(), &[]).await
    }

    /// All events that the journal holds but for fences, once it has at least so many: `channel: data`.
    pub(crate) async fn journalled(&self, least: usize) -> Vec<String> {
        until(&format!("{least} events in the journal"), LIMIT, async || {
            let page = self.journal.read(Shard::ZERO, 0, 100_000, 64 << 20).await.ok()?;
            let events = page.entries.into_iter().map(|entry| entry.event.unwrap());
            let events = events.filter(|event| !event.channel.is_reserved());
            let events: Vec<_> = events.map(|event| format!("{}: {}", event.channel, event.data)).collect();
            (events.len() >= least).then_some(events)
        })
        .await
    }

    /// Waits until some transaction waits for another to end.
    pub(crate) async fn somebody_waits_for_a_lock(&self) {
        let mut app = self.app().await;
        until("a transaction that waits", LIMIT, async || {
            let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
            let waiting: i64 = sqlx::query_scalar(waiting).fetch_one(&mut app).await.unwrap();
            (waiting > 0).then_some(())
        })
        .await;
    }

    /// The number of events that wait in the outbox.
    pub(crate) async fn waiting(&self) -> i64 {
        let mut app = self.app().await;
        sqlx::query_scalar("SELECT count(*) FROM foghorn.outbox").fetch_one(&mut app).await.unwrap()
    }
}

/// `foghorn outbox install`.
pub(crate) fn install(url: &str, more: &[&str]) -> Output {
    Command::new(env::foghorn()).args(["outbox", "install", "--postgres", url]).args(more).output().unwrap()
}

/// Any statement.
pub(crate) async fn call(app: &mut PgConnection, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(app).await.unwrap();
}

/// `foghorn.publish`, as an application calls it. Gives the id.
pub(crate) async fn publish(app: &mut PgConnection, channel: &str, data: &str) -> String {
    let publish = sqlx::query_scalar("SELECT foghorn.publish($1, NULL, $2)");
    publish.bind(channel).bind(data).fetch_one(app).await.unwrap()
}
