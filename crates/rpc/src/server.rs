//! The event log as a gRPC service: any [`EventLog`] behind bounds on what a request may ask for.

use std::sync::Arc;
use std::time::Duration;

use foghorn_bus::log::{EventLog, LogError};
use foghorn_core::channel::Channel;
use foghorn_core::shard::ShardCount;
use foghorn_core::time::Timestamp;
use tokio::sync::{Semaphore, SemaphorePermit};
use tonic::{Request, Response, Status};

use crate::v1::{self, event_log_server::EventLogServer};
use crate::{MESSAGE_BYTES_MAX, wire};

/// The longest that a request may wait for an entry to be committed.
const COMMITTED_DEADLINE_MAX: Duration = Duration::from_secs(60);
/// Most bytes of a request: [`crate::TOPICS_MAX`] patterns of the greatest length.
const REQUEST_BYTES_MAX: usize = 1 << 20;

/// What a replica does at a time.
#[derive(Debug, Clone, Copy)]
pub struct AtOnce {
    /// Pages being made: with [`crate::PAGE_BYTES_MAX`] each, these and `fills` bound the memory of answers.
    pub pages: usize,
    /// Likewise for gateways that catch up with the live feed. All their listeners wait for these, so they have
    /// places of their own, that no crowd of replays can take.
    pub fills: usize,
    /// Requests that wait for a commit; each holds a few hundred bytes.
    pub waits: usize,
    /// How long a request waits for its turn to have a page or a fill made before it is told to come back. (Waits
    /// last long: who finds no place among them is told at once.)
    pub turn_deadline: Duration,
}

impl Default for AtOnce {
    /// 32, 8, 16,384, 4 s.
    fn default() -> Self {
        AtOnce { pages: 32, fills: 8, waits: 16_384, turn_deadline: Duration::from_secs(4) }
    }
}

/// Serves `log`, whose shards are `shards`.
pub fn event_log(log: Arc<dyn EventLog>, shards: ShardCount) -> EventLogServer<EventLogService> {
    event_log_bounded(log, shards, AtOnce::default())
}

/// The same, with bounds of one's own.
pub fn event_log_bounded(
    log: Arc<dyn EventLog>,
    shards: ShardCount,
    at_once: AtOnce,
) -> EventLogServer<EventLogService> {
    let service = EventLogService {
        log,
        shards,
        pages: Turns::new(at_once.pages, at_once.turn_deadline),
        fills: Turns::new(at_once.fills, at_once.turn_deadline),
        waits: Semaphore::new(at_once.waits),
    };
    EventLogServer::new(service)
        .max_decoding_message_size(REQUEST_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

/// The service behind [`event_log`].
pub struct EventLogService {
    log: Arc<dyn EventLog>,
    shards: ShardCount,
    pages: Turns,
    fills: Turns,
    waits: Semaphore,
}

/// Requests that have to wait for one another.
struct Turns {
    places: Semaphore,
    deadline: Duration,
}

impl Turns {
    fn new(at_once: usize, deadline: Duration) -> Self {
        Turns { places: Semaphore::new(at_once), deadline }
    }

    /// A place, once there is one.
    async fn next(&self) -> Result<SemaphorePermit<'_>, Status> {
        match tokio::time::timeout(self.deadline, self.places.acquire()).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(Status::unavailable("too many replays at a time; ask another replica, or again later")),
        }
    }
}

#[tonic::async_trait]
impl v1::event_log_server::EventLog for EventLogService {
    async fn replay(
        &self,
        request: Request<v1::ReplayRequest>,
    ) -> Result<Response<v1::ReplayResponse>, Status> {
        let query = wire::replay_query(request.get_ref(), self.shards).map_err(Status::invalid_argument)?;
        let turns = if query.fill { &self.fills } else { &self.pages };
        let _turn = turns.next().await?;
        let replay = self.log.replay(query).await.map_err(unavailable)?;
        Ok(Response::new(wire::replay_response(replay)))
    }

    async fn newest(
        &self,
        request: Request<v1::NewestRequest>,
    ) -> Result<Response<v1::NewestResponse>, Status> {
        let query = wire::newest_query(request.get_ref(), self.shards).map_err(Status::invalid_argument)?;
        let _turn = self.pages.next().await?;
        let batches = self.log.newest(query).await.map_err(unavailable)?;
        Ok(Response::new(v1::NewestResponse { pages: batches.iter().map(|b| b.encode()).collect() }))
    }

    async fn locate(
        &self,
        request: Request<v1::LocateRequest>,
    ) -> Result<Response<v1::LocateResponse>, Status> {
        let request = request.into_inner();
        let shard = wire::shard(request.shard, self.shards).map_err(Status::invalid_argument)?;
        let time = Timestamp::from_micros(request.time_micros);
        let _turn = self.pages.next().await?;
        let located = self.log.locate(shard, time).await.map_err(unavailable)?;
        Ok(Response::new(v1::LocateResponse {
            epoch: located.epoch.get(),
            after: located.after,
            tip: located.tip,
        }))
    }

    async fn history(
        &self,
        request: Request<v1::HistoryRequest>,
    ) -> Result<Response<v1::HistoryResponse>, Status> {
        let query = wire::history_query(request.into_inner()).map_err(Status::invalid_argument)?;
        let _turn = self.pages.next().await?;
        let page = self.log.history(query).await.map_err(unavailable)?;
        Ok(Response::new(wire::history_response(page)))
    }

    async fn committed(
        &self,
        request: Request<v1::CommittedRequest>,
    ) -> Result<Response<v1::CommittedResponse>, Status> {
        let (position, key) =
            wire::committed_query(request.get_ref(), self.shards).map_err(Status::invalid_argument)?;
        // Waits cost no page's memory and last long, so they have places of their own.
        let _place = self.waits.try_acquire().map_err(|_| {
            Status::unavailable("too many publishers wait for commits; ask another replica, or again later")
        })?;
        let deadline =
            Duration::from_millis(u64::from(request.get_ref().deadline_ms)).min(COMMITTED_DEADLINE_MAX);
        let committed = self.log.committed(position, key, deadline).await.map_err(unavailable)?;
        Ok(Response::new(wire::committed_response(committed)))
    }

    async fn erase(&self, request: Request<v1::EraseRequest>) -> Result<Response<v1::EraseResponse>, Status> {
        let channel = Channel::parse(request.into_inner().channel);
        let channel = channel.map_err(|error| Status::invalid_argument(error.to_string()))?;
        let _turn = self.pages.next().await?;
        let erased = self.log.erase(channel).await.map_err(unavailable)?;
        Ok(Response::new(v1::EraseResponse { erased }))
    }
}

fn unavailable(error: LogError) -> Status {
    Status::unavailable(error.0)
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, sleep};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_turn_is_waited_for_for_four_seconds() {
        let turns = Turns::new(1, AtOnce::default().turn_deadline);
        let taken = turns.next().await.unwrap();
        let begun = Instant::now();
        assert_eq!(turns.next().await.unwrap_err().code(), tonic::Code::Unavailable);
        assert_eq!(begun.elapsed(), Duration::from_secs(4));
        let leaving = async {
            sleep(Duration::from_secs(3)).await;
            drop(taken);
        };
        let (turn, ()) = tokio::join!(turns.next(), leaving);
        assert!(turn.is_ok());
        assert_eq!(begun.elapsed(), Duration::from_secs(7));
    }
}
