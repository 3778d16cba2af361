//! The benchmark measures what it says, and leaves nothing behind. How fast anything is, is not tested.

use std::process::{Command, Output};

use foghorn_tests::env;
use foghorn_tests::nats::NatsServer;
use foghorn_tests::postgres::PostgresServer;
use serde_json::{Value, json};

use crate::deployment::{Deployment, Shape};

fn bench(arguments: &[&str]) -> Output {
    Command::new(env::foghorn()).arg("bench").args(arguments).arg("--json").output().unwrap()
}

fn report(output: &Output) -> Value {
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

async fn streams(url: &str) -> Vec<String> {
    use futures::TryStreamExt;
    let jetstream = async_nats::jetstream::new(async_nats::connect(url).await.unwrap());
    jetstream.stream_names().try_collect().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_is_measured_in_a_database_of_its_own() {
    let postgres = PostgresServer::start().await;
    let url = postgres.url(&postgres.create_database().await);
    let measured = report(&bench(&["log", "--database", &url, "--count", "3000", "--rounds", "1"]));
    assert_eq!(measured["rows"], 3000);
    for side in ["writer", "bare"] {
        assert!(measured[side]["perSecond"]["median"].as_f64().unwrap() > 0.0, "{measured}");
    }
    let client = sqlx::PgPool::connect(&url).await.unwrap();
    let left: i64 =
        sqlx::query_scalar("SELECT count(*) FROM pg_database WHERE datname LIKE 'foghorn_bench%'")
            .fetch_one(&client)
            .await
            .unwrap();
    assert_eq!(left, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_relay_is_measured_on_a_server_of_its_own_and_nowhere_else() {
    let nats = NatsServer::start_with(&["-m", "-1"]).await;
    let arguments = ["relay", "--nats", &nats.url(), "--count", "3000", "--rounds", "1"];
    let measured = report(&bench(&arguments));
    assert_eq!(measured["events"], 3000);
    assert!(measured["relay"]["perSecond"]["median"].as_f64().unwrap() > 0.0, "{measured}");
    assert_eq!(streams(&nats.url()).await, [""; 0]);

    let d = Deployment::cluster(1).await;
    let Shape::Cluster(cluster) = &d.shape else { unreachable!("a cluster was asked for") };
    let url = cluster.nats.url();
    let before = streams(&url).await;
    let refused = bench(&["relay", "--nats", &url, "--count", "3000", "--rounds", "1"]);
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("FOGHORN"));
    assert_eq!(streams(&url).await, before, "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn publishing_is_measured_beside_the_plain_client() {
    let d = Deployment::cluster(1).await;
    let Shape::Cluster(cluster) = &d.shape else { unreachable!("a cluster was asked for") };
    let before = streams(&cluster.nats.url()).await;
    let grpc = format!("http://{}", cluster.fanouts[0].grpc());
    let url = cluster.nats.url();
    let mut arguments = vec!["publish", "--grpc", &grpc, "--stream", "100", "--concurrency", "2"];
    arguments.extend(["--count", "2000", "--rounds", "1", "--raw-nats", &url]);
    let measured = report(&bench(&arguments));
    assert!(measured["raw"]["ratio"]["median"].as_f64().unwrap() > 0.0, "{measured}");
    assert_eq!(streams(&url).await, before);
}

/// A sweep of one short round, of which nothing may be lost or out of order.
fn sweep(more: &[&str]) -> Value {
    let mut arguments = vec!["sweep", "--rounds", "1"];
    if !more.contains(&"--events") {
        arguments.extend(["--events", "200"]);
    }
    arguments.extend(["--server-core", "0", "--load-core", "0"]);
    arguments.extend(more);
    let measured = report(&bench(&arguments));
    for side in ["foghorn", "bare"] {
        assert!(measured[side]["perCpuSecond"]["median"].as_f64().unwrap() > 0.0, "{measured}");
        for figure in ["missing", "disordered"] {
            assert_eq!(measured[side][figure], 0, "{measured}");
        }
    }
    assert!(measured["ratio"]["median"].as_f64().unwrap() > 0.0, "{measured}");
    measured
}

#[test]
fn the_gateway_is_measured_beside_the_bare_loops() {
    for rate in ["0", "100"] {
        sweep(&["--connections", "50", "--rate", rate, "--alone"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateway_of_a_cluster_is_measured_alone() {
    let Shape::Cluster(cluster) = Deployment::cluster(4).await.shape else { unreachable!() };
    let (nats, log) = (cluster.nats.url(), format!("http://{}", cluster.eventlogs[0].grpc()));
    let own = ["--nats", &nats, "--eventlog", &log, "--publish", cluster.fanouts[0].http(), "--shards", "4"];
    for rate in ["0", "100"] {
        sweep(&[&own[..], &["--connections", "50", "--rate", rate, "--alone"]].concat());
    }
    // One that can't begin is not waited for for ever.
    let gone = ["--nats", "nats://127.0.0.1:1", "--eventlog", &log, "--publish", "127.0.0.1:1"];
    let failed = bench(&[&["sweep", "--connections", "1", "--alone"], &gone[..]].concat());
    assert!(!failed.status.success());
    assert!(String::from_utf8_lossy(&failed.stderr).contains("wasn't ready within 30 s"), "{failed:?}");
}

#[test]
fn a_service_with_axum_takes_turns_too() {
    let axum = env::foghorn().with_file_name("foghorn-bench-axum");
    let axum = axum.to_str().unwrap();
    for more in
        [&["--connections", "50"][..], &["--connections", "50", "--own-channels", "--events", "20000"]]
    {
        let measured = sweep(&[more, &["--axum", axum]].concat());
        // It isn't promised that it loses nothing.
        assert!(measured["axum"]["perCpuSecond"]["median"].as_f64().unwrap() > 0.0, "{measured}");
        assert!(measured["axumRatio"]["median"].as_f64().unwrap() > 0.0, "{measured}");
    }
    let refused = bench(&["sweep", "--tls", "--axum", axum]);
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("--axum is for"));
    let none = bench(&["sweep", "--axum", "/nowhere"]);
    assert!(
        !none.status.success() && String::from_utf8_lossy(&none.stderr).contains("/nowhere is not there")
    );
}

#[test]
fn whatever_listeners_ask_for_is_measured_and_exact() {
    for more in [
        "--shards 4 --channels 3",
        "--token one",
        "--token each",
        "--types",
        "--gzip",
        "--gzip --size 2000",
        "--tls",
        "--tls --gzip --size 2000",
        "--h2 20",
        "--h2 20 --tls --token each --channels 2 --types --gzip --size 2000",
    ] {
        let more: Vec<_> = more.split(' ').collect();
        sweep(&[&["--connections", "50", "--rate", "400"], &more[..]].concat());
    }
}

#[test]
fn a_channel_for_each_listener_is_measured() {
    let measured =
        sweep(&["--connections", "50", "--own-channels", "--batch", "30", "--events", "20000", "--alone"]);
    assert_eq!(measured["variant"]["ownChannels"], true);
}

#[test]
fn a_quiet_channel_beside_a_hot_one_is_measured() {
    let measured = sweep(&["--connections", "50", "--rate", "400", "--quiet", "--alone"]);
    for side in ["foghorn", "bare"] {
        let quiet = &measured[side]["quiet"];
        assert!(quiet["p999Ms"]["median"].as_f64().unwrap() > 0.0, "{measured}");
        assert_eq!((&quiet["missing"], &quiet["disordered"]), (&json!(0), &json!(0)), "{measured}");
    }
    let refused = bench(&["sweep", "--quiet"]);
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("needs --rate"));
}

#[test]
fn connects_are_measured_by_how_they_say_who_connects() {
    let mut arguments = vec!["connect", "--connects", "200", "--users", "10"];
    arguments.extend(["--rounds", "1", "--server-core", "0", "--load-core", "0"]);
    let measured = report(&bench(&arguments));
    let by = measured["by"].as_array().unwrap();
    let names: Vec<_> = by.iter().map(|figures| figures["by"].as_str().unwrap()).collect();
    assert_eq!(names, ["nothing", "token", "ticket", "limitedToken"]);
    for figures in by {
        assert!(figures["perCpuSecond"]["median"].as_f64().unwrap() > 0.0, "{measured}");
        assert!(figures["ratio"]["median"].as_f64().unwrap() > 0.0, "{measured}");
    }
}

#[test]
fn a_reconnect_storm_is_measured() {
    let mut arguments =
        vec!["storm", "--clients", "100", "--within", "100ms", "--live", "10", "--events", "40"];
    arguments.extend(["--rounds", "1", "--server-core", "0", "--load-core", "0"]);
    let measured = report(&bench(&arguments));
    for figure in ["levelSeconds", "eachP99Ms", "liveP99AloneMs", "liveP99BesideMs"] {
        assert!(measured[figure]["median"].as_f64().unwrap() > 0.0, "{measured}");
    }
    assert_eq!((&measured["missing"], &measured["disordered"]), (&json!(0), &json!(0)));
}
