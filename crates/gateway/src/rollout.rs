//! What a gateway tells whoever paces the cluster's gateways, and how it does as it is told: it sheds streams that others
//! have more room for, and when it is told to stop it lets none go before it is its turn.
//!
//! Whoever paces may be gone. Then the gateway drains by itself, as one that nobody paces.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use foghorn_bus::gateways::AskError;
use foghorn_bus::rollout::{Order, Pacer, Phase, Report};
use tokio::time::{Instant, sleep};

use crate::connection::Shared;
use crate::drain::shed;

/// How often a gateway that serves says how it is.
const SERVING_EVERY: Duration = Duration::from_secs(5);
/// How often one does that waits for its turn, or drains.
const LEAVING_EVERY: Duration = Duration::from_secs(1);
/// After how long without an answer one that waits goes by itself, within another `gateway.drain_window`, as the others
/// hear nothing either: another operator may have to find out that the one before it is gone (`operator.lease_duration`).
const ALONE_AFTER: Duration = Duration::from_secs(30);
/// The part of the longest wait after which some go by themselves, and at its end all: those that were told to stop
/// together don't all go together.
const LATE_FROM: f64 = 0.75;
/// The least and most time that streams are shed over: an order says how long.
const SHED_OVER: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);

/// A gateway that is paced.
pub(crate) struct Rollout {
    shared: Arc<Shared>,
    pacer: Arc<dyn Pacer>,
    /// What it is called where it is deployed.
    pod: String,
    /// Streams that it was told to shed and hasn't told yet.
    shedding: AtomicUsize,
}

impl Rollout {
    pub(crate) fn new(shared: Arc<Shared>, pacer: Arc<dyn Pacer>, pod: String) -> Self {
        Rollout { shared, pacer, pod, shedding: AtomicUsize::new(0) }
    }

    /// Streams that it lets go in a second when it drains.
    pub(crate) fn pace(&self) -> f64 {
        self.shared.hub.clients() as f64 / self.shared.config.drain_window.as_secs_f64().max(0.001)
    }

    /// Says how it is, and sheds what it is told to, for ever.
    pub(crate) async fn serve(self: Arc<Self>) {
        let mut answered = true;
        loop {
            let order = self.report(Phase::Serving, self.pace()).await;
            let answers = order.is_ok();
            if std::mem::replace(&mut answered, answers) != answers {
                match &order {
                    Ok(_) => tracing::info!("an operator paces this gateway"),
                    Err(error) => {
                        tracing::warn!(%error, "no operator paces this gateway (gateway.drain_wait)");
                    }
                }
            }
            if let Ok(Order::Shed { streams, seconds }) = order {
                let streams = usize::try_from(streams).unwrap_or(usize::MAX).min(self.shared.hub.clients());
                let over = Duration::from_secs(seconds).clamp(*SHED_OVER.start(), *SHED_OVER.end());
                tracing::info!(streams, ?over, "sheds streams that others have more room for");
                self.shedding.store(streams, Ordering::SeqCst);
                let told = async {
                    loop {
                        sleep(jittered(SERVING_EVERY)).await;
                        // What else it is told is not looked at until this is done.
                        self.say(Phase::Serving, self.pace()).await;
                    }
                };
                tokio::select! {
                    () = shed(&self.shared.hub, streams, over, &self.shedding) => {}
                    () = told => {}
                }
            }
            sleep(jittered(SERVING_EVERY)).await;
        }
    }

    /// Returns when it may let its streams go: when it is told so, nobody answers, or it has waited for as long as it may.
    pub(crate) async fn wait_for_turn(&self) {
        let waiting = &self.shared.hub.metrics.drain_waiting;
        waiting.set(1);
        let why = self.turn().await;
        waiting.set(0);
        tracing::info!(why, "may let its streams go");
    }

    async fn turn(&self) -> &'static str {
        let (began, config) = (Instant::now(), &self.shared.config);
        let (mut answered, mut told) = (began, String::new());
        let most = config.drain_wait.mul_f64(LATE_FROM + (1.0 - LATE_FROM) * fastrand::f64());
        let alone_after = ALONE_AFTER + config.drain_window.mul_f64(fastrand::f64());
        while began.elapsed() < most {
            match self.report(Phase::Waiting, self.pace()).await {
                Ok(Order::Drain) => return "it is its turn",
                Ok(Order::Wait { why }) => {
                    answered = Instant::now();
                    if told != why {
                        tracing::info!(why, "waits before it lets its streams go");
                        told = why;
                    }
                }
                // Of somebody who hasn't taken it in yet.
                Ok(Order::Continue | Order::Shed { .. }) => answered = Instant::now(),
                Err(error) if answered.elapsed() >= alone_after => {
                    tracing::warn!(%error, "no operator answers");
                    return "nobody paces it";
                }
                Err(_) => {}
            }
            sleep(jittered(LEAVING_EVERY)).await;
        }
        "it has waited for as long as it may (gateway.drain_wait)"
    }

    /// Says that it has let its streams go.
    pub(crate) async fn say_gone(&self) {
        self.say(Phase::Gone, 0.0).await;
    }

    /// Says that it drains, at that pace, for ever.
    pub(crate) async fn say_draining(&self, pace: f64) {
        loop {
            self.say(Phase::Draining, pace).await;
            sleep(jittered(LEAVING_EVERY)).await;
        }
    }

    /// Says how it is, whatever the answer.
    async fn say(&self, phase: Phase, pace: f64) {
        if let Err(error) = self.report(phase, pace).await {
            tracing::debug!(%error, "the operator can't be told how this gateway is");
        }
    }

    async fn report(&self, phase: Phase, pace: f64) -> Result<Order, AskError> {
        let report = Report {
            gateway: self.shared.name,
            pod: self.pod.clone(),
            phase,
            streams: self.shared.hub.clients() as u64,
            streams_max: self.shared.config.connections as u64,
            pace,
            streams_per_second: self.shared.config.streams_per_second,
            // What it was about to shed it keeps until it drains.
            shedding: if phase == Phase::Serving { self.shedding.load(Ordering::SeqCst) as u64 } else { 0 },
        };
        self.pacer.report(&report).await
    }
}

/// By chance up to a quarter less.
fn jittered(every: Duration) -> Duration {
    every.mul_f64(0.75 + 0.25 * fastrand::f64())
}
