//! Where appends wait for the writer.

use std::sync::Arc;
use std::time::Duration;

use foghorn_bus::journal::{AppendError, Appended};
use foghorn_core::entry::NewEntry;
use foghorn_core::shard::Shard;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::record::event_bytes;

/// Most bytes of events that wait for the writer; beyond, appends wait for room.
const QUEUE_BYTES: usize = 32 * 1024 * 1024;
/// Longest wait for room.
const QUEUE_WAIT: Duration = Duration::from_secs(10);

/// Where appends wait. Bounded in bytes.
pub(super) struct Queue {
    sender: mpsc::UnboundedSender<Message>,
    room: Arc<Semaphore>,
}

/// What the writer gets. Unbounded in number because every append holds its bytes of the room.
pub(super) enum Message {
    Append(Run),
    /// Answered when everything before it has been.
    Flush(oneshot::Sender<()>),
}

/// Entries that are stored in one transaction, in their order, or not at all.
pub(super) struct Run {
    pub(super) entries: Vec<(Shard, NewEntry)>,
    pub(super) ack: oneshot::Sender<Result<Vec<Appended>, AppendError>>,
    _room: OwnedSemaphorePermit,
}

impl Run {
    pub(super) fn bytes(&self) -> usize {
        self.entries.iter().map(|(_, entry)| event_bytes(&entry.event)).sum()
    }
}

impl Queue {
    pub(super) fn new() -> (Self, mpsc::UnboundedReceiver<Message>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Queue { sender, room: Arc::new(Semaphore::new(QUEUE_BYTES)) }, receiver)
    }

    pub(super) async fn append(&self, entries: Vec<(Shard, NewEntry)>) -> Result<Vec<Appended>, AppendError> {
        if entries.is_empty() {
            return Ok(Vec::new());
        }
        let closed = |_| AppendError::Unavailable("the database is closed".into());
        let bytes = entries.iter().map(|(_, entry)| event_bytes(&entry.event)).sum::<usize>();
        let bytes = u32::try_from(bytes.min(QUEUE_BYTES)).unwrap_or(u32::MAX);
        let room = tokio::time::timeout(QUEUE_WAIT, Arc::clone(&self.room).acquire_many_owned(bytes)).await;
        let room = room
            .map_err(|_| {
                let text =
                    format!("the disk is too slow: no room among waiting events within {QUEUE_WAIT:?}");
                AppendError::Unavailable(text)
            })?
            .map_err(|_| AppendError::Unavailable("the database is closed".into()))?;
        let (ack, answer) = oneshot::channel();
        let run = Run { entries, ack, _room: room };
        self.sender
            .send(Message::Append(run))
            .map_err(|_| AppendError::Unavailable("the writer has ended".into()))?;
        answer.await.map_err(closed)?
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
