//! Clocks that are set forward and back by an hour. Whoever waits, leases or measures does so by a clock that
//! nobody sets, so nothing acked is lost, doubled or out of order; what goes by the time of day, as retention
//! does, is told as ever.

use std::path::PathBuf;

use foghorn_tests::PATIENCE;
use foghorn_tests::env;
use foghorn_tests::http::{get, metric, post};
use foghorn_tests::nats::NatsServer;
use foghorn_tests::postgres::PostgresServer;
use foghorn_tests::wait::until;
use serde_json::json;
use tempfile::TempDir;

use crate::crash::load::Load;
use crate::deployment::{Listener, standalone};
use crate::outages::stage::Stage;

/// The time of day of some processes.
pub(crate) struct Time {
    folder: TempDir,
}

impl Time {
    pub(crate) fn new() -> Self {
        let time = Time { folder: tempfile::tempdir().unwrap() };
        time.set(0);
        time
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("offset")
    }

    /// So many seconds ahead of the machine's.
    pub(crate) fn set(&self, ahead: i64) {
        // Whole or not at all: a process may look just now.
        let fresh = self.folder.path().join("fresh");
        std::fs::write(&fresh, format!("{ahead:+}\n")).unwrap();
        std::fs::rename(fresh, self.file()).unwrap();
    }

    /// What a process must have in its environment to go by it.
    pub(crate) fn variables(&self) -> Vec<(&'static str, String)> {
        vec![
            ("LD_PRELOAD", env::faketime().display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE", self.file().display().to_string()),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            // Nobody sets that one.
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
            ("DONT_FAKE_MONOTONIC", "1".to_owned()),
        ]
    }
}

fn borrowed<'a>(variables: &'a [(&'static str, String)]) -> Vec<(&'a str, &'a str)> {
    variables.iter().map(|(name, value)| (*name, value.as_str())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clocks_of_a_part_of_the_cluster_jump_under_load() {
    let (nats, postgres) = tokio::join!(NatsServer::start(), PostgresServer::start());
    let url = postgres.url(&postgres.create_database().await);
    let time = Time::new();
    let stage = Stage::in_environment(nats, postgres, &url, "", &borrowed(&time.variables())).await;
    let load = Load::start(&stage.cluster);
    load.acked(200).await;
    for ahead in [3600, 0, -3600, 3600] {
        time.set(ahead);
        load.acked(200).await;
    }
    load.finish(&stage.cluster).await;
    stage.assert_table_equals_journal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clock_of_standalone_jumps() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("foghorn.toml");
    std::fs::write(
        &config,
        "[gateway]\nring_bytes = 1048576\n[[policy]]\npattern = \"short.>\"\nretention = \"30m\"\n",
    )
    .unwrap();
    let (config, data) = (config.display().to_string(), folder.path().join("data").display().to_string());
    let time = Time::new();
    let variables = time.variables();
    let process = standalone(&["--data", &data, "--config", &config], &borrowed(&variables)).await;
    let publish = async |channel: &str, text: &str| {
        let event = json!({ "channel": channel, "id": format!("id-{text:.20}"), "data": text });
        let reply = post(&process.url("/api/publish"), &event).await.unwrap();
        assert_eq!(reply.status, 200, "{}", reply.body);
        reply.body["duplicate"].as_bool().unwrap()
    };
    let times = async |channel: &str| -> Vec<String> {
        let reply = get(&process.url(&format!("/api/channels/{channel}/events"))).await.unwrap();
        let events = reply.body["events"].as_array().unwrap().clone();
        events.iter().rev().map(|event| event["time"].as_str().unwrap().to_owned()).collect()
    };
    let mut live = Listener::open(&process.url("/api/events?channels=long,short.a"), None).await;
    let cursor = live.cursor();
    let say = async |text: &str| assert!(!publish("long", text).await, "{text} is new");
    say("1").await;
    publish("short.a", "s").await;
    // Back: times stand still until the clock is where they are, and ids are known as before.
    time.set(-3600);
    say("2").await;
    assert!(publish("long", "1").await && publish("long", "2").await, "a retry is no second event");
    let during = times("long").await;
    assert!(during.is_sorted(), "{during:?}");
    // Forward: what is kept for longer than the jump is there.
    time.set(3600);
    say("3").await;
    assert!(publish("long", "3").await);
    let after = times("long").await;
    assert!(after.is_sorted() && after[1] < after[2], "it jumped: {after:?}");
    let heard = live.data(4).await;
    assert_eq!(heard, ["1", "s", "2", "3"], "live, once and in order");
    for query in ["since=2h", "last=10"] {
        let listener = Listener::open(&process.url(&format!("/api/events/long?{query}")), None).await;
        assert_eq!(listener.replayed_data(), ["1", "2", "3"], "{query}");
    }
    // What is kept for half an hour has been there for one, as the clock has it: gone, and told to whoever is
    // behind the ring.
    until("retention", PATIENCE, async || {
        (metric(process.admin(), "foghorn_log_retention_drops_total").await > 0.0).then_some(())
    })
    .await;
    for number in 0..100 {
        publish("filler", &format!("{number} {}", "x".repeat(15_000))).await;
    }
    let listener = Listener::open(&process.url("/api/events/short.a"), Some(&cursor)).await;
    assert_eq!((listener.resets, listener.replayed.len()), (vec!["expired".to_owned()], 0));
    time.set(0);
    say("4").await;
    assert!(publish("long", "4").await);
    let again = Listener::open(&process.url("/api/events/long"), Some(&cursor)).await;
    assert_eq!((again.resets.len(), again.replayed_data()), (0, vec!["1", "2", "3", "4"]));
}
