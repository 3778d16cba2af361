//! A whole Foghorn to test: standalone, or a cluster of processes on NATS and PostgreSQL.

use std::sync::atomic::{AtomicUsize, Ordering};

use foghorn_tests::foghorn::Foghorn;
use foghorn_tests::http::{Reply, post};
use foghorn_tests::nats::NatsServer;
use foghorn_tests::postgres::PostgresServer;
use foghorn_tests::sse::{Block, SseClient};
use foghorn_tests::tls;
use serde_json::{Value, json};

/// What the deployments of the behaviour suite are configured with, beside shards: a small ring, so that
/// the log is reached, a quick keep-alive, and policies to look at. Patience with the log is the tests' own: that an
/// epoch is unknown is certain after six seconds, which become ten where everything else runs at the same time.
const CONFIGURATION: &str = r#"
[gateway]
ring_bytes = 1048576
keep_alive = "2s"
log_patience = "20s"

[[policy]]
pattern = "counted.>"
retention_count = 3

[[policy]]
pattern = "fleeting.>"
replay = false

[[policy]]
pattern = "latest.>"
latest = true

[[policy]]
pattern = "small.>"
event_bytes = 100
metric_types = ["listed"]
"#;

/// The type of what is broadcast: everybody hears it, and only the test of it listens.
pub(crate) const SHOUT: &str = "shout";

/// The variable with which whoever has no credential may not do everything.
pub(crate) const CLOSED: (&str, &str) = ("FOGHORN_ALLOW_ANONYMOUS", "false");

/// One of the two shapes.
#[derive(Debug)]
pub(crate) enum Shape {
    /// One process, in-process bus, SQLite.
    Standalone(Box<Foghorn>),
    /// Two of each service.
    Cluster(Box<Cluster>),
}

/// Processes that make a cluster, each to be killed by itself.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) gateways: Vec<Foghorn>,
    pub(crate) fanouts: Vec<Foghorn>,
    pub(crate) eventlogs: Vec<Foghorn>,
    pub(crate) nats: NatsServer,
    pub(crate) postgres: PostgresServer,
}

/// What the tests talk to.
#[derive(Debug)]
pub(crate) struct Deployment {
    pub(crate) shape: Shape,
    pub(crate) shards: u8,
    names: AtomicUsize,
    _folder: tempfile::TempDir,
}

impl Deployment {
    /// A process for everything.
    pub(crate) async fn standalone(shards: u8) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (config, data) = (configuration(&folder), folder.path().join("data").display().to_string());
        let shards_text = shards.to_string();
        let arguments = ["--data", &data, "--config", &config, "--shards", &shards_text];
        let process = standalone(&arguments, &[]).await;
        Deployment::new(Shape::Standalone(Box::new(process)), shards, folder).await
    }

    /// The same, where all HTTP is HTTP/2 over TLS.
    pub(crate) async fn standalone_over_tls(shards: u8) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (config, data) = (configuration(&folder), folder.path().join("data").display().to_string());
        let (shards_text, variables) = (shards.to_string(), tls::variables(folder.path()));
        let arguments = ["--data", &data, "--config", &config, "--shards", &shards_text];
        let variables = tls::borrowed(&variables);
        let process = standalone(&arguments, &variables).await;
        Deployment::new(Shape::Standalone(Box::new(process)), shards, folder).await
    }

    /// Two gateways, two fan-outs, two event logs.
    pub(crate) async fn cluster(shards: u8) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let cluster = Cluster::start(shards, &configuration(&folder)).await;
        Deployment::new(Shape::Cluster(Box::new(cluster)), shards, folder).await
    }

    async fn new(shape: Shape, shards: u8, folder: tempfile::TempDir) -> Self {
        let deployment = Deployment { shape, shards, names: AtomicUsize::new(0), _folder: folder };
        deployment.ready().await;
        deployment
    }

    /// Waits until every process says that it is ready.
    pub(crate) async fn ready(&self) {
        match &self.shape {
            Shape::Standalone(process) => wait_ready(process.admin()).await,
            Shape::Cluster(cluster) => cluster.ready().await,
        }
    }

    /// A name for a channel that no other test uses.
    pub(crate) fn name(&self, what: &str) -> String {
        format!("{what}.t{}", self.names.fetch_add(1, Ordering::Relaxed))
    }

    /// Where to publish: each call another fan-out.
    pub(crate) fn publish_url(&self) -> String {
        match &self.shape {
            Shape::Standalone(process) => process.url("/api/publish"),
            Shape::Cluster(cluster) => {
                let turn = self.names.fetch_add(1, Ordering::Relaxed);
                cluster.fanouts[turn % cluster.fanouts.len()].url("/api/publish")
            }
        }
    }

    /// A path of one of the gateways, by turns.
    pub(crate) fn gateway_url(&self, turn: usize, path: &str) -> String {
        match &self.shape {
            Shape::Standalone(process) => process.url(path),
            Shape::Cluster(cluster) => cluster.gateways[turn % cluster.gateways.len()].url(path),
        }
    }

    /// Where publishers speak gRPC.
    pub(crate) fn grpc(&self) -> String {
        match &self.shape {
            Shape::Standalone(process) => process.grpc().to_owned(),
            Shape::Cluster(cluster) => cluster.fanouts[0].grpc().to_owned(),
        }
    }

    /// Publishes, and returns the answer whatever it is.
    pub(crate) async fn try_publish(&self, body: &Value) -> Reply {
        post(&self.publish_url(), body).await.unwrap()
    }

    /// Publishes one event, or panics.
    pub(crate) async fn publish(&self, body: Value) -> Value {
        let reply = self.try_publish(&body).await;
        assert_eq!(reply.status, 200, "{body}: {}", reply.body);
        reply.body
    }

    /// Publishes texts on a channel, in order.
    pub(crate) async fn publish_all(&self, channel: &str, texts: impl IntoIterator<Item = String>) {
        let texts: Vec<String> = texts.into_iter().collect();
        for some in texts.chunks(100) {
            let events: Vec<Value> =
                some.iter().map(|text| json!({ "channel": channel, "data": text })).collect();
            let answers = self.publish(Value::Array(events)).await;
            for answer in answers.as_array().unwrap() {
                assert!(answer.get("position").is_some(), "{answer}");
            }
        }
    }

    /// Opens a stream, with the cursor of another if given, and reads to `stream-live`.
    pub(crate) async fn listen(&self, query: &str, cursor: Option<&str>) -> Listener {
        Listener::open(&self.gateway_url(0, &format!("/api/events?{query}")), cursor).await
    }
}

impl Cluster {
    /// Starts everything on free ports.
    pub(crate) async fn start(shards: u8, config: &str) -> Self {
        let (nats, postgres) = tokio::join!(NatsServer::start(), PostgresServer::start());
        let database = postgres.create_database().await;
        Cluster::start_on(nats, postgres, &database, shards, config).await
    }

    /// The same, on servers that run already.
    pub(crate) async fn start_on(
        nats: NatsServer,
        postgres: PostgresServer,
        database: &str,
        shards: u8,
        config: &str,
    ) -> Self {
        let database = postgres.url(database);
        Cluster::start_at(nats, postgres, &database, shards, config, &[]).await
    }

    /// The same, where whoever has no credential may do no more than the configuration says.
    pub(crate) async fn start_closed(config: &str) -> Self {
        Cluster::start_closed_on(NatsServer::start().await, config).await
    }

    /// The same, on a NATS that runs already.
    pub(crate) async fn start_closed_on(nats: NatsServer, config: &str) -> Self {
        let postgres = PostgresServer::start().await;
        let database = postgres.url(&postgres.create_database().await);
        Cluster::start_with(nats, postgres, &database, 1, config, [&[CLOSED], &[CLOSED]]).await
    }

    /// The same, whose gateways hear themselves often, and soon take what they don't hear for lost.
    pub(crate) async fn start_with_frequent_canaries(shards: u8, config: &str) -> Self {
        let (nats, postgres) = tokio::join!(NatsServer::start(), PostgresServer::start());
        let database = postgres.url(&postgres.create_database().await);
        let often = [("FOGHORN_CANARY_EVERY", "100ms"), ("FOGHORN_CANARY_DEADLINE", "2s")];
        Cluster::start_with(nats, postgres, &database, shards, config, [&often, &often]).await
    }

    /// The same, with a URL of the database, which need not lead to `postgres` straight, and with variables
    /// in the environment of the first of each service.
    pub(crate) async fn start_at(
        nats: NatsServer,
        postgres: PostgresServer,
        database: &str,
        shards: u8,
        config: &str,
        first: &[(&str, &str)],
    ) -> Self {
        Cluster::start_with(nats, postgres, database, shards, config, [first, &[]]).await
    }

    async fn start_with(
        nats: NatsServer,
        postgres: PostgresServer,
        database: &str,
        shards: u8,
        config: &str,
        environments: [&[(&str, &str)]; 2],
    ) -> Self {
        let bus = nats.url();
        let shards = shards.to_string();
        let common = ["--config", config, "--shards", &shards, "--nats", &bus, "--admin", "127.0.0.1:0"];
        let spawn = async |turn: usize, own: &[&str]| {
            Foghorn::spawn(&[own, &common].concat(), environments[turn]).await
        };
        let mut eventlogs = Vec::new();
        for turn in 0..2 {
            eventlogs.push(spawn(turn, &["eventlog", "--grpc", "127.0.0.1:0", "--postgres", database]).await);
        }
        let logs: Vec<String> = eventlogs.iter().map(|log| format!("http://{}", log.grpc())).collect();
        let (mut fanouts, mut gateways) = (Vec::new(), Vec::new());
        for turn in 0..2 {
            // Each asks another event log first.
            let log = [logs[turn].as_str(), logs[1 - turn].as_str()].join(",");
            let listen = ["--listen", "127.0.0.1:0", "--eventlog", &log];
            fanouts.push(spawn(turn, &[&["fanout", "--grpc", "127.0.0.1:0"][..], &listen].concat()).await);
            gateways.push(spawn(turn, &[&["gateway"][..], &listen].concat()).await);
        }
        Cluster { gateways, fanouts, eventlogs, nats, postgres }
    }

    /// Two of each service, of which each knows by a name (`<name>-0`, `<name>-1`) what it is called.
    pub(crate) async fn start_named(name: &str, config: &str) -> Self {
        let (nats, postgres) = tokio::join!(NatsServer::start(), PostgresServer::start());
        let database = postgres.url(&postgres.create_database().await);
        let [first, second] = [0, 1].map(|turn| format!("{name}-{turn}"));
        let named = [&[("HOSTNAME", &*first)][..], &[("HOSTNAME", &*second)][..]];
        Cluster::start_with(nats, postgres, &database, 1, config, named).await
    }

    /// One more gateway of this cluster of one shard, that is called so; ready.
    pub(crate) async fn another_gateway(&self, name: &str, config: &str) -> Foghorn {
        let (bus, log) = (self.nats.url(), format!("http://{}", self.eventlogs[0].grpc()));
        let own = ["gateway", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--eventlog", &log];
        let common = ["--config", config, "--shards", "1", "--nats", &bus];
        let gateway = Foghorn::spawn(&[&own[..], &common].concat(), &[("HOSTNAME", name)]).await;
        wait_ready(gateway.admin()).await;
        gateway
    }

    /// Waits until every process says that it is ready.
    pub(crate) async fn ready(&self) {
        for process in self.gateways.iter().chain(&self.fanouts).chain(&self.eventlogs) {
            wait_ready(process.admin()).await;
        }
    }
}

/// `foghorn standalone` with these arguments and variables, on ports of its own, ready.
pub(crate) async fn standalone(arguments: &[&str], environment: &[(&str, &str)]) -> Foghorn {
    let ports = ["standalone", "--listen", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    let process = Foghorn::spawn(&[&ports[..], arguments].concat(), environment).await;
    wait_ready(process.admin()).await;
    process
}

/// Waits until `/readyz` at an admin address says yes.
pub(crate) async fn wait_ready(address: &str) {
    let url = format!("http://{address}/readyz");
    foghorn_tests::wait::until(&format!("{url} to be ready"), foghorn_tests::PATIENCE, async || {
        let reply = foghorn_tests::http::get(&url).await.ok()?;
        (reply.status == 200).then_some(())
    })
    .await;
}

fn configuration(folder: &tempfile::TempDir) -> String {
    let path = folder.path().join("foghorn.toml");
    std::fs::write(&path, CONFIGURATION).unwrap();
    path.display().to_string()
}

/// A stream, and what it said of itself at the beginning.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) stream: SseClient,
    /// The data of `connected`.
    pub(crate) connected: Value,
    /// The reasons of the resets before `stream-live`.
    pub(crate) resets: Vec<String>,
    /// What came before `stream-live`.
    pub(crate) replayed: Vec<Block>,
    /// The data of `stream-live`.
    pub(crate) live: Value,
}

impl Listener {
    /// Opens a stream and reads to `stream-live`.
    pub(crate) async fn open(url: &str, cursor: Option<&str>) -> Self {
        let headers: Vec<(&str, &str)> = cursor.map(|cursor| ("Last-Event-ID", cursor)).into_iter().collect();
        let stream = SseClient::connect(url, &headers).await.unwrap();
        assert_eq!(stream.status(), 200, "{url}");
        Listener::of(stream).await
    }

    /// Reads a stream to `stream-live`.
    pub(crate) async fn of(mut stream: SseClient) -> Self {
        let connected = stream.next().await;
        assert_eq!(connected.event_type(), "connected", "{connected:?}");
        let (mut resets, mut replayed) = (Vec::new(), Vec::new());
        let live = loop {
            let block = stream.next().await;
            match block.event_type() {
                "stream-live" => break block.json(),
                "stream-reset" => resets.push(block.json()["reason"].as_str().unwrap().to_owned()),
                SHOUT => {}
                _ if block.is_event() => replayed.push(block),
                _ => {}
            }
        };
        Listener { stream, connected: connected.json(), resets, replayed, live }
    }

    /// The next published event: what the stream says of itself is passed over.
    pub(crate) async fn event(&mut self) -> Block {
        loop {
            let block = self.stream.next().await;
            let other = ["heartbeat", SHOUT].contains(&block.event_type());
            if block.is_event() && !other && !block.event_type().starts_with("stream-") {
                return block;
            }
        }
    }

    /// The data of so many events: what was replayed, then what follows. (Right after an ack an event may
    /// still be on its way to this gateway; then it is not replayed but live.)
    pub(crate) async fn first(&mut self, events: usize) -> Vec<String> {
        let mut data: Vec<String> = self.replayed_data().iter().map(|data| (*data).to_owned()).collect();
        data.extend(self.data(events.saturating_sub(data.len())).await);
        data
    }

    /// The data of the next so many published events.
    pub(crate) async fn data(&mut self, events: usize) -> Vec<String> {
        let mut data = Vec::with_capacity(events);
        while data.len() < events {
            data.push(self.event().await.data.unwrap());
        }
        data
    }

    /// The data of what was replayed.
    pub(crate) fn replayed_data(&self) -> Vec<&str> {
        self.replayed.iter().map(|block| block.data.as_deref().unwrap()).collect()
    }

    /// The cursor to come back with.
    pub(crate) fn cursor(&self) -> String {
        self.stream.last_event_id().to_owned()
    }
}
