//! What a process says of itself once a second, so that others can show the whole cluster: who it is, how it is, and
//! some of its metrics, read from the registry that it exports.

use prometheus_client::registry::Registry;
use serde::{Deserialize, Serialize};

/// Most bytes of a status, as it is sent.
pub const STATUS_BYTES_MAX: usize = 8 * 1024;
/// Most buckets of a histogram, and most parts that a process is said to wait for.
const LIST_MAX: usize = 32;
/// Most bytes of a text.
const TEXT_BYTES_MAX: usize = 120;

/// A kind of process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Service {
    /// All services in one process.
    Standalone,
    /// Serves streams.
    Gateway,
    /// Takes events in.
    Fanout,
    /// Keeps them.
    Eventlog,
    /// Takes them from an application's database.
    Outbox,
    /// Keeps what users are told.
    Notifications,
}

/// How a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It serves.
    Ready,
    /// It lacks something that it needs.
    Waiting,
    /// It is on its way to its end.
    Draining,
}

/// A process, once a second.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// What kind it is.
    pub service: Service,
    /// What it is called while it runs: 12 hexadecimal digits. A gateway's are the first of its streams' ids.
    pub instance: String,
    /// The machine's name, or the pod's.
    pub host: String,
    /// The version that runs.
    pub version: String,
    /// Milliseconds that it has run.
    pub uptime_ms: u64,
    /// How it is.
    pub state: State,
    /// What it waits for, unless it is ready.
    pub waiting_for: Vec<String>,
    /// What it counts.
    pub figures: Figures,
}

/// Some of a process's metrics. What a process of its kind doesn't have is 0.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Figures {
    /// Processor time taken, in seconds.
    pub cpu_seconds: f64,
    /// Memory occupied, in bytes.
    pub memory_bytes: f64,
    /// Open streams.
    pub connections: f64,
    /// The most that there may be.
    pub connections_max: f64,
    /// Streams whose socket has been full for over a second.
    pub slow_connections: f64,
    /// Events that were published: stored, or known already.
    pub published: f64,
    /// Events that were refused for reasons of our own.
    pub publish_failures: f64,
    /// Events written to streams.
    pub delivered: f64,
    /// Ranges found missing from the live feed.
    pub gaps: f64,
    /// Streams that were reset.
    pub resets: f64,
    /// Entries that the slowest shard's ring, relay or log writer is behind the journal.
    pub lag_entries: f64,
    /// For how long the slowest of relays and log writers has been behind, in seconds.
    pub lag_seconds: f64,
    /// Of the time from the journal to the last socket: upper bounds in seconds, and how many took no longer.
    pub latency: Vec<(f64, f64)>,
}

impl Status {
    /// Takes what another process sent. None when it is malformed, or has more than a status has.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.len() > STATUS_BYTES_MAX {
            return None;
        }
        let status: Status = serde_json::from_slice(bytes).ok()?;
        (status.is_named() && status.is_bounded()).then_some(status)
    }

    fn is_named(&self) -> bool {
        self.instance.len() == 12 && self.instance.bytes().all(|byte| byte.is_ascii_hexdigit())
    }

    fn is_bounded(&self) -> bool {
        let lists = [self.waiting_for.len(), self.figures.latency.len()];
        let mut texts = self.waiting_for.iter().chain([&self.host, &self.version]);
        lists.iter().all(|len| *len <= LIST_MAX) && texts.all(|text| text.len() <= TEXT_BYTES_MAX)
    }

    /// As it is sent.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// A text, cut to what a status may have.
pub fn bounded(text: &str) -> String {
    let end = (0..=TEXT_BYTES_MAX.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    text[..end.unwrap_or_default()].to_owned()
}

/// What a process waits for, as much of it as a status may have.
pub fn waiting_for(missing: Vec<(String, String)>) -> Vec<String> {
    missing.into_iter().take(LIST_MAX).map(|(part, what)| bounded(&format!("{part}: {what}"))).collect()
}

impl Figures {
    /// Those of a registry, as it exports them: nothing is counted twice.
    pub fn read(registry: &Registry) -> Self {
        let mut text = String::new();
        match prometheus_client::encoding::text::encode(&mut text, registry) {
            Ok(()) => Figures::of(&text),
            Err(_) => Figures::default(),
        }
    }

    fn of(text: &str) -> Self {
        let mut figures = Figures::default();
        for line in text.lines() {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            let Ok(value) = value.parse::<f64>() else { continue };
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            figures.take(name, labels, value);
        }
        figures
    }

    fn take(&mut self, name: &str, labels: &str, value: f64) {
        match name {
            "process_cpu_seconds_total" => self.cpu_seconds = value,
            "process_resident_memory_bytes" => self.memory_bytes = value,
            "foghorn_gateway_connections" => self.connections = value,
            "foghorn_gateway_connections_max" => self.connections_max = value,
            "foghorn_gateway_slow_connections" => self.slow_connections = value,
            "foghorn_gateway_events_delivered_total" => self.delivered += value,
            "foghorn_gateway_gaps_total" => self.gaps = value,
            "foghorn_gateway_resets_total" => self.resets += value,
            // What gateways have published to hear it themselves is nobody's event.
            "foghorn_fanout_publishes_total" if label(labels, "door") == Some("canary") => {}
            "foghorn_fanout_publishes_total" => match label(labels, "outcome") {
                Some("stored" | "duplicate" | "not-durable") => self.published += value,
                Some("full" | "unavailable" | "refused" | "overloaded" | "lost") => {
                    self.publish_failures += value;
                }
                _ => {}
            },
            "foghorn_gateway_behind" | "foghorn_fanout_relay_lag_entries" | "foghorn_log_lag_entries" => {
                self.lag_entries = self.lag_entries.max(value);
            }
            "foghorn_fanout_relay_lag_seconds" | "foghorn_log_lag_seconds" => {
                self.lag_seconds = self.lag_seconds.max(value);
            }
            "foghorn_gateway_delivery_latency_seconds_bucket" if self.latency.len() < LIST_MAX => {
                let bound = label(labels, "le").and_then(|bound| bound.parse().ok());
                // The last one is of no bound, which JSON has no number for.
                self.latency.extend(bound.map(|bound: f64| (bound.min(f64::MAX), value)));
            }
            _ => {}
        }
    }
}

/// A label's value. Ours have no quotes in them.
fn label<'a>(labels: &'a str, name: &str) -> Option<&'a str> {
    let labels = labels.strip_suffix('}')?.split(',');
    let value = labels.filter_map(|label| label.split_once('=')).find(|(key, _)| *key == name)?.1;
    value.strip_prefix('"')?.strip_suffix('"')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> Status {
        Status {
            service: Service::Gateway,
            instance: "0123456789ab".to_owned(),
            host: "a".to_owned(),
            version: "1.2.3".to_owned(),
            uptime_ms: 7,
            state: State::Ready,
            waiting_for: vec!["ring.0: the event log".to_owned()],
            figures: Figures { latency: vec![(0.5, 1.0), (f64::MAX, 2.0)], ..Figures::default() },
        }
    }

    #[test]
    fn figures_are_what_the_registry_exports() {
        let figures = Figures::of(
            "# HELP x y\nprocess_cpu_seconds_total 1.5\n\
             foghorn_gateway_events_delivered_total{type=\"other\"} 3\n\
             foghorn_gateway_events_delivered_total{type=\"a\"} 4\n\
             foghorn_fanout_publishes_total{door=\"http\",ack=\"accepted\",outcome=\"stored\"} 5\n\
             foghorn_fanout_publishes_total{door=\"http\",ack=\"accepted\",outcome=\"full\"} 2\n\
             foghorn_fanout_publishes_total{door=\"http\",ack=\"accepted\",outcome=\"denied\"} 9\n\
             foghorn_fanout_publishes_total{door=\"canary\",ack=\"accepted\",outcome=\"stored\"} 8\n\
             foghorn_gateway_behind{shard=\"0\"} 1\nforghorn_gateway_behind 9\nfoghorn_log_lag_entries{shard=\"1\"} 6\n\
             foghorn_gateway_delivery_latency_seconds_bucket{le=\"0.001\"} 1\n\
             foghorn_gateway_delivery_latency_seconds_bucket{le=\"+Inf\"} 2\n# EOF\n",
        );
        let latency = vec![(0.001, 1.0), (f64::MAX, 2.0)];
        let expected = Figures {
            cpu_seconds: 1.5,
            delivered: 7.0,
            published: 5.0,
            publish_failures: 2.0,
            lag_entries: 6.0,
            latency,
            ..Figures::default()
        };
        assert_eq!(figures, expected);
    }

    #[test]
    fn what_is_no_status_or_too_much_is_not_taken() {
        let status = status();
        assert_eq!(Status::parse(&status.to_json()), Some(status.clone()));
        let with = |change: fn(&mut Status)| {
            let mut other = status.clone();
            change(&mut other);
            Status::parse(&other.to_json())
        };
        assert_eq!(with(|status| status.instance = "0123456789aX".to_owned()), None);
        assert_eq!(with(|status| status.host = "a".repeat(TEXT_BYTES_MAX + 1)), None);
        assert_eq!(with(|status| status.waiting_for = vec![String::new(); LIST_MAX + 1]), None);
        assert_eq!(with(|status| status.figures.latency = vec![(1.0, 1.0); LIST_MAX + 1]), None);
        assert_eq!(Status::parse(b"{}"), None);
        let mut long = status.to_json();
        long.resize(STATUS_BYTES_MAX + 1, b' ');
        assert_eq!(Status::parse(&long), None);
    }

    #[test]
    fn texts_are_cut_between_characters() {
        assert_eq!(bounded("short"), "short");
        let long = format!("a{}", "ä".repeat(TEXT_BYTES_MAX));
        assert_eq!(bounded(&long).len(), TEXT_BYTES_MAX - 1);
    }
}
