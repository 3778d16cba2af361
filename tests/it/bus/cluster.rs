//! The journal on three servers with three copies, while the stream's leader dies.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use foghorn_bus::journal::{AppendError, Appended, Journal};
use foghorn_bus::metrics::Metrics;
use foghorn_bus::nats::{Bus, NatsJournal, NatsOptions};
use foghorn_core::channel::Channel;
use foghorn_core::entry::NewEntry;
use foghorn_core::shard::Shard;
use foghorn_tests::nats::NatsServer;
use foghorn_tests::port::Port;
use foghorn_tests::wait::until;
use futures::StreamExt as _;
use prometheus_client::registry::Registry;
use serde_json::Value;

use super::{LIMIT, data, follow, new_entry, parameters};

const ZERO: Shard = Shard::ZERO;
const KILLS: u64 = 2;

struct Cluster {
    servers: Vec<NatsServer>,
    routes: Vec<Port>,
}

impl Cluster {
    async fn start() -> Self {
        let mut cluster = Cluster { servers: Vec::new(), routes: (0..3).map(|_| Port::lease()).collect() };
        for n in 0..3 {
            cluster.start_server(n).await;
        }
        cluster
    }

    /// One more than there are.
    async fn grow(&mut self) {
        self.routes.push(Port::lease());
        self.start_server(self.servers.len()).await;
    }

    async fn start_server(&mut self, n: usize) {
        let routes: Vec<_> = self.routes.iter().map(|port| format!("nats://{}", port.address())).collect();
        let (name, all) = (format!("n{n}"), routes.join(","));
        let arguments = ["--name", &name, "--cluster_name", "c", "--cluster", &routes[n], "--routes", &all];
        self.servers.push(NatsServer::start_with(&arguments).await);
    }

    fn options(&self, replicas: usize) -> NatsOptions {
        let urls = self.servers.iter().map(NatsServer::url).collect();
        NatsOptions { urls, replicas, ..NatsOptions::default() }
    }

    async fn journal(&self) -> NatsJournal {
        let bus = Bus::connect(self.options(3), Metrics::default()).await.unwrap();
        bus.journal(&parameters(1)).await.unwrap()
    }

    /// Which server leads the stream, once the others have all that it has: what is promised is that any one
    /// may be killed, not one while another has yet to catch up.
    async fn leader(&self) -> usize {
        let urls: Vec<_> =
            self.servers.iter().map(|s| s.url().parse::<async_nats::ServerAddr>().unwrap()).collect();
        let client = async_nats::connect(urls).await.unwrap();
        until("a leader", LIMIT, async || {
            let info = client.request("$JS.API.STREAM.INFO.FOGHORN_0", "".into()).await.ok()?;
            let info: Value = serde_json::from_slice(&info.payload).unwrap();
            let others = info["cluster"]["replicas"].as_array()?;
            let current = others.iter().filter(|replica| replica["current"] == true).count();
            (current == 2).then_some(())?;
            info["cluster"]["leader"].as_str()?.strip_prefix('n')?.parse().ok()
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_before_the_servers_for_all_copies_waits_for_them() {
    let mut cluster = Cluster::start().await;
    let mut registry = Registry::default();
    let (options, metrics) = (cluster.options(5), Metrics::register(&mut registry));
    let coming = tokio::spawn(async move {
        let bus = Bus::connect(options, metrics).await?;
        bus.journal(&parameters(1)).await
    });
    until("it to have been refused", LIMIT, async || {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let retries = text.lines().find_map(|line| line.strip_prefix("foghorn_bus_setup_retries_total "));
        // Once is for a leader that is yet to be elected.
        (retries.unwrap().parse::<u64>().unwrap() >= 4).then_some(())
    })
    .await;
    assert!(!coming.is_finished(), "{:?}", coming.await);
    cluster.grow().await;
    cluster.grow().await;
    let journal = tokio::time::timeout(LIMIT, coming).await.expect("in time").unwrap().unwrap();
    publish(&journal, new_entry("a", None, "x".to_owned())).await;
}

/// As a publisher is told to: an event that nobody answers for is published again under the same key. An
/// election on a busy machine may outlast one deadline.
async fn publish(journal: &NatsJournal, entry: NewEntry) -> Appended {
    match journal.append(entry.clone()).await {
        Ok(appended) => {
            assert!(!appended.duplicate, "what the journal tries again by itself is no duplicate");
            appended
        }
        Err(AppendError::Unavailable(_)) => journal.append(entry).await.expect("the second deadline holds"),
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appends_behind_a_fence_that_meet_on_their_way_to_the_replicas_all_come_through() {
    let cluster = Cluster::start().await;
    let journal = cluster.journal().await;
    let fence = journal.raise(Channel::parse("fence").unwrap()).await.unwrap();
    let appends = (0..8).map(|n| {
        let entry = new_entry(&format!("c{n}"), None, "x");
        let mut answers = journal.append_behind(fence.clone(), vec![entry]);
        async move { answers.next().await.unwrap() }
    });
    for appended in futures::future::join_all(appends).await {
        appended.unwrap();
    }
    assert_eq!(journal.bounds(ZERO).await.unwrap().last, 9);
    journal.raise(Channel::parse("fence").unwrap()).await.unwrap();
    let mut late = journal.append_behind(fence, vec![new_entry("c", None, "x")]);
    assert_eq!(late.next().await.unwrap(), Err(AppendError::Fenced));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_leader_loses_nothing_that_was_acked_and_stores_nothing_twice() {
    let mut cluster = Cluster::start().await;
    let journal = cluster.journal().await;
    let epoch = journal.epoch(ZERO);
    let stop = Arc::new(AtomicBool::new(false));
    let publishers: Vec<_> = (0..32)
        .map(|publisher| {
            let (journal, stop) = (journal.clone(), stop.clone());
            tokio::spawn(async move {
                let mut acked = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let text = format!("{publisher}-{}", acked.len());
                    let appended = publish(&journal, new_entry("a", None, text.clone())).await;
                    acked.push((appended.position, text));
                }
                acked
            })
        })
        .collect();
    let mut enough = 0;
    for _ in 0..KILLS {
        enough += 1000;
        let there = async || journal.bounds(ZERO).await.ok().filter(|bounds| bounds.last >= enough);
        enough = until("appends", LIMIT, there).await.last;
        let leader = cluster.leader().await;
        cluster.servers[leader].kill();
        let there = async || journal.bounds(ZERO).await.ok().filter(|bounds| bounds.last >= enough + 200);
        until("appends to the new leader", LIMIT, there).await;
        cluster.servers[leader].restart().await;
    }
    stop.store(true, Ordering::Relaxed);
    let mut acked = BTreeMap::new();
    for publisher in publishers {
        for (position, text) in publisher.await.unwrap() {
            assert_eq!(position.epoch, epoch, "a new leader is no new epoch");
            assert_eq!(acked.insert(position.seq, text), None, "a seq is given out once");
        }
    }
    let last = *acked.last_key_value().unwrap().0;
    let mut stored = BTreeMap::new();
    let mut after = 0;
    while after < last {
        let page = journal.read(ZERO, after, 1000, 1 << 20).await.unwrap();
        stored.extend(page.entries.iter().map(|entry| (entry.seq, data(entry).to_owned())));
        after = page.to;
    }
    assert_eq!(stored.len(), acked.len());
    assert_eq!(stored, acked);
    let tailed = follow(&journal, ZERO, 0, acked.len()).await;
    assert!(tailed.iter().map(|entry| (entry.seq, data(entry).to_owned())).eq(acked));
}
