//! Journals and databases that go back in time: wiped, restored from an older copy, with sequence numbers
//! given out again. Who listens is told once, hears the right events after it and keeps none that is wrong;
//! and who lost nothing isn't told anything.

mod heard;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use foghorn_bus::journal::Journal;
use foghorn_bus::metrics::Metrics;
use foghorn_bus::nats::{Bus, NatsOptions, Parameters};
use foghorn_core::event::FRAME_BYTES_DEFAULT;
use foghorn_core::position::{Epoch, Position};
use foghorn_core::shard::{Shard, ShardCount};
use foghorn_tests::foghorn::Foghorn;
use foghorn_tests::http::post;
use foghorn_tests::nats::NatsServer;
use foghorn_tests::postgres::PostgresServer;
use foghorn_tests::wait::until;
use nix::sys::signal::Signal;
use serde_json::json;
use sqlx::{Connection, PgConnection};
use tempfile::TempDir;

use crate::deployment::{Cluster, wait_ready};
use heard::{Cursor, Heard, Listening};

/// How long anything may take to be well again, on a busy machine.
const LIMIT: Duration = Duration::from_secs(90);
const SHARD: Shard = Shard::ZERO;

/// A cluster whose stores can be copied and put back, and who listens to it.
struct Stage {
    cluster: Cluster,
    database: String,
    store: TempDir,
    /// Where PostgreSQL keeps its data.
    data: PathBuf,
    copies: TempDir,
    /// One at each gateway, since before the first event.
    listening: Vec<Listening>,
    published: usize,
    /// What PostgreSQL was said to have.
    durable: Vec<String>,
    _config: TempDir,
}

impl Stage {
    async fn new() -> Self {
        let (config, store, copies) =
            (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let file = config.path().join("foghorn.toml");
        std::fs::write(&file, "[gateway]\nkeep_alive = \"2s\"\n").unwrap();
        // The last `-sd` counts.
        let nats = NatsServer::start_with(&["-sd", store.path().to_str().unwrap()]).await;
        let postgres = PostgresServer::start().await;
        let name = postgres.create_database().await;
        let database = postgres.url(&name);
        let mut connection = PgConnection::connect(&database).await.unwrap();
        let data: String =
            sqlx::query_scalar("SHOW data_directory").fetch_one(&mut connection).await.unwrap();
        let cluster = Cluster::start_on(nats, postgres, &name, 1, file.to_str().unwrap()).await;
        cluster.ready().await;
        let mut listening = Vec::new();
        for gateway in &cluster.gateways {
            listening.push(Listening::start(&gateway.url("/api/events?channels=c"), None).await);
        }
        let data = data.into();
        Stage {
            cluster,
            database,
            store,
            data,
            copies,
            listening,
            published: 0,
            durable: Vec::new(),
            _config: config,
        }
    }

    /// Publishes the next events, each until it is acked, by turns.
    async fn publish(&mut self, events: usize) {
        for _ in 0..events {
            self.publish_one("accepted").await;
        }
    }

    /// The same, each until it is acked as durable.
    async fn publish_durably(&mut self, events: usize) {
        for _ in 0..events {
            self.publish_one("durable").await;
            self.durable.push(self.published.to_string());
        }
    }

    async fn publish_one(&mut self, ack: &str) {
        self.published += 1;
        let text = self.published.to_string();
        let event = json!({ "channel": "c", "id": text, "data": text, "ack": ack });
        let turn = self.published % self.cluster.fanouts.len();
        let url = self.cluster.fanouts[turn].url("/api/publish");
        until("an ack", LIMIT, async || {
            let reply = post(&url, &event).await.ok().filter(|reply| reply.status == 200)?;
            (ack == "accepted" || reply.body["durable"] == true).then_some(())
        })
        .await;
    }

    /// Waits until all who listen have heard the last event that was published.
    async fn heard(&self) {
        self.heard_all(&self.published.to_string()).await;
    }

    async fn heard_all(&self, last: &str) {
        for listening in &self.listening {
            listening.until_heard(last, LIMIT).await;
        }
    }

    /// Someone who heard everything until now and leaves.
    async fn leaves(&self) -> (Cursor, Heard) {
        let url = self.cluster.gateways[0].url("/api/events?channels=c&last=1");
        let leaving = Listening::start(&url, None).await;
        leaving.until_heard(&self.published.to_string(), LIMIT).await;
        leaving.leave().await
    }

    /// Waits until the log has all of the journal, and the journal what the log was to give back to it.
    async fn logged(&self) {
        until("the log", LIMIT, async || {
            let mut connection = PgConnection::connect(&self.database).await.ok()?;
            let sql = "SELECT head, EXISTS (SELECT FROM foghorn.lost) FROM foghorn.shards WHERE shard = 0";
            let (head, lost): (i64, bool) = sqlx::query_as(sql).fetch_one(&mut connection).await.ok()?;
            let last = self.journal().await.last().map_or(0, |(seq, _)| *seq);
            (!lost && head == i64::try_from(last).unwrap()).then_some(())
        })
        .await;
    }

    /// What the journal holds: seqs and data.
    async fn journal(&self) -> Vec<(u64, String)> {
        let options = NatsOptions { urls: vec![self.cluster.nats.url()], ..NatsOptions::default() };
        let bus = Bus::connect(options, Metrics::default()).await.unwrap();
        let parameters = Parameters { shards: ShardCount::ONE, event_bytes: FRAME_BYTES_DEFAULT };
        let journal = bus.journal(&parameters).await.unwrap();
        let page = journal.read(SHARD, 0, 10_000, 64 << 20).await.unwrap();
        assert_eq!(page.to, page.tip, "in one page");
        page.entries.into_iter().map(|entry| (entry.seq, entry.event.unwrap().data.to_string())).collect()
    }

    /// What the log holds of the current epoch and what it continues.
    async fn table(&self) -> Vec<(u64, String)> {
        let mut connection = PgConnection::connect(&self.database).await.unwrap();
        let rows: Vec<(i64, Vec<u8>)> = sqlx::query_as(
            "SELECT seq, data FROM foghorn.events e JOIN foghorn.shards s USING (shard)
             WHERE e.epoch = s.epoch OR EXISTS (
                 SELECT FROM foghorn.ancestors a
                 WHERE (a.shard, a.epoch) = (e.shard, e.epoch) AND e.seq <= a.upto
             )
             ORDER BY seq",
        )
        .fetch_all(&mut connection)
        .await
        .unwrap();
        let row =
            |(seq, data): (i64, Vec<u8>)| (u64::try_from(seq).unwrap(), String::from_utf8(data).unwrap());
        rows.into_iter().map(row).collect()
    }

    fn jetstream(&self) -> PathBuf {
        self.store.path().join("jetstream")
    }

    /// Takes a copy of the journal.
    async fn copy_journal(&mut self) {
        self.cluster.nats.stop().await;
        copy(&self.jetstream(), &self.copies.path().join("jetstream"));
        self.cluster.nats.restart().await;
    }

    /// Puts the copy back, or nothing. The server doesn't run then.
    fn put_journal_back(&mut self, copied: bool) {
        self.cluster.nats.kill();
        std::fs::remove_dir_all(self.jetstream()).unwrap();
        if copied {
            copy(&self.copies.path().join("jetstream"), &self.jetstream());
        }
    }

    async fn copy_database(&mut self) {
        self.cluster.postgres.kill();
        copy(&self.data, &self.copies.path().join("postgres"));
        self.cluster.postgres.restart().await;
    }

    async fn put_database_back(&mut self) {
        self.cluster.postgres.kill();
        std::fs::remove_dir_all(&self.data).unwrap();
        copy(&self.copies.path().join("postgres"), &self.data);
        self.cluster.postgres.restart().await;
    }

    fn services(&self) -> impl Iterator<Item = &Foghorn> {
        let Cluster { gateways, fanouts, eventlogs, .. } = &self.cluster;
        gateways.iter().chain(fanouts).chain(eventlogs)
    }

    /// Gives out sequence numbers past Foghorn, up to `last`.
    async fn append_raw(&self, last: u64) {
        let client = async_nats::connect(self.cluster.nats.url()).await.unwrap();
        let mut seq = 0;
        while seq < last {
            let text = format!("raw-{seq}");
            let ack = client.request("foghorn.journal.0.c", text.into()).await.unwrap();
            let ack: serde_json::Value = serde_json::from_slice(&ack.payload).unwrap();
            seq = ack["seq"].as_u64().unwrap();
        }
    }

    /// Of the epoch that it is now, everything can be had from the log, whatever epochs its rows are of.
    async fn replay(&self, journal: &[(u64, String)]) {
        let mut connection = PgConnection::connect(&self.database).await.unwrap();
        let epoch: i64 = sqlx::query_scalar("SELECT epoch FROM foghorn.shards WHERE shard = 0")
            .fetch_one(&mut connection)
            .await
            .unwrap();
        let epoch = Epoch::new(epoch.try_into().unwrap());
        let cursor = foghorn_core::cursor::Cursor::single(Position { shard: SHARD, epoch, seq: 5 });
        let gateway = &self.cluster.gateways[0];
        for (query, cursor, first) in [("&last=1000", None, 1), ("", Some(cursor.to_string()), 6)] {
            let url = gateway.url(&format!("/api/events?channels=c{query}"));
            let listening = Listening::start(&url, cursor.as_ref()).await;
            listening.until_heard(&journal.last().unwrap().1, LIMIT).await;
            let (_, heard) = listening.leave().await;
            assert!(heard.resets.is_empty(), "{:?}", heard.resets);
            heard.assert_begins(first);
            heard.assert_is(journal, usize::MAX);
        }
    }

    /// What everybody has in the end, and was told on the way.
    async fn judge(mut self, returning: (Cursor, Heard), resets: &[&str]) {
        let (cursor, before) = returning;
        let url = self.cluster.gateways[1].url("/api/events?channels=c");
        self.listening.push(Listening::come_back(&url, &cursor, before).await);
        self.heard().await;
        self.logged().await;
        let journal = self.journal().await;
        assert_eq!(self.table().await, journal, "the table equals the journal");
        for text in &self.durable {
            assert!(journal.iter().any(|(_, data)| data == text), "{text} was durable");
        }
        self.heard_all(&journal.last().unwrap().1).await;
        self.replay(&journal).await;
        for (turn, listening) in std::mem::take(&mut self.listening).into_iter().enumerate() {
            let (_, heard) = listening.leave().await;
            assert_eq!(heard.resets, resets, "listener {turn}");
            heard.assert_is(&journal, turn);
        }
    }
}

fn copy(from: &Path, to: &Path) {
    // With owners and rights, which PostgreSQL insists on.
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(copied.success(), "copying {}", from.display());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_journal_is_told_once() {
    let mut stage = Stage::new().await;
    stage.publish(30).await;
    stage.heard().await;
    let returning = stage.leaves().await;
    stage.put_journal_back(false);
    stage.cluster.nats.restart().await;
    stage.publish(20).await;
    stage.judge(returning, &["epoch"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_restored_from_an_older_copy_is_told_once() {
    let mut stage = Stage::new().await;
    stage.publish(20).await;
    stage.heard().await;
    stage.copy_journal().await;
    stage.publish(20).await;
    stage.heard().await;
    stage.logged().await;
    let returning = stage.leaves().await;
    stage.put_journal_back(true);
    stage.cluster.nats.restart().await;
    stage.publish(10).await;
    stage.judge(returning, &["epoch"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sequence_numbers_given_out_again_past_the_old_tip_are_told_once() {
    let mut stage = Stage::new().await;
    stage.publish(20).await;
    stage.heard().await;
    stage.copy_journal().await;
    stage.publish(20).await;
    stage.heard().await;
    stage.logged().await;
    let returning = stage.leaves().await;
    // Nobody looks while it happens.
    stage.services().for_each(|service| service.signal(Signal::SIGSTOP));
    stage.put_journal_back(true);
    stage.cluster.nats.restart().await;
    stage.append_raw(60).await;
    stage.services().for_each(|service| service.signal(Signal::SIGCONT));
    stage.publish(5).await;
    let database = stage.database.clone();
    let mut connection = PgConnection::connect(&database).await.unwrap();
    until("the log in the new epoch", LIMIT, async || {
        let sql = "SELECT upto, common FROM foghorn.ancestors WHERE shard = 0";
        let parts: Option<(i64, i64)> = sqlx::query_as(sql).fetch_optional(&mut connection).await.ok()?;
        parts.map(|parts| assert_eq!(parts, (20, 20), "everybody finds the first entry that differs"))
    })
    .await;
    stage.judge(returning, &["epoch"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_the_gateways_know_is_told_once() {
    let mut stage = Stage::new().await;
    stage.publish(20).await;
    stage.heard().await;
    stage.logged().await;
    stage.copy_database().await;
    stage.copy_journal().await;
    stage.publish(20).await;
    stage.heard().await;
    let returning = stage.leaves().await;
    // Journal and log are of one past, and whoever had read them is gone.
    for service in stage.cluster.fanouts.iter_mut().chain(&mut stage.cluster.eventlogs) {
        service.kill();
    }
    stage.put_journal_back(true);
    stage.put_database_back().await;
    stage.cluster.nats.restart().await;
    stage.append_raw(60).await;
    for service in stage.cluster.eventlogs.iter_mut().chain(&mut stage.cluster.fanouts) {
        service.restart().await;
        wait_ready(service.admin()).await;
    }
    stage.publish(5).await;
    let seen = stage.cluster.gateways.len();
    until("a new epoch", LIMIT, async || {
        let mut told = 0;
        for listening in &stage.listening {
            told += usize::from(listening.was_reset());
        }
        (told == seen).then_some(())
    })
    .await;
    stage.judge(returning, &["epoch"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_restored_from_a_backup_catches_up_and_nobody_is_told() {
    let mut stage = Stage::new().await;
    stage.publish(20).await;
    stage.heard().await;
    stage.logged().await;
    stage.copy_database().await;
    stage.publish(20).await;
    stage.heard().await;
    stage.logged().await;
    let returning = stage.leaves().await;
    stage.put_database_back().await;
    stage.publish(10).await;
    stage.judge(returning, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acked_as_durable_is_heard_though_the_journal_lost_it() {
    let mut stage = Stage::new().await;
    stage.publish(20).await;
    stage.heard().await;
    stage.copy_journal().await;
    let returning = stage.leaves().await;
    stage.publish_durably(20).await;
    stage.put_journal_back(true);
    stage.cluster.nats.restart().await;
    stage.publish(5).await;
    stage.judge(returning, &["epoch"]).await;
}
