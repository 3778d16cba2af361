//! How many streams a user may have in the whole cluster.
//!
//! One gateway decides for each user, the one that [`Members`] names: it alone writes down what it admits, so streams
//! that race on several gateways can't pass the limit together. What it knows is what the others have told it, and
//! they keep comparing: of each part of their streams they send a digest, and where that differs, the part. So what
//! was lost on the way is mended, and whoever decides after another has gone is told all there is. Until all agree who
//! lives, it waits a moment with its answer.
//!
//! Where nobody decides, because the one who should doesn't answer, a gateway lets a stream in that is within the limit
//! by its own streams alone: being up is worth more than the limit.

mod agree;
mod message;
mod roll;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::join_all;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};

use foghorn_auth::token::Identity;
use foghorn_bus::Future;
use foghorn_bus::gateways::{About, AskError, GatewayName, Gateways, Question};
use foghorn_bus::memory::Alone;
use foghorn_core::time::Timestamp;

use crate::client_id::ClientId;
use crate::members::Members;
use crate::metrics::{Metrics, PlaceOutcome};
use message::{Answer, Ask, Hex};
use roll::{Entry, Roll, User, digests, part_of};

/// How long whoever opens a stream waits for the gateway that decides.
const DECIDED_WITHIN: Duration = Duration::from_millis(2500);
/// How long whoever decides waits for all to agree who lives, once for each time that this changes.
const AGREED_WITHIN: Duration = Duration::from_secs(1);
/// How long it waits for another gateway to end the oldest stream.
const OUSTED_WITHIN: Duration = Duration::from_secs(1);
/// What was admitted so shortly ago may not be among what its gateway says it has.
const YOUNG: Duration = Duration::from_secs(10);
/// For how long it is remembered that a stream was over before its place was asked for: longer than asking takes.
const OVER_FOR: Duration = Duration::from_secs(5);
/// How many such streams are remembered. A place that is taken for one of more of them is found by comparing.
const OVER_MAX: usize = 1024;
/// Ends of streams that wait to be told. What finds no room is found by comparing.
const ENDED_MAX: usize = 10_000;

/// What becomes of a stream beyond its user's limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Beyond {
    /// It is told to come back later.
    #[default]
    Reject,
    /// It begins, and the user's oldest one ends.
    CloseOldest,
}

/// How many streams each user may have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Limit {
    /// 0 for any number.
    pub(crate) most: usize,
    pub(crate) beyond: Beyond,
}

/// The streams of users, as far as this gateway has them or decides about them.
pub(crate) struct Places {
    limit: Limit,
    pub(crate) members: Members,
    gateways: Arc<dyn Gateways>,
    metrics: Metrics,
    known: Mutex<Known>,
    /// How many streams here are to end for a newer one.
    ousted: AtomicUsize,
    /// Grows when some are.
    oustings: watch::Sender<u64>,
    /// Grows when it changes who lives, or who has told all there is.
    agreements: watch::Sender<u64>,
    /// Grows when it changes who lives.
    views: watch::Sender<u64>,
    ended: mpsc::Sender<(User, ClientId)>,
    /// Until it is taken by who tells the others.
    to_tell: Mutex<Option<mpsc::Receiver<(User, ClientId)>>>,
}

#[derive(Debug, Default)]
struct Known {
    /// All streams in the cluster of those users about whom this gateway decides.
    decided: Roll,
    /// The streams here that were let in.
    own: Roll,
    /// The streams here, by their keys, also while they wait to be let in.
    held: HashMap<u64, Held>,
    /// Who lived, as each gateway saw it when it had told all its streams.
    told: HashMap<GatewayName, u64>,
    /// Whether the others have had time to say that they live. Until then this gateway may decide, as others see it,
    /// and not know whom to hear first.
    acquainted: bool,
    /// For which view agreement was waited for in vain.
    given_up: Option<u64>,
    /// Streams that were over before they were let in, the latest last: what asks for their places comes yet.
    over: VecDeque<(Instant, ClientId)>,
}

#[derive(Debug)]
struct Held {
    user: User,
    stream: ClientId,
    ousted: bool,
}

impl Known {
    /// A stream about whose user this gateway decides is over.
    fn ended(&mut self, user: User, stream: ClientId) {
        if self.decided.remove(user, stream) {
            return;
        }
        let now = Instant::now();
        let old = |over: &VecDeque<(Instant, ClientId)>| {
            over.len() >= OVER_MAX || over.front().is_some_and(|(at, _)| now.duration_since(*at) >= OVER_FOR)
        };
        while old(&self.over) {
            self.over.pop_front();
        }
        self.over.push_back((now, stream));
    }

    /// Whether a stream was over before it was let in.
    fn is_over(&self, stream: ClientId) -> bool {
        self.over.iter().any(|(_, over)| *over == stream)
    }
}

impl Places {
    /// Those of a gateway that knows of no other yet.
    pub(crate) fn new(
        limit: Limit,
        name: GatewayName,
        gateways: Arc<dyn Gateways>,
        metrics: Metrics,
    ) -> Self {
        let (ended, to_tell) = mpsc::channel(ENDED_MAX);
        metrics.members.set(1);
        Places {
            limit,
            members: Members::new(name),
            gateways,
            metrics,
            known: Mutex::default(),
            ousted: AtomicUsize::new(0),
            oustings: watch::channel(0).0,
            agreements: watch::channel(0).0,
            views: watch::channel(0).0,
            ended,
            to_tell: Mutex::new(Some(to_tell)),
        }
    }

    /// Those of a gateway that is alone, where users may have any number.
    pub(crate) fn unlimited(metrics: Metrics) -> Self {
        Places::new(Limit::default(), GatewayName::random(), Arc::new(Alone), metrics)
    }

    /// Grows when it changes who lives.
    pub(crate) fn views(&self) -> watch::Receiver<u64> {
        self.views.subscribe()
    }

    // Streams here

    /// A place for a stream of a user; none when they have as many as they may. Who has no token has no limit.
    pub(crate) async fn admit(
        self: &Arc<Self>,
        identity: Option<&Identity>,
        stream: ClientId,
        now: Timestamp,
    ) -> Option<Place> {
        let Some(identity) = identity.filter(|_| self.limit.most > 0) else {
            return Some(Place { places: None, stream });
        };
        let (user, since) = (identity.principal(), now.as_micros() / 1000);
        self.known.lock().held.insert(stream.key(), Held { user, stream, ousted: false });
        let place = Place { places: Some(self.clone()), stream };
        let asked = Ask::Admit { user: Hex::user(user), stream: Hex::stream(stream), since };
        let entry = Entry { stream, since, noted: Instant::now() };
        let outcome = match self.ask(self.members.owner(user), asked, DECIDED_WITHIN).await {
            Ok(Answer { admitted: Some(false), .. }) => {
                self.metrics.place(PlaceOutcome::Refused);
                place.refused();
                return None;
            }
            Ok(Answer { admitted: Some(true), .. }) => {
                self.known.lock().own.add(user, entry);
                PlaceOutcome::Admitted
            }
            Ok(_) | Err(_) => self.admit_by_own(user, entry),
        };
        self.metrics.place(outcome);
        // Whoever decides may have let it in, and the answer was lost: it is told when the place is given back.
        (outcome != PlaceOutcome::Refused).then_some(place)
    }

    /// Nobody decides: by the streams here alone.
    fn admit_by_own(&self, user: User, entry: Entry) -> PlaceOutcome {
        let mut ousted = Vec::new();
        let room = self.makes_room(&mut ousted);
        let admitted = self.known.lock().own.admit(user, entry, self.limit.most, room);
        self.oust(ousted);
        if admitted { PlaceOutcome::Unchecked } else { PlaceOutcome::Refused }
    }

    fn makes_room<'a>(&self, ousted: &'a mut Vec<ClientId>) -> Option<&'a mut Vec<ClientId>> {
        (self.limit.beyond == Beyond::CloseOldest).then_some(ousted)
    }

    /// Whether a stream here is to end for a newer one of its user.
    pub(crate) fn is_ousted(&self, stream: ClientId) -> bool {
        self.ousted.load(Ordering::SeqCst) > 0
            && self.known.lock().held.get(&stream.key()).is_some_and(|held| held.ousted)
    }

    /// Grows when streams are to end for newer ones.
    pub(crate) fn oustings(&self) -> watch::Receiver<u64> {
        self.oustings.subscribe()
    }

    /// A stream here is over.
    pub(crate) fn closed(&self, stream: ClientId) {
        if self.limit.most == 0 {
            return;
        }
        if let Some(user) = self.forget(stream)
            && self.ended.try_send((user, stream)).is_err()
        {
            tracing::debug!("too many ends of streams wait to be told; they will be found by comparing");
        }
    }

    fn forget(&self, stream: ClientId) -> Option<User> {
        let mut known = self.known.lock();
        let held = known.held.remove(&stream.key())?;
        known.own.remove(held.user, stream);
        self.ousted.fetch_sub(usize::from(held.ousted), Ordering::SeqCst);
        Some(held.user)
    }

    /// These are to end, those of them that are here.
    fn oust(&self, streams: impl IntoIterator<Item = ClientId>) {
        let mut known = self.known.lock();
        let mut news = 0;
        for stream in streams {
            if let Some(held) = known.held.get_mut(&stream.key()).filter(|held| held.stream == stream) {
                news += usize::from(!std::mem::replace(&mut held.ousted, true));
            }
        }
        if news > 0 {
            self.ousted.fetch_add(news, Ordering::SeqCst);
            drop(known);
            self.oustings.send_modify(|oustings| *oustings += 1);
        }
    }

    // Between gateways

    /// Asks a gateway, which may be this one.
    async fn ask(&self, gateway: GatewayName, ask: Ask, within: Duration) -> Result<Answer, AskError> {
        if gateway == self.members.own() {
            return Ok(self.answer(ask).await);
        }
        let body = serde_json::to_vec(&ask).map_err(|error| AskError::Unavailable(error.to_string()))?;
        let question = Question { about: About::Users, token: None, context: None, body: body.into() };
        let asked = timeout(within, self.gateways.ask(gateway, question)).await;
        let asked = asked.unwrap_or_else(|_| Err(AskError::Unavailable("no answer in time".to_owned())));
        let read = |bytes: bytes::Bytes| {
            serde_json::from_slice(&bytes).map_err(|error| AskError::Unavailable(error.to_string()))
        };
        asked.and_then(read).inspect_err(|error| {
            tracing::debug!(%gateway, %error, "another gateway doesn't answer about users");
        })
    }

    /// The answer to what another gateway asks, if it needs no wait: to all but whether a stream may begin. Empty to what
    /// can't be read.
    pub(crate) fn answer_at_once(&self, body: &[u8]) -> Option<Vec<u8>> {
        let answer = match serde_json::from_slice(body) {
            Ok(Ask::Admit { .. }) => return None,
            Ok(told) => self.take_in(told),
            Err(error) => {
                tracing::debug!(%error, "another gateway asks what can't be read");
                Answer::default()
            }
        };
        Some(serde_json::to_vec(&answer).unwrap_or_default())
    }

    /// The answer to whatever another gateway asks.
    pub(crate) async fn answer_to(&self, body: &[u8]) -> Vec<u8> {
        match serde_json::from_slice(body) {
            Ok(ask) => serde_json::to_vec(&self.answer(ask).await).unwrap_or_default(),
            Err(_) => self.answer_at_once(body).unwrap_or_default(),
        }
    }

    /// In a box, as whoever decides may in turn have to ask.
    fn answer(&self, ask: Ask) -> Future<'_, Answer> {
        async move {
            match ask {
                Ask::Admit { user, stream, since } => {
                    let (user, stream) = (user.to_user(), stream.to_stream());
                    let entry = Entry { stream, since, noted: Instant::now() };
                    Answer { admitted: Some(self.decide(user, entry).await), ..Answer::default() }
                }
                told => self.take_in(told),
            }
        }
        .boxed()
    }

    /// Takes in what a gateway tells, and answers.
    fn take_in(&self, told: Ask) -> Answer {
        match told {
            Ask::Admit { .. } => {}
            Ask::Ended { streams } => {
                let mut known = self.known.lock();
                for (user, stream) in streams {
                    known.ended(user.to_user(), stream.to_stream());
                }
            }
            Ask::Oust { streams } => self.oust(streams.into_iter().map(Hex::to_stream)),
            Ask::Compare { gateway, view, digests } => {
                let differing = self.compare(gateway.to_gateway(), view, &digests);
                return Answer { differing: Some(differing), ..Answer::default() };
            }
            Ask::Replace { gateway, parts, streams, view } => {
                let streams = streams.into_iter();
                let streams = streams.map(|(user, stream, since)| {
                    let entry = Entry { stream: stream.to_stream(), since, noted: Instant::now() };
                    (user.to_user(), entry)
                });
                self.replace(gateway.to_gateway(), &parts, streams.collect(), view);
            }
        }
        Answer::default()
    }

    /// Whether a stream of a user may begin, wherever it is.
    async fn decide(&self, user: User, entry: Entry) -> bool {
        if self.limit.most == 0 {
            return true;
        }
        self.until_agreed().await;
        let mut ousted = Vec::new();
        let room = self.makes_room(&mut ousted);
        let admitted = {
            let mut known = self.known.lock();
            // Nobody is there any more who could take the place, or give it back.
            !known.is_over(entry.stream) && known.decided.admit(user, entry, self.limit.most, room)
        };
        self.have_ousted(ousted).await;
        admitted
    }

    /// Has the gateways of streams end them.
    async fn have_ousted(&self, streams: Vec<ClientId>) {
        let mut by_gateway: BTreeMap<GatewayName, Vec<Hex>> = BTreeMap::new();
        for stream in streams {
            by_gateway.entry(stream.gateway()).or_default().push(Hex::stream(stream));
        }
        let asks = by_gateway.into_iter().map(|(gateway, streams)| {
            self.metrics.ousted.inc_by(streams.len() as u64);
            self.ask(gateway, Ask::Oust { streams }, OUSTED_WITHIN)
        });
        // One that doesn't answer is gone, or ends them late.
        drop(join_all(asks).await);
    }
}

/// A stream's place, until the stream has it.
#[must_use]
pub(crate) struct Place {
    places: Option<Arc<Places>>,
    stream: ClientId,
}

impl Place {
    /// The stream has begun; when it is over, it says so itself.
    pub(crate) fn taken(mut self) {
        self.places = None;
    }

    fn refused(mut self) {
        if let Some(places) = self.places.take() {
            places.forget(self.stream);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(places) = self.places.take() {
            places.closed(self.stream);
        }
    }
}

impl std::fmt::Debug for Places {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Places").field("limit", &self.limit).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
