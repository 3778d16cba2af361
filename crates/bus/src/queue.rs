//! A queue bounded in bytes, for what may be dropped when it is full.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc;

/// What one item takes beside its own bytes: the slot, the reference, the allocator's share.
const ITEM_BYTES: usize = 128;

/// The writing end.
#[derive(Debug)]
pub(crate) struct Sender<T> {
    items: mpsc::UnboundedSender<(T, usize)>,
    held: Arc<AtomicUsize>,
    bound: usize,
}

/// The reading end. Dropping it closes the queue.
#[derive(Debug)]
pub(crate) struct Receiver<T> {
    items: mpsc::UnboundedReceiver<(T, usize)>,
    held: Arc<AtomicUsize>,
}

/// Why an item was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotTaken {
    /// The queue is full: the item is dropped.
    Full,
    /// Nobody reads any more.
    Closed,
}

/// A queue of at most `bound` bytes; one item always fits an empty queue.
pub(crate) fn bounded<T>(bound: usize) -> (Sender<T>, Receiver<T>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let held = Arc::new(AtomicUsize::new(0));
    (Sender { items: sender, held: held.clone(), bound }, Receiver { items: receiver, held })
}

impl<T> Sender<T> {
    /// Puts an item of `bytes` at the end, or drops it. Never waits.
    pub(crate) fn offer(&self, item: T, bytes: usize) -> Result<(), NotTaken> {
        let bytes = bytes + ITEM_BYTES;
        // Only this end adds, and it is not shared, so nobody adds in between.
        let held = self.held.load(Ordering::Relaxed);
        if held > 0 && held + bytes > self.bound {
            return Err(if self.items.is_closed() { NotTaken::Closed } else { NotTaken::Full });
        }
        self.held.fetch_add(bytes, Ordering::Relaxed);
        self.items.send((item, bytes)).map_err(|_| NotTaken::Closed)
    }

    /// Waits until nobody reads any more.
    pub(crate) async fn closed(&self) {
        self.items.closed().await;
    }
}

impl<T> Receiver<T> {
    /// The next item; `None` when the writing end is gone and everything is read. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Option<T> {
        let (item, bytes) = self.items.recv().await?;
        self.held.fetch_sub(bytes, Ordering::Relaxed);
        Some(item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_full_queue_drops_the_new_item_and_recovers() {
        let (sender, mut receiver) = bounded(2 * (ITEM_BYTES + 100));
        assert_eq!(sender.offer(1, 100), Ok(()));
        assert_eq!(sender.offer(2, 100), Ok(()));
        assert_eq!(sender.offer(3, 0), Err(NotTaken::Full));
        assert_eq!(receiver.next().await, Some(1));
        assert_eq!(sender.offer(4, 100), Ok(()));
        assert_eq!(receiver.next().await, Some(2));
        assert_eq!(receiver.next().await, Some(4));
        // Larger than the whole queue: taken when it is alone, or it could never pass.
        assert_eq!(sender.offer(5, 10_000), Ok(()));
        drop(receiver);
        assert_eq!(sender.offer(6, 1), Err(NotTaken::Closed));
    }
}
