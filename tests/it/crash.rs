//! SIGKILL under load, each part in turn. Nothing acked is missing at any listener, nothing comes twice,
//! everything comes in shard order, and nobody is reset: no data were truly gone.

pub(crate) mod load;

use foghorn_tests::foghorn::Foghorn;
use foghorn_tests::http::get;

use crate::deployment::{Cluster, Deployment, Shape, wait_ready};
use load::Load;

/// Runs load, kills and restarts something in the middle of it, and asks the oracle.
async fn survive(shards: u8, crash: impl AsyncFnOnce(&mut Cluster, &Load)) {
    let deployment = Deployment::cluster(shards).await;
    let Shape::Cluster(cluster) = deployment.shape else { unreachable!("a cluster was asked for") };
    let mut cluster = *cluster;
    let load = Load::start(&cluster);
    load.acked(800).await;
    crash(&mut cluster, &load).await;
    load.finish(&cluster).await;
}

/// The process whose metrics show `metric` at 1.
pub(crate) async fn which(processes: &[Foghorn], metric: &str) -> usize {
    for (at, process) in processes.iter().enumerate() {
        let text = get(&format!("http://{}/metrics", process.admin())).await.unwrap().body;
        if text.as_str().unwrap().lines().any(|line| line.starts_with(metric) && line.ends_with(" 1")) {
            return at;
        }
    }
    panic!("no process shows {metric} at 1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_is_killed() {
    survive(1, async |cluster, load| {
        cluster.gateways[0].kill();
        load.acked(400).await;
        cluster.gateways[0].restart().await;
        wait_ready(cluster.gateways[0].admin()).await;
        load.acked(200).await;
        cluster.gateways[1].kill();
        load.acked(200).await;
        cluster.gateways[1].restart().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fanout_that_relays_is_killed() {
    survive(1, async |cluster, load| {
        let relaying = which(&cluster.fanouts, "foghorn_fanout_relay_leader").await;
        cluster.fanouts[relaying].kill();
        load.acked(400).await;
        cluster.fanouts[relaying].restart().await;
        load.acked(200).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fanouts_of_four_shards_are_killed_in_turn() {
    survive(4, async |cluster, load| {
        for turn in 0..2 {
            cluster.fanouts[turn].kill();
            load.acked(300).await;
            cluster.fanouts[turn].restart().await;
            wait_ready(cluster.fanouts[turn].admin()).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_event_log_that_writes_is_killed() {
    survive(1, async |cluster, load| {
        let writing = which(&cluster.eventlogs, "foghorn_log_writer").await;
        cluster.eventlogs[writing].kill();
        load.acked(400).await;
        cluster.eventlogs[writing].restart().await;
        load.acked(200).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nats_is_killed() {
    survive(1, async |cluster, load| {
        cluster.nats.kill();
        cluster.nats.restart().await;
        load.acked(400).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_is_killed() {
    survive(1, async |cluster, load| {
        cluster.postgres.kill();
        // Live delivery goes on without it.
        load.acked(400).await;
        cluster.postgres.restart().await;
        load.acked(200).await;
    })
    .await;
}
