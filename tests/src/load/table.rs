//! PostgreSQL after a load: it has every event once, where acks and listeners have it, and nothing else.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use futures::TryStreamExt;
use sqlx::{Connection, PgConnection};

use super::PREFIX;
use super::ledger::{At, Ledger};
use crate::cluster::{Cluster, RECOVERY};
use crate::wait::until;

/// A row, as far as it matters: shard, epoch, seq, channel, data.
type Row = (i16, i64, i64, String, Vec<u8>);

/// Waits until the log has all of the journal, then compares.
pub(super) async fn compare(cluster: &Cluster, ledger: &Ledger) {
    let mut lasts = HashMap::new();
    for shard in ledger.shards.shards() {
        let last =
            until("the journal's last seq", RECOVERY, async || cluster.last_seq(shard.get()).await).await;
        let head = until("the log to have all of the journal", RECOVERY, async || {
            let mut connection = PgConnection::connect(&cluster.database).await.ok()?;
            let head: i64 = sqlx::query_scalar("SELECT head FROM foghorn.shards WHERE shard = $1")
                .bind(i16::from(shard.get()))
                .fetch_one(&mut connection)
                .await
                .ok()?;
            (head >= last.cast_signed()).then_some(head)
        })
        .await;
        // A gateway may have heard itself meanwhile.
        let canaries =
            until("the journal's canaries", RECOVERY, async || cluster.canaries(shard.get()).await).await;
        let last = canaries.last().map_or(last, |canary| last.max(*canary));
        if head > last.cast_signed() {
            ledger.violation(&format!("the log's head of shard {shard} is {head}, the journal's {last}"));
        }
        lasts.insert(shard.get(), Kept { last, canaries });
    }
    let within = tokio::time::timeout(Duration::from_secs(300), rows(cluster, ledger, &lasts)).await;
    if !matches!(within, Ok(Ok(()))) {
        ledger.violation(&format!("the rows could not be read: {within:?}"));
    }
}

/// What a shard's journal has, and the log is to have of it.
struct Kept {
    last: u64,
    /// These it isn't.
    canaries: BTreeSet<u64>,
}

impl Kept {
    /// The last seq before this one of which there is a row; 0 when there is none.
    fn before(&self, seq: u64) -> u64 {
        (1..seq).rev().find(|seq| !self.canaries.contains(seq)).unwrap_or(0)
    }
}

async fn rows(cluster: &Cluster, ledger: &Ledger, lasts: &HashMap<u8, Kept>) -> sqlx::Result<()> {
    let mut connection = PgConnection::connect(&cluster.database).await?;
    let sql = "SELECT shard, epoch, seq, channel, data FROM foghorn.events ORDER BY shard, epoch, seq";
    let mut rows = sqlx::query_as::<_, Row>(sql).fetch(&mut connection);
    let mut found = vec![0; ledger.totals().len()];
    let mut seqs: HashMap<u8, u64> = HashMap::new();
    while let Some((shard, epoch, seq, channel, data)) = rows.try_next().await? {
        let (shard, epoch, seq) =
            (u8::try_from(shard).unwrap_or(u8::MAX), epoch.cast_unsigned(), seq.cast_unsigned());
        let last = seqs.insert(shard, seq).unwrap_or(0);
        if lasts.get(&shard).is_some_and(|kept| last != kept.before(seq)) {
            ledger.violation(&format!("in PostgreSQL seq {seq} of shard {shard} follows {last}"));
        }
        if !channel.starts_with(PREFIX) {
            continue;
        }
        let text = String::from_utf8_lossy(&data);
        let mut words = text.split(' ').map(str::parse::<usize>);
        let (Some(Ok(channel)), Some(Ok(number))) = (words.next(), words.next()) else {
            ledger.violation(&format!("PostgreSQL has what nobody published: {text}"));
            continue;
        };
        ledger.placed(channel, number, At { shard, epoch: Some(epoch), seq }, "PostgreSQL");
        found[channel] += 1;
    }
    let ends = lasts.iter().map(|(shard, kept)| (*shard, kept.before(kept.last + 1)));
    let ends: HashMap<u8, u64> = ends.filter(|(_, last)| *last > 0).collect();
    if seqs != ends {
        ledger.violation(&format!("PostgreSQL ends at {seqs:?}, the journal at {ends:?}"));
    }
    for (channel, total) in ledger.totals().into_iter().enumerate() {
        if found[channel] != total || ledger.seqs(channel).contains(&0) {
            let name = ledger.name(channel);
            ledger.violation(&format!(
                "PostgreSQL has {} events of {name}, {total} were acked",
                found[channel]
            ));
        }
    }
    Ok(())
}
