use foghorn_bus::memory::MemoryLeases;
use foghorn_core::batch::Batch;
use foghorn_core::channel::Channel;
use foghorn_core::entry::InvalidEntry;
use foghorn_core::event::{Event, EventError};
use foghorn_core::position::{Epoch, Position};
use foghorn_telemetry::shutdown::{self, Trigger};
use prometheus_client::registry::Registry;
use tokio::task::JoinHandle;

use super::*;
use crate::testing::{STEP_MS, TestFeed, TestJournal};

/// A relay that runs, and all it stands on.
struct Stage {
    journal: TestJournal,
    feed: Arc<TestFeed>,
    leases: MemoryLeases,
    metrics: Metrics,
    registry: Registry,
}

struct Running {
    trigger: Trigger,
    task: JoinHandle<()>,
}

impl Stage {
    fn new(feed: TestFeed) -> Self {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        Stage {
            journal: TestJournal::new(),
            feed: Arc::new(feed),
            leases: MemoryLeases::new(),
            metrics,
            registry,
        }
    }

    fn start(&self) -> Running {
        let (trigger, shutdown) = shutdown::channel();
        let relay = Relay::new(
            Shard::ZERO,
            Arc::new(self.journal.clone()),
            self.feed.clone(),
            Arc::new(self.leases.clone()),
            Duration::from_millis(250),
            self.metrics.clone(),
            shutdown,
        );
        Running { trigger, task: tokio::spawn(relay.run()) }
    }

    /// Waits until seq `to` was sent, and gives what was sent until then, beacons left out.
    async fn relayed(&self, to: u64) -> Vec<Arc<Batch>> {
        self.feed.until(|sent| sent.last().is_some_and(|batch| batch.to >= to)).await;
        self.feed.take().into_iter().filter(|batch| batch.from < batch.to).collect()
    }

    fn metrics(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        text
    }
}

impl Running {
    async fn stop(self) {
        self.trigger.fire();
        self.task.await.unwrap();
    }
}

fn event(bytes: usize) -> Result<Event, InvalidEntry> {
    Ok(Event::new(Channel::parse("a").unwrap(), "x".repeat(bytes)))
}

fn at(epoch: u64, seq: u64) -> Position {
    Position { shard: Shard::ZERO, epoch: Epoch::new(epoch), seq }
}

fn ranges(batches: &[Arc<Batch>]) -> Vec<(u64, u64, usize)> {
    batches.iter().map(|batch| (batch.from, batch.to, batch.events.len())).collect()
}

#[tokio::test(start_paused = true)]
async fn events_go_at_once_and_beacons_when_there_are_none() {
    let stage = Stage::new(TestFeed::default());
    let running = stage.start();
    stage.feed.until(|sent| !sent.is_empty()).await;
    let begin = tokio::time::Instant::now();
    stage.feed.until(|sent| sent.len() == 5).await;
    assert_eq!(begin.elapsed(), Duration::from_secs(1), "four beacons");
    assert!(stage.feed.take().iter().all(|batch| (batch.from, batch.to, batch.tip) == (0, 0, 0)));

    let begin = tokio::time::Instant::now();
    stage.journal.put(event(3));
    let batches = stage.relayed(1).await;
    assert_eq!(begin.elapsed(), Duration::ZERO);
    assert_eq!(ranges(&batches), [(0, 1, 1)]);
    assert!(batches[0].sent_at.as_micros() > 0);
    assert_eq!(batches[0].events[0].frame.without_id(), b"data: xxx\n\n");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_there_goes_together_within_the_bound() {
    let stage = Stage::new(TestFeed::of(10_000));
    let running = stage.start();
    stage.feed.until(|sent| !sent.is_empty()).await;
    for n in 0..100 {
        let why = InvalidEntry::Event(EventError::Ttl);
        stage.journal.put(if n % 10 == 9 { Err(why) } else { event(900) });
    }
    let batches = stage.relayed(100).await;
    assert!(batches.iter().all(|batch| batch.wire_len() <= 10_000));
    assert!((9..=12).contains(&batches.len()), "{:?}", ranges(&batches));
    assert!(batches.windows(2).all(|pair| pair[0].to == pair[1].from));
    assert_eq!(batches.iter().map(|batch| batch.events.len()).sum::<usize>(), 90);
    running.stop().await;
    let metrics = stage.metrics();
    assert!(metrics.contains(r#"foghorn_fanout_relay_invalid_total{reason="bad-ttl"} 10"#), "{metrics}");
    assert!(metrics.contains("foghorn_fanout_relay_events_total 90"), "{metrics}");
}

#[tokio::test(start_paused = true)]
async fn a_tail_that_lies_still_is_overtaken() {
    let stage = Stage::new(TestFeed::default());
    let running = stage.start();
    stage.journal.put(event(1));
    stage.relayed(1).await;
    stage.journal.set_still(true);
    let begin = tokio::time::Instant::now();
    stage.journal.put(event(1));
    stage.journal.put(event(1));
    let batches = stage.relayed(3).await;
    assert!(begin.elapsed() <= Duration::from_secs(2), "{:?}", begin.elapsed());
    assert_eq!(ranges(&batches), [(1, 3, 2)]);
    // Entries that are gone for good are covered, and don't look like a tail that lies still for ever.
    stage.journal.put(event(1));
    stage.journal.delete(4);
    stage.journal.set_still(false);
    assert_eq!(ranges(&stage.relayed(4).await), [(3, 4, 0)]);
    running.stop().await;
    assert!(stage.metrics().contains(r#"foghorn_fanout_relay_rebuilds_total{reason="stalled"} 2"#));
}

#[tokio::test(start_paused = true)]
async fn a_new_epoch_is_relayed_from_its_first_entry() {
    let stage = Stage::new(TestFeed::default());
    let running = stage.start();
    stage.journal.put(event(1));
    stage.journal.put(event(1));
    stage.relayed(2).await;
    stage.journal.restart(7);
    stage.journal.put(event(1));
    stage.feed.until(|sent| sent.iter().any(|batch| batch.epoch.get() == 7 && batch.to == 1)).await;
    let batches: Vec<_> = stage.feed.take().into_iter().filter(|batch| batch.from < batch.to).collect();
    assert_eq!(ranges(&batches), [(0, 1, 1)]);
    running.stop().await;
    // What the next relay inherits is of the new epoch: it begins no further.
    let running = stage.start();
    stage.journal.put(event(1));
    assert_eq!(stage.relayed(2).await.last().unwrap().to, 2);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_seq_given_out_twice_begins_a_new_epoch() {
    let stage = Stage::new(TestFeed::default());
    let running = stage.start();
    stage.journal.put(event(1));
    stage.journal.put(event(1));
    stage.relayed(2).await;
    stage.journal.cut_tails();
    stage.journal.put(event(1));
    assert_eq!(ranges(&stage.relayed(3).await), [(2, 3, 1)], "nothing is wrong yet");
    stage.journal.replace(3);
    stage.journal.cut_tails();
    stage.feed.until(|sent| sent.iter().any(|batch| batch.epoch.get() == 2 && batch.to == 3)).await;
    let batches: Vec<_> = stage.feed.take().into_iter().filter(|batch| batch.from < batch.to).collect();
    assert_eq!(ranges(&batches), [(2, 3, 1)], "what is before it is the same, and not sent again");
    running.stop().await;
    let metrics = stage.metrics();
    assert!(metrics.contains(r#"relay_rebuilds_total{reason="ended"} 2"#), "{metrics}");
    assert!(metrics.contains(r#"relay_rebuilds_total{reason="epoch"} 1"#), "{metrics}");
}

#[tokio::test(start_paused = true)]
async fn the_next_relay_begins_a_little_before_the_last_one_ended() {
    let stage = Stage::new(TestFeed::default());
    let running = stage.start();
    stage.feed.until(|sent| !sent.is_empty()).await;
    for _ in 0..100 {
        stage.journal.put(event(1));
    }
    stage.relayed(100).await;
    let begin = tokio::time::Instant::now();
    running.stop().await;
    stage.journal.put(event(1));
    let running = stage.start();
    let batches = stage.relayed(101).await;
    assert!(begin.elapsed() < RENEW_EVERY, "the lease was given up, not left to expire");
    let overlap = u64::try_from(i64::try_from(OVERLAP.as_millis()).unwrap() / STEP_MS).unwrap();
    assert_eq!(batches[0].from, 100 - overlap - 1);
    running.stop().await;
    // Never before the journal's first.
    stage.journal.trim(at(1, 99)).await.unwrap();
    let running = stage.start();
    stage.feed.until(|sent| sent.iter().any(|batch| batch.to == 101)).await;
    assert_eq!(stage.feed.take()[0].from, 99);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn without_a_note_a_relay_begins_at_the_end() {
    let stage = Stage::new(TestFeed::default());
    for _ in 0..100 {
        stage.journal.put(event(1));
    }
    let running = stage.start();
    stage.feed.until(|sent| sent.iter().any(|batch| batch.to == 100)).await;
    assert_eq!(stage.feed.take()[0].from, 79);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_sent_again_but_not_for_ever() {
    let stage = Stage::new(TestFeed::default());
    let running = stage.start();
    stage.feed.until(|sent| !sent.is_empty()).await;
    stage.feed.failures.store(3, std::sync::atomic::Ordering::SeqCst);
    stage.journal.put(event(1));
    assert_eq!(ranges(&stage.relayed(1).await), [(0, 1, 1)]);
    // One more than is tried for one batch: it is given up, and the next one doesn't pretend to cover it.
    stage.feed.failures.store(8, std::sync::atomic::Ordering::SeqCst);
    stage.journal.put(event(1));
    stage.feed.until(|sent| sent.last().is_some_and(|batch| batch.to == 2)).await;
    stage.journal.put(event(1));
    assert_eq!(ranges(&stage.relayed(3).await), [(2, 3, 1)]);
    running.stop().await;
    assert!(stage.metrics().contains("foghorn_fanout_relay_unsent_total 1"));
}

#[tokio::test(start_paused = true)]
async fn what_was_trimmed_before_it_was_relayed_is_not_covered() {
    let stage = Stage::new(TestFeed::default());
    let running = stage.start();
    stage.journal.put(event(1));
    stage.relayed(1).await;
    stage.journal.set_still(true);
    for _ in 0..4 {
        stage.journal.put(event(1));
    }
    stage.journal.trim(at(1, 3)).await.unwrap();
    stage.journal.set_still(false);
    assert_eq!(ranges(&stage.relayed(5).await), [(3, 5, 2)]);
    // A single entry that was deleted is nobody's loss.
    stage.journal.set_still(true);
    stage.journal.put(event(1));
    stage.journal.put(event(1));
    stage.journal.delete(6);
    stage.journal.set_still(false);
    assert_eq!(ranges(&stage.relayed(7).await), [(5, 7, 1)]);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_relay_that_lost_its_lease_stands_by() {
    let stage = Stage::new(TestFeed::default());
    let first = stage.start();
    stage.feed.until(|sent| !sent.is_empty()).await;
    let second = stage.start();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let beacons = stage.feed.take().len();
    assert!((19..=22).contains(&beacons), "one of them relays: {beacons} beacons in 5 s");
    first.task.abort();
    let killed = tokio::time::Instant::now();
    drop(first.task.await);
    stage.feed.take();
    stage.feed.until(|sent| !sent.is_empty()).await;
    assert!(killed.elapsed() <= EXPIRES_AFTER + RENEW_EVERY, "{:?}", killed.elapsed());
    second.stop().await;
}
