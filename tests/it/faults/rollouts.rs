//! Rollouts that the operator paces: real gateways behind the shipped nginx, a real operator, and a Kubernetes API server
//! by script that has the pods.

use std::time::Duration;

use foghorn_tests::PATIENCE;
use foghorn_tests::foghorn::Foghorn;
use foghorn_tests::http::metric;
use foghorn_tests::kubernetes::ApiServer;
use foghorn_tests::nginx::Nginx;
use foghorn_tests::wait::until;
use serde_json::Value;
use tokio::time::Instant;

use super::deploys::{CLIENTS, Crowd, WINDOW, asked, many, most_within_a_second, publish};
use super::{RECOVERY, total};
use crate::deployment::{Cluster, wait_ready};

const FLEET: &str = "foghorn-gateway";

/// A cluster whose gateways are paced, and who paces them.
struct Rollout {
    cluster: Cluster,
    api: ApiServer,
    operator: Foghorn,
    config: String,
    _folder: tempfile::TempDir,
}

impl Rollout {
    async fn start(window: Duration, accept_share: u32, shed_from: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("foghorn.toml");
        let seconds = window.as_secs();
        let configuration = format!(
            "[gateway]\ndrain_delay = \"1s\"\ndrain_wait = \"5m\"\ndrain_window = \"{seconds}s\"\nstreams_per_second = 1000\n"
        );
        std::fs::write(&path, configuration).unwrap();
        let config = path.display().to_string();
        let api = ApiServer::start().await;
        let kubeconfig = api.kubeconfig(folder.path());
        api.apply_fleet(FLEET, accept_share, shed_from);
        let cluster = Cluster::start_named("old", &config).await;
        for pod in ["old-0", "old-1"] {
            api.create_pod(pod, "a");
        }
        let url = cluster.nats.url();
        let arguments = ["operator", "--admin", "127.0.0.1:0", "--nats", &url];
        let environment = [("KUBECONFIG", &*kubeconfig), ("FOGHORN_OPERATOR_LEASE_DURATION", "2s")];
        let operator = Foghorn::spawn(&arguments, &environment).await;
        wait_ready(operator.admin()).await;
        cluster.ready().await;
        Rollout { cluster, api, operator, config, _folder: folder }
    }

    /// One more gateway, and its pod.
    async fn another(&self, name: &str, revision: &str) -> Foghorn {
        let gateway = self.cluster.another_gateway(name, &self.config).await;
        self.api.create_pod(name, revision);
        gateway
    }

    /// Tells an old gateway to stop, as the kubelet does.
    fn stop(&self, number: usize) {
        self.api.terminate_pod(&format!("old-{number}"));
        self.cluster.gateways[number].sigterm();
    }

    /// Waits until the fleet's status has these names in one of its lists.
    async fn listed(&self, list: &str, names: &[&str]) {
        until(&format!("{names:?} to be {list}"), PATIENCE, async || {
            let status = self.api.fleet_status()?;
            let listed: Vec<_> = status[list].as_array()?.iter().filter_map(Value::as_str).collect();
            (listed == names).then_some(())
        })
        .await;
    }

    /// Waits until the operator hears so many gateways in a phase.
    async fn heard(&self, phase: &str, gateways: f64) {
        let series = format!("foghorn_operator_gateways{{phase=\"{phase}\"}}");
        until(&format!("{gateways} gateways to be {phase}"), PATIENCE, async || {
            let heard = metric(self.operator.admin(), &series).await;
            ((heard - gateways).abs() < 0.1).then_some(())
        })
        .await;
    }
}

/// The promise of a deploy with as many new gateways as old ones: the old ones stop taking streams on before the first lets
/// go, they drain one after the other where the new ones' budget carries no more, and so nobody is moved twice.
#[tokio::test(flavor = "multi_thread")]
async fn with_new_gateways_first_every_client_is_moved_once_and_the_old_ones_drain_when_it_is_their_turn() {
    let (many, window) = many();
    // Two gateways that may begin 1,000 streams a second: 100 of it for those who come from others, less than two drain at.
    let rollout = Rollout::start(window, 5, 25).await;
    let old: Vec<&str> = rollout.cluster.gateways.iter().map(|gateway| gateway.http()).collect();
    let nginx = Nginx::foghorn(&old, &[]).await;
    let crowd = Crowd::gather(&nginx.url("/api/events/crowd"), many).await;
    publish(&rollout.cluster, 0..3).await;
    let before = asked(&rollout.cluster).await;
    let new = [rollout.another("new-0", "b").await, rollout.another("new-1", "b").await];
    rollout.heard("serving", 4.0).await;

    rollout.stop(0);
    rollout.listed("waiting", &["old-0"]).await;
    let waiting = metric(rollout.cluster.gateways[0].admin(), "foghorn_gateway_drain_waiting ").await;
    assert!(waiting > 0.5, "it says so itself");
    publish(&rollout.cluster, 3..6).await;
    let open = metric(rollout.cluster.gateways[0].admin(), "foghorn_gateway_connections ").await;
    assert!(
        open >= many as f64 / 3.0,
        "{open}: it keeps its streams while the other one still takes some on"
    );

    nginx.lead_to(&[new[0].http(), new[1].http()]).await;
    rollout.stop(1);
    let (told, mut published) = (Instant::now(), 6);
    rollout.listed("draining", &["old-0"]).await;
    rollout.listed("waiting", &["old-1"]).await;
    for gateway in &rollout.cluster.gateways {
        while gateway.process().status().is_none() {
            assert!(told.elapsed() < window * 2 + RECOVERY, "it doesn't end");
            publish(&rollout.cluster, published..published + 1).await;
            published += 1;
        }
        assert!(gateway.wait(PATIENCE).await.success());
    }
    crowd.complete().await;
    publish(&rollout.cluster, published..published + 3).await;
    let after = asked(&rollout.cluster).await;
    // Of the new ones the emptier is deleted first.
    for (gateway, pod) in new.iter().zip(["new-0", "new-1"]) {
        let streams = metric(gateway.admin(), "foghorn_gateway_connections ").await;
        until(&format!("{pod} to cost its {streams} streams"), PATIENCE, async || {
            let cost = rollout.api.deletion_cost(pod)? as f64;
            ((cost - streams).abs() <= streams / 9.0).then_some(())
        })
        .await;
    }
    let clients = crowd.heard(published + 3).await;
    let moved: Vec<usize> = clients.iter().map(|client| client.ends.len()).collect();
    assert!(moved.iter().all(|moves| *moves == 1), "every one is moved, and once: {moved:?}");
    let even = many / 2 / usize::try_from(window.as_secs()).unwrap();
    let most = most_within_a_second(clients.iter().flat_map(|client| client.ends.clone()).collect());
    assert!(most <= even * 2, "{most} came back within a second, where {even} are even");
    // What the new gateways fill their rings with.
    assert!(after - before <= 20.0, "{} pages were read from the log", after - before);
    for pod in ["old-0", "old-1"] {
        assert_eq!(rollout.api.events_of(pod), ["DrainWaits", "DrainBegins"], "{pod}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowded_gateway_sheds_what_it_has_above_the_mean_to_one_that_is_new() {
    let rollout = Rollout::start(WINDOW, 50, 25).await;
    rollout.stop(1);
    assert!(rollout.cluster.gateways[1].wait(PATIENCE).await.success());
    rollout.api.delete_pod("old-1");
    let crowded = &rollout.cluster.gateways[..1];
    let nginx = Nginx::foghorn(&[crowded[0].http()], &[]).await;
    let crowd = Crowd::gather(&nginx.url("/api/events/crowd"), CLIENTS).await;
    publish(&rollout.cluster, 0..3).await;
    let new = [rollout.another("old-2", "a").await];
    // As one that balances by how many connections each has.
    nginx.lead_to(&[new[0].http()]).await;
    let rebalanced = "foghorn_gateway_streams_ended_total{reason=\"rebalance\"}";
    let half = CLIENTS as f64 / 2.0;
    let mut published = 3;
    let began = Instant::now();
    while total(crowded, rebalanced).await < half {
        assert!(began.elapsed() < RECOVERY, "{} were shed", total(crowded, rebalanced).await);
        publish(&rollout.cluster, published..published + 1).await;
        published += 1;
    }
    rollout.listed("shedding", &[]).await;
    crowd.complete().await;
    publish(&rollout.cluster, published..published + 3).await;
    let clients = crowd.heard(published + 3).await;
    let moved = clients.iter().filter(|client| !client.ends.is_empty()).count();
    assert_eq!(moved, CLIENTS / 2, "as many as are above the mean");
    assert!(clients.iter().all(|client| client.ends.len() <= 1));
    let most = most_within_a_second(clients.iter().flat_map(|client| client.ends.clone()).collect());
    let pace = CLIENTS / usize::try_from(WINDOW.as_secs()).unwrap();
    assert!(most <= pace * 2, "{most} within a second, where it drains {pace}");
    assert_eq!(rollout.api.events_of("old-0"), ["Sheds"]);
}

/// The chart's own arithmetic is all there is then.
#[tokio::test(flavor = "multi_thread")]
async fn without_an_operator_a_gateway_that_is_paced_drains_by_itself() {
    let mut rollout = Rollout::start(WINDOW, 5, 0).await;
    let old: Vec<&str> = rollout.cluster.gateways.iter().map(|gateway| gateway.http()).collect();
    let nginx = Nginx::foghorn(&old, &[]).await;
    let crowd = Crowd::gather(&nginx.url("/api/events/crowd"), 50).await;
    publish(&rollout.cluster, 0..3).await;
    rollout.operator.kill();
    rollout.cluster.gateways[0].sigterm();
    assert!(rollout.cluster.gateways[0].wait(RECOVERY).await.success());
    let log = rollout.cluster.gateways[0].process().log();
    assert!(log.contains("nobody paces it"), "{log}");
    crowd.complete().await;
    publish(&rollout.cluster, 3..6).await;
    crowd.heard(6).await;
}
