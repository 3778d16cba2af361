//! Fan-out put together: the doors and the relays over the ports they are given.

use std::sync::Arc;
use std::time::Duration;

use foghorn_auth::Authenticator;
use foghorn_bus::backoff::Backoff;
use foghorn_bus::clock::Clock;
use foghorn_bus::journal::Journal;
use foghorn_bus::lease::Leases;
use foghorn_bus::live::LiveFeed;
use foghorn_bus::log::EventLog;
use foghorn_bus::nats::Requests;
use foghorn_bus::policies::SharedPolicies;
use foghorn_http::client::Proxies;
use foghorn_rpc::v1::publisher_server::PublisherServer;
use foghorn_telemetry::health::{Health, Part};
use foghorn_telemetry::shutdown::Shutdown;
use prometheus_client::registry::Registry;
use tokio::task::JoinSet;

use crate::config::Config;
use crate::grpc::{self, GrpcDoor};
use crate::http::PublishHandler;
use crate::metrics::Metrics;
use crate::nats;
use crate::presence;
use crate::publish::Publisher;
use crate::relay::Relay;

/// What fan-out stands on.
pub struct Ports {
    /// Where events become real.
    pub journal: Arc<dyn Journal>,
    /// Where batches go.
    pub feed: Arc<dyn LiveFeed>,
    /// Who relays which shard.
    pub leases: Arc<dyn Leases>,
    /// Who knows what is durable.
    pub log: Arc<dyn EventLog>,
    /// Who may publish.
    pub auth: Arc<Authenticator>,
    /// Who is believed about whom they ask for.
    pub proxies: Proxies,
    /// What counts as now.
    pub clock: Clock,
}

/// What comes over NATS.
#[derive(Debug)]
pub struct NatsDoors {
    /// Events of publishers.
    pub publishers: Requests,
    /// What gateways want published of who listens.
    pub gateways: Requests,
    /// What gateways want published to hear it themselves.
    pub canaries: Requests,
}

/// A fan-out: hands out its doors and runs its relays.
pub struct Fanout {
    ports: Ports,
    config: Config,
    metrics: Metrics,
    journal_part: Part,
    shutdown: Shutdown,
    publisher: Arc<Publisher>,
}

impl Fanout {
    /// Puts it together. Registers its metrics, and the part `journal` of `health`, ready once every
    /// shard's journal has answered. `config` has been [checked](Config::check).
    pub fn new(
        ports: Ports,
        policies: SharedPolicies,
        config: Config,
        health: &Health,
        shutdown: Shutdown,
        registry: &mut Registry,
    ) -> Self {
        let metrics = Metrics::register(registry);
        let publisher = Arc::new(Publisher::new(
            ports.journal.clone(),
            ports.log.clone(),
            policies,
            ports.auth.clone(),
            config.clone(),
            metrics.clone(),
            shutdown.clone(),
        ));
        let journal_part = health.part("journal", "the journal has not answered yet");
        Fanout { ports, config, metrics, journal_part, shutdown, publisher }
    }

    /// The one way in, for whoever publishes within the process.
    pub fn publisher(&self) -> Arc<Publisher> {
        self.publisher.clone()
    }

    /// What answers [`crate::http::PATH`].
    pub fn http(&self) -> PublishHandler {
        PublishHandler::new(self.publisher.clone(), self.ports.proxies.clone())
    }

    /// What answers `foghorn.v1.Publisher`.
    pub fn grpc(&self) -> PublisherServer<GrpcDoor> {
        grpc::publisher(self.publisher.clone())
    }

    /// Runs the relays, and the doors on NATS if there are `requests`, until shutdown; then returns, leases given up and
    /// requests answered.
    pub async fn run(self, requests: Option<NatsDoors>) {
        let mut tasks = JoinSet::new();
        for shard in self.ports.journal.shards().shards() {
            let relay = Relay::new(
                shard,
                self.ports.journal.clone(),
                self.ports.feed.clone(),
                self.ports.leases.clone(),
                self.config.beacon_interval,
                self.metrics.clone(),
                self.shutdown.clone(),
            );
            tasks.spawn(relay.with_clock(self.ports.clock.clone()).run());
        }
        if let Some(NatsDoors { publishers, gateways, canaries }) = requests {
            tasks.spawn(nats::serve(self.publisher.clone(), publishers));
            tasks.spawn(presence::serve(self.publisher.clone(), gateways));
            tasks.spawn(presence::serve_canaries(self.publisher.clone(), canaries));
        }
        tasks.spawn(wait_for_journal(self.ports.journal, self.journal_part, self.shutdown));
        while let Some(ended) = tasks.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "a part of fan-out broke");
            }
        }
    }
}

/// Makes the process ready once every shard's journal has answered. Later failures are answered request
/// by request: all replicas share the journal, so there is none that traffic had better go to.
async fn wait_for_journal(journal: Arc<dyn Journal>, part: Part, shutdown: Shutdown) {
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
    for shard in journal.shards().shards() {
        while let Err(error) = journal.bounds(shard).await {
            part.not_ready(error.to_string());
            tokio::select! {
                () = backoff.wait() => {}
                () = shutdown.wait() => return,
            }
        }
    }
    part.ready();
}
