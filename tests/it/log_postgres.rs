//! The event log on PostgreSQL: the common behaviour with a real writer that follows a real journal
//! (SQLite's, so that faults can be had at will), and what goes wrong only here.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use foghorn_bus::journal::Journal;
use foghorn_bus::lease::Leases;
use foghorn_bus::log::{Committed, EventLog, Replay, ReplayQuery};
use foghorn_bus::memory::MemoryLeases;
use foghorn_bus::policies::SharedPolicies;
use foghorn_core::pattern::Pattern;
use foghorn_core::policy::{Policies, Policy};
use foghorn_core::position::{Digest, Epoch};
use foghorn_core::reason::ResetReason;
use foghorn_core::shard::{Shard, ShardCount};
use foghorn_eventlog::metrics::Metrics;
use foghorn_eventlog::postgres::retention::Retention;
use foghorn_eventlog::postgres::writer::{TRIM_BEHIND_DEFAULT, Writer};
use foghorn_eventlog::postgres::{Database, MigrateError, PostgresLog, PostgresOptions, migrate};
use foghorn_eventlog::sqlite::{SqliteLog, SqliteOptions};
use foghorn_rpc::client::RemoteEventLog;
use foghorn_rpc::{serve, server};
use foghorn_tests::postgres::PostgresServer;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::log_faults::FaultyJournal;
use crate::log_suite::{
    Subject, TestClock, at, event, kept, new_entry, page, patterns, policies, publish, replay, replay_all,
    reset_of, settled, text_of,
};

const SHARD: Shard = Shard::ZERO;
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Pg<J = FaultyJournal> {
    server: PostgresServer,
    url: String,
    database: Database,
    journal: Arc<J>,
    /// None: every writer has leases of its own, and so knows of no other.
    leases: Option<Arc<dyn Leases>>,
    log: PostgresLog,
    clock: TestClock,
    policies: SharedPolicies,
    writers: Vec<(CancellationToken, JoinHandle<()>)>,
}

impl<J: Journal> Subject for Pg<J> {
    fn journal(&self) -> &dyn Journal {
        &*self.journal
    }

    fn log(&self) -> &dyn EventLog {
        &self.log
    }

    fn clock(&self) -> &TestClock {
        &self.clock
    }

    fn policies(&self) -> &SharedPolicies {
        &self.policies
    }

    fn settle(&self) -> BoxFuture<'_, ()> {
        settled(&*self.journal, &self.log).boxed()
    }

    fn retain(&self) -> BoxFuture<'_, ()> {
        async {
            let retention = Retention {
                database: self.database.clone(),
                leases: Arc::new(MemoryLeases::new()),
                clock: self.clock.clock(),
                metrics: Metrics::default(),
            };
            retention.round().await.unwrap();
        }
        .boxed()
    }
}

impl<J: Journal> Pg<J> {
    pub(crate) fn write(&mut self) {
        for shard in self.journal.shards().shards() {
            let own = || Arc::new(MemoryLeases::new()) as Arc<dyn Leases>;
            let writer = Writer {
                shard,
                journal: Arc::clone(&self.journal) as Arc<dyn Journal>,
                database: self.database.clone(),
                leases: self.leases.clone().unwrap_or_else(own),
                policies: self.policies.clone(),
                trim_behind: TRIM_BEHIND_DEFAULT,
                clock: self.clock.clock(),
                metrics: Metrics::default(),
            };
            let stop = CancellationToken::new();
            let stopped = stop.clone();
            self.writers.push((stop, tokio::spawn(async move { writer.run(&stopped).await })));
        }
    }

    async fn stop_writing(&mut self) {
        for (stop, writer) in self.writers.drain(..) {
            stop.cancel();
            writer.await.unwrap();
        }
    }

    /// The rows are these texts, at seqs from 1, and nothing else.
    async fn assert_each_once(&self, texts: Vec<String>) {
        let rows = self.rows().await;
        assert_eq!(rows.len(), texts.len());
        for ((at, text), row) in (1..).zip(texts).zip(rows) {
            assert_eq!((row.1, row.2), (at, text));
        }
    }

    async fn execute(&self, sql: impl Into<String>) {
        use sqlx::Connection;
        let mut connection = sqlx::PgConnection::connect(&self.url).await.unwrap();
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql.into())).execute(&mut connection).await.unwrap();
    }

    async fn count(&self, sql: &'static str) -> i64 {
        use sqlx::Connection;
        let mut connection = sqlx::PgConnection::connect(&self.url).await.unwrap();
        sqlx::query_scalar(sql).fetch_one(&mut connection).await.unwrap()
    }

    /// Every row of shard 0: epoch, seq, data.
    async fn rows(&self) -> Vec<(i64, i64, String)> {
        use sqlx::Connection;
        let mut connection = sqlx::PgConnection::connect(&self.url).await.unwrap();
        sqlx::query_as("SELECT epoch, seq, convert_from(data, 'UTF8') FROM foghorn.events WHERE shard = 0 ORDER BY epoch, seq")
            .fetch_all(&mut connection)
            .await
            .unwrap()
    }
}

/// A log on this journal, without a writer.
pub(crate) async fn quiet_on<J: Journal>(
    journal: Arc<J>,
    leases: Option<Arc<dyn Leases>>,
    policies: Policies,
    clock: TestClock,
) -> Pg<J> {
    let server = PostgresServer::start().await;
    let url = server.url(&server.create_database().await);
    let migrated = migrate(&url).await.unwrap();
    assert_eq!(migrated.from, 0);
    let policies = SharedPolicies::from(policies);
    let database = Database::new(&PostgresOptions::new(&url)).unwrap();
    let log = PostgresLog::new(
        database.clone(),
        Arc::clone(&journal) as Arc<dyn Journal>,
        policies.clone(),
        clock.clock(),
        Metrics::default(),
    );
    Pg { server, url, database, journal, leases, log, clock, policies, writers: Vec::new() }
}

async fn quiet(shards: ShardCount, policies: Policies) -> Pg {
    let clock = TestClock::new();
    // The journal keeps everything, whatever the log's policies are.
    let options = SqliteOptions { shards, clock: clock.clock(), ..SqliteOptions::in_memory() };
    let journal = FaultyJournal::new(SqliteLog::open(options).await.unwrap());
    quiet_on(Arc::new(journal), None, policies, clock).await
}

async fn writing(shards: ShardCount, policies: Policies) -> Pg {
    let mut subject = quiet(shards, policies).await;
    subject.write();
    subject
}

crate::log_suite::suite!(writing);

#[tokio::test(flavor = "multi_thread")]
async fn migrations_run_once_and_a_later_schema_is_refused() {
    use sqlx::Connection;
    let server = PostgresServer::start().await;
    let url = server.url(&server.create_database().await);
    let (one, other) = tokio::join!(migrate(&url), migrate(&url));
    assert_eq!((one.unwrap().to, other.unwrap().to), (3, 3));
    assert_eq!(migrate(&url).await.unwrap().steps, Vec::<String>::new());
    let mut connection = sqlx::PgConnection::connect(&url).await.unwrap();
    sqlx::query(
        "INSERT INTO foghorn._sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (99, 'later', true, '', 0)",
    )
    .execute(&mut connection)
    .await
    .unwrap();
    let refused = migrate(&url).await.unwrap_err();
    assert!(matches!(refused, MigrateError::Newer { found: 99, known: 3 }), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_writers_write_the_journal_once() {
    let mut subject = quiet(ShardCount::ONE, Policies::default()).await;
    // Each holds the lease, as it believes.
    subject.write();
    subject.write();
    for n in 1..=2000 {
        publish(&subject, "a", &n.to_string()).await;
    }
    subject.settle().await;
    subject.assert_each_once((1..=2000).map(|n| n.to_string()).collect()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_may_be_killed_at_any_moment() {
    let mut subject = writing(ShardCount::ONE, Policies::default()).await;
    let epoch = publish(&subject, "a", "0").await.epoch;
    subject.settle().await;
    let mut total = 1;
    for _ in 0..3 {
        for n in 0..300 {
            publish(&subject, "a", &(total + n).to_string()).await;
        }
        total += 300;
        subject.server.restart().await;
    }
    subject.settle().await;
    subject.assert_each_once((0..total).map(|n| n.to_string()).collect()).await;

    // While it is away the journal answers; what only PostgreSQL has is slow and not gone.
    subject.server.kill();
    let all = replay_all(&subject, 0, &["a"], 10_000, 4 << 20).await.unwrap();
    assert_eq!(all.len(), usize::try_from(total).unwrap());
    let before = Epoch::new(epoch.get() - 1);
    let reset = reset_of(replay(&subject, before, 7, &["a"], 10, 1000).await);
    assert_eq!(reset, (ResetReason::Epoch, epoch, 0));
    subject.journal.trim(at(&subject, 500).await).await.unwrap();
    let query = ReplayQuery {
        shard: SHARD,
        epoch,
        after: 400,
        topics: patterns(&["a"]),
        events: 10,
        bytes: 1000,
        fill: false,
        digest: Digest::NONE,
    };
    subject.log.replay(query.clone()).await.unwrap_err();
    // Nor is it for whoever comes from the epoch before: its beginning is in PostgreSQL alone.
    subject.log.replay(ReplayQuery { epoch: before, ..query }).await.unwrap_err();
    let rest = replay_all(&subject, 500, &["a"], 10_000, 4 << 20).await.unwrap();
    assert_eq!(rest.len(), usize::try_from(total - 500).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_postgres_the_journal_answers_over_the_wire() {
    let mut subject = writing(ShardCount::ONE, Policies::default()).await;
    let begin = subject.clock.now();
    let mut epoch = Epoch::new(0);
    for n in 1..=10 {
        epoch = publish(&subject, "a", &n.to_string()).await.epoch;
        subject.clock.pass(Duration::from_secs(10));
    }
    subject.settle().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (_stop, stopped) = tokio::sync::watch::channel(false);
    let served = PostgresLog::new(
        subject.database.clone(),
        Arc::clone(&subject.journal) as Arc<dyn Journal>,
        subject.policies.clone(),
        subject.clock.clock(),
        Metrics::default(),
    );
    let routes = tonic::service::Routes::new(server::event_log(Arc::new(served), ShardCount::ONE));
    tokio::spawn(serve::serve(
        listener,
        routes,
        &["foghorn.v1.EventLog"],
        serve::Connections::up_to(16),
        None,
        stopped,
    ));
    let remote = RemoteEventLog::new(&url, None, ShardCount::ONE, &mut Default::default()).unwrap();
    subject.stop_writing().await;
    subject.server.kill();
    subject.journal.trim(at(&subject, 4).await).await.unwrap();

    // The client has one replica to ask, once: what is answered at all, is in time.
    for fill in [false, true] {
        let topics = patterns(&[">"]);
        let query = ReplayQuery {
            shard: SHARD,
            epoch,
            after: 4,
            topics,
            events: 100,
            bytes: 1 << 20,
            fill,
            digest: Digest::NONE,
        };
        let Replay::Page(page) = remote.replay(query.clone()).await.unwrap() else { panic!("a reset") };
        assert_eq!((page.events.len(), page.to, page.tip), (6, 10, 10));
        // What only PostgreSQL has is slow, and not gone.
        remote.replay(ReplayQuery { after: 3, ..query }).await.unwrap_err();
    }
    // Where a gateway begins.
    let at = |n: u64| begin.plus(Duration::from_secs(10 * n));
    let located = remote.locate(SHARD, at(7)).await.unwrap();
    assert_eq!((located.epoch, located.after, located.tip), (epoch, 7, 10));
    assert_eq!(remote.locate(SHARD, at(100)).await.unwrap().after, 10);
    remote.locate(SHARD, at(2)).await.unwrap_err();

    subject.server.restart().await;
    let located = foghorn_tests::wait::until("PostgreSQL is tried again", PATIENCE, async || {
        remote.locate(SHARD, at(2)).await.ok()
    });
    assert_eq!(located.await.after, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ring_is_filled_from_the_log_up_to_where_the_journal_begins() {
    let never = Policy { replay: false, ..Policy::new(Pattern::parse("live").unwrap()) };
    let subject = writing(ShardCount::ONE, policies(vec![never])).await;
    let mut epoch = Epoch::new(0);
    for (n, channel) in (1..).zip(["a", "live", "a", "live", "a"]) {
        epoch = publish(&subject, channel, &format!("{n}")).await.epoch;
    }
    subject.settle().await;
    subject.journal.trim(at(&subject, 3).await).await.unwrap();
    let fill = async |after| {
        let topics = patterns(&[">"]);
        let query = ReplayQuery {
            shard: SHARD,
            epoch,
            after,
            topics,
            events: 100,
            bytes: 1 << 20,
            fill: true,
            digest: Digest::NONE,
        };
        let Replay::Page(page) = subject.log.replay(query).await.unwrap() else { panic!("a reset") };
        (page.events.iter().map(text_of).collect::<Vec<_>>(), page.to, page.tip)
    };
    let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    assert_eq!(fill(0).await, (texts(&["1", "3"]), 3, 5), "what the journal no longer has is gone");
    assert_eq!(fill(3).await, (texts(&["4", "5"]), 5, 5));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_ahead_of_a_leader_or_a_replica_waits_and_is_not_reset() {
    let mut subject = writing(ShardCount::ONE, Policies::default()).await;
    let mut epoch = Epoch::new(0);
    for n in 1..=5 {
        epoch = publish(&subject, "a", &n.to_string()).await.epoch;
    }
    subject.settle().await;
    subject.stop_writing().await;
    publish(&subject, "a", "6").await;
    let ask = async |epoch, after| {
        let topics = patterns(&["a"]);
        let query = ReplayQuery {
            shard: SHARD,
            epoch,
            after,
            topics,
            events: 9,
            bytes: 999,
            fill: false,
            digest: Digest::NONE,
        };
        subject.log.replay(query).await
    };
    // A new leader: neither what the log has nor what somebody was given is gone.
    subject.journal.behind.store(4, Ordering::SeqCst);
    // Not often enough to be believed.
    for _ in 0..2 {
        ask(epoch, 5).await.unwrap_err();
        ask(epoch, 6).await.unwrap_err();
    }
    let Replay::Page(page) = ask(epoch, 3).await.unwrap() else { panic!("a reset") };
    assert_eq!(page.to, 5, "what the log has");
    subject.journal.behind.store(u64::MAX, Ordering::SeqCst);
    for after in [5, 6] {
        let Replay::Page(page) = ask(epoch, after).await.unwrap() else { panic!("a reset") };
        assert_eq!((page.to, page.tip), (6, 6));
    }
    // A new epoch that this replica hears of last.
    let next = Epoch::new(epoch.get() + 1);
    for _ in 0..2 {
        ask(next, 3).await.unwrap_err();
    }
    subject.journal.later.store(1, Ordering::SeqCst);
    let Replay::Page(page) = ask(next, 3).await.unwrap() else { panic!("a reset") };
    assert_eq!((page.epoch, page.to), (next, 6));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_journal_lost_is_a_hole_and_told() {
    let mut subject = writing(ShardCount::ONE, Policies::default()).await;
    for n in 1..=5 {
        publish(&subject, "a", &n.to_string()).await;
    }
    subject.settle().await;
    subject.stop_writing().await;
    let lost = new_entry(event("a", "6"));
    let key = lost.key;
    let lost = subject.journal.append(lost).await.unwrap().position;
    for n in 7..=10 {
        publish(&subject, "a", &n.to_string()).await;
    }
    subject.journal.lost.store(8, Ordering::SeqCst);
    // Not known to be lost yet, as nobody has recorded it: no answer, rather than a wrong one.
    let query = ReplayQuery {
        shard: SHARD,
        epoch: lost.epoch,
        after: 5,
        topics: patterns(&["a"]),
        events: 9,
        bytes: 999,
        fill: false,
        digest: Digest::NONE,
    };
    subject.log.replay(query.clone()).await.unwrap_err();

    subject.write();
    subject.settle().await;
    let before = page(&subject, 3, &["a"], 100, 1 << 20).await.unwrap();
    assert_eq!((before.events.len(), before.to), (2, 5));
    for after in 5..8 {
        let reset = reset_of(replay(&subject, lost.epoch, after, &["a"], 100, 1 << 20).await);
        assert_eq!(reset, (ResetReason::Hole, lost.epoch, 8));
    }
    let rest = replay_all(&subject, 8, &["a"], 100, 1 << 20).await.unwrap();
    assert_eq!(rest, [(9, "9".to_owned()), (10, "10".to_owned())]);
    let committed = subject.log.committed(lost, key, PATIENCE).await.unwrap();
    assert_eq!(committed, Committed::Replaced);

    // A gateway that was given two entries for one position: neither can be compared any more, and its listeners
    // have one of them.
    let query =
        ReplayQuery { after: 6, topics: patterns(&[">"]), fill: true, digest: Digest::OTHER, ..query };
    subject.log.replay(query).await.unwrap_err();
    assert_eq!(subject.journal.begun.load(Ordering::SeqCst), 1);
}

/// A log that has stored five events, and then missed two epochs of its journal, of which the second continues the
/// first from `first_seq` on; five more events came meanwhile, and the journal has what is after `trimmed`. The epoch
/// before and the one after.
async fn two_epochs_later(first_seq: u64, trimmed: u64) -> (Pg, Epoch, Epoch) {
    let mut subject = writing(ShardCount::ONE, Policies::default()).await;
    for n in 1..=5 {
        publish(&subject, "a", &n.to_string()).await;
    }
    subject.settle().await;
    subject.stop_writing().await;
    let old = subject.journal.bounds(SHARD).await.unwrap().epoch;
    let next = |by| Epoch::new(old.get() + by);
    subject.journal.later.store(2, Ordering::SeqCst);
    *subject.journal.continues.lock() = Some((next(1), first_seq));
    for n in 6..=10 {
        publish(&subject, "a", &n.to_string()).await;
    }
    subject.journal.lost.store(trimmed, Ordering::SeqCst);
    subject.write();
    subject.settle().await;
    (subject, old, next(2))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_epoch_lost_of_those_that_it_continues_is_a_hole_and_told() {
    let (subject, _, now) = two_epochs_later(9, 8).await;
    let reset = reset_of(replay(&subject, now, 5, &["a"], 9, 999).await);
    assert_eq!(reset, (ResetReason::Hole, now, 8));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_an_epoch_before_one_that_the_log_has_missed_nothing_counts_as_the_same() {
    // The one in between may have begun with the first seq.
    let (subject, old, now) = two_epochs_later(8, 0).await;
    let reset = reset_of(replay(&subject, old, 3, &["a"], 9, 999).await);
    assert_eq!(reset, (ResetReason::Epoch, now, 0));
    assert_eq!(
        subject.count("SELECT count(*) FROM foghorn.events").await,
        10,
        "rows that the journal has stay"
    );
}

/// The journal comes back from a backup and gives the seqs out again, `by` epochs later. The epoch before.
async fn other_journal(subject: &mut Pg, by: u64) -> Epoch {
    let old = subject.journal.bounds(SHARD).await.unwrap().epoch;
    let options = SqliteOptions { clock: subject.clock.clock(), ..SqliteOptions::in_memory() };
    *subject.journal.inner.write() = SqliteLog::open(options).await.unwrap();
    let difference = old.get() + by - subject.journal.bounds(SHARD).await.unwrap().epoch.get();
    subject.journal.later.store(difference, Ordering::SeqCst);
    for n in 1..=7 {
        publish(subject, "a", &format!("new{n}")).await;
    }
    old
}

async fn epoch_begun(subject: &Pg) {
    foghorn_tests::wait::until("a new epoch", PATIENCE, async || {
        (subject.journal.begun.load(Ordering::SeqCst) == 1).then_some(())
    })
    .await;
    subject.settle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_entry_at_the_head_begins_a_new_epoch() {
    let mut subject = writing(ShardCount::ONE, Policies::default()).await;
    for n in 1..=5 {
        if n == 3 {
            subject.clock.pass(Duration::from_secs(301));
        }
        publish(&subject, "a", &format!("old{n}")).await;
    }
    subject.settle().await;
    subject.stop_writing().await;
    let old = other_journal(&mut subject, 0).await;
    assert_eq!(subject.journal.bounds(SHARD).await.unwrap().epoch, old);
    subject.write();
    epoch_begun(&subject).await;
    let reset = reset_of(replay(&subject, old, 5, &["a"], 10, 1 << 20).await);
    assert_eq!(reset, (ResetReason::Epoch, Epoch::new(old.get() + 1), 0));
    // What the journal lost comes back behind what it has, but for what is older than five minutes.
    let found = foghorn_tests::wait::until("all ten", PATIENCE, async || {
        replay_all(&subject, 0, &["a"], 10, 1 << 20).await.ok().filter(|found| found.len() >= 10)
    })
    .await;
    let (new, old) = ((1..=7).map(|n| format!("new{n}")), (3..=5).map(|n| format!("old{n}")));
    assert_eq!(found, (1..).zip(new.chain(old)).collect::<Vec<_>>());
    subject.settle().await;
    let rows = subject.rows().await;
    assert_eq!(rows.len(), 5 + 10, "what the log had stays: {rows:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_entry_at_the_head_is_noticed_though_the_journal_is_put_back_after_it_was_compared() {
    let mut subject = writing(ShardCount::ONE, Policies::default()).await;
    for n in 1..=5 {
        publish(&subject, "a", &format!("old{n}")).await;
    }
    subject.settle().await;
    subject.stop_writing().await;
    let whole = subject.journal.inner.read().clone();
    let old = other_journal(&mut subject, 0).await;
    let other = std::mem::replace(&mut *subject.journal.inner.write(), whole);
    let later = subject.journal.later.swap(0, Ordering::SeqCst);
    *subject.journal.becomes.lock() = Some((other, later));
    subject.write();
    epoch_begun(&subject).await;
    let reset = reset_of(replay(&subject, old, 5, &["a"], 10, 1 << 20).await);
    assert_eq!(reset, (ResetReason::Epoch, Epoch::new(old.get() + 1), 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_epoch_that_began_after_a_loss_that_nobody_noticed_is_begun_again() {
    let mut subject = writing(ShardCount::ONE, Policies::default()).await;
    for n in 1..=5 {
        publish(&subject, "a", &format!("old{n}")).await;
    }
    subject.settle().await;
    subject.stop_writing().await;
    let old = other_journal(&mut subject, 1).await;
    // Whoever noticed the second loss saw nothing of the first.
    *subject.journal.continues.lock() = Some((old, 7));
    // Nor is it forgotten when it can't be told at once.
    subject.journal.unwilling.store(1, Ordering::SeqCst);
    subject.write();
    epoch_begun(&subject).await;
    let (late, now) = (Epoch::new(old.get() + 1), Epoch::new(old.get() + 2));
    assert_eq!(*subject.journal.continues.lock(), Some((late, 1)));
    for epoch in [old, late] {
        let reset = reset_of(replay(&subject, epoch, 5, &["a"], 10, 1 << 20).await);
        assert_eq!(reset, (ResetReason::Epoch, now, 0), "after {epoch}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_was_down_longer_than_events_are_kept_says_so() {
    let mut subject = quiet(ShardCount::ONE, policies(vec![kept("s", 60)])).await;
    publish(&subject, "s", "1").await;
    publish(&subject, "l", "2").await;
    subject.clock.pass(Duration::from_secs(600));
    publish(&subject, "s", "3").await;
    subject.write();
    subject.settle().await;
    assert_eq!(page(&subject, 0, &["s"], 10, 1 << 20).await, Err(ResetReason::Expired));
    assert_eq!(replay_all(&subject, 1, &["s"], 10, 1 << 20).await.unwrap(), [(3, "3".to_owned())]);
    assert_eq!(replay_all(&subject, 0, &["l"], 10, 1 << 20).await.unwrap(), [(2, "2".to_owned())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_dropped_under_a_reader_is_noticed() {
    let subject = writing(ShardCount::ONE, policies(vec![kept(">", 60)])).await;
    let mut first = 1;
    let mut seen: HashMap<bool, u32> = HashMap::new();
    for _ in 0..25 {
        let mut epoch = Epoch::new(0);
        for n in 0..50 {
            epoch = publish(&subject, "a", &n.to_string()).await.epoch;
        }
        subject.settle().await;
        subject.clock.pass(Duration::from_secs(121));
        let reads = async {
            let mut answers = Vec::new();
            for _ in 0..8 {
                answers.push(replay(&subject, epoch, first - 1, &["*"], 1000, 1 << 20).await);
            }
            answers
        };
        let ((), answers) = tokio::join!(subject.retain(), reads);
        for answer in answers {
            match answer {
                Replay::Page(page) => {
                    let texts: Vec<String> = page.events.iter().map(text_of).collect();
                    assert_eq!(texts, (0..50).map(|n| n.to_string()).collect::<Vec<_>>(), "all or a reset");
                    *seen.entry(true).or_default() += 1;
                }
                Replay::Reset { reason, after, .. } => {
                    assert_eq!((reason, after), (ResetReason::Expired, first + 49));
                    *seen.entry(false).or_default() += 1;
                }
            }
        }
        first += 50;
        // What the next round asks for begins where this one ended.
    }
    assert_eq!(seen.len(), 2, "the race was not run: {seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn epochs_of_which_nothing_is_kept_are_forgotten_an_hour_later() {
    let subject = quiet(ShardCount::ONE, Policies::default()).await;
    let now = subject.clock.now().as_micros() / 1_000_000;
    let [empty, kept, after, current] = [20_000, 10_000, 8_000, 100].map(|ago| now - ago);
    subject
        .execute(format!(
            "INSERT INTO foghorn.shards VALUES (0, {current}, 0, 90, 0, 1);
             INSERT INTO foghorn.ancestors VALUES (0, {empty}, 10, 10), (0, {kept}, 20, 20), (0, {after}, 30, 30);
             CREATE TABLE foghorn.events_kept PARTITION OF foghorn.events FOR VALUES IN (1);
             INSERT INTO foghorn.events VALUES ({kept}, 15, 0, 1, NULL, 0, 'a', NULL, NULL, NULL, 'x')"
        ))
        .await;
    let epochs = "SELECT count(*) FROM foghorn.ancestors";
    subject.retain().await;
    assert_eq!(
        subject.count(epochs).await,
        2,
        "the oldest has nothing; what comes after it is needed in order"
    );
    subject.execute("DELETE FROM foghorn.events").await;
    subject.retain().await;
    assert_eq!(subject.count(epochs).await, 1, "the last one may still be asked for");
    subject.clock.pass(Duration::from_secs(3600));
    subject.retain().await;
    assert_eq!(subject.count(epochs).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_binary_payload_is_no_poison() {
    let subject = writing(ShardCount::ONE, Policies::default()).await;
    publish(&subject, "a", "nul:\0.").await;
    publish(&subject, "a", "after").await;
    subject.settle().await;
    let found = replay_all(&subject, 0, &["a"], 10, 1 << 20).await.unwrap();
    assert_eq!(found[0].1, "nul:\0.");
    assert_eq!(found.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_journal_is_trimmed_behind_the_head() {
    let subject = writing(ShardCount::ONE, Policies::default()).await;
    publish(&subject, "a", "1").await;
    publish(&subject, "a", "2").await;
    subject.settle().await;
    subject.clock.pass(Duration::from_secs(3601));
    publish(&subject, "a", "3").await;
    subject.settle().await;
    let mut subject = subject;
    // Every tenure begins with a look.
    subject.stop_writing().await;
    subject.write();
    foghorn_tests::wait::until("trimmed", PATIENCE, async || (subject.journal.lost() == 2).then_some(()))
        .await;
    assert_eq!(replay_all(&subject, 0, &["a"], 10, 1 << 20).await.unwrap().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_year_of_events_is_few_partitions() {
    const DAY: u64 = 86_400;
    let mut subject = quiet(ShardCount::ONE, policies(vec![kept("y", 365 * DAY), kept("h", 3600)])).await;
    for n in 1..=73 {
        publish(&subject, "y", &n.to_string()).await;
        if n < 73 {
            subject.clock.pass(Duration::from_secs(5 * DAY));
        }
    }
    publish(&subject, "h", "74").await;
    subject.write();
    subject.settle().await;
    assert_eq!(replay_all(&subject, 0, &["y"], 100, 1 << 20).await.unwrap().len(), 73);
    assert_eq!(replay_all(&subject, 73, &[">"], 100, 1 << 20).await.unwrap(), [(74, "74".to_owned())]);
    assert_eq!(replay_all(&subject, 73, &["h"], 100, 1 << 20).await.unwrap(), [(74, "74".to_owned())]);
    let of_a_year = subject.count("SELECT count(*) FROM foghorn.partitions WHERE class > 3600").await;
    assert!((20..=60).contains(&of_a_year), "{of_a_year} partitions");

    // The class changes; what was stored under the old one is read with the new.
    subject.policies.set(policies(vec![kept("y", 365 * DAY), kept("h", 7200)]));
    publish(&subject, "h", "75").await;
    subject.settle().await;
    let both = replay_all(&subject, 73, &["h"], 100, 1 << 20).await.unwrap();
    assert_eq!(both, [(74, "74".to_owned()), (75, "75".to_owned())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_of_another_size_are_built_around() {
    let subject = quiet(ShardCount::ONE, policies(vec![kept("a", 240 * 3600)])).await;
    publish(&subject, "a", "1").await;
    // Slices have ten hours; this one has the hour that the event is of.
    let hour = 3600 * 1_000_000;
    let from = subject.clock.now().as_micros().div_euclid(hour) * hour;
    let to = from + hour;
    let sql = format!(
        "CREATE TABLE foghorn.events_c864000 (LIKE foghorn.events) PARTITION BY RANGE (time_us);
         ALTER TABLE foghorn.events ATTACH PARTITION foghorn.events_c864000 FOR VALUES IN (864000);
         CREATE TABLE foghorn.old PARTITION OF foghorn.events_c864000 FOR VALUES FROM ({from}) TO ({to});
         INSERT INTO foghorn.partitions VALUES (864000, {from}, {to}, 'old')"
    );
    subject.execute(sql).await;
    let mut subject = subject;
    subject.write();
    for n in 2..=12 {
        subject.clock.pass(Duration::from_secs(3600));
        publish(&subject, "a", &n.to_string()).await;
    }
    subject.settle().await;
    assert_eq!(replay_all(&subject, 0, &["a"], 100, 1 << 20).await.unwrap().len(), 12);
    assert_eq!(subject.count("SELECT count(*) FROM foghorn.old").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restore_the_journal_is_trimmed_by_what_the_log_has_now() {
    let mut subject = writing(ShardCount::ONE, Policies::default()).await;
    for n in 1..=10 {
        publish(&subject, "a", &n.to_string()).await;
    }
    subject.settle().await;
    subject.stop_writing().await;
    // PostgreSQL comes back from a backup of when it had half of them; this process has seen them all.
    subject.execute("DELETE FROM foghorn.events WHERE seq > 5").await;
    subject.execute("UPDATE foghorn.shards SET head = 5, head_digest = 0").await;
    subject.clock.pass(2 * TRIM_BEHIND_DEFAULT);
    publish(&subject, "a", "11").await;
    subject.write();
    subject.settle().await;
    subject.assert_each_once((1..=11).map(|n| n.to_string()).collect()).await;
    assert_eq!(replay_all(&subject, 0, &["a"], 100, 1 << 20).await.unwrap().len(), 11, "and no hole");
}
