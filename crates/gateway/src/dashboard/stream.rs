//! `GET /api/dashboard/stream`: the cluster's metrics once a second, and alerts, to operators.
//!
//! A stream like others: it has a name, counts as open, ends with its token, when it is revoked and when the gateway
//! drains, and says why. It has no cursor, as nobody needs yesterday's seconds.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::stream;
use http::{HeaderMap, StatusCode};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::Instant;

use foghorn_auth::audit::{Action, Line};
use foghorn_core::cursor::Cursor;
use foghorn_core::reason::StreamEnd;
use foghorn_core::sse::ControlFrame;
use foghorn_http::Response;
use foghorn_http::problem::Problem;
use foghorn_http::query::Query;

use super::alerts::Firing;
use super::{Dashboard, Moment};
use crate::change::{Ask, Changed};
use crate::client_id::ClientId;
use crate::connection::{Life, Shared, expiring, stream_end};
use crate::http::{Api, DOOR, TOKEN, event_stream};
use crate::hub::Membership;
use crate::seat::{Due, Seat, Term};
use crate::subscription::Subscription;

/// Where it is answered.
pub(crate) const PATH: &str = "/api/dashboard/stream";
/// What may be asked for. All but the token is what our clients always say; it changes nothing here.
const KEYS: &[&str] = &["envelope", "heartbeat", "lastEventId", "_lastEventId", TOKEN];

/// One operator's stream.
pub(crate) struct Watcher {
    shared: Arc<Shared>,
    /// To nothing: it is only told to leave, and what is asked of it.
    subscription: Subscription,
    membership: Membership,
    life: Life,
    phase: Phase,
    latest: watch::Receiver<Option<Arc<Moment>>>,
    /// The alerts that it was told.
    told: Vec<Firing>,
    /// How many surveys it has been looked at for.
    surveyed: u64,
}

enum Phase {
    Begin,
    Live,
    Ended,
}

impl Api {
    /// A stream of the dashboard.
    pub(crate) async fn dashboard_stream(
        &self,
        headers: &HeaderMap,
        query: Option<&str>,
        address: Option<IpAddr>,
    ) -> Result<Response, Problem> {
        let query = Query::parse(query, KEYS)?;
        let caller = self.caller(headers, &query).await?;
        self.check_admin(&caller)?;
        if let Some(response) = self.takes_no_more() {
            return Ok(response);
        }
        if let Err(limited) = self.limits.check_subject(&caller).and_then(|()| self.limits.check_streams()) {
            return Ok(self.stream_later(limited));
        }
        let hub = &self.shared.hub;
        let client_id = ClientId::random(self.shared.name);
        let identity = caller.identity().map(|identity| &**identity);
        let Some(place) = hub.places.admit(identity, client_id, hub.clock.now()).await else {
            if let Some(room) = self.auth.audit.room(Action::Refused) {
                let reason = Some(StreamEnd::TooManyStreams.as_str());
                let line = Line { door: DOOR, subject: caller.subject(), address, ..Line::default() };
                room.say(&Line { reason, on: PATH, ..line });
            }
            return Ok(self.stream_refused_a_place());
        };
        // Others may have come while others were asked.
        if let Some(response) = self.takes_no_more() {
            return Ok(response);
        }
        if let Some(room) = self.auth.audit.room(Action::Connected) {
            let stream = client_id.to_string();
            let line = Line { door: DOOR, subject: caller.subject(), address, ..Line::default() };
            room.say(&Line { stream: Some(&stream), on: PATH, ..line });
        }
        let term = caller.identity().cloned();
        let term = term.map(|identity| Term::new(identity, self.auth.expiring_notice()));
        let watcher = Watcher::new(self.shared.clone(), &self.dashboard, client_id, term);
        place.taken();
        let chunks = stream::unfold(watcher, |mut watcher| async move {
            let bytes = watcher.next_chunk().await?;
            Some((Ok(Frame::data(bytes)), watcher))
        });
        Ok(event_stream(StreamBody::new(chunks).boxed_unsync()))
    }
}

impl Watcher {
    fn new(shared: Arc<Shared>, dashboard: &Arc<Dashboard>, client_id: ClientId, term: Option<Term>) -> Self {
        let subscription = Subscription::new(&[], shared.hub.shard_count());
        let mut seat = Seat::take(&shared.hub, client_id);
        seat.limit(term);
        Watcher {
            membership: shared.hub.join(&subscription, client_id),
            surveyed: shared.hub.surveys.made(),
            subscription,
            life: Life::new(seat, shared.config.slow_time),
            shared,
            phase: Phase::Begin,
            latest: dashboard.watch(),
            told: Vec::new(),
        }
    }

    /// The next bytes for the socket; none when the stream is over. Waits until there are some: for a second at most, so
    /// nothing has to keep it alive.
    async fn next_chunk(&mut self) -> Option<Bytes> {
        let bytes = match self.phase {
            Phase::Ended => return None,
            Phase::Begin => self.connected(),
            Phase::Live => self.go_on().await,
        };
        (self.life.last_write, self.life.idle) = (Instant::now(), false);
        Some(bytes)
    }

    fn connected(&mut self) -> Bytes {
        self.phase = Phase::Live;
        // What is there by now belongs to it.
        self.latest.mark_changed();
        let id = self.life.seat.as_ref().map(|seat| seat.client_id().to_string());
        let now = self.shared.hub.clock.now().to_string();
        let data = json!({ "clientId": id, "timestamp": now, "recovered": false }).to_string();
        let retry_ms = Some(self.shared.config.retry_ms());
        let mut out = BytesMut::new();
        ControlFrame { id: None, event: Some("connected"), retry_ms, data: Some(&data) }.write(&mut out);
        out.freeze()
    }

    async fn go_on(&mut self) -> Bytes {
        self.life.idle = true;
        loop {
            self.membership.waiter.unmark();
            if let Some(end) = self.life.leaves(&self.membership.waiter) {
                return self.finish(end);
            }
            self.answer_asked();
            self.answer_surveys();
            match self.life.due() {
                Due::Nothing(_) => {}
                Due::Telling(ends) => {
                    if let Some(seat) = &mut self.life.seat {
                        seat.told();
                    }
                    return expiring(ends);
                }
                Due::End(end) => return self.finish(end),
            }
            tokio::select! {
                biased;
                () = self.membership.waiter.marked() => {}
                () = self.life.term_asks() => {}
                changed = self.latest.changed() => {
                    if changed.is_err() {
                        return self.finish(StreamEnd::Internal);
                    }
                    let moment = self.latest.borrow_and_update().clone();
                    if let Some(moment) = moment {
                        return self.say(&moment);
                    }
                }
            }
        }
    }

    /// How the cluster is, and what has begun or ceased to be wrong since it was told.
    fn say(&mut self, moment: &Moment) -> Bytes {
        let mut out = BytesMut::with_capacity(moment.metrics.len() + 64);
        let mut event = |name: &str, data: &str| {
            ControlFrame { event: Some(name), data: Some(data), ..ControlFrame::default() }.write(&mut out);
        };
        event("metrics", &moment.metrics);
        let is_among = |alert: &Firing, list: &[Firing]| list.iter().any(|other| other.name == alert.name);
        let begun =
            moment.firing.iter().filter(|alert| !is_among(alert, &self.told)).map(|alert| ("firing", alert));
        let over = self
            .told
            .iter()
            .filter(|alert| !is_among(alert, &moment.firing))
            .map(|alert| ("resolved", alert));
        for (state, alert) in begun.chain(over) {
            let mut data = json!(alert);
            data["state"] = state.into();
            event("alert", &data.to_string());
        }
        self.told.clone_from(&moment.firing);
        out.freeze()
    }

    /// Says goodbye: why, and when to come back.
    fn finish(&mut self, end: StreamEnd) -> Bytes {
        self.phase = Phase::Ended;
        self.life.end = Some(end);
        stream_end(end, self.shared.config.retry_ms(), &Cursor::default())
    }

    /// It can be prolonged, and hears what it hears.
    fn answer_asked(&mut self) {
        let id = self.life.seat.as_ref().map(Seat::client_id);
        while let Some(ask) = id.and_then(|id| self.shared.hub.directory.take(id)) {
            let changed = self.prolong(&ask);
            ask.answer(changed);
        }
    }

    fn answer_surveys(&mut self) {
        let Some(seat) = &self.life.seat else { return };
        for survey in self.shared.hub.surveys.of_users_since(&mut self.surveyed) {
            survey.look_at(seat, &self.subscription, Vec::new, true);
            survey.looked_at(1);
        }
    }

    fn prolong(&mut self, ask: &Ask) -> Result<Changed, Problem> {
        let seat = self.life.seat.as_mut().ok_or_else(crate::change::unknown)?;
        if ask.shards.is_some() || ask.types.is_some() {
            let title = "The subscription is malformed";
            let what = "a stream of the dashboard can only be prolonged: leave out channels and events";
            return Err(Problem::new(StatusCode::BAD_REQUEST, "bad-subscription", title).detail(what));
        }
        ask.caller.check_admin().map_err(|why| {
            self.shared.hub.metrics.refused(&why);
            why.to_problem()
        })?;
        let granted = ask.grant(&self.shared.hub, seat, &self.subscription)?;
        seat.limit(granted.term);
        Ok(Changed::new(&self.subscription, &[], seat))
    }
}
