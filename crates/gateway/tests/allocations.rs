//! What an event costs in memory allocations must not depend on how many listen to it. The only test of
//! this program: the allocator counts for all of it.

#![expect(clippy::unwrap_used, reason = "a test; helpers are not seen as such")]

use std::alloc::System;
use std::io::Read as _;
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use foghorn_auth::Authenticator;
use foghorn_auth::config::{Algorithm, Key as AuthKey};
use foghorn_auth::keys::Keys;
use foghorn_auth::mint::SigningKey;
use foghorn_bus::Future;
use foghorn_bus::clock::Clock;
use foghorn_bus::live::LiveFeed as _;
use foghorn_bus::log::{
    Committed, EventLog, HistoryPage, HistoryQuery, Located, LogError, NewestQuery, Replay, ReplayQuery,
};
use foghorn_bus::memory::{Alone, MemoryLive, MemoryStatuses, MemorySubscriptions, MemoryTickets, Mute};
use foghorn_bus::metrics::Metrics;
use foghorn_bus::policies::SharedPolicies;
use foghorn_core::batch::{Batch, FeedEvent};
use foghorn_core::channel::Channel;
use foghorn_core::entry::Key;
use foghorn_core::event::Event;
use foghorn_core::position::{Epoch, Position};
use foghorn_core::shard::{Shard, ShardCount};
use foghorn_core::time::Timestamp;
use foghorn_gateway::config::Config;
use foghorn_gateway::dashboard;
use foghorn_gateway::service::{Gateway, Ports, Tickets};
use foghorn_http::client::Proxies;
use foghorn_http::serve::{Limits, Preamble, serve};
use foghorn_telemetry::health::Health;
use prometheus_client::registry::Registry;
use serde_json::json;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tokio::net::TcpListener;
use tokio::sync::watch;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Before anything is counted: everybody is level, every buffer has its size.
const WARM_UP: u64 = 100;
const EVENTS: u64 = 200;
const SECRET: &str = "a secret of tests, long enough for HS256";
const EPOCH: Epoch = Epoch::new(1);

/// A log of nothing: the first event is yet to come.
struct EmptyLog;

fn unasked<T: Send + 'static>() -> Future<'static, Result<T, LogError>> {
    Box::pin(std::future::ready(Err(LogError("not in this test".to_owned()))))
}

impl EventLog for EmptyLog {
    fn replay(&self, _query: ReplayQuery) -> Future<'_, Result<Replay, LogError>> {
        unasked()
    }

    fn newest(&self, _query: NewestQuery) -> Future<'_, Result<Vec<Batch>, LogError>> {
        unasked()
    }

    fn locate(&self, _shard: Shard, _time: Timestamp) -> Future<'_, Result<Located, LogError>> {
        Box::pin(std::future::ready(Ok(Located { epoch: EPOCH, after: 0, tip: 0 })))
    }

    fn history(&self, _query: HistoryQuery) -> Future<'_, Result<HistoryPage, LogError>> {
        unasked()
    }

    fn committed(&self, _: Position, _: Key, _: Duration) -> Future<'_, Result<Committed, LogError>> {
        unasked()
    }
}

/// Lets everybody do everything, and knows who has a token.
fn authenticator() -> Authenticator {
    let key = AuthKey { algorithm: Algorithm::HS256, secret: SECRET.into(), ..AuthKey::default() };
    let config = foghorn_auth::config::Config {
        issuer: "tests".to_owned(),
        audience: "foghorn".to_owned(),
        keys: vec![key],
        ..Default::default()
    };
    let (keys, clock) = (Keys::load(&config).unwrap(), Clock::default());
    Authenticator::new(&config, keys, true, move || clock.now())
}

/// A token of a user who has no other.
fn token() -> String {
    static USERS: AtomicUsize = AtomicUsize::new(0);
    let user = USERS.fetch_add(1, Ordering::Relaxed);
    let expires = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + 3600;
    let claims = json!({
        "sub": format!("user-{user}"), "iss": "tests", "aud": "foghorn", "exp": expires,
        "foghorn": { "subscribe": ["*"] }
    });
    SigningKey::new(Algorithm::HS256, SECRET.as_bytes()).unwrap().mint("", &claims).unwrap()
}

/// A gateway's whole way, from its live feed to its sockets.
struct Stage {
    feed: Arc<MemoryLive>,
    address: SocketAddr,
    health: Health,
    shards: ShardCount,
    /// What is published on, in turn.
    channels: &'static [&'static str],
    /// By shard.
    seqs: [u64; 8],
    published: u64,
    _gateway: Gateway,
    _stop: watch::Sender<bool>,
}

impl Stage {
    async fn new(shards: u64, channels: &'static [&'static str]) -> Self {
        let shards = ShardCount::new(shards).unwrap();
        let mut registry = Registry::default();
        let feed = Arc::new(MemoryLive::new(shards, 1 << 20, Metrics::register(&mut registry)));
        let health = Health::default();
        let ports = Ports {
            feed: feed.clone(),
            log: Arc::new(EmptyLog),
            shards,
            policies: SharedPolicies::default(),
            auth: Arc::new(authenticator()),
            proxies: Proxies::default(),
            revocations: Arc::new(foghorn_auth::revocation::InMemory),
            subscriptions: Arc::new(MemorySubscriptions::default()),
            tickets: Tickets::new(Arc::new(MemoryTickets::default()), &[0; 32]),
            gateways: Arc::new(Alone),
            unread: Arc::new(foghorn_bus::notifications::Nobody),
            announcer: Arc::new(Mute),
            statuses: Arc::new(MemoryStatuses::default()),
            clock: Clock::default(),
            health: health.clone(),
        };
        // Nothing of its own accord meanwhile.
        let quiet = Duration::from_secs(60);
        let config =
            Config { keep_alive: quiet, keep_alive_idle: quiet, stale_after: quiet, ..Config::default() };
        let gateway = Gateway::start(config, dashboard::Config::default(), ports, &mut registry);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = watch::channel(false);
        tokio::spawn(serve(listener, gateway.api(), Limits::default(), Preamble::default(), stopped));
        let stage = Stage {
            feed,
            address,
            health,
            shards,
            channels,
            seqs: [0; 8],
            published: 0,
            _gateway: gateway,
            _stop: stop,
        };
        while !stage.health.missing().is_empty() {
            tokio::task::yield_now().await;
        }
        stage
    }

    async fn publish(&mut self) {
        self.published += 1;
        let turn = usize::try_from(self.published).unwrap() % self.channels.len();
        let event =
            Event::new(Channel::parse(self.channels[turn]).unwrap(), format!("event {}.", self.published));
        let shard = self.shards.shard_of(&event.channel);
        let seq = self.seqs[shard.index()] + 1;
        let mut batch = Batch::empty(shard, EPOCH, seq - 1, seq);
        let position = Position { shard, epoch: EPOCH, seq };
        batch.events.push(FeedEvent::encode(position, Timestamp::default(), &event));
        self.feed.send(Arc::new(batch)).await.unwrap();
        self.seqs[shard.index()] = seq;
    }

    fn listen(&self, query: &str, header: &str) -> Listener {
        let header = header.replace("{token}", &token());
        let socket = TcpStream::connect(self.address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let request = format!("GET /api/events?{query} HTTP/1.1\r\nHost: localhost\r\n{header}\r\n");
        (&socket).write_all(request.as_bytes()).unwrap();
        let mut listener = Listener { socket, heard: Vec::with_capacity(1 << 20) };
        listener.until("stream-live");
        listener
    }

    /// How many allocations it takes to publish the events and to have them heard.
    async fn allocations(&mut self, (query, header): (&str, &str), listeners: usize) -> usize {
        let mut listeners: Vec<Listener> = (0..listeners).map(|_| self.listen(query, header)).collect();
        self.events(&mut listeners, WARM_UP).await;
        let region = Region::new(ALLOCATOR);
        self.events(&mut listeners, EVENTS).await;
        let counted = region.change();
        counted.allocations + counted.reallocations
    }

    /// One at a time.
    async fn events(&mut self, listeners: &mut [Listener], events: u64) {
        for _ in 0..events {
            self.publish().await;
            let last = format!("event {}.", self.published);
            listeners.iter_mut().for_each(|listener| listener.until(&last));
        }
    }
}

struct Listener {
    socket: TcpStream,
    heard: Vec<u8>,
}

impl Listener {
    /// Reads up to this text, and forgets everything until there. Allocates nothing.
    fn until(&mut self, text: &str) {
        let mut bytes = [0; 4096];
        while !self.heard.windows(text.len()).any(|some| some == text.as_bytes()) {
            let count = self.socket.read(&mut bytes).unwrap();
            assert!(count > 0, "the stream ended before {text:?}");
            self.heard.extend_from_slice(&bytes[..count]);
        }
        self.heard.clear();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_allocates_nothing() {
    // In stored blocks, where it can be read without allocations.
    let compressed = "Accept-Encoding: gzip\r\n";
    let with_token = "Authorization: Bearer {token}\r\n";
    let mut stage = Stage::new(1, &["a"]).await;
    for query in [
        ("channels=a", ""),
        ("channels=a&envelope=1", ""),
        ("channels=*&events=message", ""),
        ("channels=a&batch=1", ""),
        ("channels=a", compressed),
        ("channels=*&envelope=1", compressed),
        ("channels=a", with_token),
        ("channels=a,b,c", with_token),
    ] {
        stage.check(query).await;
    }
    let mut stage = Stage::new(4, &["a", "b", "c", "d", "e"]).await;
    for query in [
        ("channels=a,b,c,d,e", ""),
        ("channels=*&events=message", ""),
        ("channels=*", compressed),
        ("channels=*", with_token),
    ] {
        stage.check(query).await;
    }
}

impl Stage {
    /// More listeners cost no more.
    async fn check(&mut self, query: (&str, &str)) {
        const FEW: usize = 5;
        const MANY: usize = 105;
        // More than reactors keep buffers for, should each user's stream need one of its own.
        const USERS: usize = 805;
        let few = self.allocations(query, FEW).await;
        let listeners = if query.1.contains("{token}") { USERS } else { MANY };
        let many = self.allocations(query, listeners).await;
        let deliveries = (listeners - FEW) * usize::try_from(EVENTS).unwrap();
        // What the streams that left meanwhile freed and what the runtime does now and then is not theirs.
        assert!(
            many < few + deliveries / 100,
            "{query:?}: {few} allocations for {FEW} listeners, {many} for {listeners}: {deliveries} deliveries more"
        );
    }
}
