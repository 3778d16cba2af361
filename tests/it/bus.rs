//! The bus's adapters: against a real NATS server where they need one.

mod cluster;
mod crash;
mod journal;
mod poison;
mod ports;
mod raw;

use std::time::Duration;

use foghorn_bus::backoff::Backoff;
use foghorn_bus::journal::{Appended, Journal, JournalError};
use foghorn_bus::metrics::Metrics;
use foghorn_bus::nats::{Bus, NatsJournal, NatsOptions, Parameters};
use foghorn_core::channel::Channel;
use foghorn_core::entry::{Entry, Key, NewEntry};
use foghorn_core::event::{Event, EventId, FRAME_BYTES_DEFAULT};
use foghorn_core::position::Position;
use foghorn_core::shard::{Shard, ShardCount};
use foghorn_tests::nats::NatsServer;
use futures::StreamExt;
use tempfile::TempDir;

/// How long anything in here may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(30);

/// A NATS server with a store that a test may damage.
struct Nats {
    server: NatsServer,
    store: TempDir,
}

impl Nats {
    async fn start() -> Self {
        let store = tempfile::tempdir().unwrap();
        // The last `-sd` counts.
        let server = NatsServer::start_with(&["-sd", store.path().to_str().unwrap()]).await;
        Nats { server, store }
    }

    fn options(&self) -> NatsOptions {
        NatsOptions { urls: vec![self.server.url()], name: "test".to_owned(), ..NatsOptions::default() }
    }

    async fn bus(&self) -> Bus {
        Bus::connect(self.options(), Metrics::default()).await.unwrap()
    }

    async fn journal(&self, shards: u64) -> NatsJournal {
        self.bus().await.journal(&parameters(shards)).await.unwrap()
    }

    async fn client(&self) -> async_nats::Client {
        async_nats::connect(self.server.url()).await.unwrap()
    }
}

fn parameters(shards: u64) -> Parameters {
    Parameters { shards: ShardCount::new(shards).unwrap(), event_bytes: FRAME_BYTES_DEFAULT }
}

/// An event with an id, or with a key invented for it.
fn new_entry(channel: &str, id: Option<&str>, data: impl Into<String>) -> NewEntry {
    let mut event = Event::new(Channel::parse(channel).unwrap(), data.into());
    event.id = id.map(|id| EventId::parse(id).unwrap());
    let key = match &event.id {
        Some(id) => Key::of(&event.channel, id),
        None => Key::invented(invented()),
    };
    NewEntry { event, key, traceparent: None }
}

/// A number that was not given before.
fn invented() -> u128 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(1);
    u128::from(NEXT.fetch_add(1, Ordering::Relaxed))
}

async fn append(journal: &NatsJournal, channel: &str, data: impl Into<String>) -> Appended {
    journal.append(new_entry(channel, None, data)).await.unwrap()
}

/// The next `count` entries after `after`, tailing anew where a tail ends, as services do.
async fn follow(journal: &impl Journal, shard: Shard, mut after: u64, count: usize) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut backoff = Backoff::default();
    let all = async {
        while entries.len() < count {
            let mut tail = journal.tail(at(journal, shard, after).await);
            while entries.len() < count {
                match tail.next().await {
                    Some(Ok(entry)) => {
                        assert!(entry.seq > after, "{} after {after}", entry.seq);
                        after = entry.seq;
                        entries.push(entry);
                        backoff.reset();
                    }
                    Some(Err(JournalError::Unavailable(_))) => backoff.wait().await,
                    Some(Err(error)) => panic!("{error}"),
                    None => break,
                }
            }
        }
    };
    tokio::time::timeout(LIMIT, all).await.expect("the entries come in time");
    entries
}

/// A position in the shard's current epoch.
async fn at(journal: &impl Journal, shard: Shard, seq: u64) -> Position {
    let mut backoff = Backoff::default();
    let bounds = async {
        loop {
            match journal.bounds(shard).await {
                Ok(bounds) => return bounds,
                Err(_) => backoff.wait().await,
            }
        }
    };
    let bounds = tokio::time::timeout(LIMIT, bounds).await.expect("the journal answers in time");
    Position { shard, epoch: bounds.epoch, seq }
}

fn data(entry: &Entry) -> &str {
    &entry.event.as_ref().unwrap().data
}
