//! Letting streams go at a set pace, so that their reconnects arrive as a trickle elsewhere.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::config::Config;
use crate::hub::Hub;

/// How often some are let go.
const STEP: Duration = Duration::from_millis(50);
/// After everyone was told, how long sockets may take to accept it.
const LAST_WRITES: Duration = Duration::from_secs(2);

/// Lets every stream go of a hub that takes none on any more, evenly over the window, and returns when they are gone (or
/// can't be told).
pub(crate) async fn drain(hub: &Hub, config: &Config) {
    let total = hub.connections();
    tracing::info!(connections = total, window = ?config.drain_window, "draining");
    let began = Instant::now();
    let mut left = total;
    while left > 0 {
        let due = due(total, began, config.drain_window);
        left = hub.let_go(due.saturating_sub(total - left.min(total)));
        sleep(STEP).await;
    }
    let told = Instant::now();
    while hub.connections() > 0 && told.elapsed() < LAST_WRITES {
        // Whoever was on its way between a task and a reactor was with neither.
        hub.let_go(usize::MAX);
        sleep(STEP).await;
    }
    tracing::info!(left = hub.connections(), took = ?began.elapsed(), "drained");
}

/// Has some streams begin again elsewhere, evenly over so long. `left` is how many haven't been told yet.
pub(crate) async fn shed(hub: &Hub, streams: usize, over: Duration, left: &AtomicUsize) {
    let began = Instant::now();
    let mut told = 0;
    while told < streams {
        let due = due(streams, began, over);
        hub.shed(due - told);
        told = due;
        left.store(streams - told, Ordering::SeqCst);
        sleep(STEP).await;
    }
}

/// How many of these are to be told by now, evenly over so long.
fn due(streams: usize, began: Instant, over: Duration) -> usize {
    let share = (began.elapsed().as_secs_f64() / over.as_secs_f64().max(0.001)).min(1.0);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of a count, 0 to all of it"
    )]
    let due = (streams as f64 * share).ceil() as usize;
    due.min(streams)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use foghorn_bus::gateways::GatewayName;
    use foghorn_core::pattern::Pattern;
    use foghorn_core::reason::StreamEnd;
    use foghorn_core::shard::ShardCount;

    use super::*;
    use crate::client_id::ClientId;
    use crate::seat::Seat;
    use crate::subscription::Subscription;
    use crate::testing::hub;

    /// A hub with 100 streams, each of which ends when it is told to, and for this reason.
    fn hub_of_100(end: StreamEnd) -> Arc<Hub> {
        let hub = hub(1 << 20);
        let subscription = Subscription::new(&[Pattern::everything()], ShardCount::ONE);
        for _ in 0..100 {
            let id = ClientId::random(GatewayName::new(0));
            let (membership, seat) = (hub.join(&subscription, id), Seat::take(&hub, id));
            tokio::spawn(async move {
                membership.waiter.marked().await;
                assert_eq!(membership.waiter.leaves(), Some(end));
                seat.end(end);
            });
        }
        hub
    }

    #[tokio::test(start_paused = true)]
    async fn streams_go_evenly_over_the_window() {
        let hub = hub_of_100(StreamEnd::Drain);
        let config = Config { drain_window: Duration::from_secs(60), ..Config::default() };
        let began = Instant::now();
        let watch = async {
            for left in [75, 50, 25] {
                sleep(Duration::from_secs(15)).await;
                let now = hub.connections();
                assert!(now.abs_diff(left) <= 2, "{now} left after {:?}", began.elapsed());
            }
        };
        tokio::join!(drain(&hub, &config), watch);
        assert_eq!(hub.connections(), 0);
        assert!(began.elapsed().abs_diff(config.drain_window) < Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn as_many_streams_as_it_is_told_begin_again_elsewhere_evenly() {
        let hub = hub_of_100(StreamEnd::Rebalance);
        let left = AtomicUsize::new(40);
        let watch = async {
            for shed in [10, 20, 30] {
                sleep(Duration::from_secs(5)).await;
                let (open, left) = (hub.connections(), left.load(Ordering::SeqCst));
                assert!(open.abs_diff(100 - shed) <= 1 && left.abs_diff(40 - shed) <= 1, "{open}, {left}");
            }
        };
        tokio::join!(shed(&hub, 40, Duration::from_secs(20), &left), watch);
        assert_eq!((hub.connections(), left.into_inner()), (60, 0));
    }
}
