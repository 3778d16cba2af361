//! The cluster: which processes there are, and what starts and ends them.

use std::sync::Arc;
use std::time::Duration;

use foghorn_auth::Authenticator;
use foghorn_bus::log::EventLog;
use foghorn_bus::memory::{Alone, MemoryStatuses, MemorySubscriptions, MemoryTickets, Mute};
use foghorn_bus::policies::SharedPolicies;
use foghorn_core::pattern::Pattern;
use foghorn_core::policy::{Policies, Policy};
use foghorn_core::position::Epoch;
use foghorn_core::shard::Shard;
use foghorn_eventlog::metrics::Metrics as LogMetrics;
use foghorn_eventlog::postgres::PostgresLog;
use foghorn_eventlog::postgres::tables::{Broken, Tables};
use foghorn_eventlog::postgres::writer::Writer;
use foghorn_fanout::config::Config as FanoutConfig;
use foghorn_fanout::metrics::Metrics as FanoutMetrics;
use foghorn_fanout::publish::Publisher;
use foghorn_fanout::relay::Relay;
use foghorn_gateway::config::Config as GatewayConfig;
use foghorn_gateway::dashboard::Config as DashboardConfig;
use foghorn_gateway::service::{Api, Gateway, Ports, Tickets};
use foghorn_http::client::Proxies;
use foghorn_telemetry::health::Health;
use foghorn_telemetry::shutdown::{self, Trigger};
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::journal::{Servers, SimJournal};
use crate::lease::{Bucket, SimLeases};
use crate::live::{SimLive, Subjects};
use crate::log::{PgLink, Replica, Replicas, SimLog};
use crate::mutant::Mutant;
use crate::process::Process;
use crate::world::{Cause, World};

/// Everything that runs, and what it runs on.
pub struct Cluster {
    /// The surroundings.
    pub world: Arc<World>,
    /// JetStream.
    pub servers: Arc<Servers>,
    /// The tables of PostgreSQL.
    pub tables: Tables,
    /// Whether PostgreSQL is away.
    pub postgres_down: Arc<Mutex<bool>>,
    /// The leases.
    pub bucket: Arc<Bucket>,
    subjects: Arc<Subjects>,
    replicas: Replicas,
    policies: Mutex<Arc<Policies>>,
    /// Those of every log that was ever started.
    writing: Mutex<Vec<SharedPolicies>>,
    gateways: Mutex<Vec<Option<Arc<GatewayProcess>>>>,
    fanouts: Mutex<Vec<Option<Arc<FanoutProcess>>>>,
    logs: Mutex<Vec<Option<LogProcess>>>,
    started: Mutex<usize>,
    losses: Mutex<Vec<Loss>>,
    ring_bytes: usize,
    trim_behind: Duration,
}

/// The moment before the journal lost something.
struct Loss {
    shard: Shard,
    life: u64,
    at: Duration,
    /// The gateways that had seen what it had.
    gateways: Vec<Arc<Process>>,
}

/// A gateway that runs.
pub struct GatewayProcess {
    /// Where it runs.
    pub process: Arc<Process>,
    /// What answers its requests.
    pub api: Arc<Api>,
    gateway: Mutex<Option<Gateway>>,
}

/// A fan-out that runs.
pub struct FanoutProcess {
    /// Where it runs.
    pub process: Arc<Process>,
    /// Its way in.
    pub publisher: Arc<Publisher>,
    triggers: Vec<Trigger>,
    tasks: Mutex<JoinSet<()>>,
}

struct LogProcess {
    process: Arc<Process>,
    stop: CancellationToken,
    /// End with it.
    _tasks: JoinSet<()>,
}

/// What can be done to a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A gateway.
    Gateway,
    /// A fan-out.
    Fanout,
    /// A replica of the event log.
    Log,
}

impl Cluster {
    /// A cluster of which nothing runs yet.
    pub fn new(world: &Arc<World>, gateways: usize, fanouts: usize, logs: usize) -> Arc<Self> {
        let tables = Tables::default();
        tables.break_on_purpose(Broken {
            lost_forgotten: world.is(Mutant::LostForGood),
            heads_unfenced: world.is(Mutant::WritersUnfenced) || world.is(Mutant::HeadsUnfenced),
            terms_unfenced: world.is(Mutant::WritersUnfenced),
            digests_unknown: world.is(Mutant::WritersDontCompare),
            asked_once: world.is(Mutant::CheckedOnce),
        });
        let servers = Servers::new(world);
        let trim_behind = Duration::from_secs(world.one(&[5, 20, 3600]));
        if trim_behind < Duration::from_secs(60) && world.chance(0.5) {
            servers.set_most(Some(world.pick(60..400)));
        }
        Arc::new(Cluster {
            world: world.clone(),
            servers,
            tables,
            postgres_down: Arc::default(),
            bucket: Arc::default(),
            subjects: Arc::default(),
            replicas: Replicas::default(),
            policies: Mutex::new(policies(0)),
            writing: Mutex::default(),
            gateways: Mutex::new((0..gateways).map(|_| None).collect()),
            fanouts: Mutex::new((0..fanouts).map(|_| None).collect()),
            logs: Mutex::new((0..logs).map(|_| None).collect()),
            started: Mutex::default(),
            losses: Mutex::default(),
            ring_bytes: world.one(&[4 << 10, 16 << 10, 1 << 20]),
            trim_behind,
        })
    }

    /// How many there are of a kind.
    pub fn count(&self, kind: Kind) -> usize {
        match kind {
            Kind::Gateway => self.gateways.lock().len(),
            Kind::Fanout => self.fanouts.lock().len(),
            Kind::Log => self.logs.lock().len(),
        }
    }

    /// The process at a place, if one runs there.
    pub fn process(&self, kind: Kind, at: usize) -> Option<Arc<Process>> {
        match kind {
            Kind::Gateway => self.gateways.lock()[at].as_ref().map(|gateway| gateway.process.clone()),
            Kind::Fanout => self.fanouts.lock()[at].as_ref().map(|fanout| fanout.process.clone()),
            Kind::Log => self.logs.lock()[at].as_ref().map(|log| log.process.clone()),
        }
    }

    /// Starts a process, unless one runs there.
    pub fn start(&self, kind: Kind, at: usize) {
        if self.process(kind, at).is_some() {
            return;
        }
        let number = {
            let mut started = self.started.lock();
            *started += 1;
            *started
        };
        let name = match kind {
            Kind::Gateway => "gateway",
            Kind::Fanout => "fanout",
            Kind::Log => "log",
        };
        let process = Process::new(&self.world, format!("{name}-{at}.{number}"));
        // No two clocks are the same.
        let off = i64::try_from(self.world.pick(0..800)).unwrap_or(0) - 400;
        process.set(|flags| flags.clock_ms = off);
        self.world.tell(&process.name, "starts");
        match kind {
            Kind::Gateway => {
                let gateway = self.gateway(&process);
                self.gateways.lock()[at] = Some(Arc::new(gateway));
            }
            Kind::Fanout => {
                let fanout = self.fanout(&process);
                self.fanouts.lock()[at] = Some(Arc::new(fanout));
            }
            Kind::Log => {
                let log = self.log(&process);
                self.logs.lock()[at] = Some(log);
            }
        }
    }

    /// SIGKILL.
    pub fn kill(&self, kind: Kind, at: usize) {
        let Some(process) = self.process(kind, at) else { return };
        self.world.tell(&process.name, "is killed");
        process.set(|flags| flags.killed = true);
        match kind {
            Kind::Gateway => {
                let gone = self.gateways.lock()[at].take();
                // Its tasks end with it.
                drop(gone.and_then(|gateway| gateway.gateway.lock().take()));
            }
            Kind::Fanout => {
                if let Some(gone) = self.fanouts.lock()[at].take() {
                    // Somebody may still wait for an answer of its.
                    gone.tasks.lock().abort_all();
                }
            }
            Kind::Log => {
                self.replicas.lock().retain(|replica| !Arc::ptr_eq(&replica.process, &process));
                drop(self.logs.lock()[at].take());
            }
        }
    }

    /// SIGTERM: it gives up what it holds, and is gone a while later.
    pub async fn terminate(self: Arc<Self>, kind: Kind, at: usize) {
        let Some(process) = self.process(kind, at) else { return };
        self.world.tell(&process.name, "is told to stop");
        let draining = match kind {
            Kind::Gateway => {
                let gateway = self.gateways.lock()[at].clone();
                gateway.and_then(|gateway| gateway.gateway.lock().take())
            }
            Kind::Fanout => {
                if let Some(fanout) = &self.fanouts.lock()[at] {
                    fanout.triggers.iter().for_each(Trigger::fire);
                }
                None
            }
            Kind::Log => {
                if let Some(log) = &self.logs.lock()[at] {
                    log.stop.cancel();
                }
                None
            }
        };
        match draining {
            Some(gateway) => gateway.drain(|| ()).await,
            None => tokio::time::sleep(Duration::from_secs(3)).await,
        }
        // It may have been killed meanwhile, and another may run there.
        if self.process(kind, at).is_some_and(|now| Arc::ptr_eq(&now, &process)) {
            self.kill(kind, at);
        }
    }

    /// Notes who has seen what a shard's journal is about to lose, everything after `keeps`.
    pub fn witness(&self, shard: Shard, keeps: u64) {
        let epoch = self.servers.record(shard).map_or(Epoch::new(0), |record| record.epoch);
        let gateways = self.gateways.lock().iter().flatten().map(|gateway| gateway.process.clone()).collect();
        let gateways: Vec<Arc<Process>> = gateways;
        let gateways = gateways.into_iter().filter(|gateway| gateway.knows(shard, epoch) > keeps).collect();
        let life = self.servers.life(shard);
        self.losses.lock().push(Loss { shard, life, at: self.world.elapsed(), gateways });
    }

    /// Whether the journal has lost something that nobody noticed, and nobody but clients was left to notice:
    /// a cursor has no digest.
    pub fn is_forgotten(&self, shard: Shard) -> bool {
        let Some(record) = self.servers.record(shard) else { return false };
        let losses = self.losses.lock();
        let mut unnoticed = losses.iter().filter(|loss| loss.shard == shard && loss.life >= record.life);
        unnoticed.any(|loss| loss.gateways.iter().all(|gateway| gateway.flags().killed))
    }

    /// Whether the journal once lost something, and when the next epoch began nobody but clients was left who
    /// had seen it, or it had lost something else by then: whoever noticed a loss may have noticed the other.
    pub fn ever_forgot(&self, shard: Shard) -> bool {
        let (losses, epochs) = (self.losses.lock(), self.servers.epochs());
        let mut causes = self.world.causes();
        causes
            .retain(|(_, cause)| matches!(cause, Cause::Lost(of, _) | Cause::RecordBack(of) if *of == shard));
        let in_a_row = causes.windows(2).any(|two| {
            let (one, other) = (two[0].0, two[1].0);
            !epochs.iter().any(|record| record.shard == shard && record.at > one && record.at < other)
        });
        in_a_row
            || losses.iter().filter(|loss| loss.shard == shard).any(|loss| {
                let mut later = epochs.iter().filter(|record| record.shard == shard && record.at >= loss.at);
                let told = later.next().map_or(Duration::MAX, |record| record.at);
                loss.gateways.iter().all(|gateway| gateway.killed_at().is_some_and(|at| at <= told))
            })
    }

    /// Other policies hold from now on, for logs a moment later.
    pub fn change_policies(self: &Arc<Self>, to: usize) {
        *self.policies.lock() = policies(to);
        for shared in self.writing.lock().iter() {
            let (shared, after, cluster) = (shared.clone(), self.world.millis(0..3000), self.clone());
            tokio::spawn(async move {
                tokio::time::sleep(after).await;
                shared.set((*cluster.policies()).clone());
            });
        }
    }

    fn policies(&self) -> Arc<Policies> {
        self.policies.lock().clone()
    }

    /// Whether gateways and journal keep whatever a run can bring, so that whoever listens gets what is never
    /// replayed too.
    pub fn keeps_all(&self) -> bool {
        self.ring_bytes >= 1 << 20 && self.trim_behind >= Duration::from_secs(3600)
    }

    /// Some gateway that runs.
    pub fn any_gateway(&self, world: &World) -> Option<Arc<GatewayProcess>> {
        let running: Vec<_> = self.gateways.lock().iter().flatten().cloned().collect();
        (!running.is_empty()).then(|| running[world.pick(0..running.len())].clone())
    }

    /// Some fan-out that runs.
    pub fn any_fanout(&self, world: &World) -> Option<Arc<FanoutProcess>> {
        let running: Vec<_> = self.fanouts.lock().iter().flatten().cloned().collect();
        (!running.is_empty()).then(|| running[world.pick(0..running.len())].clone())
    }

    fn gateway(&self, process: &Arc<Process>) -> GatewayProcess {
        let log: Arc<dyn EventLog> = Arc::new(SimLog::new(process, &self.replicas));
        let config = GatewayConfig {
            ring_bytes: self.ring_bytes,
            ring_warm: Duration::from_secs(self.world.one(&[1, 10, 60])),
            keep_alive: Duration::from_secs(3),
            keep_alive_idle: Duration::from_secs(3),
            log_patience: Duration::from_secs(8),
            drain_window: Duration::from_secs(2),
            stale_after: Duration::from_secs(if self.world.is(Mutant::SilenceUntold) { 3600 } else { 5 }),
            // By the system's clock, and nobody here is known by address or token.
            address_per_minute: 0,
            subject_per_minute: 0,
            ..GatewayConfig::default()
        };
        let ports = Ports {
            feed: Arc::new(SimLive::new(process, &self.subjects)),
            log,
            shards: self.world.shards,
            policies: self.policies().into(),
            auth: Arc::new(Authenticator::open()),
            proxies: Proxies::default(),
            revocations: Arc::new(foghorn_auth::revocation::InMemory),
            subscriptions: Arc::new(MemorySubscriptions::default()),
            tickets: Tickets::new(Arc::new(MemoryTickets::default()), &[0; 32]),
            gateways: Arc::new(Alone),
            unread: Arc::new(foghorn_bus::notifications::Nobody),
            announcer: Arc::new(Mute),
            statuses: Arc::new(MemoryStatuses::default()),
            clock: process.clock(),
            health: Health::default(),
        };
        let gateway = Gateway::start(config, DashboardConfig::default(), ports, &mut Registry::default());
        let api = gateway.api();
        GatewayProcess { process: process.clone(), api, gateway: Mutex::new(Some(gateway)) }
    }

    fn fanout(&self, process: &Arc<Process>) -> FanoutProcess {
        let journal = SimJournal::new(process, &self.servers, true);
        let log: Arc<dyn EventLog> = Arc::new(SimLog::new(process, &self.replicas));
        let metrics = FanoutMetrics::register(&mut Registry::default());
        let (trigger, shutdown) = shutdown::channel();
        let publisher = Publisher::new(
            Arc::new(journal.clone()),
            log,
            self.policies().into(),
            Arc::new(Authenticator::open()),
            FanoutConfig::default(),
            metrics.clone(),
            shutdown,
        );
        let (mut tasks, mut triggers) = (JoinSet::new(), vec![trigger]);
        tasks.spawn(process.runs(journal.clone().keep()));
        for shard in self.world.shards.shards() {
            // A trigger each: who of several is woken first is not ours to say.
            let (trigger, shutdown) = shutdown::channel();
            triggers.push(trigger);
            let relay = Relay::new(
                shard,
                Arc::new(journal.clone()),
                Arc::new(SimLive::new(process, &self.subjects)),
                Arc::new(SimLeases::new(process, &self.bucket)),
                FanoutConfig::default().beacon_interval,
                metrics.clone(),
                shutdown,
            )
            .with_clock(process.clock());
            let opened = journal.clone();
            tasks.spawn(process.runs(async move {
                opened.open().await;
                relay.run().await;
            }));
        }
        let (process, publisher) = (process.clone(), Arc::new(publisher));
        FanoutProcess { process, publisher, triggers, tasks: Mutex::new(tasks) }
    }

    fn log(&self, process: &Arc<Process>) -> LogProcess {
        let journal = SimJournal::new(process, &self.servers, false);
        let database = self.tables.database(PgLink::new(process, &self.postgres_down, &self.tables));
        let metrics = LogMetrics::register(&mut Registry::default());
        let policies = SharedPolicies::from((*self.policies()).clone());
        self.writing.lock().push(policies.clone());
        let (mut tasks, stop) = (JoinSet::new(), CancellationToken::new());
        tasks.spawn(process.runs(journal.clone().keep()));
        for shard in self.world.shards.shards() {
            let writer = Writer {
                shard,
                journal: Arc::new(journal.clone()),
                database: database.clone(),
                leases: Arc::new(SimLeases::new(process, &self.bucket)),
                policies: policies.clone(),
                trim_behind: self.trim_behind,
                clock: process.clock(),
                metrics: metrics.clone(),
            };
            let (stop, opened) = (stop.clone(), journal.clone());
            tasks.spawn(process.runs(async move {
                opened.open().await;
                writer.run(&stop).await;
            }));
        }
        let log = PostgresLog::new(database, Arc::new(journal), policies, process.clock(), metrics);
        self.replicas.lock().push(Replica { process: process.clone(), log: Arc::new(log) });
        LogProcess { process: process.clone(), stop, _tasks: tasks }
    }
}

/// How many sets of policies there are.
pub const POLICIES: usize = 3;

/// `a.*` and `b.*` are kept for a day, `s.*` for a minute or two, of `n.*` the newest few, and `l.*` are never
/// replayed. Which of several sets.
pub fn policies(which: usize) -> Arc<Policies> {
    let of = |pattern: &str| Pattern::parse(pattern.to_owned()).ok().map(Policy::new);
    let short = Duration::from_secs([60, 120, 60][which % POLICIES]);
    let count = [Some(5), Some(NEWEST), None][which % POLICIES];
    let all = [
        of("s.*").map(|policy| Policy { retention: short, ..policy }),
        of("n.*").map(|policy| Policy { retention_count: count, ..policy }),
        of("l.*").map(|policy| Policy { replay: false, ..policy }),
        of("b.1")
            .filter(|_| which == 2)
            .map(|policy| Policy { retention: Duration::from_secs(90), ..policy }),
    ];
    Arc::new(Policies::new(all.into_iter().flatten().collect()).unwrap_or_default())
}

/// The fewest newest events of `n.*` that are always owed.
pub const NEWEST: u32 = 3;
