//! A change of a live stream: until when it lasts, and what it hears.
//!
//! Whoever serves the stream makes it, between two blocks: everything until there is as it was, everything after it
//! as it is now, and the position in between is the answer. Nothing is shared with the stream for that, so a stream
//! that nobody changes pays nothing.

use std::sync::Arc;

use http::StatusCode;
use tokio::sync::oneshot;

use foghorn_auth::access;
use foghorn_auth::webhook::Grant;
use foghorn_auth::{Authenticator, Caller, Refusal};
use foghorn_core::cursor::Cursor;
use foghorn_core::pattern::Pattern;
use foghorn_core::policy::Policies;
use foghorn_core::shard::Shard;
use foghorn_core::time::Timestamp;
use foghorn_http::problem::Problem;

use crate::client_id::ClientId;
use crate::connection::Course;
use crate::hub::Hub;
use crate::kept::Kept;
use crate::seat::{Seat, Term};
use crate::subscription::{Subscription, Topics};

/// A change that is asked for. What it names has been looked at: its caller may hear that.
pub(crate) struct Ask {
    pub(crate) client_id: ClientId,
    pub(crate) caller: Caller,
    /// What is to be heard, by shard; none: as before.
    pub(crate) shards: Option<Vec<(Shard, Topics)>>,
    /// Of which types, empty for all; none: as before.
    pub(crate) types: Option<Vec<String>>,
    /// What of that the webhook has allowed; none: as before.
    pub(crate) grants: Option<Vec<Grant>>,
    pub(crate) auth: Arc<Authenticator>,
    /// By which its caller may hear that.
    pub(crate) policies: Arc<Policies>,
    pub(crate) answer: oneshot::Sender<Result<Changed, Problem>>,
}

/// What a stream becomes.
pub(crate) struct Granted {
    /// What it hears, if that is something else than before.
    pub(crate) subscription: Option<Arc<Subscription>>,
    /// Until when it lasts.
    pub(crate) term: Option<Term>,
}

/// What a stream has become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Changed {
    /// From where on.
    pub(crate) cursor: Cursor,
    /// Until when it lasts, if that is limited.
    pub(crate) expires: Option<Timestamp>,
    /// What it hears, if that isn't what its URL says.
    pub(crate) kept: Option<Arc<Kept>>,
}

impl Ask {
    /// Whether somebody waits for its answer.
    pub(crate) fn is_awaited(&self) -> bool {
        !self.answer.is_closed()
    }

    /// What becomes of a stream that hears this now, if the caller is who holds it, and may hear what it will.
    pub(crate) fn grant(&self, hub: &Hub, seat: &Seat, now: &Subscription) -> Result<Granted, Problem> {
        let refused = |why: &Refusal| {
            hub.metrics.refused(why);
            why.to_problem()
        };
        let term = match (seat.identity(), &self.caller) {
            // Never turned into anybody's by leaving out who one is.
            (Some(_), Caller::Unchecked | Caller::Anonymous) => {
                return Err(refused(&Refusal::NoCredential("changing this stream".to_owned())));
            }
            (Some(holder), Caller::Known(caller)) if holder.is_of_same_principal(caller) => {
                Some(Term::new(caller.clone(), self.auth.expiring_notice()))
            }
            (Some(_) | None, Caller::Known(_)) => return Err(others()),
            (None, Caller::Unchecked | Caller::Anonymous) => None,
        };
        if !Arc::ptr_eq(&self.policies, &hub.policies()) {
            return Err(unreachable("the policies have changed meanwhile"));
        }
        let mut wanted = now.clone();
        match &self.shards {
            Some(shards) => wanted.shards.clone_from(shards),
            // By a token that may allow less than the one before.
            None if term.is_some() => now
                .topics()
                .try_for_each(|topic| self.still_hears(hub, &topic).map_err(|why| refused(&why)))?,
            None => {}
        }
        if let Some(types) = &self.types {
            wanted.types.clone_from(types);
        }
        if wanted == *now {
            return Ok(Granted { subscription: None, term });
        }
        wanted.kept = Some(hub.kept.share(Kept::new(&self.caller, &wanted)));
        Ok(Granted { subscription: Some(Arc::new(wanted)), term })
    }

    /// Whether a stream may go on hearing this by the caller's token. What the webhook had allowed the same principal
    /// holds on until it is asked again; it isn't asked here, where a reactor would wait for it.
    fn still_hears(&self, hub: &Hub, topic: &Pattern) -> Result<(), Refusal> {
        match self.auth.check_claims(&self.caller, topic, &hub.policies())? {
            access::Granted::Yes => Ok(()),
            access::Granted::IfTheWebhookAllows if hub.grants.allows(self.client_id, topic) => Ok(()),
            access::Granted::IfTheWebhookAllows => Err(Refusal::Denied {
                what: "without naming its channels listening to",
                to: topic.to_string(),
            }),
        }
    }

    /// It was granted: what follows from what the stream hears now, if that is something else than before.
    pub(crate) fn made(&self, hub: &Hub, before: Option<&Kept>, subscription: Option<&Subscription>) {
        if let Some(subscription) = subscription {
            if let Some(before) = before {
                hub.kept.left(before);
            }
            hub.presence.hears(self.client_id, self.caller.subject(), subscription, &hub.policies());
        }
        if let Some(grants) = &self.grants {
            hub.grants.hears(self.client_id, self.caller.subject(), grants.clone());
        }
    }

    /// Says what came of it. Nobody may be there to hear it any more.
    pub(crate) fn answer(self, answer: Result<Changed, Problem>) {
        _ = self.answer.send(answer).is_ok();
    }
}

impl Changed {
    /// A stream at these positions.
    pub(crate) fn new(subscription: &Subscription, courses: &[Course], seat: &Seat) -> Self {
        Changed {
            cursor: subscription.cursor(courses),
            expires: seat.identity().map(|identity| identity.expires),
            kept: subscription.kept.clone(),
        }
    }
}

/// Where a stream goes on that hears something else from now on: where it is, and in shards that it had nothing in,
/// where `head` says. None while that isn't known.
pub(crate) fn go_on(
    subscription: &Subscription,
    courses: &[Course],
    head: impl Fn(Shard) -> Option<Course>,
) -> Option<Vec<Course>> {
    let course = |shard: Shard| {
        let here = courses.iter().find(|course| course.shard == shard).copied();
        here.or_else(|| head(shard))
    };
    subscription.shards.iter().map(|(shard, _)| course(*shard)).collect()
}

/// There is no stream of this id, or no more.
pub(crate) fn unknown() -> Problem {
    let title = "There is no such stream";
    Problem::new(StatusCode::NOT_FOUND, "unknown-stream", title)
        .detail("no open stream has this clientId: it has ended, or its gateway has; open a new one")
}

/// It can't be changed now.
pub(crate) fn unreachable(why: &str) -> Problem {
    let title = "The stream can't be changed now";
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "stream-unreachable", title)
        .detail(format!("{why}; the change may hold or not, try again"))
        .retry_after(rand::random_range(1..=3))
}

fn others() -> Problem {
    let title = "The stream is somebody else's";
    Problem::new(StatusCode::FORBIDDEN, "foreign-stream", title)
        .detail("a stream is changed by the issuer and subject of the token that it was opened with, and by nobody else")
}
