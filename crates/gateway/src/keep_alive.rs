//! When a quiet stream is sent its cursor.

use std::time::Duration;

use crate::config::Config;

/// How long a stream may be quiet until it is kept alive: short after something was sent, then longer with
/// each keep-alive, up to a bound. Who hears nothing for long needs no fresh cursor every few seconds; and
/// a stream whose peer has silently gone is found out soon after the last event was sent to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KeepAlive {
    active_ms: u32,
    idle_ms: u32,
    /// Between the two.
    now_ms: u32,
}

impl KeepAlive {
    /// A stream's share of what is configured, between two thirds and all of it: streams that were sent
    /// the same event are not all kept alive in the same moment.
    pub(crate) fn new(config: &Config) -> Self {
        let share = 2.0 / 3.0 + fastrand::f64() / 3.0;
        let active_ms = millis(config.keep_alive.mul_f64(share));
        let idle_ms = millis(config.keep_alive_idle.mul_f64(share)).max(active_ms);
        KeepAlive { active_ms, idle_ms, now_ms: active_ms }
    }

    /// How long after the last write the next keep-alive is due.
    pub(crate) fn after(self) -> Duration {
        Duration::from_millis(self.now_ms.into())
    }

    /// The shortest that [`after`](KeepAlive::after) can become meanwhile.
    pub(crate) fn least(self) -> Duration {
        Duration::from_millis(self.active_ms.into())
    }

    /// Something else than a keep-alive was sent.
    pub(crate) fn active(&mut self) {
        self.now_ms = self.active_ms;
    }

    /// A keep-alive was sent: the next one comes later by a quarter.
    pub(crate) fn sent(&mut self) {
        self.now_ms = self.now_ms.saturating_add(self.now_ms / 4).min(self.idle_ms);
    }
}

/// Whole milliseconds, in what listeners have room for; saturates.
pub(crate) fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_drifts_from_active_to_idle_and_back_with_the_next_event() {
        let config = Config::default();
        for _ in 0..100 {
            let mut keep_alive = KeepAlive::new(&config);
            let share = keep_alive.after().as_secs_f64() / 15.0;
            assert!((0.66..=1.0).contains(&share), "{keep_alive:?}");
            let mut last = Duration::ZERO;
            for _ in 0..5 {
                assert!(keep_alive.after() > last, "{keep_alive:?}");
                last = keep_alive.after();
                keep_alive.sent();
            }
            assert!((keep_alive.after().as_secs_f64() - 45.0 * share).abs() < 0.01, "{keep_alive:?}");
            keep_alive.active();
            assert_eq!(keep_alive.after(), keep_alive.least());
        }
        let long = Config { keep_alive: Duration::from_secs(60), ..config };
        assert!(KeepAlive::new(&long).after() >= Duration::from_secs(40), "idle is never sooner than active");
    }
}
