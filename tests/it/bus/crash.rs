//! The journal while its server dies.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use foghorn_bus::journal::{Journal, JournalError};
use foghorn_core::shard::Shard;
use foghorn_tests::wait::until;
use futures::StreamExt;
use nix::sys::signal::Signal;

use super::{LIMIT, Nats, append, at, data, follow, new_entry};

const ZERO: Shard = Shard::ZERO;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_loses_nothing_that_was_acked_and_the_tail_goes_on() {
    let mut nats = Nats::start().await;
    let journal = nats.journal(1).await;
    let stop = Arc::new(AtomicBool::new(false));
    let publishers: Vec<_> = (0..16)
        .map(|publisher| {
            let (journal, stop) = (journal.clone(), stop.clone());
            tokio::spawn(async move {
                let mut acked = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let text = format!("{publisher}-{}", acked.len());
                    let appended = journal.append(new_entry("a", None, text.clone())).await;
                    let appended = appended.expect("the deadline outlasts the restart");
                    assert!(!appended.duplicate, "a retry of ours is no duplicate");
                    acked.push((appended.position.seq, text));
                }
                acked
            })
        })
        .collect();
    let tailed = tokio::spawn({
        let journal = journal.clone();
        async move { follow(&journal, ZERO, 0, 3000).await }
    });
    for kill in 1..=2 {
        let enough = kill * 1000;
        until("appends", LIMIT, async || journal.bounds(ZERO).await.ok().filter(|b| b.last >= enough)).await;
        nats.server.kill();
        nats.server.restart().await;
    }
    until("appends", LIMIT, async || journal.bounds(ZERO).await.ok().filter(|b| b.last >= 3000)).await;
    stop.store(true, Ordering::Relaxed);
    let mut acked = BTreeMap::new();
    for publisher in publishers {
        acked.extend(publisher.await.unwrap());
    }
    let last = *acked.last_key_value().unwrap().0;
    let tailed = tailed.await.unwrap();
    let mut after = 0;
    let mut stored = BTreeMap::new();
    while after < last {
        let page = journal.read(ZERO, after, 1000, 1 << 20).await.unwrap();
        stored.extend(page.entries.iter().map(|entry| (entry.seq, data(entry).to_owned())));
        after = page.to;
    }
    // Nothing missing, nothing twice: all that is stored was acked, once each.
    assert_eq!(stored.len(), acked.len());
    assert_eq!(stored, acked);
    for entry in tailed {
        assert_eq!(acked[&entry.seq], data(&entry));
    }
}

#[tokio::test]
async fn a_server_that_hangs_ends_the_tail() {
    let mut nats = Nats::start().await;
    let journal = nats.journal(1).await;
    append(&journal, "a", "one").await;
    let mut tail = journal.tail(at(&journal, ZERO, 0).await);
    assert_eq!(data(&tail.next().await.unwrap().unwrap()), "one");
    nats.server.hang().await;
    let ended = tokio::time::timeout(LIMIT, tail.next()).await.expect("the tail ends").unwrap();
    assert!(matches!(ended, Err(JournalError::Unavailable(_))), "{ended:?}");
    assert!(tail.next().await.is_none());
    nats.server.signal(Signal::SIGCONT);
    append(&journal, "a", "two").await;
    assert_eq!(data(&follow(&journal, ZERO, 1, 1).await[0]), "two");
}

#[tokio::test]
async fn a_deleted_consumer_ends_the_tail() {
    let nats = Nats::start().await;
    let journal = nats.journal(1).await;
    append(&journal, "a", "one").await;
    let mut tail = journal.tail(at(&journal, ZERO, 0).await);
    assert_eq!(data(&tail.next().await.unwrap().unwrap()), "one");
    let client = nats.client().await;
    let names = client.request("$JS.API.CONSUMER.NAMES.FOGHORN_0", "".into()).await.unwrap();
    let names: serde_json::Value = serde_json::from_slice(&names.payload).unwrap();
    for name in names["consumers"].as_array().unwrap() {
        let subject = format!("$JS.API.CONSUMER.DELETE.FOGHORN_0.{}", name.as_str().unwrap());
        client.request(subject, "".into()).await.unwrap();
    }
    let ended = tokio::time::timeout(LIMIT, tail.next()).await.expect("the tail ends").unwrap();
    assert!(matches!(ended, Err(JournalError::Unavailable(_))), "{ended:?}");
}

#[tokio::test]
async fn a_wiped_store_is_a_new_epoch() {
    let mut nats = Nats::start().await;
    let journal = nats.journal(1).await;
    let old = journal.epoch(ZERO);
    for n in 0..10 {
        append(&journal, "a", n.to_string()).await;
    }
    let mut tail = journal.tail(at(&journal, ZERO, 9).await);
    assert_eq!(tail.next().await.unwrap().unwrap().seq, 10);
    nats.server.kill();
    std::fs::remove_dir_all(nats.store.path().join("jetstream")).unwrap();
    nats.server.restart().await;

    // Whether the tail hears of the epoch or only of the broken connection, it ends.
    assert!(tokio::time::timeout(LIMIT, tail.next()).await.expect("the tail ends").unwrap().is_err());
    let appended = append(&journal, "a", "anew").await;
    assert!(appended.position.epoch > old, "{}", appended.position);
    assert_eq!(appended.position.seq, 1);
    let bounds = journal.bounds(ZERO).await.unwrap();
    assert_eq!((bounds.epoch, bounds.first, bounds.last), (appended.position.epoch, 1, 1));
    assert_eq!(data(&follow(&journal, ZERO, 0, 1).await[0]), "anew");
    // Another process finds the same.
    assert_eq!(nats.journal(1).await.epoch(ZERO), appended.position.epoch);
}

#[tokio::test]
async fn a_journal_restored_from_an_older_copy_is_a_new_epoch() {
    let mut nats = Nats::start().await;
    let journal = nats.journal(1).await;
    let old = journal.epoch(ZERO);
    append(&journal, "a", "kept").await;
    nats.server.stop().await;
    let copy = tempfile::tempdir().unwrap();
    copy_all(&nats.store.path().join("jetstream"), copy.path());
    nats.server.restart().await;
    for n in 0..5 {
        append(&journal, "a", n.to_string()).await;
    }
    nats.server.kill();
    std::fs::remove_dir_all(nats.store.path().join("jetstream")).unwrap();
    copy_all(copy.path(), &nats.store.path().join("jetstream"));
    nats.server.restart().await;
    // The first to notice is whoever is given a seq that it has seen before.
    let appended = append(&journal, "a", "reissued").await;
    assert_eq!(appended.position.seq, 2);
    assert!(appended.position.epoch > old);
}

#[tokio::test]
async fn a_new_epoch_begins_with_the_first_entry_that_differs_from_what_was_read() {
    let mut nats = Nats::start().await;
    let journal = nats.journal(1).await;
    let old = journal.epoch(ZERO);
    for n in 1..=5 {
        append(&journal, "a", n.to_string()).await;
    }
    nats.server.stop().await;
    let copy = tempfile::tempdir().unwrap();
    copy_all(&nats.store.path().join("jetstream"), copy.path());
    nats.server.restart().await;
    for n in 6..=10 {
        append(&journal, "a", n.to_string()).await;
    }
    follow(&journal, ZERO, 0, 10).await;
    nats.server.kill();
    std::fs::remove_dir_all(nats.store.path().join("jetstream")).unwrap();
    copy_all(copy.path(), &nats.store.path().join("jetstream"));
    nats.server.restart().await;
    // Past what was read: nothing but digests can tell.
    let client = nats.client().await;
    for n in 6..=20 {
        client.request("foghorn.journal.0.a", format!("again {n}").into()).await.unwrap();
    }
    let bounds = until("the journal", LIMIT, async || journal.bounds(ZERO).await.ok()).await;
    assert_eq!((bounds.epoch, bounds.last), (old, 20));
    // Of who has read only what there is now, nothing is known.
    let other = nats.journal(1).await;
    follow(&other, ZERO, 0, 20).await;
    let new = journal.begin_anew(ZERO, old, None).await.unwrap();
    assert!(new > old);
    let bounds = journal.bounds(ZERO).await.unwrap();
    assert_eq!((bounds.epoch, bounds.first_seq, bounds.continues), (new, 6, Some(old)));
    assert_eq!(other.begin_anew(ZERO, old, None).await, Ok(new), "somebody did already");
    let newer = other.begin_anew(ZERO, new, None).await.unwrap();
    let bounds = other.bounds(ZERO).await.unwrap();
    assert_eq!((bounds.epoch, bounds.first_seq, bounds.continues), (newer, 1, Some(new)));
}

#[tokio::test]
async fn a_position_of_another_epoch_is_neither_tailed_nor_trimmed() {
    let nats = Nats::start().await;
    let journal = nats.journal(1).await;
    append(&journal, "a", "one").await;
    let before = at(&journal, ZERO, 1).await;
    let new = journal.begin_anew(ZERO, before.epoch, Some(2)).await.unwrap();
    append(&journal, "a", "two").await;
    let epoch = JournalError::Epoch { shard: ZERO, epoch: new };
    assert_eq!(journal.tail(before).next().await.unwrap().unwrap_err(), epoch);
    assert_eq!(journal.trim(before).await, Err(epoch));
    // Not even to see that nothing is gone: seq 9 of that epoch says nothing about this one.
    let beyond = foghorn_core::position::Position { seq: 9, ..before };
    assert!(journal.tail(beyond).next().await.unwrap().is_err());
    assert_eq!(journal.bounds(ZERO).await.unwrap().epoch, new);
    assert_eq!(data(&follow(&journal, ZERO, 1, 1).await[0]), "two");
}

#[tokio::test]
async fn a_tail_beyond_the_end_is_a_new_epoch() {
    let nats = Nats::start().await;
    let journal = nats.journal(1).await;
    let old = journal.epoch(ZERO);
    append(&journal, "a", "one").await;
    let error = journal.tail(at(&journal, ZERO, 5).await).next().await.unwrap().unwrap_err();
    let JournalError::Epoch { shard: ZERO, epoch } = error else { panic!("{error}") };
    assert!(epoch > old);
    assert_eq!(journal.epoch(ZERO), epoch);
}

#[tokio::test]
async fn whoever_starts_first_waits_for_the_server() {
    let mut nats = Nats::start().await;
    nats.server.kill();
    let options = nats.options();
    let connecting = tokio::spawn(async move {
        let bus =
            foghorn_bus::nats::Bus::connect(options, foghorn_bus::metrics::Metrics::default()).await.unwrap();
        assert!(bus.connected());
        let journal = bus.journal(&super::parameters(1)).await.unwrap();
        append(&journal, "a", "one").await;
        bus
    });
    nats.server.restart().await;
    let bus = tokio::time::timeout(LIMIT, connecting).await.expect("it connects").unwrap();
    nats.server.kill();
    until("the bus to notice", LIMIT, async || (!bus.connected()).then_some(())).await;
}

#[tokio::test]
async fn the_bus_knows_for_how_long_its_server_has_been_gone() {
    let mut nats = Nats::start().await;
    let bus = nats.bus().await;
    assert_eq!(bus.disconnected_for(), None);
    let killed = std::time::Instant::now();
    nats.server.kill();
    let a_while = std::time::Duration::from_millis(300);
    until("a while without a server", LIMIT, async || {
        let gone = bus.disconnected_for()?;
        assert!(gone <= killed.elapsed(), "{gone:?}");
        (gone >= a_while).then_some(())
    })
    .await;
    assert!(killed.elapsed() >= a_while);
    nats.server.restart().await;
    until("the server", LIMIT, async || bus.disconnected_for().is_none().then_some(())).await;
}

fn copy_all(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_all(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
