//! What a gateway does at its bounds: queues that overflow, connections that NATS gives up, that lose what is
//! sent without a word, listeners that never read.

use std::time::Duration;

use foghorn_tests::foghorn::Foghorn;
use foghorn_tests::http::{metric, post};
use foghorn_tests::nats::NatsServer;
use foghorn_tests::network::Network;
use foghorn_tests::postgres::PostgresServer;
use foghorn_tests::process::{Process, Program};
use foghorn_tests::sse::{NoBlock, SseClient};
use foghorn_tests::wait::until;
use foghorn_tests::wire::{State, Wire};
use foghorn_tests::{PATIENCE, env, http};
use nix::sys::signal::Signal;
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::deployment::{Listener, standalone, wait_ready};
use crate::outages::stage::Stage;

/// How long a part may take to be well again, on a busy machine.
const LIMIT: Duration = Duration::from_secs(90);

/// Listens to `burst` until `last` has come; what came.
fn hear(gateway: &Foghorn, last: usize) -> JoinHandle<Vec<usize>> {
    let url = gateway.url("/api/events/burst?since=1h");
    tokio::spawn(async move {
        let mut stream = SseClient::connect(&url, &[]).await.unwrap();
        let mut heard = Vec::new();
        while heard.last() != Some(&last) {
            let block = stream.next_within(LIMIT).await.unwrap();
            assert_ne!(block.event_type(), "stream-reset", "after {} events", heard.len());
            if block.is_event() && block.event_type() == "message" {
                heard.push(block.data.unwrap().split(' ').next().unwrap().parse().unwrap());
            }
        }
        heard
    })
}

/// Appends numbered events straight to the journal, as fast as it takes them.
async fn burst(stage: &Stage, numbers: std::ops::Range<usize>, bytes: usize) {
    let client = async_nats::connect(stage.cluster.nats.url()).await.unwrap();
    let context = async_nats::jetstream::new(client);
    let filler = "x".repeat(bytes);
    for some in numbers.collect::<Vec<_>>().chunks(2000) {
        let mut acks = Vec::new();
        for number in some {
            let data = format!("{number} {filler}");
            acks.push(context.publish("foghorn.journal.0.burst", data.into()).await.unwrap());
        }
        for ack in acks {
            ack.await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_overflows_or_is_cut_off_as_a_slow_consumer_is_counted_and_had_from_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("nats.conf");
    std::fs::write(&file, "max_pending: 16MB\n").unwrap();
    let nats = NatsServer::start_with(&["-c", file.to_str().unwrap()]).await;
    let postgres = PostgresServer::start().await;
    let url = postgres.url(&postgres.create_database().await);
    let mut stage = Stage::on_both(nats, postgres, &url, "[gateway]\nfeed_bytes = 65536\n").await;
    let (admin, other) = {
        let gateways = &stage.cluster.gateways;
        (gateways[0].admin().to_owned(), gateways[1].admin().to_owned())
    };
    // A burst that is there at once, as for a gateway that was held up for a moment.
    let mut sent = 0;
    let dropped = "foghorn_bus_live_batches_dropped_total";
    until("an overflow", LIMIT, async || {
        stage.cluster.gateways[0].signal(Signal::SIGSTOP);
        burst(&stage, sent..sent + 50_000, 20).await;
        sent += 50_000;
        stage.cluster.gateways[0].signal(Signal::SIGCONT);
        let heard = hear(&stage.cluster.gateways[0], sent - 1).await.unwrap();
        assert!(heard.iter().copied().eq(0..sent), "{} of {sent}", heard.len());
        (metric(&admin, dropped).await > 0.0).then_some(())
    })
    .await;
    assert!(metric(&admin, "foghorn_gateway_gaps_total").await > 0.0);
    let levels = async |admin: &str| metric(admin, "foghorn_gateway_gaps_filled_total").await;
    until("the gaps to be filled", LIMIT, async || {
        (levels(&admin).await == metric(&admin, "foghorn_gateway_gaps_total").await).then_some(())
    })
    .await;

    // More than the server holds for it: it is thrown out.
    let (one, two) = (sent, sent + 3000);
    let mut lasting = Listener::open(&stage.cluster.gateways[0].url("/api/events/burst"), None).await;
    stage.cluster.gateways[0].signal(Signal::SIGSTOP);
    burst(&stage, one..two, 15_000).await;
    stage.cluster.nats.wait_for_log_line("Slow Consumer", LIMIT).await;
    stage.cluster.gateways[0].signal(Signal::SIGCONT);
    let first = |data: String| data.split(' ').next().unwrap().parse::<usize>().unwrap();
    let heard: Vec<usize> = lasting.data(two - one).await.into_iter().map(first).collect();
    assert!(heard.into_iter().eq(one..two), "the stream that was open all the time has them all, in order");
    for gateway in &stage.cluster.gateways {
        let heard = hear(gateway, two - 1).await.unwrap();
        assert!(heard.iter().copied().eq(0..two), "{} of {two}", heard.len());
    }
    assert!(metric(&other, "foghorn_gateway_head").await > 0.0);
}

/// A gateway of its own, whose ways to NATS and to the log a test may break.
pub(crate) struct Remote {
    pub(crate) gateway: Foghorn,
    pub(crate) nats: Wire,
    log: Wire,
}

impl Remote {
    pub(crate) async fn of(stage: &Stage) -> Self {
        let nats = stage.cluster.nats.url().replace("nats://", "").parse().unwrap();
        let (nats, log) =
            tokio::join!(Wire::lay(nats), Wire::lay(stage.cluster.eventlogs[0].grpc().parse().unwrap()));
        let (nats_url, log_url) = (format!("nats://{}", nats.address()), format!("http://{}", log.address()));
        let arguments = ["gateway", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
        let ways = ["--nats", &nats_url, "--eventlog", &log_url];
        let gateway = Foghorn::spawn(&[&arguments[..], &ways].concat(), &[]).await;
        wait_ready(gateway.admin()).await;
        Remote { gateway, nats, log }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_breaks_or_goes_deaf_without_a_word_costs_no_event() {
    let stage = Stage::new("").await;
    let remote = Remote::of(&stage).await;
    let mut listener = Listener::open(&remote.gateway.url("/api/events/c"), None).await;
    let mut published = 0;
    let mut publish = async |count: usize| {
        for _ in 0..count {
            published += 1;
            stage.publish("c", &published.to_string()).await;
        }
        published
    };
    // Broken off, again and again, in the middle of the feed; the client library is back within milliseconds
    // and tells nobody what it missed.
    for _ in 0..5 {
        publish(20).await;
        remote.nats.cut();
        publish(20).await;
    }
    let numbers = |range: std::ops::RangeInclusive<usize>| range.map(|n| n.to_string()).collect::<Vec<_>>();
    assert_eq!(listener.data(200).await, numbers(1..=200));
    // Everything is taken and lost, both ways, while the connection stands: nobody is called back about that.
    remote.nats.set(State::Swallowing);
    publish(20).await;
    assert_eq!(listener.data(20).await, numbers(201..=220), "the log is asked");
    let told = async |listener: &mut Listener, what: &str| {
        listener.stream.collect_until(PATIENCE, |block| block.event_type() == what).await
    };
    told(&mut listener, "stream-stale").await;
    remote.nats.set(State::Open);
    remote.nats.cut();
    told(&mut listener, "stream-live").await;
    publish(20).await;
    assert_eq!(listener.data(20).await, numbers(221..=240));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_from_a_gateway_that_was_ahead_is_waited_for_and_not_reset() {
    let stage = Stage::new("").await;
    let remote = Remote::of(&stage).await;
    stage.publish("c", "before").await;
    assert_eq!(
        Listener::open(&remote.gateway.url("/api/events/c?last=1"), None).await.first(1).await,
        ["before"]
    );
    for wire in [&remote.nats, &remote.log] {
        wire.set(State::Swallowing);
    }
    let mut ahead = Listener::open(&stage.cluster.gateways[0].url("/api/events/c"), None).await;
    stage.publish("c", "ahead").await;
    ahead.event().await;
    let cursor = ahead.cursor();
    let url = remote.gateway.url("/api/events/c");
    let coming = tokio::spawn(async move { Listener::open(&url, Some(&cursor)).await });
    until("the client at the other gateway", LIMIT, async || {
        (metric(remote.gateway.admin(), "foghorn_gateway_connections ").await >= 1.0).then_some(())
    })
    .await;
    for wire in [&remote.nats, &remote.log] {
        wire.set(State::Open);
        wire.cut();
    }
    let mut come = coming.await.unwrap();
    assert_eq!((&come.connected["recovered"], come.resets.len()), (&json!(true), 0));
    stage.publish("c", "after").await;
    assert_eq!(come.first(1).await, ["after"], "and nothing twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn listeners_that_never_read_cost_little_and_others_nothing() {
    const IDLERS: usize = 500;
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("foghorn.toml");
    std::fs::write(&config, "[gateway]\nring_bytes = 4194304\n").unwrap();
    // In memory: how long a disk takes is not what is compared.
    let process = standalone(&["--ephemeral", "--config", &config.display().to_string()], &[]).await;
    let publish = async |text: String| {
        let reply =
            post(&process.url("/api/publish"), &json!({ "channel": "c", "data": text })).await.unwrap();
        assert_eq!(reply.status, 200, "{}", reply.body);
    };
    let mut listener = Listener::open(&process.url("/api/events/c"), None).await;
    // The same load without them, to compare with.
    let filler = "x".repeat(15_000);
    let quantity = 600;
    // One at a time: a publisher that doesn't wait has the machine copy to all of them at its utmost, for as long
    // as their buffers take anything, and everybody's events would wait for that.
    let run = async |listener: &mut Listener| {
        let mut late = Vec::new();
        for number in 0..quantity {
            let begun = Instant::now();
            let text = format!("{number} {filler}");
            let (_, event) = tokio::join!(publish(text.clone()), listener.event());
            assert!(event.data == Some(text), "event {number}");
            late.push(begun.elapsed());
        }
        late.sort_unstable();
        late[quantity * 99 / 100]
    };
    let alone = run(&mut listener).await;
    let before = resident(process.process().pid());
    let mut idlers = Vec::new();
    for _ in 0..IDLERS {
        idlers.push(idler(process.http()).await);
    }
    until("all of them", LIMIT, async || {
        (metric(process.admin(), "foghorn_gateway_connections ").await > IDLERS as f64).then_some(())
    })
    .await;
    let beside = run(&mut listener).await;
    let grown = resident(process.process().pid()).saturating_sub(before);
    // A queue for each would hold 9 MB; what may wait for one is a chunk and the connection's own buffers.
    assert!(grown < IDLERS * 256 * 1024, "{grown} bytes for {IDLERS}");
    assert!(beside < alone * 2 + Duration::from_millis(100), "{beside:?} beside them, {alone:?} alone");
    // And in the end they are let go, for a reason that is counted.
    until("the end of their streams", LIMIT, async || {
        let slow = "foghorn_gateway_streams_ended_total{reason=\"slow\"}";
        (metric(process.admin(), slow).await >= IDLERS as f64).then_some(())
    })
    .await;
    assert_eq!(metric(process.admin(), "foghorn_gateway_connections ").await, 1.0);
    publish("still here".to_owned()).await;
    assert_eq!(listener.data(1).await, ["still here"]);
    let stats = http::get(&process.url("/api/events/stats")).await.unwrap();
    assert_eq!(stats.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_stream_too_many_is_told_to_come_back_and_finds_a_place_when_another_leaves() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("foghorn.toml");
    std::fs::write(&config, "[gateway]\nconnections = 2\nring_bytes = 1048576\n").unwrap();
    let config = config.display().to_string();
    let process = standalone(&["--ephemeral", "--config", &config], &[]).await;
    let url = process.url("/api/events/c");
    let mut first = Listener::open(&url, None).await;
    let second = Listener::open(&url, None).await;
    let mut third = SseClient::connect(&url, &[]).await.unwrap();
    assert_eq!(third.status(), 200, "an EventSource never comes back after anything else");
    let (blocks, _) = third.collect_to_end(PATIENCE).await;
    assert_eq!((blocks[0].event_type(), blocks[0].json()), ("stream-end", json!({ "reason": "overload" })));
    assert!(blocks[0].retry.is_some());
    let refused = "foghorn_gateway_streams_ended_total{reason=\"overload\"}";
    assert_eq!(metric(process.admin(), refused).await, 1.0);
    drop(second);
    until("a place", LIMIT, async || {
        let mut stream = SseClient::connect(&url, &[]).await.unwrap();
        (stream.next().await.event_type() == "connected").then_some(())
    })
    .await;
    // The ring at its bound: the oldest go, and who needs them has them from the log.
    let cursor = first.cursor();
    let texts: Vec<String> = (0..200).map(|n| format!("{n} {}", "x".repeat(15_000))).collect();
    for text in &texts {
        let reply = post(&process.url("/api/publish"), &json!({ "channel": "c", "data": text })).await;
        assert_eq!(reply.unwrap().status, 200);
    }
    assert!(first.data(200).await == texts);
    let held = metric(process.admin(), "foghorn_gateway_ring_bytes").await;
    assert!(held > 500_000.0 && held <= 1_048_576.0, "{held}");
    let again = until("a place", LIMIT, async || {
        (metric(process.admin(), "foghorn_gateway_connections ").await < 2.0).then_some(())
    });
    again.await;
    let again = Listener::open(&url, Some(&cursor)).await;
    assert!(again.replayed_data() == texts, "{} replayed", again.replayed.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_too_many_is_served_when_another_closes_and_that_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("foghorn.toml");
    std::fs::write(&config, "[http]\nconnections = 2\n[gateway]\nconnections = 1\n").unwrap();
    let process = standalone(&["--ephemeral", "--config", &config.display().to_string()], &[]).await;
    let listener = Listener::open(&process.url("/api/events/c"), None).await;
    let idle = TcpStream::connect(process.http()).await.unwrap();
    let shown = async |name: &str| metric(process.admin(), &format!("foghorn_listener_{name}")).await;
    until("the second place to be taken", LIMIT, async || {
        (shown("connections{listener=\"http\"}").await == 2.0).then_some(())
    })
    .await;
    assert_eq!(shown("connections_max{listener=\"http\"}").await, 2.0);
    assert!(shown("connections_max{listener=\"grpc\"}").await > 2.0);
    let before = shown("full_total{listener=\"http\"}").await;
    assert!(before >= 1.0, "it is full");
    drop((listener, idle));
    let mut coming = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let url = process.url("/");
        coming.spawn(async move { http::get(&url).await.unwrap().status });
    }
    assert!(coming.join_all().await.iter().all(|status| *status == 200), "they take turns");
    assert!(shown("full_total{listener=\"http\"}").await > before);
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_beyond_what_a_gateway_takes_in_a_second_are_told_to_come_back_and_then_find_a_place() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("foghorn.toml");
    std::fs::write(&config, "[gateway]\nstreams_per_second = 1\nstreams_burst = 3\nring_bytes = 1048576\n")
        .unwrap();
    let process = standalone(&["--ephemeral", "--config", &config.display().to_string()], &[]).await;
    let url = process.url("/api/events/c");
    let mut taken = Vec::new();
    let refused = loop {
        let mut stream = SseClient::connect(&url, &[]).await.unwrap();
        assert_eq!(stream.status(), 200, "an EventSource never comes back after anything else");
        let first = stream.next().await;
        if first.event_type() != "connected" {
            break (first, stream.collect_to_end(PATIENCE).await);
        }
        taken.push(stream);
        assert!(taken.len() < 20, "as many as a second has");
    };
    assert!(taken.len() >= 3, "{} at once", taken.len());
    let (said, (more, end)) = refused;
    assert_eq!((said.event_type(), said.json()), ("stream-end", json!({ "reason": "overload" })));
    assert_eq!((more.len(), end), (0, NoBlock::End));
    let retry = said.retry.unwrap();
    assert!((1500..=5500).contains(&retry), "{retry}");
    let admin = process.admin();
    assert!(metric(admin, "foghorn_gateway_limited_total{by=\"gateway\"}").await >= 1.0);
    assert!(metric(admin, "foghorn_gateway_streams_ended_total{reason=\"overload\"}").await >= 1.0);
    // Streams that stand, and what is no stream, are not concerned.
    let reply = post(&process.url("/api/publish"), &json!({ "channel": "c", "data": "x" })).await.unwrap();
    assert_eq!(reply.status, 200, "{}", reply.body);
    for stream in &mut taken {
        stream.collect_until(PATIENCE, |block| block.data.as_deref() == Some("x")).await;
    }
    until("a place", LIMIT, async || {
        let mut stream = SseClient::connect(&url, &[]).await.unwrap();
        (stream.next().await.event_type() == "connected").then_some(())
    })
    .await;
}

#[test]
fn a_client_that_vanishes_is_found_though_nothing_is_published_and_others_go_on() {
    Network::run(1, |network| async move {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("foghorn.toml");
        let text = "[http]\nhosts = [\"*\"]\n[gateway]\nslow_time = \"5s\"\nkeep_alive = \"2s\"\nkeep_alive_idle = \"2s\"\n";
        std::fs::write(&config, text).unwrap();
        let (config, ports) = (
            config.display().to_string(),
            ["--listen", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--admin", "127.0.0.1:0"],
        );
        let arguments = [&["standalone", "--ephemeral", "--config", &config][..], &ports].concat();
        let gateway = Foghorn::spawn_at(network.hub(), &arguments).await;
        wait_ready(gateway.admin()).await;
        let mut honest = Listener::open(&gateway.url("/api/events/c"), None).await;
        let lost = Program::new(env::foghorn()).args(["subscribe", "c", "--url", &gateway.url("")]);
        let _lost = Process::spawn(network.host(0).place(lost));
        let open = async |streams: f64| {
            until(&format!("{streams} streams"), LIMIT, async || {
                (metric(gateway.admin(), "foghorn_gateway_connections ").await == streams).then_some(())
            })
            .await;
        };
        open(2.0).await;
        network.cut(network.host(0), network.hub());
        let cut = Instant::now();
        open(1.0).await;
        // By a keep-alive that nobody acknowledges, for one and a half times `slow_time`; the kernel looks now and then.
        assert!(cut.elapsed() < Duration::from_secs(30), "{:?}", cut.elapsed());
        let gone = "foghorn_gateway_streams_ended_total{reason=\"client-gone\"}";
        assert_eq!(metric(gateway.admin(), gone).await, 1.0);
        let reply =
            post(&gateway.url("/api/publish"), &json!({ "channel": "c", "data": "still here" })).await;
        assert_eq!(reply.unwrap().status, 200);
        assert_eq!(honest.data(1).await, ["still here"]);
    });
}

/// Asks for a stream and never reads.
async fn idler(address: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(address.parse().unwrap()).await.unwrap();
    let request =
        format!("GET /api/events/c HTTP/1.1\r\nHost: {address}\r\nAccept: text/event-stream\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

/// Bytes of memory that a process has.
pub(crate) fn resident(pid: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    1024 * line.trim().trim_end_matches(" kB").trim().parse::<usize>().unwrap()
}
