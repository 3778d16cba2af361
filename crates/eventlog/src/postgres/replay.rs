//! Replay: from PostgreSQL what is stored, from the journal what is not yet, and only what both vouch for.

use std::time::Duration;

use foghorn_bus::journal::Bounds;
use foghorn_bus::log::{LogError, Replay, ReplayQuery};
use foghorn_core::batch::Batch;
use foghorn_core::position::{Digest, Epoch};
use foghorn_core::reason::ResetReason;
use foghorn_core::time::Timestamp;
use tokio::time::Instant;

use super::connection::Connection;
use super::doubts::{EPOCH_PATIENCE, LOSS_PATIENCE, TIP_PATIENCE};
use super::log::PostgresLog;
use super::recent::{answer, bounds, not_behind, not_followed, read, select};
use super::{Head, READ_DEADLINE};
use crate::metrics::PageSource;
use crate::pages::Page;
use crate::record::Record;
use crate::source::{Limit, Span};
use crate::standing::{Standing, Verdict};
use crate::topics::Topics;

/// How far ahead of the clock an epoch may be that only a gateway knows: epochs are seconds, and a clock may have
/// been wrong by years, but whoever makes numbers up must not get us near the last one.
const EPOCH_AHEAD: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// What PostgreSQL had to say to a replay.
enum Stored {
    Page {
        page: Page,
        standing: Standing,
        digest: Digest,
    },
    /// There is another entry at the cursor than the gateway has there.
    Differs,
    /// The cursor is at the head or beyond: the journal's turn.
    Beyond {
        standing: Standing,
        digest: Digest,
    },
    Reset {
        reason: ResetReason,
        epoch: Epoch,
        after: u64,
    },
    /// The cursor is of another epoch than the log, or the log has nothing at all.
    OtherEpoch {
        standing: Option<Standing>,
    },
}

/// What the journal had to say to a gateway.
enum Journaled {
    Page(Replay),
    /// It doesn't have everything: as far as is known it begins after this seq.
    Begins(u64),
}

impl PostgresLog {
    pub(super) async fn answer_replay(&self, query: ReplayQuery) -> Result<Replay, LogError> {
        let topics = Topics::new(&query.topics);
        let limit = Limit::new(query.events, query.bytes);
        // Where the log is to be asked up to.
        let mut most = u64::MAX;
        if query.fill {
            match self.journal_page(&query, &topics, limit).await? {
                Journaled::Page(page) => return Ok(page),
                Journaled::Begins(begins) => most = begins,
            }
        }
        let stored = match Connection::new(&self.database).await {
            Ok(connection) => {
                connection
                    .within(READ_DEADLINE, async |c| self.stored(c, &query, &topics, limit, most).await)
                    .await
            }
            Err(error) => Err(error),
        };
        match stored {
            Ok(Stored::Page { page, standing, digest }) if page.to < standing.tip => {
                self.metrics.page(PageSource::Postgres);
                Ok(self.page(&query, &page, standing.tip, Some((standing.tip, digest))))
            }
            Ok(Stored::Page { page, standing, digest }) => {
                self.metrics.page(PageSource::Postgres);
                self.with_recent(&query, &topics, limit, page, Some((standing, digest))).await
            }
            Ok(Stored::Beyond { standing, digest }) => {
                let page = Page { records: Vec::new(), to: query.after.max(standing.start) };
                self.with_recent(&query, &topics, limit, page, Some((standing, digest))).await
            }
            Ok(Stored::Reset { reason, epoch, after }) => Ok(self.reset(reason, epoch, after)),
            // The journal could be asked, and no longer has what is compared.
            Ok(Stored::Differs) if most < u64::MAX => Err(self.regressed(&query).await?),
            Ok(Stored::Differs) => {
                let (shard, seq) = (query.shard, query.after);
                Err(LogError(format!(
                    "the log of shard {shard} has another entry at {seq} than the gateway, and the journal can't be asked which is right; try again"
                )))
            }
            Ok(Stored::OtherEpoch { standing }) => {
                let now = bounds(&*self.journal, query.shard).await?;
                not_behind(query.shard, standing.as_ref().map(|standing| standing.epoch), now.epoch)?;
                if now.epoch == query.epoch {
                    // The log's writer will hear of this epoch soon; the journal has all of it, unless it
                    // continues another, or has lost its beginning already.
                    let begins = now.first.saturating_sub(1);
                    let has_all = now.continues.is_none() && now.first <= now.first_seq;
                    if !has_all && query.after < begins {
                        return Err(not_followed(query.shard));
                    }
                    let page = Page { records: Vec::new(), to: query.after.max(begins) };
                    return self.with_recent(&query, &topics, limit, page, None).await;
                }
                self.other_epoch(&query, &topics, standing.as_ref(), now).await
            }
            Err(error) => self.without_postgres(&query, &topics, limit, error).await,
        }
    }

    /// What is stored after the cursor, and whether that is all there was.
    async fn stored(
        &self,
        connection: &mut Connection,
        query: &ReplayQuery,
        topics: &Topics,
        limit: Limit,
        most: u64,
    ) -> Result<Stored, LogError> {
        let (standing, digest) = match connection.standing(query.shard).await? {
            Some((standing, digest)) if standing.epoch == query.epoch => (standing, digest),
            other => return Ok(Stored::OtherEpoch { standing: other.map(|(standing, _)| standing) }),
        };
        self.database.saw_head(query.shard, Head { epoch: standing.epoch, seq: standing.tip });
        if query.after.max(standing.start) >= standing.tip {
            return Ok(Stored::Beyond { standing, digest });
        }
        let (after, upto) = match standing.judge(query.epoch, query.after, topics) {
            Verdict::Serve { after, upto } => (after, upto),
            // The gateway has seen two histories, and neither can be compared any more.
            Verdict::Reset { .. } if query.digest == Digest::OTHER => return Ok(Stored::Differs),
            Verdict::Reset { reason, after } => {
                return Ok(Stored::Reset { reason, epoch: standing.epoch, after });
            }
        };
        let policies = self.policies.get();
        let reader = self.reader(&policies);
        let span = Span { shard: query.shard, epoch: query.epoch, after, upto: upto.min(most) };
        connection.only(&standing, topics);
        if query.holds_digest() {
            let at = Span { after: query.after - 1, upto: query.after, ..span };
            let held = reader.page(connection, at, topics, limit).await?;
            if held.records.first().is_some_and(|held| held.digest() != query.digest) {
                return Ok(Stored::Differs);
            }
        }
        let page = reader.page(connection, span, topics, limit).await?;
        // Retention may have dropped a partition between the two looks, and it says so in the same
        // transaction: what is vouched for now was there all the while.
        let Some((again, _)) = connection.standing(query.shard).await? else {
            return Ok(Stored::OtherEpoch { standing: None });
        };
        if again.term != standing.term || again.epoch == query.epoch && again.tip < standing.tip {
            // PostgreSQL may have been put back from a backup in between. Then the cursor is not of the future, and
            // what retention had dropped when the page was read may not be said any more.
            return Err(not_followed(query.shard));
        }
        match again.judge(query.epoch, query.after, topics) {
            Verdict::Serve { .. } => Ok(Stored::Page { page, standing, digest }),
            Verdict::Reset { reason, after } => Ok(Stored::Reset { reason, epoch: again.epoch, after }),
        }
    }

    /// A page to the end of the log goes on into the journal, if it has room.
    async fn with_recent(
        &self,
        query: &ReplayQuery,
        topics: &Topics,
        limit: Limit,
        mut page: Page,
        stored: Option<(Standing, Digest)>,
    ) -> Result<Replay, LogError> {
        let shard = query.shard;
        let head = stored.as_ref().map(|(standing, digest)| (standing.tip, *digest));
        let now = bounds(&*self.journal, shard).await?;
        if now.epoch != query.epoch {
            // What was read is still good; the next question hears of the new epoch.
            if !page.records.is_empty() || page.to > query.after {
                let tip = page.to;
                return Ok(self.page(query, &page, tip, head));
            }
            let standing = stored.as_ref().map(|(standing, _)| standing);
            return self.other_epoch(query, topics, standing, now).await;
        }
        if page.to > now.last && page.to > query.after {
            // The log has it, the journal's leader will.
            let tip = page.to;
            return Ok(self.page(query, &page, tip, head));
        }
        if page.to > now.last {
            let vouched = head.is_some_and(|(tip, _)| page.to <= tip);
            let unknown = (shard, query.epoch, page.to);
            if vouched
                // What a gateway has, the journal once had.
                || query.fill
                || !self.doubts.confirmed(unknown, TIP_PATIENCE, Instant::now())
            {
                let last = now.last;
                return Err(LogError(format!(
                    "the journal of shard {shard} seems to end at {last}, before the cursor; try again"
                )));
            }
            let begins = now.first.saturating_sub(1);
            let earliest = stored.as_ref().map_or(begins, |(standing, _)| standing.beginning(topics));
            return Ok(self.reset(ResetReason::Cursor, now.epoch, earliest));
        }
        let used: usize = page.records.iter().map(Record::bytes).sum();
        if page.to == now.last || page.records.len() >= limit.events || used >= limit.bytes {
            return Ok(self.page(query, &page, now.last, head));
        }
        let room = Limit::new(limit.events - page.records.len(), limit.bytes - used);
        let found = read(&*self.journal, shard, page.to, room).await?;
        if found.epoch != query.epoch || found.from != page.to {
            let tip = page.to;
            if tip > query.after {
                return Ok(self.page(query, &page, tip, head));
            }
            return Err(not_followed(shard));
        }
        self.metrics.page(PageSource::Journal);
        let digest = found.entries.last().filter(|last| last.seq == found.to).map(|last| last.digest);
        let policies = self.policies.get();
        let reader = self.reader(&policies);
        page.records.extend(select(found.entries, topics, &policies, query.fill));
        page.to = found.to;
        if query.fill {
            // Whoever listens is owed all of them; a count is about what is kept.
            reader.keep_fresh(&mut page.records);
        } else {
            reader.keep_owed(&mut page.records);
        }
        Ok(self.page(query, &page, found.tip, digest.map(|digest| (found.to, digest)).or(head)))
    }

    /// The page from the journal alone, if it has everything after the cursor. PostgreSQL is not asked, so
    /// rings stay level with the live feed while it is away. Else where the journal begins, as far as is
    /// known: only up to there the log has more.
    ///
    /// An error when the journal has another entry at the cursor than the gateway, or has lost it: then a
    /// new epoch begins, and the next question hears of it.
    async fn journal_page(
        &self,
        query: &ReplayQuery,
        topics: &Topics,
        limit: Limit,
    ) -> Result<Journaled, LogError> {
        // Where the digest is known, from the cursor's own entry on.
        let back = u64::from(query.holds_digest());
        let limit = Limit { events: limit.events + usize::from(query.holds_digest()), ..limit };
        let found = read(&*self.journal, query.shard, query.after - back, limit).await;
        // The log lacks what is never replayed: better late than not at all.
        let needed = self.policies.get().have_unkept();
        let unread = |why| if needed { Err(why) } else { Ok(Journaled::Begins(u64::MAX)) };
        let mut found = match found {
            Ok(found) if found.epoch == query.epoch => found,
            // Of an epoch that is over it is not to be had any more.
            Ok(found) if found.epoch > query.epoch => return Ok(Journaled::Begins(u64::MAX)),
            // Perhaps only this process has yet to hear of the gateway's.
            Ok(_) if needed => {
                let now = bounds(&*self.journal, query.shard).await?;
                if now.epoch == query.epoch {
                    return Err(not_followed(query.shard));
                }
                return self.other_epoch(query, topics, None, now).await.map(Journaled::Page);
            }
            Ok(_) => return Ok(Journaled::Begins(u64::MAX)),
            Err(error) => return unread(error),
        };
        if found.from > query.after {
            return Ok(Journaled::Begins(found.from));
        }
        if found.tip < query.after {
            let lost = (query.shard, query.epoch, query.after);
            if self.doubts.confirmed(lost, LOSS_PATIENCE, Instant::now()) {
                return Err(self.regressed(query).await?);
            }
            return unread(not_followed(query.shard));
        }
        let holds = found.entries.first().is_some_and(|entry| entry.seq <= query.after);
        if holds {
            let held = found.entries.remove(0);
            if held.digest != query.digest {
                return Err(self.regressed(query).await?);
            }
            if found.to <= query.after && found.tip > query.after {
                // It was as much as a page takes.
                let next = read(&*self.journal, query.shard, query.after, limit).await;
                found = match next.ok().filter(|next| next.epoch == query.epoch) {
                    Some(next) if next.from == query.after => next,
                    _ => return unread(not_followed(query.shard)),
                };
            }
        }
        found.to = found.to.max(query.after);
        self.metrics.page(PageSource::Journal);
        let last = found.entries.last().filter(|last| last.seq == found.to);
        let known = last.map(|last| (found.to, last.digest));
        let policies = self.policies.get();
        let mut records = select(found.entries, topics, &policies, true);
        self.reader(&policies).keep_fresh(&mut records);
        let mut page = self.page(query, &Page { records, to: found.to }, found.tip, known);
        if holds && let Replay::Page(batch) = &mut page {
            batch.from_digest = query.digest;
        }
        Ok(Journaled::Page(page))
    }

    /// Begins a new epoch after that of a gateway, whose ring has what the journal has not. What to tell
    /// it.
    async fn regressed(&self, query: &ReplayQuery) -> Result<LogError, LogError> {
        let (shard, epoch) = (query.shard, query.epoch);
        self.metrics.regressed(shard);
        tracing::error!(
            %shard, %epoch, seq = query.after,
            "the journal has not the entry that a gateway has (restored from a backup, or an outage of a quorum): a new epoch begins"
        );
        let now = answer(self.journal.begin_anew(shard, epoch, None)).await?;
        Ok(LogError(format!("the journal of shard {shard} is in epoch {now} now; try again")))
    }

    /// PostgreSQL is not there. If the journal has everything after the cursor, nobody need notice.
    async fn without_postgres(
        &self,
        query: &ReplayQuery,
        topics: &Topics,
        limit: Limit,
        error: LogError,
    ) -> Result<Replay, LogError> {
        self.metrics.failed("read");
        let Ok(now) = bounds(&*self.journal, query.shard).await else { return Err(error) };
        if now.epoch > query.epoch {
            return self.other_epoch(query, topics, None, now).await.map_err(|_| error);
        }
        if now.epoch != query.epoch || query.after + 1 < now.first {
            return Err(error);
        }
        let page = Page { records: Vec::new(), to: query.after };
        self.with_recent(query, topics, limit, page, None).await.map_err(|_| error)
    }

    async fn other_epoch(
        &self,
        query: &ReplayQuery,
        topics: &Topics,
        standing: Option<&Standing>,
        now: Bounds,
    ) -> Result<Replay, LogError> {
        let shard = query.shard;
        if query.epoch > now.epoch
            && !self.doubts.confirmed((shard, query.epoch, 0), EPOCH_PATIENCE, Instant::now())
        {
            return Err(LogError(format!(
                "the journal of shard {shard} seems to be in epoch {}, before the cursor's; try again",
                now.epoch
            )));
        }
        if query.epoch > now.epoch && query.fill {
            let latest = self.clock.now().plus(EPOCH_AHEAD).since(Timestamp::default());
            if query.epoch.get() > latest.as_secs() {
                return Err(LogError(format!("no shard was ever in epoch {}", query.epoch)));
            }
            return Err(self.ahead(query, now.epoch).await?);
        }
        let begins = now.first.saturating_sub(1);
        let followed = standing.is_some_and(|standing| standing.epoch == now.epoch);
        if let Some(continued) = now.continues.filter(|_| !followed) {
            // What the journal has is enough to go on with, or else only the log knows.
            let after = query.after.min(now.first_seq.saturating_sub(1));
            if query.epoch == continued && after >= begins {
                return Ok(self.reset(ResetReason::Epoch, now.epoch, after));
            }
            return Err(not_followed(shard));
        }
        if !followed && now.first > now.first_seq {
            // The journal is trimmed only behind the log. So that has the epoch's beginning, and can't be asked; or
            // it will write down what is gone.
            return Err(not_followed(shard));
        }
        let empty = Standing::empty(now.epoch, begins);
        let standing = standing.filter(|standing| standing.epoch == now.epoch).unwrap_or(&empty);
        Ok(match standing.judge(query.epoch, query.after, topics) {
            Verdict::Reset { reason, after } => self.reset(reason, now.epoch, after),
            Verdict::Serve { .. } => self.reset(ResetReason::Epoch, now.epoch, standing.start),
        })
    }

    /// A gateway is in an epoch that nobody else knows: journal, log and the record of epochs were all put
    /// back to before it began. It can't go back, as its listeners have what came since. So a later epoch
    /// begins, unless the record says that only this process has not heard of the gateway's. What to tell it.
    async fn ahead(&self, query: &ReplayQuery, known: Epoch) -> Result<LogError, LogError> {
        let (shard, epoch) = (query.shard, query.epoch);
        let now = answer(self.journal.begin_anew(shard, epoch, None)).await?;
        if now > epoch {
            self.metrics.regressed(shard);
            tracing::error!(
                %shard, %known, gateway = %epoch, %now,
                "a gateway is in a later epoch than the journal (journal, log and record of epochs were restored from a backup): a new one begins"
            );
        }
        Ok(LogError(format!("the journal of shard {shard} is in epoch {now} now; try again")))
    }

    fn reset(&self, reason: ResetReason, epoch: Epoch, after: u64) -> Replay {
        self.metrics.reset(reason.as_str());
        Replay::Reset { reason, epoch, after }
    }

    /// The page as a batch; `known` is a seq and its digest.
    fn page(&self, query: &ReplayQuery, page: &Page, tip: u64, known: Option<(u64, Digest)>) -> Replay {
        let mut batch = Batch::empty(query.shard, query.epoch, query.after, page.to.max(query.after));
        batch.tip = tip.max(batch.to);
        batch.events = page.records.iter().map(|record| record.feed(query.shard, query.epoch)).collect();
        let last = page.records.last().filter(|last| last.seq == page.to).map(Record::digest);
        let of_head = known.filter(|(seq, _)| *seq == page.to).map(|(_, digest)| digest);
        batch.to_digest = last.or(of_head).unwrap_or(Digest::NONE);
        Replay::Page(batch)
    }
}
