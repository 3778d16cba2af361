//! Where a stream begins: at the head, after a cursor, at a time, or with the newest events.

use std::sync::Arc;

use tokio::time::{Instant, timeout_at};

use foghorn_bus::backoff::Backoff;
use foghorn_bus::log::{LogError, NewestQuery};
use foghorn_core::batch::Batch;
use foghorn_core::cursor::{Cursor, CursorError};
use foghorn_core::position::Epoch;
use foghorn_core::reason::{ResetReason, StreamEnd};
use foghorn_core::shard::Shard;
use foghorn_core::time::Timestamp;

use super::chunk::Said;
use super::course::{Course, Lack};
use super::{Answer, Connection, PAGE_BYTES, Phase, foremost, take_page};

/// What the request asked for.
#[derive(Debug, Clone)]
pub(crate) enum Begin {
    /// What comes from now on.
    Now,
    /// What came after a cursor.
    After(Result<Cursor, CursorError>),
    /// The same, of a stream whose changed subscription isn't known any more.
    AfterUnknown(Cursor),
    /// What came at a time or later.
    Since(Timestamp),
    /// The newest so many events of each channel, then what comes.
    Last(usize),
}

/// The beginning as it was resolved, once.
#[derive(Default)]
struct Resolved {
    courses: Vec<Course>,
    resets: Vec<ResetReason>,
    /// Pages that the log gave along the way, by course.
    pages: Vec<(usize, Arc<Batch>)>,
}

impl Connection {
    /// Resolves the beginning and says `connected`.
    pub(super) async fn begin(&mut self, begin: Begin) -> Said {
        let asked_to_resume = matches!(begin, Begin::After(_) | Begin::AfterUnknown(_));
        let resolved = match self.resolve(begin).await {
            Ok(resolved) => resolved,
            Err(end) => return self.finish(end),
        };
        // Asked after it is resolved where the stream begins: what changes the number from there on is heard.
        let unread = match self.unread().await {
            Ok(unread) => unread,
            Err(end) => return self.finish(end),
        };
        if let Some(end) = self.life.due_end(&self.subscription) {
            return self.finish(end);
        }
        self.courses = resolved.courses;
        let cursor = self.subscription.cursor(&self.courses);
        let reset = foremost(&resolved.resets);
        let recovered = asked_to_resume && reset.is_none();
        let now = self.shared.hub.clock.now();
        let mut chunk = self.chunk();
        let retry_ms = self.shared.config.retry_ms();
        chunk.connected(&self.life.client_id(), now, recovered, retry_ms, reset.is_none().then_some(&cursor));
        if let Some(reason) = reset {
            self.shared.hub.metrics.reset(reason);
            chunk.reset(reason, &self.courses);
        }
        if let Some(unread) = unread {
            chunk.unread(unread);
        }
        if asked_to_resume {
            self.shared.hub.metrics.resumed.inc();
        }
        for (at, page) in &resolved.pages {
            self.replayed +=
                take_page(&mut self.courses, *at, page, &self.subscription, &self.shared, &mut chunk);
        }
        self.phase = Phase::CatchingUp;
        chunk.into_said()
    }

    /// How many notifications of its user are unread, if it is a stream of notifications.
    async fn unread(&self) -> Result<Option<u64>, StreamEnd> {
        let Some((unread, user)) = &self.notified else { return Ok(None) };
        match unread.unread(user).await {
            Ok(unread) => Ok(Some(unread)),
            Err(why) => {
                tracing::debug!(%why, "a stream of notifications can't begin");
                Err(StreamEnd::NotificationsUnavailable)
            }
        }
    }

    async fn resolve(&self, begin: Begin) -> Result<Resolved, StreamEnd> {
        let heads = self.heads().await?;
        match begin {
            Begin::Now => Ok(Resolved { courses: heads, ..Resolved::default() }),
            Begin::After(cursor) => self.after(cursor, heads).await,
            Begin::AfterUnknown(cursor) => {
                let mut resolved = self.after(Ok(cursor), heads).await?;
                resolved.resets.push(ResetReason::Subscription);
                Ok(resolved)
            }
            Begin::Since(time) => self.since(time, heads).await,
            Begin::Last(each) => self.last(each, heads).await,
        }
    }

    /// A course at the head of each shard. Waits for rings that have not begun.
    async fn heads(&self) -> Result<Vec<Course>, StreamEnd> {
        let deadline = Instant::now() + self.shared.config.log_patience;
        let mut backoff = Backoff::default();
        loop {
            let heads: Option<Vec<Course>> =
                self.subscription.shards.iter().map(|(shard, _)| self.head(*shard)).collect();
            if let Some(heads) = heads {
                return Ok(heads);
            }
            if Instant::now() > deadline {
                return Err(StreamEnd::LogUnavailable);
            }
            backoff.wait().await;
        }
    }

    /// A course that begins after a seq. It has caught up when it is where the ring's head is now, if the
    /// ring is of this epoch.
    pub(super) fn course(&self, shard: Shard, epoch: Epoch, after: u64) -> Course {
        let head = self.head(shard).filter(|head| head.epoch == epoch);
        Course { shard, epoch, at: after, level_at: head.map_or(after, |head| head.at) }
    }

    pub(super) fn head(&self, shard: Shard) -> Option<Course> {
        self.shared.hub.with_ring(shard, |ring| {
            let ring = ring?;
            Some(Course { shard, epoch: ring.epoch(), at: ring.head(), level_at: ring.head() })
        })
    }

    /// Each course goes on from the cursor. What the ring doesn't cover, the log judges.
    async fn after(
        &self,
        cursor: Result<Cursor, CursorError>,
        heads: Vec<Course>,
    ) -> Result<Resolved, StreamEnd> {
        let count = self.shared.hub.shard_count();
        let mut resolved = Resolved { courses: heads, ..Resolved::default() };
        let unreadable = match &cursor {
            Err(_) => Some(ResetReason::Cursor),
            // Shards that there are no more: positions of another cluster layout.
            Ok(cursor) if cursor.beyond(count) => Some(ResetReason::Epoch),
            Ok(_) => None,
        };
        let known = cursor.unwrap_or_default();
        for at in 0..resolved.courses.len() {
            let head = resolved.courses[at];
            let start = match (unreadable, known.get(head.shard)) {
                // Nothing can be known of what was missed: everything there is, is sent.
                (Some(reason), _) => {
                    resolved.resets.push(reason);
                    Some((Epoch::new(0), 0))
                }
                (None, at) => at,
            };
            // A shard that the cursor doesn't speak of had no channels then: it begins now.
            let Some((epoch, seq)) = start else { continue };
            let course = self.course(head.shard, epoch, seq);
            self.judge(&mut resolved, at, course).await?;
        }
        Ok(resolved)
    }

    /// Lets the ring, or else the log, say whether everything after `course` is there.
    async fn judge(&self, resolved: &mut Resolved, at: usize, course: Course) -> Result<(), StreamEnd> {
        let covered =
            self.shared.hub.with_ring(course.shard, |ring| ring.map_or(Err(Lack::Log), |r| course.check(r)));
        resolved.courses[at] = course;
        if covered.is_ok() {
            return Ok(());
        }
        match self.ask(self.question(at, course)).await? {
            Answer::Page(page) => resolved.pages.push((at, page)),
            Answer::Reset { reason, epoch, after } => {
                resolved.resets.push(reason);
                resolved.courses[at] = self.course(course.shard, epoch, after);
            }
        }
        Ok(())
    }

    async fn since(&self, time: Timestamp, heads: Vec<Course>) -> Result<Resolved, StreamEnd> {
        let mut resolved = Resolved { courses: heads, ..Resolved::default() };
        for at in 0..resolved.courses.len() {
            let head = resolved.courses[at];
            let found = self.patiently(|| self.shared.log.locate(head.shard, time)).await?;
            // The log may know of entries that the ring does not yet.
            let course = self.course(head.shard, found.epoch, found.after);
            self.judge(&mut resolved, at, course).await?;
        }
        // Nothing was promised of the time before: what retention took is no reset.
        resolved.resets.clear();
        Ok(resolved)
    }

    async fn last(&self, each: usize, heads: Vec<Course>) -> Result<Resolved, StreamEnd> {
        let shards: Vec<_> =
            self.subscription.shards.iter().map(|(shard, topics)| (*shard, topics.to_patterns())).collect();
        let query = NewestQuery { shards, each, total: self.shared.config.last_total, bytes: PAGE_BYTES };
        let pages = self.patiently(|| self.shared.log.newest(query.clone())).await?;
        let mut resolved = Resolved { courses: heads, ..Resolved::default() };
        for page in pages {
            let Some(at) = resolved.courses.iter().position(|course| course.shard == page.shard) else {
                continue;
            };
            resolved.courses[at] = self.course(page.shard, page.epoch, page.from);
            resolved.pages.push((at, Arc::new(page)));
        }
        Ok(resolved)
    }

    async fn patiently<'a, T>(
        &self,
        attempt: impl Fn() -> foghorn_bus::Future<'a, Result<T, LogError>>,
    ) -> Result<T, StreamEnd> {
        let deadline = Instant::now() + self.shared.config.log_patience;
        let mut backoff = Backoff::default();
        loop {
            let Ok(Ok(turn)) = timeout_at(deadline, self.shared.replays.turn()).await else {
                return Err(StreamEnd::LogUnavailable);
            };
            let answer = attempt().await;
            drop(turn);
            match answer {
                Ok(answer) => return Ok(answer),
                Err(error) if Instant::now() > deadline => {
                    tracing::debug!(client_id = self.life.client_id(), %error, "gave up on the event log");
                    return Err(StreamEnd::LogUnavailable);
                }
                Err(_) => self.shared.hub.metrics.log_failed(),
            }
            backoff.wait().await;
        }
    }
}
