//! The `[notifications]` table of the configuration.

use std::time::Duration;

use foghorn_http::limit::Rate;

/// How many notifications are kept for how long, and how often they may be asked for. Every key has a default.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How long a notification is kept, read or not; 1 h to 10 years. Default 90 days.
    #[serde(with = "humantime_serde")]
    pub age: Duration,
    /// Most notifications of a user; the oldest go, read or not. 1 to 10,000. Default 1,000.
    pub per_user: u32,
    /// Most connections to PostgreSQL for requests. Draining the outbox takes up to 4 more. Default 8.
    pub connections: u32,
    /// Requests of each client address to one process, over time; 0 for no limit. Default 6,000.
    pub address_per_minute: u32,
    /// How many at once. Default 2,000.
    pub address_burst: u32,
    /// Requests of each subject to list, mark and erase, over time; 0 for no limit. Default 600.
    pub subject_per_minute: u32,
    /// How many at once. Default 200.
    pub subject_burst: u32,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            age: Duration::from_secs(90 * 86_400),
            per_user: 1000,
            connections: 8,
            address_per_minute: 6000,
            address_burst: 2000,
            subject_per_minute: 600,
            subject_burst: 200,
        }
    }
}

impl Config {
    /// How often each client address may ask.
    pub(crate) fn address_rate(&self) -> Rate {
        Rate::per_minute(self.address_per_minute, self.address_burst)
    }

    /// How often each subject may ask.
    pub(crate) fn subject_rate(&self) -> Rate {
        Rate::per_minute(self.subject_per_minute, self.subject_burst)
    }

    /// What is wrong, by key, if anything.
    pub fn check(&self) -> Result<(), String> {
        let hours = |hours: u64| Duration::from_secs(hours * 3600);
        let rules = [
            (
                (hours(1)..=hours(24 * 3660)).contains(&self.age),
                "age must be between 1h and 10 years (3660days)",
            ),
            ((1..=10_000).contains(&self.per_user), "per_user must be between 1 and 10000"),
            ((1..=1000).contains(&self.connections), "connections must be between 1 and 1000"),
        ];
        let wrong = rules.iter().find(|(holds, _)| !holds);
        wrong.map_or(Ok(()), |(_, what)| Err(format!("notifications.{what}")))?;
        self.address_rate().check("notifications.address_per_minute", "notifications.address_burst")?;
        self.subject_rate().check("notifications.subject_per_minute", "notifications.subject_burst")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_hold_and_absurd_values_are_named() {
        assert_eq!(Config::default().check(), Ok(()));
        let absurd = [
            (Config { age: Duration::from_secs(59), ..Config::default() }, "notifications.age"),
            (Config { per_user: 0, ..Config::default() }, "notifications.per_user"),
            (Config { connections: 0, ..Config::default() }, "notifications.connections"),
            (Config { subject_burst: 0, ..Config::default() }, "notifications.subject_burst"),
        ];
        for (config, key) in absurd {
            let error = config.check().unwrap_err();
            assert!(error.starts_with(key), "{error}");
        }
    }
}
