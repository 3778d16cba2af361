//! Foghorn as it is meant to be run: three NATS servers with three copies of everything, PostgreSQL, and two of
//! each service. Each process can be killed and stopped by itself.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::foghorn::Foghorn;
use crate::nats::NatsServer;
use crate::network::{Network, Site};
use crate::port::Port;
use crate::postgres::PostgresServer;
use crate::wait::until;
use crate::{PATIENCE, env, http};

/// How long a cluster may take to be well again, on a busy machine.
pub const RECOVERY: Duration = Duration::from_secs(60);

/// A server that is told to end by lame duck lets its clients go after a second, not ten.
const NATS_CONFIGURATION: &str = "lame_duck_grace_period: 1s\nlame_duck_duration: 30s\n";

/// A small ring, so that who comes back needs the log; a keep-alive quick enough to see that a stream lives.
const CONFIGURATION: &str = r#"
[http]
hosts = ["*"]

[nats]
replicas = 3

[gateway]
ring_bytes = 1048576
keep_alive = "5s"
"#;

/// The processes of a cluster.
#[derive(Debug)]
pub struct Cluster {
    /// Three servers.
    pub nats: Vec<NatsServer>,
    /// The event log's database server.
    pub postgres: PostgresServer,
    /// Two event logs; each asks the other's turn in the services' lists.
    pub eventlogs: Vec<Foghorn>,
    /// Two fan-outs.
    pub fanouts: Vec<Foghorn>,
    /// Two gateways.
    pub gateways: Vec<Foghorn>,
    /// `postgres://…`
    pub database: String,
    /// How many shards there are.
    pub shards: u8,
    _routes: Vec<Port>,
    _folder: TempDir,
}

/// Where the parts run; by default all where the test does.
#[derive(Debug, Clone, Default)]
pub struct Sites {
    /// The three servers.
    pub nats: [Site; 3],
    /// The database server.
    pub postgres: Site,
    /// Both.
    pub eventlogs: [Site; 2],
    /// Both.
    pub fanouts: [Site; 2],
    /// Both.
    pub gateways: [Site; 2],
    /// Whether the first of each service is told of the first NATS server only, and the second of the second.
    pub pinned: bool,
}

impl Sites {
    /// How many hosts of a network [`on`](Self::on) takes.
    pub const HOSTS: usize = 9;

    /// Each part on a host of its own; PostgreSQL is in the hub.
    #[must_use]
    pub fn on(network: &Network) -> Self {
        let host = |number| network.host(number).clone();
        Sites {
            nats: [host(0), host(1), host(2)],
            postgres: network.hub().clone(),
            eventlogs: [host(3), host(4)],
            fanouts: [host(5), host(6)],
            gateways: [host(7), host(8)],
            pinned: false,
        }
    }
}

impl Cluster {
    /// Starts everything on free ports, and waits until all of it is ready.
    pub async fn start(shards: u8) -> Self {
        Self::start_at(shards, &Sites::default()).await
    }

    /// The same, whose gateways hear themselves this often.
    pub async fn start_with_canaries(shards: u8, every: &str) -> Self {
        let environment = [("FOGHORN_CANARY_EVERY", every), ("FOGHORN_CANARY_DEADLINE", "3s")];
        Self::start_all(&env::foghorn(), shards, &Sites::default(), &environment).await
    }

    /// The same of another version.
    pub async fn start_as(binary: &Path, shards: u8) -> Self {
        Self::start_all(binary, shards, &Sites::default(), &[]).await
    }

    /// The same, each part at its site.
    pub async fn start_at(shards: u8, sites: &Sites) -> Self {
        Self::start_all(&env::foghorn(), shards, sites, &[]).await
    }

    async fn start_all(binary: &Path, shards: u8, sites: &Sites, environment: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap_or_else(|error| panic!("writing {}: {error}", path.display()));
            path.display().to_string()
        };
        let (config, nats_config) =
            (file("foghorn.toml", CONFIGURATION), file("nats.conf", NATS_CONFIGURATION));
        let ((nats, routes), postgres) =
            tokio::join!(start_nats(&nats_config, sites), PostgresServer::start_at(&sites.postgres));
        let database = postgres.url(&postgres.create_database().await);
        let urls = nats.iter().map(NatsServer::url).collect::<Vec<_>>().join(",");
        let count = shards.to_string();
        let common = ["--config", &config, "--shards", &count, "--admin", "127.0.0.1:0", "--allow-anonymous"];
        let spawn = async |turn: usize, site: &Site, own: &[&str]| {
            let pinned = nats[turn].url();
            let bus = ["--nats", if sites.pinned { &pinned } else { &urls }];
            Foghorn::spawn_binary_at(binary, site, &[own, &bus, &common].concat(), environment).await
        };
        let mut eventlogs = Vec::new();
        for (turn, site) in sites.eventlogs.iter().enumerate() {
            let own = ["eventlog", "--grpc", "127.0.0.1:0", "--postgres", &database];
            eventlogs.push(spawn(turn, site, &own).await);
        }
        let logs: Vec<String> = eventlogs.iter().map(|log| format!("http://{}", log.grpc())).collect();
        let (mut fanouts, mut gateways) = (Vec::new(), Vec::new());
        for turn in 0..2 {
            // Each asks another event log first.
            let log = [logs[turn].as_str(), logs[1 - turn].as_str()].join(",");
            let listen = ["--listen", "127.0.0.1:0", "--eventlog", &log];
            let own = [&["fanout", "--grpc", "127.0.0.1:0"][..], &listen].concat();
            fanouts.push(spawn(turn, &sites.fanouts[turn], &own).await);
            gateways.push(spawn(turn, &sites.gateways[turn], &[&["gateway"][..], &listen].concat()).await);
        }
        let cluster = Cluster {
            nats,
            postgres,
            eventlogs,
            fanouts,
            gateways,
            database,
            shards,
            _routes: routes,
            _folder: folder,
        };
        cluster.ready().await;
        cluster
    }

    /// Every process of Foghorn's.
    pub fn services(&self) -> impl Iterator<Item = &Foghorn> {
        self.gateways.iter().chain(&self.fanouts).chain(&self.eventlogs)
    }

    /// Waits until every process says that it is ready, and NATS has all copies.
    pub async fn ready(&self) {
        for process in self.services() {
            let url = format!("http://{}/readyz", process.admin());
            until(&format!("{url} to be ready"), RECOVERY, async || {
                let reply = http::get(&url).await.ok()?;
                (reply.status == 200).then_some(())
            })
            .await;
        }
        self.copied().await;
    }

    /// Waits until every NATS server has all that the leaders have. What is promised is that any one may be
    /// killed, not one while another has yet to catch up.
    pub async fn copied(&self) {
        until("three copies of every stream", RECOVERY, async || self.is_copied().await.then_some(())).await;
    }

    /// Whether every NATS server has all that the leaders have.
    pub async fn is_copied(&self) -> bool {
        let Some(client) = self.nats_client().await else { return false };
        let buckets = ["cluster", "epochs", "leases"].map(|bucket| format!("KV_FOGHORN_{bucket}"));
        let streams = (0..self.shards).map(|shard| format!("FOGHORN_{shard}")).chain(buckets);
        for stream in streams {
            let Some(info) = stream_info(&client, &stream).await else { return false };
            let Some(others) = info["cluster"]["replicas"].as_array() else { return false };
            let current = |other: &&Value| other["current"] == true && other["offline"] != true;
            if others.iter().filter(current).count() != 2 {
                return false;
            }
        }
        true
    }

    /// The number of the server that leads a shard's stream.
    pub async fn leader(&self, shard: u8) -> usize {
        until("a leader", RECOVERY, async || self.leader_now(shard).await).await
    }

    /// The same, if it is known now.
    pub async fn leader_now(&self, shard: u8) -> Option<usize> {
        let info = stream_info(&self.nats_client().await?, &format!("FOGHORN_{shard}")).await?;
        info["cluster"]["leader"].as_str()?.strip_prefix('n')?.parse().ok()
    }

    /// Asks the leader of a shard's stream to let another lead.
    pub async fn step_down(&self, shard: u8) -> bool {
        let Some(client) = self.nats_client().await else { return false };
        let request = client.request(format!("$JS.API.STREAM.LEADER.STEPDOWN.FOGHORN_{shard}"), "".into());
        matches!(tokio::time::timeout(PATIENCE, request).await, Ok(Ok(_)))
    }

    /// The seq of a shard's last entry.
    pub async fn last_seq(&self, shard: u8) -> Option<u64> {
        let info = stream_info(&self.nats_client().await?, &format!("FOGHORN_{shard}")).await?;
        info["state"]["last_seq"].as_u64()
    }

    /// The seqs of a shard's entries that are gateways' own, as far as the journal has them still.
    pub async fn canaries(&self, shard: u8) -> Option<BTreeSet<u64>> {
        let client = self.nats_client().await?;
        let (mut found, mut next) = (BTreeSet::new(), 1);
        loop {
            let query = json!({ "seq": next, "next_by_subj": format!("foghorn.journal.{shard}.~foghorn.>") });
            let subject = format!("$JS.API.STREAM.MSG.GET.FOGHORN_{shard}");
            let answer = client.request(subject, query.to_string().into()).await.ok()?;
            let answer: Value = serde_json::from_slice(&answer.payload).ok()?;
            match answer["message"]["seq"].as_u64() {
                Some(seq) => {
                    found.insert(seq);
                    next = seq + 1;
                }
                None if answer["error"]["code"] == 404 => return Some(found),
                None => return None,
            }
        }
    }

    /// A connection to any of the servers that answers.
    pub async fn nats_client(&self) -> Option<async_nats::Client> {
        let urls: Vec<async_nats::ServerAddr> =
            self.nats.iter().filter_map(|server| server.url().parse().ok()).collect();
        let options = async_nats::ConnectOptions::new()
            .connection_timeout(Duration::from_secs(2))
            .request_timeout(Some(Duration::from_secs(3)));
        options.connect(urls).await.ok()
    }
}

/// What the leader says of a stream.
async fn stream_info(client: &async_nats::Client, stream: &str) -> Option<Value> {
    let info = client.request(format!("$JS.API.STREAM.INFO.{stream}"), "".into()).await.ok()?;
    serde_json::from_slice(&info.payload).ok()
}

/// Three servers that know of each other, `n0` to `n2`, and the ports of their routes.
async fn start_nats(config: &str, sites: &Sites) -> (Vec<NatsServer>, Vec<Port>) {
    let routes = [(); 3].map(|()| Port::lease());
    let urls = [0, 1, 2].map(|n: usize| format!("nats://{}", routes[n].at(&sites.nats[n])));
    let all = urls.join(",");
    let mut servers = Vec::new();
    for (n, listen) in urls.iter().enumerate() {
        let name = format!("n{n}");
        let arguments =
            ["-c", config, "--name", &name, "--cluster_name", "c", "--cluster", listen, "--routes", &all];
        servers.push(NatsServer::start_at(&sites.nats[n], &arguments).await);
    }
    (servers, routes.into())
}

/// The sum of a metric over its labels, as a process shows it now.
pub async fn metric(process: &Foghorn, name: &str) -> Option<f64> {
    let text = http::get(&format!("http://{}/metrics", process.admin())).await.ok()?.body;
    let values = text.as_str()?.lines().filter_map(|line| {
        let rest = line.strip_prefix(name).filter(|rest| rest.starts_with(['{', ' ']))?;
        rest.rsplit(' ').next()?.parse::<f64>().ok()
    });
    Some(values.sum())
}
