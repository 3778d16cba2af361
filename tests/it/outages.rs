//! PostgreSQL stopped, shut down, failed over and full, and its writers stopped and cut off, under load. Live
//! delivery goes on, whoever needs the log waits and is not reset, and in the end the table equals the journal.

pub(crate) mod stage;

use std::time::Duration;

use foghorn_tests::PATIENCE;
use foghorn_tests::foghorn::Foghorn;
use foghorn_tests::http::{metric, post};
use foghorn_tests::nats::NatsServer;
use foghorn_tests::postgres::PostgresServer;
use foghorn_tests::sse::{NoBlock, SseClient};
use foghorn_tests::wait::until;
use foghorn_tests::wire::Wire;
use nix::sys::signal::Signal;
use serde_json::json;
use tokio::time::Instant;

use self::stage::{SmallDisk, Stage, query};
use crate::crash::load::Load;
use crate::crash::which;
use crate::deployment::Listener;

/// How long a part may take to be well again, on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

/// How long PostgreSQL hangs: short, unless FOGHORN_TEST_OUTAGE_SECONDS says otherwise.
fn outage() -> Duration {
    let given = std::env::var("FOGHORN_TEST_OUTAGE_SECONDS").ok();
    Duration::from_secs(given.map_or(8, |seconds| seconds.parse().expect("a number of seconds")))
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_hangs_and_is_shut_down_at_once_under_load() {
    let mut stage = Stage::new(
        "[gateway]\nring_bytes = 1048576\nlog_patience = \"2s\"\n[fanout]\ndurable_deadline = \"1s\"\n",
    )
    .await;
    // More than a ring holds, and soon PostgreSQL alone.
    let url = stage.cluster.gateways[0].url("/api/events/old");
    let cursor = Listener::open(&url, None).await.cursor();
    let old: Vec<String> = (0..120).map(|n| format!("{n} {}", "x".repeat(15_000))).collect();
    for text in &old {
        stage.publish("old", text).await;
    }
    stage.logged().await;
    stage.forget_in_journal().await;
    let load = Load::start(&stage.cluster);
    load.acked(300).await;

    stage.cluster.postgres.hang();
    let begun = Instant::now();
    let mut live = Listener::open(&stage.cluster.gateways[1].url("/api/events/news"), None).await;
    assert_eq!(stage.publish_durably("news", "1").await["durable"], false, "nobody can know");
    assert_eq!(live.data(1).await, ["1"], "live delivery goes on");
    // What only PostgreSQL has is waited for, and then the client is told to come back: it is not gone.
    let mut waiting = SseClient::connect(&url, &[("Last-Event-ID", &cursor)]).await.unwrap();
    let (blocks, end) = waiting.collect_to_end(PATIENCE).await;
    let last = blocks.last().unwrap();
    assert_eq!((last.event_type(), end), ("stream-end", NoBlock::End), "{blocks:?}");
    assert_eq!(last.json(), json!({ "reason": "log-unavailable" }));
    assert!(last.retry.is_some() && blocks.iter().all(|block| block.event_type() != "stream-reset"));
    while begun.elapsed() < outage() {
        load.acked(50).await;
    }
    stage.cluster.postgres.resume();
    stage.durable_again().await;
    let again = Listener::open(&url, Some(&cursor)).await;
    assert_eq!((&again.connected["recovered"], again.resets.len()), (&json!(true), 0));
    assert!(again.replayed_data() == old, "{} replayed", again.replayed.len());

    stage.cluster.postgres.stop_at_once();
    load.acked(300).await;
    stage.cluster.postgres.restart().await;
    stage.durable_again().await;
    load.acked(100).await;
    load.finish(&stage.cluster).await;
    stage.assert_table_equals_journal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_is_behind_takes_over() {
    let mut primary = PostgresServer::start().await;
    let name = primary.create_database().await;
    // One for those who use it, one for the standby.
    let (service, replication) = (Wire::lay(primary.address()).await, Wire::lay(primary.address()).await);
    let url = format!("postgres://postgres@{}/{name}", service.address());
    let mut stage = Stage::on(primary, &url, "").await;
    let load = Load::start(&stage.cluster);
    load.acked(300).await;
    let mut standby = stage.cluster.postgres.standby(replication.address()).await;
    let replica = standby.url(&name);
    let head = async |url: &str| query::<i64>(url, "SELECT head FROM foghorn.shards WHERE shard = 0").await;
    let reached = head(&url).await.unwrap();
    until("replication", LIMIT, async || (head(&replica).await.ok()? > reached).then_some(())).await;
    // From now on it gets nothing more.
    replication.lay_to(([127, 0, 0, 1], 1).into());
    let position = stage.publish_durably("durable", "kept").await;
    assert_eq!(position["durable"], true);
    let seq = position["position"]["seq"].as_i64().unwrap();
    load.acked(300).await;

    stage.cluster.postgres.kill();
    let behind = head(&replica).await.unwrap();
    assert!(behind < seq, "the standby has all of it: {behind}");
    assert!(query::<bool>(&replica, "SELECT pg_promote()").await.unwrap());
    service.lay_to(standby.address());
    load.acked(300).await;
    stage.durable_again().await;
    load.finish(&stage.cluster).await;
    stage.assert_table_equals_journal().await;
    let sql = "SELECT count(*) FROM foghorn.events WHERE channel = 'durable'";
    assert_eq!(query::<i64>(&replica, sql).await.unwrap(), 1, "durable is durable");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_disk_of_postgres_is_full_for_a_while() {
    let disk = SmallDisk::mount("outages::the_disk_of_postgres_is_full_for_a_while");
    let postgres = PostgresServer::start().await;
    let url = disk.create_database(&postgres).await;
    let stage = Stage::on(postgres, &url, "[fanout]\ndurable_deadline = \"1s\"\n").await;
    let load = Load::start(&stage.cluster);
    load.acked(300).await;
    disk.fill();
    until("an event that finds no room", LIMIT, async || {
        (stage.publish_durably("full", &"x".repeat(10_000)).await["durable"] == false).then_some(())
    })
    .await;
    let said = |log: &Foghorn| log.process().log().contains("No space left on device");
    until("the reason in a log", LIMIT, async || stage.cluster.eventlogs.iter().any(said).then_some(()))
        .await;
    let mut live = Listener::open(&stage.cluster.gateways[1].url("/api/events/news"), None).await;
    stage.publish("news", "1").await;
    assert_eq!(live.data(1).await, ["1"], "live delivery goes on");
    load.acked(200).await;
    disk.free();
    stage.durable_again().await;
    load.finish(&stage.cluster).await;
    stage.assert_table_equals_journal().await;
}

/// A server that could not write takes nothing more for its streams, also when there is room again: it fails its health
/// check until it is restarted.
#[tokio::test(flavor = "multi_thread")]
async fn the_disk_of_nats_is_full_until_it_is_restarted_with_room() {
    let disk = SmallDisk::mount("outages::the_disk_of_nats_is_full_until_it_is_restarted_with_room");
    // What streams may take at most is promised to them, and is more than the disk has.
    let config = disk.path().join("nats.conf");
    std::fs::write(&config, "jetstream { max_file_store: 1GB }").unwrap();
    let [store, config] = [disk.path(), &config].map(|path| path.display().to_string());
    let nats = NatsServer::start_with(&["-c", &config, "-sd", &store]).await;
    let postgres = PostgresServer::start().await;
    let url = postgres.url(&postgres.create_database().await);
    let config = "[nats]\njournal_bytes = 16777216\n[fanout]\npublish_deadline = \"10s\"\n";
    let mut stage = Stage::on_both(nats, postgres, &url, config).await;
    let load = Load::start(&stage.cluster);
    load.acked(300).await;
    disk.fill();
    stage.cluster.nats.wait_for_log_line("no space left on device", LIMIT).await;
    let url = stage.cluster.fanouts[0].url("/api/publish");
    let refused = post(&url, &json!({ "channel": "a", "data": "x" })).await.unwrap();
    assert_eq!((refused.status, &refused.body["retryable"]), (503, &json!(true)), "{}", refused.body);
    assert!(refused.body["type"].as_str().unwrap().ends_with("/journal-unavailable"), "{}", refused.body);
    disk.free();
    stage.cluster.nats.restart().await;
    load.acked(300).await;
    load.finish(&stage.cluster).await;
    stage.assert_table_equals_journal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_was_stopped_past_its_lease_writes_nothing_twice() {
    let stage = Stage::new("").await;
    let load = Load::start(&stage.cluster);
    let logs = &stage.cluster.eventlogs;
    for _ in 0..3 {
        load.acked(200).await;
        let writing = which(logs, "foghorn_log_writer").await;
        // In the middle of whatever it does.
        logs[writing].signal(Signal::SIGSTOP);
        until("another writer", LIMIT, async || writes(&logs[1 - writing]).await.then_some(())).await;
        load.acked(100).await;
        logs[writing].signal(Signal::SIGCONT);
        until("the first to know it", LIMIT, async || (!writes(&logs[writing]).await).then_some(())).await;
    }
    load.finish(&stage.cluster).await;
    stage.assert_table_equals_journal().await;
}

/// Whether a process believes that it writes.
async fn writes(log: &Foghorn) -> bool {
    metric(log.admin(), "foghorn_log_writer").await == 1.0
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_whose_backend_is_ended_in_mid_statement_stores_each_event_once() {
    let stage = Stage::new("").await;
    let load = Load::start(&stage.cluster);
    load.acked(200).await;
    // Only those that are at it just now, and by a connection that stays.
    let sql = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
               WHERE datname = current_database() AND state IN ('active', 'idle in transaction')
               AND query LIKE '%INSERT INTO foghorn.events%' AND pid <> pg_backend_pid()";
    let mut ended = 0;
    let mut connection = stage.connect().await;
    until("backends ended in mid-statement", LIMIT, async || {
        ended += sqlx::query_scalar::<_, i64>(sql).fetch_one(&mut connection).await.unwrap();
        (ended >= 12).then_some(())
    })
    .await;
    load.acked(200).await;
    load.finish(&stage.cluster).await;
    stage.assert_table_equals_journal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_journal_refuses_publishes_and_takes_them_again_by_itself() {
    let mut stage = Stage::new("[nats]\njournal_bytes = 1048576\n").await;
    let mut listener = Listener::open(&stage.cluster.gateways[0].url("/api/events/big"), None).await;
    let (mut stored, mut number) = (Vec::new(), 0);
    let url = stage.cluster.fanouts[0].url("/api/publish");
    let mut publish = async |stored: &mut Vec<String>| {
        number += 1;
        let text = format!("{number} {}", "x".repeat(20_000));
        let event = json!({ "channel": "big", "id": number.to_string(), "data": text });
        let reply = post(&url, &event).await.unwrap();
        if reply.status == 200 {
            stored.push(text);
        }
        reply
    };
    // With a log that keeps up there is room for any number, however young they are.
    until("three times the journal", LIMIT, async || {
        publish(&mut stored).await;
        (stored.len() > 160).then_some(())
    })
    .await;
    stage.logged().await;
    stage.cluster.postgres.hang();
    let refused = until("a full journal", LIMIT, async || {
        Some(publish(&mut stored).await).filter(|reply| reply.status != 200)
    })
    .await;
    assert_eq!(refused.status, 429);
    assert!(refused.body["type"].as_str().unwrap().ends_with("/journal-full"), "{}", refused.body);
    assert!(refused.headers.contains_key("retry-after"));
    let heard = listener.data(stored.len()).await;
    assert!(heard == stored, "what was acked is heard, and what was refused is not");
    stage.cluster.postgres.resume();
    let before = stored.len();
    until("publishing again", LIMIT, async || {
        publish(&mut stored).await;
        (stored.len() > before + 60).then_some(())
    })
    .await;
    assert!(listener.data(stored.len() - before).await == stored[before..]);
    stage.assert_table_equals_journal().await;
    let all = query::<i64>(&stage.database, "SELECT count(*) FROM foghorn.events").await.unwrap();
    assert_eq!(all, i64::try_from(stored.len()).unwrap(), "nothing acked was trimmed before the log had it");
}
