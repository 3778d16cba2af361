//! How gateways are taken through a rollout: each says every few seconds how it is to whoever paces them, and is told what
//! to do. One who paces looks at all of them at once, which no gateway can.
//!
//! A report is sent once, and its answer waited for within a bound. Whoever hears none goes by its own configuration.

use serde::{Deserialize, Serialize};

use crate::Future;
use crate::gateways::{AskError, GatewayName};

/// Most bytes of a report, and of an order.
pub const ROLLOUT_BYTES_MAX: usize = 4096;
/// Most bytes of a pod's name, which is a DNS name.
const POD_BYTES_MAX: usize = 253;

/// How far a gateway is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// It takes streams on.
    Serving,
    /// It was told to stop and takes none on, but has let none go yet.
    Waiting,
    /// It lets them go.
    Draining,
    /// It has let them go, and ends.
    Gone,
}

/// What a gateway says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Its name.
    pub gateway: GatewayName,
    /// The name of its pod, or of its machine.
    pub pod: String,
    /// How far it is.
    pub phase: Phase,
    /// Open streams of clients.
    pub streams: u64,
    /// How many it may have.
    pub streams_max: u64,
    /// How many of them it lets go in a second when it drains, or would.
    pub pace: f64,
    /// How many may begin there in a second; 0 for no limit.
    pub streams_per_second: u32,
    /// How many it still has to shed, as it was ordered to.
    pub shedding: u64,
}

/// What a gateway is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "lowercase")]
pub enum Order {
    /// Nothing.
    Continue,
    /// To let some streams go, which are to begin again wherever there is more room.
    Shed {
        /// How many.
        streams: u64,
        /// Evenly over so long, in seconds.
        seconds: u64,
    },
    /// To let no stream go yet.
    Wait {
        /// What it waits for, to be shown to people.
        why: String,
    },
    /// To drain now.
    Drain,
}

impl Report {
    /// Takes what a gateway sent. None when it is malformed, or longer than one is.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let bounded = (bytes.len() <= ROLLOUT_BYTES_MAX).then_some(bytes)?;
        let report: Report = serde_json::from_slice(bounded).ok()?;
        let is_sound = report.pace.is_finite() && report.pace >= 0.0;
        (is_sound && report.pod.len() <= POD_BYTES_MAX).then_some(report)
    }
}

impl Order {
    /// Takes what a gateway was told. None when it is malformed, or of another version.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        (bytes.len() <= ROLLOUT_BYTES_MAX).then(|| serde_json::from_slice(bytes).ok()).flatten()
    }
}

/// Whoever paces the gateways of a cluster.
pub trait Pacer: Send + Sync + 'static {
    /// Tells them how a gateway is; the answer is what it is to do.
    fn report<'a>(&'a self, report: &'a Report) -> Future<'a, Result<Order, AskError>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_and_orders_are_read_as_they_were_written_and_nothing_else_is() {
        let report = Report {
            gateway: GatewayName::new(0xabc),
            pod: "foghorn-gateway-1".to_owned(),
            phase: Phase::Waiting,
            streams: 7,
            streams_max: 100,
            pace: 0.5,
            streams_per_second: 10_000,
            shedding: 0,
        };
        let json = serde_json::to_string(&report).unwrap();
        assert!(json.contains(r#""gateway":"000000000abc""#), "{json}");
        assert_eq!(Report::parse(json.as_bytes()), Some(report));
        for wrong in [
            json.replace("000000000abc", "abc"),
            json.replace("0.5", "-1"),
            json.replace("waiting", "resting"),
            json.replace("foghorn-gateway-1", &"x".repeat(254)),
            format!("{json}{}", " ".repeat(ROLLOUT_BYTES_MAX)),
            "7".to_owned(),
        ] {
            assert_eq!(Report::parse(wrong.as_bytes()), None, "{wrong}");
        }
        let orders = [
            (Order::Continue, r#"{"order":"continue"}"#),
            (Order::Shed { streams: 5, seconds: 6 }, r#"{"order":"shed","streams":5,"seconds":6}"#),
            (Order::Wait { why: "x".to_owned() }, r#"{"order":"wait","why":"x"}"#),
            (Order::Drain, r#"{"order":"drain"}"#),
        ];
        for (order, json) in orders {
            assert_eq!(serde_json::to_string(&order).unwrap(), json);
            assert_eq!(Order::parse(json.as_bytes()), Some(order));
        }
        assert_eq!(Order::parse(br#"{"order":"dance"}"#), None);
    }
}
