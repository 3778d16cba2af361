//! The log's tables in memory: what the statements do, without PostgreSQL. For simulations, in which writer
//! and readers are the product's own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use foghorn_bus::Future;
use foghorn_bus::log::LogError;
use foghorn_core::policy::{Policies, RetentionClass};
use foghorn_core::position::{Digest, Epoch};
use foghorn_core::shard::Shard;
use foghorn_core::time::Timestamp;
use parking_lot::Mutex;

use super::Database;
use super::append::{Batch, Sorted};
use super::connection::Store;
use super::partitions::slice;
use super::resend::{Lost, LostRow, PAGE};
use super::state::{Kept, WriteError, WriterHead};
use crate::record::Record;
use crate::source::{Limit, Order, Rows, Source, Span};
use crate::standing::{Ancestor, Standing, era_text, parse_era};
use crate::topics::Topics;

/// The tables. A clone is the same tables.
#[derive(Debug, Clone, Default)]
pub struct Tables(Arc<Mutex<State>>);

/// What the tables held at a moment, as a backup has it.
#[derive(Debug, Clone)]
pub struct Backup(State);

/// The way from a process to the tables. It may delay, or fail: before a statement it has not happened, after
/// it the answer is lost.
pub trait Link: std::fmt::Debug + Send + Sync + 'static {
    /// Passes on the way there.
    fn ask(&self, statement: &'static str) -> Future<'_, Result<(), String>>;
    /// Passes on the way back.
    fn answer(&self, statement: &'static str) -> Future<'_, Result<(), String>>;
}

#[derive(Debug, Clone, Default)]
struct State {
    shards: BTreeMap<Shard, Row>,
    events: BTreeMap<(Shard, Epoch, u64), Event>,
    floors: BTreeMap<(Shard, Epoch, RetentionClass), u64>,
    holes: Vec<(Shard, Epoch, u64, u64)>,
    ancestors: BTreeMap<(Shard, Epoch), Ancestor>,
    eras: BTreeMap<(Shard, Epoch, u64), String>,
    lost: BTreeMap<(Shard, Epoch, u64), (u64, Timestamp)>,
    broken: Broken,
    evidence: Evidence,
}

/// What is broken on purpose, to see what comes of it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Broken {
    /// Nobody compares the head and its digest with what a writer believes.
    pub heads_unfenced: bool,
    /// Nobody compares the term and the epoch.
    pub terms_unfenced: bool,
    /// The log can't be compared with the journal: it knows no digests.
    pub digests_unknown: bool,
    /// Nobody finds what is to come back.
    pub lost_forgotten: bool,
    /// A connection says what is gone as it was when it was first asked.
    pub asked_once: bool,
}

/// What happened in the tables, whatever they hold now.
#[derive(Debug, Clone, Default)]
struct Evidence {
    /// Rows stored at a position that had one.
    doubles: u64,
    /// What retention took, or never let in: it had expired already.
    gone: Vec<(Shard, u64, RetentionClass)>,
    holes: Vec<(Shard, u64, u64)>,
    data: BTreeSet<(Shard, Vec<u8>)>,
}

#[derive(Debug, Clone)]
struct Row {
    epoch: Epoch,
    start: u64,
    head: u64,
    digest: Digest,
    term: u64,
}

#[derive(Debug, Clone)]
struct Event {
    record: Record,
    class: RetentionClass,
}

/// A process's connection.
#[derive(Debug, Clone)]
pub(super) struct Session {
    tables: Tables,
    link: Arc<dyn Link>,
    classes: Option<BTreeSet<RetentionClass>>,
    /// The epochs that the current one continues, as last read.
    ancestors: Vec<Ancestor>,
    /// What was said of a shard first.
    said: Option<(Standing, Digest)>,
}

/// How long an epoch is remembered after the next one began, as by retention.
const ANCESTOR_KEPT_SECONDS: u64 = 3600;

impl Tables {
    /// The database as a process sees it over `link`.
    pub fn database(&self, link: Arc<dyn Link>) -> Database {
        Database::on(Store::Memory(Session {
            tables: self.clone(),
            link,
            classes: None,
            ancestors: Vec::new(),
            said: None,
        }))
    }

    /// What they hold now.
    pub fn backup(&self) -> Backup {
        Backup(self.0.lock().clone())
    }

    /// Has them hold what they held then.
    pub fn restore(&self, backup: &Backup) {
        let mut now = self.0.lock();
        let (evidence, broken) = (std::mem::take(&mut now.evidence), now.broken);
        *now = State { evidence, broken, ..backup.0.clone() };
    }

    /// Drops what retention would at `now`, whole slices of a class; how many events went.
    pub fn expire(&self, now: Timestamp) -> usize {
        let mut state = self.0.lock();
        let before = state.events.len();
        let is_over = |event: &Event| {
            let (_, to) = slice(event.class, event.record.time);
            Timestamp::from_micros(to).plus(event.class.age()) <= now
        };
        let gone: Vec<_> =
            state.events.iter().filter(|(_, event)| is_over(event)).map(|(at, e)| (*at, e.class)).collect();
        for ((shard, epoch, seq), class) in gone {
            state.events.remove(&(shard, epoch, seq));
            let Some(current) = state.shards.get(&shard).map(|row| row.epoch) else { continue };
            let inherited = state.ancestors.get(&(shard, epoch)).is_some_and(|a| seq <= a.upto);
            if current == epoch || inherited {
                let floor = state.floors.entry((shard, current, class)).or_default();
                *floor = (*floor).max(seq);
                state.evidence.gone.push((shard, seq, class));
            }
        }
        let seconds = u64::try_from(now.as_micros() / 1_000_000).unwrap_or(0);
        state.forget_ancestors(Epoch::new(seconds.saturating_sub(ANCESTOR_KEPT_SECONDS)));
        before - state.events.len()
    }

    /// From now on this is broken.
    pub fn break_on_purpose(&self, broken: Broken) {
        self.0.lock().broken = broken;
    }

    /// What is gone by its age: shard, seq, class.
    pub fn gone(&self) -> Vec<(Shard, u64, RetentionClass)> {
        self.0.lock().evidence.gone.clone()
    }

    /// Every hole that was ever recorded: shard, and the range `(after, upto]`.
    pub fn holes(&self) -> Vec<(Shard, u64, u64)> {
        self.0.lock().evidence.holes.clone()
    }

    /// Whether an event with these data was ever stored.
    pub fn ever_held(&self, shard: Shard, data: &str) -> bool {
        self.0.lock().evidence.data.contains(&(shard, data.as_bytes().to_vec()))
    }

    /// How many epochs are remembered that a later one continues.
    pub fn ancestors(&self) -> usize {
        self.0.lock().ancestors.len()
    }

    /// How many ranges wait to come back.
    pub fn lost(&self) -> usize {
        self.0.lock().lost.len()
    }

    /// How often a row was stored at a position that had one: never, if writers are fenced.
    pub fn doubles(&self) -> u64 {
        self.0.lock().evidence.doubles
    }

    /// Epoch and head of a shard, as far as the log has followed.
    pub fn head(&self, shard: Shard) -> Option<(Epoch, u64)> {
        self.0.lock().shards.get(&shard).map(|row| (row.epoch, row.head))
    }

    /// The seqs and digests of what is stored of a shard's current epoch, in order.
    pub fn stored(&self, shard: Shard) -> Vec<(u64, Digest)> {
        let state = self.0.lock();
        let Some(row) = state.shards.get(&shard) else { return Vec::new() };
        let whole = Span { shard, epoch: row.epoch, after: 0, upto: u64::MAX };
        let events = state.span(whole, &state.ancestors_of(shard));
        events.iter().map(|event| (event.record.seq, event.record.digest())).collect()
    }
}

impl State {
    /// The row, if the head is still what a writer believes.
    fn fenced(&mut self, head: &WriterHead) -> Result<&mut Row, WriteError> {
        let row = self.shards.get_mut(&head.shard).ok_or(WriteError::Fenced)?;
        let Broken { heads_unfenced, terms_unfenced, .. } = self.broken;
        let term = terms_unfenced || row.epoch == head.epoch && row.term == head.term;
        let head = heads_unfenced || row.head == head.seq && row.digest == head.digest;
        if term && head { Ok(row) } else { Err(WriteError::Fenced) }
    }

    /// Forgets the oldest epochs of which nothing is kept, if the next one began by `old`.
    fn forget_ancestors(&mut self, old: Epoch) {
        let State { ancestors, events, shards, .. } = self;
        let all: Vec<(Shard, Epoch)> = ancestors.keys().copied().collect();
        ancestors.retain(|(shard, epoch), _| {
            let kept = events.range((*shard, Epoch::new(0), 0)..=(*shard, *epoch, u64::MAX)).next().is_some();
            let current = shards.get(shard).map(|row| (*shard, row.epoch));
            let mut later = all.iter().copied().chain(current);
            kept || !later.any(|(of, next)| of == *shard && next > *epoch && next <= old)
        });
    }

    fn standing(&self, shard: Shard) -> Result<Option<(Standing, Digest)>, LogError> {
        let Some(row) = self.shards.get(&shard).filter(|row| row.epoch.get() > 0) else { return Ok(None) };
        let of_epoch = |at: &(Shard, Epoch)| *at == (shard, row.epoch);
        let eras = self.eras.iter().filter(|((s, e, _), _)| of_epoch(&(*s, *e)));
        let floors = self.floors.iter().filter(|((s, e, _), _)| of_epoch(&(*s, *e)));
        let holes = self.holes.iter().filter(|(s, e, ..)| of_epoch(&(*s, *e)));
        let standing = Standing {
            tip: row.head,
            term: row.term,
            floors: floors.map(|((_, _, class), seq)| (*class, *seq)).collect(),
            ancestors: self.ancestors_of(shard),
            holes: holes.map(|(_, _, after, upto)| (*after, *upto)).collect(),
            eras: eras.map(|((.., since), text)| parse_era(*since, text)).collect::<Result<_, _>>()?,
            ..Standing::empty(row.epoch, row.start)
        };
        Ok(Some((standing, row.digest)))
    }

    fn ancestors_of(&self, shard: Shard) -> Vec<Ancestor> {
        self.ancestors.iter().filter(|((of, _), _)| *of == shard).map(|(_, ancestor)| *ancestor).collect()
    }

    /// The events of a span, in order, those of the epochs that its epoch continues included.
    fn span(&self, span: Span, ancestors: &[Ancestor]) -> Vec<&Event> {
        let of_epoch = |epoch: Epoch, upto: u64| {
            let from = span.after.saturating_add(1);
            let range = (upto >= from)
                .then(|| self.events.range((span.shard, epoch, from)..=(span.shard, epoch, upto)));
            range.into_iter().flatten().map(|(_, event)| event)
        };
        let inherited = ancestors.iter().filter(|ancestor| ancestor.epoch < span.epoch);
        let inherited = inherited.flat_map(|ancestor| of_epoch(ancestor.epoch, ancestor.upto.min(span.upto)));
        inherited.chain(of_epoch(span.epoch, span.upto)).collect()
    }

    /// What the log has in common with the epoch that begins is taken over into it.
    fn inherit(&mut self, shard: Shard, old: Epoch, epoch: Epoch, kept: Kept) {
        if old < epoch {
            for ((of, before), ancestor) in &mut self.ancestors {
                if *of == shard && *before < epoch {
                    ancestor.upto = ancestor.upto.min(kept.through);
                    ancestor.common = ancestor.common.min(kept.common);
                }
            }
            let ancestor = Ancestor { epoch: old, upto: kept.through, common: kept.common };
            self.ancestors.insert((shard, old), ancestor);
        }
        let floors: Vec<_> = self.floors.iter().filter(|((s, e, _), _)| (*s, *e) == (shard, old)).collect();
        let floors: Vec<_> = floors.into_iter().map(|((.., class), seq)| (*class, *seq)).collect();
        for (class, seq) in floors {
            self.floors.remove(&(shard, old, class));
            self.floors.insert((shard, epoch, class), seq.min(kept.through));
        }
        let holes =
            self.holes.iter().filter(|(s, e, after, _)| (*s, *e) == (shard, old) && *after < kept.through);
        let holes: Vec<_> =
            holes.map(|(_, _, after, upto)| (shard, epoch, *after, (*upto).min(kept.through))).collect();
        self.holes.extend(holes);
        let eras = self.eras.range((shard, old, 0)..=(shard, old, kept.through));
        let eras: Vec<_> = eras.map(|((.., since), text)| (*since, text.clone())).collect();
        for (since, text) in eras {
            self.eras.remove(&(shard, old, since));
            self.eras.insert((shard, epoch, since), text);
        }
    }

    /// What the log has of epochs before this one beyond `through` is to come back.
    fn write_down(&mut self, head: WriterHead, epoch: Epoch, through: u64, since: Timestamp) {
        let ancestors = self.ancestors_of(head.shard).into_iter().map(|a| (a.epoch, a.upto));
        let had = ancestors.chain([(head.epoch, head.seq)]);
        for (old, upto) in had.filter(|(old, upto)| *old < epoch && old.get() > 0 && *upto > through) {
            self.lost.entry((head.shard, old, through)).or_insert((upto, since));
        }
    }

    /// Whether an event is in the shard's epoch, or one that it continues, later than in `epoch`.
    fn is_back(&self, shard: Shard, epoch: Epoch, record: &Record) -> bool {
        let Some(key) = record.key else { return false };
        let now = self.shards.get(&shard).map(|row| (row.epoch, u64::MAX));
        let ancestors = self.ancestors_of(shard).into_iter().map(|a| (a.epoch, a.upto));
        ancestors.chain(now).filter(|(later, _)| *later > epoch).any(|(later, upto)| {
            let mut events = self.events.range((shard, later, 0)..=(shard, later, upto));
            events.any(|(_, event)| {
                event.record.key == Some(key) && event.record.event.channel == record.event.channel
            })
        })
    }

    fn append(
        &mut self,
        head: WriterHead,
        batch: &Batch,
        policies: &Policies,
        now: Timestamp,
    ) -> Result<WriterHead, WriteError> {
        let Some((seq, digest)) = batch.last() else { return Ok(head) };
        let digest = if self.broken.digests_unknown { Digest::NONE } else { digest };
        let era = era_text(policies)?;
        let row = self.fenced(&head)?;
        (row.head, row.digest) = (seq, digest);
        let (shard, epoch) = (head.shard, head.epoch);
        let Sorted { kept, late } = batch.sorted(policies, now);
        for (record, class) in kept {
            let event = Event { record: record.clone(), class };
            self.evidence.data.insert((shard, record.event.data.as_bytes().to_vec()));
            if self.events.insert((shard, epoch, record.seq), event).is_some() {
                self.evidence.doubles += 1;
            }
        }
        for (class, seq) in late {
            self.evidence.gone.push((shard, seq, class));
            let floor = self.floors.entry((shard, epoch, class)).or_default();
            *floor = (*floor).max(seq);
        }
        let last = self.eras.range((shard, epoch, 0)..=(shard, epoch, u64::MAX)).next_back();
        if last.is_none_or(|(_, text)| *text != era) {
            self.eras.insert((shard, epoch, head.seq), era);
        }
        Ok(WriterHead { seq, digest, ..head })
    }
}

impl Session {
    /// One statement: the way there, what it does, the way back.
    async fn run<T>(
        &self,
        statement: &'static str,
        work: impl FnOnce(&mut State) -> T,
    ) -> Result<T, LogError> {
        self.link.ask(statement).await.map_err(LogError)?;
        let done = work(&mut self.tables.0.lock());
        self.link.answer(statement).await.map_err(LogError)?;
        Ok(done)
    }

    pub(super) async fn connect(&self) -> Result<(), LogError> {
        self.run("connect", |_| ()).await
    }

    pub(super) fn only(&mut self, classes: Option<BTreeSet<RetentionClass>>, ancestors: Vec<Ancestor>) {
        self.ancestors = ancestors;
        self.classes = classes;
    }

    pub(super) async fn standing(&mut self, shard: Shard) -> Result<Option<(Standing, Digest)>, LogError> {
        let (found, broken) =
            self.run("standing", |state| Ok::<_, LogError>((state.standing(shard)?, state.broken))).await??;
        let found = self.said.take().filter(|_| broken.asked_once).or(found);
        self.said.clone_from(&found);
        self.ancestors = found.as_ref().map_or_else(Vec::new, |(standing, _)| standing.ancestors.clone());
        Ok(found)
    }

    pub(super) async fn newest_row(
        &self,
        shard: Shard,
        after: u64,
        upto: u64,
    ) -> Result<Option<Record>, WriteError> {
        let newest = self.run("newest row", |state| {
            if state.broken.digests_unknown {
                return None;
            }
            let epoch = state.shards.get(&shard)?.epoch;
            let events = state.span(Span { shard, epoch, after, upto }, &state.ancestors_of(shard));
            events.last().map(|event| event.record.clone())
        });
        Ok(newest.await?)
    }

    pub(super) async fn key_at(&self, span: Span) -> Result<Option<Option<Vec<u8>>>, LogError> {
        let key = |event: &Event| event.record.key.as_ref().map(|key| key.as_bytes().to_vec());
        self.run("key", |state| state.span(span, &[]).first().copied().map(key)).await
    }

    pub(super) async fn is_in_hole(&self, span: Span) -> Result<bool, LogError> {
        self.run("holes", |state| {
            let mut holes = state.holes.iter();
            holes.any(|(shard, epoch, after, upto)| {
                (*shard, *epoch) == (span.shard, span.epoch) && *after < span.upto && *upto >= span.upto
            })
        })
        .await
    }

    pub(super) async fn erase(&self, channel: &str) -> Result<u64, WriteError> {
        let erased = self.run("erase", |state| {
            let before = state.events.len();
            state.events.retain(|_, event| event.record.event.channel.as_str() != channel);
            (before - state.events.len()) as u64
        });
        Ok(erased.await?)
    }

    pub(super) async fn take_over(&self, shard: Shard, lease_term: u64) -> Result<WriterHead, WriteError> {
        let taken = self.run("take over", |state| {
            let none = Row { epoch: Epoch::new(0), start: 0, head: 0, digest: Digest::NONE, term: 0 };
            let row = state.shards.entry(shard).or_insert(none);
            row.term = (row.term + 1).max(lease_term);
            WriterHead { shard, epoch: row.epoch, seq: row.head, digest: row.digest, term: row.term }
        });
        Ok(taken.await?)
    }

    pub(super) async fn begin_epoch(
        &self,
        head: WriterHead,
        epoch: Epoch,
        start: u64,
        kept: Option<Kept>,
        resent_since: Option<Timestamp>,
    ) -> Result<WriterHead, WriteError> {
        self.run("begin epoch", |state| {
            let (shard, old) = (head.shard, head.epoch);
            let row = state.fenced(&head)?;
            let (seq, digest) = kept.map_or((start, Digest::NONE), |kept| (kept.head, kept.digest));
            let start = if kept.is_some() { row.start.min(seq) } else { start };
            *row = Row { epoch, start, head: seq, digest, term: row.term };
            if let Some(since) = resent_since {
                state.write_down(head, epoch, kept.map_or(0, |kept| kept.through), since);
            }
            match kept {
                Some(kept) => state.inherit(shard, old, epoch, kept),
                None => state.ancestors.retain(|(of, _), _| *of != shard),
            }
            state.floors.retain(|(of, before, _), _| *of != shard || *before >= epoch);
            state.eras.retain(|(of, before, _), _| *of != shard || *before >= epoch);
            Ok(WriterHead { epoch, seq, digest, ..head })
        })
        .await?
    }

    pub(super) async fn lost(&self, shard: Shard) -> Result<Option<Lost>, WriteError> {
        let found = self.run("lost", |state| {
            let ranges =
                state.lost.range((shard, Epoch::new(0), 0)..=(shard, Epoch::new(u64::MAX), u64::MAX));
            let first = { ranges }.next().filter(|_| !state.broken.lost_forgotten)?;
            let (&(_, epoch, after), &(upto, since)) = first;
            Some(Lost { epoch, after, upto, since })
        });
        Ok(found.await?)
    }

    pub(super) async fn lost_rows(&self, shard: Shard, lost: Lost) -> Result<Vec<LostRow>, WriteError> {
        let Lost { epoch, after, upto, since } = lost;
        let found = self.run("lost rows", |state| {
            let rows = state.events.range((shard, epoch, after + 1)..=(shard, epoch, upto));
            let rows = rows.map(|(_, event)| &event.record).filter(|record| record.time >= since).take(PAGE);
            let row = |record: &Record| LostRow {
                record: record.clone(),
                there: state.is_back(shard, epoch, record),
            };
            rows.map(row).collect()
        });
        Ok(found.await?)
    }

    pub(super) async fn came_back(&self, shard: Shard, lost: Lost, upto: u64) -> Result<(), WriteError> {
        let done = self.run("came back", |state| {
            let Some((until, since)) = state.lost.remove(&(shard, lost.epoch, lost.after)) else { return };
            if upto < until {
                state.lost.insert((shard, lost.epoch, upto), (until, since));
            }
        });
        Ok(done.await?)
    }

    pub(super) async fn record_hole(&self, head: WriterHead, upto: u64) -> Result<WriterHead, WriteError> {
        self.run("record hole", |state| {
            let row = state.fenced(&head)?;
            (row.head, row.digest) = (upto, Digest::NONE);
            state.holes.push((head.shard, head.epoch, head.seq, upto));
            state.evidence.holes.push((head.shard, head.seq, upto));
            Ok(WriterHead { seq: upto, digest: Digest::NONE, ..head })
        })
        .await?
    }

    pub(super) async fn append(
        &self,
        head: WriterHead,
        batch: &Batch,
        policies: &Policies,
        now: Timestamp,
    ) -> Result<WriterHead, WriteError> {
        self.run("append", |state| state.append(head, batch, policies, now)).await?
    }

    /// The events that `wanted` picks, as far as the limit goes.
    async fn select(
        &self,
        span: Span,
        order: Order,
        limit: Limit,
        wanted: impl Fn(&Record) -> bool,
    ) -> Result<Rows, LogError> {
        let classes = self.classes.clone();
        self.run("events", |state| {
            let kept = |event: &&Event| {
                classes.as_ref().is_none_or(|classes| classes.contains(&event.class)) && wanted(&event.record)
            };
            let events: Box<dyn Iterator<Item = &Event>> = match order {
                Order::Oldest => Box::new(state.span(span, &self.ancestors).into_iter().filter(kept)),
                Order::Newest => Box::new(state.span(span, &self.ancestors).into_iter().rev().filter(kept)),
            };
            let (mut rows, mut bytes) = (Rows::default(), 0);
            for event in events {
                bytes += event.record.bytes();
                if rows.records.len() >= limit.events || (!rows.records.is_empty() && bytes > limit.bytes) {
                    rows.cut = true;
                    break;
                }
                rows.records.push(event.record.clone());
            }
            rows
        })
        .await
    }
}

impl Source for Session {
    async fn of_channels(
        &mut self,
        span: Span,
        channels: &[(String, u64)],
        limit: Limit,
    ) -> Result<Rows, LogError> {
        let wanted = |record: &Record| {
            channels.iter().any(|(name, after)| record.event.channel.as_str() == name && record.seq > *after)
        };
        self.select(span, Order::Oldest, limit, wanted).await
    }

    async fn of_range(
        &mut self,
        span: Span,
        topics: &Topics,
        order: Order,
        limit: Limit,
    ) -> Result<Rows, LogError> {
        self.select(span, order, limit, |record| topics.matches(record.event.channel.as_str())).await
    }

    async fn of_channel(
        &mut self,
        span: Span,
        channel: &str,
        order: Order,
        limit: Limit,
    ) -> Result<Rows, LogError> {
        self.select(span, order, limit, |record| record.event.channel.as_str() == channel).await
    }

    async fn channels_between(
        &mut self,
        span: Span,
        from: &str,
        below: &str,
        most: usize,
    ) -> Result<Vec<String>, LogError> {
        self.run("channels", |state| {
            let events = state.span(span, &self.ancestors);
            let channels = events.iter().map(|event| event.record.event.channel.as_str());
            let names: BTreeSet<&str> = channels.filter(|channel| (from..below).contains(channel)).collect();
            names.into_iter().take(most).map(str::to_owned).collect()
        })
        .await
    }

    async fn nth_newest(&mut self, span: Span, channels: &[(String, u32)]) -> Result<Vec<u64>, LogError> {
        self.run("counts", |state| {
            let events = state.span(span, &self.ancestors);
            let nth = |(channel, nth): &(String, u32)| {
                let of_channel =
                    events.iter().rev().filter(|event| event.record.event.channel.as_str() == channel);
                let skipped = usize::try_from(nth.saturating_sub(1)).unwrap_or(usize::MAX);
                of_channel.map(|event| event.record.seq).nth(skipped).unwrap_or(0)
            };
            channels.iter().map(nth).collect()
        })
        .await
    }

    async fn first(&mut self, span: Span) -> Result<Option<(u64, Timestamp)>, LogError> {
        self.run("first", |state| {
            let events = state.span(span, &self.ancestors);
            events.first().map(|event| (event.record.seq, event.record.time))
        })
        .await
    }
}
