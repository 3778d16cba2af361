//! What every journal and event log must do, whatever it is made of. Each backend runs all of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use foghorn_bus::clock::Clock;
use foghorn_bus::journal::{AppendError, Appended, Journal};
use foghorn_bus::log::{Committed, EventLog, HistoryQuery, NewestQuery, Replay, ReplayQuery};
use foghorn_bus::policies::SharedPolicies;
use foghorn_core::batch::{Batch, FeedEvent};
use foghorn_core::channel::Channel;
use foghorn_core::entry::{Key, NewEntry};
use foghorn_core::event::{Event, EventId, EventType, Ttl};
use foghorn_core::pattern::Pattern;
use foghorn_core::policy::{Policies, Policy};
use foghorn_core::position::{Digest, Epoch, Position};
use foghorn_core::reason::ResetReason;
use foghorn_core::shard::{Shard, ShardCount};
use foghorn_core::time::Timestamp;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};

const SHARD: Shard = Shard::ZERO;

/// A backend under test.
pub(crate) trait Subject: Send + Sync {
    fn journal(&self) -> &dyn Journal;
    fn log(&self) -> &dyn EventLog;
    fn clock(&self) -> &TestClock;
    fn policies(&self) -> &SharedPolicies;
    /// Waits until everything appended is in the log for good.
    fn settle(&self) -> BoxFuture<'_, ()>;
    /// Runs retention once, over everything.
    fn retain(&self) -> BoxFuture<'_, ()>;
}

/// Waits until `log` has everything that was appended to `journal`.
pub(crate) async fn settled(journal: &dyn Journal, log: &dyn EventLog) {
    for shard in journal.shards().shards() {
        let bounds = journal.bounds(shard).await.unwrap();
        if bounds.last > 0 {
            let last = Position { shard, epoch: bounds.epoch, seq: bounds.last };
            let deadline = Duration::from_secs(60);
            let settled = log.committed(last, Key::invented(0), deadline).await.unwrap();
            assert_ne!(settled, Committed::NotYet);
        }
    }
}

/// A clock that goes when told to. Begins at the real time.
#[derive(Clone)]
pub(crate) struct TestClock(Arc<AtomicI64>);

impl TestClock {
    pub(crate) fn new() -> Self {
        let now = Timestamp::from_system(std::time::SystemTime::now());
        TestClock(Arc::new(AtomicI64::new(now.as_micros())))
    }

    pub(crate) fn clock(&self) -> Clock {
        let micros = Arc::clone(&self.0);
        Clock::new(move || Timestamp::from_micros(micros.load(Ordering::SeqCst)))
    }

    pub(crate) fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.0.load(Ordering::SeqCst))
    }

    pub(crate) fn pass(&self, span: Duration) {
        self.0.fetch_add(i64::try_from(span.as_micros()).unwrap(), Ordering::SeqCst);
    }
}

/// Every case for a backend: `suite!(start)`, where `start(ShardCount, Policies)` makes a new one.
macro_rules! suite {
    ($start:path) => {
        crate::log_suite::suite!($start:
            a_tail_gives_everything_in_order,
            the_journal_is_read_and_searched,
            duplicates_are_recognised,
            a_run_is_stored_in_its_order,
            replays_from_every_position_in_pages_of_every_size,
            pages_are_bounded_in_bytes,
            foreign_cursors_are_reset,
            expired_events_are_told_and_the_rest_goes_on,
            a_policy_change_loses_nothing_in_silence,
            count_and_ttl_hold_when_reading,
            what_is_not_replayed_is_covered,
            a_ring_is_filled_with_what_is_never_replayed,
            time_is_found,
            the_newest_of_each_channel,
            history_in_both_directions,
            history_goes_on_past_what_has_expired,
            history_is_bounded_as_it_is_sent,
            what_is_erased_of_a_channel_is_gone_and_nobody_is_reset,
            committed_means_this_very_event,
            shards_are_apart,
        );
    };
    ($start:path: $($case:ident,)*) => {
        $(#[tokio::test(flavor = "multi_thread")]
        async fn $case() {
            crate::log_suite::$case(async |shards, policies| $start(shards, policies).await).await;
        })*
    };
}
pub(crate) use suite;

/// Starts a backend.
pub(crate) trait Start<S: Subject>: AsyncFnOnce(ShardCount, Policies) -> S {}
impl<S: Subject, F: AsyncFnOnce(ShardCount, Policies) -> S> Start<S> for F {}

/// A position in the journal's current epoch.
pub(crate) async fn at(subject: &impl Subject, seq: u64) -> Position {
    let epoch = subject.journal().bounds(SHARD).await.unwrap().epoch;
    Position { shard: SHARD, epoch, seq }
}

pub(crate) async fn a_tail_gives_everything_in_order<S: Subject>(start: impl Start<S>) {
    let subject = start(ShardCount::ONE, Policies::default()).await;
    let mut live = subject.journal().tail(at(&subject, 0).await);
    for n in 1..=50 {
        assert_eq!(publish(&subject, "a", &n.to_string()).await.seq, n);
    }
    for n in 1..=50 {
        let entry = live.next().await.unwrap().unwrap();
        assert_eq!((entry.seq, &*entry.event.unwrap().data), (n, n.to_string().as_str()));
    }
    let mut late = subject.journal().tail(at(&subject, 48).await);
    assert_eq!(late.next().await.unwrap().unwrap().seq, 49);
    assert_eq!(late.next().await.unwrap().unwrap().seq, 50);
    assert!(late.next().now_or_never().is_none(), "there is no 51");
    publish(&subject, "a", "51").await;
    assert_eq!(late.next().await.unwrap().unwrap().seq, 51);
}

pub(crate) async fn the_journal_is_read_and_searched<S: Subject>(start: impl Start<S>) {
    let subject = start(ShardCount::ONE, Policies::default()).await;
    let journal = subject.journal();
    let empty = journal.bounds(SHARD).await.unwrap();
    assert_eq!((empty.first, empty.last), (1, 0));
    for n in 1..=10 {
        publish(&subject, "a", &n.to_string()).await;
    }
    let page = journal.read(SHARD, 3, 4, 1 << 20).await.unwrap();
    assert_eq!((page.from, page.to, page.tip, page.epoch), (3, 7, 10, empty.epoch));
    assert_eq!(page.entries.iter().map(|entry| entry.seq).collect::<Vec<_>>(), [4, 5, 6, 7]);
    let one = journal.read(SHARD, 3, 100, 1).await.unwrap();
    assert_eq!((one.to, one.entries.len()), (4, 1));
    let end = journal.read(SHARD, 10, 100, 1 << 20).await.unwrap();
    assert_eq!((end.from, end.to, end.tip, end.entries.len()), (10, 10, 10, 0));
    let later = subject.clock().now().plus(Duration::from_secs(3600));
    assert_eq!(journal.seek(SHARD, later).await.unwrap(), 10);
    assert_eq!(journal.seek(SHARD, Timestamp::from_micros(0)).await.unwrap(), 0);
}

pub(crate) async fn duplicates_are_recognised<S: Subject>(start: impl Start<S>) {
    let subject = start(ShardCount::ONE, Policies::default()).await;
    let first = append(&subject, with_id("a", "x", "1")).await;
    let again = append(&subject, with_id("a", "x", "1")).await;
    assert_eq!((again.position, again.duplicate), (first.position, true));
    let other = append(&subject, with_id("b", "x", "1")).await;
    assert!(!other.duplicate, "ids are per channel");
    // Side by side, so that they share a transaction where there are any.
    let both = [with_id("a", "y", "2"), with_id("a", "y", "2")].map(|event| append(&subject, event));
    let both = futures::future::join_all(both).await;
    assert_eq!(both[0].position, both[1].position);
    assert_eq!(both.iter().filter(|appended| appended.duplicate).count(), 1);
    let all = replay_all(&subject, 0, &[">"], 100, 1 << 20).await.unwrap();
    assert_eq!(all.len(), 3);
}

pub(crate) async fn a_run_is_stored_in_its_order<S: Subject>(start: impl Start<S>) {
    let subject = start(ShardCount::ONE, Policies::default()).await;
    let mut entries: Vec<NewEntry> = (0..20).map(|n| new_entry(event("a", &n.to_string()))).collect();
    entries.push(new_entry(with_id("a", "once", "7")));
    entries.push(new_entry(with_id("a", "again", "7")));
    entries.insert(5, new_entry(event("a", &"x".repeat(1 << 20))));
    let answers: Vec<_> = subject.journal().append_in_order(entries).collect().await;
    let seqs: Vec<u64> = answers.iter().flatten().map(|appended| appended.position.seq).collect();
    assert_eq!(answers.len(), 23);
    assert!(matches!(answers[5], Err(AppendError::Refused(_))), "and it stops nobody: {:?}", answers[5]);
    assert_eq!(seqs, (1..=21).chain([21]).collect::<Vec<_>>());
    let duplicates: Vec<bool> = answers.iter().flatten().map(|appended| appended.duplicate).collect();
    assert_eq!(duplicates.iter().filter(|duplicate| **duplicate).count(), 1);
    assert!(duplicates[21]);
    subject.settle().await;
    let texts: Vec<String> = replay_all(&subject, 0, &["a"], 100, 1 << 20)
        .await
        .unwrap()
        .into_iter()
        .map(|(_, text)| text)
        .collect();
    assert_eq!(texts, (0..20).map(|n| n.to_string()).chain(["once".to_owned()]).collect::<Vec<_>>());
}

pub(crate) async fn replays_from_every_position_in_pages_of_every_size<S: Subject>(start: impl Start<S>) {
    let subject = start(ShardCount::ONE, Policies::default()).await;
    let channels = ["a", "b", "c.x", "c.y.z", "d"];
    let mut all: Vec<(u64, &str)> = Vec::new();
    for n in 0..30 {
        let channel = channels[(n * n + n / 3) % channels.len()];
        let position = publish(&subject, channel, channel).await;
        all.push((position.seq, channel));
        if n == 20 {
            // The rest may not be committed yet.
            subject.settle().await;
        }
    }
    for asked in [&["a"][..], &["a", "b"], &["c.*"], &["c.>"], &[">"], &["a", "c.>", "*"], &["none"]] {
        let patterns: Vec<Pattern> = asked.iter().map(|text| Pattern::parse(*text).unwrap()).collect();
        for after in 0..=30 {
            for (events, bytes) in [(1, 1 << 20), (3, 1 << 20), (1000, 1), (1000, 1 << 20)] {
                let found = replay_all(&subject, after, asked, events, bytes).await.unwrap();
                let expected: Vec<(u64, String)> = all
                    .iter()
                    .filter(|(seq, channel)| *seq > after && patterns.iter().any(|p| p.matches(channel)))
                    .map(|(seq, channel)| (*seq, (*channel).to_owned()))
                    .collect();
                assert_eq!(found, expected, "{asked:?} after {after}, {events} events, {bytes} bytes");
            }
        }
    }
}

pub(crate) async fn pages_are_bounded_in_bytes<S: Subject>(start: impl Start<S>) {
    let subject = start(ShardCount::ONE, Policies::default()).await;
    let big = "x".repeat(100_000);
    for _ in 0..10 {
        publish(&subject, "a", &big).await;
    }
    subject.settle().await;
    for topics in [&["a"][..], &["*"]] {
        let page = page(&subject, 0, topics, 1000, 350_000).await.unwrap();
        assert_eq!((page.events.len(), page.to, page.tip), (3, 3, 10));
    }
}

pub(crate) async fn foreign_cursors_are_reset<S: Subject>(start: impl Start<S>) {
    let subject = start(ShardCount::ONE, Policies::default()).await;
    publish(&subject, "a", "1").await;
    let epoch = publish(&subject, "a", "2").await.epoch;
    for settled in [false, true] {
        if settled {
            subject.settle().await;
        }
        for foreign in [Epoch::new(epoch.get() - 1), Epoch::new(epoch.get() + 1)] {
            let reset = reset_in_the_end(&subject, foreign, 1, &["a"]).await;
            assert_eq!(reset, (ResetReason::Epoch, epoch, 0));
        }
        let reset = reset_in_the_end(&subject, epoch, 3, &["a"]).await;
        assert_eq!(reset, (ResetReason::Cursor, epoch, 0));
        let tip = page(&subject, 2, &["a"], 10, 1 << 20).await.unwrap();
        assert_eq!((tip.from, tip.to, tip.tip), (2, 2, 2));
    }
}

pub(crate) async fn expired_events_are_told_and_the_rest_goes_on<S: Subject>(start: impl Start<S>) {
    let subject = start(ShardCount::ONE, policies(vec![kept("s.*", 60)])).await;
    publish(&subject, "s.x", "1").await;
    publish(&subject, "l", "2").await;
    publish(&subject, "s.x", "3").await;
    subject.settle().await;
    subject.clock().pass(Duration::from_secs(600));
    subject.retain().await;
    publish(&subject, "s.x", "4").await;
    publish(&subject, "l", "5").await;
    let epoch = subject.journal().bounds(SHARD).await.unwrap().epoch;
    for (topics, after) in [(&["s.x"][..], 0), (&["s.x"], 2), (&["s.*"], 1), (&[">"], 0), (&["l", "s.x"], 2)]
    {
        let reset = reset_of(replay(&subject, epoch, after, topics, 10, 1 << 20).await);
        assert_eq!(reset, (ResetReason::Expired, epoch, 3), "{topics:?} after {after}");
    }
    let texts = |found: Vec<(u64, String)>| found.into_iter().map(|(_, text)| text).collect::<Vec<_>>();
    let short = replay_all(&subject, 3, &["s.x"], 10, 1 << 20).await.unwrap();
    assert_eq!(texts(short), ["4"], "it goes on from where the reset says");
    let long = replay_all(&subject, 0, &["l"], 10, 1 << 20).await.unwrap();
    assert_eq!(texts(long), ["2", "5"], "what others lost is nothing to this one");
}

pub(crate) async fn a_policy_change_loses_nothing_in_silence<S: Subject>(start: impl Start<S>) {
    let subject = start(ShardCount::ONE, policies(vec![kept("a", 60)])).await;
    publish(&subject, "a", "1").await;
    publish(&subject, "b", "2").await;
    subject.settle().await;
    subject.policies().set(Policies::default());
    publish(&subject, "a", "3").await;
    subject.settle().await;
    subject.clock().pass(Duration::from_secs(600));
    subject.retain().await;
    let epoch = subject.journal().bounds(SHARD).await.unwrap().epoch;
    let reset = reset_of(replay(&subject, epoch, 0, &["a"], 10, 1 << 20).await);
    assert_eq!(reset, (ResetReason::Expired, epoch, 1), "a's first event was of the class that has expired");
    let rest = replay_all(&subject, 1, &["a"], 10, 1 << 20).await.unwrap();
    assert_eq!(rest, [(3, "3".to_owned())]);
    assert_eq!(replay_all(&subject, 0, &["b"], 10, 1 << 20).await.unwrap(), [(2, "2".to_owned())]);
}

pub(crate) async fn count_and_ttl_hold_when_reading<S: Subject>(start: impl Start<S>) {
    let two = Policy { retention_count: Some(2), ..Policy::new(Pattern::parse("two.*").unwrap()) };
    let subject = start(ShardCount::ONE, policies(vec![two])).await;
    for n in 1..=5 {
        publish(&subject, "two.a", &format!("a{n}")).await;
        publish(&subject, "two.b", &format!("b{n}")).await;
    }
    publish(&subject, "other", "o").await;
    let short = Event { ttl: Some(Ttl::new(30).unwrap()), ..event("other", "gone") };
    append(&subject, short).await;
    let long = Event { ttl: Some(Ttl::new(300).unwrap()), ..event("other", "stays") };
    append(&subject, long).await;
    subject.settle().await;
    subject.clock().pass(Duration::from_secs(120));
    let texts = async |topics: &[&str]| {
        let found = replay_all(&subject, 0, topics, 4, 1 << 20).await.unwrap();
        found.into_iter().map(|(_, text)| text).collect::<Vec<_>>()
    };
    assert_eq!(texts(&["two.a"]).await, ["a4", "a5"]);
    assert_eq!(texts(&["two.*"]).await, ["a4", "b4", "a5", "b5"]);
    assert_eq!(texts(&["other"]).await, ["o", "stays"]);
}

pub(crate) async fn what_is_not_replayed_is_covered<S: Subject>(start: impl Start<S>) {
    let never = Policy { replay: false, ..Policy::new(Pattern::parse("live.>").unwrap()) };
    let subject = start(ShardCount::ONE, policies(vec![never])).await;
    publish(&subject, "live.x", "unheard").await;
    publish(&subject, "a", "kept").await;
    publish(&subject, "live.x", "unheard").await;
    for settled in [false, true] {
        if settled {
            subject.settle().await;
        }
        for topics in [&[">"][..], &["live.x", "a"]] {
            let found = replay_all(&subject, 0, topics, 10, 1 << 20).await.unwrap();
            assert_eq!(found, [(2, "kept".to_owned())]);
        }
    }
    let entry = subject.journal().tail(at(&subject, 0).await).next().await.unwrap().unwrap();
    assert_eq!(entry.seq, 1, "whoever listens hears it");
}

pub(crate) async fn a_ring_is_filled_with_what_is_never_replayed<S: Subject>(start: impl Start<S>) {
    let never = Policy { replay: false, ..Policy::new(Pattern::parse("live.>").unwrap()) };
    let one = Policy { retention_count: Some(1), ..Policy::new(Pattern::parse("one").unwrap()) };
    let subject = start(ShardCount::ONE, policies(vec![never, one])).await;
    let mut epoch = Epoch::new(0);
    for (n, channel) in (1..).zip(["live.x", "a", "live.y", "one", "one", "live.x"]) {
        epoch = publish(&subject, channel, &format!("{n}")).await.epoch;
    }
    let fill = async |after, events| {
        let topics = patterns(&[">"]);
        let query = ReplayQuery {
            shard: SHARD,
            epoch,
            after,
            topics,
            events,
            bytes: 1 << 20,
            fill: true,
            digest: Digest::NONE,
        };
        let Replay::Page(page) = subject.log().replay(query).await.unwrap() else { panic!("a reset") };
        assert_eq!((page.from, page.tip), (after, 6));
        (page.events.iter().map(text_of).collect::<Vec<_>>(), page.to)
    };
    let texts = |texts: std::ops::RangeInclusive<u64>| texts.map(|n| n.to_string()).collect::<Vec<_>>();
    for settled in [false, true] {
        if settled {
            subject.settle().await;
        }
        assert_eq!(fill(0, 100).await, (texts(1..=6), 6), "those beyond a count, too");
        assert_eq!(fill(0, 2).await, (texts(1..=2), 2));
        assert_eq!(fill(2, 3).await, (texts(3..=5), 5));
        assert_eq!(fill(5, 3).await, (texts(6..=6), 6));
        assert_eq!(fill(6, 3).await, (vec![], 6));
    }
}

pub(crate) async fn time_is_found<S: Subject>(start: impl Start<S>) {
    let subject = start(ShardCount::ONE, Policies::default()).await;
    let begin = subject.clock().now();
    for n in 0..20u64 {
        publish(&subject, "a", &n.to_string()).await;
        subject.clock().pass(Duration::from_secs(10));
        if n == 15 {
            subject.settle().await;
        }
    }
    for n in 0..20u64 {
        let exact = begin.plus(Duration::from_secs(10 * n));
        for (time, after) in [(exact, n), (exact.plus(Duration::from_millis(1)), n + 1)] {
            let located = subject.log().locate(SHARD, time).await.unwrap();
            assert_eq!((located.after, located.tip), (after, 20), "{n}");
        }
    }
}

pub(crate) async fn the_newest_of_each_channel<S: Subject>(start: impl Start<S>) {
    let subject = start(ShardCount::ONE, Policies::default()).await;
    for n in 1..=5 {
        publish(&subject, "a", &format!("a{n}")).await;
        publish(&subject, "b.x", &format!("x{n}")).await;
        if n == 3 {
            subject.settle().await;
        }
    }
    publish(&subject, "b.y", "y1").await;
    let newest = async |topics: &[&str], each, total| {
        let query = NewestQuery { shards: vec![(SHARD, patterns(topics))], each, total, bytes: 1 << 20 };
        let batches = subject.log().newest(query).await.unwrap();
        assert_eq!((batches.len(), batches[0].to), (1, 11));
        assert!(batches[0].events.iter().all(|event| event.seq > batches[0].from));
        batches[0].events.iter().map(text_of).collect::<Vec<_>>()
    };
    assert_eq!(newest(&["a"], 3, 100).await, ["a3", "a4", "a5"]);
    assert_eq!(newest(&["a"], 100, 100).await, ["a1", "a2", "a3", "a4", "a5"]);
    assert_eq!(newest(&["b.*"], 2, 100).await, ["x4", "x5", "y1"]);
    assert_eq!(newest(&["a", "b.>"], 2, 3).await, ["a5", "x5", "y1"]);
    assert_eq!(newest(&["none"], 2, 3).await, Vec::<String>::new());
}

pub(crate) async fn history_in_both_directions<S: Subject>(start: impl Start<S>) {
    let subject = start(ShardCount::ONE, Policies::default()).await;
    for n in 1..=10 {
        publish(&subject, if n % 2 == 0 { "a" } else { "b" }, &n.to_string()).await;
        if n == 7 {
            subject.settle().await;
        }
    }
    let history = async |after, before, limit| {
        let channel = Channel::parse("a").unwrap();
        let page = subject.log().history(HistoryQuery { channel, after, before, limit }).await.unwrap();
        (page.events.iter().map(|event| event.seq).collect::<Vec<_>>(), page.more)
    };
    assert_eq!(history(None, None, 2).await, (vec![10, 8], true));
    assert_eq!(history(None, None, 5).await, (vec![10, 8, 6, 4, 2], false));
    assert_eq!(history(None, Some(8), 2).await, (vec![6, 4], true));
    assert_eq!(history(None, Some(2), 2).await, (vec![], false));
    assert_eq!(history(Some(0), None, 2).await, (vec![2, 4], true));
    assert_eq!(history(Some(4), None, 10).await, (vec![6, 8, 10], false));
    assert_eq!(history(Some(2), Some(8), 10).await, (vec![4, 6], false));
}

pub(crate) async fn history_goes_on_past_what_has_expired<S: Subject>(start: impl Start<S>) {
    let subject = start(ShardCount::ONE, Policies::default()).await;
    let short = |text| Event { ttl: Some(Ttl::new(30).unwrap()), ..event("a", text) };
    publish(&subject, "a", "1").await;
    for text in ["2", "3", "4", "5"] {
        append(&subject, short(text)).await;
    }
    publish(&subject, "a", "6").await;
    subject.settle().await;
    // These may not be committed yet.
    append(&subject, short("7")).await;
    publish(&subject, "a", "8").await;
    subject.clock().pass(Duration::from_secs(120));
    let channel = || Channel::parse("a").unwrap();
    for oldest in [true, false] {
        let (mut after, mut before) = (oldest.then_some(0), None);
        let mut texts = Vec::new();
        let mut pages = 0;
        loop {
            let query = HistoryQuery { channel: channel(), after, before, limit: 2 };
            let page = subject.log().history(query).await.unwrap();
            texts.extend(page.events.iter().map(|event| String::from_utf8(event.data.to_vec()).unwrap()));
            pages += 1;
            assert!(pages < 10, "no end: {page:?}");
            if !page.more {
                break;
            }
            *(if oldest { &mut after } else { &mut before }) = Some(page.reached);
        }
        let expected = if oldest { ["1", "6", "8"] } else { ["8", "6", "1"] };
        assert_eq!(texts, expected);
    }
}

pub(crate) async fn history_is_bounded_as_it_is_sent<S: Subject>(start: impl Start<S>) {
    let subject = start(ShardCount::ONE, Policies::default()).await;
    // Six times as long in JSON.
    let data = "\u{1}".repeat(100_000);
    for n in 1..=5 {
        publish(&subject, "a", &data).await;
        if n == 4 {
            subject.settle().await;
        }
    }
    let channel = Channel::parse("a").unwrap();
    let first = HistoryQuery { channel, after: Some(0), before: None, limit: 100 };
    let page = subject.log().history(first.clone()).await.unwrap();
    assert_eq!((page.events.len(), page.more, page.reached), (3, true, 3));
    let rest = HistoryQuery { after: Some(page.reached), ..first };
    let page = subject.log().history(rest).await.unwrap();
    assert_eq!((page.events.len(), page.more, page.reached), (2, false, 5));
}

pub(crate) async fn what_is_erased_of_a_channel_is_gone_and_nobody_is_reset<S: Subject>(
    start: impl Start<S>,
) {
    let subject = start(ShardCount::ONE, Policies::default()).await;
    for n in 1..=5 {
        publish(&subject, "a", &format!("a{n}")).await;
        publish(&subject, "a.b", &format!("b{n}")).await;
    }
    // Nothing has to settle: what was acked is erased.
    let erase = async || subject.log().erase(Channel::parse("a").unwrap()).await.unwrap();
    let mut erased = 0;
    loop {
        match erase().await {
            0 => break,
            some => erased += some,
        }
    }
    assert_eq!(erased, 5);
    assert_eq!(publish(&subject, "a", "a6").await.seq, 11, "no seq is given out twice");
    subject.settle().await;
    let texts = async |topics: &[&str], after| {
        let found = replay_all(&subject, after, topics, 3, 1 << 20).await.unwrap();
        found.into_iter().map(|(_, text)| text).collect::<Vec<_>>()
    };
    // Whoever has been given one of them goes on behind it.
    for after in [0, 3] {
        assert_eq!(texts(&["a"], after).await, ["a6"]);
    }
    assert_eq!(texts(&["a", "a.b"], 0).await, ["b1", "b2", "b3", "b4", "b5", "a6"]);
    let history = HistoryQuery { channel: Channel::parse("a").unwrap(), after: None, before: None, limit: 9 };
    let page = subject.log().history(history).await.unwrap();
    assert_eq!(page.events.iter().map(|event| event.seq).collect::<Vec<_>>(), [11]);
    assert!(!page.more);
}

pub(crate) async fn committed_means_this_very_event<S: Subject>(start: impl Start<S>) {
    let subject = start(ShardCount::ONE, Policies::default()).await;
    let entry = new_entry(with_id("a", "x", "1"));
    let key = entry.key;
    let position = subject.journal().append(entry).await.unwrap().position;
    let deadline = Duration::from_secs(10);
    let ask = async |position, key, deadline| subject.log().committed(position, key, deadline).await.unwrap();
    assert_eq!(ask(position, key, deadline).await, Committed::Yes);
    assert_eq!(ask(position, Key::invented(7), deadline).await, Committed::Replaced);
    let old = Position { epoch: Epoch::new(position.epoch.get() - 1), ..position };
    assert_eq!(ask(old, key, deadline).await, Committed::Replaced);
    let future = Position { seq: position.seq + 1, ..position };
    assert_eq!(ask(future, key, Duration::from_millis(20)).await, Committed::NotYet);
}

pub(crate) async fn shards_are_apart<S: Subject>(start: impl Start<S>) {
    let four = ShardCount::new(4).unwrap();
    let subject = start(four, Policies::default()).await;
    let mut of: Vec<Vec<(u64, String)>> = vec![Vec::new(); 4];
    for n in 0..40 {
        let channel = format!("c{n}");
        let position = publish(&subject, &channel, &channel).await;
        of[position.shard.index()].push((position.seq, channel));
    }
    for shard in four.shards() {
        let seqs: Vec<u64> = of[shard.index()].iter().map(|(seq, _)| *seq).collect();
        assert_eq!(seqs, (1..=seqs.len() as u64).collect::<Vec<_>>());
        let epoch = subject.journal().bounds(shard).await.unwrap().epoch;
        let query = ReplayQuery {
            shard,
            epoch,
            after: 0,
            topics: patterns(&[">"]),
            events: 100,
            bytes: 1 << 20,
            fill: false,
            digest: Digest::NONE,
        };
        let Replay::Page(page) = subject.log().replay(query).await.unwrap() else { panic!("a reset") };
        let found: Vec<(u64, String)> = page.events.iter().map(|e| (e.seq, text_of(e))).collect();
        assert_eq!(found, of[shard.index()]);
    }
}

// --- What the cases share. ---

pub(crate) fn event(channel: &str, data: &str) -> Event {
    Event::new(Channel::parse(channel.to_owned()).unwrap(), data.to_owned())
}

pub(crate) fn with_id(channel: &str, data: &str, id: &str) -> Event {
    let event_type = EventType::parse("made").unwrap();
    let id = EventId::parse(id.to_owned()).unwrap();
    Event { id: Some(id), event_type: Some(event_type), ..event(channel, data) }
}

/// As fan-out would: a key of the id, or one that nobody else has.
pub(crate) fn new_entry(event: Event) -> NewEntry {
    static COUNT: AtomicI64 = AtomicI64::new(0);
    let invented = || Key::invented(u128::try_from(COUNT.fetch_add(1, Ordering::Relaxed)).unwrap() << 3);
    let key = event.id.as_ref().map_or_else(invented, |id| Key::of(&event.channel, id));
    NewEntry { event, key, traceparent: None }
}

pub(crate) async fn append(subject: &impl Subject, event: Event) -> Appended {
    subject.journal().append(new_entry(event)).await.unwrap()
}

pub(crate) async fn publish(subject: &impl Subject, channel: &str, data: &str) -> Position {
    append(subject, event(channel, data)).await.position
}

pub(crate) fn patterns(topics: &[&str]) -> Arc<[Pattern]> {
    topics.iter().map(|text| Pattern::parse(*text).unwrap()).collect()
}

pub(crate) fn policies(policies: Vec<Policy>) -> Policies {
    Policies::new(policies).unwrap()
}

pub(crate) fn kept(pattern: &str, seconds: u64) -> Policy {
    Policy { retention: Duration::from_secs(seconds), ..Policy::new(Pattern::parse(pattern).unwrap()) }
}

pub(crate) fn text_of(event: &FeedEvent) -> String {
    let frame = String::from_utf8(event.frame.without_id().to_vec()).unwrap();
    let data = frame.lines().find_map(|line| line.strip_prefix("data: "));
    data.unwrap_or_default().to_owned()
}

pub(crate) async fn replay(
    subject: &impl Subject,
    epoch: Epoch,
    after: u64,
    topics: &[&str],
    events: usize,
    bytes: usize,
) -> Replay {
    let query = ReplayQuery {
        shard: SHARD,
        epoch,
        after,
        topics: patterns(topics),
        events,
        bytes,
        fill: false,
        digest: Digest::NONE,
    };
    subject.log().replay(query).await.unwrap()
}

pub(crate) fn reset_of(replay: Replay) -> (ResetReason, Epoch, u64) {
    match replay {
        Replay::Reset { reason, epoch, after } => (reason, epoch, after),
        Replay::Page(page) => panic!("a page instead of a reset: {page:?}"),
    }
}

/// The reset that a cursor is answered with which the log has never heard of, and so doubts at first.
pub(crate) async fn reset_in_the_end(
    subject: &impl Subject,
    epoch: Epoch,
    after: u64,
    topics: &[&str],
) -> (ResetReason, Epoch, u64) {
    let (topics, events, bytes) = (patterns(topics), 10, 1 << 20);
    let query =
        ReplayQuery { shard: SHARD, epoch, after, topics, events, bytes, fill: false, digest: Digest::NONE };
    let limit = Duration::from_secs(20);
    let answer =
        foghorn_tests::wait::until("a reset", limit, async || subject.log().replay(query.clone()).await.ok());
    reset_of(answer.await)
}

/// A page in the current epoch, or the reason for a reset.
pub(crate) async fn page(
    subject: &impl Subject,
    after: u64,
    topics: &[&str],
    events: usize,
    bytes: usize,
) -> Result<Batch, ResetReason> {
    let epoch = subject.journal().bounds(SHARD).await.unwrap().epoch;
    match replay(subject, epoch, after, topics, events, bytes).await {
        Replay::Page(page) => Ok(page),
        Replay::Reset { reason, .. } => Err(reason),
    }
}

/// Page by page to the end: seqs and data.
pub(crate) async fn replay_all(
    subject: &impl Subject,
    after: u64,
    topics: &[&str],
    events: usize,
    bytes: usize,
) -> Result<Vec<(u64, String)>, ResetReason> {
    let mut found = Vec::new();
    let mut at = after;
    loop {
        let page = page(subject, at, topics, events, bytes).await?;
        assert_eq!(page.from, at);
        assert!(page.events.len() <= events, "a page of {} events", page.events.len());
        assert!(page.to > at || page.to == page.tip, "no progress at {at}: {page:?}");
        assert!(page.events.iter().all(|event| event.seq > at && event.seq <= page.to));
        found.extend(page.events.iter().map(|event| (event.seq, text_of(event))));
        at = page.to;
        if page.to == page.tip {
            return Ok(found);
        }
    }
}
