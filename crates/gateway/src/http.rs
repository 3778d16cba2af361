//! The gateway's paths.

use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::str::FromStr as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::try_join_all;
use futures::stream;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, StreamBody};
use humantime_serde::re::humantime;
use hyper::body::{Frame, Incoming};
use parking_lot::Mutex;
use serde_json::json;

use foghorn_auth::audit::{Action, Line};
use foghorn_auth::revocation::Store;
use foghorn_auth::webhook::Grant;
use foghorn_auth::{Authenticator, Caller, Refusal, Requester};
use foghorn_bus::gateways::Gateways;
use foghorn_bus::notifications::Unread;
use foghorn_bus::subscriptions::SubscriptionError;
use foghorn_core::channel::Channel;
use foghorn_core::cursor::Cursor;
use foghorn_core::event::{EventError, EventType};
use foghorn_core::pattern::Pattern;
use foghorn_core::policy::Policies;
use foghorn_core::position::Position;
use foghorn_core::reason::StreamEnd;
use foghorn_core::time::Timestamp;
use foghorn_http::body::{Body, full, json as json_response};
use foghorn_http::guard::Asker;
use foghorn_http::path::segments;
use foghorn_http::problem::Problem;
use foghorn_http::query::{Query, bad_value};
use foghorn_http::takeover::Takeover;
use foghorn_http::{Handler, Response};

use crate::client_id::ClientId;
use crate::connection::{Begin, Connection, OUSTED_ID, Shared, goodbye};
use crate::dashboard::{self, Dashboard};
use crate::engine;
use crate::history::{self, Asked};
use crate::kept::{Found, Keeper, Kept, Original};
use crate::limits::{By, Limited, Limits};
use crate::revoke;
use crate::seat::Term;
use crate::subscribe;
use crate::subscription::{Form, Subscription};
use crate::ticket::{self, Opener, TICKET, Tickets};

#[cfg(fuzzing)]
pub mod fuzzing;

/// What `GET /api/events` knows.
const KEYS: &[&str] = &[
    "channels",
    "events",
    "batch",
    "lastEventId",
    "_lastEventId",
    "since",
    "last",
    "envelope",
    "heartbeat",
    TICKET,
    TOKEN,
];
/// What `GET /api/notifications/stream` knows.
const NOTIFICATION_KEYS: &[&str] = &["lastEventId", "_lastEventId", "heartbeat", "user", TOKEN];
/// The key of a token in the URL.
pub(crate) const TOKEN: &str = "token";
/// Fixed names after `/api/events/`, which are no channels there.
const NOT_CHANNELS: [&str; 3] = ["stats", "ticket", "subscribe"];
/// Most milliseconds in `batch=`.
const BATCH_MS_MAX: u32 = 5000;
/// Most types in `events=`.
pub(crate) const TYPES_MAX: usize = 100;
/// What the audit log calls it.
pub(crate) const DOOR: &str = "http";
/// Who has as many streams as they may comes back so much later than others.
const FULL_RETRY_FACTOR: u64 = 5;
const LAST_EVENT_ID: &str = "last-event-id";

/// Answers `/api/events…`, `/api/channels/…`, `/api/dashboard/…` and `/api/admin/…`.
pub struct Api {
    pub(crate) shared: Arc<Shared>,
    pub(crate) auth: Arc<Authenticator>,
    pub(crate) revocations: Arc<dyn Store>,
    pub(crate) tickets: Arc<Tickets>,
    pub(crate) gateways: Arc<dyn Gateways>,
    pub(crate) unread: Arc<dyn Unread>,
    pub(crate) dashboard: Arc<Dashboard>,
    pub(crate) keeper: Arc<Keeper>,
    pub(crate) limits: Arc<Limits>,
}

/// By what path a stream is asked for.
#[derive(Clone, Copy)]
enum Path<'a> {
    /// Its query names the channels.
    Events,
    /// The path names one.
    Channel(&'a str),
    /// It is of a user's notifications.
    Notifications,
}

/// What a stream is to hear, and from where on.
struct Heard {
    topics: Vec<Pattern>,
    types: Vec<String>,
    original: Original,
    kept: Option<Arc<Kept>>,
    begin: Begin,
    /// The user whose unread notifications it begins with the number of.
    notified: Option<String>,
}

impl<'a> Path<'a> {
    /// What its query knows.
    fn keys(self) -> &'static [&'static str] {
        match self {
            Path::Events | Path::Channel(_) => KEYS,
            Path::Notifications => NOTIFICATION_KEYS,
        }
    }

    fn channel(self) -> Option<&'a str> {
        match self {
            Path::Channel(channel) => Some(channel),
            Path::Events | Path::Notifications => None,
        }
    }
}

/// What a request for a stream says beside its path.
struct StreamRequest<'a> {
    headers: &'a HeaderMap,
    page: Option<&'a Asker>,
    query: Option<&'a str>,
    address: Option<IpAddr>,
}

impl Handler for Api {
    fn handle(
        &self,
        request: Request<Incoming>,
        peer: SocketAddr,
    ) -> Pin<Box<dyn Future<Output = Response> + Send + '_>> {
        Box::pin(async move {
            if let Err(limited) = self.limits.check_address(peer, request.headers()) {
                return self.limited(&request, limited);
            }
            let address = self.limits.client(peer, request.headers());
            let path = request.uri().path().to_owned();
            let answered = match path.as_str() {
                revoke::PATH => self.revoke(request, address).await,
                subscribe::PATH => self.subscribe(request, address).await,
                ticket::PATH => self.issue(request, address).await,
                _ => self.answer(&request, address).await,
            };
            answered.unwrap_or_else(|problem| {
                self.note_refusal(&problem, &path, address);
                problem.into_response()
            })
        })
    }
}

impl Api {
    /// The answer to a request whose body isn't read, whatever carried it.
    pub async fn respond<B>(&self, request: &Request<B>) -> Response {
        self.answer(request, None).await.unwrap_or_else(Problem::into_response)
    }

    async fn answer<B>(&self, request: &Request<B>, address: Option<IpAddr>) -> Result<Response, Problem> {
        let (method, headers) = (request.method(), request.headers());
        let (path, query) = (request.uri().path(), request.uri().query());
        let asked = StreamRequest { headers, page: request.extensions().get(), query, address };
        let decoded = segments(path)?;
        let segments: Vec<&str> = decoded.iter().map(String::as_str).collect();
        let get = || if method == Method::GET { Ok(()) } else { Err(Problem::method("GET")) };
        match segments[..] {
            ["api", "events"] => {
                get()?;
                self.stream(asked, Path::Events).await
            }
            ["api", "notifications", "stream"] => {
                get()?;
                self.stream(asked, Path::Notifications).await
            }
            ["api", "events", "stats"] => {
                get()?;
                let caller = self.caller(headers, &Query::default()).await?;
                self.check_admin(&caller)?;
                Ok(self.stats())
            }
            ["api", "events", name] if NOT_CHANNELS.contains(&name) => Err(Problem::not_found(path)),
            ["api", "events", channel] => {
                get()?;
                self.stream(asked, Path::Channel(channel)).await
            }
            ["api", "dashboard", "stream"] => {
                get()?;
                self.dashboard_stream(headers, query, address).await
            }
            ["api", "admin", "channels"] => {
                get()?;
                self.busiest(headers, query, address).await
            }
            ["api", "admin", "connections"] => {
                get()?;
                self.connections_of(headers, query, address).await
            }
            ["api", "admin", "trace"] => {
                get()?;
                self.trace(headers, query, address).await
            }
            ["api", "channels", channel, "presence"] => {
                get()?;
                self.presence(headers, query, channel, address).await
            }
            ["api", "channels", channel, "events"] if method == Method::DELETE => {
                self.erase(headers, query, channel, address).await
            }
            ["api", "channels", channel, "events"] => {
                if method != Method::GET {
                    return Err(Problem::method("GET, DELETE"));
                }
                let asked = Asked::read(channel, query, self.shared.hub.shard_count())?;
                let caller = self.caller(headers, &asked.query).await?;
                let by = self.requester(caller, headers, address);
                self.check_listen(&by, &Pattern::from(&asked.channel)).await?;
                history::answer(&self.shared, asked).await
            }
            _ => Err(Problem::not_found(path)),
        }
    }

    async fn stream(&self, asked: StreamRequest<'_>, path: Path<'_>) -> Result<Response, Problem> {
        let StreamRequest { headers, page, query, address } = asked;
        let query = Query::parse(query, path.keys())?;
        let mut topics = topics(&query, path.channel(), self.shared.config.channels_per_connection)?;
        if last_event_id(headers, &query).is_some_and(|id| id == OUSTED_ID) {
            // EventSource never comes back after this. A newer stream of its user has the place.
            return Ok(stay_away());
        }
        // Looked at before a ticket is spent on it.
        let types = types(&query)?;
        let begin = begin(headers, &query, self.shared.hub.clock.now())?;
        let opener = match self.opener(headers, page, &query).await? {
            Ok(opener) => opener,
            Err(why) => match why.passes_after() {
                Some(seconds) => return Ok(self.stream_in_vain(&why, seconds)),
                None => return Err(self.refused(&why)),
            },
        };
        let mut notified = None;
        if matches!(path, Path::Notifications) {
            let (user, channel) = self.notified(&opener.caller, &query)?;
            topics.push(channel);
            notified = Some(user);
        }
        let mut response = match self.takes_no_more() {
            // Before anything is asked of others for it.
            Some(response) => response,
            None => match self.heard(&opener.caller, topics, types, begin).await {
                Ok(heard) => {
                    self.open(&opener, headers, &query, Heard { notified, ..heard }, address).await?
                }
                Err(why) => {
                    tracing::debug!(%why, "what a stream was changed to can't be looked up");
                    self.over_at_once(StreamEnd::SubscriptionUnavailable)
                }
            },
        };
        // Also where the stream is over at once: its client comes back, and the ticket is spent.
        let cookies = opener.cookies.into_iter().map(|cookie| (header::SET_COOKIE, cookie));
        response.headers_mut().extend(cookies);
        Ok(response)
    }

    async fn open(
        &self,
        opener: &Opener,
        headers: &HeaderMap,
        query: &Query,
        heard: Heard,
        address: Option<IpAddr>,
    ) -> Result<Response, Problem> {
        let Opener { caller, cookies } = opener;
        let Heard { topics, types, original, kept, begin, notified } = heard;
        let policies = self.shared.hub.policies();
        let may_hear = topics.iter().try_for_each(|topic| self.check_claims(caller, topic));
        may_hear.map_err(|why| self.refused(&why).of(caller.subject()))?;
        let all = [&caller.implied(&policies)[..], &topics].concat();
        if all.is_empty() {
            return Err(self.refused(&Refusal::NoCredential("listening to broadcast".to_owned())));
        }
        let subscription = Subscription {
            types,
            form: form(query)?,
            heartbeat: query.flag("heartbeat")?,
            gzip: self.shared.config.compression && takes_gzip(headers),
            original,
            kept,
            ..Subscription::new(&all, self.shared.hub.shard_count())
        };
        // One whose ticket was just spent was counted when it was given.
        if cookies.is_empty()
            && let Err(limited) = self.limits.check_subject(caller)
        {
            return Ok(self.stream_later(limited));
        }
        let hub = &self.shared.hub;
        self.check_cursor_fits(&subscription)?;
        let by = self.requester(caller.clone(), headers, address);
        let grants = match self.check_all(&by, &topics, &policies).await {
            Ok(grants) => grants,
            Err(why) => match why.passes_after() {
                Some(seconds) => {
                    let reason = Some(why.code());
                    self.note_stream(
                        Action::Refused,
                        caller,
                        address,
                        &all,
                        Line { reason, ..Line::default() },
                    );
                    return Ok(self.stream_in_vain(&why, seconds));
                }
                None => return Err(self.refused(&why).of(caller.subject())),
            },
        };
        if let Err(limited) = self.limits.check_streams() {
            return Ok(self.stream_later(limited));
        }
        let client_id = ClientId::random(self.shared.name);
        let identity = caller.identity().map(|identity| &**identity);
        let Some(place) = hub.places.admit(identity, client_id, hub.clock.now()).await else {
            let reason = Some(StreamEnd::TooManyStreams.as_str());
            self.note_stream(Action::Refused, caller, address, &all, Line { reason, ..Line::default() });
            return Ok(self.stream_refused_a_place());
        };
        // Others may have come while others were asked.
        if let Some(response) = self.takes_no_more() {
            return Ok(response);
        }
        let stream = client_id.to_string();
        let line = Line { stream: Some(&stream), ..Line::default() };
        self.note_stream(Action::Connected, caller, address, &all, line);
        tracing::debug!(
            %client_id,
            last_event_id = last_event_id(headers, query).unwrap_or_default(),
            "stream opened"
        );
        let term = caller.identity().cloned();
        let term = term.map(|identity| Term::new(identity, self.auth.expiring_notice()));
        hub.presence.hears(client_id, caller.subject(), &subscription, &policies);
        hub.grants.hears(client_id, caller.subject(), grants);
        let notified = notified.map(|user| (self.unread.clone(), user));
        let connection = Connection::new(self.shared.clone(), subscription, begin, client_id);
        let connection = connection.granted_by(policies).until(term).notified(notified);
        place.taken();
        Ok(stream_of(connection))
    }

    /// Whose notifications a stream is of, and on which channel they are heard.
    fn notified(&self, caller: &Caller, query: &Query) -> Result<(String, Pattern), Problem> {
        let named = query.get("user");
        let user = match (caller, named) {
            (Caller::Known(identity), None) => identity.subject.as_str(),
            (Caller::Known(identity), Some(user)) if user == identity.subject => user,
            (Caller::Known(_), Some(user)) => {
                let denied = Refusal::Denied { what: "the notifications of", to: user.to_owned() };
                return Err(self.refused(&denied).of(caller.subject()));
            }
            (Caller::Anonymous, _) => {
                return Err(self.refused(&Refusal::NoCredential("notifications".to_owned())));
            }
            (Caller::Unchecked, named) => named.ok_or_else(|| {
                bad_value("user", "is missing: without a token, here where nobody needs one, it says whose")
            })?,
        };
        let channel = Channel::user(user);
        let channel = channel.map_err(|error| bad_value("user", &format!("is no user's id: {error}")))?;
        Ok((user.to_owned(), Pattern::from(&channel)))
    }

    /// What a stream is to hear: what its URL says, or what it was changed to before it came back by this URL.
    async fn heard(
        &self,
        caller: &Caller,
        topics: Vec<Pattern>,
        types: Vec<String>,
        begin: Begin,
    ) -> Result<Heard, SubscriptionError> {
        let original = Original::of(&topics, &types);
        let as_asked = |begin| Heard { topics, types, original, kept: None, begin, notified: None };
        let Begin::After(Ok(cursor)) = begin else { return Ok(as_asked(begin)) };
        let Some(id) = cursor.subscription() else { return Ok(as_asked(begin)) };
        let hub = &self.shared.hub;
        Ok(match self.keeper.find(hub, id, caller, original).await? {
            // Changed by a token that may hear more than the ticket by which it comes back.
            Found::Changed { topics, .. } if self.is_confined_from(caller, &topics) => {
                as_asked(Begin::AfterUnknown(cursor))
            }
            Found::Changed { topics, types, kept } => {
                Heard { topics, types, original, kept: Some(kept), begin, notified: None }
            }
            Found::OtherUrl => as_asked(begin),
            Found::Gone => as_asked(Begin::AfterUnknown(cursor)),
        })
    }

    /// Whether a caller by a ticket for some channels may not hear all of these.
    fn is_confined_from(&self, caller: &Caller, topics: &[Pattern]) -> bool {
        let is_refused = |topic| self.check_claims(caller, topic).is_err();
        caller.identity().is_some_and(|identity| identity.confined.is_some()) && topics.iter().any(is_refused)
    }

    /// A stream that is refused for now.
    fn over_at_once(&self, end: StreamEnd) -> Response {
        self.shared.hub.metrics.ended(end);
        event_stream(full(goodbye(end, self.shared.config.retry_ms())))
    }

    /// What a stream is answered with where none begins any more.
    pub(crate) fn takes_no_more(&self) -> Option<Response> {
        let hub = &self.shared.hub;
        let end = match (hub.is_draining(), hub.clients() >= self.shared.config.connections) {
            (true, _) => StreamEnd::Drain,
            (false, true) => StreamEnd::Overload,
            (false, false) => return None,
        };
        Some(self.over_at_once(end))
    }

    /// Whoever asks too often is told to come back later: a stream in its own words, as a browser would never
    /// come back after another status.
    fn limited<B>(&self, request: &Request<B>, limited: Limited) -> Response {
        if request.method() == Method::GET && is_stream(request.uri().path()) {
            return self.stream_later(limited);
        }
        let what = "more requests come from this address than gateway.address_per_minute allows";
        self.too_many(limited, what).into_response()
    }

    pub(crate) fn too_many(&self, limited: Limited, what: &str) -> Problem {
        self.shared.hub.metrics.limited(limited.by);
        Problem::new(StatusCode::TOO_MANY_REQUESTS, "rate-limited", "Too many requests")
            .detail(what)
            .retry_after(rand::random_range(limited.exceeded.retry_after()))
    }

    pub(crate) fn stream_later(&self, Limited { by, exceeded }: Limited) -> Response {
        let end = match by {
            By::Address | By::Subject => StreamEnd::Limited,
            By::Gateway => StreamEnd::Overload,
        };
        let metrics = &self.shared.hub.metrics;
        metrics.limited(by);
        metrics.ended(end);
        let wait = u64::try_from(exceeded.wait.as_millis()).unwrap_or(u64::MAX);
        let retry_ms = self.shared.config.retry_ms().saturating_add(wait);
        event_stream(full(goodbye(end, retry_ms)))
    }

    /// There is room when another stream of the user's ends; nobody knows when.
    pub(crate) fn stream_refused_a_place(&self) -> Response {
        self.shared.hub.metrics.ended(StreamEnd::TooManyStreams);
        let retry_ms = self.shared.config.retry_ms().saturating_mul(FULL_RETRY_FACTOR);
        event_stream(full(goodbye(StreamEnd::TooManyStreams, retry_ms)))
    }

    fn note_stream(
        &self,
        action: Action,
        caller: &Caller,
        address: Option<IpAddr>,
        topics: &[Pattern],
        line: Line<'_>,
    ) {
        if let Some(room) = self.auth.audit.room(action) {
            let on = topics.iter().map(Pattern::as_str).collect::<Vec<_>>().join(",");
            room.say(&Line { door: DOOR, subject: caller.subject(), address, on: &on, ..line });
        }
    }

    /// For those who have to know who wanted what they may not.
    fn note_refusal(&self, problem: &Problem, path: &str, address: Option<IpAddr>) {
        let is_refusal = [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN].contains(&problem.status);
        let is_undecided = problem.code == "authoriser-unavailable";
        if (is_refusal || is_undecided)
            && let Some(room) = self.auth.audit.room(Action::Refused)
        {
            let on = problem.text("channel").unwrap_or(path);
            let (subject, reason) = (problem.subject(), Some(problem.code));
            room.say(&Line { door: DOOR, subject, address, on, reason, stream: None });
        }
    }

    /// A browser that got another status would never come back, and its credential is good, or it may hear what it wants,
    /// as far as anybody knows.
    fn stream_in_vain(&self, why: &Refusal, seconds: u32) -> Response {
        let end = match why {
            Refusal::AuthoriserUnavailable { .. } => StreamEnd::AuthoriserUnavailable,
            _ => StreamEnd::CredentialUnavailable,
        };
        let metrics = &self.shared.hub.metrics;
        metrics.refused(why);
        metrics.ended(end);
        let retry_ms = self.shared.config.retry_ms().max(u64::from(seconds) * 1000);
        event_stream(full(goodbye(end, retry_ms)))
    }

    /// Who posts something; the URL has nothing more to say.
    pub(crate) async fn poster(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
    ) -> Result<Caller, Problem> {
        if method != Method::POST {
            return Err(Problem::method("POST"));
        }
        let query = Query::parse(uri.query(), &[])?;
        self.caller(headers, &query).await
    }

    /// Who asks.
    pub(crate) async fn caller(&self, headers: &HeaderMap, query: &Query) -> Result<Caller, Problem> {
        self.asker(headers, query).await?.map_err(|why| self.refused(&why))
    }

    /// The same, with the reason why nobody is known. A token in the URL ends up in logs and histories, so it has
    /// to be allowed.
    async fn asker(&self, headers: &HeaderMap, query: &Query) -> Result<Result<Caller, Refusal>, Problem> {
        let token = query.get(TOKEN);
        if token.is_some() && !self.auth.takes_query_token() {
            return Err(bad_value(
                TOKEN,
                "is not taken here, because URLs are logged; send Authorization or the cookie \
                 (auth.query_token = true allows it)",
            ));
        }
        Ok(self.auth.patiently(|| self.auth.caller(headers, token)).await)
    }

    /// Who opens a stream, in whatever way they say so.
    async fn opener(
        &self,
        headers: &HeaderMap,
        page: Option<&Asker>,
        query: &Query,
    ) -> Result<Result<Opener, Refusal>, Problem> {
        match query.get(TICKET) {
            Some(ticket) if !self.auth.looks_past_query(headers) => {
                Ok(self.by_ticket(ticket, headers, page).await)
            }
            _ => {
                let caller = self.asker(headers, query).await?;
                Ok(caller.map(|caller| Opener { caller, cookies: Vec::new() }))
            }
        }
    }

    /// Who asks, and what a webhook is told of that.
    pub(crate) fn requester(
        &self,
        caller: Caller,
        headers: &HeaderMap,
        address: Option<IpAddr>,
    ) -> Requester {
        Requester::new(caller, self.auth.context(headers, address))
    }

    /// Whether somebody may listen to something as far as claims and policies say.
    fn check_claims(&self, caller: &Caller, topic: &Pattern) -> Result<(), Refusal> {
        self.auth.check_claims(caller, topic, &self.shared.hub.policies()).map(|_| ())
    }

    /// Whether somebody may listen to something, once.
    pub(crate) async fn check_listen(&self, by: &Requester, topic: &Pattern) -> Result<(), Problem> {
        let checked = self.auth.check_listen(by, topic, &self.shared.hub.policies()).await;
        checked.map(|_| ()).map_err(|why| self.refused(&why).of(by.caller.subject()))
    }

    /// Whether somebody may listen to all of this, and what of it by a grant of the webhook's.
    pub(crate) async fn check_all(
        &self,
        by: &Requester,
        topics: &[Pattern],
        policies: &Policies,
    ) -> Result<Vec<Grant>, Refusal> {
        let asked = topics.iter().map(|topic| self.auth.check_listen(by, topic, policies));
        Ok(try_join_all(asked).await?.into_iter().flatten().collect())
    }

    pub(crate) fn check_admin(&self, caller: &Caller) -> Result<(), Problem> {
        caller.check_admin().map_err(|why| self.refused(&why).of(caller.subject()))
    }

    pub(crate) fn refused(&self, why: &Refusal) -> Problem {
        self.shared.hub.metrics.refused(why);
        why.to_problem()
    }

    pub(crate) fn check_cursor_fits(&self, subscription: &Subscription) -> Result<(), Problem> {
        let mut cursor = Cursor::default();
        for (shard, _) in &subscription.shards {
            let at = self.shared.hub.with_ring(*shard, |ring| ring.map(|r| (r.epoch(), r.head())));
            if let Some((epoch, seq)) = at {
                cursor.set(Position { shard: *shard, epoch, seq });
            }
        }
        cursor.check_fits().map_err(|error| {
            Problem::new(
                StatusCode::BAD_REQUEST,
                "cursor-too-long",
                "The subscription's cursor would be too long",
            )
            .detail(error.to_string())
        })
    }

    fn stats(&self) -> Response {
        let hub = &self.shared.hub;
        let now = hub.clock.now();
        let (mut events, mut bytes, mut positions) = (0, 0, Vec::new());
        for shard in hub.shard_count().shards() {
            hub.with_ring(shard, |ring| {
                let Some(ring) = ring else { return };
                events += ring.len();
                bytes += ring.bytes();
                let age = ring.oldest().map(|event| now.since(event.feed.time).as_secs());
                positions.push(json!({
                    "shard": shard.get(), "epoch": ring.epoch().get(), "floor": ring.floor(), "head": ring.head(),
                    "tip": ring.tip(), "oldestSeconds": age,
                }));
            });
        }
        json_response(
            StatusCode::OK,
            &json!({
                "connectedClients": hub.clients(), "storedEvents": events, "storedBytes": bytes,
                "draining": hub.is_draining(), "positions": positions,
            }),
        )
    }
}

/// Whether a path is a stream's, whatever it names.
fn is_stream(path: &str) -> bool {
    if path == dashboard::PATH {
        return true;
    }
    let Ok(segments) = segments(path) else { return false };
    match &segments[..] {
        [api, events] => api == "api" && events == "events",
        [api, notifications, stream] if notifications == "notifications" => {
            api == "api" && stream == "stream"
        }
        [api, events, name] => api == "api" && events == "events" && !NOT_CHANNELS.contains(&name.as_str()),
        _ => false,
    }
}

/// What is asked for by name, `most` at most.
fn topics(query: &Query, channel: Option<&str>, most: usize) -> Result<Vec<Pattern>, Problem> {
    let mut topics = Vec::new();
    if let Some(channel) = channel {
        if query.get("channels").is_some() {
            return Err(bad_value(
                "channels",
                "can't be given when the path names a channel; use /api/events?channels=…",
            ));
        }
        topics.push(topic(channel)?);
    }
    for text in query.get("channels").into_iter().flat_map(|list| list.split(',')) {
        topics.push(topic(text).map_err(|problem| problem.member("key", "channels"))?);
    }
    check_number(topics.len(), most)?;
    Ok(topics)
}

pub(crate) fn check_number(topics: usize, most: usize) -> Result<(), Problem> {
    if topics <= most {
        return Ok(());
    }
    let title = "Too many channels on one connection";
    Err(Problem::new(StatusCode::BAD_REQUEST, "too-many-channels", title).detail(format!(
        "{topics} are asked for, {most} are allowed; use patterns (orders.*), or several connections"
    )))
}

/// Of which types a stream is to hear events; empty for all.
fn types(query: &Query) -> Result<Vec<String>, Problem> {
    let Some(types) = query.get("events") else { return Ok(Vec::new()) };
    let types: Vec<String> = types.split(',').map(str::to_owned).collect();
    match check_types(&types) {
        Ok(()) => Ok(types),
        Err(what) => Err(bad_value("events", &what)),
    }
}

/// An error, to be said of `events`, unless there are events of all of these types: whoever asks for others would hear
/// nothing, and not know why.
pub(crate) fn check_types(types: &[String]) -> Result<(), String> {
    if types.len() > TYPES_MAX {
        return Err(format!("has {} types, at most {TYPES_MAX} are allowed", types.len()));
    }
    types.iter().try_for_each(|name| match EventType::parse_stored(name.as_str()) {
        Ok(_) => Ok(()),
        Err(EventError::EventType(what)) => Err(format!("has a type that no event has: {name:?} {what}")),
        Err(_) => Err(format!("has the type {name:?}, which is the stream's own: those always come")),
    })
}

/// How a stream is to be sent its events.
fn form(query: &Query) -> Result<Form, Problem> {
    let envelope = query.flag("envelope")?;
    match query.number("batch", 1, BATCH_MS_MAX.into())? {
        None if envelope => Ok(Form::Envelope),
        None => Ok(Form::Plain),
        Some(_) if envelope => {
            Err(bad_value("batch", "and envelope exclude each other; a batch names each event's channel"))
        }
        Some(millis) => Ok(Form::Batch { millis: u32::try_from(millis).unwrap_or(BATCH_MS_MAX) }),
    }
}

pub(crate) fn topic(text: &str) -> Result<Pattern, Problem> {
    Pattern::parse(text).map_err(|error| {
        Problem::new(StatusCode::BAD_REQUEST, "bad-channel", "The channel is malformed")
            .detail(format!("{text:?}: {error}"))
    })
}

/// A cursor wins over `since` and `last`: those said where to begin, and this is not the beginning.
fn begin(headers: &HeaderMap, query: &Query, now: Timestamp) -> Result<Begin, Problem> {
    let since = query.get("since").map(|text| since(text, now)).transpose()?;
    let last = query.number("last", 1, 10_000)?;
    if since.is_some() && last.is_some() {
        return Err(bad_value("last", "and since exclude each other; give one of them"));
    }
    if let Some(id) = last_event_id(headers, query) {
        return Ok(Begin::After(Cursor::parse(&id)));
    }
    Ok(match (since, last) {
        (Some(time), _) => Begin::Since(time),
        (None, Some(each)) => Begin::Last(usize::try_from(each).unwrap_or(usize::MAX)),
        (None, None) => Begin::Now,
    })
}

/// Whether a client says that it takes `gzip` (RFC 9110, 12.5.3). One that says nothing is sent text.
fn takes_gzip(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|line| line.to_str().ok());
    let (mut named, mut any) = (None, None);
    for entry in lines.flat_map(|line| line.split(',')) {
        let (name, parameters) = entry.split_once(';').unwrap_or((entry, ""));
        let weight = parameters.trim().strip_prefix("q=").or_else(|| parameters.trim().strip_prefix("Q="));
        let wanted =
            weight.is_none_or(|weight| weight.trim().parse::<f32>().is_ok_and(|weight| weight > 0.0));
        match name.trim() {
            name if name.eq_ignore_ascii_case("gzip") || name.eq_ignore_ascii_case("x-gzip") => {
                named = Some(wanted);
            }
            "*" => any = Some(wanted),
            _ => {}
        }
    }
    named.or(any).unwrap_or(false)
}

/// The header, which the browser sends on its own reconnects, wins over the query, which is from when
/// the page made its EventSource.
fn last_event_id(headers: &HeaderMap, query: &Query) -> Option<String> {
    let header =
        headers.get(LAST_EVENT_ID).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    header
        .or_else(|| query.get("lastEventId").map(str::to_owned))
        .or_else(|| query.get("_lastEventId").map(str::to_owned))
        .filter(|id| !id.is_empty())
}

fn since(text: &str, now: Timestamp) -> Result<Timestamp, Problem> {
    if let Ok(time) = Timestamp::from_str(text) {
        return Ok(time);
    }
    let ago: Duration = humantime::parse_duration(text).map_err(|_| {
        bad_value(
            "since",
            &format!("is {text:?}; it is an RFC 3339 time (2026-02-03T04:05:06Z) or how long ago (10m, 2h)"),
        )
    })?;
    Ok(now.minus(ago))
}

/// The connection's stream, by whichever way it is fetched: its socket taken over, or, where that is TLS or
/// shared, its body. A body is asked for more when there is room for it in the connection.
fn stream_of(connection: Connection) -> Response {
    let gzip = connection.is_gzip();
    let connection = Arc::new(Mutex::new(Some(connection)));
    let taken = connection.clone();
    let takeover = Takeover::new(move |socket| async move {
        let connection = taken.lock().take();
        if let Some(connection) = connection {
            engine::serve(connection, socket).await;
        }
    });
    let chunks = stream::unfold((connection, None), |(held, begun)| async move {
        let mut connection = begun.or_else(|| held.lock().take().map(Connection::sharing_a_socket))?;
        let bytes = connection.next_chunk().await?;
        Some((Ok(Frame::data(bytes)), (held, Some(connection))))
    });
    let mut response = event_stream(StreamBody::new(chunks).boxed_unsync());
    if gzip {
        response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response.extensions_mut().insert(takeover);
    response
}

/// To a client that is not to come back.
fn stay_away() -> Response {
    let mut response = http::Response::new(full(Bytes::new()));
    *response.status_mut() = StatusCode::NO_CONTENT;
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

pub(crate) fn event_stream(body: Body) -> Response {
    let mut response = http::Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store, no-transform"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("keep-alive"));
    headers.append(header::VARY, HeaderValue::from_static("accept-encoding"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_for_whoever_says_that_they_take_it() {
        for (said, takes) in [
            (&["gzip, deflate, br, zstd"][..], true),
            (&["br", "GZIP;q=0.5"], true),
            (&["gzip ; q=0"], false),
            (&["gzip;q=0, *"], false),
            (&["*"], true),
            (&["*;q=0.0"], false),
            (&["identity"], false),
            (&["gzip;q=x"], false),
            (&[""], false),
            (&[], false),
        ] {
            let mut headers = HeaderMap::new();
            for line in said {
                headers.append(header::ACCEPT_ENCODING, HeaderValue::from_static(line));
            }
            assert_eq!(takes_gzip(&headers), takes, "{said:?}");
        }
    }
}
