//! What a stream or a page of history is asked for with. The first line of the input is the query string; a
//! second one, if there is one, the `Last-Event-ID`; a third the path.

#![no_main]

use libfuzzer_sys::fuzz_target;

use foghorn_core::cursor::Cursor;
use foghorn_core::pattern::Pattern;
use foghorn_core::shard::ShardCount;
use foghorn_core::time::Timestamp;
use foghorn_fuzz::first_line;
use foghorn_gateway::fuzzing::{Stream, history, stream};
use foghorn_http::path::segments;
use foghorn_http::problem::Problem;
use http::HeaderValue;

/// Few enough to be exceeded.
const TOPICS: usize = 8;

fuzz_target!(|input: &[u8]| {
    let (query, rest) = first_line(input);
    let Ok(query) = std::str::from_utf8(query) else { return };
    let (id, rest) = rest.map_or((None, None), |rest| {
        let (id, rest) = first_line(rest);
        (Some(id), rest)
    });
    // What no header may have doesn't come as far as here.
    let Ok(id) = id.map(HeaderValue::from_bytes).transpose() else { return };
    let segments = rest.and_then(|rest| std::str::from_utf8(rest).ok()).map(segments);
    let channel = match &segments {
        Some(Ok(segments)) => segments.last().map(String::as_str),
        Some(Err(problem)) => return check_problem(problem, input.len()),
        None => None,
    };
    let shards = ShardCount::new(4).expect("within its bounds");

    let now = Timestamp::from_micros(1_800_000_000_000_000);
    let open = || stream(query, channel, id.as_ref(), TOPICS, shards, now);
    match foghorn_fuzz::within_memory(input.len(), 200, open) {
        Ok(stream) => check_stream(&stream, query, channel, id.as_ref(), shards),
        Err(problem) => check_problem(&problem, input.len()),
    }
    match history(query, channel.unwrap_or("a"), shards) {
        Ok(limit) => assert!((1..=1000).contains(&limit)),
        Err(problem) => check_problem(&problem, input.len()),
    }
});

/// A refusal is the client's fault, and no larger than what it sent warrants.
fn check_problem(problem: &Problem, input: usize) {
    assert!(problem.status.is_client_error(), "{problem:?}");
    let json = problem.to_json().to_string();
    // Escaped twice, at worst `\u{10ffff}` for a byte, which is a percent-encoded one's third.
    assert!(json.len() <= 1000 + 12 * input, "{input} bytes answered with {}", json.len());
    problem.clone().into_response();
}

fn check_stream(
    stream: &Stream,
    query: &str,
    channel: Option<&str>,
    id: Option<&HeaderValue>,
    shards: ShardCount,
) {
    let value = |wanted: &str| {
        let mut pairs = form_urlencoded::parse(query.as_bytes());
        pairs.find(|(key, _)| key == wanted).map(|(_, value)| value.into_owned())
    };
    let listed = value("channels");
    let asked = || channel.into_iter().chain(listed.iter().flat_map(|list| list.split(',')));
    assert!(asked().count() <= TOPICS);

    // Every topic is where its events are, and nothing else is heard.
    for (shard, topics) in &stream.shards {
        for topic in topics.to_patterns().iter() {
            assert_eq!(Pattern::parse(topic.as_str()).as_ref(), Ok(topic));
            assert!(topic.as_str() == "broadcast" || asked().any(|text| text == topic.as_str()), "{topic}");
            assert!(topic.channel().is_none_or(|channel| shards.shard_of(&channel) == *shard));
        }
    }
    for text in asked().chain(["broadcast"]) {
        let topic = Pattern::parse(text).expect("what is malformed is refused");
        for shard in shards.shards() {
            let here = topic.channel().is_none_or(|channel| shards.shard_of(&channel) == shard);
            let mut topics = stream.shards.iter().filter(|(of, _)| *of == shard).map(|(_, topics)| topics);
            let heard = topics.any(|topics| topics.to_patterns().contains(&topic));
            assert_eq!(heard, here, "{text} in shard {shard}");
        }
    }

    assert_eq!(stream.types.is_empty(), value("events").is_none());
    assert!(stream.types.len() <= 100 && stream.types.iter().all(|name| !name.is_empty()));

    let begins = [stream.after.is_some(), stream.since.is_some(), stream.last.is_some()];
    assert!(begins.into_iter().filter(|given| *given).count() <= 1);
    assert!(stream.last.is_none_or(|each| (1..=10_000).contains(&each)));
    if let Some(Ok(cursor)) = &stream.after {
        assert_eq!(Cursor::parse(&cursor.to_string()).as_ref(), Ok(cursor));
        // The header wins.
        let text = cursor.to_string();
        match id.filter(|id| !id.is_empty()) {
            Some(id) => assert_eq!(text.as_bytes(), id.as_bytes()),
            None => assert!([value("lastEventId"), value("_lastEventId")].contains(&Some(text))),
        }
    }
}
