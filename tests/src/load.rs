//! Load on a cluster, and the oracle: publishers at every door that try one event until it is acked, listeners of
//! every habit that come back with their cursors, and a ledger that knows what each of them is owed.
//!
//! Each publisher has a channel of its own and numbers its events. So what a listener is owed is the next number of
//! each of its channels, and that is checked as it comes: an hour's load needs no more memory than a minute's, but
//! for the positions.

mod door;
mod ledger;
mod listener;
mod publisher;
mod table;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use foghorn_core::shard::ShardCount;
use tokio::sync::watch;
use tokio::task::JoinSet;

pub use self::ledger::Counts;
use self::ledger::Ledger;
use self::listener::Listener;
use crate::cluster::{Cluster, RECOVERY};
use crate::wait::until;

/// How many groups the channels are in, `load.<group>.<publisher>`; a pattern of a group is what some listen to.
const GROUPS: usize = 4;
/// What all channels of a load begin with; a test's own are of other names.
const PREFIX: &str = "load.";

/// How much load.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Publishers, a channel each; by turns over HTTP, gRPC, NATS, and straight into the journal.
    pub publishers: usize,
    /// Listeners.
    pub listeners: usize,
    /// A publisher's mean pause between an ack and its next event.
    pub pause: Duration,
    /// Whether all listeners stay for as long as their streams do; else half of them come and go.
    pub stay: bool,
    /// Chooses habits and pauses.
    pub seed: u64,
}

impl Default for Plan {
    /// What the issue asks for, at a rate that a small machine can bear: 32 publishers, 200 listeners.
    fn default() -> Self {
        Plan { publishers: 32, listeners: 200, pause: Duration::from_millis(150), stay: false, seed: 1 }
    }
}

/// Where the cluster is reached; the same over all restarts.
#[derive(Debug, Clone)]
struct Addresses {
    gateways: Vec<String>,
    publish: Vec<String>,
    grpc: Vec<String>,
    nats: Vec<String>,
    database: String,
}

/// What all parts of a load share.
#[derive(Debug)]
struct Shared {
    addresses: Addresses,
    plan: Plan,
    ledger: Ledger,
    /// Publishers end with the event they are at.
    stop: AtomicBool,
    /// Publishers wait before their next event.
    hold: AtomicBool,
    /// Publishers that are waiting because of it.
    held: AtomicUsize,
}

/// A load that is running.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    publishers: JoinSet<()>,
    listeners: JoinSet<()>,
    /// How many events each channel has, once all are published.
    totals: watch::Sender<Option<Vec<usize>>>,
}

impl Load {
    /// Listeners first, so that each is owed everything; then publishers.
    pub async fn start(cluster: &Cluster, plan: Plan) -> Self {
        let addresses = Addresses {
            gateways: cluster.gateways.iter().map(|g| g.http().to_owned()).collect(),
            publish: cluster.fanouts.iter().map(|f| f.url("/api/publish")).collect(),
            grpc: cluster.fanouts.iter().map(|f| format!("http://{}", f.grpc())).collect(),
            nats: cluster.nats.iter().map(crate::nats::NatsServer::url).collect(),
            database: cluster.database.clone(),
        };
        let shards = ShardCount::new(u64::from(cluster.shards)).expect("the cluster runs with as many");
        let ledger = Ledger::new((0..plan.publishers).map(channel).collect(), shards);
        let (stop, hold) = (AtomicBool::new(false), AtomicBool::new(false));
        let shared = Arc::new(Shared { addresses, plan, ledger, stop, hold, held: AtomicUsize::new(0) });
        let (totals, _) = watch::channel(None);
        let live = Arc::new(AtomicUsize::new(0));
        let mut listeners = JoinSet::new();
        for number in 0..shared.plan.listeners {
            let listener = Listener::new(shared.clone(), number, totals.subscribe(), live.clone());
            listeners.spawn(listener.run());
        }
        until("all listeners to be live", RECOVERY, async || {
            let refused = shared.ledger.violations();
            assert!(refused.is_empty(), "{refused:#?}");
            (live.load(Ordering::SeqCst) == shared.plan.listeners).then_some(())
        })
        .await;
        let mut publishers = JoinSet::new();
        for number in 0..shared.plan.publishers {
            publishers.spawn(publisher::publish(shared.clone(), number));
        }
        Load { shared, publishers, listeners, totals }
    }

    /// How much there has been of everything.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.shared.ledger.counts()
    }

    /// What went against a promise, as far as it is known yet; at most the first hundred.
    #[must_use]
    pub fn violations(&self) -> Vec<String> {
        self.shared.ledger.violations()
    }

    /// The longest time from an event's publishing to a listener that had not been away, since the last call.
    #[must_use]
    pub fn slowest(&self) -> Duration {
        self.shared.ledger.take_slowest()
    }

    /// Waits until so many more events are acked: the proof that publishing goes on.
    pub async fn acked(&self, more: usize) {
        let goal = self.counts().acked + more;
        until(&format!("{more} more acks"), RECOVERY, async || (self.counts().acked >= goal).then_some(()))
            .await;
    }

    /// Lets no publisher begin another event.
    pub fn hold(&self) {
        self.shared.hold.store(true, Ordering::SeqCst);
    }

    /// Waits until every publisher has its last event acked; of use after [`hold`](Self::hold).
    pub async fn held(&self) {
        until("every publisher to wait", RECOVERY, async || {
            (self.shared.held.load(Ordering::SeqCst) == self.shared.plan.publishers).then_some(())
        })
        .await;
    }

    /// Lets them go on.
    pub fn release(&self) {
        self.shared.hold.store(false, Ordering::SeqCst);
    }

    /// Waits until every listener that is connected has everything that is acked; how long it took.
    pub async fn heard(&self, limit: Duration) -> Duration {
        let begun = tokio::time::Instant::now();
        until("everything acked to be heard", limit, async || self.shared.ledger.all_heard().then_some(()))
            .await;
        begun.elapsed()
    }

    /// Ends the load, waits for what is owed, and compares with PostgreSQL; what went against a promise.
    pub async fn finish(mut self, cluster: &Cluster) -> Vec<String> {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.release();
        while let Some(ended) = self.publishers.join_next().await {
            ended.expect("a publisher doesn't panic");
        }
        cluster.ready().await;
        self.totals.send_replace(Some(self.shared.ledger.totals()));
        while let Some(ended) = self.listeners.join_next().await {
            ended.expect("a listener doesn't panic");
        }
        table::compare(cluster, &self.shared.ledger).await;
        self.shared.ledger.violations()
    }
}

/// The channel of a publisher.
fn channel(publisher: usize) -> String {
    format!("{PREFIX}{}.{publisher}", publisher % GROUPS)
}
