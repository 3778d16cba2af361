//! The event log over a real connection: what is asked arrives, what is answered comes back, and when a
//! replica is gone or odd another one answers.

#![expect(clippy::unwrap_used, reason = "a test; helpers are not seen as such")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use foghorn_bus::Future;
use foghorn_bus::log::{
    Committed, EventLog, HistoryEvent, HistoryPage, HistoryQuery, Located, LogError, NewestQuery, Replay,
    ReplayQuery,
};
use foghorn_core::batch::{Batch, FeedEvent};
use foghorn_core::channel::Channel;
use foghorn_core::entry::Key;
use foghorn_core::event::Event;
use foghorn_core::pattern::Pattern;
use foghorn_core::position::{Digest, Epoch, Position};
use foghorn_core::reason::ResetReason;
use foghorn_core::shard::{Shard, ShardCount};
use foghorn_core::time::Timestamp;
use foghorn_http::tls::{ClientFiles, Identity};
use foghorn_rpc::client::RemoteEventLog;
use foghorn_rpc::server::AtOnce;
use foghorn_rpc::{PAGE_BYTES_MAX, PAGE_EVENTS_MAX, serve, server, v1};
use prometheus_client::registry::Registry;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

/// Answers from the question, so that a test sees what arrived.
#[derive(Default)]
struct Fake {
    down: bool,
    wrong_shard: bool,
    /// What histories and commits have to pass.
    gate: Option<Arc<Gate>>,
    /// What replays have to pass.
    replay_gate: Option<Arc<Gate>>,
}

/// Who comes waits until somebody is let through.
#[derive(Debug)]
struct Gate {
    come: watch::Sender<usize>,
    open: Semaphore,
}

impl Gate {
    fn closed() -> Arc<Self> {
        Arc::new(Gate { come: watch::Sender::new(0), open: Semaphore::new(0) })
    }

    async fn pass(gate: Option<&Arc<Self>>) {
        let Some(gate) = gate else { return };
        gate.come.send_modify(|come| *come += 1);
        gate.open.acquire().await.unwrap().forget();
    }

    async fn has_come(&self, count: usize) {
        self.come.subscribe().wait_for(|come| *come == count).await.unwrap();
    }
}

fn batch(shard: Shard, epoch: Epoch, after: u64) -> Batch {
    let mut batch = Batch::empty(shard, epoch, after, after + 2);
    let position = Position { shard, epoch, seq: after + 1 };
    let event = Event::new(Channel::parse("a.b").unwrap(), "text");
    batch.events.push(FeedEvent::encode(position, Timestamp::from_micros(5), &event));
    batch
}

impl Fake {
    fn check(&self) -> Result<(), LogError> {
        if self.down { Err(LogError("PostgreSQL is down".into())) } else { Ok(()) }
    }
}

impl EventLog for Fake {
    fn replay(&self, query: ReplayQuery) -> Future<'_, Result<Replay, LogError>> {
        Box::pin(async move {
            self.check()?;
            assert!(query.events <= PAGE_EVENTS_MAX && query.bytes <= PAGE_BYTES_MAX);
            Gate::pass(self.replay_gate.as_ref()).await;
            if query.fill {
                let (reason, epoch) = (ResetReason::Hole, Epoch::new(1));
                return Ok(Replay::Reset { reason, epoch, after: 0 });
            }
            if query.topics[0].as_str() == "gone" {
                let (reason, epoch) = (ResetReason::Expired, Epoch::new(9));
                return Ok(Replay::Reset { reason, epoch, after: query.events as u64 });
            }
            let shard = if self.wrong_shard { Shard::ZERO } else { query.shard };
            Ok(Replay::Page(batch(shard, query.epoch, query.after)))
        })
    }

    fn newest(&self, query: NewestQuery) -> Future<'_, Result<Vec<Batch>, LogError>> {
        Box::pin(async move {
            self.check()?;
            Ok(query
                .shards
                .iter()
                .map(|(shard, _)| batch(*shard, Epoch::new(1), query.each as u64))
                .collect())
        })
    }

    fn locate(&self, shard: Shard, time: Timestamp) -> Future<'_, Result<Located, LogError>> {
        Box::pin(async move {
            self.check()?;
            let after = u64::try_from(time.as_micros()).unwrap();
            Ok(Located { epoch: Epoch::new(u64::from(shard.get())), after, tip: 99 })
        })
    }

    fn history(&self, query: HistoryQuery) -> Future<'_, Result<HistoryPage, LogError>> {
        Box::pin(async move {
            self.check()?;
            Gate::pass(self.gate.as_ref()).await;
            let event = |seq| HistoryEvent {
                seq,
                time: Timestamp::from_micros(7),
                event_type: (seq == 1).then(|| "paid".to_owned()),
                id: None,
                data: Bytes::from(vec![b'x'; 1 << 20]),
            };
            let events = (1..=query.limit as u64).map(event).collect();
            let (epoch, more) = (Epoch::new(query.after.unwrap()), query.before.is_some());
            Ok(HistoryPage { epoch, events, more, reached: 100 })
        })
    }

    fn committed(
        &self,
        position: Position,
        key: Key,
        deadline: Duration,
    ) -> Future<'_, Result<Committed, LogError>> {
        Box::pin(async move {
            self.check()?;
            Gate::pass(self.gate.as_ref()).await;
            match (position.seq, key.as_bytes()[15]) {
                (1, 7) => Ok(Committed::Yes),
                (2, _) => Ok(Committed::Replaced),
                _ => {
                    tokio::time::sleep(deadline).await;
                    Ok(Committed::NotYet)
                }
            }
        })
    }

    fn erase(&self, channel: Channel) -> Future<'_, Result<u64, LogError>> {
        Box::pin(async move {
            self.check()?;
            Ok(channel.as_str().len() as u64)
        })
    }
}

struct Replica {
    url: String,
    stop: watch::Sender<bool>,
    task: tokio::task::JoinHandle<std::io::Result<()>>,
}

fn shards() -> ShardCount {
    ShardCount::new(4).unwrap()
}

async fn replica(fake: Fake) -> Replica {
    bounded_replica(fake, AtOnce::default(), 1000).await
}

async fn bounded_replica(fake: Fake, at_once: AtOnce, connections: usize) -> Replica {
    served(fake, at_once, connections, None).await
}

async fn served(fake: Fake, at_once: AtOnce, connections: usize, tls: Option<Arc<Identity>>) -> Replica {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let scheme = if tls.is_some() { "https" } else { "http" };
    let url = format!("{scheme}://{}", listener.local_addr().unwrap());
    let (stop, stopped) = watch::channel(false);
    let routes = tonic::service::Routes::new(server::event_log_bounded(Arc::new(fake), shards(), at_once));
    let connections = serve::Connections::up_to(connections);
    let serving = serve::serve(listener, routes, &["foghorn.v1.EventLog"], connections, tls, stopped);
    let task = tokio::spawn(serving);
    Replica { url, stop, task }
}

impl Replica {
    /// Returns once its port is closed.
    async fn stop(self) {
        self.stop.send_replace(true);
        self.task.await.unwrap().unwrap();
    }
}

fn remote(urls: &[&Replica]) -> (RemoteEventLog, Registry) {
    remote_over(urls, None)
}

fn remote_over(urls: &[&Replica], tls: Option<ClientFiles>) -> (RemoteEventLog, Registry) {
    let urls: Vec<_> = urls.iter().map(|replica| replica.url.as_str()).collect();
    let mut registry = Registry::default();
    (RemoteEventLog::new(&urls.join(","), tls, shards(), &mut registry).unwrap(), registry)
}

/// Whether so many calls were counted.
fn counted(registry: &Registry, calls: &str) -> bool {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, registry).unwrap();
    text.contains(&format!("foghorn_rpc_eventlog_calls_total{calls}\n"))
}

fn query(shard: u64, topic: &str) -> ReplayQuery {
    ReplayQuery {
        shard: shards().shard(shard).unwrap(),
        epoch: Epoch::new(3),
        after: 10,
        topics: Arc::new([Pattern::parse(topic).unwrap()]),
        events: 5,
        bytes: usize::MAX,
        fill: false,
        digest: Digest::NONE,
    }
}

#[tokio::test]
async fn questions_and_answers_survive_the_way() {
    let replica = replica(Fake::default()).await;
    let (log, _) = remote(&[&replica]);
    let asked = query(2, "a.>");
    let expected = batch(asked.shard, asked.epoch, asked.after);
    assert!(matches!(log.replay(asked).await.unwrap(), Replay::Page(batch) if batch == expected));
    let reset = log.replay(query(2, "gone")).await.unwrap();
    let Replay::Reset { reason: ResetReason::Expired, epoch, after: 5 } = reset else { panic!("{reset:?}") };
    assert_eq!(epoch.get(), 9);
    let filled = log.replay(ReplayQuery { fill: true, ..query(2, "a.>") }).await.unwrap();
    assert!(matches!(filled, Replay::Reset { reason: ResetReason::Hole, .. }), "{filled:?}");
    let most = ReplayQuery { events: usize::MAX, ..query(2, "gone") };
    let bounded = log.replay(most).await.unwrap();
    assert!(matches!(bounded, Replay::Reset { after, .. } if after == PAGE_EVENTS_MAX as u64));

    let topics: Arc<[Pattern]> = Arc::new([Pattern::everything()]);
    let both = vec![(shards().shard(3).unwrap(), topics.clone()), (Shard::ZERO, topics)];
    let newest = NewestQuery { shards: both, each: 4, total: 10, bytes: 1000 };
    let batches = log.newest(newest).await.unwrap();
    assert_eq!(batches.iter().map(|b| (b.shard.get(), b.from)).collect::<Vec<_>>(), [(3, 4), (0, 4)]);

    let located = log.locate(shards().shard(1).unwrap(), Timestamp::from_micros(42)).await.unwrap();
    assert_eq!(located, Located { epoch: Epoch::new(1), after: 42, tip: 99 });
    assert!(log.locate(Shard::ZERO, Timestamp::from_micros(100)).await.is_err(), "beyond the tip");

    let history =
        HistoryQuery { channel: Channel::parse("a").unwrap(), after: Some(8), before: None, limit: 2 };
    let page = log.history(history.clone()).await.unwrap();
    assert_eq!((page.epoch.get(), page.events.len(), page.more, page.reached), (8, 2, false, 100));
    assert_eq!(page.events[0].event_type.as_deref(), Some("paid"));
    let cut = log.history(HistoryQuery { limit: 100, ..history }).await.unwrap();
    assert_eq!((cut.events.len(), cut.more, cut.reached), (4, true, 4), "as much as an answer holds");
    assert_eq!(log.erase(Channel::parse("a.bc").unwrap()).await, Ok(4));
}

#[tokio::test]
async fn committed_says_yes_no_and_not_yet_within_its_deadline() {
    let replica = replica(Fake::default()).await;
    let (log, _) = remote(&[&replica]);
    let ask = async |seq, last| {
        let mut key = [0; 16];
        key[15] = last;
        let position = Position { shard: Shard::ZERO, epoch: Epoch::new(1), seq };
        log.committed(position, Key::from_bytes(key), Duration::from_millis(20)).await
    };
    assert_eq!(ask(1, 7).await, Ok(Committed::Yes));
    assert_eq!(ask(2, 0).await, Ok(Committed::Replaced));
    assert_eq!(ask(3, 0).await, Ok(Committed::NotYet));
}

#[tokio::test]
async fn another_replica_answers_for_one_that_is_gone_down_or_odd() {
    let (good, gone) = (replica(Fake::default()).await, replica(Fake::default()).await);
    let down = replica(Fake { down: true, ..Fake::default() }).await;
    let odd = replica(Fake { wrong_shard: true, ..Fake::default() }).await;
    for other in [&gone, &down, &odd] {
        let (log, registry) = remote(&[&good, other]);
        for _ in 0..6 {
            let answer = log.replay(query(2, "a")).await.unwrap();
            assert!(matches!(answer, Replay::Page(batch) if batch.shard.get() == 2));
        }
        assert!(counted(&registry, r#"{method="replay",outcome="ok"} 6"#));
    }
    // Of two that were both connected, one goes.
    let (log, _) = remote(&[&good, &gone]);
    for _ in 0..2 {
        log.replay(query(2, "a")).await.unwrap();
    }
    gone.stop().await;
    for _ in 0..6 {
        log.replay(query(2, "a")).await.unwrap();
    }
    // Nobody left: an error, never a reset.
    let (log, _) = remote(&[&down]);
    let error = log.replay(query(2, "a")).await.unwrap_err();
    assert!(error.0.contains("PostgreSQL is down"), "{error}");
    let (log, _) = remote(&[&odd]);
    let error = log.replay(query(2, "a")).await.unwrap_err();
    assert!(error.0.contains("malformed answer"), "{error}");
}

#[tokio::test]
async fn gateways_catch_up_however_many_others_wait() {
    let gate = Gate::closed();
    let replica = replica(Fake { gate: Some(gate.clone()), ..Fake::default() }).await;
    let (log, _) = remote(&[&replica]);
    let log = Arc::new(log);
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let log = Arc::clone(&log);
        let channel = Channel::parse("a").unwrap();
        waiting.spawn(async move {
            log.history(HistoryQuery { channel, after: None, before: None, limit: 1 }).await
        });
    }
    gate.has_come(32).await;
    // Answered, and by the log: no place had to be waited for.
    let filled = log.replay(ReplayQuery { fill: true, ..query(2, "a.>") }).await.unwrap();
    assert!(matches!(filled, Replay::Reset { .. }), "{filled:?}");
    assert_eq!(*gate.come.borrow(), 32, "as many as have a place");
    waiting.abort_all();
}

#[tokio::test]
async fn a_replica_without_room_for_a_replay_is_passed_over_until_it_has_some() {
    for fill in [false, true] {
        let gate = Gate::closed();
        let fake = Fake { replay_gate: Some(gate.clone()), ..Fake::default() };
        let at_once =
            AtOnce { pages: 1, fills: 1, turn_deadline: Duration::from_millis(20), ..AtOnce::default() };
        let (full, other) = (bounded_replica(fake, at_once, 1000).await, replica(Fake::default()).await);
        let asked = ReplayQuery { fill, ..query(2, "a") };
        let (alone, _) = remote(&[&full]);
        let alone = Arc::new(alone);
        let first = tokio::spawn({
            let (alone, asked) = (Arc::clone(&alone), asked.clone());
            async move { alone.replay(asked).await }
        });
        gate.has_come(1).await;
        let (both, registry) = remote(&[&full, &other]);
        // They take turns at being asked first.
        for _ in 0..2 {
            both.replay(asked.clone()).await.unwrap();
        }
        for calls in [r#"{method="replay",outcome="ok"} 2"#, r#"{method="replay",outcome="failed"} 1"#] {
            assert!(counted(&registry, calls), "{calls}, fill: {fill}");
        }
        let error = alone.replay(asked.clone()).await.unwrap_err();
        assert!(error.0.contains("too many replays"), "{error}");
        assert_eq!(*gate.come.borrow(), 1, "the log was asked by nobody without a place");

        gate.open.add_permits(2);
        first.await.unwrap().unwrap();
        alone.replay(asked).await.unwrap();
    }
}

#[tokio::test]
async fn who_finds_no_room_for_a_replay_waits_for_it() {
    let gate = Gate::closed();
    let fake = Fake { replay_gate: Some(gate.clone()), ..Fake::default() };
    let replica = bounded_replica(fake, AtOnce { pages: 1, ..AtOnce::default() }, 1000).await;
    let (log, _) = remote(&[&replica]);
    let others = async {
        gate.has_come(1).await;
        // Answered after both have arrived: all go over one connection.
        for _ in 0..5 {
            let position = Position { shard: Shard::ZERO, epoch: Epoch::new(1), seq: 2 };
            let answer = log.committed(position, Key::from_bytes([0; 16]), Duration::ZERO).await;
            assert_eq!(answer, Ok(Committed::Replaced));
        }
        assert_eq!(*gate.come.borrow(), 1, "one at a time");
        gate.open.add_permits(2);
    };
    let (first, second, ()) = tokio::join!(log.replay(query(2, "a")), log.replay(query(2, "b")), others);
    assert!(first.is_ok() && second.is_ok(), "{first:?}, {second:?}");
    assert_eq!(*gate.come.borrow(), 2);
}

#[tokio::test]
async fn a_replica_that_too_many_publishers_wait_at_is_passed_over_until_one_is_answered() {
    let gate = Gate::closed();
    let fake = Fake { gate: Some(gate.clone()), ..Fake::default() };
    let full = bounded_replica(fake, AtOnce { waits: 1, ..AtOnce::default() }, 1000).await;
    let other = replica(Fake::default()).await;
    async fn ask(log: &RemoteEventLog) -> Result<Committed, LogError> {
        let position = Position { shard: Shard::ZERO, epoch: Epoch::new(1), seq: 1 };
        log.committed(position, Key::from_bytes([7; 16]), Duration::from_secs(20)).await
    }
    let (alone, _) = remote(&[&full]);
    let alone = Arc::new(alone);
    let first = tokio::spawn({
        let alone = Arc::clone(&alone);
        async move { ask(&alone).await }
    });
    gate.has_come(1).await;
    let (both, registry) = remote(&[&full, &other]);
    for _ in 0..2 {
        assert_eq!(ask(&both).await, Ok(Committed::Yes));
    }
    for calls in [r#"{method="committed",outcome="ok"} 2"#, r#"{method="committed",outcome="failed"} 1"#] {
        assert!(counted(&registry, calls), "{calls}");
    }
    // What a fan-out answers as not durable.
    let error = ask(&alone).await.unwrap_err();
    assert!(error.0.contains("too many publishers wait"), "{error}");
    assert_eq!(*gate.come.borrow(), 1, "the log was asked by nobody without a place");

    gate.open.add_permits(2);
    assert_eq!(first.await.unwrap(), Ok(Committed::Yes));
    assert_eq!(ask(&alone).await, Ok(Committed::Yes));
}

#[tokio::test]
async fn one_connection_too_many_waits_until_another_ends() {
    let replica = bounded_replica(Fake::default(), AtOnce::default(), 1).await;
    let (log, _) = remote(&[&replica]);
    log.replay(query(2, "a")).await.unwrap();
    let url = replica.url.clone();
    let waiting = tokio::spawn(async move {
        let mut client = v1::event_log_client::EventLogClient::connect(url).await.unwrap();
        client.locate(v1::LocateRequest { shard: 1, time_micros: 42 }).await
    });
    for _ in 0..20 {
        log.replay(query(2, "a")).await.unwrap();
    }
    assert!(!waiting.is_finished(), "two connections are served");
    drop(log);
    waiting.await.unwrap().unwrap();
}

#[tokio::test]
async fn absurd_requests_are_refused() {
    let replica = replica(Fake::default()).await;
    let mut client = v1::event_log_client::EventLogClient::connect(replica.url).await.unwrap();
    let good = v1::ReplayRequest {
        shard: 1,
        epoch: 1,
        after: 0,
        topics: vec!["a".into()],
        events: 1,
        bytes: 1,
        fill: false,
        digest: 0,
    };
    client.replay(good.clone()).await.unwrap();
    for (bad, hint) in [
        (v1::ReplayRequest { shard: 4, ..good.clone() }, "--shards"),
        (v1::ReplayRequest { topics: vec![], ..good.clone() }, "0 topics"),
        (v1::ReplayRequest { topics: vec!["a..b".into()], ..good.clone() }, "token 2"),
        (v1::ReplayRequest { topics: vec!["a".into(); 5000], ..good.clone() }, "5000 topics"),
    ] {
        let status = client.replay(bad).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
        assert!(status.message().contains(hint), "{status}");
    }
    let key = v1::CommittedRequest { position: Some(Default::default()), key: Bytes::new(), deadline_ms: 1 };
    assert_eq!(client.committed(key).await.unwrap_err().code(), tonic::Code::InvalidArgument);
    let huge = v1::ReplayRequest { topics: vec!["a".repeat(2 << 20)], ..good };
    assert_eq!(client.replay(huge).await.unwrap_err().code(), tonic::Code::OutOfRange);
}

#[tokio::test]
async fn health_and_reflection_answer() {
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_client::HealthClient;
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

    let replica = replica(Fake::default()).await;
    let channel = tonic::transport::Endpoint::from_shared(replica.url.clone()).unwrap().connect_lazy();
    let mut health = HealthClient::new(channel.clone());
    let service = HealthCheckRequest { service: "foghorn.v1.EventLog".into() };
    assert_eq!(health.check(service.clone()).await.unwrap().into_inner().status, 1, "serving");

    let list = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers = ServerReflectionClient::new(channel)
        .server_reflection_info(futures::stream::iter([list]))
        .await
        .unwrap()
        .into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response.unwrap();
    let MessageResponse::ListServicesResponse(list) = answer else { panic!("{answer:?}") };
    let names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
    assert!(names.iter().any(|name| name == "foghorn.v1.Publisher"), "{names:?}");

    let mut watched = health.watch(service).await.unwrap().into_inner();
    assert_eq!(watched.message().await.unwrap().unwrap().status, 1);
    replica.stop.send_replace(true);
    assert_eq!(watched.message().await.unwrap().unwrap().status, 2, "not serving while it drains");
    assert!(watched.message().await.unwrap().is_none(), "a watch doesn't hold up the drain");
    drop((health, answers));
    replica.task.await.unwrap().unwrap();
}

/// A folder of certificates by authorities of its own.
struct Certificates(tempfile::TempDir);

impl Certificates {
    fn new() -> Self {
        Certificates(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn authority(&self, name: &str) -> CertifiedIssuer<'static, KeyPair> {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        std::fs::write(self.path(name), authority.pem()).unwrap();
        authority
    }

    /// For 127.0.0.1; the files of the certificate and its key.
    fn issue(&self, name: &str, authority: &CertifiedIssuer<'static, KeyPair>) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, authority).unwrap();
        let files = (self.path(&format!("{name}.crt")), self.path(&format!("{name}.key")));
        std::fs::write(&files.0, certificate.pem()).unwrap();
        std::fs::write(&files.1, key.serialize_pem()).unwrap();
        files
    }

    fn client(&self, authority: &str, identity: Option<(PathBuf, PathBuf)>) -> Option<ClientFiles> {
        Some(ClientFiles { table: "eventlog", authority: self.path(authority), identity })
    }
}

#[tokio::test]
async fn over_tls_both_sides_have_to_be_known() {
    let certificates = Certificates::new();
    let (ours, foreign) = (certificates.authority("ours"), certificates.authority("foreign"));
    let server = certificates.issue("server", &ours);
    let identity = Identity::load_grpc(&server.0, &server.1, Some(&certificates.path("ours"))).unwrap();
    let replica = served(Fake::default(), AtOnce::default(), 1000, Some(Arc::new(identity))).await;
    let locate = async |tls| {
        let (log, _) = remote_over(&[&replica], tls);
        log.locate(Shard::ZERO, Timestamp::from_micros(1)).await
    };
    let known = certificates.issue("gateway", &ours);
    assert!(locate(certificates.client("ours", Some(known.clone()))).await.is_ok());
    // Whoever shows none, or one by somebody else.
    assert!(locate(certificates.client("ours", None)).await.is_err());
    let unknown = certificates.issue("unknown", &foreign);
    assert!(locate(certificates.client("ours", Some(unknown))).await.is_err());
    // Whoever takes it for somebody else.
    assert!(locate(certificates.client("foreign", Some(known.clone()))).await.is_err());
    // Connections that say nothing hold nobody up.
    let silent = tokio::net::TcpStream::connect(replica.url.trim_start_matches("https://")).await.unwrap();
    assert!(locate(certificates.client("ours", Some(known))).await.is_ok());
    drop(silent);
    replica.stop().await;
}
