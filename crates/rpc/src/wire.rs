//! Between the ports' types and the messages. Whatever comes in is checked: peers run other versions.

use std::sync::Arc;

use bytes::Bytes;

use foghorn_bus::log::{
    Committed, HistoryEvent, HistoryPage, HistoryQuery, Located, NewestQuery, Replay, ReplayQuery,
};
use foghorn_core::batch::Batch;
use foghorn_core::channel::Channel;
use foghorn_core::entry::Key;
use foghorn_core::pattern::Pattern;
use foghorn_core::position::{Digest, Epoch, Position};
use foghorn_core::reason::ResetReason;
use foghorn_core::shard::{Shard, ShardCount};
use foghorn_core::time::Timestamp;

use crate::v1;
use crate::{PAGE_BYTES_MAX, PAGE_EVENTS_MAX, TOPICS_MAX};

/// What is wrong with a message, for the one who sent it.
pub(crate) type Malformed = String;

pub(crate) fn replay_request(query: &ReplayQuery) -> v1::ReplayRequest {
    v1::ReplayRequest {
        shard: u32::from(query.shard.get()),
        epoch: query.epoch.get(),
        after: query.after,
        topics: topic_texts(&query.topics),
        events: count(query.events),
        bytes: query.bytes as u64,
        fill: query.fill,
        digest: query.digest.0,
    }
}

pub(crate) fn replay_query(
    request: &v1::ReplayRequest,
    shards: ShardCount,
) -> Result<ReplayQuery, Malformed> {
    Ok(ReplayQuery {
        shard: shard(request.shard, shards)?,
        epoch: Epoch::new(request.epoch),
        after: request.after,
        topics: topics(&request.topics)?,
        events: bounded(u64::from(request.events), PAGE_EVENTS_MAX),
        bytes: bounded(request.bytes, PAGE_BYTES_MAX),
        fill: request.fill,
        digest: Digest(request.digest),
    })
}

pub(crate) fn replay_response(replay: Replay) -> v1::ReplayResponse {
    use v1::replay_response::Outcome;
    let outcome = match replay {
        Replay::Page(batch) => Outcome::Page(batch.encode()),
        Replay::Reset { reason, epoch, after } => {
            Outcome::Reset(v1::Reset { reason: reason.as_str().to_owned(), epoch: epoch.get(), after })
        }
    };
    v1::ReplayResponse { outcome: Some(outcome) }
}

pub(crate) fn replay(
    response: v1::ReplayResponse,
    query: &ReplayQuery,
    shards: ShardCount,
) -> Result<Replay, Malformed> {
    use v1::replay_response::Outcome;
    match response.outcome {
        Some(Outcome::Page(bytes)) => {
            let batch = Batch::decode(bytes, shards).map_err(|error| error.to_string())?;
            let asked = (query.shard, query.epoch, query.after);
            let got = (batch.shard, batch.epoch, batch.from);
            if asked != got {
                return Err(format!("asked for {asked:?}, was given the page {got:?}"));
            }
            Ok(Replay::Page(batch))
        }
        Some(Outcome::Reset(reset)) => Ok(Replay::Reset {
            reason: ResetReason::parse(&reset.reason)
                .ok_or_else(|| format!("unknown reset reason {:?}", reset.reason))?,
            epoch: Epoch::new(reset.epoch),
            after: reset.after,
        }),
        None => Err("an outcome that this version doesn't know".to_owned()),
    }
}

pub(crate) fn newest_request(query: &NewestQuery) -> v1::NewestRequest {
    let shards = query.shards.iter().map(|(shard, topics)| v1::newest_request::ShardTopics {
        shard: u32::from(shard.get()),
        topics: topic_texts(topics),
    });
    v1::NewestRequest {
        shards: shards.collect(),
        each: count(query.each),
        total: count(query.total),
        bytes: query.bytes as u64,
    }
}

pub(crate) fn newest_query(
    request: &v1::NewestRequest,
    shards: ShardCount,
) -> Result<NewestQuery, Malformed> {
    if request.shards.len() > usize::from(shards.get()) {
        return Err(format!("{} shards asked for; there are {}", request.shards.len(), shards.get()));
    }
    let per_shard = request.shards.iter().map(|s| Ok((shard(s.shard, shards)?, topics(&s.topics)?)));
    Ok(NewestQuery {
        shards: per_shard.collect::<Result<_, Malformed>>()?,
        each: bounded(u64::from(request.each), PAGE_EVENTS_MAX),
        total: bounded(u64::from(request.total), PAGE_EVENTS_MAX),
        bytes: bounded(request.bytes, PAGE_BYTES_MAX),
    })
}

pub(crate) fn newest(
    response: v1::NewestResponse,
    query: &NewestQuery,
    shards: ShardCount,
) -> Result<Vec<Batch>, Malformed> {
    let batches: Vec<Batch> = response
        .pages
        .into_iter()
        .map(|page| Batch::decode(page, shards).map_err(|error| error.to_string()))
        .collect::<Result<_, _>>()?;
    let (asked, got): (Vec<Shard>, Vec<Shard>) =
        (query.shards.iter().map(|(shard, _)| *shard).collect(), batches.iter().map(|b| b.shard).collect());
    if asked == got { Ok(batches) } else { Err(format!("asked for shards {asked:?}, was given {got:?}")) }
}

pub(crate) fn located(response: v1::LocateResponse) -> Result<Located, Malformed> {
    let v1::LocateResponse { epoch, after, tip } = response;
    if after > tip {
        return Err(format!("a position ({after}) beyond the tip ({tip})"));
    }
    Ok(Located { epoch: Epoch::new(epoch), after, tip })
}

pub(crate) fn history_query(request: v1::HistoryRequest) -> Result<HistoryQuery, Malformed> {
    Ok(HistoryQuery {
        channel: Channel::parse(request.channel).map_err(|error| error.to_string())?,
        after: request.after,
        before: request.before,
        limit: bounded(u64::from(request.limit), PAGE_EVENTS_MAX),
    })
}

/// As much of the page as fits an answer; `more` says when the rest was left for the next one.
pub(crate) fn history_response(page: HistoryPage) -> v1::HistoryResponse {
    let mut response = v1::HistoryResponse {
        epoch: page.epoch.get(),
        events: Vec::new(),
        more: page.more,
        reached: page.reached,
    };
    let mut bytes = 0;
    for event in page.events {
        bytes += event.data.len();
        if let Some(last) = response.events.last()
            && bytes > PAGE_BYTES_MAX
        {
            (response.more, response.reached) = (true, last.seq);
            break;
        }
        response.events.push(v1::HistoryEvent {
            seq: event.seq,
            time_micros: event.time.as_micros(),
            event: event.event_type.unwrap_or_default(),
            id: event.id.unwrap_or_default(),
            data: event.data,
        });
    }
    response
}

pub(crate) fn history(response: v1::HistoryResponse) -> Result<HistoryPage, Malformed> {
    let non_empty = |text: String| if text.is_empty() { None } else { Some(text) };
    let events = response.events.into_iter().map(|event| {
        if std::str::from_utf8(&event.data).is_err() {
            return Err(format!("the data of seq {} are not UTF-8", event.seq));
        }
        Ok(HistoryEvent {
            seq: event.seq,
            time: Timestamp::from_micros(event.time_micros),
            event_type: non_empty(event.event),
            id: non_empty(event.id),
            data: event.data,
        })
    });
    let events: Vec<HistoryEvent> = events.collect::<Result<_, _>>()?;
    // A replica of before this field ends its pages with an event.
    let reached = match (response.reached, events.last()) {
        (0, Some(last)) => last.seq,
        (reached, _) => reached,
    };
    Ok(HistoryPage { epoch: Epoch::new(response.epoch), events, more: response.more, reached })
}

pub(crate) fn committed_request(
    position: Position,
    key: Key,
    deadline: std::time::Duration,
) -> v1::CommittedRequest {
    v1::CommittedRequest {
        position: Some(self::position(position)),
        key: Bytes::copy_from_slice(key.as_bytes()),
        deadline_ms: u32::try_from(deadline.as_millis()).unwrap_or(u32::MAX),
    }
}

pub(crate) fn committed_query(
    request: &v1::CommittedRequest,
    shards: ShardCount,
) -> Result<(Position, Key), Malformed> {
    let at = request.position.as_ref().ok_or("no position")?;
    let key: [u8; 16] = (&request.key[..]).try_into().map_err(|_| "a key has 16 bytes".to_owned())?;
    let position = Position { shard: shard(at.shard, shards)?, epoch: Epoch::new(at.epoch), seq: at.seq };
    Ok((position, Key::from_bytes(key)))
}

pub(crate) fn committed_response(committed: Committed) -> v1::CommittedResponse {
    use v1::committed_response::Outcome;
    let outcome = match committed {
        Committed::Yes => Outcome::Yes,
        Committed::NotYet => Outcome::NotYet,
        Committed::Replaced => Outcome::Replaced,
    };
    v1::CommittedResponse { outcome: outcome.into() }
}

pub(crate) fn committed(response: v1::CommittedResponse) -> Result<Committed, Malformed> {
    use v1::committed_response::Outcome;
    match Outcome::try_from(response.outcome) {
        Ok(Outcome::Yes) => Ok(Committed::Yes),
        Ok(Outcome::NotYet) => Ok(Committed::NotYet),
        Ok(Outcome::Replaced) => Ok(Committed::Replaced),
        Err(_) => Err(format!("unknown outcome {}", response.outcome)),
    }
}

fn position(position: Position) -> v1::Position {
    v1::Position { shard: u32::from(position.shard.get()), epoch: position.epoch.get(), seq: position.seq }
}

/// The shard of that number, or what to check when there is none.
pub(crate) fn shard(number: u32, shards: ShardCount) -> Result<Shard, Malformed> {
    shards.shard(u64::from(number)).ok_or_else(|| {
        format!(
            "there is no shard {number}: this service has {} (is --shards the same everywhere?)",
            shards.get()
        )
    })
}

fn topics(texts: &[String]) -> Result<Arc<[Pattern]>, Malformed> {
    if texts.is_empty() || texts.len() > TOPICS_MAX {
        return Err(format!("{} topics; 1 to {TOPICS_MAX} can be asked for at a time", texts.len()));
    }
    texts
        .iter()
        .map(|text| Pattern::parse_inner(text.as_str()).map_err(|e| format!("topic {text:?}: {e}")))
        .collect()
}

fn topic_texts(topics: &[Pattern]) -> Vec<String> {
    topics.iter().map(|topic| topic.as_str().to_owned()).collect()
}

/// A page holds at least one event, so a limit of zero is one.
fn bounded(asked: u64, most: usize) -> usize {
    usize::try_from(asked).unwrap_or(most).clamp(1, most)
}

pub(crate) fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
