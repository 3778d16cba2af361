//! What operators ask of the whole cluster: `GET /api/admin/channels`, which channels are the busiest;
//! `GET /api/admin/connections`, which streams a user has; `GET /api/admin/trace`, why a user didn't get an event.
//!
//! Which events there are, every gateway knows by its ring. What streams hear each gateway looks for among its own when
//! it is asked.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::timeout;

use foghorn_auth::audit::{Action, Line};
use foghorn_bus::gateways::{About, GatewayName, Question as Asked};
use foghorn_bus::log::{HistoryEvent, HistoryQuery};
use foghorn_core::channel::Channel;
use foghorn_core::cursor::Cursor;
use foghorn_core::position::Epoch;
use foghorn_core::shard::Shard;
use foghorn_http::Response;
use foghorn_http::body::json as json_response;
use foghorn_http::problem::Problem;
use foghorn_http::query::{Query, bad_value};

use crate::history::{bad_channel, unavailable};
use crate::http::{Api, DOOR, TOKEN};
use crate::ring::RingEvent;
use crate::survey::{CHANNELS_MAX, Found, Question, SeenStream, Sought, Verdict};

/// How long the other gateways may take.
const ANSWERED_WITHIN: Duration = Duration::from_secs(2);
/// Events that are looked at for busy channels, in all; and of a ring at a time, as others wait for it.
const LOOKED_MAX: usize = 200_000;
const LOOKED_AT_ONCE: usize = 5_000;
/// Over how many seconds, and how many channels are told of, unless it is said.
const SECONDS_DEFAULT: u64 = 10;
const SECONDS_MAX: u64 = 300;
const BUSIEST_DEFAULT: u64 = 20;
/// Most bytes of a user's name: that of a token's subject.
const USER_BYTES_MAX: usize = 1024;
/// Most bytes of an event's id, as it is asked for.
const ID_BYTES_MAX: usize = 256;
/// Events of a channel that are looked through for an id, the newest first, a page at a time.
const SOUGHT_PAGES: usize = 4;
const SOUGHT_PAGE: usize = 500;
/// How long a request waits for its turn at the log.
const PATIENCE: Duration = Duration::from_secs(2);

/// What one gateway asks another.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Wanted {
    User { subject: String, sought: Option<Sought> },
    Listeners(Vec<String>),
}

#[derive(Default)]
struct Busy {
    events: usize,
    bytes: usize,
}

/// What is known of an event that is traced.
struct Traced {
    /// As the log has it; none where only the ring does.
    stored: Option<HistoryEvent>,
    sought: Sought,
}

impl Api {
    /// The channels with the most events lately.
    pub(crate) async fn busiest(
        &self,
        headers: &HeaderMap,
        query: Option<&str>,
        address: Option<IpAddr>,
    ) -> Result<Response, Problem> {
        let query = Query::parse(query, &["seconds", "limit", TOKEN])?;
        self.operator(headers, &query, address, "/api/admin/channels").await?;
        let seconds = query.number("seconds", 1, SECONDS_MAX)?.unwrap_or(SECONDS_DEFAULT);
        let limit = query.number("limit", 1, CHANNELS_MAX as u64)?.unwrap_or(BUSIEST_DEFAULT);
        let (busy, all_looked_at) = self.count_channels(Duration::from_secs(seconds));
        let mut busy: Vec<(Channel, Busy)> = busy.into_iter().collect();
        busy.sort_by(|(one, a), (other, b)| {
            b.events.cmp(&a.events).then_with(|| one.as_str().cmp(other.as_str()))
        });
        busy.truncate(usize::try_from(limit).unwrap_or(CHANNELS_MAX));
        let names = busy.iter().map(|(channel, _)| channel.as_str().to_owned()).collect();
        let found = self.survey_all(&Wanted::Listeners(names)).await?;
        let shown = busy.iter().enumerate().map(|(at, (channel, Busy { events, bytes }))| {
            let listeners = found.listeners.get(at).copied().unwrap_or_default();
            json!({ "channel": channel.as_str(), "events": events, "bytes": bytes, "listeners": listeners })
        });
        let channels: Vec<Value> = shown.collect();
        let complete = all_looked_at && !found.partial;
        Ok(answer(&json!({ "seconds": seconds, "channels": channels, "complete": complete })))
    }

    /// The streams of a user.
    pub(crate) async fn connections_of(
        &self,
        headers: &HeaderMap,
        query: Option<&str>,
        address: Option<IpAddr>,
    ) -> Result<Response, Problem> {
        let query = Query::parse(query, &["user", TOKEN])?;
        self.operator(headers, &query, address, "/api/admin/connections").await?;
        let user = user(&query)?;
        let found = self.survey_all(&Wanted::User { subject: user.clone(), sought: None }).await?;
        let connections: Vec<Value> = found.streams.iter().map(shown).collect();
        Ok(answer(&json!({ "user": user, "connections": connections, "complete": !found.partial })))
    }

    /// What became of an event on its way to a user.
    pub(crate) async fn trace(
        &self,
        headers: &HeaderMap,
        query: Option<&str>,
        address: Option<IpAddr>,
    ) -> Result<Response, Problem> {
        let query = Query::parse(query, &["channel", "id", "user", TOKEN])?;
        self.operator(headers, &query, address, "/api/admin/trace").await?;
        let channel = query.get("channel").ok_or_else(|| bad_value("channel", "has to be given"))?;
        let channel = Channel::parse(channel.to_owned()).map_err(|error| bad_channel(&error))?;
        let id = query.get("id").filter(|id| !id.is_empty() && id.len() <= ID_BYTES_MAX);
        let id = id.ok_or_else(|| {
            bad_value(
                "id",
                &format!("is the event's id, its cursor or its seq, of at most {ID_BYTES_MAX} bytes"),
            )
        })?;
        let user = user(&query)?;
        let traced = self.find(&channel, id).await?;
        let sought = traced.as_ref().map(|traced| traced.sought.clone());
        let found = self.survey_all(&Wanted::User { subject: user.clone(), sought }).await?;
        let event = traced.as_ref().map(|traced| self.shown_event(&channel, traced));
        let connections: Vec<Value> = found.streams.iter().map(shown).collect();
        let steps = self.steps(&channel, traced.as_ref(), &found, &user);
        Ok(answer(&json!({
            "channel": channel.as_str(), "id": id, "user": user, "event": event, "steps": steps,
            "connections": connections, "complete": !found.partial,
        })))
    }

    /// An operator, who doesn't ask too often. What they wanted to know is audited.
    async fn operator(
        &self,
        headers: &HeaderMap,
        query: &Query,
        address: Option<IpAddr>,
        path: &str,
    ) -> Result<(), Problem> {
        let caller = self.caller(headers, query).await?;
        self.check_admin(&caller)?;
        if let Err(limited) = self.limits.check_subject(&caller) {
            let what = "more is asked of gateways by this subject than gateway.subject_per_minute allows";
            return Err(self.too_many(limited, what));
        }
        if let Some(room) = self.auth.audit.room(Action::Inspected) {
            let on = match query.get("user") {
                Some(user) => format!("{path} {user}"),
                None => path.to_owned(),
            };
            room.say(&Line { door: DOOR, subject: caller.subject(), address, on: &on, ..Line::default() });
        }
        Ok(())
    }

    /// Events and bytes by channel, and whether all events of that time were looked at.
    fn count_channels(&self, span: Duration) -> (HashMap<Channel, Busy>, bool) {
        let hub = &self.shared.hub;
        let begin = hub.clock.now().minus(span);
        let (mut busy, mut room, mut complete) = (HashMap::<Channel, Busy>::new(), LOOKED_MAX, true);
        for shard in hub.shard_count().shards() {
            let begun =
                hub.with_ring(shard, |ring| ring.map(|ring| (ring.before(begin), ring.reaches(begin))));
            let Some((mut at, reaches)) = begun else {
                complete = false;
                continue;
            };
            complete &= reaches;
            loop {
                let events: Vec<Arc<RingEvent>> = hub.with_ring(shard, |ring| {
                    ring.map(|ring| ring.after(at).take(LOOKED_AT_ONCE.min(room)).cloned().collect())
                        .unwrap_or_default()
                });
                let Some(last) = events.last() else { break };
                (at, room) = (last.feed.seq, room - events.len());
                for event in events.iter().filter(|event| !event.feed.channel.is_reserved()) {
                    let of_channel = busy.entry(event.feed.channel.clone()).or_default();
                    of_channel.events += 1;
                    of_channel.bytes += event.feed.wire_len();
                }
            }
            complete &= room > 0;
        }
        (busy, complete)
    }

    /// Asks all gateways.
    async fn survey_all(&self, wanted: &Wanted) -> Result<Found, Problem> {
        let others = self.shared.hub.places.members.others();
        let asked = others.into_iter().map(|gateway| self.ask_survey(gateway, wanted));
        let (here, there) = tokio::join!(self.survey_here(wanted), join_all(asked));
        let Some(mut found) = here else {
            let title = "Too much is asked at once";
            return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "surveys-busy", title)
                .detail("the gateway looks at all of its streams for others; ask again")
                .retry_after(1));
        };
        for other in there {
            found.partial |= other.partial;
            found.streams.extend(other.streams);
            for (sum, more) in found.listeners.iter_mut().zip(other.listeners) {
                *sum += more;
            }
        }
        Ok(found)
    }

    async fn survey_here(&self, wanted: &Wanted) -> Option<Found> {
        let question = match wanted {
            Wanted::User { subject, sought } => Question::User {
                own: Channel::user(subject).ok(),
                subject: subject.clone(),
                sought: sought.clone(),
            },
            Wanted::Listeners(names) => {
                let channels = names.iter().take(CHANNELS_MAX).map(|name| Channel::parse(name.clone()));
                Question::Listeners(channels.collect::<Result<_, _>>().ok()?)
            }
        };
        self.shared.hub.survey(question).await
    }

    async fn ask_survey(&self, gateway: GatewayName, wanted: &Wanted) -> Found {
        let body = serde_json::to_vec(wanted).unwrap_or_default().into();
        let question = Asked { about: About::Survey, token: None, context: None, body };
        let answer = timeout(ANSWERED_WITHIN, self.gateways.ask(gateway, question)).await;
        let answer = answer.ok().and_then(Result::ok);
        let found = answer.and_then(|answer| serde_json::from_slice(&answer).ok());
        found.unwrap_or_else(|| Found { partial: true, ..Found::default() })
    }

    /// What another gateway is told.
    pub(crate) async fn answer_survey(&self, wanted: &[u8]) -> Vec<u8> {
        let found = match serde_json::from_slice(wanted) {
            Ok(wanted) => self.survey_here(&wanted).await,
            Err(_) => None,
        };
        let found = found.unwrap_or_else(|| Found { partial: true, ..Found::default() });
        serde_json::to_vec(&found).unwrap_or_default()
    }

    /// Finds an event of a channel by what somebody may know it by.
    async fn find(&self, channel: &Channel, id: &str) -> Result<Option<Traced>, Problem> {
        let hub = &self.shared.hub;
        let shard = hub.shard_count().shard_of(channel);
        let cursor = Cursor::parse(id).ok().and_then(|cursor| cursor.get(shard));
        let seq = cursor.map(|(_, seq)| seq).or_else(|| id.parse().ok());
        let in_ring = seq.and_then(|seq| {
            hub.with_ring(shard, |ring| {
                let ring = ring.filter(|ring| cursor.is_none_or(|(epoch, _)| epoch == ring.epoch()))?;
                let event = ring.after(seq.saturating_sub(1)).next()?;
                let same = event.feed.seq == seq && event.feed.channel == *channel;
                same.then(|| (ring.epoch(), event.clone()))
            })
        });
        let stored = self.find_stored(channel, id, seq, cursor.map(|(epoch, _)| epoch)).await?;
        Ok(match (stored, in_ring) {
            (Some((epoch, event)), _) => Some(Traced {
                sought: sought(
                    channel,
                    shard,
                    epoch,
                    event.seq,
                    event.event_type.clone(),
                    event.time.as_micros(),
                ),
                stored: Some(event),
            }),
            (None, Some((epoch, event))) => {
                let feed = &event.feed;
                let name = feed.event_type.as_ref().map(|name| name.as_str().to_owned());
                let sought = sought(channel, shard, epoch, feed.seq, name, feed.time.as_micros());
                Some(Traced { stored: None, sought })
            }
            (None, None) => None,
        })
    }

    async fn find_stored(
        &self,
        channel: &Channel,
        id: &str,
        seq: Option<u64>,
        epoch: Option<Epoch>,
    ) -> Result<Option<(Epoch, HistoryEvent)>, Problem> {
        let _turn = match timeout(PATIENCE, self.shared.replays.turn()).await {
            Ok(Ok(turn)) => turn,
            _ => return Err(unavailable("as many catch-ups are under way as the gateway allows")),
        };
        let by_seq = |event: &HistoryEvent| Some(event.seq) == seq;
        if let Some(seq) = seq {
            let query = HistoryQuery {
                channel: channel.clone(),
                after: Some(seq.saturating_sub(1)),
                before: None,
                limit: 1,
            };
            let page =
                self.shared.log.history(query).await.map_err(|error| unavailable(&error.to_string()))?;
            if epoch.is_none_or(|epoch| epoch == page.epoch)
                && let Some(event) = page.events.into_iter().find(by_seq)
            {
                return Ok(Some((page.epoch, event)));
            }
        }
        let mut before = None;
        for _ in 0..SOUGHT_PAGES {
            let query = HistoryQuery { channel: channel.clone(), after: None, before, limit: SOUGHT_PAGE };
            let page =
                self.shared.log.history(query).await.map_err(|error| unavailable(&error.to_string()))?;
            if let Some(event) = page.events.into_iter().find(|event| event.id.as_deref() == Some(id)) {
                return Ok(Some((page.epoch, event)));
            }
            if !page.more {
                break;
            }
            before = Some(page.reached);
        }
        Ok(None)
    }

    fn shown_event(&self, channel: &Channel, traced: &Traced) -> Value {
        let shard = self.shared.hub.shard_count().shard_of(channel);
        let time = foghorn_core::time::Timestamp::from_micros(traced.sought.time).to_string();
        let id = traced.stored.as_ref().and_then(|event| event.id.clone());
        json!({
            "shard": shard.get(), "epoch": traced.sought.epoch, "seq": traced.sought.seq, "time": time,
            "event": traced.sought.event_type, "id": id,
        })
    }

    /// What is known of each part of its way, in order: `yes`, `no` or `unknown`, and why.
    fn steps(&self, channel: &Channel, traced: Option<&Traced>, found: &Found, user: &str) -> Vec<Value> {
        let step =
            |name: &str, answer: &str, why: String| json!({ "step": name, "answer": answer, "why": why });
        let Some(traced) = traced else {
            let why = format!(
                "no event with this id, cursor or seq is among the newest {} of the channel, nor in this gateway's memory: \
                 it was never published there, is older, has expired, or is never kept (replay = false)",
                SOUGHT_PAGE * SOUGHT_PAGES
            );
            return vec![step("published", "unknown", why)];
        };
        let position = format!("{}:{}:{}", traced.sought.shard, traced.sought.epoch, traced.sought.seq);
        let shard = self.shared.hub.shard_count().shard_of(channel);
        let ring = self.shared.hub.with_ring(shard, |ring| ring.map(|ring| (ring.epoch(), ring.head())));
        let relayed = match ring {
            Some((epoch, head)) if epoch.get() == traced.sought.epoch && head >= traced.sought.seq => {
                step("relayed", "yes", format!("this gateway has been given everything up to {head}"))
            }
            Some((epoch, head)) if epoch.get() == traced.sought.epoch => step(
                "relayed",
                "no",
                format!("this gateway has been given everything up to {head}, and not this yet"),
            ),
            _ => step("relayed", "unknown", "this gateway is in another epoch of the journal".to_owned()),
        };
        let kept = match traced.stored {
            Some(_) => step("kept", "yes", "whoever comes back with an older cursor is given it".to_owned()),
            None => step(
                "kept",
                "no",
                "it is in this gateway's memory alone: never kept (replay = false), expired, or not stored yet".to_owned(),
            ),
        };
        vec![
            step("published", "yes", "the journal has taken it".to_owned()),
            step("journalled", "yes", format!("at {position}")),
            relayed,
            kept,
            delivered(found, user),
        ]
    }
}

/// Whether any of a user's streams was sent it.
fn delivered(found: &Found, user: &str) -> Value {
    let count = |verdict: Verdict| found.streams.iter().filter(|seen| seen.verdict == Some(verdict)).count();
    let (sent, all) = (count(Verdict::Delivered), found.streams.len());
    let (answer, why) = if sent > 0 {
        ("yes", format!("written to the sockets of {sent} of the {all} connections that {user} has now"))
    } else if all == 0 && found.partial {
        ("unknown", format!("no connection of {user} was found, and not all could be looked at"))
    } else if all == 0 {
        ("no", format!("{user} has no connection now; whether one was there at the time isn't kept"))
    } else if count(Verdict::ConnectedAfter) > 0 {
        ("unknown", "the connections that hear it were opened later: one that came back with a cursor of before was given it".to_owned())
    } else {
        ("no", format!("none of the {all} connections that {user} has now was sent it"))
    };
    json!({ "step": "delivered", "answer": answer, "why": why })
}

fn sought(
    channel: &Channel,
    shard: Shard,
    epoch: Epoch,
    seq: u64,
    event_type: Option<String>,
    time: i64,
) -> Sought {
    let channel = channel.as_str().to_owned();
    Sought { channel, event_type, shard: shard.get(), epoch: epoch.get(), seq, time }
}

fn shown(seen: &SeenStream) -> Value {
    let mut shown = json!(seen);
    shown["instance"] = seen.instance().into();
    shown
}

fn user(query: &Query) -> Result<String, Problem> {
    let user = query.get("user").filter(|user| !user.is_empty() && user.len() <= USER_BYTES_MAX);
    let what =
        || bad_value("user", &format!("is the subject of a user's tokens, of 1 to {USER_BYTES_MAX} bytes"));
    user.map(str::to_owned).ok_or_else(what)
}

fn answer(value: &Value) -> Response {
    let mut response = json_response(StatusCode::OK, value);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
