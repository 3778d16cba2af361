use std::pin::pin;

use foghorn_bus::log::LogError;
use foghorn_core::reason::ResetReason;
use foghorn_telemetry::health::Health;
use tokio::sync::mpsc;

use super::*;
use crate::testing::{TestFeed, TestLog, batch, hub};

fn ingest(hub: &Arc<Hub>, feed: &Arc<TestFeed>, log: &Arc<TestLog>) -> Ingest {
    Ingest {
        shard: Shard::ZERO,
        hub: hub.clone(),
        feed: feed.clone(),
        log: log.clone(),
        warm: Duration::from_secs(60),
        stale_after: Duration::from_secs(5),
        pending_bytes: 1 << 20,
        health: Health::default().part("ring.0", "the test"),
    }
}

fn live(epoch: u64, from: u64, to: u64) -> Arc<Batch> {
    Arc::new(batch(epoch, from, to, "a", None, "x"))
}

fn page(epoch: u64, after: u64, to: u64) -> Result<Replay, LogError> {
    Ok(Replay::Page(batch(epoch, after, to, "a", None, "x")))
}

/// Runs it until the ring is where it should be; the time that took.
async fn until(
    running: &mut (impl std::future::Future<Output = ()> + Unpin),
    hub: &Hub,
    epoch: u64,
    head: u64,
) -> Duration {
    let begun = Instant::now();
    let there = async {
        while hub.with_ring(Shard::ZERO, |ring| {
            ring.is_none_or(|ring| (ring.epoch(), ring.head()) != (Epoch::new(epoch), head))
        }) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        () = running => unreachable!("it runs for ever"),
        reached = tokio::time::timeout(Duration::from_secs(60), there) => reached.expect("the ring gets there"),
    }
    begun.elapsed()
}

#[tokio::test(start_paused = true)]
async fn a_gap_is_filled_from_the_log_before_what_comes_after_it() {
    let (hub, feed) = (hub(1 << 20), Arc::new(TestFeed::default()));
    let log = TestLog::new(1, 10, 10, |query| page(1, query.after, query.after.max(20)));
    let sender = feed.opens();
    sender.send(live(1, 20, 25)).unwrap();
    // A beacon that begins like it must not take its place.
    sender.send(live(1, 20, 20)).unwrap();
    let mut running = pin!(ingest(&hub, &feed, &log).run());
    until(&mut running, &hub, 1, 25).await;
    let events = hub.with_ring(Shard::ZERO, |ring| ring.unwrap().len());
    assert_eq!(events, 15, "each once");
}

#[tokio::test(start_paused = true)]
async fn what_finds_no_room_behind_a_gap_is_counted_and_had_from_the_log() {
    let (hub, feed) = (hub(1 << 20), Arc::new(TestFeed::default()));
    // The log needs a while for what comes before.
    let asked = std::sync::atomic::AtomicU64::new(0);
    let log = TestLog::new(1, 10, 10, move |query| {
        match asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
            0..=3 => Err(LogError("not now".to_owned())),
            _ => page(1, query.after, query.after.max(30)),
        }
    });
    let sender = feed.opens();
    sender.send(live(1, 20, 25)).unwrap();
    sender.send(live(1, 25, 30)).unwrap();
    let mut ingest = ingest(&hub, &feed, &log);
    // For one of the two.
    ingest.pending_bytes = live(1, 20, 25).wire_len();
    let mut running = pin!(ingest.run());
    until(&mut running, &hub, 1, 30).await;
    assert_eq!(hub.with_ring(Shard::ZERO, |ring| ring.unwrap().len()), 20, "each once");
    let metrics = &hub.metrics;
    assert_eq!([metrics.pending_dropped.get(), metrics.gaps.get(), metrics.gaps_filled.get()], [1, 1, 1]);
}

#[tokio::test(start_paused = true)]
async fn without_a_live_feed_listeners_hear_that_it_is_silent_and_the_log_is_polled() {
    let (hub, feed) = (hub(1 << 20), Arc::new(TestFeed::default()));
    let mut tip = 10;
    let log = TestLog::new(1, 10, 10, move |query| {
        tip += 1;
        page(1, query.after, tip)
    });
    let mut running = pin!(ingest(&hub, &feed, &log).run());
    until(&mut running, &hub, 1, 14).await;
    let stale = async {
        while !hub.is_stale([Shard::ZERO]) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        () = &mut running => unreachable!(),
        told = tokio::time::timeout(Duration::from_secs(6), stale) => told.expect("told within the time set"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_replica_of_the_log_that_is_an_epoch_behind_does_not_take_the_ring_back() {
    let (hub, feed) = (hub(1 << 20), Arc::new(TestFeed::default()));
    let mut behind = 3;
    let log = TestLog::new(2, 100, 100, move |query| {
        if behind > 0 {
            behind -= 1;
            return Ok(Replay::Reset { reason: ResetReason::Epoch, epoch: Epoch::new(1), after: 0 });
        }
        page(2, query.after, query.after.max(110))
    });
    let sender = feed.opens();
    sender.send(live(2, 110, 111)).unwrap();
    let mut running = pin!(ingest(&hub, &feed, &log).run());
    until(&mut running, &hub, 2, 111).await;
    assert_eq!(hub.with_ring(Shard::ZERO, |ring| ring.unwrap().floor()), 100, "it was never begun anew");
}

/// Every question is answered with nothing new, until one carries this digest: that is of another journal.
fn regressed_at(seq: u64, digest: Digest) -> Arc<TestLog> {
    TestLog::new(1, 10, 10, move |query| {
        if query.digest != digest {
            return page(1, query.after, query.after);
        }
        assert_eq!((query.epoch, query.after), (Epoch::new(1), seq), "what the digest is of");
        Ok(Replay::Reset { reason: ResetReason::Epoch, epoch: Epoch::new(2), after: 11 })
    })
}

fn with_digests(batch: &Batch, from: Digest, to: Digest) -> Arc<Batch> {
    Arc::new(Batch { from_digest: from, to_digest: to, ..batch.clone() })
}

/// Opens a feed that leads a ring to 13, where nothing is known of the entry; of that at 12 the digest is.
fn ends_unknown(feed: &TestFeed) -> mpsc::UnboundedSender<Arc<Batch>> {
    let sender = feed.opens();
    sender.send(with_digests(&live(1, 10, 12), Digest::NONE, Digest(12))).unwrap();
    sender.send(with_digests(&live(1, 12, 13), Digest(12), Digest::NONE)).unwrap();
    sender
}

/// What follows the same entry with other events.
fn other_frames() -> Arc<Batch> {
    with_digests(&batch(1, 12, 14, "a", None, "y"), Digest(12), Digest(14))
}

#[tokio::test(start_paused = true)]
async fn a_batch_of_another_history_is_not_taken_and_the_log_is_told_at_once() {
    let (hub, feed) = (hub(1 << 20), Arc::new(TestFeed::default()));
    let log = regressed_at(12, Digest::OTHER);
    let sender = ends_unknown(&feed);
    let mut running = pin!(ingest(&hub, &feed, &log).run());
    until(&mut running, &hub, 1, 13).await;
    sender.send(with_digests(&live(1, 12, 14), Digest(7), Digest(14))).unwrap();
    let took = until(&mut running, &hub, 2, 11).await;
    assert!(took < POLL_AFTER, "{took:?}");
    assert_eq!(hub.metrics.regresses.get(), 1);
    // What the relay of the old epoch still says is of no interest.
    sender.send(with_digests(&live(1, 12, 14), Digest(7), Digest(14))).unwrap();
    sender.send(live(2, 11, 12)).unwrap();
    until(&mut running, &hub, 2, 12).await;
    assert_eq!(hub.metrics.regresses.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_does_not_say_what_it_follows_is_checked_with_the_log() {
    let (hub, feed) = (hub(1 << 20), Arc::new(TestFeed::default()));
    let log = regressed_at(12, Digest(12));
    let sender = feed.opens();
    sender.send(with_digests(&live(1, 10, 12), Digest::NONE, Digest(12))).unwrap();
    let mut running = pin!(ingest(&hub, &feed, &log).run());
    until(&mut running, &hub, 1, 12).await;
    sender.send(live(1, 12, 13)).unwrap();
    let took = until(&mut running, &hub, 2, 11).await;
    assert!(took < POLL_AFTER, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn what_follows_an_entry_that_the_ring_does_not_know_is_checked_with_the_log() {
    let (hub, feed) = (hub(1 << 20), Arc::new(TestFeed::default()));
    let log = regressed_at(12, Digest(12));
    let sender = ends_unknown(&feed);
    let mut running = pin!(ingest(&hub, &feed, &log).run());
    until(&mut running, &hub, 1, 13).await;
    sender.send(with_digests(&live(1, 13, 15), Digest(13), Digest(15))).unwrap();
    let took = until(&mut running, &hub, 2, 11).await;
    assert!(took < POLL_AFTER, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn without_a_live_feed_the_log_compares_the_head() {
    let (hub, feed) = (hub(1 << 20), Arc::new(TestFeed::default()));
    let log = regressed_at(12, Digest(12));
    feed.opens().send(with_digests(&live(1, 10, 12), Digest::NONE, Digest(12))).unwrap();
    let mut running = pin!(ingest(&hub, &feed, &log).run());
    until(&mut running, &hub, 2, 11).await;
    assert_eq!(hub.metrics.regresses.get(), 0, "nothing came that was wrong");
}

#[tokio::test(start_paused = true)]
async fn a_newer_epoch_begins_the_ring_anew() {
    let (hub, feed) = (hub(1 << 20), Arc::new(TestFeed::default()));
    let log = TestLog::new(1, 10, 10, |query| page(query.epoch.get(), query.after, query.after));
    let sender = feed.opens();
    sender.send(live(1, 10, 12)).unwrap();
    let mut running = pin!(ingest(&hub, &feed, &log).run());
    until(&mut running, &hub, 1, 12).await;
    sender.send(live(2, 0, 3)).unwrap();
    sender.send(live(1, 12, 13)).unwrap();
    until(&mut running, &hub, 2, 3).await;
}

#[tokio::test(start_paused = true)]
async fn other_events_after_the_last_digest_that_is_known_are_told_to_the_log() {
    let (hub, feed) = (hub(1 << 20), Arc::new(TestFeed::default()));
    let log = TestLog::new(1, 10, 10, |query| match query.digest {
        Digest::OTHER => {
            assert_eq!((query.epoch, query.after), (Epoch::new(1), 13), "the first that is another");
            Ok(Replay::Reset { reason: ResetReason::Epoch, epoch: Epoch::new(2), after: 12 })
        }
        Digest(12) => Ok(Replay::Page(batch(1, 12, 14, "a", None, "y"))),
        _ => page(1, query.after, query.after),
    });
    let sender = ends_unknown(&feed);
    let mut running = pin!(ingest(&hub, &feed, &log).run());
    until(&mut running, &hub, 1, 13).await;
    sender.send(other_frames()).unwrap();
    let took = until(&mut running, &hub, 2, 12).await;
    assert!(took < POLL_AFTER, "nothing is begun anew in the same epoch: listeners would not be told");
}

#[tokio::test(start_paused = true)]
async fn what_is_taken_in_while_the_ring_is_in_doubt_does_not_vouch_for_what_was_there() {
    let (hub, feed) = (hub(1 << 20), Arc::new(TestFeed::default()));
    let log = TestLog::new(1, 10, 10, |query| match query.digest {
        Digest::OTHER => Ok(Replay::Reset { reason: ResetReason::Epoch, epoch: Epoch::new(2), after: 12 }),
        Digest(12) => Ok(Replay::Page(batch(1, 12, 15, "a", None, "y"))),
        _ => page(1, query.after, query.after),
    });
    let sender = ends_unknown(&feed);
    let mut running = pin!(ingest(&hub, &feed, &log).run());
    until(&mut running, &hub, 1, 13).await;
    let other = |from, to| batch(1, from, to, "a", None, "y");
    sender.send(Arc::new(other(12, 13))).unwrap();
    sender.send(with_digests(&other(13, 15), Digest::NONE, Digest(15))).unwrap();
    let took = until(&mut running, &hub, 2, 12).await;
    assert!(took < POLL_AFTER, "the log is asked about what the ring had before: {took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_difference_that_nobody_can_compare_any_more_is_told_to_the_log() {
    let (hub, feed) = (hub(1 << 20), Arc::new(TestFeed::default()));
    let log = TestLog::new(1, 10, 10, |query| match query.digest {
        Digest::OTHER => Ok(Replay::Reset { reason: ResetReason::Epoch, epoch: Epoch::new(2), after: 0 }),
        Digest(12) => Ok(Replay::Reset { reason: ResetReason::Expired, epoch: Epoch::new(1), after: 20 }),
        _ => page(1, query.after, query.after),
    });
    let sender = ends_unknown(&feed);
    let mut running = pin!(ingest(&hub, &feed, &log).run());
    until(&mut running, &hub, 1, 13).await;
    sender.send(other_frames()).unwrap();
    until(&mut running, &hub, 2, 0).await;
}

#[tokio::test(start_paused = true)]
async fn what_the_journal_does_not_have_is_asked_for_less_and_less_often() {
    let (hub, feed) = (hub(1 << 20), Arc::new(TestFeed::default()));
    let asked = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let log = {
        let asked = asked.clone();
        TestLog::new(1, 10, 10, move |query| {
            asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            page(1, query.after, query.after)
        })
    };
    let sender = feed.opens();
    // The feed goes on; what is between was lost.
    sender.send(live(1, 20, 25)).unwrap();
    let begun = Instant::now();
    let beacons = async {
        while begun.elapsed() < Duration::from_secs(20) {
            tokio::time::sleep(Duration::from_millis(250)).await;
            sender.send(live(1, 25, 25)).unwrap();
        }
    };
    tokio::select! {
        () = pin!(ingest(&hub, &feed, &log).run()) => unreachable!("it runs for ever"),
        () = beacons => {}
    }
    let asked = asked.load(std::sync::atomic::Ordering::Relaxed);
    assert!((5..40).contains(&asked), "{asked} questions in 20 s");
}
