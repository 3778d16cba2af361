//! Room for what is being published: a share of [`Config::inflight_bytes`](crate::config::Config).
//!
//! A stream waits for as long as it takes, and is read no further meanwhile. A request waits for a bounded
//! time in all, however often it needs more, and is then refused: whoever sent it should hear so before
//! giving up by himself.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use crate::error::PublishError;

/// How long a request waits for room before it is refused as `overloaded`.
const ROOM_DEADLINE: Duration = Duration::from_secs(2);
/// What an event is reckoned to take beside its data.
const EVENT_OVERHEAD: usize = 512;

/// A part of all room, given back when dropped.
pub type Room = OwnedSemaphorePermit;

/// All the room there is. A clone is the same.
#[derive(Debug, Clone)]
pub(crate) struct Rooms {
    free: Arc<Semaphore>,
    bytes: usize,
}

/// The room of one request, which may grow as the request arrives. Given back when dropped.
#[derive(Debug)]
pub struct RequestRoom {
    rooms: Rooms,
    held: Option<Room>,
    /// What is left of the time that the request waits.
    patience: Duration,
}

/// What so many events with so many bytes of data take.
pub(crate) fn bytes_of(events: usize, data: usize) -> usize {
    data.saturating_add(events.saturating_mul(EVENT_OVERHEAD))
}

impl Rooms {
    pub(crate) fn new(bytes: usize) -> Self {
        let bytes = bytes.min(Semaphore::MAX_PERMITS);
        Rooms { free: Arc::new(Semaphore::new(bytes)), bytes }
    }

    /// Waits for as long as it takes.
    pub(crate) async fn wait(&self, bytes: usize) -> Result<Room, PublishError> {
        self.acquire(bytes.min(self.bytes)).await
    }

    /// For a request, with nothing in it yet.
    pub(crate) fn for_request(&self) -> RequestRoom {
        RequestRoom { rooms: self.clone(), held: None, patience: ROOM_DEADLINE }
    }

    async fn acquire(&self, bytes: usize) -> Result<Room, PublishError> {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.free.clone().acquire_many_owned(bytes).await.map_err(|_| PublishError::draining())
    }
}

impl RequestRoom {
    /// Takes so many bytes more. All calls together wait for at most 2 s; then `overloaded`.
    pub async fn grow(&mut self, bytes: usize) -> Result<(), PublishError> {
        let held = self.held.as_ref().map_or(0, Room::num_permits);
        // What is more than there is at all would wait for ever.
        let more = self.rooms.acquire(bytes.min(self.rooms.bytes - held));
        let began = Instant::now();
        let more = timeout(self.patience, more).await.map_err(|_| PublishError::overloaded())??;
        self.patience = self.patience.saturating_sub(began.elapsed());
        match &mut self.held {
            Some(held) => held.merge(more),
            None => self.held = Some(more),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_request_waits_for_two_seconds_in_all_and_gives_back_what_it_held() {
        let rooms = Rooms::new(100);
        let mut request = rooms.for_request();
        request.grow(60).await.unwrap();
        let other = rooms.wait(40).await.unwrap();
        let freed = async {
            tokio::time::advance(Duration::from_millis(1500)).await;
            drop(other);
        };
        let (grown, ()) = tokio::join!(request.grow(10), freed);
        grown.unwrap();
        let _rest = rooms.wait(30).await.unwrap();
        let began = Instant::now();
        assert_eq!(request.grow(1).await.unwrap_err().code, "overloaded");
        assert!(began.elapsed() < Duration::from_secs(1), "1.5 s were waited before");
        assert_eq!(rooms.free.available_permits(), 0);
        drop(request);
        assert_eq!(rooms.free.available_permits(), 70);
    }

    #[tokio::test]
    async fn more_than_there_is_at_all_is_all_there_is() {
        let rooms = Rooms::new(100);
        let mut request = rooms.for_request();
        request.grow(70).await.unwrap();
        request.grow(70).await.unwrap();
        request.grow(70).await.unwrap();
        assert_eq!(rooms.free.available_permits(), 0);
        drop(request);
        drop(rooms.wait(1000).await.unwrap());
        assert_eq!(rooms.free.available_permits(), 100);
    }
}
