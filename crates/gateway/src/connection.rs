//! A connection: a position in each of its shards, and what it wants from there on.
//!
//! It is pulled: whoever writes the socket asks for the next chunk when the socket takes one, and the
//! chunk is made from the ring (or the log) at that moment. Nothing is queued for it meanwhile.
//!
//! Its life: [`start`] finds where to begin and says so (`connected`, perhaps `stream-reset`), then it
//! reads from its positions to the head, says `stream-live` when it first gets there, and waits to be
//! marked.

mod chunk;
mod course;
mod start;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use foghorn_bus::backoff::Backoff;
use foghorn_bus::gateways::GatewayName;
use foghorn_bus::log::{EventLog, LogError};
use foghorn_bus::notifications::Unread;
use foghorn_core::batch::{Batch, FeedEvent};
use foghorn_core::policy::Policies;
use foghorn_core::reason::{ResetReason, StreamEnd};
use foghorn_core::time::Timestamp;
use foghorn_http::problem::Problem;

use crate::change::{self, Ask, Changed};
use crate::client_id::ClientId;
use crate::config::Config;
use crate::engine::Engine;
use crate::gzip::{Coder, Sum};
use crate::hub::{Hub, Membership, Waiter};
use crate::keep_alive::KeepAlive;
use crate::latest::Newest;
use crate::metrics::Source;
use crate::replays::{Answer, Question, Replays};
use crate::ring::RingEvent;
use crate::seat::{Due, Seat, Term};
use crate::subscription::Subscription;
use chunk::{Chunk, Said};
pub(crate) use chunk::{OUSTED_ID, expiring, goodbye, keep_alive, notice, stream_end};
use course::Lack;
pub(crate) use course::{Course, cursor};
pub(crate) use start::Begin;

/// Bytes of events after which a chunk is given out; more follow when the socket has taken it.
const CHUNK_BYTES: usize = 64 * 1024;
/// The same for one of the many streams that a connection over HTTP/2 may have.
const SHARING_CHUNK_BYTES: usize = 16 * 1024;
/// Events looked at in a ring at a time. There are fewer in a chunk, unless newer ones take the place of others.
const LOOKED_MAX: usize = 5000;
/// How long a stream waits that the log has nothing for and the ring does not cover yet: the ring has not
/// begun the epoch that the log is in.
const LOG_PAUSE: Duration = Duration::from_millis(100);
/// Bytes that a stream is behind count when it has been behind for so long: in a moment anything may come.
const LAG_LEAST: Duration = Duration::from_secs(1);
/// How exactly the end of a token is kept.
const TERM_STEP: Duration = Duration::from_millis(100);
/// Events and bytes asked of the log at a time, the latter by the bytes of a chunk.
const PAGE_EVENTS: usize = 500;
const PAGE_CHUNKS: usize = 8;
const PAGE_BYTES: usize = PAGE_CHUNKS * CHUNK_BYTES;

/// What `gzip` adds to a chunk, about: its beginning and end, and the frames of some stored blocks.
const GZIP_FRAME_BYTES: usize = 128;

/// What all connections of a gateway share.
pub(crate) struct Shared {
    pub(crate) hub: Arc<Hub>,
    pub(crate) log: Arc<dyn EventLog>,
    pub(crate) config: Config,
    /// Replays have a budget of their own, so that a storm of them leaves live delivery alone.
    pub(crate) replays: Replays,
    /// Serves what is level.
    pub(crate) engine: Engine,
    /// What the other gateways know it by.
    pub(crate) name: GatewayName,
}

impl Shared {
    pub(crate) fn new(hub: Arc<Hub>, log: Arc<dyn EventLog>, config: Config) -> Self {
        let name = hub.places.members.own();
        let replays = Replays::new(log.clone(), config.replays, hub.metrics.clone());
        Shared { hub, log, config, replays, engine: Engine::default(), name }
    }
}

/// One listener's stream.
pub(crate) struct Connection {
    shared: Arc<Shared>,
    subscription: Arc<Subscription>,
    membership: Membership,
    life: Life,
    phase: Phase,
    courses: Vec<Course>,
    /// Whose unread notifications it begins with the number of, and who knows it.
    notified: Option<(Arc<dyn Unread>, String)>,
    /// Bytes of a chunk, about: as much as may lie there while nobody takes it.
    chunk_bytes: usize,
    /// Whose turn it is: a hot shard must not keep the others from their share of a chunk.
    turn: usize,
    /// Events sent before `stream-live`.
    replayed: u64,
    told_stale: bool,
    /// Of what it was written, if it is compressed.
    gzip: Option<Sum>,
    /// Whether it owed nothing when it last looked.
    settled: bool,
    /// When it was first seen to owe more than it could be given at once, and has since; while it is live.
    behind_since: Option<Instant>,
    keep_alive: KeepAlive,
    /// How many surveys it has been looked at for.
    surveyed: u64,
}

/// What a stream is, whoever serves it.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) seat: Seat,
    pub(crate) subscription: Arc<Subscription>,
    /// Everything owed at or below them has been written. None before the stream has begun.
    pub(crate) courses: Vec<Course>,
    /// Whether the last it heard of its live feed is that it is silent.
    pub(crate) told_stale: bool,
    pub(crate) keep_alive: KeepAlive,
    /// Since when it is behind, if it is, though it was level once.
    pub(crate) behind_since: Option<Instant>,
    /// How many surveys it has been looked at for: each looks at it once, whoever serves it.
    pub(crate) surveyed: u64,
    /// Of what it was written, if it is compressed.
    pub(crate) gzip: Option<Sum>,
}

/// What is to be done when the rings have been read.
enum Next {
    /// The log has to be asked for this course.
    Log(usize),
    /// There is more in the rings.
    More,
    /// Nothing is owed.
    Wait,
}

enum Phase {
    Begin(Box<Begin>),
    CatchingUp,
    Live,
    Ended,
}

impl Connection {
    /// A stream that is yet to say `connected`.
    pub(crate) fn new(
        shared: Arc<Shared>,
        subscription: Subscription,
        begin: Begin,
        client_id: ClientId,
    ) -> Self {
        let seat = Seat::take(&shared.hub, client_id);
        Connection::seated(shared, subscription, begin, seat)
    }

    /// One of the gateway's own.
    pub(crate) fn own(shared: Arc<Shared>, subscription: Subscription, begin: Begin) -> Self {
        let seat = Seat::take_own(&shared.hub, ClientId::random(shared.name));
        Connection::seated(shared, subscription, begin, seat)
    }

    fn seated(shared: Arc<Shared>, subscription: Subscription, begin: Begin, seat: Seat) -> Self {
        let gzip = subscription.gzip.then(Sum::default);
        let stream = Stream {
            gzip,
            seat,
            surveyed: shared.hub.surveys.made(),
            subscription: Arc::new(subscription),
            courses: Vec::new(),
            told_stale: false,
            keep_alive: KeepAlive::new(&shared.config),
            behind_since: None,
        };
        Connection::of(shared, stream, Phase::Begin(Box::new(begin)))
    }

    /// What it hears was granted by these, if not by those of now.
    pub(crate) fn granted_by(mut self, policies: Arc<Policies>) -> Self {
        if let Some(seat) = &mut self.life.seat {
            seat.granted_by(policies);
        }
        self
    }

    /// It lasts no longer than its term.
    pub(crate) fn until(mut self, term: Option<Term>) -> Self {
        if let Some(seat) = &mut self.life.seat {
            seat.limit(term);
        }
        self
    }

    /// It begins with how many of the user's notifications are unread.
    pub(crate) fn notified(self, of: Option<(Arc<dyn Unread>, String)>) -> Self {
        Connection { notified: of, ..self }
    }

    /// A stream that said `stream-live` before and goes on from its courses.
    pub(crate) fn resumed(shared: Arc<Shared>, stream: Stream) -> Self {
        Connection::of(shared, stream, Phase::Live)
    }

    fn of(shared: Arc<Shared>, stream: Stream, phase: Phase) -> Self {
        let Stream { seat, subscription, courses, told_stale, keep_alive, behind_since, surveyed, gzip } =
            stream;
        Connection {
            gzip,
            membership: shared.hub.join(&subscription, seat.client_id()),
            life: Life::new(seat, shared.config.slow_time),
            shared,
            subscription,
            phase,
            courses,
            notified: None,
            chunk_bytes: CHUNK_BYTES,
            turn: 0,
            replayed: 0,
            told_stale,
            settled: false,
            behind_since,
            keep_alive,
            surveyed,
        }
    }

    /// It shares its socket with other streams.
    pub(crate) fn sharing_a_socket(self) -> Self {
        Connection { chunk_bytes: SHARING_CHUNK_BYTES, ..self }
    }

    /// Whether it is sent compressed.
    pub(crate) fn is_gzip(&self) -> bool {
        self.gzip.is_some()
    }

    /// What it shares with the others.
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Whether it has caught up, and the rings hold everything that it still lacks.
    pub(crate) fn is_level(&self) -> bool {
        let covered = |course: &Course| {
            self.shared.hub.with_ring(course.shard, |ring| ring.is_some_and(|r| course.check(r).is_ok()))
        };
        matches!(self.phase, Phase::Live) && self.courses.iter().all(covered)
    }

    /// The stream, for whoever serves it from now on. With its membership: until it is dropped, the hub may
    /// tell the stream to leave.
    pub(crate) fn into_stream(self) -> Option<(Stream, Membership)> {
        let Connection {
            subscription,
            membership,
            mut life,
            courses,
            told_stale,
            keep_alive,
            behind_since,
            surveyed,
            gzip,
            ..
        } = self;
        let seat = life.seat.take()?;
        let stream =
            Stream { seat, subscription, courses, told_stale, keep_alive, behind_since, surveyed, gzip };
        Some((stream, membership))
    }

    /// Its socket took nothing for too long, or too little.
    pub(crate) fn stalled(&mut self) {
        self.life.end = Some(StreamEnd::Slow);
    }

    /// The next bytes for the socket; `None` when the stream is over. Waits until there are some.
    pub(crate) async fn next_chunk(&mut self) -> Option<Bytes> {
        let said = match std::mem::replace(&mut self.phase, Phase::CatchingUp) {
            Phase::Ended => {
                self.phase = Phase::Ended;
                return None;
            }
            Phase::Begin(begin) => Box::pin(self.begin(*begin)).await,
            phase => {
                self.phase = phase;
                self.go_on().await
            }
        };
        (self.life.last_write, self.life.idle) = (Instant::now(), false);
        Some(self.coded(said))
    }

    /// What it says, as its client takes it.
    pub(crate) fn coded(&mut self, said: Said) -> Bytes {
        let Some(sum) = &mut self.gzip else { return said.into_text() };
        let mut out = Vec::with_capacity(said.len() + GZIP_FRAME_BYTES);
        let mut coder = Coder::new(&mut out, Some(sum));
        coder.begin();
        said.write(&mut coder);
        if matches!(self.phase, Phase::Ended) {
            coder.end();
        }
        out.into()
    }

    async fn go_on(&mut self) -> Said {
        loop {
            self.look();
            // After the mark was taken off: who lets it go marks it last.
            if let Some(end) = self.life.leaves(&self.membership.waiter) {
                return self.finish(end);
            }
            if let Some(end) = self.life.keep_granted(&self.subscription) {
                return self.finish(end);
            }
            let mut chunk = self.chunk();
            match self.life.due() {
                Due::Nothing(_) => {}
                Due::Telling(ends) => self.say_expiring(ends, &mut chunk),
                Due::End(end) => return self.finish(end),
            }
            if self.lags_too_much() {
                return self.finish(StreamEnd::Slow);
            }
            self.say_stale(&mut chunk);
            let next = self.read_rings(&mut chunk);
            self.settled = matches!(next, Next::Wait);
            self.answer_surveys();
            // Who catches up is behind for other reasons than its own.
            let behind = matches!(self.phase, Phase::Live) && !self.settled;
            self.behind_since = behind.then(|| self.behind_since.unwrap_or_else(Instant::now));
            // What was there before it was asked is heard by the old set.
            self.answer_asked(&mut chunk);
            if !chunk.is_empty() {
                self.keep_alive.active();
                return chunk.into_said();
            }
            let waited = match next {
                Next::More => {
                    tokio::task::yield_now().await;
                    None
                }
                Next::Log(at) => {
                    let (before, asked) = (self.courses[at], Instant::now());
                    let bytes = match Box::pin(self.read_log(at)).await {
                        // The log has nothing more, and the ring is not there yet.
                        None if self.courses[at] == before => self.wait(Instant::now() + LOG_PAUSE).await,
                        bytes => {
                            self.keep_alive.active();
                            bytes
                        }
                    };
                    // The log's time is not the client's.
                    self.behind_since = self.behind_since.map(|since| since + asked.elapsed());
                    bytes
                }
                Next::Wait => self.wait(self.keep_alive_at()).await,
            };
            if let Some(bytes) = waited {
                return bytes;
            }
        }
    }

    /// Makes the changes that are asked for. Where it goes on after one is said at once: with shards that it had
    /// nothing in before, its last cursor doesn't say it.
    fn answer_asked(&mut self, chunk: &mut Chunk) {
        let client_id = self.life.seat.as_ref().map(Seat::client_id);
        while let Some(ask) = client_id.and_then(|id| self.shared.hub.directory.take(id)) {
            let before = self.subscription.clone();
            let changed = self.change(&ask);
            if !Arc::ptr_eq(&before, &self.subscription) {
                chunk.heard_as(self.subscription.id());
                self.say_position(chunk);
            }
            ask.answer(changed);
        }
    }

    /// Says where it is, if operators want to know.
    fn answer_surveys(&mut self) {
        let Some(seat) = &self.life.seat else { return };
        let level = self.settled && matches!(self.phase, Phase::Live);
        for survey in self.shared.hub.surveys.of_users_since(&mut self.surveyed) {
            survey.look_at(seat, &self.subscription, || self.courses.clone(), level);
            survey.looked_at(1);
        }
    }

    /// Waits until it is asked for a change and makes it, while its socket takes what it was given last. Returns what
    /// is to be written before anything else then.
    pub(crate) async fn changed_meanwhile(&mut self) -> Said {
        self.membership.waiter.asked(|| self.is_asked()).await;
        let mut chunk = self.chunk();
        self.answer_asked(&mut chunk);
        chunk.into_said()
    }

    fn change(&mut self, ask: &Ask) -> Result<Changed, Problem> {
        let seat = self.life.seat.as_ref().ok_or_else(change::unknown)?;
        let granted = ask.grant(&self.shared.hub, seat, &self.subscription)?;
        if let Some(subscription) = granted.subscription {
            let courses = change::go_on(&subscription, &self.courses, |shard| self.head(shard));
            self.courses = courses.ok_or_else(|| change::unreachable("the gateway is starting"))?;
            self.membership.listen_to(&subscription);
            ask.made(&self.shared.hub, self.subscription.kept.as_deref(), Some(&subscription));
            // It has to look at what it didn't want before.
            (self.subscription, self.turn, self.settled) = (subscription, 0, false);
        } else {
            ask.made(&self.shared.hub, None, None);
        }
        let seat = self.life.seat.as_mut().ok_or_else(change::unknown)?;
        seat.limit(granted.term);
        Ok(Changed::new(&self.subscription, &self.courses, seat))
    }

    fn is_asked(&self) -> bool {
        if matches!(self.phase, Phase::Ended) {
            return false;
        }
        let id = self.life.seat.as_ref().map(Seat::client_id);
        id.is_some_and(|id| self.shared.hub.directory.is_asked(id))
    }

    /// Takes the mark off. Whoever owed nothing and was not marked has nothing to look for: a quiet
    /// stream stays level with a ring that turns over faster than it is kept alive.
    fn look(&mut self) {
        let through = self.marked_through();
        self.settled &= !self.membership.waiter.unmark();
        self.skip_to(&through);
    }

    /// Whether it has been behind for too long, or by too much, though it was level once.
    fn lags_too_much(&self) -> bool {
        let Some(since) = self.behind_since else { return false };
        let (behind, config) = (since.elapsed(), &self.shared.config);
        behind >= config.lag_time
            || (config.lag_bytes > 0 && behind >= LAG_LEAST && self.lag_bytes() > config.lag_bytes)
    }

    /// Bytes that the rings have beyond where it is.
    fn lag_bytes(&self) -> usize {
        let lag = |course: &Course| {
            self.shared.hub.with_ring(course.shard, |ring| ring.map_or(0, |ring| ring.bytes_after(course.at)))
        };
        self.courses.iter().map(lag).sum()
    }

    fn marked_through(&self) -> Vec<u64> {
        self.courses.iter().map(|course| self.shared.hub.marked_through(course.shard)).collect()
    }

    /// Moves on to what `marked_through` gave before it was seen that there is no mark.
    fn skip_to(&mut self, through: &[u64]) {
        if !self.settled {
            return;
        }
        for (course, through) in self.courses.iter_mut().zip(through) {
            let hub = &self.shared.hub;
            if hub.with_ring(course.shard, |ring| ring.is_some_and(|ring| ring.epoch() == course.epoch)) {
                course.at = course.at.max(*through);
            }
        }
    }

    /// Appends what the rings hold, up to a chunk.
    fn read_rings(&mut self, chunk: &mut Chunk) -> Next {
        let mut next = Next::Wait;
        let now = self.shared.hub.clock.now();
        let catching_up = matches!(self.phase, Phase::CatchingUp);
        for step in 0..self.courses.len() {
            let at = (self.turn + step) % self.courses.len();
            let mut course = self.courses[at];
            let topics = &self.subscription.shards[at].1;
            let policies = self.shared.hub.policies();
            let (mut events, mut looked) = (Newest::new(&policies), 0);
            let mut room = self.chunk_bytes.saturating_sub(chunk.len());
            if room == 0 {
                self.turn = at;
                return Next::More;
            }
            let mut more = false;
            let lack = self.shared.hub.with_ring(course.shard, |ring| {
                let ring = ring.ok_or(Lack::Log)?;
                course.check(ring)?;
                let reached = ring.read(topics, course.at, |event| {
                    room = room.saturating_sub(event.feed.wire_len());
                    if self.subscription.wants_type(&event.feed) && !event.feed.is_expired(now) {
                        let older = events.push(&event.feed.channel, event.clone());
                        room += older.map_or(0, |older| older.feed.wire_len());
                    }
                    looked += 1;
                    room > 0 && looked < LOOKED_MAX
                });
                (course.at, more) = (reached.at, reached.more);
                Ok(())
            });
            match lack {
                Ok(()) => {}
                // Another gateway was ahead: what comes will come past here.
                Err(Lack::Ahead) => continue,
                Err(Lack::Log) => return Next::Log(at),
            }
            if more {
                next = Next::More;
            }
            let reached = course.at;
            let before = chunk.events();
            self.shared.hub.metrics.superseded.inc_by(events.superseded());
            for event in events.into_events() {
                self.courses[at].at = event.feed.seq;
                chunk.event(&event, &self.courses, &policies);
                event.count_deliveries(1);
            }
            self.courses[at].at = reached;
            if catching_up {
                let sent = chunk.events() - before;
                self.replayed += sent;
                self.shared.hub.metrics.replayed(Source::Ring, sent);
            }
        }
        if catching_up && self.courses.iter().all(Course::is_level) && chunk.len() < self.chunk_bytes {
            self.phase = Phase::Live;
            // Also who was told before it had to catch up that the feed is silent takes it to be live now.
            self.told_stale = false;
            chunk.live(self.replayed, &self.courses);
        }
        next
    }

    /// One page from the log for a course older than the ring. `None` when it moved on silently.
    async fn read_log(&mut self, at: usize) -> Option<Said> {
        let course = self.courses[at];
        let question = self.question(at, course);
        // What changes about the live feed is told at once, also by a stream that waits for the log.
        let answer = self.ask_unless(question, || self.is_stale_untold() || self.is_asked()).await;
        match answer {
            Ok(None) => None,
            Ok(Some(Answer::Page(page))) => {
                let mut chunk = self.chunk();
                let sent =
                    take_page(&mut self.courses, at, &page, &self.subscription, &self.shared, &mut chunk);
                self.replayed += sent;
                (!chunk.is_empty()).then(|| chunk.into_said())
            }
            Ok(Some(Answer::Reset { reason, epoch, after })) => {
                self.courses[at] = self.course(course.shard, epoch, after);
                self.phase = Phase::CatchingUp;
                self.replayed = 0;
                self.shared.hub.metrics.reset(reason);
                let mut chunk = self.chunk();
                chunk.reset(reason, &self.courses);
                Some(chunk.into_said())
            }
            Err(end) => Some(self.finish(end)),
        }
    }

    /// Asks the log, patiently: data that are slow to reach are no reason to reset anybody.
    async fn ask(&self, question: Question) -> Result<Answer, StreamEnd> {
        let answer = self.ask_unless(question, || false).await?;
        answer.ok_or(StreamEnd::Internal)
    }

    /// The same, unless a mark comes at which there is something else to do; then none.
    async fn ask_unless(
        &self,
        question: Question,
        other: impl Fn() -> bool,
    ) -> Result<Option<Answer>, StreamEnd> {
        let deadline = Instant::now() + self.shared.config.log_patience;
        let mut backoff = Backoff::default();
        let attempts = async {
            loop {
                match self.shared.replays.ask(question.clone()).await {
                    Ok(answer) if self.is_outdated(&question, &answer) => {}
                    Ok(answer) => return answer,
                    Err(LogError(error)) => {
                        let client_id = self.life.client_id();
                        tracing::debug!(client_id, error, "catch-up waits for the event log");
                    }
                }
                backoff.wait().await;
            }
        };
        let marked = async {
            loop {
                self.membership.waiter.marked().await;
                self.membership.waiter.unmark();
                if let Some(end) = self.life.leaves(&self.membership.waiter) {
                    return Err(end);
                }
                if let Some(end) = self.life.due_end(&self.subscription) {
                    return Err(end);
                }
                if other() {
                    return Ok(None);
                }
            }
        };
        tokio::select! {
            biased;
            given_up = marked => given_up,
            end = self.life.over() => Err(end),
            answer = attempts => Ok(Some(answer)),
            () = tokio::time::sleep_until(deadline) => Err(StreamEnd::LogUnavailable),
        }
    }

    /// Whether a replica of the log answers for an epoch before the one that the ring is in by now.
    fn is_outdated(&self, question: &Question, answer: &Answer) -> bool {
        let Answer::Reset { epoch, .. } = answer else { return false };
        let ring = self.shared.hub.with_ring(question.shard, |ring| ring.map(|ring| ring.epoch()));
        *epoch < question.epoch && ring.is_some_and(|ring| ring >= question.epoch)
    }

    fn question(&self, at: usize, course: Course) -> Question {
        Question {
            shard: course.shard,
            epoch: course.epoch,
            after: course.at,
            topics: self.subscription.shards[at].1.to_patterns(),
            events: PAGE_EVENTS,
            bytes: PAGE_CHUNKS * self.chunk_bytes,
        }
    }

    fn keep_alive_at(&self) -> Instant {
        self.life.last_write + self.keep_alive.after()
    }

    /// Waits for a mark, but not past `until`. Some bytes when it is time for a keep-alive.
    async fn wait(&mut self, until: Instant) -> Option<Said> {
        self.life.idle = true;
        tokio::select! {
            biased;
            () = self.membership.waiter.marked() => {
                self.gather().await;
                return None;
            }
            () = self.life.term_asks() => return None,
            () = tokio::time::sleep_until(until.min(self.keep_alive_at())) => {}
        }
        if Instant::now() < self.keep_alive_at() {
            return None;
        }
        // The cursor of now, not of when it last looked.
        let through = self.marked_through();
        if self.membership.waiter.is_marked() {
            return None;
        }
        self.skip_to(&through);
        let mut chunk = self.chunk();
        self.say_position(&mut chunk);
        self.keep_alive.sent();
        Some(chunk.into_said())
    }

    /// Says where it is: to the client's cursor, and by a heartbeat to the page, if it wants those.
    fn say_position(&self, chunk: &mut Chunk) {
        chunk.keep_alive(&self.courses);
        if self.subscription.heartbeat {
            chunk.heartbeat(self.shared.hub.clock.now());
        }
    }

    /// Lets more events come to the first, if they are wanted together.
    async fn gather(&mut self) {
        let live = matches!(self.phase, Phase::Live);
        let Some(time) = self.subscription.form.gathered_for().filter(|_| live) else { return };
        let until = Instant::now() + time;
        while self.life.leaves(&self.membership.waiter).is_none()
            && self.life.due_end(&self.subscription).is_none()
            && !self.is_asked()
        {
            // It will have to look.
            self.membership.waiter.unmark();
            self.settled = false;
            tokio::select! {
                () = self.membership.waiter.marked() => {}
                () = tokio::time::sleep_until(until) => return,
            }
        }
    }

    fn say_stale(&mut self, chunk: &mut Chunk) {
        if self.is_stale_untold() {
            self.told_stale = !self.told_stale;
            if self.told_stale { chunk.stale() } else { chunk.live(0, &self.courses) }
        }
    }

    /// Whether its live feed is silent, or no longer, and it hasn't heard of that.
    fn is_stale_untold(&self) -> bool {
        let stale = || self.shared.hub.is_stale(self.courses.iter().map(|course| course.shard));
        matches!(self.phase, Phase::Live) && stale() != self.told_stale
    }

    fn say_expiring(&mut self, ends: Timestamp, chunk: &mut Chunk) {
        if let Some(seat) = &mut self.life.seat {
            seat.told();
        }
        chunk.expiring(ends);
    }

    fn chunk(&self) -> Chunk {
        Chunk::new(&self.subscription)
    }

    /// Says goodbye: why, where to go on, and when.
    fn finish(&mut self, end: StreamEnd) -> Said {
        let mut chunk = self.chunk();
        chunk.end(end, self.shared.config.retry_ms(), &self.courses);
        self.life.end = Some(end);
        self.phase = Phase::Ended;
        chunk.into_said()
    }
}

/// Says why a stream is over when it ends here, and not with somebody else.
pub(crate) struct Life {
    /// None once somebody else has it.
    pub(crate) seat: Option<Seat>,
    pub(crate) end: Option<StreamEnd>,
    /// Whether it waits for something to send, and not for its socket.
    pub(crate) idle: bool,
    pub(crate) last_write: Instant,
    /// How long the server waits for whoever takes nothing.
    slow_time: Duration,
}

impl Life {
    pub(crate) fn new(seat: Seat, slow_time: Duration) -> Self {
        Life { seat: Some(seat), end: None, idle: false, last_write: Instant::now(), slow_time }
    }

    fn client_id(&self) -> String {
        self.seat.as_ref().map(|seat| seat.client_id().to_string()).unwrap_or_default()
    }

    /// What its term asks for.
    pub(crate) fn due(&self) -> Due {
        self.seat.as_ref().map_or(Due::Nothing(None), Seat::due)
    }

    /// Returns when its term asks for something.
    pub(crate) async fn term_asks(&self) {
        while let Due::Nothing(wait) = self.due() {
            match wait {
                Some(wait) => tokio::time::sleep(wait.max(TERM_STEP)).await,
                None => std::future::pending().await,
            }
        }
    }

    /// Why it is to end because of its gateway, if it is. The gateway's own streams don't begin again elsewhere.
    pub(crate) fn leaves(&self, waiter: &Waiter) -> Option<StreamEnd> {
        let is_own = self.seat.as_ref().is_some_and(Seat::is_own);
        waiter.leaves().filter(|end| !is_own || *end != StreamEnd::Rebalance)
    }

    /// Why it is to end, if it is.
    fn due_end(&self, subscription: &Subscription) -> Option<StreamEnd> {
        let seat = self.seat.as_ref()?;
        seat.due_end().or_else(|| seat.withdrawn(subscription))
    }

    /// Looks whether policies that have changed still grant what it hears; why it is to end if not.
    fn keep_granted(&mut self, subscription: &Subscription) -> Option<StreamEnd> {
        self.seat.as_mut()?.keep_granted(subscription)
    }

    /// Returns when its term is over, with why.
    async fn over(&self) -> StreamEnd {
        loop {
            self.term_asks().await;
            if let Due::End(end) = self.due() {
                return end;
            }
            tokio::time::sleep(TERM_STEP).await;
        }
    }

    /// Why it is over, if it ends here and now.
    fn ending(&self) -> StreamEnd {
        // Half of it: where streams share a socket, what waited first need not have been theirs.
        let stalled = !self.idle && self.last_write.elapsed() >= self.slow_time / 2;
        let unsaid = if stalled { StreamEnd::Slow } else { StreamEnd::ClientGone };
        self.end.unwrap_or(unsaid)
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        let end = self.ending();
        if let Some(seat) = self.seat.take() {
            seat.end(end);
        }
    }
}

/// Appends a page of the log and moves its course. Returns how many events were sent.
fn take_page(
    courses: &mut [Course],
    at: usize,
    page: &Batch,
    subscription: &Subscription,
    shared: &Shared,
    chunk: &mut Chunk,
) -> u64 {
    let before = chunk.events();
    let policies = shared.hub.policies();
    let mut events = Newest::new(&policies);
    // What is Foghorn's own is never kept, but by an event log of a version before it was.
    let owed = |event: &&FeedEvent| !event.channel.is_reserved() && subscription.wants_type(event);
    for feed in page.events.iter().filter(owed) {
        events.push(&feed.channel, feed);
    }
    shared.hub.metrics.superseded.inc_by(events.superseded());
    for feed in events.into_events() {
        courses[at].at = feed.seq;
        let delivered = shared.hub.counter(feed);
        delivered.inc();
        chunk.event(&RingEvent::new(feed.clone(), delivered), courses, &policies);
    }
    courses[at].at = courses[at].at.max(page.to);
    let sent = chunk.events() - before;
    shared.hub.metrics.replayed(Source::Log, sent);
    sent
}

/// The most telling of several reasons to reset.
fn foremost(reasons: &[ResetReason]) -> Option<ResetReason> {
    [
        // What the stream hears isn't what its client thinks.
        ResetReason::Subscription,
        ResetReason::Cursor,
        ResetReason::Epoch,
        ResetReason::Hole,
        ResetReason::Expired,
    ]
    .into_iter()
    .find(|reason| reasons.contains(reason))
}

#[cfg(test)]
mod splice;
#[cfg(test)]
mod tests;
