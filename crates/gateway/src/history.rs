//! `GET /api/channels/{channel}/events`: history as JSON.

use http::StatusCode;
use serde_json::json;

use foghorn_bus::log::HistoryQuery;
use foghorn_core::channel::Channel;
use foghorn_core::cursor::Cursor;
use foghorn_core::position::{Epoch, Position};
use foghorn_core::shard::Shard;
use foghorn_http::Response;
use foghorn_http::body::json as json_response;
use foghorn_http::problem::Problem;
use foghorn_http::query::{Query, bad_value};

use crate::connection::Shared;

const KEYS: &[&str] = &["after", "before", "limit"];
const LIMIT_DEFAULT: u64 = 100;
const LIMIT_MAX: u64 = 1000;

/// A page of a channel's events: newest first, or oldest first with `after`. `after` and `before` take a
/// seq or a cursor.
pub(crate) async fn answer(shared: &Shared, channel: &str, query: Option<&str>) -> Result<Response, Problem> {
    let query = Query::parse(query, KEYS)?;
    let channel = Channel::parse(channel).map_err(|error| {
        Problem::new(StatusCode::BAD_REQUEST, "bad-channel", "The channel is malformed")
            .detail(format!("{channel:?}: {error}"))
    })?;
    let shard = shared.hub.shard_count().shard_of(&channel);
    let limit = query.number("limit", 1, LIMIT_MAX)?.unwrap_or(LIMIT_DEFAULT);
    let page = shared
        .log
        .history(HistoryQuery {
            channel: channel.clone(),
            after: seq(&query, "after", shard)?,
            before: seq(&query, "before", shard)?,
            limit: usize::try_from(limit).unwrap_or(usize::MAX),
        })
        .await
        .map_err(|error| {
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "log-unavailable", "The event log can't answer now")
                .detail(error.to_string())
                .retry_after(1)
        })?;
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
    Ok(json_response(
        StatusCode::OK,
        &json!({ "channel": channel.as_str(), "shard": shard.get(), "epoch": page.epoch.get(), "events": events, "more": page.more }),
    ))
}

fn cursor(shard: Shard, epoch: Epoch, seq: u64) -> String {
    Cursor::single(Position { shard, epoch, seq }).to_string()
}

fn seq(query: &Query, key: &str, shard: Shard) -> Result<Option<u64>, Problem> {
    let Some(text) = query.get(key) else { return Ok(None) };
    if let Ok(seq) = text.parse() {
        return Ok(Some(seq));
    }
    let at = Cursor::parse(text).ok().and_then(|cursor| cursor.get(shard));
    match at {
        Some((_, seq)) => Ok(Some(seq)),
        None => Err(bad_value(key, "is neither a seq nor a cursor of this channel's shard")),
    }
}
