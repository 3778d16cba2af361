//! Room for what is being published: a share of [`Config::inflight_bytes`](crate::config::Config).
//!
//! A stream waits for as long as it takes, and is read no further meanwhile. A request waits for a bounded
//! time in all, however often it needs more, and is then refused: whoever sent it should hear so before
//! giving up by himself.
//!
//! One client address has a share of it at most: its bodies may come as slowly as any may, and would else hold up
//! everybody's.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use foghorn_http::client;
use parking_lot::Mutex;
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
    /// What each client address may have of it.
    share: usize,
    /// What is free of the shares of those that have some.
    shares: Arc<Mutex<Shares>>,
}

#[derive(Debug, Default)]
struct Shares {
    of: HashMap<u128, Weak<Semaphore>>,
    /// How many there are to be until those of nobody are forgotten.
    full: usize,
}

/// The room of one request, which may grow as the request arrives. Given back when dropped.
#[derive(Debug)]
pub struct RequestRoom {
    rooms: Rooms,
    held: Option<Room>,
    /// What is free of its client's share, and what of that it has.
    share: Option<Arc<Semaphore>>,
    held_of_share: Option<Room>,
    /// What is left of the time that the request waits.
    patience: Duration,
}

/// What so many events with so many bytes of data take.
pub(crate) fn bytes_of(events: usize, data: usize) -> usize {
    data.saturating_add(events.saturating_mul(EVENT_OVERHEAD))
}

impl Rooms {
    /// So many bytes, of which a client address may have half, and no less than a request of `body` bytes.
    pub(crate) fn new(bytes: usize, body: usize) -> Self {
        let bytes = bytes.min(Semaphore::MAX_PERMITS);
        let share = (bytes / 2).max(body).min(bytes);
        Rooms { free: Arc::new(Semaphore::new(bytes)), bytes, share, shares: Arc::default() }
    }

    /// Waits for as long as it takes.
    pub(crate) async fn wait(&self, bytes: usize) -> Result<Room, PublishError> {
        acquire(&self.free, bytes.min(self.bytes)).await
    }

    /// For a request, with nothing in it yet; from a client's address, if that is known.
    pub(crate) fn for_request(&self, client: Option<IpAddr>) -> RequestRoom {
        let share = client.map(|address| self.shares.lock().of(client::key(address), self.share));
        RequestRoom { rooms: self.clone(), held: None, share, held_of_share: None, patience: ROOM_DEADLINE }
    }
}

impl Shares {
    fn of(&mut self, client: u128, bytes: usize) -> Arc<Semaphore> {
        if let Some(share) = self.of.get(&client).and_then(Weak::upgrade) {
            return share;
        }
        if self.of.len() >= self.full {
            self.of.retain(|_, share| share.strong_count() > 0);
            self.full = self.of.len() * 2 + 64;
        }
        let share = Arc::new(Semaphore::new(bytes));
        self.of.insert(client, Arc::downgrade(&share));
        share
    }
}

async fn acquire(free: &Arc<Semaphore>, bytes: usize) -> Result<Room, PublishError> {
    let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
    free.clone().acquire_many_owned(bytes).await.map_err(|_| PublishError::draining())
}

impl RequestRoom {
    /// Takes so many bytes more. All calls together wait for at most 2 s; then `overloaded`.
    pub async fn grow(&mut self, bytes: usize) -> Result<(), PublishError> {
        let began = Instant::now();
        let more = timeout(self.patience, self.more(bytes));
        let (more, of_share) = more.await.map_err(|_| PublishError::overloaded())??;
        self.patience = self.patience.saturating_sub(began.elapsed());
        add(&mut self.held, more);
        if let Some(of_share) = of_share {
            add(&mut self.held_of_share, of_share);
        }
        Ok(())
    }

    /// First what its client may have: while that is all taken, it takes nothing from others.
    async fn more(&self, bytes: usize) -> Result<(Room, Option<Room>), PublishError> {
        let most = if self.share.is_some() { self.rooms.share } else { self.rooms.bytes };
        // What is more than there is at all would wait for ever.
        let bytes = bytes.min(most - self.held.as_ref().map_or(0, Room::num_permits));
        let of_share = match &self.share {
            Some(share) => Some(acquire(share, bytes).await?),
            None => None,
        };
        Ok((acquire(&self.rooms.free, bytes).await?, of_share))
    }
}

fn add(held: &mut Option<Room>, more: Room) {
    match held {
        Some(held) => held.merge(more),
        None => *held = Some(more),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_request_waits_for_two_seconds_in_all_and_gives_back_what_it_held() {
        let rooms = Rooms::new(100, 10);
        let mut request = rooms.for_request(None);
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
        let rooms = Rooms::new(100, 10);
        let mut request = rooms.for_request(None);
        request.grow(70).await.unwrap();
        request.grow(70).await.unwrap();
        request.grow(70).await.unwrap();
        assert_eq!(rooms.free.available_permits(), 0);
        drop(request);
        drop(rooms.wait(1000).await.unwrap());
        assert_eq!(rooms.free.available_permits(), 100);
    }

    #[tokio::test(start_paused = true)]
    async fn one_address_leaves_half_of_the_room_to_others_however_many_requests_it_makes() {
        let rooms = Rooms::new(100, 10);
        let address = |text: &str| Some(text.parse::<IpAddr>().unwrap());
        let mut held = Vec::new();
        for _ in 0..5 {
            let mut request = rooms.for_request(address("2001:db8::1"));
            request.grow(10).await.unwrap();
            held.push(request);
        }
        // Also by another address of the same network.
        let mut one_more = rooms.for_request(address("2001:db8::2"));
        assert_eq!(one_more.grow(1).await.unwrap_err().code, "overloaded");
        for other in [address("2001:db8:0:1::1"), address("192.0.2.1"), None] {
            rooms.for_request(other).grow(50).await.unwrap();
        }
        drop(held.pop());
        let mut one_more = rooms.for_request(address("2001:db8::2"));
        one_more.grow(10).await.unwrap();
        drop((one_more, held));
        assert_eq!(rooms.free.available_permits(), 100);
        // Those that have nothing are not remembered.
        (0..1000_u128).for_each(|n| drop(rooms.for_request(Some(IpAddr::V6((n << 64).into())))));
        assert!(rooms.shares.lock().of.len() <= 64);
        // A request is taken that is larger than half.
        let rooms = Rooms::new(100, 80);
        let mut large = rooms.for_request(address("192.0.2.1"));
        large.grow(80).await.unwrap();
        large.grow(10).await.unwrap();
    }
}
