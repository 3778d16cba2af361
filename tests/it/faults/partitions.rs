//! Packets that are dropped without a word, between hosts that are network namespaces.

use std::time::Duration;

use foghorn_tests::cluster::{Cluster, Sites, metric};
use foghorn_tests::foghorn::Foghorn;
use foghorn_tests::http::post;
use foghorn_tests::load::{Load, Plan};
use foghorn_tests::network::{Network, Site};
use foghorn_tests::sse::SseClient;
use foghorn_tests::wait::until;
use serde_json::json;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::{RECOVERY, judge, plan, relaying};

/// Waits until a gateway says that its live feed is silent, or that it is not.
async fn feed_stale(gateway: &Foghorn, stale: f64) {
    until(&format!("foghorn_gateway_feed_stale {stale}"), RECOVERY, async || {
        (metric(gateway, "foghorn_gateway_feed_stale").await == Some(stale)).then_some(())
    })
    .await;
}

/// Cuts a site off from others, or mends that.
fn each<'a>(
    network: &Network,
    site: &Site,
    others: impl IntoIterator<Item = &'a Site>,
    what: fn(&Network, &Site, &Site),
) {
    for other in others {
        what(network, site, other);
    }
}

#[test]
fn a_gateway_cut_off_from_nats_and_the_log_says_so_within_five_seconds_and_catches_up() {
    Network::run(Sites::HOSTS, |network| async move {
        let sites = Sites::on(&network);
        let cluster = Cluster::start_at(1, &sites).await;
        let load = Load::start(&cluster, Plan { stay: true, ..plan() }).await;
        let mut stream =
            SseClient::connect(&cluster.gateways[0].url("/api/events/load.0.0"), &[]).await.unwrap();
        load.acked(200).await;
        let others = || sites.nats.iter().chain(&sites.eventlogs);
        each(&network, &sites.gateways[0], others(), Network::cut);
        let cut = Instant::now();
        let limit = Duration::from_secs(15);
        stream.collect_until(limit, |block| block.event_type() == "stream-stale").await;
        // Told after 5 s; the rest is for a busy machine.
        assert!(cut.elapsed() < Duration::from_secs(8), "{:?}", cut.elapsed());
        // The others go on, past what a client of NATS takes to leave a server that is silent.
        load.acked(400).await;
        each(&network, &sites.gateways[0], others(), Network::mend);
        let mended = Instant::now();
        stream.collect_until(limit, |block| block.event_type() == "stream-live").await;
        // Connecting again is tried every 4 s at the latest.
        assert!(mended.elapsed() < Duration::from_secs(10), "{:?}", mended.elapsed());
        load.heard(limit).await;
        judge(load, &cluster).await;
    });
}

#[test]
fn a_relay_cut_off_from_nats_is_replaced_within_three_seconds() {
    Network::run(Sites::HOSTS, |network| async move {
        let sites = Sites::on(&network);
        let cluster = Cluster::start_at(1, &sites).await;
        let load = Load::start(&cluster, plan()).await;
        load.acked(200).await;
        let first = relaying(&cluster).await;
        let mut stream =
            SseClient::connect(&cluster.gateways[0].url("/api/events/probe"), &[]).await.unwrap();
        stream.collect_until(Duration::from_secs(10), |block| block.event_type() == "stream-live").await;
        let url = cluster.fanouts[1 - first].url("/api/publish");
        let probing = tokio::spawn(async move {
            let mut ticks = interval(Duration::from_millis(50));
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                // One that fails is followed by another.
                drop(post(&url, &json!({ "channel": "probe", "data": "x" })).await);
            }
        });
        let cut_off = &sites.fanouts[first];
        each(&network, cut_off, &sites.nats, Network::cut);
        let (end, mut last) = (Instant::now() + Duration::from_secs(7), Instant::now());
        let mut silence = Duration::ZERO;
        while Instant::now() < end {
            if stream.next_within(end - Instant::now()).await.is_ok_and(|block| block.is_event()) {
                silence = silence.max(last.elapsed());
                last = Instant::now();
            }
        }
        silence = silence.max(last.elapsed());
        probing.abort();
        // What is promised is 3 s; twice that, for a busy machine.
        assert!(silence < Duration::from_secs(6), "nothing for {silence:?}");
        let leads = metric(&cluster.fanouts[1 - first], "foghorn_fanout_relay_leader").await;
        assert_eq!(leads, Some(1.0), "the other relays now");
        each(&network, cut_off, &sites.nats, Network::mend);
        load.acked(200).await;
        judge(load, &cluster).await;
    });
}

#[test]
fn a_nats_server_cut_off_from_the_others_keeps_its_clients_waiting_but_loses_nothing() {
    Network::run(Sites::HOSTS, |network| async move {
        // The first of each service is with the first server.
        let sites = Sites { pinned: true, ..Sites::on(&network) };
        let cluster = Cluster::start_at(1, &sites).await;
        let load = Load::start(&cluster, plan()).await;
        load.acked(200).await;
        each(&network, &sites.nats[0], &sites.nats[1..], Network::cut);
        feed_stale(&cluster.gateways[0], 1.0).await;
        load.acked(200).await;
        each(&network, &sites.nats[0], &sites.nats[1..], Network::mend);
        feed_stale(&cluster.gateways[0], 0.0).await;
        load.acked(100).await;
        judge(load, &cluster).await;
    });
}
