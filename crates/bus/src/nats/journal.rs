//! The journal on JetStream: one stream per shard.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Request, RequestErrorKind};
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use foghorn_core::entry::{Entry, NewEntry};
use foghorn_core::position::{Epoch, Position};
use foghorn_core::shard::{Shard, ShardCount};
use foghorn_core::time::Timestamp;

use super::api::{ApiError, Refusal};
use super::epoch::Epochs;
use super::message::{Rules, headers};
use super::read::Reader;
use super::setup::{Aborted, patiently};
use super::tail::Tail;
use super::{Bus, BusError, Parameters, stream};
use crate::Future;
use crate::backoff::Backoff;
use crate::journal::{AppendError, Appended, Bounds, Journal, JournalError, JournalPage};
use crate::metrics::{AppendOutcome, TailEnd};

/// How long an append is tried. A stream whose leader was killed takes none for 4 to 7 s.
const APPEND_DEADLINE: Duration = Duration::from_secs(15);
/// How long one try waits for its ack.
const ACK_TIMEOUT: Duration = Duration::from_millis(2500);

/// How long anything else may take, opening a tail included. Requests within it give up sooner.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(10);

/// The journal of a cluster. Cheap to clone.
#[derive(Debug, Clone)]
pub struct NatsJournal(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    bus: Bus,
    parameters: Parameters,
    epochs: Epochs,
    _keeping: Aborted,
}

/// What the server answers to a publish.
#[derive(Debug, Deserialize)]
struct PubAck<'a> {
    #[serde(borrow, default)]
    stream: Cow<'a, str>,
    #[serde(default)]
    seq: u64,
    #[serde(default)]
    duplicate: bool,
    error: Option<Refusal>,
}

/// How one try of an append ended.
enum Try {
    Done(Result<Appended, AppendError>),
    /// Surely not stored; worth another try.
    NotStored(String),
    /// Nobody knows; worth another try with the same key.
    Unknown(String),
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

    async fn append_within_deadline(&self, entry: NewEntry) -> Result<Appended, AppendError> {
        let inner = &*self.0;
        let shard = inner.parameters.shards.shard_of(&entry.event.channel);
        let subject = format!("{}{}", stream::subject_prefix(shard), entry.event.channel.as_str());
        let deadline = Instant::now() + APPEND_DEADLINE;
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
        // An earlier try may have been stored without our hearing of it.
        let mut may_be_stored = false;
        loop {
            let why = match self.try_append(shard, &subject, &entry, deadline, may_be_stored).await {
                Try::Done(result) => return result,
                Try::NotStored(why) => why,
                Try::Unknown(why) => {
                    may_be_stored = true;
                    why
                }
            };
            let wait = backoff.next_wait();
            if Instant::now() + wait >= deadline {
                return Err(AppendError::Unavailable(why));
            }
            inner.bus.0.metrics.append_retries.inc();
            sleep(wait).await;
        }
    }

    async fn try_append(
        &self,
        shard: Shard,
        subject: &str,
        entry: &NewEntry,
        deadline: Instant,
        may_be_stored: bool,
    ) -> Try {
        let inner = &*self.0;
        // Into a broken connection requests only queue up, to be sent when nobody waits for them.
        if !inner.bus.until_connected(deadline).await {
            return Try::NotStored("no connection to NATS".to_owned());
        }
        // Whatever is stored from now on is numbered above what was seen until now.
        let (_, seen) = inner.epochs.seen(shard);
        let request = Request::new().headers(headers(entry)).payload(entry.event.data.as_bytes().clone());
        // One timer, over queueing and ack; the request's own is off.
        let request = inner.bus.0.client.send_request(subject.to_owned(), request.timeout(None));
        let answer = match timeout_at(deadline.min(Instant::now() + ACK_TIMEOUT), request).await {
            Err(_) => return Try::Unknown("no ack in time".to_owned()),
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => match error.kind() {
                RequestErrorKind::NoResponders => {
                    // No leader, or no stream any more.
                    inner.epochs.suspect();
                    return Try::NotStored("no leader of the stream answers".to_owned());
                }
                RequestErrorKind::MaxPayloadExceeded => {
                    return Try::Done(Err(AppendError::Refused(error.to_string())));
                }
                _ => return Try::Unknown(error.to_string()),
            },
        };
        let ack: PubAck<'_> = match serde_json::from_slice(&answer.payload) {
            Ok(ack) => ack,
            Err(error) => return Try::Unknown(format!("unreadable ack: {error}")),
        };
        match ack.error {
            None => {}
            Some(Refusal { description, .. }) if description.starts_with("maximum bytes") => {
                return Try::Done(Err(AppendError::Full(shard)));
            }
            Some(refusal) if refusal.may_pass() => {
                return Try::NotStored(ApiError::Refused(refusal).to_string());
            }
            Some(refusal) => {
                return Try::Done(Err(AppendError::Refused(ApiError::Refused(refusal).to_string())));
            }
        }
        // In place of a header that every entry would carry for ever.
        if ack.stream != stream::name(shard) {
            let why = format!("the stream {} took it, which is none of ours", ack.stream);
            return Try::Done(Err(AppendError::Refused(why)));
        }
        if !ack.duplicate && ack.seq <= seen {
            // The stream began anew, or lost its tail, and we are the first to notice.
            if let Err(error) = inner.renumbered(shard).await {
                return Try::Unknown(format!("the journal's epoch is changing: {error}"));
            }
        }
        let epoch = inner.epochs.current(shard);
        inner.epochs.saw(shard, epoch, ack.seq);
        // An invented key can only be met again by our own earlier try. A publisher's id may also be
        // that of an earlier publish; JetStream can't tell, so a retried first publish may be reported
        // as a duplicate.
        let duplicate = ack.duplicate && !(may_be_stored && entry.event.id.is_none());
        Try::Done(Ok(Appended { position: Position { shard, epoch, seq: ack.seq }, duplicate }))
    }
}

impl Inner {
    /// A seq was given out again: the epoch is new, unless another process noticed first.
    async fn renumbered(&self, shard: Shard) -> Result<(), ApiError> {
        let (before, _) = self.epochs.seen(shard);
        let info = stream::info(&self.bus.0.api, shard).await?;
        self.epochs.begin_anew(shard, before, &info).await?;
        Ok(())
    }

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
        let (bounds, _) = self.epochs.look(shard, 0).await?;
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
        let client = self.bus.reader().await.map_err(|error| ApiError::Unreachable(error.to_string()))?;
        let reader =
            Reader { client, api: &self.bus.0.api, metrics: &self.bus.0.metrics, rules: self.rules(shard) };
        let (entries, to) = reader.page(bounds, from, events, bytes).await?;
        self.epochs.saw(shard, bounds.epoch, to);
        Ok(JournalPage { epoch: bounds.epoch, from, to, tip: bounds.last.max(to), entries })
    }

    async fn seek(&self, shard: Shard, time: Timestamp) -> Result<u64, ApiError> {
        let (bounds, info) = self.epochs.look(shard, 0).await?;
        if info.last_time().is_none_or(|last| last < time) {
            return Ok(bounds.last);
        }
        let client = &self.bus.0.client;
        let reader =
            Reader { client, api: &self.bus.0.api, metrics: &self.bus.0.metrics, rules: self.rules(shard) };
        Ok(reader.first_at(time).await?.map_or(bounds.last, |seq| seq - 1))
    }

    async fn trim(&self, shard: Shard, through: u64) -> Result<(), JournalError> {
        let unavailable = |error: ApiError| JournalError::Unavailable(error.to_string());
        let believed = self.epochs.current(shard);
        let (bounds, _) = self.epochs.look(shard, 0).await.map_err(unavailable)?;
        if bounds.epoch != believed {
            // What the caller wants forgotten is of another journal.
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

    fn append(&self, entry: NewEntry) -> Future<'_, Result<Appended, AppendError>> {
        async move {
            let started = Instant::now();
            let result = self.append_within_deadline(entry).await;
            let outcome = match &result {
                Ok(Appended { duplicate: false, .. }) => AppendOutcome::Stored,
                Ok(_) => AppendOutcome::Duplicate,
                Err(AppendError::Full(_)) => AppendOutcome::Full,
                Err(AppendError::Unavailable(_)) => AppendOutcome::Unavailable,
                Err(AppendError::Refused(_)) => AppendOutcome::Refused,
            };
            self.0.bus.0.metrics.append_ended(outcome, started.elapsed().as_secs_f64());
            result
        }
        .boxed()
    }

    fn tail(&self, shard: Shard, after: u64) -> BoxStream<'static, Result<Entry, JournalError>> {
        enum State {
            Closed(NatsJournal, Epoch, u64),
            Open(Box<Tail>),
            Ended,
        }
        // The epoch that `after` is of: the current one when the tail is asked for, not when it is opened.
        let closed = State::Closed(self.clone(), self.epoch(shard), after);
        futures::stream::unfold(closed, move |state| async move {
            let mut tail = match state {
                State::Open(tail) => tail,
                State::Ended => return None,
                State::Closed(NatsJournal(inner), epoch, after) => {
                    let (bus, epochs, rules) = (inner.bus.clone(), inner.epochs.clone(), inner.rules(shard));
                    let opening = in_time(Tail::open(bus, epochs, rules, epoch, after));
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
        let looked = self.0.epochs.look(shard, 0);
        in_time(looked.map(|looked| unavailable(looked.map(|(bounds, _)| bounds)))).boxed()
    }

    fn seek(&self, shard: Shard, time: Timestamp) -> Future<'_, Result<u64, JournalError>> {
        in_time(self.0.seek(shard, time).map(unavailable)).boxed()
    }

    fn trim(&self, shard: Shard, through: u64) -> Future<'_, Result<(), JournalError>> {
        in_time(self.0.trim(shard, through)).boxed()
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
