//! The journal on a server that is well.

use std::time::Duration;

use foghorn_bus::journal::{AppendError, Fence, Journal};
use foghorn_bus::metrics::Metrics;
use foghorn_bus::nats::{Bus, BusError, NatsJournal, NatsOptions};
use foghorn_core::channel::Channel;
use foghorn_core::entry::{InvalidEntry, Key, NewEntry};
use foghorn_core::event::{EventError, EventId, EventType, Ttl};
use foghorn_core::position::Position;
use foghorn_core::shard::Shard;
use foghorn_core::time::Timestamp;
use foghorn_core::trace::TraceContext;
use futures::StreamExt as _;
use serde_json::{Value, json};

use super::raw::store;
use super::{LIMIT, Nats, append, at, data, follow, new_entry, parameters};

const ZERO: Shard = Shard::ZERO;

#[tokio::test]
async fn what_is_appended_is_read_tailed_and_found_by_time() {
    let nats = Nats::start().await;
    let journal = nats.journal(1).await;
    let epoch = journal.epoch(ZERO);
    let empty = journal.bounds(ZERO).await.unwrap();
    assert_eq!((empty.epoch, empty.first, empty.last), (epoch, 1, 0));
    assert_eq!(journal.seek(ZERO, Timestamp::default()).await.unwrap(), 0);

    let mut full = new_entry("a.b", Some("id-1"), "line 1\nline 2");
    full.event.event_type = Some(EventType::parse("tick").unwrap());
    full.event.ttl = Some(Ttl::new(60).unwrap());
    full.traceparent = TraceContext::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    let first = journal.append(full.clone()).await.unwrap();
    assert_eq!(first.position, Position { shard: ZERO, epoch, seq: 1 });
    assert!(!first.duplicate);
    for n in 2..=5 {
        assert_eq!(append(&journal, "a.c", n.to_string()).await.position.seq, n);
    }

    let tailed = follow(&journal, ZERO, 0, 5).await;
    let page = journal.read(ZERO, 0, 100, 1 << 20).await.unwrap();
    assert_eq!((page.epoch, page.from, page.to, page.tip), (epoch, 0, 5, 5));
    assert_eq!(page.entries.len(), 5);
    for (read, tailed) in page.entries.iter().zip(&tailed) {
        assert_eq!(
            (read.seq, read.time, read.key, read.digest),
            (tailed.seq, tailed.time, tailed.key, tailed.digest)
        );
        assert_eq!(read.event, tailed.event);
    }
    assert_eq!(page.entries[0].event.as_ref(), Ok(&full.event));
    assert_eq!(page.entries[0].key, Some(full.key));
    // Of which trace it is a part travels with it.
    assert_eq!([page.entries[0].traceparent, tailed[0].traceparent], [full.traceparent; 2]);
    assert_eq!(page.entries[1].traceparent, None);
    assert_ne!(page.entries[1].digest, page.entries[2].digest);

    // By count, by bytes (at least one), from the middle, at the end.
    let page = journal.read(ZERO, 1, 2, 1 << 20).await.unwrap();
    assert_eq!((page.from, page.to, page.tip, page.entries.len()), (1, 3, 5, 2));
    let page = journal.read(ZERO, 2, 100, 1).await.unwrap();
    assert_eq!((page.from, page.to, page.tip, page.entries.len()), (2, 3, 5, 1));
    let page = journal.read(ZERO, 5, 100, 1 << 20).await.unwrap();
    assert_eq!((page.from, page.to, page.tip, page.entries.len()), (5, 5, 5, 0));

    let third = tailed[2].time;
    assert_eq!(journal.seek(ZERO, third).await.unwrap(), 2);
    assert_eq!(journal.seek(ZERO, third.plus(Duration::from_micros(1))).await.unwrap(), 3);
    assert_eq!(journal.seek(ZERO, Timestamp::default()).await.unwrap(), 0);
    assert_eq!(journal.seek(ZERO, tailed[4].time.plus(LIMIT)).await.unwrap(), 5);
}

#[tokio::test]
async fn a_key_is_taken_once() {
    let nats = Nats::start().await;
    let journal = nats.journal(1).await;
    let first = journal.append(new_entry("a", Some("7"), "one")).await.unwrap();
    let again = journal.append(new_entry("a", Some("7"), "two")).await.unwrap();
    assert_eq!((again.position, again.duplicate), (first.position, true));
    // The same id on another channel is another event.
    let other = journal.append(new_entry("b", Some("7"), "three")).await.unwrap();
    assert_eq!((other.position.seq, other.duplicate), (2, false));
    assert_eq!(data(&follow(&journal, ZERO, 0, 1).await[0]), "one");
}

#[tokio::test]
async fn what_is_on_its_way_behind_a_fence_is_refused_once_it_is_raised_anew() {
    let nats = Nats::start().await;
    // Two processes.
    let (stopped, next) = (nats.journal(1).await, nats.journal(1).await);
    let fence = Channel::parse("fence").unwrap();
    let behind = async |journal: &NatsJournal, fence: &Fence, data: &str| {
        let mut answers = journal.append_behind(fence.clone(), vec![new_entry("a", None, data)]);
        answers.next().await.unwrap().map(|appended| appended.position.seq)
    };
    let first = stopped.raise(fence.clone()).await.unwrap();
    assert_eq!(behind(&stopped, &first, "1").await, Ok(2));
    // What others publish, on the same channel too, is no matter.
    append(&next, "a", "2").await;
    assert_eq!(behind(&stopped, &first, "3").await, Ok(4));
    let second = next.raise(fence.clone()).await.unwrap();
    assert_eq!(behind(&stopped, &first, "never").await, Err(AppendError::Fenced));
    assert_eq!(behind(&next, &second, "4").await, Ok(6));
    // One that the journal has no more lets nothing through either.
    next.trim(at(&next, ZERO, 5).await).await.unwrap();
    assert_eq!(behind(&next, &second, "never").await, Err(AppendError::Fenced));
    assert_eq!(behind(&stopped, &first, "never").await, Err(AppendError::Fenced));
    assert_eq!(next.bounds(ZERO).await.unwrap().last, 6, "none of the refused was stored");
}

#[tokio::test]
async fn concurrent_appends_get_one_order() {
    let nats = Nats::start().await;
    let journal = nats.journal(1).await;
    let journal = &journal;
    let appends =
        (0..500).map(|n| async move { (append(journal, "a", n.to_string()).await.position.seq, n) });
    let mut acked = futures::future::join_all(appends).await;
    acked.sort_unstable();
    let tailed = follow(journal, ZERO, 0, 500).await;
    for ((seq, n), entry) in acked.into_iter().zip(tailed) {
        assert_eq!((entry.seq, data(&entry)), (seq, n.to_string().as_str()));
    }
}

#[tokio::test]
async fn a_read_passes_over_what_was_deleted_and_more_than_one_batch() {
    let nats = Nats::start().await;
    let journal = nats.journal(1).await;
    let appends = (0..2500).map(|n| append(&journal, "a", n.to_string()));
    futures::future::join_all(appends).await;
    let client = nats.client().await;
    for seq in [1, 2, 3, 1500, 2499, 2500] {
        let body = json!({ "seq": seq }).to_string();
        client.request("$JS.API.STREAM.MSG.DELETE.FOGHORN_0", body.into()).await.unwrap();
    }
    let page = journal.read(ZERO, 0, 10_000, 64 << 20).await.unwrap();
    assert_eq!((page.to, page.tip), (2500, 2500));
    assert_eq!(page.entries.len(), 2494);
    assert!(page.entries.is_sorted_by(|a, b| a.seq < b.seq));
}

#[tokio::test]
async fn trimming_forgets_the_beginning_and_never_moves_the_end() {
    let nats = Nats::start().await;
    let journal = nats.journal(1).await;
    for n in 1..=5 {
        append(&journal, "a", n.to_string()).await;
    }
    journal.trim(at(&journal, ZERO, 3).await).await.unwrap();
    journal.trim(at(&journal, ZERO, 2).await).await.unwrap();
    let bounds = journal.bounds(ZERO).await.unwrap();
    assert_eq!((bounds.first, bounds.last), (4, 5));
    let page = journal.read(ZERO, 0, 100, 1 << 20).await.unwrap();
    assert_eq!((page.from, page.to, page.entries.len()), (3, 5, 2));
    assert_eq!(data(&follow(&journal, ZERO, 0, 1).await[0]), "4");
    // Beyond the end: everything goes, the numbering stays.
    journal.trim(at(&journal, ZERO, 1000).await).await.unwrap();
    let bounds = journal.bounds(ZERO).await.unwrap();
    assert_eq!((bounds.first, bounds.last), (6, 5));
    assert_eq!(append(&journal, "a", "6").await.position.seq, 6);
    assert_eq!(data(&follow(&journal, ZERO, 5, 1).await[0]), "6");
}

#[tokio::test]
async fn a_full_journal_refuses_and_recovers_after_a_trim() {
    let nats = Nats::start().await;
    let options = NatsOptions { journal_bytes: 64 * 1024, ..nats.options() };
    let bus = Bus::connect(options, Metrics::default()).await.unwrap();
    let journal = bus.journal(&parameters(1)).await.unwrap();
    let mut last = 0;
    let refused = loop {
        match journal.append(new_entry("a", None, "x".repeat(1000))).await {
            Ok(appended) => last = appended.position.seq,
            Err(error) => break error,
        }
    };
    assert_eq!(refused, AppendError::Full(ZERO));
    // What was there stays.
    let bounds = journal.bounds(ZERO).await.unwrap();
    assert_eq!((bounds.first, bounds.last), (1, last));
    journal.trim(at(&journal, ZERO, last / 2).await).await.unwrap();
    assert_eq!(append(&journal, "a", "again").await.position.seq, last + 1);
}

#[tokio::test]
async fn absurd_entries_are_covered_and_skipped() {
    let nats = Nats::start().await;
    let journal = nats.journal(4).await;
    let shard = journal.shards().shard_of_str("a");
    let other = journal.shards().shards().find(|other| *other != shard).unwrap();
    assert_eq!(append(&journal, "a", "first").await.position.seq, 1);
    let subject = format!("foghorn.journal.{shard}.a");
    store(&nats, &subject, b"NATS/1.0\r\nFoghorn-Ttl: soon\r\n\r\n", b"x");
    store(&nats, &subject, b"", b"ab\xff");
    store(&nats, &format!("foghorn.journal.{shard}.a$"), b"", b"x");
    // Headers that the client library drops the connection over: not UTF-8, no header at all, and a
    // status that is none.
    store(&nats, &subject, b"NATS/1.0\r\nFoghorn-Id: \xff\r\n\r\n", b"x");
    store(&nats, &subject, b"NATS/1.0\r\nnonsense\r\n\r\n", b"passed");
    store(&nats, &subject, b"NATS/1.0 abc\r\n\r\n", b"passed");
    // What the server itself says, in a publisher's mouth.
    store(&nats, &subject, b"NATS/1.0 204 EOB\r\nNats-Sequence: 1\r\nNats-Num-Pending: 0\r\n\r\n", b"passed");
    assert_eq!(append(&journal, "a", "last").await.position.seq, 9);

    let tailed = follow(&journal, shard, 0, 9).await;
    let page = journal.read(shard, 0, 100, 1 << 20).await.unwrap();
    assert_eq!((page.to, page.entries.len()), (9, 9));
    for (tailed, read) in tailed.iter().zip(&page.entries) {
        assert_eq!((tailed.seq, tailed.digest, &tailed.event), (read.seq, read.digest, &read.event));
    }
    let errors: Vec<_> = tailed.iter().map(|entry| entry.event.as_ref().err().cloned()).collect();
    assert_eq!(errors[1], Some(InvalidEntry::Event(EventError::Ttl)));
    assert_eq!(errors[2], Some(InvalidEntry::Event(EventError::NotUtf8 { at: 2 })));
    assert!(matches!(errors[3], Some(InvalidEntry::Event(EventError::Channel(_)))));
    assert!(matches!(errors[4], Some(InvalidEntry::Event(EventError::EventType(_)))));
    assert!(errors[5..].iter().all(Option::is_none), "{errors:?}");
    assert!(tailed[5..8].iter().all(|entry| data(entry) == "passed"));

    store(&nats, &format!("foghorn.journal.{other}.a"), b"", b"x");
    let strayed = follow(&journal, other, 0, 1).await;
    assert!(matches!(strayed[0].event, Err(InvalidEntry::WrongShard { found, .. }) if found == other));
}

#[tokio::test]
async fn services_may_publish_to_the_journal_themselves() {
    let nats = Nats::start().await;
    let journal = nats.journal(1).await;
    let client = nats.client().await;
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Nats-Msg-Id", "order-7");
    headers.insert("Foghorn-Event", "paid");
    let ack = client.request_with_headers("foghorn.journal.0.orders.7", headers, "{}".into()).await.unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&ack.payload).unwrap()["seq"], 1);
    let entry = follow(&journal, ZERO, 0, 1).await.remove(0);
    assert_eq!(entry.key, Some(Key::from_message_id("order-7")));
    assert_eq!(entry.event.unwrap().event_type, Some(EventType::parse("paid").unwrap()));
}

#[tokio::test]
async fn parameters_that_differ_are_named() {
    let nats = Nats::start().await;
    let bus = nats.bus().await;
    bus.agree(&parameters(1)).await.unwrap();
    bus.agree(&parameters(1)).await.unwrap();
    let error = bus.journal(&parameters(4)).await.unwrap_err().to_string();
    assert!(error.contains("configured for 4 shards, the cluster runs 1"), "{error}");
    let mut smaller = parameters(1);
    smaller.event_bytes = 1000;
    let error = bus.agree(&smaller).await.unwrap_err().to_string();
    assert!(error.contains("at most 1000 bytes, the cluster runs 262144"), "{error}");
}

/// As `nats kv del` does: a message without content that says so.
async fn delete_key(client: &async_nats::Client, subject: &str) {
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("KV-Operation", "DEL");
    let ack = client.request_with_headers(subject.to_owned(), headers, "".into()).await.unwrap();
    assert!(serde_json::from_slice::<Value>(&ack.payload).unwrap()["seq"].is_u64());
}

/// The last JSON under a key.
async fn get_key(client: &async_nats::Client, bucket: &str, key: &str) -> Value {
    let body = json!({ "last_by_subj": format!("$KV.{bucket}.{key}") }).to_string();
    let answer = client.request(format!("$JS.API.DIRECT.GET.KV_{bucket}"), body.into()).await.unwrap();
    serde_json::from_slice(&answer.payload).unwrap()
}

#[tokio::test]
async fn another_number_of_shards_is_a_new_epoch_in_each() {
    let nats = Nats::start().await;
    let client = nats.client().await;
    let epochs = |journal: &NatsJournal| -> Vec<_> {
        journal.shards().shards().map(|shard| journal.epoch(shard)).collect()
    };
    let first = epochs(&nats.journal(2).await);
    assert_eq!(epochs(&nats.journal(2).await), first, "a restart is no new epoch");

    let change = async |shards: u64| {
        delete_key(&client, "$KV.FOGHORN_cluster.parameters").await;
        let journal = nats.journal(shards).await;
        let changed = epochs(&journal);
        assert_eq!(epochs(&nats.journal(shards).await), changed, "nor is it one after the change");
        changed
    };
    let second = change(1).await;
    assert!(second[0] > first[0]);
    // Back to what it was: the second shard's record never said anything else.
    let third = change(2).await;
    assert!(third[0] > second[0] && third[1] > first[1], "{first:?} {second:?} {third:?}");
    // And it can be written again after it was deleted, by whoever is first.
    delete_key(&client, "$KV.FOGHORN_cluster.parameters").await;
    assert_eq!(epochs(&nats.journal(2).await), third, "the same number is no new epoch");
    assert_eq!(get_key(&client, "FOGHORN_cluster", "parameters").await["shards"], 2);
}

#[tokio::test]
async fn an_epoch_recorded_without_the_number_of_shards_goes_on() {
    let nats = Nats::start().await;
    let client = nats.client().await;
    let epoch = nats.journal(1).await.epoch(ZERO);
    let mut record = get_key(&client, "FOGHORN_epochs", "0").await;
    assert_eq!(record.as_object_mut().unwrap().remove("shards"), Some(json!(1)));
    client.request("$KV.FOGHORN_epochs.0", record.to_string().into()).await.unwrap();
    assert_eq!(nats.journal(1).await.epoch(ZERO), epoch);
    // From now on it says so.
    assert_eq!(get_key(&client, "FOGHORN_epochs", "0").await["shards"], 1);
}

#[tokio::test]
async fn a_stream_that_could_lose_events_is_refused_by_the_setting() {
    let nats = Nats::start().await;
    let journal = nats.journal(1).await;
    append(&journal, "a", "x").await;
    drop(journal);
    let client = nats.client().await;
    for (setting, bad, good) in [
        ("max_age", json!(120_000_000_000u64), json!(0)),
        ("discard", json!("old"), json!("new")),
        ("allow_rollup_hdrs", json!(true), json!(false)),
        ("max_msgs_per_subject", json!(5), json!(-1)),
    ] {
        for value in [&bad, &good] {
            let info = client.request("$JS.API.STREAM.INFO.FOGHORN_0", "".into()).await.unwrap();
            let mut config = serde_json::from_slice::<Value>(&info.payload).unwrap()["config"].take();
            config[setting] = value.clone();
            let body = config.to_string();
            let answer = client.request("$JS.API.STREAM.UPDATE.FOGHORN_0", body.into()).await.unwrap();
            let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
            assert!(answer["error"].is_null(), "{answer}");
            let opened = nats.bus().await.journal(&parameters(1)).await;
            if value == &bad {
                let error = opened.unwrap_err();
                assert!(
                    matches!(error, BusError::Stream { setting: named, .. } if named == setting),
                    "{error}"
                );
            } else {
                opened.unwrap();
            }
        }
    }
}

#[tokio::test]
async fn two_processes_agree_on_the_epoch() {
    let nats = Nats::start().await;
    let (one, two) = tokio::join!(nats.journal(2), nats.journal(2));
    for shard in one.shards().shards() {
        assert_eq!(one.epoch(shard), two.epoch(shard));
        assert_eq!(one.bounds(shard).await.unwrap().epoch, two.epoch(shard));
    }
    let id = EventId::parse("1").unwrap();
    let entry = new_entry("a", None, "x");
    let entry = NewEntry { key: Key::of(&entry.event.channel, &id), ..entry };
    let (one, two) = tokio::join!(one.append(entry.clone()), two.append(entry));
    assert_eq!(one.unwrap().position, two.unwrap().position);
}
