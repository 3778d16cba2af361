//! The leader of the journal's stream dies, hangs, leaves; and so does the fan-out that relays.

use std::time::Duration;

use foghorn_tests::cluster::{Cluster, metric};
use foghorn_tests::http::post;
use foghorn_tests::load::{Load, Plan};
use foghorn_tests::wait::until;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{RECOVERY, judge, plan, relaying, total};

/// How often every server is killed, the leader first; and how often at most, for a gap to come of it.
const ROUNDS_LEAST: usize = 2;
const ROUNDS_MOST: usize = 15;
/// What is promised is 2 s; twice that, for a busy machine.
const TAIL: Duration = Duration::from_secs(4);

#[tokio::test(flavor = "multi_thread")]
async fn the_streams_leader_and_its_followers_are_killed_again_and_again() {
    let mut cluster = Cluster::start(1).await;
    let load = Load::start(&cluster, plan()).await;
    load.acked(300).await;
    let mut crowding = JoinSet::new();
    for fanout in &cluster.fanouts {
        crowding.spawn(crowd(fanout.url("/api/publish")));
    }
    let mut filled = 0.0;
    for round in 0..ROUNDS_MOST {
        let leader = cluster.leader(0).await;
        kill(&mut cluster, &load, leader).await;
        // While a leader is elected nothing flows that could be missed. When a follower dies, much does, unless it
        // takes the relay's tail with it as well as a gateway's live feed.
        let leader = cluster.leader(0).await;
        for follower in (0..cluster.nats.len()).filter(|server| *server != leader) {
            kill(&mut cluster, &load, follower).await;
        }
        filled = total(&cluster.gateways, "foghorn_gateway_gaps_filled_total").await;
        if round + 1 >= ROUNDS_LEAST && filled > 0.0 {
            break;
        }
    }
    crowding.shutdown().await;
    // Else nothing was put to the test.
    assert!(filled > 0.0, "no gap had to be filled");
    judge(load, &cluster).await;
}

/// Events that nobody listens to, close enough together that a gateway which is without NATS for some
/// milliseconds misses a few.
async fn crowd(fanout: String) {
    let events: Vec<Value> =
        (0..5).map(|number| json!({ "channel": format!("crowd.{number}"), "data": "x" })).collect();
    let events = Value::Array(events);
    loop {
        // One that fails is followed by another.
        drop(tokio::time::timeout(Duration::from_secs(1), post(&fanout, &events)).await);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Kills a server while the others have all that it has, and starts it again when publishing goes on.
async fn kill(cluster: &mut Cluster, load: &Load, server: usize) {
    cluster.copied().await;
    cluster.nats[server].kill();
    load.acked(100).await;
    cluster.nats[server].restart().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_on_its_way_when_the_leader_died_is_heard_though_nothing_follows() {
    let mut cluster = Cluster::start(1).await;
    let load = Load::start(&cluster, Plan { stay: true, ..plan() }).await;
    for _ in 0..2 {
        load.acked(200).await;
        cluster.copied().await;
        let leader = cluster.leader(0).await;
        load.hold();
        cluster.nats[leader].kill();
        // What was under way is tried until the new leader has it.
        load.held().await;
        cluster.leader(0).await;
        load.heard(TAIL).await;
        cluster.nats[leader].restart().await;
        load.release();
    }
    judge(load, &cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_streams_leader_hangs_and_comes_to() {
    let mut cluster = Cluster::start(1).await;
    let load = Load::start(&cluster, plan()).await;
    load.acked(200).await;
    let leader = cluster.leader(0).await;
    cluster.nats[leader].hang().await;
    // The others elect one of them: publishing goes on while it hangs.
    load.acked(300).await;
    cluster.nats[leader].signal(Signal::SIGCONT);
    load.acked(200).await;
    judge(load, &cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_leaves_by_lame_duck_and_the_leader_steps_down() {
    let mut cluster = Cluster::start(1).await;
    let load = Load::start(&cluster, plan()).await;
    load.acked(200).await;
    let leader = cluster.leader(0).await;
    cluster.nats[leader].signal(Signal::SIGUSR2);
    cluster.nats[leader].ended().await;
    load.acked(200).await;
    cluster.nats[leader].restart().await;
    cluster.copied().await;
    assert!(cluster.step_down(0).await);
    load.acked(200).await;
    judge(load, &cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_hangs_past_its_lease_comes_to_beside_the_next_one() {
    let cluster = Cluster::start(1).await;
    let load = Load::start(&cluster, plan()).await;
    load.acked(200).await;
    for _ in 0..2 {
        let first = relaying(&cluster).await;
        let other = 1 - first;
        cluster.fanouts[first].signal(Signal::SIGSTOP);
        until("the other to relay", RECOVERY, async || {
            (metric(&cluster.fanouts[other], "foghorn_fanout_relay_leader").await == Some(1.0)).then_some(())
        })
        .await;
        load.acked(100).await;
        // What it was about to send, it sends now.
        cluster.fanouts[first].signal(Signal::SIGCONT);
        load.acked(100).await;
    }
    judge(load, &cluster).await;
}
