//! The live feed, with a count of what went into it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use foghorn_bus::Future;
use foghorn_bus::live::{LiveError, LiveFeed, LiveSubscription};
use foghorn_core::batch::Batch;
use foghorn_core::shard::Shard;
use futures::FutureExt as _;
use tokio::sync::watch;
use tokio::time::timeout;

/// Counts what another feed has sent.
pub(super) struct Counted<F> {
    feed: F,
    events: AtomicU64,
    /// The last seq that was sent.
    to: watch::Sender<u64>,
}

impl<F: LiveFeed> Counted<F> {
    pub(super) fn new(feed: F) -> Self {
        Counted { feed, events: AtomicU64::new(0), to: watch::Sender::new(0) }
    }

    /// How many events were sent.
    pub(super) fn events(&self) -> u64 {
        self.events.load(Ordering::Relaxed)
    }

    /// Waits until `last` was sent; an error when nothing is for as long as `patience`.
    pub(super) async fn until(&self, last: u64, patience: Duration) -> anyhow::Result<()> {
        let mut to = self.to.subscribe();
        loop {
            let reached = *to.borrow_and_update();
            if reached >= last {
                return Ok(());
            }
            let more = timeout(patience, to.changed()).await;
            more.with_context(|| {
                format!("the relay sent {reached} of {last} entries, and then nothing for {patience:?}")
            })??;
        }
    }
}

impl<F: LiveFeed> LiveFeed for Counted<F> {
    fn send(&self, batch: Arc<Batch>) -> Future<'_, Result<(), LiveError>> {
        async move {
            let (events, last) = (batch.events.len() as u64, batch.to);
            self.feed.send(batch).await?;
            self.events.fetch_add(events, Ordering::Relaxed);
            self.to.send_if_modified(|to| {
                let newer = last > *to;
                *to = last.max(*to);
                newer
            });
            Ok(())
        }
        .boxed()
    }

    fn batch_bytes(&self) -> usize {
        self.feed.batch_bytes()
    }

    fn subscribe(&self, shard: Shard) -> Future<'_, Result<Box<dyn LiveSubscription>, LiveError>> {
        self.feed.subscribe(shard)
    }
}

#[cfg(test)]
mod tests {
    use foghorn_bus::memory::MemoryLive;
    use foghorn_bus::metrics::Metrics;
    use foghorn_core::position::Epoch;
    use foghorn_core::shard::ShardCount;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_sent_is_counted_and_silence_is_an_error() {
        let feed = Counted::new(MemoryLive::new(ShardCount::ONE, 1 << 20, Metrics::default()));
        let batch = |from, to| Arc::new(Batch::empty(Shard::ZERO, Epoch::new(1), from, to));
        feed.send(batch(0, 3)).await.unwrap();
        feed.send(batch(3, 5)).await.unwrap();
        // What is sent again is no step back.
        feed.send(batch(2, 4)).await.unwrap();
        feed.until(5, Duration::from_secs(1)).await.unwrap();
        let error = feed.until(6, Duration::from_secs(1)).await.unwrap_err().to_string();
        assert!(error.contains("sent 5 of 6"), "{error}");
        assert_eq!(feed.events(), 0, "empty batches hold none");
    }
}
