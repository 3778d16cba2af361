//! What the fuzz target `query_string` sees; no part of the crate otherwise.

use foghorn_core::channel::Channel;
use foghorn_core::cursor::CursorError;
use foghorn_core::shard::{Shard, ShardCount};

use super::*;
use crate::subscription::Topics;

/// What a request asks for.
#[derive(Debug)]
pub struct Stream {
    /// The topics, by shard.
    pub shards: Vec<(Shard, Topics)>,
    /// The event types; empty for all.
    pub types: Vec<String>,
    /// Where to go on.
    pub after: Option<Result<Cursor, CursorError>>,
    /// When to begin.
    pub since: Option<Timestamp>,
    /// How many events of each channel to begin with.
    pub last: Option<usize>,
}

/// `GET /api/events?<query>`, or of one channel, with a `Last-Event-ID`. `most` topics are allowed.
pub fn stream(
    query: &str,
    channel: Option<&str>,
    last_event_id: Option<&HeaderValue>,
    most: usize,
    shards: ShardCount,
    now: Timestamp,
) -> Result<Stream, Problem> {
    let mut headers = HeaderMap::new();
    if let Some(id) = last_event_id {
        headers.insert(LAST_EVENT_ID, id.clone());
    }
    let query = Query::parse(Some(query), KEYS)?;
    let topics = [vec![Pattern::from(&Channel::broadcast())], topics(&query, channel, most)?].concat();
    let Subscription { shards, .. } = Subscription::new(&topics, shards);
    let types = types(&query)?;
    form(&query)?;
    query.flag("heartbeat")?;
    let mut stream = Stream { shards, types, after: None, since: None, last: None };
    match begin(&headers, &query, now)? {
        Begin::Now => {}
        Begin::After(cursor) => stream.after = Some(cursor),
        Begin::AfterUnknown(cursor) => stream.after = Some(Ok(cursor)),
        Begin::Since(time) => stream.since = Some(time),
        Begin::Last(each) => stream.last = Some(each),
    }
    Ok(stream)
}

/// How many events `GET /api/channels/<channel>/events?<query>` asks for.
pub fn history(query: &str, channel: &str, shards: ShardCount) -> Result<usize, Problem> {
    history::Asked::read(channel, Some(query), shards).map(|asked| asked.limit)
}
