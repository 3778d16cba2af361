//! Notifications, kept by a process of a cluster or by standalone, and who asks for them.

use std::time::Duration;

use foghorn_tests::foghorn::Foghorn;
use foghorn_tests::http::{Reply, request};
use foghorn_tests::nats::NatsServer;
use foghorn_tests::postgres::PostgresServer;
use foghorn_tests::sse::Block;
use foghorn_tests::wait::until;
use http::Method;
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};
use tempfile::TempDir;

use crate::deployment::{Cluster, Listener, standalone, wait_ready};

pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// Where notifications are kept, and streams served.
pub(crate) struct Stage {
    /// What answers `/api/notifications`.
    pub(crate) service: Foghorn,
    pub(crate) cluster: Option<Cluster>,
    pub(crate) postgres_url: String,
    _folder: TempDir,
}

impl Stage {
    /// Standalone, with a data directory.
    pub(crate) async fn standalone(config: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = write(&folder, config);
        let data = folder.path().join("data").display().to_string();
        let service = standalone(&["--data", &data, "--config", &config], &[]).await;
        Stage { service, cluster: None, postgres_url: String::new(), _folder: folder }
    }

    /// A cluster, and one process of `foghorn notifications`.
    pub(crate) async fn cluster(config: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = write(&folder, config);
        let (nats, postgres) = tokio::join!(NatsServer::start(), PostgresServer::start());
        let database = postgres.create_database().await;
        let postgres_url = postgres.url(&database);
        let cluster = Cluster::start_on(nats, postgres, &database, 1, &config).await;
        cluster.ready().await;
        let (nats, log) = (cluster.nats.url(), format!("http://{}", cluster.eventlogs[0].grpc()));
        let own = ["notifications", "--listen", "127.0.0.1:0", "--postgres", &postgres_url];
        let common = ["--config", &config, "--nats", &nats, "--eventlog", &log, "--admin", "127.0.0.1:0"];
        let service = Foghorn::spawn(&[&own[..], &common].concat(), &[]).await;
        wait_ready(service.admin()).await;
        Stage { service, cluster: Some(cluster), postgres_url, _folder: folder }
    }

    /// What serves streams.
    pub(crate) fn gateway(&self) -> &Foghorn {
        self.cluster.as_ref().map_or(&self.service, |cluster| &cluster.gateways[0])
    }

    pub(crate) async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<Reply> {
        request(method, &self.service.url(&format!("/api/notifications{path}")), &[], body).await
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        self.done(Method::GET, path).await
    }

    pub(crate) async fn post(&self, path: &str) -> Value {
        self.done(Method::POST, path).await
    }

    pub(crate) async fn done(&self, method: Method, path: &str) -> Value {
        let reply = self.ask(method, path, None).await.unwrap();
        assert_eq!(reply.status, 200, "{path}: {}", reply.body);
        reply.body
    }

    /// Notifies a user of something with this title, and maybe an id.
    pub(crate) async fn notify(&self, user: &str, title: &str, id: Option<&str>) -> Reply {
        self.ask(Method::POST, "", Some(&notice(user, title, id))).await.unwrap()
    }

    /// A stream of what a user hears.
    pub(crate) async fn listen(&self, user: &str) -> Listener {
        Listener::open(&self.gateway().url(&format!("/api/events/user.{user}")), None).await
    }

    /// A connection to the database.
    pub(crate) async fn database(&self) -> PgConnection {
        PgConnection::connect(&self.postgres_url).await.unwrap()
    }

    /// Waits until so many transactions wait for another to end.
    pub(crate) async fn wait_for_a_lock(&self, transactions: i64) {
        let mut database = self.database().await;
        until("transactions that wait", LIMIT, async || {
            let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
            let waiting: i64 = sqlx::query_scalar(waiting).fetch_one(&mut database).await.unwrap();
            (waiting == transactions).then_some(())
        })
        .await;
    }

    /// Waits until no process of `foghorn notifications` has a connection to the database.
    pub(crate) async fn nobody_is_connected(&self) {
        let mut database = self.database().await;
        until("the end of its connections", LIMIT, async || {
            let left =
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'foghorn-notifications'";
            let left: i64 = sqlx::query_scalar(left).fetch_one(&mut database).await.unwrap();
            (left == 0).then_some(())
        })
        .await;
    }
}

/// The body of a request to notify somebody.
pub(crate) fn notice(user: &str, title: &str, id: Option<&str>) -> Value {
    let mut body = json!({ "userId": user, "type": "info", "title": title, "message": "…", "link": "/x" });
    if let Some(id) = id {
        body["id"] = id.into();
    }
    body
}

/// What a block tells of: a notification by its title, or a number of unread ones.
pub(crate) fn told(block: &Block) -> String {
    let data = block.json();
    match block.event_type() {
        "notification" => data["title"].as_str().unwrap().to_owned(),
        "notification-count" => format!("{} unread", data["unread"]),
        other => panic!("{other}: {data}"),
    }
}

/// What the next so many events tell of.
pub(crate) async fn heard(listener: &mut Listener, events: usize) -> Vec<String> {
    let mut heard = Vec::new();
    while heard.len() < events {
        heard.push(told(&listener.event().await));
    }
    heard
}

/// The titles on a page.
pub(crate) fn titles(page: &Value) -> Vec<&str> {
    page["notifications"].as_array().unwrap().iter().map(|one| one["title"].as_str().unwrap()).collect()
}

fn write(folder: &TempDir, config: &str) -> String {
    let path = folder.path().join("foghorn.toml");
    std::fs::write(&path, config).unwrap();
    path.display().to_string()
}
