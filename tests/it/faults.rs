//! Faults on a whole cluster, three NATS servers with three copies, under load: 32 publishers at every door, 200
//! listeners of every habit, and the oracle over what all of them had. Nothing acked is missing anywhere, nothing
//! comes twice, everything comes in shard order, nobody is reset, durable is in PostgreSQL, and the table equals the
//! journal. `cargo xtask soak` does the same with random faults for as long as it is asked to.

mod deploys;
mod leaders;
mod partitions;
mod rollouts;

use std::time::Duration;

use foghorn_tests::cluster::{Cluster, metric};
use foghorn_tests::foghorn::Foghorn;
use foghorn_tests::load::{Load, Plan};
use foghorn_tests::wait::until;

/// How long a part may take to be back, on a busy machine.
const RECOVERY: Duration = Duration::from_secs(60);

/// What all of them run under; about 80 events a second.
fn plan() -> Plan {
    Plan { pause: Duration::from_millis(400), ..Plan::default() }
}

/// Ends the load and asks the oracle.
async fn judge(load: Load, cluster: &Cluster) {
    let counts = load.counts();
    let violations = load.finish(cluster).await;
    assert!(violations.is_empty(), "{counts:?}: {violations:#?}");
}

/// A metric over several processes; one that is away has none.
async fn total(processes: &[Foghorn], name: &str) -> f64 {
    let mut total = 0.0;
    for process in processes {
        total += metric(process, name).await.unwrap_or_default();
    }
    total
}

/// The fan-out that relays the first shard.
async fn relaying(cluster: &Cluster) -> usize {
    until("a relay", RECOVERY, async || {
        let mut relaying = Vec::new();
        for (at, fanout) in cluster.fanouts.iter().enumerate() {
            if metric(fanout, "foghorn_fanout_relay_leader").await? > 0.0 {
                relaying.push(at);
            }
        }
        // Two at once is one that has yet to find out.
        <[usize; 1]>::try_from(relaying).ok().map(|[at]| at)
    })
    .await
}
