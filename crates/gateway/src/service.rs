//! Putting a gateway together.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::registry::Registry;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use foghorn_auth::Authenticator;
use foghorn_auth::revocation::Store;
use foghorn_bus::announce::Announcer;
use foghorn_bus::clock::Clock;
use foghorn_bus::gateways::{GatewayName, Gateways};
use foghorn_bus::live::LiveFeed;
use foghorn_bus::log::EventLog;
use foghorn_bus::notifications::Unread;
use foghorn_bus::policies::SharedPolicies;
use foghorn_bus::rollout::Pacer;
use foghorn_bus::statuses::Statuses;
use foghorn_bus::subscriptions::Subscriptions;
use foghorn_core::policy::Policies;
use foghorn_core::shard::ShardCount;
use foghorn_http::client::Proxies;
use foghorn_telemetry::health::Health;

use crate::canary::{self, Birdcage};
use crate::config::Config;
use crate::connection::Shared;
use crate::dashboard::{self, Dashboard};
use crate::drain::drain;
pub use crate::http::Api;
use crate::hub::Hub;
use crate::ingest::Ingest;
use crate::kept::Keeper;
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::places::Places;
use crate::presence::tell::Teller;
use crate::rollout::Rollout;
use crate::subscribe;
pub use crate::ticket::Tickets;

/// How often at most all streams are looked at for whether they are to end.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// What a gateway needs from outside.
pub struct Ports {
    /// Where live events come from.
    pub feed: Arc<dyn LiveFeed>,
    /// Where older ones come from.
    pub log: Arc<dyn EventLog>,
    /// How many shards the cluster has.
    pub shards: ShardCount,
    /// What holds for which channels; may change.
    pub policies: SharedPolicies,
    /// Who may listen.
    pub auth: Arc<Authenticator>,
    /// Who is believed about whom they ask for.
    pub proxies: Proxies,
    /// Where what operators revoke is kept.
    pub revocations: Arc<dyn Store>,
    /// Where one-time tickets wait to be redeemed.
    pub tickets: Tickets,
    /// Where it is kept what streams were changed to hear.
    pub subscriptions: Arc<dyn Subscriptions>,
    /// The other gateways, whose streams may be asked for here.
    pub gateways: Arc<dyn Gateways>,
    /// Who knows how many notifications of a user are unread.
    pub unread: Arc<dyn Unread>,
    /// Who publishes who comes and goes.
    pub announcer: Arc<dyn Announcer>,
    /// Where processes say how they are.
    pub statuses: Arc<dyn Statuses>,
    /// What counts as now.
    pub clock: Clock,
    /// Told when the rings are warm.
    pub health: Health,
}

/// A running gateway.
pub struct Gateway {
    api: Arc<Api>,
    health: Health,
    /// Ends with the gateway.
    tasks: JoinSet<()>,
    /// Ends before its streams are let go.
    canary: Option<AbortHandle>,
    /// Whether somebody says when they are, and who tells them meanwhile that it serves.
    rollout: Option<(Arc<Rollout>, AbortHandle)>,
}

impl Gateway {
    /// Starts taking in the live feed.
    pub fn start(
        config: Config,
        dashboard: dashboard::Config,
        ports: Ports,
        registry: &mut Registry,
    ) -> Self {
        let metrics = Metrics::register(registry);
        metrics.connections_max.set(i64::try_from(config.connections).unwrap_or(i64::MAX));
        let (name, gateways) = (GatewayName::random(), ports.gateways.clone());
        let places = Arc::new(Places::new(config.user_limit(), name, gateways, metrics.clone()));
        let dashboard =
            Arc::new(Dashboard::new(ports.statuses, dashboard, ports.clock.clone(), metrics.clone()));
        let policies = ports.policies;
        let hub = Hub::new(ports.shards, config.ring_bytes, policies.clone(), ports.clock, metrics);
        let hub = hub.with_auth(ports.auth.clone()).with_places(places.clone());
        let hub = Arc::new(hub);
        let mut tasks = JoinSet::new();
        for shard in ports.shards.shards() {
            let ingest = Ingest {
                shard,
                hub: hub.clone(),
                feed: ports.feed.clone(),
                log: ports.log.clone(),
                warm: config.ring_warm,
                stale_after: config.stale_after,
                pending_bytes: config.ring_bytes / usize::from(ports.shards.get()) / 4,
                health: ports.health.part(format!("ring.{shard}"), "the event log, to fill the ring"),
            };
            tasks.spawn(ingest.run());
        }
        let reasons = [ports.auth.revocations().changes(), places.oustings(), hub.grants.endings()];
        tasks.spawn(look_for_endings(hub.clone(), reasons, policies.changes()));
        let (granted, auth) = (hub.clone(), ports.auth.clone());
        tasks.spawn(async move { granted.grants.renew(&auth).await });
        let lives = ports.health.part("members", "NATS, to hear which gateways live");
        tasks.spawn(places.clone().keep_up(lives));
        tasks.spawn(places.clone().keep_told());
        tasks.spawn(places.keep_compared());
        let (gateways, announcer) = (ports.gateways.clone(), ports.announcer);
        let teller = Teller { hub: hub.clone(), gateways, announcer };
        tasks.spawn(teller.once_told(policies.changes(), config.presence_debounce));
        let counted = hub.clone();
        tasks.spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                counted.count_slow();
            }
        });
        let limits = Arc::new(Limits::new(ports.proxies, &config));
        let keeper = Arc::new(Keeper::new(ports.subscriptions, config.subscription_life));
        let (renewed, renewer) = (hub.clone(), keeper.clone());
        tasks.spawn(async move { renewer.renew(&renewed).await });
        let shared = Arc::new(Shared::new(hub, ports.log, config));
        let api = Arc::new(Api {
            shared,
            auth: ports.auth,
            revocations: ports.revocations,
            tickets: Arc::new(ports.tickets),
            gateways: ports.gateways,
            unread: ports.unread,
            dashboard,
            keeper,
            limits,
        });
        // A stream that others can't ask for should not begin.
        let asked = ports.health.part("gateways", "NATS, to hear what other gateways ask");
        tasks.spawn(subscribe::answer_gateways(api.clone(), asked));
        Gateway { api, health: ports.health, tasks, canary: None, rollout: None }
    }

    /// Has it hear itself from now on, if it is to. Registers the metrics of that.
    pub fn begin_canary(
        &mut self,
        config: &canary::Config,
        announcer: Arc<dyn Announcer>,
        registry: &mut Registry,
    ) {
        if !config.every.is_zero() {
            let cage = Birdcage::new(self.api.shared.clone(), announcer, config.clone(), registry);
            self.canary = Some(self.tasks.spawn(cage.run()));
        }
    }

    /// Has it do from now on what whoever paces the cluster's gateways says, if it is to. `pod` is what it is called there.
    pub fn begin_paced(&mut self, pacer: Arc<dyn Pacer>, pod: String) {
        if !self.api.shared.config.drain_wait.is_zero() {
            let rollout = Arc::new(Rollout::new(self.api.shared.clone(), pacer, pod));
            let serving = self.tasks.spawn(rollout.clone().serve());
            self.rollout = Some((rollout, serving));
        }
    }

    /// What it is called.
    pub fn name(&self) -> GatewayName {
        self.api.shared.name
    }

    /// Its HTTP side.
    pub fn api(&self) -> Arc<Api> {
        self.api.clone()
    }

    /// Turns unready, keeps serving for the configured delay, takes no streams on any more, waits for its turn where
    /// somebody paces it, and lets its streams go at the set pace. The caller stops accepting when `stop_accepting` is
    /// called, and exits when this returns.
    pub async fn drain(mut self, stop_accepting: impl FnOnce()) {
        self.health.part("drain", "its end: the gateway is draining");
        tokio::time::sleep(self.api.shared.config.drain_delay).await;
        if let Some(canary) = self.canary.take() {
            canary.abort();
        }
        stop_accepting();
        let (hub, config) = (&self.api.shared.hub, &self.api.shared.config);
        hub.begin_drain();
        match self.rollout.take() {
            None => drain(hub, config).await,
            Some((rollout, serving)) => {
                serving.abort();
                rollout.wait_for_turn().await;
                let pace = rollout.pace();
                tokio::select! {
                    () = drain(hub, config) => {}
                    () = rollout.say_draining(pace) => {}
                }
                rollout.say_gone().await;
            }
        }
        // What still says that this gateway lives is over before it says that it leaves.
        self.tasks.shutdown().await;
        self.api.shared.hub.places.leave().await;
    }
}

/// Has all streams look whether they are to end, whenever some may be.
async fn look_for_endings(
    hub: Arc<Hub>,
    reasons: [watch::Receiver<u64>; 3],
    mut policies: watch::Receiver<Arc<Policies>>,
) {
    let [mut revoked, mut ousted, mut withdrawn] = reasons;
    loop {
        let changed = tokio::select! {
            changed = revoked.changed() => changed,
            changed = ousted.changed() => changed,
            changed = withdrawn.changed() => changed,
            changed = policies.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
        hub.look_for_endings();
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
