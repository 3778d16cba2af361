//! The merge and the splice as a property: log, ring and live feed, several channels and shards.

use foghorn_bus::log::{Replay, ReplayQuery};
use foghorn_core::batch::FeedEvent;
use foghorn_core::channel::Channel;
use foghorn_core::cursor::Cursor;
use foghorn_core::event::Event;
use foghorn_core::pattern::Pattern;
use foghorn_core::position::{Epoch, Position};
use foghorn_core::shard::{Shard, ShardCount};
use foghorn_core::time::Timestamp;
use parking_lot::Mutex;
use proptest::prelude::*;

use super::*;
use crate::testing::{TestLog, hub_of};

const EPOCH: Epoch = Epoch::new(1);
/// What happens before a ring begins; the log has it.
const BEFORE_RING: u64 = 10;
const NAMES: [&str; 6] = ["a", "b.x", "b.y", "c", "d.e.f", "broadcast"];

/// The journal of all shards, and how far the log has each.
#[derive(Clone, Default)]
struct Journal(Arc<Mutex<Vec<Entries>>>);

/// A shard's events, and the last seq that the log has.
type Entries = (Vec<FeedEvent>, u64);

impl Journal {
    /// Every event goes to its channel's shard.
    fn new(shards: ShardCount, channels: &[usize]) -> Self {
        let mut journal = vec![(Vec::new(), 0); usize::from(shards.get())];
        for name in channels {
            let channel = Channel::parse(NAMES[*name]).unwrap();
            let shard = shards.shard_of(&channel);
            let events = &mut journal[shard.index()].0;
            let seq = events.len() as u64 + 1;
            let position = Position { shard, epoch: EPOCH, seq };
            let event = Event::new(channel, format!("{shard}:{seq}"));
            events.push(FeedEvent::encode(position, Timestamp::default(), &event));
        }
        Journal(Arc::new(Mutex::new(journal)))
    }

    fn last(&self, shard: Shard) -> u64 {
        self.0.lock()[shard.index()].0.len() as u64
    }

    fn batch(&self, shard: Shard, from: u64, to: u64, wanted: impl Fn(&FeedEvent) -> bool) -> Batch {
        let events = &self.0.lock()[shard.index()].0;
        let mut batch = Batch::empty(shard, EPOCH, from, to);
        batch.events = events.iter().filter(|e| e.seq > from && e.seq <= to && wanted(e)).cloned().collect();
        batch
    }

    /// As the log answers: a page of a few events, never beyond what it has.
    fn replay(&self, query: &ReplayQuery, page: usize) -> Replay {
        let tip = self.0.lock()[query.shard.index()].1;
        let wanted = |e: &FeedEvent| query.topics.iter().any(|topic| topic.matches(e.channel.as_str()));
        let mut batch = self.batch(query.shard, query.after, tip.max(query.after), wanted);
        if batch.events.len() > page {
            batch.events.truncate(page);
            batch.to = batch.events[page - 1].seq;
        }
        batch.tip = tip.max(batch.to);
        Replay::Page(batch)
    }

    /// The log has at least this much.
    fn logged(&self, shard: Shard, upto: u64) {
        let logged = &mut self.0.lock()[shard.index()].1;
        *logged = (*logged).max(upto);
    }
}

/// Every event of the stream: its cursor and its data, `shard:seq`.
fn events(text: &str) -> Vec<(Cursor, (usize, u64))> {
    let blocks = text.split("\n\n").filter(|block| block.contains("data: ") && !block.contains("event: "));
    blocks
        .map(|block| {
            let line = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            let (shard, seq) = line("data: ").split_once(':').unwrap();
            let cursor = Cursor::parse(line("id: ")).unwrap();
            (cursor, (shard.parse().unwrap(), seq.parse().unwrap()))
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Wherever a listener begins, however the live feed is cut, however little the ring and a page of
    /// the log hold, and whenever its socket takes something: every wanted event after its cursor comes
    /// once and in its shard's order, and each event's id is exactly what has been sent until then.
    #[test]
    fn every_wanted_event_comes_once_and_every_id_says_what_came(
        shards in prop::sample::select(vec![1u64, 2, 4]),
        channels in prop::collection::vec(0..NAMES.len(), 40..200),
        topics in prop::sample::subsequence(vec!["a", "b.*", "b.x", "d.>", "c", "*"], 1..5),
        starts in prop::collection::vec(0u64..40, 4),
        live in prop::collection::vec((0usize..4, 1u64..12, 0u64..3, 0u64..8, any::<bool>()), 0..40),
        ring_bytes in 2_000usize..40_000,
        page in 1usize..20,
    ) {
        let shards = ShardCount::new(shards).unwrap();
        let journal = Journal::new(shards, &channels);
        let topics: Vec<Pattern> = topics.iter().map(|t| Pattern::parse(*t).unwrap()).collect();
        let all = [vec![Pattern::parse("broadcast").unwrap()], topics.clone()].concat();
        let subscription = Subscription::new(&all, shards);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        let (text, start) = runtime.block_on(async {
            let hub = hub_of(shards, ring_bytes);
            let mut heads = Vec::new();
            for shard in shards.shards() {
                let head = journal.last(shard).min(BEFORE_RING);
                hub.restart(shard, EPOCH, head);
                journal.logged(shard, head);
                heads.push(head);
            }
            let mut cursor = Cursor::default();
            for shard in shards.shards() {
                let seq = starts[shard.index()].min(heads[shard.index()]);
                cursor.set(Position { shard, epoch: EPOCH, seq });
            }
            let log = {
                let journal = journal.clone();
                TestLog::new(1, 0, 0, move |query| Ok(journal.replay(query, page)))
            };
            let shared = Shared::new(hub.clone(), log, Config::default());
            let begin = Begin::After(Ok(cursor));
            let mut connection =
                Connection::new(Arc::new(shared), subscription.clone(), begin, ClientId::from(0));
            let mut text = String::new();
            let feed = |shard: Shard, head: &mut u64, more: u64, overlap: u64, ahead: u64| {
                let to = (*head + more).min(journal.last(shard));
                // The log may know more than the ring, never less.
                journal.logged(shard, (to + ahead).min(journal.last(shard)));
                hub.apply(&journal.batch(shard, head.saturating_sub(overlap), to, |_| true));
                *head = to;
            };
            for (at, more, overlap, ahead, reads) in live {
                let shard = shards.shards().nth(at % usize::from(shards.get())).unwrap();
                feed(shard, &mut heads[shard.index()], more, overlap, ahead);
                if reads
                    && let Ok(chunk) = tokio::time::timeout(Duration::from_secs(1), connection.next_chunk()).await
                {
                    text.push_str(std::str::from_utf8(&chunk.unwrap()).unwrap());
                }
            }
            for shard in shards.shards() {
                feed(shard, &mut heads[shard.index()], u64::MAX / 2, 0, 0);
            }
            while let Ok(chunk) = tokio::time::timeout(Duration::from_secs(1), connection.next_chunk()).await {
                text.push_str(std::str::from_utf8(&chunk.unwrap()).unwrap());
            }
            (text, cursor)
        });
        prop_assert!(!text.contains("stream-reset") && !text.contains("stream-end"), "{}", text);
        let got = events(&text);
        for shard in shards.shards() {
            let from = start.get(shard).unwrap().1;
            let wanted = subscription.shards.iter().find(|(s, _)| *s == shard);
            let wanted = |e: &FeedEvent| wanted.is_some_and(|(_, topics)| topics.want(e.channel.as_str()));
            let owed: Vec<u64> =
                journal.batch(shard, from, u64::MAX, wanted).events.iter().map(|e| e.seq).collect();
            let came: Vec<u64> = got.iter().filter(|(_, (s, _))| *s == shard.index()).map(|(_, (_, seq))| *seq).collect();
            prop_assert_eq!(&came, &owed, "shard {}", shard);
            // What a listener that came back with this id would be owed is what comes after it here.
            for (nth, (cursor, _)) in got.iter().enumerate() {
                let Some((_, at)) = cursor.get(shard) else { continue };
                let after: Vec<u64> = owed.iter().copied().filter(|seq| *seq > at).collect();
                let later: Vec<u64> =
                    got[nth + 1..].iter().filter(|(_, (s, _))| *s == shard.index()).map(|(_, (_, seq))| *seq).collect();
                prop_assert_eq!(after, later, "after {}", cursor);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// However a stream is served meanwhile, and whatever it is made to hear: up to the position that it is answered
    /// it has heard the old set, and from there on it hears the new one, each event once and in its shard's order.
    #[test]
    fn a_change_holds_from_the_position_that_is_answered(
        shards in prop::sample::select(vec![1u64, 2, 4]),
        channels in prop::collection::vec(0..NAMES.len(), 40..200),
        starts in prop::collection::vec(0u64..40, 4),
        live in prop::collection::vec(
            (
                0usize..4,
                1u64..12,
                any::<bool>(),
                prop::option::of(prop::sample::subsequence(vec!["a", "b.*", "b.x", "c", "*"], 0..4)),
            ),
            0..40,
        ),
        ring_bytes in 2_000usize..40_000,
        page in 1usize..20,
    ) {
        let shards = ShardCount::new(shards).unwrap();
        let journal = Journal::new(shards, &channels);
        let set = |topics: &[&str]| {
            // A pattern, so that every set has something in every shard.
            let topics = ["d.>"].iter().chain(topics).map(|topic| Pattern::parse(*topic).unwrap());
            Subscription::new(&topics.collect::<Vec<_>>(), shards)
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        let (text, sets) = runtime.block_on(async {
            let hub = hub_of(shards, ring_bytes);
            let (mut heads, mut cursor) = (Vec::new(), Cursor::default());
            for shard in shards.shards() {
                let head = journal.last(shard).min(BEFORE_RING);
                hub.restart(shard, EPOCH, head);
                journal.logged(shard, head);
                cursor.set(Position { shard, epoch: EPOCH, seq: starts[shard.index()].min(head) });
                heads.push(head);
            }
            let log = {
                let journal = journal.clone();
                TestLog::new(1, 0, 0, move |query| Ok(journal.replay(query, page)))
            };
            let shared = Shared::new(hub.clone(), log, Config::default());
            let (mut sets, begin) = (vec![(cursor, set(&["a"]))], Begin::After(Ok(cursor)));
            let id = ClientId::from(0);
            let mut connection = Connection::new(Arc::new(shared), set(&["a"]), begin, id);
            let mut text = String::new();
            let second = Duration::from_secs(1);
            for (at, more, reads, change) in live {
                let shard = shards.shards().nth(at % usize::from(shards.get())).unwrap();
                let head = &mut heads[shard.index()];
                let to = (*head + more).min(journal.last(shard));
                journal.logged(shard, to);
                hub.apply(&journal.batch(shard, *head, to, |_| true));
                *head = to;
                let mut asked = None;
                if let Some(topics) = change {
                    let (answer, answered) = tokio::sync::oneshot::channel();
                    let (auth, caller) = (Arc::new(foghorn_auth::Authenticator::open()), foghorn_auth::Caller::Unchecked);
                    let (client_id, shards) = (id, Some(set(&topics).shards));
                    hub.ask(Ask { client_id, caller, shards, types: None, grants: None, auth, answer }).unwrap();
                    asked = Some((set(&topics), answered));
                }
                while (reads || asked.is_some())
                    && let Ok(chunk) = tokio::time::timeout(second, connection.next_chunk()).await
                {
                    text.push_str(std::str::from_utf8(&chunk.unwrap()).unwrap());
                    let Some((set, mut answered)) = asked.take() else { break };
                    match answered.try_recv() {
                        Ok(changed) => sets.push((changed.unwrap().cursor, set)),
                        // It has yet to begin.
                        Err(_) => asked = Some((set, answered)),
                    }
                }
                // One that changes nothing is not told.
                if let Some((set, mut answered)) = asked {
                    let changed = answered.try_recv();
                    prop_assert!(changed.is_ok(), "it is never changed");
                    sets.push((changed.unwrap().unwrap().cursor, set));
                }
            }
            for shard in shards.shards() {
                journal.logged(shard, journal.last(shard));
                hub.apply(&journal.batch(shard, heads[shard.index()], journal.last(shard), |_| true));
            }
            while let Ok(chunk) = tokio::time::timeout(second, connection.next_chunk()).await {
                text.push_str(std::str::from_utf8(&chunk.unwrap()).unwrap());
            }
            Ok::<_, TestCaseError>((text, sets))
        })?;
        prop_assert!(!text.contains("stream-reset") && !text.contains("stream-end"), "{}", text);
        let got = events(&text);
        for shard in shards.shards() {
            let mut owed = Vec::new();
            for (nth, (cursor, set)) in sets.iter().enumerate() {
                let upto = sets.get(nth + 1).map_or(u64::MAX, |(next, _)| next.get(shard).unwrap().1);
                let (_, topics) = set.shards.iter().find(|(s, _)| *s == shard).unwrap();
                let wanted = |event: &FeedEvent| topics.want(event.channel.as_str());
                let from = cursor.get(shard).unwrap().1;
                owed.extend(journal.batch(shard, from, upto, wanted).events.iter().map(|event| event.seq));
            }
            let came: Vec<u64> = got.iter().filter(|(_, (s, _))| *s == shard.index()).map(|(_, (_, seq))| *seq).collect();
            prop_assert_eq!(&came, &owed, "shard {}", shard);
        }
    }
}
