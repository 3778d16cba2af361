//! Outbox publishers that are killed and stopped, and outages longer than the journal remembers ids.

use std::collections::BTreeMap;
use std::time::Duration;

use foghorn_bus::journal::Journal as _;
use foghorn_bus::log::EventLog as _;
use foghorn_core::position::Position;
use foghorn_core::shard::{Shard, ShardCount};
use foghorn_tests::foghorn::Foghorn;
use foghorn_tests::http::metric;
use foghorn_tests::wait::until;
use foghorn_tests::wire::{State, Wire};
use nix::sys::signal::Signal;
use sqlx::{Connection as _, PgConnection};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::stage::{LIMIT, Stage, WINDOW, call, publish};

/// The lease of an outbox publisher, and what it takes others to see that it is over.
const PAST_THE_LEASE: Duration = Duration::from_secs(7);

#[tokio::test(flavor = "multi_thread")]
async fn with_publishers_killed_and_stopped_past_their_lease_each_commit_is_published_once_and_in_order() {
    let stage = Stage::start("").await;
    let mut publishers = [stage.publisher().await, stage.publisher().await];
    let ending = CancellationToken::new();
    let mut app = stage.app().await;
    // Deletes that take their time have publishers take much at a time, in the middle of which they are killed.
    call(
        &mut app,
        "CREATE TABLE commits (number bigserial, data text);
         CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN PERFORM pg_sleep(0.05); RETURN NULL; END $$;
         CREATE TRIGGER slow AFTER DELETE ON foghorn.outbox FOR EACH STATEMENT EXECUTE FUNCTION slow()",
    )
    .await;
    let loads = (0..4).map(|number| tokio::spawn(load(stage.app_url.clone(), number, ending.clone())));
    let loads: Vec<_> = loads.collect();
    for round in 0..2 {
        // Somewhere in the middle of whatever it does.
        sleep(Duration::from_millis(fastrand::u64(200..900))).await;
        let killed = active(&publishers).await;
        publishers[killed].restart().await;
        // Either of the two goes on. That one is stopped, the other takes over, and it comes to and believes in
        // its lease.
        let stopped = active(&publishers).await;
        sleep(Duration::from_millis(fastrand::u64(200..900))).await;
        publishers[stopped].signal(Signal::SIGSTOP);
        let since = Instant::now();
        until("the other to go on", LIMIT, async || is_active(&publishers[1 - stopped]).await).await;
        sleep(PAST_THE_LEASE.saturating_sub(since.elapsed())).await;
        publishers[stopped].signal(Signal::SIGCONT);
        until(&format!("the stopped one to stand back, round {round}"), LIMIT, async || {
            is_active(&publishers[stopped]).await.is_none().then_some(())
        })
        .await;
    }
    ending.cancel();
    let mut expected: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (number, load) in loads.into_iter().enumerate() {
        expected.insert(format!("own.{number}"), load.await.unwrap());
    }
    let commits = sqlx::query_scalar("SELECT data FROM commits ORDER BY number").fetch_all(&mut app).await;
    expected.insert("all".to_owned(), commits.unwrap());
    let all = expected.values().map(Vec::len).sum();
    assert!(all > 400, "only {all} events");
    until("an empty outbox", LIMIT, async || (stage.waiting().await == 0).then_some(())).await;
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for event in stage.journalled(all).await {
        let (channel, data) = event.split_once(": ").unwrap();
        found.entry(channel.to_owned()).or_default().push(data.to_owned());
    }
    assert_eq!(found, expected);
}

/// A socket's buffers, a proxy's, or those of a process that is stopped: for as long as they like.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_publisher_that_died_had_on_its_way_is_not_published_once_another_has() {
    let stage = Stage::start("").await;
    let wire = Wire::lay(stage.nats.url().trim_start_matches("nats://").parse().unwrap()).await;
    let by_wire = format!("nats://{}", wire.address());
    let mut died = stage.publisher_by(&by_wire, "http://127.0.0.1:9").await;
    let mut app = stage.app().await;
    publish(&mut app, "c", "before").await;
    stage.journalled(1).await;
    wire.set(State::HoldingFrom("foghorn.journal.0.c"));
    publish(&mut app, "c", "once").await;
    tokio::time::timeout(LIMIT, wire.holds(true)).await.expect("an append on its way");
    died.kill();
    let _next = stage.publisher().await;
    assert_eq!(stage.journalled(2).await, ["c: before", "c: once"]);
    // Until the journal has forgotten its id.
    sleep(2 * WINDOW).await;
    wire.set(State::Open);
    tokio::time::timeout(LIMIT, wire.holds(false)).await.expect("it to arrive");
    for after in 0..20 {
        publish(&mut app, "c", &after.to_string()).await;
        stage.journalled(after + 3).await;
    }
    let all = stage.journalled(22).await;
    assert_eq!(all.iter().filter(|event| *event == "c: once").count(), 1, "{all:?}");
}

/// Transactions, a third of them rolled back, until told to end. Each publishes on a channel of its own, and on one
/// that all share, upon which it takes a number: whoever has published there first has the lower one. What was
/// committed on its own channel.
async fn load(url: String, number: u32, ending: CancellationToken) -> Vec<String> {
    let mut app = PgConnection::connect(&url).await.unwrap();
    let mut committed = Vec::new();
    for turn in 0.. {
        if ending.is_cancelled() {
            break;
        }
        let data = format!("{number}.{turn}");
        call(&mut app, "BEGIN").await;
        publish(&mut app, &format!("own.{number}"), &data).await;
        publish(&mut app, "all", &data).await;
        call(&mut app, &format!("INSERT INTO commits (data) VALUES ('{data}')")).await;
        let commits = turn % 3 != 0;
        call(&mut app, if commits { "COMMIT" } else { "ROLLBACK" }).await;
        if commits {
            committed.push(data);
        }
        sleep(Duration::from_millis(fastrand::u64(0..20))).await;
    }
    committed
}

async fn is_active(publisher: &Foghorn) -> Option<()> {
    (metric(publisher.admin(), "foghorn_outbox_active").await == 1.0).then_some(())
}

/// Which of two drains.
async fn active(publishers: &[Foghorn; 2]) -> usize {
    until("one that drains", LIMIT, async || {
        for (number, publisher) in publishers.iter().enumerate() {
            if is_active(publisher).await.is_some() {
                return Some(number);
            }
        }
        None
    })
    .await
}

/// An event that is in the journal, and in the outbox, whose publisher was killed before it could delete it; and
/// since when the journal must have forgotten its id.
async fn published_unheard(stage: &Stage) {
    let mut app = stage.app().await;
    // Whoever deletes from the outbox waits for us.
    call(
        &mut app,
        "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN PERFORM pg_advisory_xact_lock(42); RETURN OLD; END $$;
         CREATE TRIGGER waits BEFORE DELETE ON foghorn.outbox FOR EACH ROW EXECUTE FUNCTION wait();
         SELECT pg_advisory_lock(42)",
    )
    .await;
    let mut publisher = stage.publisher().await;
    publish(&mut app, "c", "once").await;
    stage.journalled(1).await;
    stage.somebody_waits_for_a_lock().await;
    publisher.kill();
    let stored = Instant::now();
    call(
        &mut app,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'foghorn-outbox'",
    )
    .await;
    until("the killed one's transactions to be over", LIMIT, async || {
        let others = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'foghorn-outbox'";
        let others: i64 = sqlx::query_scalar(others).fetch_one(&mut app).await.unwrap();
        (others == 0).then_some(())
    })
    .await;
    call(&mut app, "DROP TRIGGER waits ON foghorn.outbox").await;
    assert_eq!(stage.waiting().await, 1, "its end was not written down");
    sleep((WINDOW * 2).saturating_sub(stored.elapsed())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_an_outage_longer_than_the_window_what_was_published_unheard_is_found_in_the_journal() {
    let stage = Stage::start("").await;
    published_unheard(&stage).await;
    let mut app = stage.app().await;
    publish(&mut app, "c", "next").await;
    let publisher = stage.publisher().await;
    assert_eq!(stage.journalled(2).await, ["c: once", "c: next"]);
    let found = metric(publisher.admin(), r#"foghorn_outbox_events_total{outcome="found"}"#).await;
    assert_eq!(found, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_an_outage_longer_than_the_journal_keeps_entries_it_is_found_in_the_event_log() {
    let stage = Stage::start("").await;
    published_unheard(&stage).await;
    let database = stage.postgres.url(&stage.postgres.create_database().await);
    let log = stage.spawn(&["eventlog", "--grpc", "127.0.0.1:0", "--postgres", &database]).await;
    let url = format!("http://{}", log.grpc());
    let client =
        foghorn_rpc::client::RemoteEventLog::new(&url, None, ShardCount::ONE, &mut Default::default())
            .unwrap();
    let bounds = stage.journal.bounds(Shard::ZERO).await.unwrap();
    let last = Position { shard: Shard::ZERO, epoch: bounds.epoch, seq: bounds.last };
    let entry = stage.journal.read(Shard::ZERO, last.seq - 1, 1, 1).await.unwrap().entries.remove(0);
    until("the log to have it", LIMIT, async || {
        let committed = client.committed(last, entry.key.unwrap(), Duration::from_secs(1)).await.ok()?;
        (committed == foghorn_bus::log::Committed::Yes).then_some(())
    })
    .await;
    stage.journal.trim(last).await.unwrap();
    let mut app = stage.app().await;
    publish(&mut app, "c", "next").await;
    // Without the log nobody knows, and nothing is published.
    let publisher = stage.publisher().await;
    until("a look-up that fails", LIMIT, async || {
        let failed = metric(publisher.admin(), r#"foghorn_outbox_failures_total{kind="log"}"#).await;
        (failed > 0.0).then_some(())
    })
    .await;
    assert_eq!(stage.waiting().await, 2);
    drop(publisher);
    let publisher = stage.publisher_with(&url).await;
    assert_eq!(stage.journalled(1).await, ["c: next"]);
    let found = metric(publisher.admin(), r#"foghorn_outbox_events_total{outcome="found"}"#).await;
    assert_eq!(found, 1.0);
}
