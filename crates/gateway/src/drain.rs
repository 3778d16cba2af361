//! Letting streams go at a set pace, so that their reconnects arrive as a trickle elsewhere.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::config::Config;
use crate::hub::Hub;

/// How often some are let go.
const STEP: Duration = Duration::from_millis(50);
/// After everyone was told, how long sockets may take to accept it.
const LAST_WRITES: Duration = Duration::from_secs(2);

/// Lets every stream go, evenly over the window, and returns when they are gone (or can't be told).
pub(crate) async fn drain(hub: &Hub, config: &Config) {
    hub.begin_drain();
    let total = hub.connections();
    tracing::info!(connections = total, window = ?config.drain_window, "draining");
    let began = Instant::now();
    let mut left = total;
    while left > 0 {
        let elapsed = began.elapsed().as_secs_f64() / config.drain_window.as_secs_f64().max(0.001);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share of a count, 0 to total"
        )]
        let due = (total as f64 * elapsed.min(1.0)).ceil() as usize;
        left = hub.let_go(due.saturating_sub(total - left.min(total)));
        sleep(STEP).await;
    }
    let told = Instant::now();
    while hub.connections() > 0 && told.elapsed() < LAST_WRITES {
        sleep(STEP).await;
    }
    tracing::info!(left = hub.connections(), took = ?began.elapsed(), "drained");
}
