//! `[operator]` of the configuration.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The bounds of how long a leader may be silent.
const LEASE_DURATION: std::ops::RangeInclusive<Duration> = Duration::from_secs(2)..=Duration::from_secs(120);

/// Which objects an operator looks after, and with whom it takes turns.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The namespace of the objects; empty for the one that it runs in.
    pub namespace: String,
    /// The name of the GatewayFleet by which gateways are paced; without that object they aren't.
    pub fleet: String,
    /// The name of the Lease by which replicas agree on who leads.
    pub lease: String,
    /// How long a leader may be silent before another one takes over; whole seconds, 2 s to 2 min.
    #[serde(with = "humantime_serde")]
    pub lease_duration: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            namespace: String::new(),
            fleet: "foghorn-gateway".to_owned(),
            lease: "foghorn-operator".to_owned(),
            lease_duration: Duration::from_secs(15),
        }
    }
}

impl Config {
    /// The first thing that is wrong, if anything is. Begins with the key.
    pub fn check(&self) -> Result<(), String> {
        if self.fleet.is_empty() {
            return Err(
                "operator.fleet is empty: name a GatewayFleet, such as \"foghorn-gateway\"".to_owned()
            );
        }
        if self.lease.is_empty() {
            return Err("operator.lease is empty: name a Lease, such as \"foghorn-operator\"".to_owned());
        }
        if !LEASE_DURATION.contains(&self.lease_duration) || self.lease_duration.subsec_nanos() > 0 {
            return Err(format!(
                "operator.lease_duration must be whole seconds between 2s and 2m, not {:?}",
                self.lease_duration
            ));
        }
        Ok(())
    }
}
