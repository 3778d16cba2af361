//! Says once a second how this process is, to whoever shows the cluster.

use std::sync::Arc;
use std::time::{Duration, Instant};

use foghorn_bus::gateways::GatewayName;
use foghorn_bus::statuses::Statuses;
use foghorn_telemetry::status::{Figures, Service, State, Status, bounded, waiting_for};
use tokio::time::MissedTickBehavior;

use crate::process::Process;

const EVERY: Duration = Duration::from_secs(1);

/// Says it until the process ends: also while it drains.
pub(crate) fn tell(process: &Process, service: Service, name: GatewayName, statuses: Arc<dyn Statuses>) {
    let (health, registry, shutdown) =
        (process.health.clone(), process.registry.clone(), process.shutdown.clone());
    let (instance, host, began) = (name.to_string(), host(), Instant::now());
    tokio::spawn(async move {
        let mut tick = tokio::time::interval(EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut left = false;
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                // At once: it may be over before the second is.
                () = shutdown.wait(), if !left => left = true,
            }
            let missing = health.missing();
            let state = match (shutdown.is_set(), missing.is_empty()) {
                (true, _) => State::Draining,
                (false, true) => State::Ready,
                (false, false) => State::Waiting,
            };
            let status = Status {
                service,
                instance: instance.clone(),
                host: host.clone(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                uptime_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
                state,
                waiting_for: waiting_for(missing),
                figures: Figures::read(&registry.read()),
            };
            if let Err(error) = statuses.tell(status.to_json().into()).await {
                // Whoever shows it sees that it is missing.
                tracing::debug!(%error, "this process can't say how it is");
            }
        }
    });
}

/// What the pod is called, as Kubernetes says in `HOSTNAME`, or else the machine.
pub(crate) fn host() -> String {
    let machine = || std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    bounded(std::env::var("HOSTNAME").ok().filter(|name| !name.is_empty()).unwrap_or_else(machine).trim())
}
