//! The journal on JetStream: one stream per shard.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use foghorn_core::channel::Channel;
use foghorn_core::entry::{Entry, NewEntry};
use foghorn_core::position::{Epoch, Position};
use foghorn_core::shard::{Shard, ShardCount};
use foghorn_core::time::Timestamp;

use super::api::ApiError;
use super::epoch::Epochs;
use super::message::Rules;
use super::read::Reader;
use super::setup::{Aborted, patiently};
use super::tail::Tail;
use super::{Bus, BusError, Parameters, stream};
use crate::Future;
use crate::journal::{AppendError, Appended, Bounds, Fence, Journal, JournalError, JournalPage, Size};
use crate::metrics::{AppendOutcome, TailEnd};

/// How long anything else may take, opening a tail included. Requests within it give up sooner.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(10);

/// The journal of a cluster. Cheap to clone.
#[derive(Debug, Clone)]
pub struct NatsJournal(Arc<Inner>);

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) bus: Bus,
    pub(super) parameters: Parameters,
    pub(super) epochs: Epochs,
    _keeping: Aborted,
}

impl NatsJournal {
    /// Creates or verifies the streams, and finds the epochs.
    pub(super) async fn open(bus: &Bus, parameters: &Parameters) -> Result<Self, BusError> {
        let (api, options) = (&bus.0.api, &bus.0.options);
        for shard in parameters.shards.shards() {
            let what = format!("set up the stream {}", stream::name(shard));
            let info = patiently(&what, &bus.0.metrics, || stream::ensure(api, shard, options)).await?;
            stream::verify(api, shard, options, &info).await?;
        }
        let epochs = Epochs::new(bus, parameters.shards);
        patiently("find the journal's epochs", &bus.0.metrics, || epochs.look_at_all()).await?;
        let keeping = Aborted::spawn(epochs.clone().keep());
        Ok(NatsJournal(Arc::new(Inner {
            bus: bus.clone(),
            parameters: *parameters,
            epochs,
            _keeping: keeping,
        })))
    }

    /// The shard's current epoch, as far as this process knows.
    pub fn epoch(&self, shard: Shard) -> Epoch {
        self.0.epochs.current(shard)
    }

    /// One at a time: of two that are under way together, the first may be lost with its connection or
    /// its leader and be stored by a retry after the second.
    fn append(
        &self,
        entries: Vec<NewEntry>,
        fence: Option<Fence>,
    ) -> BoxStream<'static, Result<Appended, AppendError>> {
        let start = (self.clone(), entries.into_iter(), fence);
        futures::stream::unfold(start, |(journal, mut entries, fence)| async move {
            let entry = entries.next()?;
            let started = Instant::now();
            let result = journal.0.append(&entry, fence.as_ref()).await;
            let outcome = match &result {
                Ok(Appended { duplicate: false, .. }) => AppendOutcome::Stored,
                Ok(_) => AppendOutcome::Duplicate,
                Err(AppendError::Full(_)) => AppendOutcome::Full,
                Err(AppendError::Unavailable(_)) => AppendOutcome::Unavailable,
                Err(AppendError::Fenced) => AppendOutcome::Fenced,
                Err(AppendError::Refused(_)) => AppendOutcome::Refused,
            };
            journal.0.bus.0.metrics.append_ended(outcome, started.elapsed().as_secs_f64());
            if result.as_ref().is_err_and(AppendError::may_pass) {
                entries = Vec::new().into_iter();
            }
            Some((result, (journal, entries, fence)))
        })
        .boxed()
    }
}

impl Inner {
    fn rules(&self, shard: Shard) -> Rules {
        Rules::new(shard, &self.parameters)
    }

    async fn read(
        &self,
        shard: Shard,
        after: u64,
        events: usize,
        bytes: usize,
    ) -> Result<JournalPage, ApiError> {
        let (bounds, _) = self.epochs.look(shard).await?;
        let from = after.max(bounds.first.saturating_sub(1));
        if from >= bounds.last {
            // A caller ahead of the journal has a position of another epoch, or one that was lost. Either
            // shows by the tip.
            return Ok(JournalPage {
                epoch: bounds.epoch,
                from,
                to: from,
                tip: bounds.last,
                entries: Vec::new(),
            });
        }
        let link = self.bus.reader_link().await.map_err(|error| ApiError::Unreachable(error.to_string()))?;
        let reader =
            Reader { link, api: &self.bus.0.api, metrics: &self.bus.0.metrics, rules: self.rules(shard) };
        let (entries, to) = reader.page(bounds, from, events, bytes).await?;
        self.epochs.saw_entries(shard, bounds.epoch, &entries);
        self.epochs.saw(shard, bounds.epoch, to);
        let page = JournalPage { epoch: bounds.epoch, from, to, tip: bounds.last.max(to), entries };
        if page.is_dense() {
            return Ok(page);
        }
        // It may have been trimmed while it was read.
        let (now, _) = self.epochs.look(shard).await?;
        Ok(page.begun_at(now.first))
    }

    async fn seek(&self, shard: Shard, time: Timestamp) -> Result<u64, ApiError> {
        let (bounds, info) = self.epochs.look(shard).await?;
        if info.last_time().is_none_or(|last| last < time) {
            return Ok(bounds.last);
        }
        let link = &self.bus.0.main;
        let reader =
            Reader { link, api: &self.bus.0.api, metrics: &self.bus.0.metrics, rules: self.rules(shard) };
        Ok(reader.first_at(time).await?.map_or(bounds.last, |seq| seq - 1))
    }

    async fn trim(&self, through: Position) -> Result<(), JournalError> {
        let unavailable = |error: ApiError| JournalError::Unavailable(error.to_string());
        let Position { shard, epoch, seq: through } = through;
        let (bounds, _) = self.epochs.look(shard).await.map_err(unavailable)?;
        if bounds.epoch != epoch {
            return Err(JournalError::Epoch { shard, epoch: bounds.epoch });
        }
        // A purge beyond the end would move the numbering on.
        let through = through.min(bounds.last);
        if through < bounds.first {
            return Ok(());
        }
        let purge = json!({ "seq": through + 1 });
        let purged =
            self.bus.0.api.call::<Value>(&format!("STREAM.PURGE.{}", stream::name(shard)), &purge).await;
        purged.map(drop).map_err(unavailable)
    }
}

impl Journal for NatsJournal {
    fn shards(&self) -> ShardCount {
        self.0.parameters.shards
    }

    fn frame_bytes(&self) -> usize {
        self.0.parameters.event_bytes
    }

    fn append_in_order(&self, entries: Vec<NewEntry>) -> BoxStream<'static, Result<Appended, AppendError>> {
        self.append(entries, None)
    }

    fn raise(&self, fence: Channel) -> Future<'_, Result<Fence, AppendError>> {
        self.0.raise(fence).boxed()
    }

    fn append_behind(
        &self,
        fence: Fence,
        entries: Vec<NewEntry>,
    ) -> BoxStream<'static, Result<Appended, AppendError>> {
        self.append(entries, Some(fence))
    }

    fn tail(&self, after: Position) -> BoxStream<'static, Result<Entry, JournalError>> {
        enum State {
            Closed(NatsJournal),
            Open(Box<Tail>),
            Ended,
        }
        futures::stream::unfold(State::Closed(self.clone()), move |state| async move {
            let mut tail = match state {
                State::Open(tail) => tail,
                State::Ended => return None,
                State::Closed(NatsJournal(inner)) => {
                    let rules = inner.rules(after.shard);
                    let opening = in_time(Tail::open(inner.bus.clone(), inner.epochs.clone(), rules, after));
                    match opening.await {
                        Ok(tail) => Box::new(tail),
                        Err(error) => {
                            inner.bus.0.metrics.tail_ended(TailEnd::NotOpened);
                            return Some((Err(error), State::Ended));
                        }
                    }
                }
            };
            match tail.next().await {
                Ok(entry) => Some((Ok(entry), State::Open(tail))),
                Err(error) => Some((Err(error), State::Ended)),
            }
        })
        .boxed()
    }

    fn read(
        &self,
        shard: Shard,
        after: u64,
        events: usize,
        bytes: usize,
    ) -> Future<'_, Result<JournalPage, JournalError>> {
        in_time(self.0.read(shard, after, events, bytes).map(unavailable)).boxed()
    }

    fn bounds(&self, shard: Shard) -> Future<'_, Result<Bounds, JournalError>> {
        let looked = self.0.epochs.look(shard);
        in_time(looked.map(|looked| unavailable(looked.map(|(bounds, _)| bounds)))).boxed()
    }

    fn size(&self, shard: Shard) -> Future<'_, Result<Option<Size>, JournalError>> {
        let looked = self.0.epochs.look(shard);
        in_time(looked.map(|looked| unavailable(looked.map(|(_, info)| Some(info.size()))))).boxed()
    }

    fn seek(&self, shard: Shard, time: Timestamp) -> Future<'_, Result<u64, JournalError>> {
        in_time(self.0.seek(shard, time).map(unavailable)).boxed()
    }

    fn begin_anew(
        &self,
        shard: Shard,
        old: Epoch,
        first_seq: Option<u64>,
    ) -> Future<'_, Result<Epoch, JournalError>> {
        let begun = async move {
            let (_, info) = self.0.epochs.look(shard).await?;
            self.0.epochs.begin_anew_from(shard, old, &info, first_seq).await
        };
        in_time(begun.map(unavailable)).boxed()
    }

    fn trim(&self, through: Position) -> Future<'_, Result<(), JournalError>> {
        in_time(self.0.trim(through)).boxed()
    }
}

fn unavailable<T>(result: Result<T, ApiError>) -> Result<T, JournalError> {
    result.map_err(|error| JournalError::Unavailable(error.to_string()))
}

async fn in_time<T>(
    operation: impl std::future::Future<Output = Result<T, JournalError>>,
) -> Result<T, JournalError> {
    match timeout(OPERATION_TIMEOUT, operation).await {
        Ok(result) => result,
        Err(_) => Err(JournalError::Unavailable(format!("no answer within {OPERATION_TIMEOUT:?}"))),
    }
}
