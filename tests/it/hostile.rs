//! What comes from outside and means no good.
//!
//! A cursor that nobody was given is answered with `200`; whoever has one hears that nothing is recovered, and why, or
//! was lucky and goes on where it says; and nobody hears another channel's events.

use foghorn_core::cursor::Cursor;
use foghorn_core::position::{Epoch, Position};
use foghorn_core::shard::ShardCount;
use foghorn_tests::foghorn::Foghorn;
use foghorn_tests::http::post;
use foghorn_tests::sse::SseClient;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::json;

use crate::deployment::{Listener, standalone};

mod requests;

/// How many cursors are tried.
const CASES: u32 = 400;
const EVENTS: u64 = 20;

/// A real cursor, and what may be done to one.
fn hostile(real: &str, epoch: Epoch) -> impl Strategy<Value = String> + use<> {
    let shards = ShardCount::new(8).unwrap();
    let position = (0_u64..8, 0_u64..4, any::<u64>(), prop_oneof![0..2 * EVENTS, any::<u64>()]).prop_map(
        move |(shard, near, far, seq)| {
            let epochs = [epoch.get(), epoch.get() - 1, epoch.get() + 1, far >> 16];
            let shard = shards.shard(shard).unwrap();
            Position { shard, epoch: Epoch::new(epochs[usize::try_from(near).unwrap()]), seq: seq >> 16 }
        },
    );
    let forged = vec(position, 0..8).prop_map(|positions| {
        let mut cursor = Cursor::default();
        positions.into_iter().for_each(|position| cursor.set(position));
        cursor.to_string()
    });
    let (cut, changed, longer) = (real.to_owned(), real.to_owned(), real.to_owned());
    prop_oneof![
        forged,
        (0..real.len()).prop_map(move |length| cut[..length].to_owned()),
        (0..real.len(), "[A-Za-z0-9._~-]").prop_map(move |(at, with)| {
            let mut text = changed.clone();
            text.replace_range(at..=at, &with);
            text
        }),
        "[A-Za-z0-9._~-]{1,40}".prop_map(move |more| format!("{longer}{more}")),
        "[A-Za-z0-9._~-]{0,140}",
        "\\PC{0,60}",
        any::<Vec<u8>>().prop_map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
    ]
    // What an ousted stream was given, whose reconnect is answered 204. A header loses the space around it.
    .prop_filter("a mark that was given", |cursor| cursor.trim() != "~")
}

/// As it stands in a query.
fn escaped(cursor: &str) -> String {
    cursor.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// Listens with a cursor; what is wrong with what is heard.
async fn listen(server: &Foghorn, cursor: &str, real: Cursor) -> Result<(), String> {
    let url = server.url(&format!("/api/events/tenant.a?lastEventId={}", escaped(cursor)));
    let mut stream = SseClient::connect(&url, &[]).await.map_err(|error| error.to_string())?;
    if stream.status() != 200 {
        return Err(format!("status {}", stream.status()));
    }
    let (mut recovered, mut reasons, mut heard) = (None, Vec::new(), Vec::new());
    loop {
        let block = stream.next().await;
        match block.event_type() {
            "connected" => recovered = block.json()["recovered"].as_bool(),
            "stream-reset" => reasons.push(block.json()["reason"].as_str().unwrap().to_owned()),
            "stream-live" => break,
            _ if block.is_event() => heard.push(block.data.unwrap()),
            _ => {}
        }
    }
    let all: Vec<String> = (0..EVENTS).map(|n| format!("a{n}")).collect();
    if heard.iter().any(|data| !data.starts_with('a')) || !all.ends_with(&heard) {
        return Err(format!("{heard:?} is heard"));
    }
    // Two channels, by turns: seq 2n+1 is a's.
    let (shard, epoch, tip) = {
        let (shard, (epoch, tip)) =
            ShardCount::ONE.shards().find_map(|shard| Some((shard, real.get(shard)?))).unwrap();
        (shard, epoch, tip)
    };
    let parsed = Cursor::parse(cursor).ok().filter(|cursor| !cursor.beyond(ShardCount::ONE));
    let fits = match parsed.and_then(|cursor| cursor.get(shard)) {
        _ if cursor.is_empty() => return Ok(()),
        Some((of, seq)) => (of == epoch && seq <= tip).then_some(seq),
        // It says nothing of the shard: from now on.
        None if parsed.is_some() => Some(tip),
        None => None,
    };
    match (fits, recovered) {
        (Some(seq), Some(true)) => {
            let missed = usize::try_from(EVENTS - seq.div_ceil(2)).unwrap();
            let right = reasons.is_empty() && heard.len() == missed;
            right.then_some(()).ok_or(format!("{} of {missed} after {seq}, {reasons:?}", heard.len()))
        }
        (None, Some(false)) => {
            let told = reasons.len() == 1 && ["cursor", "epoch"].contains(&reasons[0].as_str());
            (told && heard == all).then_some(()).ok_or(format!("{reasons:?}, {} heard", heard.len()))
        }
        _ => Err(format!("recovered {recovered:?}, though it fits: {fits:?}")),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_that_nobody_was_given_is_a_reset_and_shows_nothing_of_others() {
    let server = standalone(&["--ephemeral"], &[]).await;
    for number in 0..EVENTS {
        for tenant in ["a", "b"] {
            let event = json!({ "channel": format!("tenant.{tenant}"), "data": format!("{tenant}{number}") });
            assert_eq!(post(&server.url("/api/publish"), &event).await.unwrap().status, 200);
        }
    }
    let listener = Listener::open(&server.url("/api/events/tenant.b?last=100"), None).await;
    let text = listener.cursor();
    let real = Cursor::parse(&text).unwrap();
    let epoch = real.get(ShardCount::ONE.shards().next().unwrap()).unwrap().0;
    let mut runner = TestRunner::new(Config { cases: CASES, failure_persistence: None, ..Config::default() });
    let runtime = tokio::runtime::Handle::current();
    let ran = tokio::task::block_in_place(|| {
        runner.run(&hostile(&text, epoch), |cursor| {
            runtime.block_on(listen(&server, &cursor, real)).map_err(TestCaseError::fail)
        })
    });
    ran.unwrap_or_else(|error| panic!("{error}"));
    let health = foghorn_tests::http::get(&server.url("/")).await.unwrap();
    assert_eq!(health.status, 200);
}
