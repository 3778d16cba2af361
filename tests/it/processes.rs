//! Starting, stopping, and being told wrong things: exit codes and words.

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use foghorn_core::cursor::Cursor;
use foghorn_tests::foghorn::Foghorn;
use foghorn_tests::http::{get, post};
use foghorn_tests::nats::NatsServer;
use foghorn_tests::port::Port;
use foghorn_tests::postgres::PostgresServer;
use foghorn_tests::sse::{NoBlock, SseClient};
use foghorn_tests::{PATIENCE, env};
use serde_json::json;

use crate::deployment::{Cluster, Listener, standalone, wait_ready};

/// `127.0.0.1:20017`, of a URL.
fn place(url: &str) -> &str {
    url.split(['@', '/']).rev().nth(1).unwrap()
}

/// Ports of its own for a standalone.
const PORTS: [&str; 6] = ["--listen", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--admin", "127.0.0.1:0"];

/// Runs the binary to its end.
fn run(arguments: &[&str]) -> Output {
    Command::new(env::foghorn()).args(arguments).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn standalone_keeps_events_over_a_kill_and_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("kept").display().to_string();
    let mut server = standalone(&["--data", &data], &[]).await;
    let url = |server: &Foghorn| server.url("/api/events/kept");
    let cursor = Listener::open(&url(&server), None).await.cursor();
    for number in 0..50 {
        let event = json!({ "channel": "kept", "id": number.to_string(), "data": number.to_string() });
        assert_eq!(post(&server.url("/api/publish"), &event).await.unwrap().status, 200);
    }
    server.kill();
    server.restart().await;
    wait_ready(server.admin()).await;
    let again = Listener::open(&url(&server), Some(&cursor)).await;
    assert_eq!(again.connected["recovered"], true);
    let expected: Vec<String> = (0..50).map(|n| n.to_string()).collect();
    assert_eq!(again.replayed_data(), expected);
    // The idempotency key outlives the crash too.
    let event = json!({ "channel": "kept", "id": "7", "data": "7" });
    assert_eq!(post(&server.url("/api/publish"), &event).await.unwrap().body["duplicate"], true);
    let second = run(&[&["standalone", "--data", &data][..], &PORTS].concat());
    assert_eq!(second.status.code(), Some(2), "{}", said(&second));
    assert!(said(&second).contains("another process"), "{}", said(&second));
}

#[tokio::test(flavor = "multi_thread")]
async fn standalone_keeps_its_events_when_told_another_number_of_shards() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("kept").display().to_string();
    let mut server = standalone(&["--data", &data, "--shards", "2"], &[]).await;
    let cursor = Listener::open(&server.url("/api/events/kept"), None).await.cursor();
    let event = json!({ "channel": "kept", "data": "kept" });
    assert_eq!(post(&server.url("/api/publish"), &event).await.unwrap().status, 200);
    server.kill();
    for shards in ["1", "4"] {
        let refused = run(&[&["standalone", "--data", &data, "--shards", shards][..], &PORTS].concat());
        assert_eq!(refused.status.code(), Some(2), "{}", said(&refused));
        for words in [data.as_str(), "has 2 shard", "start with --shards 2", "--data"] {
            assert!(said(&refused).contains(words), "no {words}: {}", said(&refused));
        }
    }
    server.restart().await;
    wait_ready(server.admin()).await;
    let again = Listener::open(&server.url("/api/events/kept"), Some(&cursor)).await;
    assert_eq!((&again.connected["recovered"], again.replayed_data()), (&json!(true), vec!["kept"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn ephemeral_starts_a_new_epoch() {
    let mut server = standalone(&["--ephemeral"], &[]).await;
    let before = Listener::open(&server.url("/api/events/a"), None).await.cursor();
    assert!(Cursor::parse(&before).is_ok());
    server.kill();
    server.restart().await;
    wait_ready(server.admin()).await;
    let after = Listener::open(&server.url("/api/events/a"), Some(&before)).await;
    assert_eq!((after.resets, &after.connected["recovered"]), (vec!["epoch".to_owned()], &json!(false)));
}

/// Epochs lie so near to each other that it takes another hand in the database to get there.
#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_whose_cursor_could_come_to_be_too_long_is_refused() {
    use sqlx::Connection;
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("far").display().to_string();
    let mut server = standalone(&["--data", &data, "--shards", "8"], &[]).await;
    assert_eq!(
        Listener::open(&server.url("/api/events?channels=%3E"), None).await.connected["recovered"],
        false
    );
    server.sigterm();
    assert!(server.wait(PATIENCE).await.success());
    let mut database = sqlx::SqliteConnection::connect(&format!("sqlite://{data}/foghorn.db")).await.unwrap();
    let apart = "UPDATE shards SET epoch = 4611686018427387904 WHERE shard % 2 = 1";
    sqlx::query(apart).execute(&mut database).await.unwrap();
    database.close().await.unwrap();
    server.restart().await;
    wait_ready(server.admin()).await;
    let refused = get(&server.url("/api/events?channels=%3E")).await.unwrap();
    assert_eq!(refused.status, 400, "{}", refused.body);
    assert!(refused.body["type"].as_str().unwrap().ends_with("/cursor-too-long"), "{}", refused.body);
    assert_eq!(Listener::open(&server.url("/api/events/near"), None).await.connected["recovered"], false);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_says_goodbye_with_a_cursor_and_a_retry() {
    let folder = tempfile::tempdir().unwrap();
    let server = standalone(&["--data", &folder.path().join("d").display().to_string()], &[]).await;
    let mut listeners = Vec::new();
    for _ in 0..20 {
        listeners.push(Listener::open(&server.url("/api/events/drained"), None).await.stream);
    }
    server.sigterm();
    for stream in &mut listeners {
        let (blocks, end) = stream.collect_to_end(PATIENCE).await;
        let last = blocks.last().unwrap();
        assert_eq!(
            (last.event_type(), last.json(), end),
            ("stream-end", json!({ "reason": "drain" }), NoBlock::End)
        );
        assert!(last.retry.is_some() && last.id.is_some(), "{last:?}");
    }
    assert!(server.wait(PATIENCE).await.success());
}

#[test]
fn wrong_usage_and_configuration_exit_with_2_and_say_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let typo = folder.path().join("typo.toml");
    std::fs::write(&typo, "shards = 1\n[gateway]\nkeep_alife = \"20s\"\n").unwrap();
    let typo = typo.display().to_string();
    let open = folder.path().join("open.toml");
    std::fs::write(&open, "listen.http = \"0.0.0.0:80\"\n").unwrap();
    let open = open.display().to_string();
    for (arguments, words) in [
        (&["config", "check", &open][..], "listen.http"),
        (&["standalone", "--ephemeral", "--config", &open], "0.0.0.0:80"),
        (&["standalone", "--listen", "0.0.0.0:0"], "--allow-anonymous"),
        (&["standalone", "--admin", "0.0.0.0:0"], "--allow-anonymous"),
        (&["gateway", "--admin", "0.0.0.0:0"], "--allow-anonymous"),
        (&["standalone", "--ephemeral", "--shards", "9"], "1 to 8"),
        (&["config", "check", &typo], "line 3"),
        (&["config", "check", &typo], "did you mean keep_alive?"),
        (&["config", "check", "--config", &typo], "line 3"),
        (&["standalone", "--config", "/nonexistent.toml"], "/nonexistent.toml"),
        (&["standalone", "--lisen", "x"], "--listen"),
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", said(&output));
        assert!(said(&output).contains(words), "{arguments:?}: {}", said(&output));
    }
    assert!(run(&["config", "check", &open, "--allow-anonymous"]).status.success());
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let nowhere = ["--admin", "127.0.0.1:0", "--nats", "nats://127.0.0.1:9"];
    for service in [&["standalone", "--ephemeral"][..], &[&["gateway"][..], &nowhere].concat()] {
        let output = run(&[service, &["--listen", &address]].concat());
        assert_eq!(output.status.code(), Some(2), "{service:?}: {}", said(&output));
        assert!(said(&output).contains("another process listens there"), "{service:?}: {}", said(&output));
    }
}

#[test]
fn the_environment_is_checked_and_secrets_are_not_shown() {
    let show = |name: &str, text: &str| {
        Command::new(env::foghorn()).args(["config", "show"]).env(name, text).output().unwrap()
    };
    let shown = show("FOGHORN_NATS_URL", "nats://fog:hunter2@bus:4222");
    let text = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.status.success() && !text.contains("hunter2"), "{text}");
    assert!(text.contains("nats://(hidden)@bus:4222") && text.contains("ring_bytes"), "{text}");
    let mistyped = show("FOGHORN_NATS_URLS", "nats://fog:hunter2@bus:4222");
    assert_eq!(mistyped.status.code(), Some(2), "{}", said(&mistyped));
    assert!(said(&mistyped).contains("did you mean FOGHORN_NATS_URL?"), "{}", said(&mistyped));
    assert!(!said(&mistyped).contains("hunter2"), "{}", said(&mistyped));
    let injected = show("FOGHORN_GATEWAY_PORT_8080_TCP", "tcp://10.0.0.1:8080");
    assert!(injected.status.success(), "{}", said(&injected));
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_wait_for_nats_and_postgres_unready_and_say_for_what() {
    let (mut nats, mut postgres) = tokio::join!(NatsServer::start(), PostgresServer::start());
    let (bus, database) = (nats.url(), postgres.url(&postgres.create_database().await));
    nats.kill();
    postgres.kill();
    let grpc = Port::lease();
    let mut log = Foghorn::spawn_waiting(
        &[
            "eventlog",
            "--grpc",
            &grpc.address().to_string(),
            "--admin",
            "127.0.0.1:0",
            "--nats",
            &bus,
            "--postgres",
            &database,
        ],
        &[],
    )
    .await;
    let eventlog = format!("http://{}", grpc.address());
    let mut gateway = Foghorn::spawn_waiting(
        &[
            "gateway",
            "--listen",
            "127.0.0.1:0",
            "--admin",
            "127.0.0.1:0",
            "--nats",
            &bus,
            "--eventlog",
            &eventlog,
        ],
        &[],
    )
    .await;
    let waits_for = async |process: &Foghorn, word: &str| {
        let url = format!("http://{}/readyz", process.admin());
        foghorn_tests::wait::until(&format!("{url} to wait for {word}"), PATIENCE, async || {
            let reply = get(&url).await.ok()?;
            (reply.status == 503 && reply.body["waiting_for"].to_string().contains(word)).then_some(())
        })
        .await;
    };
    waits_for(&gateway, "NATS").await;
    waits_for(&log, "NATS").await;
    let refused = std::net::TcpStream::connect(grpc.address()).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused, "whoever asks goes on to another");
    nats.restart().await;
    // Where PostgreSQL is said, the port in it included.
    waits_for(&log, &format!("PostgreSQL at {}", place(&database))).await;
    gateway.listening().await;
    waits_for(&gateway, "event log").await;
    postgres.restart().await;
    log.listening().await;
    wait_ready(log.admin()).await;
    wait_ready(gateway.admin()).await;
    // And one that waits can be told to stop.
    gateway.sigterm();
    assert!(gateway.wait(PATIENCE).await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lost_its_bus_or_database_turns_unready_and_can_be_stopped_and_gateways_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("foghorn.toml");
    std::fs::write(&config, "").unwrap();
    let mut cluster = Cluster::start(1, &config.display().to_string()).await;
    cluster.ready().await;
    cluster.nats.kill();
    cluster.postgres.kill();
    let killed = Instant::now();
    for (process, part) in [(&cluster.fanouts[0], "nats"), (&cluster.eventlogs[0], "postgres")] {
        let url = format!("http://{}/readyz", process.admin());
        foghorn_tests::wait::until(&format!("{url} to lose {part}"), 2 * PATIENCE, async || {
            let reply = get(&url).await.ok()?;
            (reply.status == 503 && reply.body["waiting_for"].get(part).is_some()).then_some(())
        })
        .await;
    }
    assert!(killed.elapsed() >= Duration::from_secs(10), "readiness flaps: {:?}", killed.elapsed());
    let gateway = format!("http://{}/readyz", cluster.gateways[0].admin());
    assert_eq!(get(&gateway).await.unwrap().status, 200);
    // And each can be told to stop meanwhile: nothing waits for ever for who is gone.
    for process in [&mut cluster.fanouts[1], &mut cluster.eventlogs[1], &mut cluster.gateways[1]] {
        process.sigterm();
        assert!(process.wait(PATIENCE).await.success());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_log_whose_database_hangs_can_be_told_to_stop() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("foghorn.toml");
    std::fs::write(&config, "").unwrap();
    let mut cluster = Cluster::start(1, &config.display().to_string()).await;
    cluster.ready().await;
    cluster.postgres.hang();
    // So that there is a statement that gets no answer.
    let event = json!({ "channel": "a", "data": "x" });
    assert_eq!(post(&cluster.fanouts[0].url("/api/publish"), &event).await.unwrap().status, 200);
    for log in &cluster.eventlogs {
        log.sigterm();
    }
    for log in &cluster.eventlogs {
        assert!(log.wait(PATIENCE).await.success());
    }
    cluster.postgres.resume();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_cluster_must_have_alike_is_checked() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("foghorn.toml");
    std::fs::write(&config, "").unwrap();
    let cluster = Cluster::start(1, &config.display().to_string()).await;
    cluster.ready().await;
    let nats = cluster.nats.url();
    let output = tokio::task::spawn_blocking(move || {
        run(&[
            "gateway",
            "--listen",
            "127.0.0.1:0",
            "--admin",
            "127.0.0.1:0",
            "--nats",
            &nats,
            "--shards",
            "4",
        ])
    });
    let output = output.await.unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert!(
        said(&output).contains('4') && said(&output).contains('1') && said(&output).contains("shards"),
        "{}",
        said(&output)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_schema_is_migrated_once_and_a_newer_one_refused() {
    let postgres = PostgresServer::start().await;
    let database = postgres.url(&postgres.create_database().await);
    let migrate = async || {
        let database = database.clone();
        tokio::task::spawn_blocking(move || run(&["eventlog", "migrate", "--postgres", &database]))
            .await
            .unwrap()
    };
    let first = migrate().await;
    assert!(first.status.success(), "{}", said(&first));
    let again = migrate().await;
    assert!(String::from_utf8_lossy(&again.stdout).contains("already"), "{again:?}");
    let nowhere = database.replace("foghorn_test", "nobody_made");
    let refused = tokio::task::spawn_blocking(move || run(&["eventlog", "migrate", "--postgres", &nowhere]));
    let refused = said(&refused.await.unwrap());
    for words in [place(&database), "nobody_made", "does not exist; create it"] {
        assert!(refused.contains(words), "no {words}: {refused}");
    }
    assert!(!refused.contains(" at line "), "{refused}");
    let pool = sqlx::PgPool::connect(&database).await.unwrap();
    sqlx::query("INSERT INTO foghorn._sqlx_migrations (version, description, success, checksum, execution_time) VALUES (9999, 'later', true, '\\x00', 0)")
        .execute(&pool)
        .await
        .unwrap();
    let newer = migrate().await;
    assert_eq!(newer.status.code(), Some(2), "{}", said(&newer));
    assert!(said(&newer).contains("9999"), "{}", said(&newer));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_stops_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("slow.toml");
    std::fs::write(&config, "[gateway]\ndrain_delay = \"1h\"\n").unwrap();
    let (config, data) = (config.display().to_string(), folder.path().join("d").display().to_string());
    let server = standalone(&["--data", &data, "--config", &config], &[]).await;
    let mut stream = SseClient::connect(&server.url("/api/events/a"), &[]).await.unwrap();
    stream.next().await;
    let began = Instant::now();
    server.sigterm();
    foghorn_tests::wait::until("the drain to begin", PATIENCE, async || {
        (get(&format!("http://{}/readyz", server.admin())).await.ok()?.status == 503).then_some(())
    })
    .await;
    let stopped =
        foghorn_tests::wait::until("another signal to stop it", Duration::from_secs(5), async || {
            server.sigterm();
            server.process().status()
        });
    assert_eq!(stopped.await.code(), Some(1));
    // One right after the first is the same wish said twice, as `timeout` says it.
    assert!(began.elapsed() >= Duration::from_millis(500), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_healthcheck_asks_the_admin_address_and_nobody_else_is_told_of_metrics() {
    let server = standalone(&["--ephemeral"], &[]).await;
    let ask = |address: &str| run(&["healthcheck", "--admin", &format!("http://{address}")]);
    assert!(ask(server.admin()).status.success());
    assert_eq!(ask(server.http()).status.code(), Some(1));
    for path in ["/metrics", "/healthz", "/readyz"] {
        assert_eq!(get(&server.url(path)).await.unwrap().status, 404, "{path}");
    }
}
