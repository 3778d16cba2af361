//! [`EventLog`] on PostgreSQL and the journal.

use std::sync::Arc;
use std::time::Duration;

use foghorn_bus::Future;
use foghorn_bus::journal::Journal;
use foghorn_bus::log::{
    Committed, EventLog, HistoryPage, HistoryQuery, Located, LogError, NewestQuery, Replay, ReplayQuery,
};
use foghorn_core::batch::Batch;
use foghorn_core::channel::Channel;
use foghorn_core::entry::Key;
use foghorn_core::policy::{Policies, RetentionClass};
use foghorn_core::position::Position;
use foghorn_core::shard::Shard;
use foghorn_core::time::Timestamp;
use futures::FutureExt;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::connection::{Connection, Writing};
use super::doubts::Doubts;
use super::recent::{Recent, answer, bounds, not_behind, not_followed, read, recent};
use super::{Database, Head, READ_DEADLINE};
use crate::metrics::Metrics;
use crate::pages::{self, HISTORY_BYTES, Reader};
use crate::source::{Limit, Order, Span};
use crate::standing::Standing;
use crate::topics::Topics;
use foghorn_bus::clock::Clock;
use foghorn_bus::policies::SharedPolicies;

/// How long looks for a head may fail before whoever waits is told.
const LOOK_PATIENCE: Duration = Duration::from_secs(3);
/// How long between two looks for a head that another process moves, jittered.
const HEAD_LOOK: Duration = Duration::from_millis(40);

/// The event log as readers see it. Any process can answer for any shard.
pub struct PostgresLog {
    pub(super) database: Database,
    pub(super) journal: Arc<dyn Journal>,
    pub(super) policies: SharedPolicies,
    pub(super) clock: Clock,
    pub(super) metrics: Metrics,
    /// One look at PostgreSQL's heads at a time, for all who wait.
    looking: Mutex<()>,
    /// Cursors ahead of what is known here.
    pub(super) doubts: Doubts,
}

impl PostgresLog {
    /// A log on this database, and on this journal for what is not in it yet.
    pub fn new(
        database: Database,
        journal: Arc<dyn Journal>,
        policies: SharedPolicies,
        clock: Clock,
        metrics: Metrics,
    ) -> Self {
        let (looking, doubts) = (Mutex::new(()), Doubts::default());
        PostgresLog { database, journal, policies, clock, metrics, looking, doubts }
    }

    pub(super) fn reader<'a>(&self, policies: &'a Policies) -> Reader<'a> {
        Reader { policies, now: self.clock.now() }
    }

    /// What is stored of a shard, if it is of the journal's epoch, and what the journal has beyond.
    async fn whole(
        &self,
        shard: Shard,
        topics: &Topics,
        policies: &Policies,
    ) -> Result<(Standing, Recent), LogError> {
        let connection = Connection::new(&self.database).await?;
        let stored = connection.within(READ_DEADLINE, async |c| c.standing(shard).await).await?;
        let standing = match stored {
            Some((standing, _)) => standing,
            None => {
                let now = bounds(&*self.journal, shard).await?;
                Standing::empty(now.epoch, now.first.saturating_sub(1))
            }
        };
        let recent = recent(&*self.journal, shard, standing.epoch, standing.tip, topics, policies).await?;
        Ok((standing, recent))
    }

    async fn answer_newest(&self, query: NewestQuery) -> Result<Vec<Batch>, LogError> {
        let policies = self.policies.get();
        let reader = self.reader(&policies);
        let limit = Limit::new(query.total, query.bytes);
        let mut found = Vec::with_capacity(query.shards.len());
        for (shard, topics) in &query.shards {
            let topics = Topics::new(topics);
            let (standing, recent) = self.whole(*shard, &topics, &policies).await?;
            let span =
                Span { shard: *shard, epoch: standing.epoch, after: standing.start, upto: standing.tip };
            let mut connection = Connection::new(&self.database).await?;
            connection.only(&standing, &topics);
            let stored = connection
                .within(READ_DEADLINE, async |c| reader.newest(c, span, &topics, query.each, limit).await);
            let mut records = stored.await?;
            records.extend(recent.records);
            reader.keep_newest(&mut records, query.each, limit);
            records.reverse();
            found.push((Span { upto: recent.tip, ..span }, records));
        }
        Ok(pages::newest_batches(found, limit))
    }

    async fn answer_history(&self, query: HistoryQuery) -> Result<HistoryPage, LogError> {
        let shard = self.journal.shards().shard_of(&query.channel);
        let policies = self.policies.get();
        let reader = self.reader(&policies);
        let limit = Limit::new(query.limit, HISTORY_BYTES);
        let topics = Topics::new(&[(&query.channel).into()].into());
        let (mut standing, recent) = self.whole(shard, &topics, &policies).await?;
        let head = standing.tip;
        standing.tip = recent.tip;
        let (order, span) = pages::history_span(shard, &standing, &query);
        let stored = Span { upto: span.upto.min(head), ..span };
        let mut connection = Connection::new(&self.database).await?;
        connection.only(&standing, &topics);
        let channel = query.channel.as_str();
        let stored = connection
            .within(READ_DEADLINE, async |c| reader.history(c, stored, channel, order, limit).await);
        let mut past = stored.await?;
        let mut beyond = recent.records;
        beyond.retain(|record| record.seq > span.after && record.seq <= span.upto);
        reader.keep_fresh(&mut beyond);
        match order {
            // Where the stored ones were cut, what comes after them is not the next.
            Order::Oldest if past.more => {}
            Order::Oldest => {
                past.records.extend(beyond);
                past.reached = span.upto;
            }
            Order::Newest => {
                beyond.reverse();
                beyond.append(&mut past.records);
                past.records = beyond;
            }
        }
        Ok(pages::history_page(standing.epoch, past, limit))
    }

    async fn answer_locate(&self, shard: Shard, time: Timestamp) -> Result<Located, LogError> {
        let now = bounds(&*self.journal, shard).await?;
        let after = match self.locate_stored(shard, time).await {
            Ok(stored) => {
                not_behind(shard, stored.map(|stored| stored.epoch), now.epoch)?;
                match stored.filter(|stored| stored.epoch == now.epoch) {
                    Some(stored) if stored.after < stored.upto => stored.after,
                    other => {
                        let (after, whole) = self.seek_journal(shard, time).await?;
                        // What the log keeps from before the journal's first entry it will say in a moment.
                        let follows = other.is_some() || stored.is_none() || now.continues.is_none();
                        if !follows && !whole {
                            return Err(not_followed(shard));
                        }
                        after.max(other.map_or(0, |stored| stored.upto))
                    }
                }
            }
            Err(error) => {
                self.metrics.failed("read");
                let (after, whole) = self.seek_journal(shard, time).await?;
                if !whole {
                    return Err(error);
                }
                after
            }
        };
        let tip = now.last.max(after);
        Ok(Located { epoch: now.epoch, after, tip })
    }

    /// The seq before the journal's first entry at `time` or later, and whether that is all there was: before
    /// the first entry of a journal that was trimmed, only PostgreSQL knows.
    async fn seek_journal(&self, shard: Shard, time: Timestamp) -> Result<(u64, bool), LogError> {
        let after = answer(self.journal.seek(shard, time)).await?;
        // Asked for last: it may have been trimmed meanwhile.
        let first = bounds(&*self.journal, shard).await?.first;
        Ok((after, after >= first || first <= 1))
    }

    /// What is stored of a shard from `time` on.
    async fn locate_stored(&self, shard: Shard, time: Timestamp) -> Result<Option<Span>, LogError> {
        let connection = Connection::new(&self.database).await?;
        let stored = connection.within(READ_DEADLINE, async |c| {
            let Some((standing, _)) = c.standing(shard).await? else { return Ok(None) };
            let span = Span { shard, epoch: standing.epoch, after: standing.start, upto: standing.tip };
            Ok(Some(Span { after: pages::locate(c, span, time).await?, ..span }))
        });
        stored.await
    }

    async fn answer_committed(
        &self,
        position: Position,
        key: Key,
        deadline: Instant,
    ) -> Result<Committed, LogError> {
        let at = Span {
            shard: position.shard,
            epoch: position.epoch,
            after: position.seq.saturating_sub(1),
            upto: position.seq,
        };
        if !self.head_reaches(position, deadline).await? {
            return Ok(Committed::NotYet);
        }
        let patience = deadline.min(Instant::now() + LOOK_PATIENCE);
        let found = loop {
            match self.look_at(at).await {
                Ok(found) => break found,
                Err(error) if Instant::now() >= patience => return Err(error),
                Err(_) => sleep_until(next_look().min(patience)).await,
            }
        };
        let head = found.standing.as_ref().map(|standing| Head { epoch: standing.epoch, seq: standing.tip });
        // Where it was before PostgreSQL was restored from a backup.
        if let Some(head) = head.filter(|head| (head.epoch, head.seq) < (position.epoch, position.seq)) {
            self.database.set_head(position.shard, head);
        }
        let newer = self.database.head(position.shard).borrow().epoch > position.epoch;
        match found.judge(position, key, newer) {
            Committed::Yes if found.stored.is_none() => self.journal_has(position, key).await,
            committed => Ok(committed),
        }
    }

    /// Where the log has passed a position and keeps nothing of it: either that is how the event is kept, or
    /// the journal lost it and gave its seq to an entry of which nothing is kept.
    async fn journal_has(&self, position: Position, key: Key) -> Result<Committed, LogError> {
        let before = position.seq.saturating_sub(1);
        let page = read(&*self.journal, position.shard, before, Limit::new(1, 1)).await?;
        let Some(entry) = page.entries.into_iter().next().filter(|entry| entry.seq == position.seq) else {
            // It was trimmed; or the journal ends before it.
            return Ok(if page.tip < position.seq { Committed::NotYet } else { Committed::Yes });
        };
        if entry.key != Some(key) {
            return Ok(Committed::Replaced);
        }
        let (policies, now) = (self.policies.get(), self.clock.now());
        let unkept = entry.event.is_ok_and(|event| {
            let class = policies.class_of(&event);
            class == RetentionClass::NONE || entry.time < now.minus(class.age())
        });
        // Else it was another that the log passed there, and it will come back for this one.
        Ok(if unkept { Committed::Yes } else { Committed::NotYet })
    }

    async fn look_at(&self, at: Span) -> Result<AtPosition, LogError> {
        let connection = Connection::new(&self.database).await?;
        let looked = connection.within(READ_DEADLINE, async |c| {
            let (stored, lost) = (c.key_at(at).await?, c.is_in_hole(at).await?);
            let newer = self.database.head(at.shard).borrow().epoch > at.epoch;
            let asked = if stored.is_none() || newer { c.standing(at.shard).await? } else { None };
            let standing = asked.map(|(standing, _)| standing);
            Ok(AtPosition { stored, lost, standing })
        });
        looked.await
    }

    /// Deletes a channel's oldest events, once the log has what the journal had.
    async fn erase_some(&self, channel: Channel) -> Result<u64, LogError> {
        let shard = self.journal.shards().shard_of(&channel);
        let now = bounds(&*self.journal, shard).await?;
        let tip = Position { shard, epoch: now.epoch, seq: now.last };
        if !self.head_reaches(tip, Instant::now() + LOOK_PATIENCE).await? {
            return Err(LogError("PostgreSQL has yet to get what is in the journal".to_owned()));
        }
        let erasing = async |c: &mut Writing| c.erase(channel.as_str()).await;
        let erased = match Writing::new(&self.database).await {
            Ok(mut connection) => connection.bounded(erasing).await,
            Err(error) => Err(error),
        };
        erased.map_err(|error| LogError(format!("erasing events failed: {error}")))
    }

    /// Waits until the head is at or past a position, or in a later epoch.
    async fn head_reaches(&self, position: Position, deadline: Instant) -> Result<bool, LogError> {
        let shard = position.shard;
        let mut heads = self.database.head(shard).subscribe();
        let there = |head: &Head| (head.epoch, head.seq) >= (position.epoch, position.seq);
        let mut failing: Option<Instant> = None;
        loop {
            if there(&heads.borrow_and_update()) {
                return Ok(true);
            }
            tokio::select! {
                biased;
                _ = heads.changed() => continue,
                () = sleep_until(next_look().min(deadline)) => {}
            }
            if Instant::now() >= deadline {
                return Ok(false);
            }
            // Whoever comes second finds what the first has seen.
            let Ok(_one) = timeout_at(deadline, self.looking.lock()).await else { return Ok(false) };
            if there(&heads.borrow()) {
                continue;
            }
            match self.look_for_head(shard, deadline).await {
                Ok(()) => failing = None,
                Err(error) => {
                    let since = *failing.get_or_insert_with(Instant::now);
                    if since.elapsed() >= LOOK_PATIENCE {
                        return Err(error);
                    }
                }
            }
        }
    }

    async fn look_for_head(&self, shard: Shard, deadline: Instant) -> Result<(), LogError> {
        let connection = Connection::new(&self.database).await?;
        let limit = deadline.saturating_duration_since(Instant::now()).min(READ_DEADLINE);
        let found = connection.within(limit, async |c| c.standing(shard).await).await?;
        if let Some((standing, _)) = found {
            self.database.saw_head(shard, Head { epoch: standing.epoch, seq: standing.tip });
        }
        Ok(())
    }
}

fn next_look() -> Instant {
    Instant::now() + HEAD_LOOK.mul_f64(0.5 + fastrand::f64())
}

/// What is stored at a position.
struct AtPosition {
    /// The key; outer none when there is no row.
    stored: Option<Option<Vec<u8>>>,
    /// Whether the journal lost it.
    lost: bool,
    /// How far the log is, where that decides what a row or none means.
    standing: Option<Standing>,
}

impl AtPosition {
    /// What that says of the entry `key` at `position`; whether the log is known to be in a `newer` epoch.
    fn judge(&self, position: Position, key: Key, newer: bool) -> Committed {
        let standing = self.standing.as_ref();
        // No row is an answer only where the head is past it.
        if standing.is_some_and(|now| (now.epoch, now.tip) < (position.epoch, position.seq)) {
            return Committed::NotYet;
        }
        // In an epoch that is over no listener can get it any more, unless a later one continues it.
        let continued = standing.filter(|now| now.epoch > position.epoch && now.keeps(position));
        if newer && continued.is_none() || self.lost {
            return Committed::Replaced;
        }
        if let Some(now) = continued {
            if now.holes.iter().any(|(from, to)| (*from + 1..=*to).contains(&position.seq)) {
                return Committed::Replaced;
            }
            // It may begin with less than the log will have of the epoch before.
            if now.tip < position.seq {
                return Committed::NotYet;
            }
        }
        match &self.stored {
            Some(stored) if stored.as_deref() != Some(&key.as_bytes()[..]) => Committed::Replaced,
            // Its own row; or none, because its class isn't kept or has expired already.
            _ => Committed::Yes,
        }
    }
}

impl EventLog for PostgresLog {
    fn replay(&self, query: ReplayQuery) -> Future<'_, Result<Replay, LogError>> {
        self.answer_replay(query).boxed()
    }

    fn newest(&self, query: NewestQuery) -> Future<'_, Result<Vec<Batch>, LogError>> {
        self.answer_newest(query).boxed()
    }

    fn locate(&self, shard: Shard, time: Timestamp) -> Future<'_, Result<Located, LogError>> {
        self.answer_locate(shard, time).boxed()
    }

    fn history(&self, query: HistoryQuery) -> Future<'_, Result<HistoryPage, LogError>> {
        self.answer_history(query).boxed()
    }

    fn committed(
        &self,
        position: Position,
        key: Key,
        deadline: Duration,
    ) -> Future<'_, Result<Committed, LogError>> {
        self.answer_committed(position, key, Instant::now() + deadline).boxed()
    }

    fn erase(&self, channel: Channel) -> Future<'_, Result<u64, LogError>> {
        self.erase_some(channel).boxed()
    }
}

#[cfg(test)]
mod tests {
    use foghorn_core::position::Epoch;

    use super::*;
    use crate::standing::Ancestor;

    #[test]
    fn durable_is_what_the_log_has_also_where_a_later_epoch_continues_the_events() {
        let (before, now) = (Epoch::new(5), Epoch::new(6));
        let position = Position { shard: Shard::ZERO, epoch: before, seq: 98 };
        let key = Key::from_bytes([7; 16]);
        let judge = |tip: u64, common: u64, holes: &[(u64, u64)]| {
            let mut standing = Standing::empty(now, 0);
            (standing.tip, standing.holes) = (tip, holes.to_vec());
            standing.ancestors = vec![Ancestor { epoch: before, upto: 95, common }];
            let found = AtPosition { stored: None, lost: false, standing: Some(standing) };
            found.judge(position, key, true)
        };
        assert_eq!(judge(95, 100, &[]), Committed::NotYet, "the new epoch begins before it");
        assert_eq!(judge(120, 100, &[]), Committed::Yes);
        assert_eq!(judge(120, 100, &[(95, 98)]), Committed::Replaced, "the journal lost it after all");
        assert_eq!(judge(120, 100, &[(98, 110)]), Committed::Yes);
        assert_eq!(judge(120, 97, &[]), Committed::Replaced, "the epochs part before it");
        let other = Some(Some(vec![8; 16]));
        let replaced = AtPosition { stored: other, lost: false, standing: None };
        assert_eq!(replaced.judge(position, key, false), Committed::Replaced);
    }
}
