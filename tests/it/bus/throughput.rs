//! How fast the journal is, beside the plain client on the same server. CPU times hold on a busy machine, rates
//! only on a quiet one.

use std::time::Instant;

use foghorn_bus::journal::Journal;
use foghorn_core::shard::Shard;
use futures::StreamExt;

use super::{Nats, append};

const COUNT: u32 = 200_000;
const AT_ONCE: usize = 1000;

#[tokio::test]
#[ignore = "a measurement: run it alone, with --release and --nocapture"]
async fn throughput() {
    let nats = Nats::start().await;
    let journal = nats.journal(1).await;
    let jetstream = async_nats::jetstream::new(nats.client().await);
    let config = async_nats::jetstream::stream::Config {
        name: "RAW".to_owned(),
        subjects: vec!["raw.>".to_owned()],
        ..Default::default()
    };
    jetstream.create_stream(config).await.unwrap();
    let (journal, jetstream) = (&journal, &jetstream);
    for round in 0..2 {
        measured("plain client publishes", async {
            let publishes = futures::stream::iter(0..COUNT).map(|n| async move {
                let mut headers = async_nats::HeaderMap::new();
                headers.insert("Nats-Msg-Id", format!("{round}-{n:020}"));
                let data = "x".repeat(200).into();
                let sent = jetstream.publish_with_headers("raw.orders.eu.1", headers, data).await;
                sent.unwrap().await.unwrap();
            });
            publishes.buffer_unordered(AT_ONCE).count().await;
        })
        .await;
        measured("appends", async {
            let appends =
                futures::stream::iter(0..COUNT).map(|_| append(journal, "orders.eu.1", "x".repeat(200)));
            appends.buffer_unordered(AT_ONCE).count().await;
        })
        .await;
    }
    let last = u64::from(2 * COUNT);
    measured("entries tailed", async {
        // Not kept: an entry's data are a part of what came over the socket in one read, and hold it all.
        let tail = journal.tail(Shard::ZERO, last - u64::from(COUNT)).take(COUNT as usize);
        tail.for_each(async |entry| assert!(entry.unwrap().event.is_ok())).await;
    })
    .await;
    measured("entries read", async {
        let mut after = last - u64::from(COUNT);
        while after < last {
            after = journal.read(Shard::ZERO, after, 5000, 16 << 20).await.unwrap().to;
        }
    })
    .await;
}

/// Runs what handles [`COUNT`] things and says how fast.
async fn measured(what: &str, work: impl Future<Output = ()>) {
    let (begun, used) = (Instant::now(), cpu_ticks());
    work.await;
    let rate = f64::from(COUNT) / begun.elapsed().as_secs_f64();
    let each = f64::from(cpu_ticks() - used) * 10_000.0 / f64::from(COUNT);
    println!("{what}: {rate:.0}/s, {each:.2} us of our CPU each");
}

/// What this process has used, in hundredths of a second (see proc_pid_stat(5)).
fn cpu_ticks() -> u32 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields = stat.rsplit_once(") ").unwrap().1.split(' ');
    fields.skip(11).take(2).map(|ticks| ticks.parse::<u32>().unwrap()).sum()
}
