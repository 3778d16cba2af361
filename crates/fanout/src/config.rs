//! The `[fanout]` table of the configuration.

use std::time::Duration;

use foghorn_http::limit::Rate;

/// What fan-out may take, and how long. Every key has a default.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How long the journal may take to ack an event, from when it is the event's turn; then the event is
    /// answered as `journal-unavailable`. 10 s to 15 s: a change of the journal's leader takes 4 to 7 s,
    /// and the journal itself tries an append for no longer than 15 s. Default 15 s.
    #[serde(with = "humantime_serde")]
    pub publish_deadline: Duration,
    /// How long a publish with ack `durable` waits, after that, for the event log's commit; then it is
    /// answered as accepted and not durable. Default 5 s.
    #[serde(with = "humantime_serde")]
    pub durable_deadline: Duration,
    /// Most bytes of one request: an HTTP body or a gRPC message. Default 4 MiB.
    pub body_bytes: usize,
    /// Most events in one request, each channel of `channels` counted. Default (and gRPC's documented
    /// limit) 1,000.
    pub batch_events: usize,
    /// Most channels appended to at a time for one request or gRPC stream. Default 256.
    pub parallel_appends: usize,
    /// Most unanswered events of one gRPC stream; past it the stream is read no further. Default 1,024.
    pub stream_events: usize,
    /// Most bytes of unanswered events of one gRPC stream, likewise. Default 4 MiB.
    pub stream_bytes: usize,
    /// Most bytes of all events being published at a time, over all doors, those in bodies that are still
    /// arriving included. When full, streams are read no further, and other requests wait up to 2 s and are
    /// then refused as `overloaded`. Default 64 MiB.
    pub inflight_bytes: usize,
    /// How often a relay with nothing to send says where its shard is. Gateways take a second of silence
    /// for a loss. Default 250 ms.
    #[serde(with = "humantime_serde")]
    pub beacon_interval: Duration,
    /// Requests to publish over HTTP from each client address, over time; 0 for no limit. Default 0: services
    /// publish a lot from one address.
    pub address_per_minute: u32,
    /// How many at once. Default 1,000.
    pub address_burst: u32,
    /// Events that each subject may publish through this process, over time; 0 for no limit. Default 0.
    pub subject_per_second: u32,
    /// How many at once; with a limit at least `batch_events`, as a request is taken whole or not at all.
    /// Default 1,000.
    pub subject_burst: u32,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            publish_deadline: Duration::from_secs(15),
            durable_deadline: Duration::from_secs(5),
            body_bytes: 4 << 20,
            batch_events: 1000,
            parallel_appends: 256,
            stream_events: 1024,
            stream_bytes: 4 << 20,
            inflight_bytes: 64 << 20,
            beacon_interval: Duration::from_millis(250),
            address_per_minute: 0,
            address_burst: 1000,
            subject_per_second: 0,
            subject_burst: 1000,
        }
    }
}

impl Config {
    /// How often each client address may ask.
    pub(crate) fn address_rate(&self) -> Rate {
        Rate::per_minute(self.address_per_minute, self.address_burst)
    }

    /// How much each subject may publish.
    pub(crate) fn subject_rate(&self) -> Rate {
        Rate::per_second(self.subject_per_second, self.subject_burst)
    }

    /// What is wrong, by key, if anything.
    pub fn check(&self) -> Result<(), String> {
        let mebibyte = 1 << 20;
        let seconds = Duration::from_secs;
        let stream_bytes = format!(
            "stream_bytes ({}) must be between 1 MiB and inflight_bytes ({})",
            self.stream_bytes, self.inflight_bytes
        );
        let inflight_bytes = format!(
            "inflight_bytes ({}) must be at least body_bytes ({}) and below 4 GiB",
            self.inflight_bytes, self.body_bytes
        );
        let rules = [
            (
                (seconds(10)..=seconds(15)).contains(&self.publish_deadline),
                "publish_deadline must be 10s to 15s: a change of the journal's leader takes up to 7s, and the \
                 journal gives up after 15s",
            ),
            (self.durable_deadline <= seconds(60), "durable_deadline can be at most 1m"),
            (
                (mebibyte..=64 * mebibyte).contains(&self.body_bytes),
                "body_bytes must be between 1 MiB and 64 MiB",
            ),
            ((1..=10_000).contains(&self.batch_events), "batch_events must be between 1 and 10000"),
            ((1..=10_000).contains(&self.parallel_appends), "parallel_appends must be between 1 and 10000"),
            ((1..=100_000).contains(&self.stream_events), "stream_events must be between 1 and 100000"),
            // Before what it is the bound of.
            ((self.body_bytes..=4096 * mebibyte - 1).contains(&self.inflight_bytes), &inflight_bytes),
            ((mebibyte..=self.inflight_bytes).contains(&self.stream_bytes), &stream_bytes),
            (
                (Duration::from_millis(10)..=Duration::from_millis(800)).contains(&self.beacon_interval),
                "beacon_interval must be 10ms to 800ms: gateways take a second of silence for a loss",
            ),
        ];
        rules.iter().find(|(holds, _)| !holds).map_or(Ok(()), |(_, what)| Err(format!("fanout.{what}")))?;
        self.address_rate().check("fanout.address_per_minute", "fanout.address_burst")?;
        self.subject_rate().check("fanout.subject_per_second", "fanout.subject_burst")?;
        let burst = usize::try_from(self.subject_burst).unwrap_or(usize::MAX);
        if self.subject_per_second > 0 && burst < self.batch_events {
            return Err(format!(
                "fanout.subject_burst ({burst}) must be at least fanout.batch_events ({}): a request is taken \
                 whole or not at all",
                self.batch_events
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_hold_and_absurd_values_are_named() {
        assert_eq!(Config::default().check(), Ok(()));
        for seconds in [1, 16] {
            let absurd = Config { publish_deadline: Duration::from_secs(seconds), ..Config::default() };
            assert!(absurd.check().unwrap_err().starts_with("fanout.publish_deadline"));
        }
        let small = Config { inflight_bytes: 1000, ..Config::default() };
        let error = small.check().unwrap_err();
        assert!(error.starts_with("fanout.inflight_bytes (1000)"), "{error}");
        let limited = Config { subject_per_second: 1, subject_burst: 999, ..Config::default() };
        let error = limited.check().unwrap_err();
        assert!(error.starts_with("fanout.subject_burst (999)"), "{error}");
        assert_eq!(Config { batch_events: 999, ..limited }.check(), Ok(()));
        let config: Config = serde_json::from_str(r#"{"durable_deadline": "2s"}"#).unwrap();
        assert_eq!(config.durable_deadline, Duration::from_secs(2));
        assert!(serde_json::from_str::<Config>(r#"{"durable_dealine": "2s"}"#).is_err());
    }
}
