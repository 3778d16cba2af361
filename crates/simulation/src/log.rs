//! The event log: replicas that run the product's writer and reader over tables in memory, and a client's
//! view of them.

use std::collections::BTreeMap;
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
use foghorn_eventlog::postgres::tables::{Link, Tables};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, timeout_at};

use crate::mutant::Mutant;
use crate::process::{PATIENCE, Process};
use crate::world::World;

/// As `foghorn_rpc` has them.
const CALL_DEADLINE: Duration = Duration::from_secs(10);
const ATTEMPTS_MAX: usize = 3;
/// How much older everything is for retention, so that runs are short.
pub(crate) const AGED: Duration = Duration::from_secs(110);

/// A replica's way to PostgreSQL.
#[derive(Debug)]
pub struct PgLink {
    process: Arc<Process>,
    down: Arc<Mutex<bool>>,
    tables: Tables,
}

impl PgLink {
    /// Over which `process` reaches it, unless `down`.
    pub fn new(process: &Arc<Process>, down: &Arc<Mutex<bool>>, tables: &Tables) -> Arc<Self> {
        Arc::new(PgLink { process: process.clone(), down: down.clone(), tables: tables.clone() })
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
        let world = &self.process.world;
        if statement == "events" && world.chance(world.weather().drops_while_read) {
            let gone = self.tables.expire(world.now().plus(AGED));
            world.tell("retention", &format!("drops {gone} events while {} reads", self.process.name));
        }
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
    /// Questions of a ring's under way, by shard.
    filling: Arc<Mutex<BTreeMap<Shard, usize>>>,
}

/// A ring's question, while it is under way.
struct Filling {
    shard: Shard,
    of: Arc<Mutex<BTreeMap<Shard, usize>>>,
}

impl Drop for Filling {
    fn drop(&mut self) {
        *self.of.lock().entry(self.shard).or_default() -= 1;
    }
}

impl SimLog {
    /// The log as `process` sees it.
    pub fn new(process: &Arc<Process>, replicas: &Replicas) -> Self {
        let (world, process, replicas) = (process.world.clone(), process.clone(), replicas.clone());
        SimLog(Arc::new(Inner { world, process, replicas, filling: Arc::default() }))
    }

    /// A ring asks. It has one question at a time, or a lost batch brings the log a question from every gateway
    /// for every batch that follows.
    fn fills(&self, shard: Shard) -> Filling {
        let Inner { world, process, filling, .. } = &*self.0;
        let mut of_shard = filling.lock();
        let under_way = of_shard.entry(shard).or_default();
        *under_way += 1;
        if *under_way > 1 {
            world.wrong(
                &process.name,
                format!("asks {under_way} questions for the ring of shard {shard} at once"),
            );
        }
        Filling { shard, of: filling.clone() }
    }

    async fn call<T, F, C>(&self, per_attempt: Duration, ask: C) -> Result<T, LogError>
    where
        T: Send + 'static,
        F: std::future::Future<Output = Result<T, LogError>> + Send + 'static,
        C: Fn(Arc<PostgresLog>) -> F,
    {
        let Inner { world, process, replicas, .. } = &*self.0;
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
            Replay::Page(mut page) if world.is(Mutant::TtlForgotten) => {
                page.events.iter_mut().for_each(|event| event.ttl = None);
                Replay::Page(page)
            }
            other => other,
        }
    }
}

impl EventLog for SimLog {
    fn replay(&self, mut query: ReplayQuery) -> Future<'_, Result<Replay, LogError>> {
        Box::pin(async move {
            let world = &self.0.world;
            if world.is(Mutant::GatewaysDontCompare) || world.is(Mutant::QuestionsWithoutDigests) {
                query.digest = Digest::NONE;
            }
            let _filling = query.fill.then(|| self.fills(query.shard));
            let asked = query.clone();
            let ask = move |log: Arc<PostgresLog>| {
                let query = asked.clone();
                async move { log.replay(query).await }
            };
            let _again = (query.fill && world.is(Mutant::Stampede)).then(|| self.fills(query.shard));
            match self.call(PATIENCE, ask).await {
                Ok(answer) => Ok(self.mutated(&query, answer)),
                Err(_) if query.fill && world.is(Mutant::FailuresAreEmpty) => {
                    let to = query.after + 5;
                    Ok(Replay::Page(Batch::empty(query.shard, query.epoch, query.after, to)))
                }
                Err(error) => Err(error),
            }
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
        Box::pin(async move {
            let world = &self.0.world;
            if world.is(Mutant::DurableTooEarly) {
                return Ok(Committed::Yes);
            }
            match self.call(deadline + Duration::from_secs(1), ask).await? {
                Committed::Replaced if world.is(Mutant::ReplacedIsDurable) => Ok(Committed::Yes),
                committed => Ok(committed),
            }
        })
    }
}
