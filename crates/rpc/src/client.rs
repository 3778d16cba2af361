//! The event log over gRPC, as gateways and fan-outs in a cluster have it.

use std::error::Error as _;
use std::time::Duration;

use foghorn_bus::Future;
use foghorn_bus::log::{
    Committed, EventLog, HistoryPage, HistoryQuery, Located, LogError, NewestQuery, Replay, ReplayQuery,
};
use foghorn_core::batch::Batch;
use foghorn_core::channel::Channel as ChannelName;
use foghorn_core::entry::Key;
use foghorn_core::position::Position;
use foghorn_core::shard::{Shard, ShardCount};
use foghorn_core::time::Timestamp;
use foghorn_http::tls::ClientFiles;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use tokio::time::{Instant, timeout_at};
use tonic::transport::Channel;
use tonic::{Code, Status};

pub use crate::pool::UrlError;
use crate::pool::{Pool, Replica};
use crate::v1::event_log_client::EventLogClient;
use crate::{v1, wire};

/// How long one replica may take for a page before the next is asked.
const ATTEMPT_DEADLINE: Duration = Duration::from_secs(5);
/// How long a call may take in all.
const CALL_DEADLINE: Duration = Duration::from_secs(10);
/// Most replicas asked for one call.
const ATTEMPTS_MAX: usize = 3;
/// What an answer may take on its way beyond what the server was allowed to wait.
const TRAVEL: Duration = Duration::from_secs(1);

/// Asks whichever replica answers. Connects lazily, takes replicas in turn, and goes on to the next when
/// one can't be reached, fails or is slow: every call only reads, or erases, so asking twice is harmless. At most
/// three replicas and 10 s a call; callers wait between calls.
pub struct RemoteEventLog {
    pool: Pool,
    shards: ShardCount,
    calls: Family<Call, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Call {
    method: &'static str,
    outcome: &'static str,
}

impl RemoteEventLog {
    /// Of `urls` (`http://host:port`, several with commas between; a name may have several addresses), or with `tls`
    /// of `https://host:port`.
    /// `shards` is the cluster's number. Nothing is connected yet. Registers `foghorn_rpc_eventlog_calls`.
    pub fn new(
        urls: &str,
        tls: Option<ClientFiles>,
        shards: ShardCount,
        registry: &mut Registry,
    ) -> Result<Self, UrlError> {
        let calls = Family::default();
        registry.sub_registry_with_prefix("foghorn_rpc").register(
            "eventlog_calls",
            "Calls to event log replicas, by method and outcome (ok, unreachable, slow, failed, malformed)",
            calls.clone(),
        );
        Ok(RemoteEventLog { pool: Pool::new(urls, tls)?, shards, calls })
    }

    /// Asks replicas in turn until one answers. `per_attempt` bounds each, `in_all` the whole.
    async fn call<R, T, F>(
        &self,
        method: &'static str,
        per_attempt: Duration,
        in_all: Duration,
        ask: impl Fn(EventLogClient<Channel>) -> F,
        read: impl Fn(R) -> Result<T, wire::Malformed>,
    ) -> Result<T, LogError>
    where
        F: std::future::Future<Output = Result<tonic::Response<R>, Status>>,
    {
        let end = Instant::now() + in_all;
        let replicas = self.pool.in_turn().await.map_err(LogError)?;
        let mut last = LogError(format!("no replica answered within {in_all:?}"));
        for replica in replicas.iter().take(ATTEMPTS_MAX) {
            let deadline = end.min(Instant::now() + per_attempt);
            let answer = timeout_at(deadline, ask(replica.client())).await;
            let (outcome, go_on) = match answer {
                Ok(Ok(response)) => {
                    replica.reached();
                    match read(response.into_inner()) {
                        Ok(answer) => {
                            self.count(method, "ok");
                            return Ok(answer);
                        }
                        Err(what) => {
                            last = describe(replica, &format!("a malformed answer: {what}"));
                            ("malformed", true)
                        }
                    }
                }
                Ok(Err(status)) => {
                    last = describe(replica, &format!("{:?}: {}", status.code(), status.message()));
                    judge(replica, &status)
                }
                Err(_) => {
                    last = describe(replica, "no answer in time");
                    ("slow", true)
                }
            };
            self.count(method, outcome);
            tracing::debug!(method, outcome, error = %last, "event log replica");
            if !go_on || Instant::now() >= end {
                break;
            }
        }
        Err(last)
    }

    fn count(&self, method: &'static str, outcome: &'static str) {
        self.calls.get_or_create(&Call { method, outcome }).inc();
    }
}

/// What a failed call says about the replica, and whether another may do better.
fn judge(replica: &Replica, status: &Status) -> (&'static str, bool) {
    // A status that came over the wire has no source; one that was made here for a broken connection has.
    if status.source().is_some() {
        replica.unreachable();
        return ("unreachable", true);
    }
    replica.reached();
    let helpless = matches!(status.code(), Code::InvalidArgument | Code::Unimplemented | Code::OutOfRange);
    ("failed", !helpless)
}

fn describe(replica: &Replica, what: &str) -> LogError {
    LogError(format!("{}: {what}", replica.address))
}

impl EventLog for RemoteEventLog {
    fn replay(&self, query: ReplayQuery) -> Future<'_, Result<Replay, LogError>> {
        Box::pin(async move {
            let request = wire::replay_request(&query);
            let ask = |mut client: EventLogClient<Channel>| {
                let request = request.clone();
                async move { client.replay(request).await }
            };
            let read = |response| wire::replay(response, &query, self.shards);
            self.call("replay", ATTEMPT_DEADLINE, CALL_DEADLINE, ask, read).await
        })
    }

    fn newest(&self, query: NewestQuery) -> Future<'_, Result<Vec<Batch>, LogError>> {
        Box::pin(async move {
            let request = wire::newest_request(&query);
            let ask = |mut client: EventLogClient<Channel>| {
                let request = request.clone();
                async move { client.newest(request).await }
            };
            let read = |response| wire::newest(response, &query, self.shards);
            self.call("newest", ATTEMPT_DEADLINE, CALL_DEADLINE, ask, read).await
        })
    }

    fn locate(&self, shard: Shard, time: Timestamp) -> Future<'_, Result<Located, LogError>> {
        Box::pin(async move {
            let request = v1::LocateRequest { shard: u32::from(shard.get()), time_micros: time.as_micros() };
            let ask = |mut client: EventLogClient<Channel>| async move { client.locate(request).await };
            self.call("locate", ATTEMPT_DEADLINE, CALL_DEADLINE, ask, wire::located).await
        })
    }

    fn history(&self, query: HistoryQuery) -> Future<'_, Result<HistoryPage, LogError>> {
        Box::pin(async move {
            let request = v1::HistoryRequest {
                channel: query.channel.as_str().to_owned(),
                after: query.after,
                before: query.before,
                limit: wire::count(query.limit),
            };
            let ask = |mut client: EventLogClient<Channel>| {
                let request = request.clone();
                async move { client.history(request).await }
            };
            self.call("history", ATTEMPT_DEADLINE, CALL_DEADLINE, ask, wire::history).await
        })
    }

    fn committed(
        &self,
        position: Position,
        key: Key,
        deadline: Duration,
    ) -> Future<'_, Result<Committed, LogError>> {
        Box::pin(async move {
            let end = Instant::now() + deadline;
            let ask = |mut client: EventLogClient<Channel>| {
                let left = end.saturating_duration_since(Instant::now());
                let request = wire::committed_request(position, key, left);
                async move { client.committed(request).await }
            };
            let limit = deadline + TRAVEL;
            self.call("committed", limit, limit, ask, wire::committed).await
        })
    }

    fn erase(&self, of: ChannelName) -> Future<'_, Result<u64, LogError>> {
        Box::pin(async move {
            let ask = |mut client: EventLogClient<Channel>| {
                let request = v1::EraseRequest { channel: of.as_str().to_owned() };
                async move { client.erase(request).await }
            };
            let read = |response: v1::EraseResponse| Ok(response.erased);
            self.call("erase", CALL_DEADLINE, CALL_DEADLINE, ask, read).await
        })
    }
}
