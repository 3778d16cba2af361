//! A cluster whose table is compared with its journal.

use std::path::Path;
use std::process::Command;

use foghorn_bus::journal::Journal as _;
use foghorn_bus::metrics::Metrics;
use foghorn_bus::nats::{Bus, NatsJournal, NatsOptions, Parameters};
use foghorn_core::event::FRAME_BYTES_DEFAULT;
use foghorn_core::position::Position;
use foghorn_core::shard::{Shard, ShardCount};
use foghorn_tests::http::post;
use foghorn_tests::nats::NatsServer;
use foghorn_tests::postgres::PostgresServer;
use foghorn_tests::wait::until;
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};
use tempfile::TempDir;

use super::LIMIT;
use crate::deployment::Cluster;

/// Two of each service on one shard.
pub(crate) struct Stage {
    pub(crate) cluster: Cluster,
    /// The URL by which its services know it.
    pub(crate) database: String,
    _config: TempDir,
}

impl Stage {
    pub(crate) async fn new(config: &str) -> Self {
        let postgres = PostgresServer::start().await;
        let url = postgres.url(&postgres.create_database().await);
        Stage::on(postgres, &url, config).await
    }

    /// On a server that runs, by this URL.
    pub(crate) async fn on(postgres: PostgresServer, database: &str, config: &str) -> Self {
        Stage::on_both(NatsServer::start().await, postgres, database, config).await
    }

    /// The same, with NATS.
    pub(crate) async fn on_both(
        nats: NatsServer,
        postgres: PostgresServer,
        database: &str,
        config: &str,
    ) -> Self {
        Stage::in_environment(nats, postgres, database, config, &[]).await
    }

    /// The same, the first of each service with these variables.
    pub(crate) async fn in_environment(
        nats: NatsServer,
        postgres: PostgresServer,
        database: &str,
        config: &str,
        first: &[(&str, &str)],
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("foghorn.toml");
        std::fs::write(&file, config).unwrap();
        let cluster = Cluster::start_at(nats, postgres, database, 1, file.to_str().unwrap(), first).await;
        cluster.ready().await;
        Stage { cluster, database: database.to_owned(), _config: folder }
    }

    pub(crate) async fn connect(&self) -> PgConnection {
        PgConnection::connect(&self.database).await.unwrap()
    }

    pub(crate) async fn publish(&self, channel: &str, data: &str) -> Value {
        self.post(&json!({ "channel": channel, "data": data })).await
    }

    pub(crate) async fn publish_durably(&self, channel: &str, data: &str) -> Value {
        self.post(&json!({ "channel": channel, "data": data, "ack": "durable" })).await
    }

    async fn post(&self, event: &Value) -> Value {
        let reply = post(&self.cluster.fanouts[0].url("/api/publish"), event).await.unwrap();
        assert_eq!(reply.status, 200, "{}", reply.body);
        reply.body
    }

    /// Waits until an event is acked durable again, which then is in the table.
    pub(crate) async fn durable_again(&self) {
        let answer = until("a durable ack", LIMIT, async || {
            Some(self.publish_durably("again", "x").await).filter(|answer| answer["durable"] == true)
        });
        let seq = answer.await["position"]["seq"].as_i64().unwrap();
        let mut connection = self.connect().await;
        let sql = "SELECT count(*) FROM foghorn.events WHERE seq = $1 AND channel = 'again'";
        let rows: i64 = sqlx::query_scalar(sql).bind(seq).fetch_one(&mut connection).await.unwrap();
        assert_eq!(rows, 1, "durable is durable");
    }

    async fn journal(&self) -> NatsJournal {
        // A bound is raised to what a process is configured with, never lowered.
        let urls = vec![self.cluster.nats.url()];
        let options = NatsOptions { urls, journal_bytes: 64 * 1024, ..NatsOptions::default() };
        let bus = Bus::connect(options, Metrics::default()).await.unwrap();
        let parameters = Parameters { shards: ShardCount::ONE, event_bytes: FRAME_BYTES_DEFAULT };
        bus.journal(&parameters).await.unwrap()
    }

    /// Trims the journal behind the log, as if an hour had passed.
    pub(crate) async fn forget_in_journal(&self) {
        let journal = self.journal().await;
        let bounds = journal.bounds(Shard::ZERO).await.unwrap();
        journal
            .trim(Position { shard: Shard::ZERO, epoch: bounds.epoch, seq: bounds.last - 1 })
            .await
            .unwrap();
    }

    /// Waits until the log has all of the journal.
    pub(crate) async fn logged(&self) {
        let last = self.journal().await.bounds(Shard::ZERO).await.unwrap().last;
        until("the log", LIMIT, async || {
            let head = query::<i64>(&self.database, "SELECT head FROM foghorn.shards WHERE shard = 0").await;
            (head.ok()? >= i64::try_from(last).unwrap()).then_some(())
        })
        .await;
    }

    /// Once nothing is published any more: every seq has one row, and the same event as in the journal, as far
    /// as that goes back.
    pub(crate) async fn assert_table_equals_journal(&self) {
        self.logged().await;
        let sql = "SELECT seq, channel, id, data FROM foghorn.events WHERE shard = 0 ORDER BY epoch, seq";
        let rows: Vec<(i64, String, Option<String>, Vec<u8>)> =
            sqlx::query_as(sql).fetch_all(&mut self.connect().await).await.unwrap();
        let seqs: Vec<i64> = rows.iter().map(|row| row.0).collect();
        assert!(seqs.iter().copied().eq(1..=i64::try_from(rows.len()).unwrap()), "rows twice, or missing");
        let journal = self.journal().await;
        let bounds = journal.bounds(Shard::ZERO).await.unwrap();
        assert_eq!(rows.len() as u64, bounds.last);
        let mut after = bounds.first - 1;
        while after < bounds.last {
            let page = journal.read(Shard::ZERO, after, 10_000, 64 << 20).await.unwrap();
            after = page.to;
            for entry in page.entries {
                let event = entry.event.unwrap();
                let id = event.id.as_ref().map(|id| id.as_str());
                let (_, channel, row_id, data) = &rows[usize::try_from(entry.seq - 1).unwrap()];
                assert_eq!((channel.as_str(), row_id.as_deref()), (event.channel.as_str(), id));
                assert!(data == event.data.as_bytes().as_ref(), "seq {}", entry.seq);
            }
        }
    }
}

/// What a query gives: one value of one row.
pub(crate) async fn query<T>(url: &str, sql: &'static str) -> sqlx::Result<T>
where
    T: Send + Unpin + for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
{
    let mut connection = PgConnection::connect(url).await?;
    sqlx::query_scalar(sql).fetch_one(&mut connection).await
}

/// A disk of a few megabytes.
pub(crate) struct SmallDisk(TempDir);

impl SmallDisk {
    /// Mounts it; `test` is who needs it.
    pub(crate) fn mount(test: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=64m,mode=777", "foghorn-test"]).arg(folder.path());
        let mounted = mount.output().unwrap();
        assert!(
            mounted.status.success(),
            "{test} needs a small disk, and mounting a tmpfs is not allowed here (it takes root): {}",
            String::from_utf8_lossy(&mounted.stderr)
        );
        SmallDisk(folder)
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// A database on it; its URL.
    pub(crate) async fn create_database(&self, postgres: &PostgresServer) -> String {
        let folder = self.0.path().join("tables");
        std::fs::create_dir(&folder).unwrap();
        let who = std::fs::metadata(data_folder(postgres).await).unwrap();
        std::os::unix::fs::chown(
            &folder,
            Some(std::os::unix::fs::MetadataExt::uid(&who)),
            Some(std::os::unix::fs::MetadataExt::gid(&who)),
        )
        .unwrap();
        // The folder above is for us alone.
        std::fs::set_permissions(self.0.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let mut connection = PgConnection::connect(&postgres.url("postgres")).await.unwrap();
        for sql in [
            format!("CREATE TABLESPACE small LOCATION '{}'", folder.display()),
            "CREATE DATABASE small TABLESPACE small".to_owned(),
        ] {
            sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
        }
        postgres.url("small")
    }

    /// Fills it to the last byte.
    pub(crate) fn fill(&self) {
        use std::io::Write as _;
        let mut filler = std::fs::File::create(self.filler()).unwrap();
        while filler.write(&[0; 4096]).is_ok_and(|written| written > 0) {}
    }

    /// Gives the room back.
    pub(crate) fn free(&self) {
        std::fs::remove_file(self.filler()).unwrap();
    }

    fn filler(&self) -> std::path::PathBuf {
        self.0.path().join("filler")
    }
}

async fn data_folder(postgres: &PostgresServer) -> String {
    query(&postgres.url("postgres"), "SHOW data_directory").await.unwrap()
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        unmount(self.0.path());
    }
}

/// Also while somebody still has files open there.
fn unmount(path: &Path) {
    let unmounted = Command::new("umount").arg("--lazy").arg(path).status();
    if !unmounted.is_ok_and(|status| status.success()) {
        eprintln!("{} stays mounted", path.display());
    }
}
