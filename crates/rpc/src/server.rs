//! The event log as a gRPC service: any [`EventLog`] behind bounds on what a request may ask for.

use std::sync::Arc;
use std::time::Duration;

use foghorn_bus::log::{EventLog, LogError};
use foghorn_core::shard::ShardCount;
use foghorn_core::time::Timestamp;
use tokio::sync::{Semaphore, SemaphorePermit};
use tonic::{Request, Response, Status};

use crate::v1::{self, event_log_server::EventLogServer};
use crate::{MESSAGE_BYTES_MAX, wire};

/// Pages being made at a time: with [`crate::PAGE_BYTES_MAX`] each, these two bound the memory of answers.
const PAGES_AT_ONCE: usize = 32;
/// Likewise for gateways that catch up with the live feed. All their listeners wait for these, so they have
/// places of their own, that no crowd of replays can take.
const FILLS_AT_ONCE: usize = 8;
/// How long a request waits for its turn before it is told to come back.
const TURN_DEADLINE: Duration = Duration::from_secs(4);
/// The longest that a request may wait for an entry to be committed.
const COMMITTED_DEADLINE_MAX: Duration = Duration::from_secs(60);
/// Requests that wait for a commit at a time; each holds a few hundred bytes.
const COMMITTED_AT_ONCE: usize = 16_384;
/// Most bytes of a request: [`crate::TOPICS_MAX`] patterns of the greatest length.
const REQUEST_BYTES_MAX: usize = 1 << 20;

/// Serves `log`, whose shards are `shards`.
pub fn event_log(log: Arc<dyn EventLog>, shards: ShardCount) -> EventLogServer<EventLogService> {
    let service = EventLogService {
        log,
        shards,
        pages: Semaphore::new(PAGES_AT_ONCE),
        fills: Semaphore::new(FILLS_AT_ONCE),
        waits: Semaphore::new(COMMITTED_AT_ONCE),
    };
    EventLogServer::new(service)
        .max_decoding_message_size(REQUEST_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

/// The service behind [`event_log`].
pub struct EventLogService {
    log: Arc<dyn EventLog>,
    shards: ShardCount,
    pages: Semaphore,
    fills: Semaphore,
    waits: Semaphore,
}

impl EventLogService {
    async fn turn(&self) -> Result<SemaphorePermit<'_>, Status> {
        turn_of(&self.pages).await
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
        let _turn = turn_of(turns).await?;
        let replay = self.log.replay(query).await.map_err(unavailable)?;
        Ok(Response::new(wire::replay_response(replay)))
    }

    async fn newest(
        &self,
        request: Request<v1::NewestRequest>,
    ) -> Result<Response<v1::NewestResponse>, Status> {
        let query = wire::newest_query(request.get_ref(), self.shards).map_err(Status::invalid_argument)?;
        let _turn = self.turn().await?;
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
        let _turn = self.turn().await?;
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
        let _turn = self.turn().await?;
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
}

async fn turn_of(turns: &Semaphore) -> Result<SemaphorePermit<'_>, Status> {
    match tokio::time::timeout(TURN_DEADLINE, turns.acquire()).await {
        Ok(Ok(permit)) => Ok(permit),
        _ => Err(Status::unavailable("too many replays at a time; ask another replica, or again later")),
    }
}

fn unavailable(error: LogError) -> Status {
    Status::unavailable(error.0)
}
