//! Where appends wait for the writer.

use std::sync::Arc;
use std::time::Duration;

use foghorn_bus::journal::{AppendError, Appended};
use foghorn_core::entry::NewEntry;
use foghorn_core::shard::Shard;
use futures::future::BoxFuture;
use sqlx::SqliteConnection;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::metrics::Metrics;
use crate::record::event_bytes;

/// Most bytes of events that wait for the writer; beyond, appends wait for room.
const QUEUE_BYTES: usize = 32 * 1024 * 1024;
/// What a transaction of others' takes of that, whatever it does.
const WORK_BYTES: u32 = 64 * 1024;
/// Longest wait for room.
const QUEUE_WAIT: Duration = Duration::from_secs(10);

/// Where appends wait. Bounded in bytes.
pub(super) struct Queue {
    sender: mpsc::UnboundedSender<Message>,
    room: Arc<Semaphore>,
    metrics: Metrics,
}

/// What the writer gets. Unbounded in number because every append holds its bytes of the room.
pub(super) enum Message {
    Append(Run),
    Work(Work),
    /// Answered when everything before it has been.
    Flush(oneshot::Sender<()>),
}

/// Entries that are stored in one transaction, in their order, or not at all.
pub(super) struct Run {
    pub(super) entries: Vec<(Shard, NewEntry)>,
    pub(super) ack: oneshot::Sender<Result<Vec<Appended>, AppendError>>,
    _room: OwnedSemaphorePermit,
}

/// A transaction of others': the entries to store with what it has changed; none for it to be rolled back.
pub(super) type Change =
    Box<dyn for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Option<Vec<NewEntry>>> + Send>;

pub(super) struct Work {
    pub(super) change: Change,
    pub(super) ack: oneshot::Sender<Result<(), AppendError>>,
    _room: OwnedSemaphorePermit,
}

impl Run {
    pub(super) fn bytes(&self) -> usize {
        self.entries.iter().map(|(_, entry)| event_bytes(&entry.event)).sum()
    }
}

impl Queue {
    pub(super) fn new(metrics: Metrics) -> (Self, mpsc::UnboundedReceiver<Message>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Queue { sender, room: Arc::new(Semaphore::new(QUEUE_BYTES)), metrics }, receiver)
    }

    pub(super) async fn append(&self, entries: Vec<(Shard, NewEntry)>) -> Result<Vec<Appended>, AppendError> {
        if entries.is_empty() {
            return Ok(Vec::new());
        }
        let bytes = entries.iter().map(|(_, entry)| event_bytes(&entry.event)).sum::<usize>();
        let room = self.room(u32::try_from(bytes.min(QUEUE_BYTES)).unwrap_or(u32::MAX)).await?;
        let (ack, answer) = oneshot::channel();
        self.put(Message::Append(Run { entries, ack, _room: room }))?;
        answer.await.map_err(|_| closed())?
    }

    /// Has the writer do it, as a transaction of its own, after what waits already.
    pub(super) async fn work(&self, change: Change) -> Result<(), AppendError> {
        let room = self.room(WORK_BYTES).await?;
        let (ack, answer) = oneshot::channel();
        self.put(Message::Work(Work { change, ack, _room: room }))?;
        answer.await.map_err(|_| closed())?
    }

    async fn room(&self, bytes: u32) -> Result<OwnedSemaphorePermit, AppendError> {
        let room = tokio::time::timeout(QUEUE_WAIT, Arc::clone(&self.room).acquire_many_owned(bytes)).await;
        room.map_err(|_| {
            self.metrics.failed("queue");
            let text = format!("the disk is too slow: no room among waiting events within {QUEUE_WAIT:?}");
            AppendError::Unavailable(text)
        })?
        .map_err(|_| closed())
    }

    fn put(&self, message: Message) -> Result<(), AppendError> {
        let ended = |_| AppendError::Unavailable("the writer has ended".into());
        self.sender.send(message).map_err(ended)
    }

    /// Lets nothing more in, and waits until what is in has been answered.
    pub(super) async fn close(&self) {
        self.room.close();
        let (done, wait) = oneshot::channel();
        if self.sender.send(Message::Flush(done)).is_ok() {
            // An error means that the writer has ended, and so has answered everything.
            drop(wait.await);
        }
    }
}

fn closed() -> AppendError {
    AppendError::Unavailable("the database is closed".into())
}

#[cfg(test)]
mod tests {
    use foghorn_core::channel::Channel;
    use foghorn_core::entry::Key;
    use foghorn_core::event::Event;
    use foghorn_core::position::{Epoch, Position};
    use prometheus_client::registry::Registry;
    use tokio::time::Instant;

    use super::*;

    fn of_bytes(bytes: usize) -> Vec<(Shard, NewEntry)> {
        let event = Event::new(Channel::parse("a").unwrap(), "x".repeat(bytes));
        vec![(Shard::ZERO, NewEntry { event, key: Key::invented(1), traceparent: None })]
    }

    #[tokio::test(start_paused = true)]
    async fn who_finds_no_room_is_told_after_ten_seconds_and_there_is_some_when_others_are_stored() {
        let mut registry = Registry::default();
        let (queue, mut waiting) = Queue::new(Metrics::register(&mut registry));
        let mut next = || match waiting.try_recv().unwrap() {
            Message::Append(run) => run,
            Message::Work(_) | Message::Flush(_) => panic!("nobody does that here"),
        };
        let stored = |run: Run| {
            let position = Position { shard: Shard::ZERO, epoch: Epoch::new(1), seq: 1 };
            run.ack.send(Ok(vec![Appended { position, duplicate: false }])).unwrap();
        };
        let mut all = Box::pin(queue.append(of_bytes(QUEUE_BYTES)));
        assert!(futures::poll!(&mut all).is_pending());
        let (first, begun) = (next(), Instant::now());
        let refused = queue.append(of_bytes(1)).await;
        assert!(matches!(refused, Err(AppendError::Unavailable(_))), "{refused:?}");
        assert_eq!(begun.elapsed(), QUEUE_WAIT);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        assert!(text.contains("foghorn_log_failures_total{kind=\"queue\"} 1"), "{text}");

        let mut late = Box::pin(queue.append(of_bytes(1)));
        assert!(futures::poll!(&mut late).is_pending());
        tokio::time::advance(QUEUE_WAIT / 2).await;
        stored(first);
        all.await.unwrap();
        assert!(futures::poll!(&mut late).is_pending(), "it waits for the writer now");
        stored(next());
        late.await.unwrap();
        assert_eq!(queue.room.available_permits(), QUEUE_BYTES);
    }
}
