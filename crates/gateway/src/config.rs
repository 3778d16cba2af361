//! `[gateway]` in the configuration.

use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use foghorn_http::limit::Rate;

use crate::places::{Beyond, Limit};

/// Most threads for streams: more than one a core gains nothing.
const REACTORS_MAX: usize = 256;

/// Most streams of one user that are counted: what gateways tell each other of them goes into one message.
const SUBJECT_STREAMS_MAX: usize = 5000;

/// How a gateway behaves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Bytes of recent events held in memory, over all shards. What is older is read from the log.
    pub ring_bytes: usize,
    /// Bytes of live batches that wait to be taken into a shard's ring. What finds no room is dropped, counted,
    /// and had from the log.
    pub feed_bytes: usize,
    /// How far back the ring is filled at start.
    #[serde(with = "humantime_serde")]
    pub ring_warm: Duration,
    /// Most channels and patterns on one connection, `broadcast` not counted.
    pub channels_per_connection: usize,
    /// Most open streams; one more is told to come back later.
    pub connections: usize,
    /// The middle of the `retry:` that each stream is given, in time; jittered by half either way.
    #[serde(with = "humantime_serde")]
    pub retry: Duration,
    /// A stream on which nothing was sent for this long gets its cursor, at least after two thirds of it.
    #[serde(with = "humantime_serde")]
    pub keep_alive: Duration,
    /// One that stays quiet gets it less and less often, up to this; `keep_alive` if that is longer.
    #[serde(with = "humantime_serde")]
    pub keep_alive_idle: Duration,
    /// A stream is closed when its socket has taken nothing for this long though something waits for it. Its
    /// client goes on by its cursor.
    #[serde(with = "humantime_serde")]
    pub slow_time: Duration,
    /// Bytes that streams with full sockets hold together: the rests of the events in which they stopped.
    /// Past it, the next one whose socket is full is closed.
    pub slow_bytes: usize,
    /// A stream that was level and has been behind for this long is ended with `retry:`. Its client goes on by its
    /// cursor.
    #[serde(with = "humantime_serde")]
    pub lag_time: Duration,
    /// So is one behind which the rings have more bytes than this, whoever they are for; 0 for no such limit.
    pub lag_bytes: usize,
    /// A catch-up that needs the log waits this long for it before the stream is ended with `retry:`.
    #[serde(with = "humantime_serde")]
    pub log_patience: Duration,
    /// Most replays from the log under way at a time.
    pub replays: usize,
    /// Whether streams are sent compressed to clients that take it.
    pub compression: bool,
    /// What a stream was changed to hear is kept for so long after the stream was last there, for when it comes back.
    #[serde(with = "humantime_serde")]
    pub subscription_life: Duration,
    /// Somebody who has left a channel is told to have left after so long, unless they are back by then.
    #[serde(with = "humantime_serde")]
    pub presence_debounce: Duration,
    /// Without a batch for this long, listeners are told `stream-stale`.
    #[serde(with = "humantime_serde")]
    pub stale_after: Duration,
    /// After SIGTERM, streams are still served and accepted for this long, so that load balancers notice.
    #[serde(with = "humantime_serde")]
    pub drain_delay: Duration,
    /// Then it takes none on any more, and waits at most this long for the operator to say that it is its turn; 0 for a
    /// gateway that no operator paces.
    #[serde(with = "humantime_serde")]
    pub drain_wait: Duration,
    /// Then streams are let go evenly over this long.
    #[serde(with = "humantime_serde")]
    pub drain_window: Duration,
    /// Most events that `?last=` answers in all.
    pub last_total: usize,
    /// Streams that may begin here, over time; 0 for no limit. One more is told to come back later.
    pub streams_per_second: u32,
    /// How many at once.
    pub streams_burst: u32,
    /// Threads that write to the streams that are level; 0 for as many as there are cores.
    pub reactors: usize,
    /// Requests from each client address, over time; 0 for no limit.
    pub address_per_minute: u32,
    /// How many at once.
    pub address_burst: u32,
    /// Streams that each subject may open, over time; 0 for no limit.
    pub subject_per_minute: u32,
    /// How many at once.
    pub subject_burst: u32,
    /// Open streams that each user may have in the whole cluster; 0 for no limit.
    pub subject_streams: usize,
    /// What becomes of one more.
    pub subject_streams_beyond: Beyond,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            ring_bytes: 256 << 20,
            feed_bytes: 64 << 20,
            ring_warm: Duration::from_secs(60),
            channels_per_connection: 100,
            connections: 100_000,
            retry: Duration::from_secs(3),
            keep_alive: Duration::from_secs(15),
            keep_alive_idle: Duration::from_secs(45),
            // Proxies are no more patient: nginx's `send_timeout` is the same.
            slow_time: Duration::from_secs(60),
            slow_bytes: 64 << 20,
            lag_time: Duration::from_secs(300),
            lag_bytes: 0,
            log_patience: Duration::from_secs(10),
            replays: 64,
            compression: true,
            subscription_life: Duration::from_secs(24 * 3600),
            // An EventSource comes back within 4.5 s (`retry`), or is the second time.
            presence_debounce: Duration::from_secs(10),
            stale_after: Duration::from_secs(5),
            drain_delay: Duration::ZERO,
            drain_wait: Duration::ZERO,
            drain_window: Duration::from_secs(5),
            last_total: 1000,
            // What two cores have time for.
            streams_per_second: 10_000,
            // As many as a process with the usual limit of open files can have.
            streams_burst: 20_000,
            reactors: 0,
            // An office of 500 behind one address, with four pages each.
            address_per_minute: 6000,
            address_burst: 2000,
            // A browser with 50 pages, restarted a few times.
            subject_per_minute: 600,
            subject_burst: 200,
            subject_streams: 0,
            subject_streams_beyond: Beyond::Reject,
        }
    }
}

impl Config {
    /// A `retry:` in milliseconds. One of its own for each stream is the only thing that spreads browsers'
    /// reconnects.
    pub(crate) fn retry_ms(&self) -> u64 {
        let retry = self.retry.mul_f64(0.5 + fastrand::f64());
        u64::try_from(retry.as_millis()).unwrap_or(u64::MAX)
    }

    /// How many threads write to streams; at least one.
    pub(crate) fn reactors(&self) -> usize {
        let cores = thread::available_parallelism().map_or(1, std::num::NonZero::get);
        if self.reactors == 0 { cores } else { self.reactors }
    }

    /// How often each client address may ask.
    pub(crate) fn address_rate(&self) -> Rate {
        Rate::per_minute(self.address_per_minute, self.address_burst)
    }

    /// How often each subject may open a stream.
    pub(crate) fn subject_rate(&self) -> Rate {
        Rate::per_minute(self.subject_per_minute, self.subject_burst)
    }

    /// How many streams each user may have.
    pub(crate) fn user_limit(&self) -> Limit {
        Limit { most: self.subject_streams, beyond: self.subject_streams_beyond }
    }

    /// How often a stream may begin.
    pub(crate) fn stream_rate(&self) -> Rate {
        Rate::per_second(self.streams_per_second, self.streams_burst)
    }

    /// What is wrong with it, naming the key.
    pub fn check(&self) -> Result<(), String> {
        let within = |key: &str, value: Duration, least: u64, most: u64| {
            let range = Duration::from_secs(least)..=Duration::from_secs(most);
            if range.contains(&value) {
                return Ok(());
            }
            Err(format!(
                "gateway.{key} must be between {least} s and {most} s, not {}",
                humantime_serde::re::humantime::format_duration(value)
            ))
        };
        within("keep_alive", self.keep_alive, 2, 120)?;
        within("keep_alive_idle", self.keep_alive_idle, 2, 120)?;
        within("slow_time", self.slow_time, 5, 600)?;
        within("lag_time", self.lag_time, 5, 3600)?;
        within("retry", self.retry, 1, 60)?;
        within("subscription_life", self.subscription_life, 60, 30 * 24 * 3600)?;
        within("presence_debounce", self.presence_debounce, 1, 300)?;
        within("stale_after", self.stale_after, 2, 60)?;
        within("log_patience", self.log_patience, 1, 300)?;
        within("drain_window", self.drain_window, 0, 3600)?;
        within("drain_wait", self.drain_wait, 0, 3600)?;
        self.stream_rate().check("gateway.streams_per_second", "gateway.streams_burst")?;
        self.address_rate().check("gateway.address_per_minute", "gateway.address_burst")?;
        self.subject_rate().check("gateway.subject_per_minute", "gateway.subject_burst")?;
        if self.subject_streams > SUBJECT_STREAMS_MAX {
            return Err(format!(
                "gateway.subject_streams must be at most {SUBJECT_STREAMS_MAX}, not {}",
                self.subject_streams
            ));
        }
        if self.reactors > REACTORS_MAX {
            return Err(format!("gateway.reactors must be at most {REACTORS_MAX}, not {}", self.reactors));
        }
        if self.ring_bytes < 1 << 20 {
            return Err(format!("gateway.ring_bytes must be at least 1048576, not {}", self.ring_bytes));
        }
        if self.lag_bytes > self.ring_bytes {
            return Err(format!(
                "gateway.lag_bytes must be at most gateway.ring_bytes ({}), not {}: beyond the ring it isn't known",
                self.ring_bytes, self.lag_bytes
            ));
        }
        if self.slow_bytes < 1 << 20 {
            return Err(format!("gateway.slow_bytes must be at least 1048576, not {}", self.slow_bytes));
        }
        if self.feed_bytes < 64 << 10 {
            return Err(format!("gateway.feed_bytes must be at least 65536, not {}", self.feed_bytes));
        }
        if self.channels_per_connection == 0
            || self.connections == 0
            || self.replays == 0
            || self.last_total == 0
        {
            return Err(
                "gateway.channels_per_connection, connections, replays and last_total must be at least 1"
                    .into(),
            );
        }
        Ok(())
    }
}
