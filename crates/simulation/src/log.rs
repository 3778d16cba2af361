//! The event log: replicas that run the product's writer and reader over tables in memory, and a client's
//! view of them.

use std::sync::Arc;
use std::time::Duration;

use foghorn_bus::Future;
use foghorn_bus::log::{
    Committed, EventLog, HistoryPage, HistoryQuery, Located, LogError, NewestQuery, Replay, ReplayQuery,
};
use foghorn_core::batch::Batch;
use foghorn_core::entry::Key;
use foghorn_core::position::{Digest, Position};
use foghorn_core::reason::ResetReason;
use foghorn_core::shard::Shard;
use foghorn_core::time::Timestamp;
use foghorn_eventlog::postgres::PostgresLog;
use foghorn_eventlog::postgres::tables::Link;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, timeout_at};

use crate::mutant::Mutant;
use crate::process::{PATIENCE, Process};
use crate::world::World;

/// As `foghorn_rpc` has them.
const CALL_DEADLINE: Duration = Duration::from_secs(10);
const ATTEMPTS_MAX: usize = 3;

/// A replica's way to PostgreSQL.
#[derive(Debug)]
pub struct PgLink {
    process: Arc<Process>,
    down: Arc<Mutex<bool>>,
}

impl PgLink {
    /// Over which `process` reaches it, unless `down`.
    pub fn new(process: &Arc<Process>, down: &Arc<Mutex<bool>>) -> Arc<Self> {
        Arc::new(PgLink { process: process.clone(), down: down.clone() })
    }

    async fn pass(&self, statement: &'static str) -> Result<(), String> {
        self.process.hop_to_log().await?;
        if *self.down.lock() {
            sleep(self.process.world.millis(1..3000)).await;
            return Err("PostgreSQL is down".to_owned());
        }
        if self.process.world.chance(self.process.world.weather().statement_loss) {
            return Err(format!("the connection broke at {statement:?}"));
        }
        Ok(())
    }
}

impl Link for PgLink {
    fn ask(&self, statement: &'static str) -> Future<'_, Result<(), String>> {
        Box::pin(self.pass(statement))
    }

    fn answer(&self, statement: &'static str) -> Future<'_, Result<(), String>> {
        Box::pin(self.pass(statement))
    }
}

/// A replica that answers.
#[derive(Clone)]
pub struct Replica {
    /// Where it runs.
    pub process: Arc<Process>,
    /// What answers.
    pub log: Arc<PostgresLog>,
}

/// The replicas there are, by the name that clients resolve.
pub type Replicas = Arc<Mutex<Vec<Replica>>>;

/// The log as a process sees it that asks its replicas.
#[derive(Clone)]
pub struct SimLog(Arc<Inner>);

struct Inner {
    world: Arc<World>,
    process: Arc<Process>,
    replicas: Replicas,
}

impl SimLog {
    /// The log as `process` sees it.
    pub fn new(process: &Arc<Process>, replicas: &Replicas) -> Self {
        let (world, process, replicas) = (process.world.clone(), process.clone(), replicas.clone());
        SimLog(Arc::new(Inner { world, process, replicas }))
    }

    async fn call<T, F, C>(&self, per_attempt: Duration, ask: C) -> Result<T, LogError>
    where
        T: Send + 'static,
        F: std::future::Future<Output = Result<T, LogError>> + Send + 'static,
        C: Fn(Arc<PostgresLog>) -> F,
    {
        let Inner { world, process, replicas } = &*self.0;
        let begun = Instant::now();
        let mut why = LogError("no replica".to_owned());
        for _ in 0..ATTEMPTS_MAX {
            if begun.elapsed() >= CALL_DEADLINE {
                break;
            }
            let replica = {
                let replicas = replicas.lock();
                (!replicas.is_empty()).then(|| replicas[world.pick(0..replicas.len())].clone())
            };
            let Some(replica) = replica else {
                sleep(world.millis(10..100)).await;
                continue;
            };
            let asked = async {
                process.hop_to_log().await.map_err(LogError)?;
                let answered = replica.process.clone().answers(ask(replica.log.clone())).await;
                let answer = answered.unwrap_or_else(|| Err(LogError("the replica is gone".to_owned())))?;
                process.until(|flags| !flags.stopped).await;
                process.hop_to_log().await.map_err(LogError)?;
                Ok(answer)
            };
            match timeout_at(Instant::now() + per_attempt, asked).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => why = error,
                Err(_) => why = LogError("no answer in time".to_owned()),
            }
        }
        Err(why)
    }

    fn mutated(&self, query: &ReplayQuery, answer: Replay) -> Replay {
        let world = &self.0.world;
        match answer {
            Replay::Page(mut page) if world.is(Mutant::LogVouchesTooFar) && page.events.len() > 1 => {
                page.events.pop();
                Replay::Page(page)
            }
            Replay::Reset { reason: ResetReason::Expired, after, .. } if world.is(Mutant::ExpiredHidden) => {
                Replay::Page(Batch::empty(query.shard, query.epoch, query.after, after))
            }
            Replay::Reset { reason: ResetReason::Hole, after, .. } if world.is(Mutant::HoleHidden) => {
                Replay::Page(Batch::empty(query.shard, query.epoch, query.after, after))
            }
            Replay::Reset { reason: ResetReason::Epoch, .. } if world.is(Mutant::EpochsMixed) => {
                Replay::Page(Batch::empty(query.shard, query.epoch, query.after, query.after))
            }
            other => other,
        }
    }
}

impl EventLog for SimLog {
    fn replay(&self, mut query: ReplayQuery) -> Future<'_, Result<Replay, LogError>> {
        Box::pin(async move {
            if self.0.world.is(Mutant::GatewaysDontCompare) {
                query.digest = Digest::NONE;
            }
            let asked = query.clone();
            let ask = move |log: Arc<PostgresLog>| {
                let query = asked.clone();
                async move { log.replay(query).await }
            };
            let answer = self.call(PATIENCE, ask).await?;
            Ok(self.mutated(&query, answer))
        })
    }

    fn newest(&self, query: NewestQuery) -> Future<'_, Result<Vec<Batch>, LogError>> {
        let ask = move |log: Arc<PostgresLog>| {
            let query = query.clone();
            async move { log.newest(query).await }
        };
        Box::pin(self.call(PATIENCE, ask))
    }

    fn locate(&self, shard: Shard, time: Timestamp) -> Future<'_, Result<Located, LogError>> {
        let ask = move |log: Arc<PostgresLog>| async move { log.locate(shard, time).await };
        Box::pin(self.call(PATIENCE, ask))
    }

    fn history(&self, query: HistoryQuery) -> Future<'_, Result<HistoryPage, LogError>> {
        let ask = move |log: Arc<PostgresLog>| {
            let query = query.clone();
            async move { log.history(query).await }
        };
        Box::pin(self.call(PATIENCE, ask))
    }

    fn committed(
        &self,
        position: Position,
        key: Key,
        deadline: Duration,
    ) -> Future<'_, Result<Committed, LogError>> {
        let ask = move |log: Arc<PostgresLog>| async move { log.committed(position, key, deadline).await };
        Box::pin(self.call(deadline + Duration::from_secs(1), ask))
    }
}
