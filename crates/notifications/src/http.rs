//! The HTTP door: `/api/notifications`, but for the stream, which a gateway serves.

use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use foghorn_auth::audit::{Action as Audited, Line};
use foghorn_auth::{Caller, Refusal, Requester};
use foghorn_http::body::{Unaccounted, json, read_json};
use foghorn_http::limit::Exceeded;
use foghorn_http::path::segments;
use foghorn_http::problem::Problem;
use foghorn_http::query::{Query, bad_value};
use foghorn_http::{Handler, Response};
use http::{HeaderMap, Request, StatusCode};
use hyper::body::{Body, Incoming};
use serde_json::json as object;

use crate::metrics::{Action, Deleted};
use crate::notification::{Malformed, New, Notification, User};
use crate::service::{Notifications, outcome};
use crate::store::{Page, Sent, StoreError, Which};

/// Where it is served, and below.
pub const PATH: &str = "/api/notifications";
/// Where a gateway serves the stream.
pub const STREAM_PATH: &str = "/api/notifications/stream";
/// Most bytes of a request to notify somebody: room for the longest texts, escaped.
const BODY_BYTES: usize = 32 * 1024;
/// Notifications on a page, and most of them.
const PAGE_DEFAULT: u32 = 50;
const PAGE_MAX: u32 = 200;
/// What the audit log calls it.
const DOOR: &str = "http";

/// Answers requests about notifications.
pub struct NotificationsHandler {
    notifications: Arc<Notifications>,
}

/// An answer, and what metrics count it as.
type Answered = Result<(&'static str, Response), Failed>;

/// Why there is none, and what metrics count that as.
struct Failed {
    outcome: &'static str,
    problem: Problem,
}

impl NotificationsHandler {
    pub(crate) fn new(notifications: Arc<Notifications>) -> Self {
        NotificationsHandler { notifications }
    }

    async fn answer<B>(&self, request: Request<B>, peer: SocketAddr) -> Response
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: std::fmt::Display,
    {
        let began = Instant::now();
        let address = self.address(&request, peer);
        let path = request.uri().path().to_owned();
        let decoded = match segments(&path) {
            Ok(decoded) => decoded,
            Err(problem) => return problem.into_response(),
        };
        let segments: Vec<&str> = decoded.iter().map(String::as_str).collect();
        let ["api", "notifications", below @ ..] = &segments[..] else {
            return Problem::not_found(&path).into_response();
        };
        let method = request.method().clone();
        let (action, answered) = match (below, method.as_str()) {
            ([], "POST") => (Action::Send, self.send(request, peer).await),
            ([], "GET") => (Action::List, self.list(&request, peer).await),
            ([], "DELETE") => (Action::Erase, self.erase(&request, peer).await),
            ([], _) => return Problem::method("GET, POST, DELETE").into_response(),
            (["read-all"], "POST") => (Action::Mark, self.mark(&request, peer, None).await),
            ([id, "read"], "POST") => (Action::Mark, self.mark(&request, peer, Some(id)).await),
            (["read-all"] | [_, "read"], _) => return Problem::method("POST").into_response(),
            _ => return Problem::not_found(&path).into_response(),
        };
        let (outcome, response) = match answered {
            Ok(answered) => answered,
            Err(Failed { outcome, problem }) => {
                if outcome == "refused" {
                    self.note(
                        Audited::Refused,
                        address,
                        problem.subject(),
                        problem.text("channel").unwrap_or(&path),
                        Some(problem.code),
                    );
                }
                (outcome, problem.into_response())
            }
        };
        self.notifications.metrics.answered(action, outcome, began.elapsed());
        response
    }

    /// Stores a notification and publishes it: both are done when this answers.
    async fn send<B>(&self, request: Request<B>, peer: SocketAddr) -> Answered
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: std::fmt::Display,
    {
        let notifications = &self.notifications;
        let ports = &notifications.ports;
        self.query(&request, peer, &[])?;
        let caller = self.caller(request.headers()).await?;
        // Before the body: who may not publish can't have it read either.
        ports
            .auth
            .check_publisher(&caller, &ports.policies.get())
            .map_err(|why| Failed::refused(&why, &caller))?;
        let address = self.address(&request, peer);
        let context = ports.auth.context(request.headers(), address);
        let by = Requester::new(caller, context);
        let body = read_json(request, BODY_BYTES, &mut Unaccounted).await;
        let (user, new) = New::read(&body.map_err(Failed::invalid)?)?;
        let may = ports.auth.check_publish(&by, user.channel(), &ports.policies.get()).await;
        may.map_err(|why| Failed::refused(&why, &by.caller))?;
        let now = ports.clock.now();
        notifications.check_size(&user, &Notification::would_be(&new, now)).map_err(StoreError::from)?;
        // Not before: a body may take its time, and so may a webhook.
        let _room = self.room()?;
        self.note(Audited::Published, address, by.caller.subject(), user.channel().as_str(), None);
        Ok(match ports.store.send(user, new, notifications.config.per_user, now).await? {
            Sent::New(notification) => ("stored", json(StatusCode::CREATED, &notification)),
            Sent::Known(notification) => ("known", json(StatusCode::OK, &notification)),
        })
    }

    async fn list<B>(&self, request: &Request<B>, peer: SocketAddr) -> Answered {
        let query = self.query(request, peer, &["unread", "before", "limit", "user"])?;
        let number = |key, most: u64| query.number(key, 1, most).map_err(Failed::invalid);
        let which = Which {
            unread: query.flag("unread").map_err(Failed::invalid)?,
            before: number("before", i64::MAX.unsigned_abs())?,
            limit: number("limit", PAGE_MAX.into())?
                .map_or(PAGE_DEFAULT, |limit| u32::try_from(limit).unwrap_or(PAGE_MAX)),
        };
        let user = self.own(request.headers(), &query).await?;
        let _room = self.room()?;
        let page = self.notifications.ports.store.list(user, which).await?;
        let next = page.notifications.last().filter(|_| page.more).map(|last| last.serial.to_string());
        let Page { notifications, unread, .. } = page;
        let body = object!({ "notifications": notifications, "unread": unread, "next": next });
        Ok(("done", json(StatusCode::OK, &body)))
    }

    /// Marks one as read, or all.
    async fn mark<B>(&self, request: &Request<B>, peer: SocketAddr, id: Option<&str>) -> Answered {
        let query = self.query(request, peer, &["user"])?;
        let user = self.own(request.headers(), &query).await?;
        let _room = self.room()?;
        let store = &self.notifications.ports.store;
        let unread = match id {
            None => {
                store.mark_all(user).await?;
                0
            }
            Some(id) => store.mark(user, id.to_owned()).await?.ok_or_else(|| unknown(id))?,
        };
        Ok(("done", json(StatusCode::OK, &object!({ "unread": unread }))))
    }

    /// Deletes all of a user's: the user's own, or anybody's for an admin.
    async fn erase<B>(&self, request: &Request<B>, peer: SocketAddr) -> Answered {
        let query = self.query(request, peer, &["user"])?;
        let asked = query.get("user");
        let user = asked.ok_or_else(|| {
            Failed::invalid(bad_value("user", "is missing; it says whose notifications are deleted"))
        })?;
        let user = user_of(user)?;
        let caller = self.caller(request.headers()).await?;
        if caller.subject() != Some(user.id()) {
            caller.check_admin().map_err(|why| Failed::refused(&why, &caller))?;
        }
        self.check_rate(&caller)?;
        let _room = self.room()?;
        self.note(
            Audited::Erased,
            self.address(request, peer),
            caller.subject(),
            user.channel().as_str(),
            None,
        );
        let erased = self.notifications.ports.store.erase(user).await?;
        self.notifications.metrics.deleted(Deleted::Erased, erased);
        Ok(("done", json(StatusCode::OK, &object!({ "erased": erased }))))
    }

    /// Whose notifications a request is about: the caller's own. Where nobody is asked who they are, it says so itself.
    async fn own(&self, headers: &HeaderMap, query: &Query) -> Result<User, Failed> {
        let caller = self.caller(headers).await?;
        let user = whose(&caller, query)?;
        self.check_rate(&caller)?;
        Ok(user)
    }

    fn check_rate(&self, caller: &Caller) -> Result<(), Failed> {
        let Some(subject) = caller.subject() else { return Ok(()) };
        let checked = self.notifications.subjects.check(subject);
        checked.map_err(|exceeded| Failed::limited("notifications.subject_per_minute", exceeded))
    }

    /// Room for one more request, of which so many are worked on.
    fn room(&self) -> Result<tokio::sync::SemaphorePermit<'_>, Failed> {
        self.notifications.room.try_acquire().map_err(|_| Failed {
            outcome: "limited",
            problem: Problem::new(
                StatusCode::TOO_MANY_REQUESTS,
                "overloaded",
                "Too many requests are worked on at a time",
            )
            .detail("as many requests are worked on as this server takes at a time; retry later")
            .retry_after(rand::random_range(1..=3)),
        })
    }

    /// Reads the query, unless the server stops or the address has asked too often.
    fn query<B>(&self, request: &Request<B>, peer: SocketAddr, known: &[&str]) -> Result<Query, Failed> {
        if self.notifications.shutdown.is_set() {
            let title = "This server is stopping";
            let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "draining", title)
                .retry_after(rand::random_range(1..=3));
            return Err(Failed { outcome: "unavailable", problem });
        }
        let checked = self.notifications.addresses.check(peer, request.headers());
        checked.map_err(|exceeded| Failed::limited("notifications.address_per_minute", exceeded))?;
        Query::parse(request.uri().query(), known).map_err(Failed::invalid)
    }

    async fn caller(&self, headers: &HeaderMap) -> Result<Caller, Failed> {
        let auth = &self.notifications.ports.auth;
        let caller = auth.patiently(|| auth.caller(headers, None)).await;
        caller.map_err(|why| Failed::refused(&why, &Caller::Anonymous))
    }

    /// Whose request it is, as far as proxies are believed.
    fn address<B>(&self, request: &Request<B>, peer: SocketAddr) -> Option<IpAddr> {
        self.notifications.addresses.client(peer, request.headers())
    }

    fn note(
        &self,
        action: Audited,
        address: Option<IpAddr>,
        subject: Option<&str>,
        on: &str,
        reason: Option<&'static str>,
    ) {
        if let Some(room) = self.notifications.ports.auth.audit.room(action) {
            room.say(&Line { door: DOOR, subject, address, on, reason, ..Line::default() });
        }
    }
}

impl Handler for NotificationsHandler {
    fn handle(
        &self,
        request: Request<Incoming>,
        peer: SocketAddr,
    ) -> Pin<Box<dyn Future<Output = Response> + Send + '_>> {
        Box::pin(self.answer(request, peer))
    }
}

/// Whose notifications a request with this query is about.
fn whose(caller: &Caller, query: &Query) -> Result<User, Failed> {
    match (caller, query.get("user")) {
        (Caller::Known(identity), None) => user_of(&identity.subject),
        (Caller::Known(identity), Some(user)) if user == identity.subject => user_of(user),
        (Caller::Known(_), Some(user)) => {
            let denied = Refusal::Denied { what: "the notifications of", to: user.to_owned() };
            Err(Failed::refused(&denied, caller))
        }
        (Caller::Anonymous, _) => {
            Err(Failed::refused(&Refusal::NoCredential("notifications".to_owned()), caller))
        }
        (Caller::Unchecked, Some(user)) => user_of(user),
        (Caller::Unchecked, None) => {
            let what =
                "is missing: without a token, here where nobody needs one, it says whose notifications";
            Err(Failed::invalid(bad_value("user", what)))
        }
    }
}

fn user_of(id: &str) -> Result<User, Failed> {
    User::new(id).map_err(|error| Failed::invalid(bad_value("user", &format!("is no user's id: {error}"))))
}

fn unknown(id: &str) -> Failed {
    let title = "There is no such notification";
    let shown = foghorn_http::hint::shown(id);
    let detail = format!("{shown:?} is not among the user's notifications; it may have been deleted");
    Failed::invalid(Problem::new(StatusCode::NOT_FOUND, "no-notification", title).detail(detail))
}

impl Failed {
    fn invalid(problem: Problem) -> Self {
        Failed { outcome: "invalid", problem }
    }

    fn limited(key: &str, exceeded: Exceeded) -> Self {
        let title = "Too many requests";
        let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, "rate-limited", title)
            .detail(format!("more is asked for than {key} allows"))
            .retry_after(rand::random_range(exceeded.retry_after()));
        Failed { outcome: "limited", problem }
    }

    fn refused(why: &Refusal, caller: &Caller) -> Self {
        let outcome = if why.passes_after().is_some() { "unavailable" } else { "refused" };
        Failed { outcome, problem: why.to_problem().of(caller.subject()) }
    }
}

impl From<Malformed> for Failed {
    fn from(malformed: Malformed) -> Self {
        let title = "The notification is malformed";
        let problem = Problem::new(StatusCode::BAD_REQUEST, "bad-notification", title).detail(malformed.what);
        Failed::invalid(match malformed.key {
            Some(key) => problem.member("key", key),
            None => problem,
        })
    }
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        let outcome = outcome(&error);
        let problem = match error {
            StoreError::Event(error) => {
                Problem::new(StatusCode::PAYLOAD_TOO_LARGE, error.code(), "The event is too large")
                    .detail(error.to_string())
            }
            StoreError::Full(why) => {
                tracing::warn!(why, "a notification found no room");
                let title = "The store of notifications is full";
                Problem::new(StatusCode::TOO_MANY_REQUESTS, "notifications-full", title)
                    .detail("its database, or the outbox in it, takes no more now; retry later")
                    .retry_after(rand::random_range(5..=15))
            }
            StoreError::Unavailable(why) => {
                tracing::warn!(why, "notifications can't be read or changed");
                let title = "Notifications can't be read or changed now";
                Problem::new(StatusCode::SERVICE_UNAVAILABLE, "notifications-unavailable", title)
                    .detail("their database doesn't answer; whether a change was made isn't known: retry, a notification with its id")
                    .retry_after(rand::random_range(1..=3))
            }
        };
        Failed { outcome, problem }
    }
}
