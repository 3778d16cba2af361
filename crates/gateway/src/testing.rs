//! A log and a live feed for tests: scripted, in memory.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use foghorn_auth::{self as auth, Authenticator};
use foghorn_bus::Future;
use foghorn_bus::clock::Clock;
use foghorn_bus::live::{LiveError, LiveFeed, LiveSubscription};
use foghorn_bus::log::{
    Committed, EventLog, HistoryPage, HistoryQuery, Located, LogError, NewestQuery, Replay, ReplayQuery,
};
use foghorn_bus::memory::{Alone, MemoryStatuses, MemorySubscriptions, MemoryTickets};
use foghorn_bus::notifications::Nobody;
use foghorn_core::batch::{Batch, FeedEvent};
use foghorn_core::channel::Channel;
use foghorn_core::entry::Key;
use foghorn_core::event::{Event, EventType};
use foghorn_core::pattern::Pattern;
use foghorn_core::policy::{Policies, Policy};
use foghorn_core::position::{Epoch, Position};
use foghorn_core::shard::{Shard, ShardCount};
use foghorn_core::time::Timestamp;
use foghorn_http::client::Proxies;
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use tokio::sync::mpsc;

use crate::connection::Shared;
use crate::dashboard::{self, Dashboard};
use crate::http::Api;
use crate::hub::Hub;
use crate::kept::Keeper;
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::ticket::Tickets;

/// A hub of one shard whose ring is bounded so.
pub(crate) fn hub(ring_bytes: usize) -> Arc<Hub> {
    hub_of(ShardCount::ONE, ring_bytes)
}

/// A hub whose rings are bounded so together. Of `latest.<any>` only the newest event is owed to who is behind.
pub(crate) fn hub_of(shards: ShardCount, ring_bytes: usize) -> Arc<Hub> {
    let metrics = Metrics::register(&mut Registry::default());
    let latest = Policy { latest: true, ..Policy::new(Pattern::parse("latest.*").unwrap()) };
    let policies = Policies::new(vec![latest]).unwrap();
    Arc::new(Hub::new(shards, ring_bytes, Arc::new(policies), Clock::default(), metrics))
}

const SECRET: &str = "a secret of tests, long enough for HS256";

/// Lets everybody do everything, and knows who has a [`token`].
pub(crate) fn authenticator() -> Authenticator {
    let key = auth::config::Key {
        algorithm: auth::config::Algorithm::HS256,
        secret: SECRET.into(),
        ..auth::config::Key::default()
    };
    let config = auth::config::Config {
        issuer: "tests".to_owned(),
        audience: "foghorn".to_owned(),
        keys: vec![key],
        ..auth::config::Config::default()
    };
    let (keys, clock) = (auth::keys::Keys::load(&config).unwrap(), Clock::default());
    Authenticator::new(&config, keys, true, move || clock.now())
}

/// A user's token, good for an hour and every channel.
pub(crate) fn token(user: &str) -> String {
    let expires = Clock::default().now().as_micros() / 1_000_000 + 3600;
    let claims = serde_json::json!({
        "sub": user, "iss": "tests", "aud": "foghorn", "exp": expires, "foghorn": { "subscribe": [">"] }
    });
    let key = auth::mint::SigningKey::new(auth::config::Algorithm::HS256, SECRET.as_bytes()).unwrap();
    key.mint("", &claims).unwrap()
}

/// What answers requests of a gateway that is alone.
pub(crate) fn api(shared: Arc<Shared>) -> Api {
    Api {
        auth: Arc::new(authenticator()),
        revocations: Arc::new(auth::revocation::InMemory),
        tickets: Arc::new(Tickets::new(Arc::new(MemoryTickets::default()), &[0; 32])),
        gateways: Arc::new(Alone),
        unread: Arc::new(Nobody),
        dashboard: Arc::new(Dashboard::new(
            Arc::new(MemoryStatuses::default()),
            dashboard::Config::default(),
            shared.hub.clock.clone(),
            shared.hub.metrics.clone(),
        )),
        keeper: Arc::new(Keeper::new(
            Arc::new(MemorySubscriptions::default()),
            shared.config.subscription_life,
        )),
        limits: Arc::new(Limits::new(Proxies::default(), &shared.config)),
        shared,
    }
}

/// A batch over `(from, to]` with an event of this type at each seq.
pub(crate) fn batch(
    epoch: u64,
    from: u64,
    to: u64,
    channel: &str,
    event_type: Option<&str>,
    data: &str,
) -> Batch {
    let epoch = Epoch::new(epoch);
    let mut batch = Batch::empty(Shard::ZERO, epoch, from, to);
    let mut event = Event::new(Channel::parse(channel).unwrap(), data.to_owned());
    event.event_type = event_type.map(|name| EventType::parse(name).unwrap());
    batch.events = (from + 1..=to)
        .map(|seq| {
            FeedEvent::encode(Position { shard: Shard::ZERO, epoch, seq }, Timestamp::default(), &event)
        })
        .collect();
    batch
}

type Answer = Box<dyn FnMut(&ReplayQuery) -> Result<Replay, LogError> + Send>;

/// Answers replays by a function; begins where told.
pub(crate) struct TestLog {
    located: Located,
    answer: Mutex<Answer>,
    asked: AtomicUsize,
}

impl TestLog {
    pub(crate) fn new(
        epoch: u64,
        after: u64,
        tip: u64,
        answer: impl FnMut(&ReplayQuery) -> Result<Replay, LogError> + Send + 'static,
    ) -> Arc<Self> {
        let located = Located { epoch: Epoch::new(epoch), after, tip };
        Arc::new(TestLog { located, answer: Mutex::new(Box::new(answer)), asked: AtomicUsize::new(0) })
    }

    /// How often a replay was asked for.
    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

fn unasked<T: Send + 'static>() -> Future<'static, Result<T, LogError>> {
    Box::pin(std::future::ready(Err(LogError("not in this test".to_owned()))))
}

impl EventLog for TestLog {
    fn replay(&self, query: ReplayQuery) -> Future<'_, Result<Replay, LogError>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let answer = (self.answer.lock())(&query);
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            answer
        })
    }

    fn newest(&self, _query: NewestQuery) -> Future<'_, Result<Vec<Batch>, LogError>> {
        unasked()
    }

    fn locate(&self, _shard: Shard, _time: Timestamp) -> Future<'_, Result<Located, LogError>> {
        Box::pin(std::future::ready(Ok(self.located)))
    }

    fn history(&self, _query: HistoryQuery) -> Future<'_, Result<HistoryPage, LogError>> {
        unasked()
    }

    fn committed(&self, _: Position, _: Key, _: Duration) -> Future<'_, Result<Committed, LogError>> {
        unasked()
    }
}

/// Gives out the subscriptions put in; then none can be had.
#[derive(Default)]
pub(crate) struct TestFeed(Mutex<VecDeque<mpsc::UnboundedReceiver<Arc<Batch>>>>);

struct TestSubscription(mpsc::UnboundedReceiver<Arc<Batch>>);

impl TestFeed {
    /// The next subscription: it ends when the sender is dropped.
    pub(crate) fn opens(&self) -> mpsc::UnboundedSender<Arc<Batch>> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.0.lock().push_back(receiver);
        sender
    }
}

impl LiveFeed for TestFeed {
    fn send(&self, _batch: Arc<Batch>) -> Future<'_, Result<(), LiveError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn batch_bytes(&self) -> usize {
        1 << 20
    }

    fn subscribe(&self, _shard: Shard) -> Future<'_, Result<Box<dyn LiveSubscription>, LiveError>> {
        let next = self.0.lock().pop_front();
        let next = next.map(|receiver| Box::new(TestSubscription(receiver)) as Box<dyn LiveSubscription>);
        Box::pin(std::future::ready(next.ok_or_else(|| LiveError("down".to_owned()))))
    }
}

impl LiveSubscription for TestSubscription {
    fn next(&mut self) -> Future<'_, Option<Arc<Batch>>> {
        Box::pin(self.0.recv())
    }
}
