//! A canary: now and then the gateway has an event published, to hear it itself.
//!
//! It goes the way of every event: a fan-out appends it to the journal, the relay sends it on the live feed, it comes into
//! the ring, and a reactor writes it to a socket, at whose other end it is read and counted. Only what stands before a
//! stream is left out, which is another for each client: TLS, proxies, and who may listen. No door has to be kept open for
//! it that way, and no credential.
//!
//! Each gateway hears its own alone, so that canaries grow with the gateways and not with their square. They go through all
//! shards in turn.

mod loopback;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};

use foghorn_bus::announce::{AnnounceError, Announcer, Canary};
use foghorn_bus::backoff::{Backoff, Rarely};
use foghorn_core::channel::Channel;
use foghorn_core::cursor::Cursor;
use foghorn_core::pattern::Pattern;
use foghorn_core::shard::ShardCount;
use foghorn_core::sse::{Block, Decoder};

use crate::connection::{Begin, Connection, Shared};
use crate::subscription::Subscription;
use watch::{Heard, Lost, Watch};

/// Most that fan-outs have been asked for and have not answered. Beyond it the next one waits.
const ASKED_MAX: usize = 64;
/// What can be waited for and told apart: [`Config::check`] keeps more from being waited for at a time.
const EVERY_MIN: Duration = Duration::from_millis(100);
const EVERY_MAX: Duration = Duration::from_secs(3600);
const DEADLINE_MIN: Duration = Duration::from_secs(1);
const DEADLINE_MAX: Duration = Duration::from_secs(60);

/// `[canary]` in the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// How often a gateway has one published, about; 0 for never.
    #[serde(with = "humantime_serde")]
    pub every: Duration,
    /// One that isn't heard within this is lost.
    #[serde(with = "humantime_serde")]
    pub deadline: Duration,
    /// Whether standalone has one too.
    pub standalone: bool,
}

impl Default for Config {
    fn default() -> Self {
        Config { every: Duration::from_secs(5), deadline: Duration::from_secs(10), standalone: false }
    }
}

impl Config {
    /// What is wrong with it, naming the key.
    pub fn check(&self) -> Result<(), String> {
        if !self.every.is_zero() && !(EVERY_MIN..=EVERY_MAX).contains(&self.every) {
            return Err("canary.every must be between 100ms and 1h, or 0s for no canary".to_owned());
        }
        if !(DEADLINE_MIN..=DEADLINE_MAX).contains(&self.deadline) {
            return Err("canary.deadline must be between 1s and 1m".to_owned());
        }
        Ok(())
    }

    /// Until the next one: jittered, so that gateways that began together don't stay together.
    fn pause(&self) -> Duration {
        self.every.mul_f64(0.8 + 0.4 * fastrand::f64())
    }
}

/// Has canaries published and hears them.
pub(crate) struct Birdcage {
    shared: Arc<Shared>,
    announcer: Arc<dyn Announcer>,
    config: Config,
    /// One of the gateway's channels in each shard.
    lanes: Vec<u8>,
    watch: Mutex<Watch>,
    /// The stream was live for the first time.
    live: Notify,
    complaint: Rarely,
    metrics: Metrics,
}

impl Birdcage {
    /// Registers its metrics. `config` has been [checked](Config::check).
    pub(crate) fn new(
        shared: Arc<Shared>,
        announcer: Arc<dyn Announcer>,
        config: Config,
        registry: &mut Registry,
    ) -> Self {
        let lanes = lanes(shared.name.get(), shared.hub.shard_count());
        let watch = Mutex::new(Watch::new(config.deadline));
        let metrics = Metrics::register(registry);
        Birdcage {
            shared,
            announcer,
            config,
            lanes,
            watch,
            live: Notify::new(),
            complaint: Rarely::default(),
            metrics,
        }
    }

    /// Goes on until the gateway ends.
    pub(crate) async fn run(self) {
        tokio::select! {
            // What has been heard is not taken for lost.
            biased;
            () = self.listen() => {}
            () = self.sing() => {}
        }
    }

    /// Has them published, once the stream is there that hears them.
    async fn sing(&self) {
        self.live.notified().await;
        let mut asked = FuturesUnordered::new();
        let mut next = Instant::now() + self.config.every.mul_f64(fastrand::f64());
        loop {
            let due = self.watch.lock().due();
            tokio::select! {
                Some((number, published)) = asked.next(), if !asked.is_empty() => self.asked(number, published),
                () = sleep_until(due.unwrap_or(next)), if due.is_some() => self.count_lost(),
                () = sleep_until(next), if asked.len() < ASKED_MAX => {
                    next = Instant::now() + self.config.pause();
                    asked.push(self.publish());
                }
            }
        }
    }

    async fn publish(&self) -> (u64, Result<(), AnnounceError>) {
        let number = self.watch.lock().sent(Instant::now());
        let turn = usize::try_from(number).unwrap_or_default() % self.lanes.len();
        let canary = Canary { gateway: self.shared.name, lane: self.lanes[turn], number };
        let published = timeout(self.config.deadline, self.announcer.canary(canary)).await;
        let late = || Err(AnnounceError::Unavailable("no answer in time".to_owned()));
        (number, published.unwrap_or_else(|_| late()))
    }

    fn asked(&self, number: u64, published: Result<(), AnnounceError>) {
        let result = match published {
            Ok(()) => {
                self.watch.lock().published(number);
                "published"
            }
            Err(error) => {
                tracing::debug!(number, %error, "a canary was not published, as far as is known");
                if matches!(error, AnnounceError::Refused(_)) { "refused" } else { "unavailable" }
            }
        };
        self.metrics.published.get_or_create(&ResultLabel { result }).inc();
    }

    fn count_lost(&self) {
        let lost = self.watch.lock().take_lost(Instant::now());
        for (number, lost) in lost {
            let stage = lost.as_str();
            self.metrics.lost.get_or_create(&StageLabel { stage }).inc();
            if self.complaint.now() {
                let channel = self.channel_of(number);
                tracing::warn!(number, %channel, stage, "a canary was not heard within canary.deadline");
            }
        }
    }

    fn channel_of(&self, number: u64) -> Channel {
        let turn = usize::try_from(number).unwrap_or_default() % self.lanes.len();
        Channel::canary(self.shared.name.get(), self.lanes[turn])
    }

    /// Hears them, by stream after stream, each going on by the cursor of the one before, as a client does.
    async fn listen(&self) {
        let (mut cursor, mut backoff) = (None, Backoff::default());
        loop {
            let before = cursor.clone();
            let ended = self.hear(&mut cursor).await;
            tracing::debug!(?ended, "the canary's stream is over; it comes back");
            if cursor != before {
                backoff.reset();
            }
            backoff.wait().await;
        }
    }

    async fn hear(&self, cursor: &mut Option<String>) -> std::io::Result<()> {
        let begin = cursor.as_deref().map_or(Begin::Now, |id| Begin::After(Cursor::parse(id)));
        let channels = self.lanes.iter().map(|lane| Channel::canary(self.shared.name.get(), *lane));
        let topics: Vec<Pattern> = channels.map(|channel| Pattern::from(&channel)).collect();
        let subscription = Subscription::new(&topics, self.shared.hub.shard_count());
        let connection = Connection::own(self.shared.clone(), subscription, begin);
        let mut stream = loopback::open(connection, self.shared.config.slow_time).await?;
        let mut decoder = Decoder::default();
        while let Some(bytes) = stream.next().await? {
            decoder.feed(&bytes, |block| {
                self.take(block);
                if block.id.is_some() {
                    cursor.clone_from(&block.id);
                }
            });
        }
        Ok(())
    }

    fn take(&self, block: &Block) {
        match block.event_type() {
            "stream-live" => self.live.notify_one(),
            // What was heard may come again, as it should.
            "stream-reset" => self.watch.lock().forget_heard(),
            "message" => {
                let number = block.data.as_ref().and_then(|data| data.parse().ok());
                if let Some(number) = number {
                    self.heard(number);
                }
            }
            _ => {}
        }
    }

    fn heard(&self, number: u64) {
        let heard = self.watch.lock().heard(number, Instant::now());
        match heard {
            Heard::First(after) => self.metrics.delivery.0.observe(after.as_secs_f64()),
            Heard::Late(after) => {
                self.metrics.delivery.0.observe(after.as_secs_f64());
                self.metrics.late.inc();
                tracing::info!(number, ?after, "a canary that was counted as lost was heard after all");
            }
            Heard::Again => {
                self.metrics.duplicates.inc();
                tracing::warn!(number, channel = %self.channel_of(number), "a canary was heard twice");
            }
            Heard::Unknown => tracing::debug!(number, "a canary was heard that is too old, or nobody's"),
        }
    }
}

/// For each shard a channel of this gateway's that lies in it. (That none of 256 does is as good as impossible; such a
/// shard would have no canary.)
fn lanes(gateway: u64, shards: ShardCount) -> Vec<u8> {
    let in_shard =
        |shard| (0..=u8::MAX).find(|lane| shards.shard_of(&Channel::canary(gateway, *lane)) == shard);
    shards.shards().filter_map(in_shard).collect()
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StageLabel {
    stage: &'static str,
}

/// What canaries tell.
#[derive(Debug, Default)]
struct Metrics {
    published: Family<ResultLabel, Counter>,
    delivery: Delivery,
    lost: Family<StageLabel, Counter>,
    late: Counter,
    duplicates: Counter,
}

/// From a millisecond to 33 s.
#[derive(Debug)]
struct Delivery(Histogram);

impl Default for Delivery {
    fn default() -> Self {
        Delivery(Histogram::new(exponential_buckets(0.001, 2.0, 16)))
    }
}

impl Metrics {
    /// Registers everything under `foghorn_canary_…`.
    fn register(registry: &mut Registry) -> Self {
        let m = Metrics::default();
        let r = registry.sub_registry_with_prefix("foghorn_canary");
        r.register(
            "published",
            "Canaries that a fan-out was asked for, by what it answered",
            m.published.clone(),
        );
        r.register(
            "delivery_seconds",
            "From asking a fan-out for a canary to reading it from a socket of this gateway's",
            m.delivery.0.clone(),
        );
        r.register(
            "lost",
            "Canaries not heard within their deadline, by how far they are known to have come",
            m.lost.clone(),
        );
        r.register("late", "Those of them that were heard after all", m.late.clone());
        r.register("duplicates", "Canaries heard more than once", m.duplicates.clone());
        for result in ["published", "unavailable", "refused"] {
            drop(m.published.get_or_create(&ResultLabel { result }));
        }
        for stage in Lost::ALL.map(Lost::as_str) {
            drop(m.lost.get_or_create(&StageLabel { stage }));
        }
        m
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_shard_has_a_channel_of_each_gateway() {
        for gateway in [0, 1, 0xffff_ffff_ffff] {
            let shards = ShardCount::new(8).unwrap();
            let found = lanes(gateway, shards);
            let of = |lane: &u8| shards.shard_of(&Channel::canary(gateway, *lane));
            assert_eq!(found.iter().map(of).collect::<Vec<_>>(), shards.shards().collect::<Vec<_>>());
        }
    }

    #[test]
    fn what_could_not_be_told_apart_is_refused_by_its_key() {
        let check = |every: u64, deadline: u64| {
            let millis = Duration::from_millis;
            Config { every: millis(every), deadline: millis(deadline), standalone: false }.check()
        };
        assert_eq!(Config::default().check(), Ok(()));
        assert_eq!((check(0, 1000), check(100, 60_000)), (Ok(()), Ok(())));
        assert!(check(99, 1000).unwrap_err().starts_with("canary.every "));
        assert!(check(5000, 999).unwrap_err().starts_with("canary.deadline "));
        assert!(check(5000, 60_001).unwrap_err().starts_with("canary.deadline "));
    }
}
