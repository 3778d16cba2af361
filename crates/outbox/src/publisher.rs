//! The outbox publisher: drains the outbox into the journal.
//!
//! One process at a time does. Whatever goes wrong ends its tenure, and the next one, of this process or
//! another, begins with what the tables say was being tried: there is no other state.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use foghorn_bus::backoff::{Backoff, Rarely};
use foghorn_bus::journal::{AppendError, Journal, JournalError};
use foghorn_bus::log::EventLog;
use foghorn_bus::policies::SharedPolicies;
use foghorn_core::channel::Channel;
use foghorn_core::entry::NewEntry;
use foghorn_telemetry::shutdown::Shutdown;
use futures::StreamExt;
use futures::future::try_join_all;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::authority::{Authority, Expired};
use crate::event::{Made, make};
use crate::fences::{Fences, LANES, Lane};
use crate::lookup::{LookupError, find};
use crate::metrics::{Metrics, Outcome};
use crate::table::{Attempt, LEASE, Outbox, OutboxError, Takeover, Tip};

/// How often the lease is renewed, and how soon again when that failed.
const RENEW_EVERY: Duration = Duration::from_secs(1);
const RENEW_AGAIN: Duration = Duration::from_millis(200);
/// How often a candidate looks, at most.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How often it is looked for rows: for a while after the last ones, and after that, when transactions notify.
const LOOK_BUSY: Duration = Duration::from_millis(50);
const LOOK_ASLEEP: Duration = Duration::from_secs(1);
/// For how long nothing must have come before transactions are asked to notify. So many times a second at most
/// is one of them slowed by it.
const ASLEEP_AFTER: Duration = Duration::from_secs(1);
/// How often the journal may refuse an event before it is set aside; with the pauses between, half a minute
/// or more.
const REFUSALS_MAX: u32 = 20;
/// How often the backlog is measured.
const MEASURE_EVERY: Duration = Duration::from_secs(5);
/// Longest that the end of a process waits to give up its lease.
const RELEASE_MOST: Duration = Duration::from_secs(2);

/// Drains an outbox.
#[derive(Clone)]
pub struct OutboxPublisher {
    /// What.
    pub outbox: Outbox,
    /// To where.
    pub journal: Arc<dyn Journal>,
    /// Where to look for what the journal has no more.
    pub log: Arc<dyn EventLog>,
    /// How large events may be.
    pub policies: SharedPolicies,
    /// What is counted.
    pub metrics: Metrics,
}

/// Why a tenure ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error(transparent)]
    Outbox(#[from] OutboxError),
    #[error(transparent)]
    Expired(#[from] Expired),
}

/// Why something is tried again.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(transparent)]
    Append(#[from] AppendError),
    #[error("can't look for what was tried before: {0}")]
    Lookup(#[from] LookupError),
}

struct Tenure<'a> {
    publisher: &'a OutboxPublisher,
    term: i64,
    authority: Authority,
    fences: Fences,
    /// Rung by transactions.
    bell: Notify,
}

/// How a try of several events went.
#[derive(Default)]
struct Round {
    done: Vec<i64>,
    /// No events, and why.
    rejected: Vec<(i64, String)>,
    /// What the journal refused, for what may be a reason of the event's.
    refused: Vec<(i64, String)>,
    failure: Option<AppendError>,
}

impl OutboxPublisher {
    /// Drains until `shutdown`, whenever no other does, and measures what waits, whoever drains. May also be
    /// dropped at any moment: that is a crash like another.
    pub async fn run(&self, shutdown: &Shutdown) {
        tokio::select! {
            biased;
            () = self.tenures(shutdown) => {}
            never = self.measure() => match never {},
        }
    }

    async fn tenures(&self, shutdown: &Shutdown) {
        let mut backoff = Backoff::default();
        loop {
            let (tenure, attempt) = tokio::select! {
                biased;
                () = shutdown.wait() => return,
                taken = self.take_over() => taken,
            };
            self.metrics.drains(true);
            tracing::info!(term = tenure.term, left_over = attempt.rows.len(), "draining the outbox");
            let begun = Instant::now();
            let ended = tokio::select! {
                biased;
                () = shutdown.wait() => None,
                ended = tenure.hold(attempt) => Some(ended),
            };
            self.metrics.drains(false);
            match ended {
                None => {
                    // What was under way is looked for by whoever is next.
                    drop(timeout(RELEASE_MOST, self.outbox.release(tenure.term)).await);
                    return;
                }
                Some(Ended::Outbox(OutboxError::Fenced)) => {
                    self.metrics.fenced();
                    tracing::warn!(term = tenure.term, "another process drains the outbox by now");
                }
                Some(error) => {
                    self.metrics.failed("database");
                    tracing::warn!(%error, "draining the outbox was interrupted and is tried again; what waits is kept");
                }
            }
            if begun.elapsed() > LEASE {
                backoff.reset();
            }
            tokio::select! {
                biased;
                () = shutdown.wait() => return,
                () = backoff.wait() => {}
            }
        }
    }

    /// Waits until nobody else drains.
    async fn take_over(&self) -> (Tenure<'_>, Attempt) {
        let mut backoff = Backoff::default();
        let rarely = Rarely::default();
        loop {
            let begun = Instant::now();
            match self.outbox.take_over().await {
                Ok(Some(Takeover { term, name, attempt })) => {
                    let authority = Authority::until(begun + LEASE);
                    let fences = Fences::new(&name, self.journal.shards());
                    let tenure = Tenure { publisher: self, term, authority, fences, bell: Notify::new() };
                    return (tenure, attempt);
                }
                Ok(None) => {
                    backoff.reset();
                    sleep(LOOK_EVERY.mul_f64(1.0 - rand::random::<f64>() / 2.0)).await;
                }
                Err(error) => {
                    self.metrics.failed("database");
                    if rarely.now() {
                        tracing::warn!(%error, "the outbox can't be reached; trying again");
                    }
                    backoff.wait().await;
                }
            }
        }
    }

    async fn measure(&self) -> Infallible {
        loop {
            match self.outbox.backlog().await {
                Ok(backlog) => self.metrics.waits(backlog),
                Err(error) => {
                    self.metrics.failed("database");
                    tracing::debug!(%error, "the outbox's backlog is not known");
                }
            }
            sleep(MEASURE_EVERY).await;
        }
    }
}

impl Tenure<'_> {
    async fn hold(&self, attempt: Attempt) -> Ended {
        tokio::select! {
            biased;
            ended = self.keep() => ended,
            ended = self.work(attempt) => match ended {
                Ok(never) => match never {},
                Err(ended) => ended,
            },
            never = self.listen() => match never {},
        }
    }

    /// Renews the lease, until that fails for too long.
    async fn keep(&self) -> Ended {
        loop {
            sleep(RENEW_EVERY).await;
            loop {
                let (begun, ends) = (Instant::now(), self.authority.ends());
                match timeout_at(ends, self.publisher.outbox.renew(self.term)).await {
                    Ok(Ok(())) => {
                        self.authority.extend(begun + LEASE);
                        break;
                    }
                    Ok(Err(OutboxError::Fenced)) => return OutboxError::Fenced.into(),
                    Ok(Err(error)) if Instant::now() >= ends => return error.into(),
                    Ok(Err(_)) => sleep(RENEW_AGAIN).await,
                    Err(_) => return Expired.into(),
                }
            }
        }
    }

    /// Hears notifications. Without them the outbox is looked at all the same, only later.
    async fn listen(&self) -> Infallible {
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
        loop {
            if let Ok(mut doorbell) = self.publisher.outbox.doorbell().await {
                while doorbell.recv().await.is_ok() {
                    backoff.reset();
                    self.bell.notify_one();
                }
            }
            self.publisher.metrics.failed("notifications");
            backoff.wait().await;
        }
    }

    async fn work(&self, left_over: Attempt) -> Result<Infallible, Ended> {
        let mut attempt = left_over;
        // Nobody knows how it ended.
        let mut tried = true;
        let mut refusals: HashMap<i64, u32> = HashMap::new();
        let (mut backoff, rarely) = (Backoff::default(), Rarely::default());
        loop {
            let failure = if attempt.rows.is_empty() {
                self.wait_for_some().await?;
                match self.tips().await {
                    Ok(tips) => {
                        attempt = self.publisher.outbox.take(self.term, tips).await?;
                        tried = false;
                        None
                    }
                    Err(error) => Some(Failure::from(error)),
                }
            } else {
                let known = if tried { self.settle_what_is_there(&mut attempt).await? } else { Ok(()) };
                match known {
                    Ok(()) => {
                        tried = true;
                        self.try_all(&mut attempt, &mut refusals).await?
                    }
                    Err(failure) => Some(failure),
                }
            };
            let Some(failure) = failure else {
                if attempt.rows.is_empty() {
                    refusals.clear();
                }
                backoff.reset();
                continue;
            };
            self.publisher.metrics.failed(match &failure {
                Failure::Lookup(LookupError::Log(_)) => "log",
                Failure::Append(AppendError::Fenced) => "fence",
                _ => "journal",
            });
            if rarely.now() {
                tracing::warn!(error = %failure, "events wait in the outbox; trying again");
            }
            backoff.wait().await;
        }
    }

    /// Takes out of an attempt what an earlier try brought into the journal, having made sure that nothing more
    /// of it comes.
    async fn settle_what_is_there(&self, attempt: &mut Attempt) -> Result<Result<(), Failure>, Ended> {
        let OutboxPublisher { journal, log, metrics, .. } = self.publisher;
        let raised =
            try_join_all(self.lanes(attempt).into_iter().map(|lane| self.fences.raise(&**journal, lane)));
        if let Err(error) = self.authority.guard(raised).await? {
            return Ok(Err(error.into()));
        }
        let found = match find(&**journal, &**log, attempt).await {
            Ok(found) => found,
            Err(error) => return Ok(Err(error.into())),
        };
        if !found.is_empty() {
            let done: Vec<i64> = found.iter().copied().collect();
            self.settle(attempt, &found, &done).await?;
            done.iter().for_each(|_| metrics.left(Outcome::Found));
        }
        Ok(Ok(()))
    }

    /// The lanes of what may have been tried.
    fn lanes(&self, attempt: &Attempt) -> BTreeSet<Lane> {
        let channels = attempt.rows.iter().filter_map(|row| Channel::parse(row.channel.as_str()).ok());
        channels.map(|channel| self.fences.lane(&channel)).collect()
    }

    /// Tries to publish all of an attempt, and leaves in it what has to be tried again.
    async fn try_all(
        &self,
        attempt: &mut Attempt,
        refusals: &mut HashMap<i64, u32>,
    ) -> Result<Option<Failure>, Ended> {
        let OutboxPublisher { outbox, metrics, .. } = self.publisher;
        let Round { done, mut rejected, refused, failure } = self.round(attempt).await?;
        for (serial, reason) in refused {
            let times = refusals.entry(serial).or_default();
            *times += 1;
            if *times >= REFUSALS_MAX {
                rejected.push((serial, format!("refused: {reason}")));
            }
        }
        for (serial, reason) in &rejected {
            tracing::error!(serial, reason, "an event of the outbox can't be published and is set aside");
            outbox.set_aside(self.term, *serial, reason).await?;
            metrics.left(Outcome::Rejected);
        }
        let gone = done.iter().chain(rejected.iter().map(|(serial, _)| serial)).copied().collect();
        self.settle(attempt, &gone, &done).await?;
        Ok(failure.map(Failure::from))
    }

    /// Takes rows out of an attempt, here and in the tables.
    async fn settle(&self, attempt: &mut Attempt, gone: &HashSet<i64>, done: &[i64]) -> Result<(), Ended> {
        let kept = |serial: &i64| !gone.contains(serial);
        let left: Vec<i64> = attempt.rows.iter().map(|row| row.serial).filter(kept).collect();
        self.publisher.outbox.settle(self.term, done, &left).await?;
        attempt.rows.retain(|row| kept(&row.serial));
        Ok(())
    }

    async fn round(&self, attempt: &Attempt) -> Result<Round, Expired> {
        let OutboxPublisher { journal, policies, metrics, .. } = self.publisher;
        let waited = attempt.read_at.elapsed();
        let mut round = Round::default();
        let mut runs: BTreeMap<Lane, Vec<(i64, Duration, NewEntry)>> = BTreeMap::new();
        for row in &attempt.rows {
            match make(row, waited, &policies.get(), journal.frame_bytes()) {
                Ok(Made::Entry(entry)) => {
                    let run = runs.entry(self.fences.lane(&entry.event.channel)).or_default();
                    run.push((row.serial, row.age + waited, *entry));
                }
                Ok(Made::Expired) => {
                    metrics.left(Outcome::Expired);
                    round.done.push(row.serial);
                }
                Err(error) => round.rejected.push((row.serial, format!("{}: {error}", error.code()))),
            }
        }
        let running = runs.into_iter().map(|(lane, run)| self.append(lane, run));
        let mut running = futures::stream::iter(running).buffer_unordered(LANES);
        while let Some(ran) = running.next().await {
            let Round { done, refused, failure, .. } = ran?;
            round.done.extend(done);
            round.refused.extend(refused);
            round.failure = round.failure.or(failure);
        }
        Ok(round)
    }

    /// Appends events of one lane, each after the one before it, up to the first that fails: nothing may
    /// overtake it.
    async fn append(&self, lane: Lane, run: Vec<(i64, Duration, NewEntry)>) -> Result<Round, Expired> {
        let OutboxPublisher { journal, metrics, .. } = self.publisher;
        let mut round = Round::default();
        let fence = match self.authority.guard(self.fences.standing(&**journal, lane)).await? {
            Ok(fence) => fence,
            Err(error) => {
                round.failure = Some(error);
                return Ok(round);
            }
        };
        let (mut waiting, mut entries) = (Vec::with_capacity(run.len()), Vec::with_capacity(run.len()));
        for (serial, age, entry) in run {
            waiting.push((serial, age));
            entries.push(entry);
        }
        let mut answers = journal.append_behind(fence, entries);
        let begun = Instant::now();
        for (serial, age) in waiting {
            match self.authority.guard(answers.next()).await? {
                Some(Ok(appended)) => {
                    metrics.left(if appended.duplicate { Outcome::Duplicate } else { Outcome::Published });
                    metrics.published_after(age + begun.elapsed());
                    round.done.push(serial);
                }
                Some(Err(error)) => {
                    if !error.may_pass() {
                        round.refused.push((serial, error.to_string()));
                    }
                    round.failure = Some(error);
                    break;
                }
                None => {
                    round.failure = Some(AppendError::Unavailable("the journal is closed".to_owned()));
                    break;
                }
            }
        }
        Ok(round)
    }

    /// Waits until there are rows. After a while without any it has transactions notify, and looks again: one
    /// that committed before it could know of that is found at the next look.
    async fn wait_for_some(&self) -> Result<(), Ended> {
        let OutboxPublisher { outbox, .. } = self.publisher;
        let (begun, mut asleep, mut rang) = (Instant::now(), false, false);
        while !outbox.has_some().await? {
            if asleep {
                if rang {
                    // Anybody in the database may ring, for nothing and as often as they like.
                    sleep(LOOK_BUSY).await;
                }
                rang = timeout(LOOK_ASLEEP, self.bell.notified()).await.is_ok();
            } else if begun.elapsed() >= ASLEEP_AFTER {
                outbox.ask_to_be_notified(self.term).await?;
                asleep = true;
            } else {
                sleep(LOOK_BUSY).await;
            }
        }
        Ok(())
    }

    /// Where the journal of each shard ends: what is appended from now on is after that.
    async fn tips(&self) -> Result<Vec<Tip>, JournalError> {
        let journal = &self.publisher.journal;
        let bounds = try_join_all(journal.shards().shards().map(|shard| journal.bounds(shard))).await?;
        Ok(bounds.into_iter().map(|bounds| Tip { epoch: bounds.epoch, seq: bounds.last }).collect())
    }
}
