//! `GET /api/channels/{channel}/events`: history as JSON.

use std::time::Duration;

use http::StatusCode;
use serde_json::json;
use tokio::time::timeout;

use foghorn_bus::log::HistoryQuery;
use foghorn_core::channel::{Channel, ChannelError};
use foghorn_core::cursor::Cursor;
use foghorn_core::position::{Epoch, Position};
use foghorn_core::shard::{Shard, ShardCount};
use foghorn_http::Response;
use foghorn_http::body::json as json_response;
use foghorn_http::problem::Problem;
use foghorn_http::query::{Query, bad_value};

use crate::connection::Shared;
use crate::http::TOKEN;

const KEYS: &[&str] = &["after", "before", "limit", TOKEN];
/// How long a request waits for its turn at the log.
const PATIENCE: Duration = Duration::from_secs(2);
const LIMIT_DEFAULT: u64 = 100;
const LIMIT_MAX: u64 = 1000;

/// A page of a channel's events: newest first, or oldest first with `after`. `after` and `before` take a
/// seq or a cursor.
pub(crate) async fn answer(shared: &Shared, asked: Asked) -> Result<Response, Problem> {
    let Asked { channel, shard, after, before, limit, query: _ } = asked;
    let asked = HistoryQuery {
        channel: channel.clone(),
        after: after.map(|bound| bound.seq),
        before: before.map(|bound| bound.seq),
        limit,
    };
    let _turn = match timeout(PATIENCE, shared.replays.turn()).await {
        Ok(Ok(turn)) => turn,
        _ => return Err(unavailable("as many catch-ups are under way as the gateway allows")),
    };
    let page = shared.log.history(asked).await.map_err(|error| unavailable(&error.to_string()))?;
    for (key, bound) in [("after", after), ("before", before)] {
        check_epoch(key, bound, page.epoch)?;
    }
    let events: Vec<_> = page
        .events
        .iter()
        .map(|event| {
            json!({
                "seq": event.seq, "cursor": cursor(shard, page.epoch, event.seq), "time": event.time.to_string(),
                "event": event.event_type, "id": event.id, "data": String::from_utf8_lossy(&event.data),
            })
        })
        .collect();
    // Not the last event's: a page may end with events that have expired since.
    let next = page.more.then(|| cursor(shard, page.epoch, page.reached));
    Ok(json_response(
        StatusCode::OK,
        &json!({
            "channel": channel.as_str(), "shard": shard.get(), "epoch": page.epoch.get(), "events": events,
            "more": page.more, "next": next,
        }),
    ))
}

fn cursor(shard: Shard, epoch: Epoch, seq: u64) -> String {
    Cursor::single(Position { shard, epoch, seq }).to_string()
}

/// What a request asks for.
pub(crate) struct Asked {
    pub(crate) channel: Channel,
    pub(crate) query: Query,
    shard: Shard,
    after: Option<Bound>,
    before: Option<Bound>,
    /// At most this many events.
    pub(crate) limit: usize,
}

impl Asked {
    /// Reads the path's channel and the query string.
    pub(crate) fn read(channel: &str, query: Option<&str>, shards: ShardCount) -> Result<Self, Problem> {
        let query = Query::parse(query, KEYS)?;
        let channel = Channel::parse(channel).map_err(|error| bad_channel(&error))?;
        let shard = shards.shard_of(&channel);
        let limit = query.number("limit", 1, LIMIT_MAX)?.unwrap_or(LIMIT_DEFAULT);
        let (after, before) = (bound(&query, "after", shard)?, bound(&query, "before", shard)?);
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        Ok(Asked { channel, query, shard, after, before, limit })
    }
}

/// Where a page begins or ends.
#[derive(Debug, Clone, Copy)]
struct Bound {
    /// None for a bare seq, which is of whatever epoch there is.
    epoch: Option<Epoch>,
    seq: u64,
}

fn bound(query: &Query, key: &str, shard: Shard) -> Result<Option<Bound>, Problem> {
    let Some(text) = query.get(key) else { return Ok(None) };
    if let Ok(seq) = text.parse() {
        return Ok(Some(Bound { epoch: None, seq }));
    }
    let at = Cursor::parse(text).ok().and_then(|cursor| cursor.get(shard));
    match at {
        Some((epoch, seq)) => Ok(Some(Bound { epoch: Some(epoch), seq })),
        None => Err(bad_value(key, "is neither a seq nor a cursor of this channel's shard")),
    }
}

/// Seqs of two epochs have nothing to do with each other: a page from there would leave events out in
/// silence.
fn check_epoch(key: &str, bound: Option<Bound>, epoch: Epoch) -> Result<(), Problem> {
    match bound.and_then(|bound| bound.epoch) {
        Some(of) if of > epoch => Err(unavailable("this replica of it has not seen the journal's epoch yet")),
        Some(of) if of != epoch => Err(bad_value(
            key,
            &format!(
                "is a cursor of epoch {of}; the journal is in epoch {epoch} now: begin again without it"
            ),
        )),
        _ => Ok(()),
    }
}

pub(crate) fn bad_channel(error: &ChannelError) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "bad-channel", "The channel is malformed")
        .detail(format!("channel: {error}"))
}

pub(crate) fn unavailable(why: &str) -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "log-unavailable", "The event log can't answer now")
        .detail(why.to_owned())
        .retry_after(1)
}
