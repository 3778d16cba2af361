//! The live dashboard: how the whole cluster is, once a second, and what is wrong with it.
//!
//! Every process says how it is ([`Statuses`]), whether or not anybody listens. A gateway listens while somebody has a
//! stream of its dashboard; all of them are given the same.

mod alerts;
mod cluster;
mod stream;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use foghorn_bus::backoff::Backoff;
use foghorn_bus::clock::Clock;
use foghorn_bus::statuses::Statuses;
use foghorn_telemetry::status::Status;

use self::alerts::{Alerts, Firing};
pub use self::alerts::{Metric, Rule};
use self::cluster::Cluster;
pub(crate) use self::stream::PATH;
use crate::metrics::Metrics;

const EVERY: Duration = Duration::from_secs(1);
/// For so many seconds after the last one has left it goes on: a page that is loaded anew finds what was counted.
const LINGERS: u32 = 10;

/// `[dashboard]` in the configuration.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// When it is to say that something is wrong.
    pub alerts: Vec<Rule>,
}

impl Config {
    /// What is wrong with it, naming the key.
    pub fn check(&self) -> Result<(), String> {
        alerts::check(&self.alerts)
    }
}

/// How the cluster is at a moment.
#[derive(Debug)]
struct Moment {
    /// The data of a `metrics` event.
    metrics: String,
    /// All rules that hold.
    firing: Vec<Firing>,
}

/// What is shown of the cluster.
pub(crate) struct Dashboard {
    statuses: Arc<dyn Statuses>,
    rules: Vec<Rule>,
    clock: Clock,
    metrics: Metrics,
    latest: watch::Sender<Option<Arc<Moment>>>,
    is_gathering: AtomicBool,
}

impl Dashboard {
    pub(crate) fn new(statuses: Arc<dyn Statuses>, config: Config, clock: Clock, metrics: Metrics) -> Self {
        let (latest, _) = watch::channel(None);
        Dashboard {
            statuses,
            rules: config.alerts,
            clock,
            metrics,
            latest,
            is_gathering: AtomicBool::new(false),
        }
    }

    /// What is shown from now on; begins to listen if nobody did.
    fn watch(self: &Arc<Self>) -> watch::Receiver<Option<Arc<Moment>>> {
        let watcher = self.latest.subscribe();
        if !self.is_gathering.swap(true, Ordering::SeqCst) {
            let gatherer = self.clone();
            tokio::spawn(async move { gatherer.gather().await });
        }
        watcher
    }

    /// Listens to what processes say, until nobody has wanted to know for a while.
    async fn gather(&self) {
        let cluster = Mutex::new(Cluster::default());
        tokio::select! {
            () = self.listen(&cluster) => {}
            () = self.show(&cluster) => {}
        }
    }

    async fn listen(&self, cluster: &Mutex<Cluster>) {
        let mut backoff = Backoff::default();
        loop {
            match self.statuses.hear().await {
                Ok(mut statuses) => {
                    while let Some(said) = statuses.next().await {
                        match Status::parse(&said) {
                            Some(status) => cluster.lock().heard(status, Instant::now()),
                            None => _ = self.metrics.statuses_refused.inc(),
                        }
                    }
                }
                Err(error) => tracing::warn!(%error, "can't hear how the cluster is; trying again"),
            }
            backoff.wait().await;
        }
    }

    async fn show(&self, cluster: &Mutex<Cluster>) {
        let mut alerts = Alerts::new(&self.rules);
        let mut tick = tokio::time::interval_at(tokio::time::Instant::now() + EVERY, EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut unwatched = 0;
        loop {
            tick.tick().await;
            self.show_now(cluster, &mut alerts);
            unwatched = if self.latest.receiver_count() == 0 { unwatched + 1 } else { 0 };
            if unwatched > LINGERS && self.rests() {
                return;
            }
        }
    }

    fn show_now(&self, cluster: &Mutex<Cluster>, alerts: &mut Alerts) {
        let now = Instant::now();
        let overview = cluster.lock().overview(now);
        let firing = alerts.firing(&overview.cluster, now);
        let mut data = json!(overview);
        data["time"] = json!(self.clock.now().to_string());
        data["alerts"] = json!(firing);
        let metrics = data.to_string();
        self.latest.send_replace(Some(Arc::new(Moment { metrics, firing })));
    }

    /// Ends gathering, unless somebody came meanwhile.
    fn rests(&self) -> bool {
        // What is old by the time that somebody looks is not to be shown.
        self.latest.send_replace(None);
        self.is_gathering.store(false, Ordering::SeqCst);
        // Who came before that takes it to go on.
        self.latest.receiver_count() == 0 || self.is_gathering.swap(true, Ordering::SeqCst)
    }
}
