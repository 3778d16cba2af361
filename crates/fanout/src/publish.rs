//! The one way in, behind all doors: check, append, ack.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use bytestring::ByteString;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use tokio::time::timeout;
use tracing::Instrument as _;

use foghorn_auth::audit::{Action, Line};
use foghorn_auth::{Authenticator, Caller, Requester};
use foghorn_bus::journal::{AppendError, Appended, Journal};
use foghorn_bus::log::{Committed, EventLog};
use foghorn_bus::policies::SharedPolicies;
use foghorn_core::channel::Channel;
use foghorn_core::entry::{Key, NewEntry};
use foghorn_core::event::{Event, EventError, EventId, EventType, Ttl, parse_data};
use foghorn_core::position::Position;
use foghorn_core::trace::TraceContext;
use foghorn_http::limit::{Exceeded, Limiter};
use foghorn_telemetry::shutdown::Shutdown;
use foghorn_telemetry::traces::{self, Kind, Span};

use crate::config::Config;
use crate::error::PublishError;
use crate::metrics::Metrics;
use crate::pack::pack;
use crate::room::{RequestRoom, Room, Rooms, bytes_of};

/// Where an event came in, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// `POST /api/publish`.
    Http,
    /// `foghorn.v1.Publisher`.
    Grpc,
    /// A request on `foghorn.publish.<channel>`.
    Nats,
    /// A gateway's, of who listens.
    Presence,
    /// A gateway's, to hear it itself.
    Canary,
}

/// What the answer is to promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ack {
    /// The journal has stored the event by a quorum.
    #[default]
    Accepted,
    /// The event log has committed it too, within the durable deadline.
    Durable,
}

/// Whom an event is for, as the publisher put it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A channel by name.
    Channel(ByteString),
    /// A user by id.
    User(ByteString),
}

/// An event as a publisher gives it, unchecked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishInput {
    /// Whom it is for.
    pub target: Target,
    /// The SSE event type.
    pub event: Option<ByteString>,
    /// The payload; has to be UTF-8.
    pub data: Bytes,
    /// The idempotency key.
    pub id: Option<ByteString>,
    /// For how long it is owed.
    pub ttl: Option<Ttl>,
    /// What the answer is to promise.
    pub ack: Ack,
    /// Of which trace it is a part.
    pub traceparent: Option<TraceContext>,
}

/// A published event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// Where it is; of the first one when it is a duplicate.
    pub position: Position,
    /// The publisher's id, if it gave one.
    pub id: Option<EventId>,
    /// Whether an event with this channel and id was there already.
    pub duplicate: bool,
    /// Whether the event log has committed it; `None` when that wasn't asked for.
    pub durable: Option<bool>,
}

/// An event that may be appended.
#[derive(Debug)]
pub(crate) struct Checked {
    entry: NewEntry,
    ack: Ack,
    came: Instant,
    /// Room that it takes (of its stream's, of all), given back once it is appended.
    pub(crate) room: Option<(Room, Room)>,
    /// From its coming to its answer, if it is traced.
    span: Option<Box<Span>>,
}

/// Events of one channel on their way into the journal.
pub(crate) struct Run {
    door: Door,
    waiting: VecDeque<Appending>,
    answers: BoxStream<'static, Result<Appended, AppendError>>,
    /// What the rest is answered with.
    failed: Option<PublishError>,
}

/// What is still to be known of an event once its entry is with the journal.
struct Appending {
    key: Key,
    id: Option<EventId>,
    ack: Ack,
    came: Instant,
    _room: Option<(Room, Room)>,
    /// From its coming to its answer, and of that what the journal takes, if it is traced.
    spans: Option<Box<(Span, Option<Span>)>>,
}

/// An event that the journal has.
#[derive(Debug)]
pub(crate) struct Accepted {
    key: Key,
    published: Published,
    ack: Ack,
    came: Instant,
    span: Option<Box<Span>>,
}

/// Publishes. Shared by all doors.
pub struct Publisher {
    pub(crate) journal: Arc<dyn Journal>,
    log: Arc<dyn EventLog>,
    pub(crate) policies: SharedPolicies,
    pub(crate) auth: Arc<Authenticator>,
    pub(crate) config: Config,
    pub(crate) metrics: Metrics,
    pub(crate) shutdown: Shutdown,
    rooms: Rooms,
    /// What each subject publishes.
    subjects: Limiter,
}

impl Publisher {
    /// Appends to `journal` what `auth` lets callers publish; asks `log` for `durable` acks; refuses new requests once `shutdown` is set.
    pub fn new(
        journal: Arc<dyn Journal>,
        log: Arc<dyn EventLog>,
        policies: SharedPolicies,
        auth: Arc<Authenticator>,
        config: Config,
        metrics: Metrics,
        shutdown: Shutdown,
    ) -> Self {
        let rooms = Rooms::new(config.inflight_bytes, config.body_bytes);
        let subjects = Limiter::new(config.subject_rate());
        Publisher { journal, log, policies, auth, config, metrics, shutdown, rooms, subjects }
    }

    /// Publishes one event and waits for what its ack class promises.
    pub async fn publish(
        &self,
        door: Door,
        by: &Requester,
        input: PublishInput,
    ) -> Result<Published, PublishError> {
        let checked = self.check(door, by, input).await?;
        let mut run = self.append_in_order(door, vec![checked]);
        let accepted = run.next(self).await.unwrap_or_else(|| Err(PublishError::draining()))?;
        self.settle(door, accepted).await
    }

    /// An error when the server is stopping. Doors ask before they take a request in.
    pub fn check_open(&self) -> Result<(), PublishError> {
        if self.shutdown.is_set() { Err(PublishError::draining()) } else { Ok(()) }
    }

    /// An error for whoever may publish nothing at all.
    pub(crate) fn check_may(&self, caller: &Caller) -> Result<(), PublishError> {
        Ok(self.auth.check_publisher(caller, &self.policies.get())?)
    }

    /// Counts the events of a request, all or none of them: some alone would turn a channel's order around when
    /// the others are published again.
    pub(crate) fn check_rate(&self, caller: &Caller, events: usize) -> Result<(), PublishError> {
        let counted = self.count(caller, events);
        counted.map_err(|exceeded| PublishError::limited("fanout.subject_per_second", exceeded))
    }

    /// Counts an event of a stream, waiting until its subject may publish one, or it is time to drain.
    pub(crate) async fn wait_for_rate(&self, caller: &Caller) -> Result<(), PublishError> {
        while let Err(Exceeded { wait }) = self.count(caller, 1) {
            self.metrics.rate_waits.inc();
            // Jittered, so that of several streams of one subject each has its turn.
            let wait = wait.mul_f64(1.0 + rand::random::<f64>());
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.shutdown.wait() => return Err(PublishError::draining()),
            }
        }
        Ok(())
    }

    fn count(&self, caller: &Caller, events: usize) -> Result<(), Exceeded> {
        let Some(identity) = caller.identity() else { return Ok(()) };
        self.subjects.check_all(identity.subject.as_str(), u32::try_from(events).unwrap_or(u32::MAX))
    }

    /// Room for a request of so many events and bytes of data, waiting at most 2 s.
    pub async fn room(&self, events: usize, bytes: usize) -> Result<RequestRoom, PublishError> {
        let mut room = self.growing_room(None);
        room.grow(bytes_of(events, bytes)).await?;
        Ok(room)
    }

    /// Room for a request whose body is yet to arrive, from a client's address if that is known.
    pub fn growing_room(&self, client: Option<IpAddr>) -> RequestRoom {
        self.rooms.for_request(client)
    }

    /// Room for an event of a stream, waiting for as long as it takes.
    pub(crate) async fn wait_for_room(&self, bytes: usize) -> Result<Room, PublishError> {
        self.rooms.wait(bytes_of(1, bytes)).await
    }

    /// Counts an answer that was given without looking at an event.
    pub(crate) fn refused(&self, door: Door, error: &PublishError) {
        self.metrics.answered(door, Ack::Accepted, error.outcome(), Duration::ZERO);
        self.note_refusal(door, None, error);
    }

    /// For those who have to know who wanted to publish what they may not.
    fn note_refusal(&self, door: Door, subject: Option<&str>, error: &PublishError) {
        if error.is_of_who_asks()
            && let Some(room) = self.auth.audit.room(Action::Refused)
        {
            let (door, reason) = (door.as_str(), Some(error.code));
            room.say(&Line {
                door,
                subject,
                on: error.denied().unwrap_or_default(),
                reason,
                ..Line::default()
            });
        }
    }

    fn note_published(&self, door: Door, caller: &Caller, channel: &Channel) {
        if let Some(room) = self.auth.audit.room(Action::Published) {
            let (door, subject) = (door.as_str(), caller.subject());
            room.say(&Line { door, subject, on: channel.as_str(), ..Line::default() });
        }
    }

    /// Whether it may be appended: everything from outside becomes a trusted type here, and is the caller's
    /// to publish.
    pub(crate) async fn check(
        &self,
        door: Door,
        by: &Requester,
        input: PublishInput,
    ) -> Result<Checked, PublishError> {
        let (came, ack, traceparent) = (Instant::now(), input.ack, input.traceparent);
        let mut lines = traces::lines(traceparent);
        let allowed = self.allowed(by, input).instrument(lines.clone()).await;
        let checked = allowed.map(|mut entry| {
            // Not before: who may not publish has nothing traced either.
            let span = traces::published(&mut entry.traceparent, came).map(|mut span| {
                span.set("messaging.destination.name", entry.event.channel.as_str().to_owned());
                span.set("foghorn.door", door.as_str());
                Box::new(span)
            });
            // One that came along keeps its id.
            if traceparent.is_none() {
                lines = traces::lines(entry.traceparent);
            }
            Checked { entry, ack, came, room: None, span }
        });
        let _lines = lines.entered();
        checked
            .inspect(|checked| self.note_published(door, &by.caller, &checked.entry.event.channel))
            .inspect_err(|error| {
                self.metrics.answered(door, ack, error.outcome(), came.elapsed());
                self.note_refusal(door, by.caller.subject(), error);
            })
    }

    async fn allowed(&self, by: &Requester, input: PublishInput) -> Result<NewEntry, PublishError> {
        let mut entry = self.parse(input)?;
        self.auth.check_publish(by, &entry.event.channel, &self.policies.get()).await?;
        self.pack(&mut entry.event);
        Ok(entry)
    }

    fn parse(&self, mut input: PublishInput) -> Result<NewEntry, EventError> {
        let traceparent = input.traceparent.take();
        let event = input.into_event()?;
        // Of what its publisher gave: how much of it is left then is nobody's business to know beforehand.
        let most = self.policies.get().event_bytes(event.channel.as_str(), self.journal.frame_bytes());
        event.check_size(most)?;
        let key = match &event.id {
            Some(id) => Key::of(&event.channel, id),
            // So that our own retry never doubles.
            None => Key::invented(rand::random()),
        };
        Ok(NewEntry { event, key, traceparent })
    }

    /// Compresses data, where the policy says so and it makes them fewer.
    fn pack(&self, event: &mut Event) {
        let least = self.policies.get().of(event.channel.as_str()).compress_data_from;
        if (1..=event.data.len()).contains(&least)
            && let Some(packed) = pack(&event.data)
        {
            self.metrics.packed(event.data.len(), packed.len());
            event.data = packed;
        }
    }

    /// Begins to append events of one channel, in their order. One such run of a channel at a time is up
    /// to the caller.
    pub(crate) fn append_in_order(&self, door: Door, events: Vec<Checked>) -> Run {
        let (waiting, entries) = events
            .into_iter()
            .map(|Checked { entry, ack, came, room, span }| {
                let (key, id) = (entry.key, entry.event.id.clone());
                let spans = span.map(|span| {
                    let journal = span.child("journal", Kind::Client);
                    Box::new((*span, journal))
                });
                (Appending { key, id, ack, came, _room: room, spans }, entry)
            })
            .unzip();
        Run { door, waiting, answers: self.journal.append_in_order(entries), failed: None }
    }

    /// Waits for what the ack class promises beyond that.
    pub(crate) async fn settle(&self, door: Door, accepted: Accepted) -> Result<Published, PublishError> {
        if !accepted.waits() {
            return Ok(self.finish(door, accepted, None));
        }
        let lines = traces::lines(accepted.span.as_ref().map(|span| span.context()));
        match self.committed(accepted.published.position, accepted.key).instrument(lines).await {
            Ok(durable) => Ok(self.finish(door, accepted, Some(durable))),
            Err(error) => {
                self.metrics.answered(door, accepted.ack, error.outcome(), accepted.came.elapsed());
                if let Some(span) = accepted.span {
                    span.fail(error.outcome());
                }
                Err(error)
            }
        }
    }

    /// The answer to an event that is as safe as it was asked to be, or as it got.
    pub(crate) fn finish(&self, door: Door, accepted: Accepted, durable: Option<bool>) -> Published {
        let Accepted { published, ack, came, span, .. } = accepted;
        let outcome = match (durable, published.duplicate) {
            (Some(false), _) => "not-durable",
            (_, true) => "duplicate",
            (_, false) => "stored",
        };
        self.metrics.answered(door, ack, outcome, came.elapsed());
        if let Some(mut span) = span {
            span.set("foghorn.outcome", outcome);
            span.end();
        }
        Published { durable, ..published }
    }

    /// Whether the event log commits it within the deadline. An error only when it surely never will.
    async fn committed(&self, position: Position, key: Key) -> Result<bool, PublishError> {
        let deadline = self.config.durable_deadline;
        // The log keeps the deadline itself; this is for when it doesn't.
        let limit = deadline + Duration::from_secs(1);
        match timeout(limit, self.log.committed(position, key, deadline)).await {
            Ok(Ok(Committed::Yes)) => Ok(true),
            Ok(Ok(Committed::NotYet)) | Err(_) => Ok(false),
            Ok(Ok(Committed::Replaced)) => Err(PublishError::lost(position)),
            Ok(Err(error)) => {
                tracing::debug!(%error, %position, "answered as not durable");
                Ok(false)
            }
        }
    }
}

impl PublishInput {
    /// The event, but for its size: how large it may be is up to the cluster and the channel's policy.
    pub(crate) fn into_event(self) -> Result<Event, EventError> {
        let channel = match self.target {
            Target::Channel(name) => Channel::parse(name)?,
            Target::User(id) => Channel::user(&id)?,
        };
        Ok(Event {
            channel,
            event_type: self.event.map(EventType::parse).transpose()?,
            data: parse_data(self.data)?,
            id: self.id.map(EventId::parse).transpose()?,
            ttl: self.ttl,
        })
    }
}

impl Run {
    /// What became of the next event; `None` after the last.
    pub(crate) async fn next(&mut self, publisher: &Publisher) -> Option<Result<Accepted, PublishError>> {
        let appended = match &self.failed {
            Some(error) => Err(error.clone()),
            None => self.append(publisher.config.publish_deadline).await,
        };
        let Appending { key, id, ack, came, _room, spans } = self.waiting.pop_front()?;
        Some(match appended {
            Ok(Appended { position, duplicate }) => {
                let published = Published { position, id, duplicate, durable: None };
                let span = spans.map(|spans| Box::new(journal_took(*spans, position)));
                Ok(Accepted { key, published, ack, came, span })
            }
            Err(error) => {
                if let Some((span, journal)) = spans.map(|spans| *spans) {
                    journal.into_iter().chain([span]).for_each(|span| span.fail(error.outcome()));
                }
                publisher.metrics.answered(self.door, ack, error.outcome(), came.elapsed());
                Err(error)
            }
        })
    }

    async fn append(&mut self, deadline: Duration) -> Result<Appended, PublishError> {
        let Ok(answer) = timeout(deadline, self.answers.next()).await else {
            // The journal may hold all that is left.
            let error = PublishError::no_ack(deadline);
            self.failed = Some(error.clone());
            return Err(error);
        };
        let closed = || AppendError::Unavailable("the journal is closed".to_owned());
        answer.unwrap_or_else(|| Err(closed())).map_err(|error| {
            let may_pass = error.may_pass();
            let error = PublishError::from(error);
            self.failed = may_pass.then(|| error.not_tried());
            error
        })
    }
}

/// Ends what the journal took of the first span; returns that.
fn journal_took((mut span, journal): (Span, Option<Span>), position: Position) -> Span {
    span.set("foghorn.position", position.to_string());
    if let Some(mut journal) = journal {
        journal.set("foghorn.position", position.to_string());
        journal.end();
    }
    span
}

impl Checked {
    /// Its channel.
    pub(crate) fn channel(&self) -> &Channel {
        &self.entry.event.channel
    }

    /// Bytes of its data.
    pub(crate) fn bytes(&self) -> usize {
        self.entry.event.data.len()
    }
}

impl Accepted {
    /// Whether the answer must wait for the event log.
    pub(crate) fn waits(&self) -> bool {
        self.ack == Ack::Durable
    }
}

impl Ack {
    /// The class of that name; an error names both.
    pub fn parse(name: &str) -> Result<Self, PublishError> {
        match name {
            "accepted" => Ok(Ack::Accepted),
            "durable" => Ok(Ack::Durable),
            other => Err(PublishError::invalid(
                "bad-ack",
                format!("ack: {other:?} is no ack class; it is accepted (the default) or durable"),
            )),
        }
    }

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Ack::Accepted => "accepted",
            Ack::Durable => "durable",
        }
    }
}

impl Door {
    /// All of them.
    pub(crate) const ALL: [Door; 5] = [Door::Http, Door::Grpc, Door::Nats, Door::Presence, Door::Canary];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Door::Http => "http",
            Door::Grpc => "grpc",
            Door::Nats => "nats",
            Door::Presence => "presence",
            Door::Canary => "canary",
        }
    }
}
