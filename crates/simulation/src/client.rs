//! A listener: reads a stream as a browser does, and comes back with its last event id.

use std::sync::Arc;
use std::time::Duration;

use foghorn_core::cursor::Cursor;
use foghorn_core::pattern::Pattern;
use foghorn_core::position::{Epoch, Position};
use foghorn_core::shard::Shard;
use foghorn_core::time::Timestamp;
use http::Request;
use http_body_util::BodyExt as _;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

use crate::cluster::{Cluster, GatewayProcess};
use crate::process::Process;
use crate::sse::{Block, Parser};
use crate::world::World;

/// Longest that a client waits before it comes back, so that runs are short.
const RETRY_MOST: Duration = Duration::from_millis(1500);

/// What a client saw, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// It asked for a stream, with this last event id.
    Asked {
        /// Whom.
        gateway: String,
        /// The header.
        last_event_id: Option<String>,
    },
    /// `connected`.
    Connected {
        /// Whether everything after the cursor was there.
        recovered: bool,
        /// The cursor given.
        id: Option<Cursor>,
    },
    /// `stream-reset`.
    Reset {
        /// Why.
        reason: String,
        /// The cursor given.
        id: Cursor,
    },
    /// `stream-live`.
    Live {
        /// The cursor given.
        id: Cursor,
    },
    /// `stream-stale`.
    Stale,
    /// `stream-end`.
    End {
        /// Why.
        reason: String,
        /// The cursor given.
        id: Option<Cursor>,
    },
    /// Only a position.
    At {
        /// The cursor given.
        id: Cursor,
    },
    /// An event.
    Event {
        /// The cursor given.
        id: Cursor,
        /// Its data, which name it.
        data: String,
    },
    /// The connection was cut, from whichever side.
    Cut,
    /// What no stream of Foghorn's says.
    Strange(String),
}

/// Where a client begins that has no cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// With what comes.
    Now,
    /// With what came at this time or later.
    Since(Timestamp),
    /// With the newest so many of each channel.
    Last(usize),
}

/// A client and what it has seen.
#[derive(Debug)]
pub struct Client {
    /// What it is called in the story.
    pub name: String,
    /// What it listens to.
    pub topics: Vec<Pattern>,
    /// The cursor that it begins with, if any: one that it wasn't given.
    pub foreign: Option<String>,
    /// Where it begins, if not with that.
    pub begin: Begin,
    /// Whether it reads slowly.
    pub slow: bool,
    /// How long a connection lasts at most, on average, before it is cut.
    pub restless: Duration,
    world: Arc<World>,
    seen: Mutex<Vec<(Duration, Seen)>>,
    /// Which gateways it asked, one after the other.
    asked: Mutex<Vec<Arc<Process>>>,
    /// It stays where it is from now on.
    settled: Mutex<bool>,
}

impl Client {
    /// One that the dice make.
    pub fn new(world: &Arc<World>, number: usize) -> Arc<Self> {
        let all: [&[&str]; 11] = [
            &["a.0"],
            &["a.1", "s.0"],
            &["a.*"],
            &[">"],
            &["s.*"],
            &["b.0", "b.1"],
            &["a.0", "b.*"],
            &["b.1"],
            &["n.0"],
            &["l.*"],
            &["n.*", "l.0", "a.1"],
        ];
        let topics = world.one(&all).iter().filter_map(|topic| Pattern::parse(*topic).ok()).collect();
        let far = |epoch, seq| {
            let position = Position { shard: Shard::ZERO, epoch: Epoch::new(epoch), seq };
            Cursor::single(position).to_string()
        };
        let foreign = match world.pick(0..12) {
            0 => Some(far(1, 5)),
            1 => Some("gibberish".to_owned()),
            2 => Some(far(1_767_225_600, 1_000_000)),
            3 => Some(far(9_000_000_000, 3)),
            _ => None,
        };
        let begin = match world.pick(0..6) {
            0 => Begin::Since(world.now().plus(world.millis(0..8000)).minus(Duration::from_secs(4))),
            1 => Begin::Last(world.pick(1..8)),
            _ => Begin::Now,
        };
        Arc::new(Client {
            begin,
            asked: Mutex::default(),
            name: format!("client-{number}"),
            topics,
            foreign,
            slow: world.chance(0.2),
            restless: Duration::from_secs(world.one(&[1, 4, 10, 1000])),
            world: world.clone(),
            seen: Mutex::default(),
            settled: Mutex::new(false),
        })
    }

    /// What it saw, and when.
    pub fn seen(&self) -> Vec<(Duration, Seen)> {
        self.seen.lock().clone()
    }

    /// The gateways that it asked, in the order of its questions.
    pub fn asked(&self) -> Vec<Arc<Process>> {
        self.asked.lock().clone()
    }

    /// From now on it keeps its connections.
    pub fn settle(&self) {
        *self.settled.lock() = true;
    }

    fn saw(&self, what: Seen) {
        self.seen.lock().push((self.world.elapsed(), what));
    }

    /// Listens for ever.
    pub async fn run(self: Arc<Self>, cluster: Arc<Cluster>) {
        let mut last_event_id = self.foreign.clone();
        let latest = if self.begin == Begin::Now { 4000 } else { 20_000 };
        sleep(self.world.millis(0..latest)).await;
        loop {
            let Some(gateway) = cluster.any_gateway(&self.world) else {
                sleep(self.world.millis(50..500)).await;
                continue;
            };
            self.asked.lock().push(gateway.process.clone());
            let name = gateway.process.name.clone();
            self.saw(Seen::Asked { gateway: name, last_event_id: last_event_id.clone() });
            let retry = self.listen(&gateway, &mut last_event_id).await;
            sleep(retry.min(RETRY_MOST)).await;
        }
    }

    /// One connection; how long to wait after it.
    async fn listen(&self, gateway: &GatewayProcess, last_event_id: &mut Option<String>) -> Duration {
        let world = &self.world;
        let listed: Vec<&str> = self.topics.iter().map(Pattern::as_str).collect();
        let begin = match self.begin {
            Begin::Since(time) => format!("&since={time}"),
            Begin::Last(each) => format!("&last={each}"),
            Begin::Now => String::new(),
        };
        let mut request =
            Request::get(format!("/api/events?channels={}{begin}", listed.join(",").replace('>', "%3E")))
                .header("host", "localhost");
        if let Some(id) = &*last_event_id {
            request = request.header("last-event-id", id);
        }
        let Ok(request) = request.body(()) else {
            self.saw(Seen::Strange("a request that is none".to_owned()));
            return Duration::from_secs(1);
        };
        let process = gateway.process.clone();
        let api = gateway.api.clone();
        let answered = process.clone().answers(async move { api.respond(&request).await }).await;
        let Some(response) = answered else {
            self.saw(Seen::Cut);
            return world.millis(10..500);
        };
        if response.status() != http::StatusCode::OK {
            self.saw(Seen::Strange(format!("status {}", response.status())));
            return Duration::from_secs(1);
        }
        let body = Arc::new(tokio::sync::Mutex::new(response.into_body()));
        let (mut parser, mut retry) = (Parser::default(), Duration::from_secs(1));
        let patience = world.millis(100..2 * u64::try_from(self.restless.as_millis()).unwrap_or(1000) + 101);
        let leaves = Instant::now() + patience;
        loop {
            let reading = body.clone();
            let next = process.clone().answers(async move { reading.lock().await.frame().await });
            let leaving = async {
                tokio::time::sleep_until(leaves).await;
                if *self.settled.lock() {
                    std::future::pending::<()>().await;
                }
            };
            let frame = tokio::select! {
                biased;
                () = leaving => None,
                frame = next => frame.flatten(),
            };
            let Some(Ok(frame)) = frame else {
                if self.seen.lock().last().is_none_or(|(_, last)| !matches!(last, Seen::End { .. })) {
                    self.saw(Seen::Cut);
                }
                return retry;
            };
            let Ok(mut bytes) = frame.into_data() else { continue };
            world.hop().await;
            // A connection may be cut within a chunk.
            let cut = !*self.settled.lock() && world.chance(0.01);
            if cut {
                bytes.truncate(world.pick(0..bytes.len().max(1)));
            }
            for block in parser.take(&bytes) {
                self.take(block, last_event_id, &mut retry);
            }
            if cut {
                self.saw(Seen::Cut);
                return retry;
            }
            if self.slow && world.chance(0.3) {
                sleep(world.millis(10..1500)).await;
            }
        }
    }

    fn take(&self, block: Block, last_event_id: &mut Option<String>, retry: &mut Duration) {
        let id = match &block.id {
            None => None,
            Some(text) => match Cursor::parse(text) {
                Ok(cursor) => Some(cursor),
                Err(error) => return self.saw(Seen::Strange(format!("id {text:?}: {error}"))),
            },
        };
        if let Some(ms) = block.retry {
            *retry = Duration::from_millis(ms);
        }
        let json = |key: &str| {
            let data = block.data.as_deref().unwrap_or_default();
            serde_json::from_str::<serde_json::Value>(data).ok().and_then(|value| value.get(key).cloned())
        };
        let reason =
            || json("reason").and_then(|reason| reason.as_str().map(str::to_owned)).unwrap_or_default();
        let what = match (block.event.as_str(), id, &block.data) {
            ("connected", id, _) => {
                let recovered = json("recovered").and_then(|value| value.as_bool()).unwrap_or(false);
                Seen::Connected { recovered, id }
            }
            ("stream-reset", Some(id), _) => Seen::Reset { reason: reason(), id },
            ("stream-live", Some(id), _) => Seen::Live { id },
            ("stream-stale", ..) => Seen::Stale,
            ("stream-end", id, _) => Seen::End { reason: reason(), id },
            ("", Some(id), Some(data)) => Seen::Event { id, data: data.clone() },
            ("", Some(id), None) => Seen::At { id },
            _ => Seen::Strange(format!("{block:?}")),
        };
        if let Some(id) = block.id {
            *last_event_id = Some(id);
        }
        self.saw(what);
    }
}
