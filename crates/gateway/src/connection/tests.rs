use foghorn_bus::log::{Replay, ReplayQuery};
use foghorn_core::cursor::Cursor;
use foghorn_core::pattern::Pattern;
use foghorn_core::position::{Epoch, Position};
use foghorn_core::shard::{Shard, ShardCount};

use super::*;
use crate::testing::{TestLog, batch, hub};

struct Rig {
    hub: Arc<Hub>,
    log: Arc<TestLog>,
    shared: Arc<Shared>,
}

/// A ring that begins after seq 10 of epoch 1, and a log that answers so.
fn rig(
    ring_bytes: usize,
    answer: impl FnMut(&ReplayQuery) -> Result<Replay, LogError> + Send + 'static,
) -> Rig {
    rig_with(Config::default(), ring_bytes, answer)
}

fn rig_with(
    config: Config,
    ring_bytes: usize,
    answer: impl FnMut(&ReplayQuery) -> Result<Replay, LogError> + Send + 'static,
) -> Rig {
    let hub = hub(ring_bytes);
    hub.restart(Shard::ZERO, Epoch::new(1), 10);
    let log = TestLog::new(1, 10, 10, answer);
    let shared = Shared::new(hub.clone(), log.clone(), config);
    Rig { hub, log, shared: Arc::new(shared) }
}

fn nothing_in_the_log(_: &ReplayQuery) -> Result<Replay, LogError> {
    panic!("the log is not to be asked")
}

fn after(epoch: u64, seq: u64) -> Begin {
    let position = Position { shard: Shard::ZERO, epoch: Epoch::new(epoch), seq };
    Begin::After(Ok(Cursor::single(position)))
}

impl Rig {
    fn listen(&self, topic: &str, types: &[&str], begin: Begin) -> Connection {
        let mut subscription = Subscription::new(&[Pattern::parse(topic).unwrap()], ShardCount::ONE);
        subscription.types = types.iter().map(ToString::to_string).collect();
        Connection::new(self.shared.clone(), subscription, begin, ClientId::from(0))
    }
}

/// Reads until `text` comes; everything read and how long it took.
async fn until(connection: &mut Connection, text: &str) -> (String, Duration) {
    let (begun, mut read) = (Instant::now(), String::new());
    while !read.contains(text) {
        let left = Duration::from_secs(120).saturating_sub(begun.elapsed());
        let chunk = tokio::time::timeout(left, connection.next_chunk()).await;
        let chunk = chunk.unwrap_or_else(|_| panic!("{text:?} never comes after {read}"));
        read.push_str(std::str::from_utf8(&chunk.expect("the stream goes on")).unwrap());
    }
    (read, begun.elapsed())
}

#[tokio::test(start_paused = true)]
async fn much_that_is_not_wanted_does_not_hold_up_what_is() {
    let rig = rig(64 << 20, nothing_in_the_log);
    let unwanted = "x".repeat(1000);
    rig.hub.apply(&batch(1, 10, 1010, "a", Some("other"), &unwanted));
    rig.hub.apply(&batch(1, 1010, 1011, "a", Some("wanted"), "at last"));
    for topic in ["a", "*"] {
        let mut resumed = rig.listen(topic, &["wanted"], after(1, 10));
        let (read, took) = until(&mut resumed, "stream-live").await;
        assert!(read.contains("at last"), "{read}");
        assert!(took < Duration::from_secs(1), "{took:?}");
    }
    let mut live = rig.listen("a", &["wanted"], Begin::Now);
    until(&mut live, "stream-live").await;
    rig.hub.apply(&batch(1, 1011, 2011, "a", Some("other"), &unwanted));
    rig.hub.apply(&batch(1, 2011, 2012, "a", Some("wanted"), "live"));
    let (read, took) = until(&mut live, "data: live").await;
    assert!(took < Duration::from_secs(1), "{took:?}: {read}");
}

#[tokio::test(start_paused = true)]
async fn a_quiet_stream_needs_no_log_however_fast_the_ring_turns_over() {
    let rig = rig(20_000, nothing_in_the_log);
    let mut quiet = rig.listen("quiet", &[], Begin::Now);
    until(&mut quiet, "stream-live").await;
    // It looks once more and finds nothing.
    let idle = tokio::time::timeout(Duration::from_secs(1), quiet.next_chunk()).await;
    assert!(idle.is_err(), "{idle:?}");
    rig.hub.apply(&batch(1, 10, 1010, "busy", None, "x"));
    assert!(rig.hub.with_ring(Shard::ZERO, |ring| ring.unwrap().floor()) > 10, "the ring turned over");
    let (read, _) = until(&mut quiet, "\n\n").await;
    let position = Position { shard: Shard::ZERO, epoch: Epoch::new(1), seq: 1010 };
    assert_eq!(read, format!("id: {}\n\n", Cursor::single(position)), "a keep-alive at the head");
    rig.hub.apply(&batch(1, 1010, 1011, "quiet", None, "heard"));
    until(&mut quiet, "data: heard").await;
    assert_eq!(rig.log.asked(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_log_that_is_an_epoch_ahead_of_the_ring_is_not_asked_without_end() {
    let rig = rig(1 << 20, |query| {
        if query.epoch == Epoch::new(1) {
            return Ok(Replay::Reset { reason: ResetReason::Epoch, epoch: Epoch::new(2), after: 0 });
        }
        Ok(Replay::Page(batch(2, query.after, 5, "a", None, "new")))
    });
    // Older than the ring, so that the log is asked.
    let mut resumed = rig.listen("a", &[], after(1, 5));
    let (read, _) = until(&mut resumed, "data: new").await;
    assert!(read.contains("stream-reset") && read.matches("data: new").count() == 5, "{read}");
    let waited = tokio::time::timeout(Duration::from_secs(10), resumed.next_chunk()).await;
    drop(waited);
    assert!(rig.log.asked() < 150, "{} questions in 10 s", rig.log.asked());
    // The ring comes after.
    rig.hub.restart(Shard::ZERO, Epoch::new(2), 5);
    rig.hub.apply(&batch(2, 5, 6, "a", None, "newer"));
    let (read, _) = until(&mut resumed, "stream-live").await;
    assert!(read.contains("data: newer"), "{read}");
}

#[tokio::test(start_paused = true)]
async fn a_crowd_that_lacks_the_same_asks_the_log_once_for_all_and_a_failure_is_soon_over() {
    let mut failures = 1;
    let rig = rig(1 << 20, move |query| {
        if std::mem::take(&mut failures) > 0 {
            return Err(LogError("away".to_owned()));
        }
        Ok(Replay::Page(batch(1, query.after, 10, "a", None, "old")))
    });
    let mut crowd: Vec<_> = (0..500).map(|_| rig.listen("a", &[], after(1, 5))).collect();
    for (read, took) in futures::future::join_all(crowd.iter_mut().map(|one| until(one, "stream-live"))).await
    {
        assert_eq!(read.matches("data: old").count(), 5, "{read}");
        assert!(read.contains(r#""recovered":true"#) && took < Duration::from_secs(1), "{took:?}: {read}");
    }
    assert_eq!(rig.log.asked(), 2, "one question, which failed, and another");
}

#[tokio::test(start_paused = true)]
async fn who_has_caught_up_is_told_again_that_the_feed_is_silent() {
    let rig =
        rig(1 << 20, |_| Ok(Replay::Reset { reason: ResetReason::Epoch, epoch: Epoch::new(2), after: 0 }));
    let mut stream = rig.listen("a", &[], Begin::Now);
    until(&mut stream, "stream-live").await;
    rig.hub.set_stale(Shard::ZERO, true);
    until(&mut stream, "stream-stale").await;
    rig.hub.restart(Shard::ZERO, Epoch::new(2), 0);
    let (read, _) = until(&mut stream, "stream-live").await;
    assert!(read.contains("stream-reset"), "{read}");
    until(&mut stream, "stream-stale").await;
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_the_log_is_told_that_the_feed_is_silent() {
    let rig = rig(8 << 10, |_| Err(LogError("away".to_owned())));
    let mut stream = rig.listen("a", &[], Begin::Now);
    until(&mut stream, "stream-live").await;
    // More than the ring holds.
    rig.hub.apply(&batch(1, 10, 60, "a", None, &"x".repeat(500)));
    let silent = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        rig.hub.set_stale(Shard::ZERO, true);
    };
    let ((read, took), ()) = tokio::join!(until(&mut stream, "stream-stale"), silent);
    assert!(rig.log.asked() > 0 && !read.contains("data: x"), "it waited for the log: {read}");
    assert!(took < Duration::from_secs(2), "and not until its patience is over: {took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_let_go_hears_of_it_at_once() {
    let rig = rig(1 << 20, nothing_in_the_log);
    let mut stream = rig.listen("a", &[], Begin::Now);
    until(&mut stream, "stream-live").await;
    rig.hub.let_go(1);
    let (_, took) = until(&mut stream, "stream-end").await;
    assert!(took < Duration::from_millis(10), "{took:?}");
    assert!(stream.next_chunk().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_stream_whose_socket_took_nothing_ends_as_slow() {
    let rig = rig(1 << 20, nothing_in_the_log);
    let mut stream = rig.listen("a", &[], Begin::Now);
    until(&mut stream, "stream-live").await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(stream.life.ending(), StreamEnd::Slow, "nobody asked for more");
    let waited = tokio::time::timeout(Duration::from_millis(1), stream.next_chunk()).await;
    drop(waited);
    until(&mut stream, "id: ").await;
    let waited = tokio::time::timeout(Duration::from_secs(10), stream.next_chunk()).await;
    assert!(waited.is_err());
    assert_eq!(stream.life.ending(), StreamEnd::ClientGone, "there was nothing to take");
}

#[tokio::test(start_paused = true)]
async fn who_is_behind_for_too_long_or_by_too_much_is_told_to_come_back_and_goes_on_by_the_cursor() {
    let by_time = Config { lag_time: Duration::from_secs(20), ..Config::default() };
    let by_bytes = Config { lag_bytes: 300_000, ..Config::default() };
    for (config, steps) in [(by_time, 20..=22), (by_bytes, 3..=19)] {
        let rig = rig_with(config, 64 << 20, nothing_in_the_log);
        let mut slow = rig.listen("a", &[], Begin::Now);
        let mut level = rig.listen("a", &[], Begin::Now);
        for stream in [&mut slow, &mut level] {
            until(stream, "stream-live").await;
        }
        let (mut head, mut read, mut step) = (10, String::new(), 0);
        // It takes a chunk a second, and more comes.
        while !read.contains("stream-end") {
            rig.hub.apply(&batch(1, head, head + 100, "a", None, &"x".repeat(1000)));
            head += 100;
            let chunk = slow.next_chunk().await.unwrap();
            read.push_str(std::str::from_utf8(&chunk).unwrap());
            // Who takes all there is may take as long over it.
            let (all, _) = until(&mut level, &format!("id: {}\n", at(head))).await;
            assert!(!all.contains("stream-end"), "{all}");
            tokio::time::sleep(Duration::from_secs(1)).await;
            step += 1;
        }
        assert!(steps.contains(&step), "after {step} s");
        let end = &read[read.rfind("event: stream-end").unwrap()..];
        assert!(end.contains(r#"{"reason":"slow"}"#) && end.contains("retry: "), "{end}");
        assert!(slow.next_chunk().await.is_none());
        drop(slow);
        assert_eq!(rig.hub.metrics.ended_so_far(StreamEnd::Slow), 1);
        let cursor = read.lines().rev().find_map(|line| line.strip_prefix("id: ")).unwrap();
        let mut again = rig.listen("a", &[], Begin::After(Cursor::parse(cursor)));
        let (rest, _) = until(&mut again, "stream-live").await;
        let heard = read.matches("data: x").count() + rest.matches("data: x").count();
        assert_eq!(heard as u64, head - 10, "everything once");
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_behind_is_owed_only_the_newest_event_of_a_channel_whose_policy_says_so() {
    // From the log, and on from the ring.
    let rig = rig(4 << 20, |query| {
        let mut page = batch(1, query.after, 10, "latest.a", None, "old");
        page.events.truncate(4);
        page.events.extend(batch(1, 9, 10, "other", None, "other").events);
        Ok(Replay::Page(page))
    });
    for (number, channel) in (11..1011).zip(["latest.a", "latest.b", "other", "latest.a"].into_iter().cycle())
    {
        rig.hub.apply(&batch(1, number - 1, number, channel, None, &number.to_string()));
    }
    let mut behind = rig.listen(">", &[], after(1, 5));
    let (read, _) = until(&mut behind, "stream-live").await;
    let data: Vec<_> = read.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    let of = |text: &str| data.iter().filter(|data| **data == text).count();
    assert_eq!((of("old"), of("other")), (1, 1), "of a page");
    let numbers: Vec<u64> = data.iter().filter_map(|data| data.parse().ok()).collect();
    let others: Vec<u64> = (13..1011).step_by(4).collect();
    let expected: Vec<u64> = others.into_iter().filter(|n| *n < 1008).chain([1008, 1009, 1010]).collect();
    assert_eq!(numbers, expected, "250 of the others, and the last of each");
    let sent = data.len() - 2;
    assert!(read.contains(&format!("data: {{\"replayed\":{sent}}}")), "{sent}");
    assert_eq!(rig.hub.metrics.superseded.get(), 3 + 1000 - 252);
    // Who keeps up hears each.
    for number in 1011..1031 {
        rig.hub.apply(&batch(1, number - 1, number, "latest.a", None, &number.to_string()));
        let (read, _) = until(&mut behind, "\n\n").await;
        assert!(read.contains(&format!("data: {number}\n")), "{read}");
    }
    // And who comes back with the last cursor lacks nothing.
    let mut again = rig.listen(">", &[], after(1, 1030));
    let (read, _) = until(&mut again, "stream-live").await;
    assert!(read.contains(r#""replayed":0"#), "{read}");
}

fn at(seq: u64) -> Cursor {
    Cursor::single(Position { shard: Shard::ZERO, epoch: Epoch::new(1), seq })
}

/// Of a token that ends then.
fn term(ends: Timestamp, notice: Duration) -> Term {
    let mut identity = foghorn_auth::token::Identity::default();
    identity.expires = ends;
    Term::new(Arc::new(identity), notice)
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_revoked_ends_wherever_it_is_and_sends_nothing_more() {
    use foghorn_auth::revocation::{Key, Revocation};

    // The rig's streams all have the id 0.
    let now = rig(1 << 20, nothing_in_the_log).hub.clock.now();
    let revoked = Revocation { key: Key::stream(0), said: now, until: now.plus(Duration::from_secs(60)) };
    let ending = r#"{"reason":"revoked"}"#;
    // Before it has begun: no event of its replay is sent.
    let rig_of_now = rig(1 << 20, nothing_in_the_log);
    let mut connection = rig_of_now.listen("a", &[], Begin::Now);
    rig_of_now.hub.revocations.apply([revoked]);
    let (read, _) = until(&mut connection, "stream-end").await;
    assert!(read.contains(ending) && !read.contains("connected"), "{read}");
    assert_eq!(connection.next_chunk().await, None);
    // While it waits for something to send.
    let quiet = rig(1 << 20, nothing_in_the_log);
    let mut connection = quiet.listen("a", &[], Begin::Now);
    until(&mut connection, "stream-live").await;
    quiet.hub.revocations.apply([revoked]);
    quiet.hub.look_for_endings();
    quiet.hub.apply(&batch(1, 10, 11, "a", None, "too late"));
    let (read, _) = until(&mut connection, "stream-end").await;
    assert!(read.contains(ending) && !read.contains("too late"), "{read}");
    drop(connection);
    assert_eq!(quiet.hub.metrics.ended_so_far(StreamEnd::Revoked), 1);
}

#[tokio::test(start_paused = true)]
async fn a_stream_lasts_no_longer_than_its_term_and_is_told_once_before() {
    let rig = rig(1 << 20, nothing_in_the_log);
    let over = term(Timestamp::default(), Duration::ZERO);
    let mut connection = rig.listen("a", &[], Begin::Now).until(Some(over));
    let (read, _) = until(&mut connection, "stream-end").await;
    assert!(read.contains("event: connected") && read.contains(r#"{"reason":"token-expired"}"#), "{read}");
    assert_eq!(connection.next_chunk().await, None);
    assert_eq!(rig.hub.metrics.ended_so_far(StreamEnd::TokenExpired), 0, "it is still there");
    drop(connection);
    assert_eq!(rig.hub.metrics.ended_so_far(StreamEnd::TokenExpired), 1);

    let hour = Duration::from_secs(3600);
    let soon = term(rig.hub.clock.now().plus(hour), 2 * hour);
    let mut connection = rig.listen("a", &[], Begin::Now).until(Some(soon));
    let (read, _) = until(&mut connection, "stream-expiring").await;
    assert!(!read.contains("stream-end"), "{read}");
    rig.hub.apply(&batch(1, 10, 11, "a", None, "then"));
    let (read, _) = until(&mut connection, "then").await;
    assert!(!read.contains("stream-expiring"), "told once: {read}");
}
