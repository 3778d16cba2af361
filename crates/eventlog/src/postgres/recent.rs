//! What the journal has beyond the log's head: not committed yet, and owed all the same.

use std::time::Duration;

use foghorn_bus::journal::{Bounds, Journal, JournalError, JournalPage};
use foghorn_bus::log::LogError;
use foghorn_core::entry::Entry;
use foghorn_core::policy::{Policies, RetentionClass};
use foghorn_core::position::Epoch;
use foghorn_core::shard::Shard;
use futures::future::BoxFuture;
use tokio::time::timeout;

use crate::record::Record;
use crate::source::Limit;
use crate::topics::Topics;

/// Longest wait for an answer of the journal's: within what clients give a replica.
const DEADLINE: Duration = Duration::from_secs(3);
/// How far the log may be behind and queries about the newest events still be answered.
const RECENT_ENTRIES: u64 = 20_000;
const RECENT_BYTES: usize = 16 * 1024 * 1024;

pub(super) async fn bounds(journal: &dyn Journal, shard: Shard) -> Result<Bounds, LogError> {
    answer(journal.bounds(shard)).await
}

pub(super) async fn read(
    journal: &dyn Journal,
    shard: Shard,
    after: u64,
    limit: Limit,
) -> Result<JournalPage, LogError> {
    answer(journal.read(shard, after, limit.events, limit.bytes)).await
}

pub(super) async fn answer<T>(asked: BoxFuture<'_, Result<T, JournalError>>) -> Result<T, LogError> {
    let answered = timeout(DEADLINE, asked).await;
    let answered =
        answered.map_err(|_| LogError(format!("the journal did not answer within {DEADLINE:?}")))?;
    answered.map_err(|error| LogError(error.to_string()))
}

/// An error when the log is in a later epoch than the journal seems to be: this process has not heard of
/// it yet, and would take entries of the new epoch for those of the old.
pub(super) fn not_behind(shard: Shard, stored: Option<Epoch>, journal: Epoch) -> Result<(), LogError> {
    match stored {
        Some(stored) if stored > journal => Err(LogError(format!(
            "the journal of shard {shard} is in epoch {stored}, as seen from here in {journal}; try again"
        ))),
        _ => Ok(()),
    }
}

/// The journal is in an epoch that only the log's writer can tell where it parts from the one before.
pub(super) fn not_followed(shard: Shard) -> LogError {
    LogError(format!("the log of shard {shard} has not followed the journal yet; try again"))
}

/// What of these entries is for `topics`. Entries that are never replayed lie in the journal too: they
/// are for a ring that is filled, and for nobody else.
pub(super) fn select(entries: Vec<Entry>, topics: &Topics, policies: &Policies, fill: bool) -> Vec<Record> {
    let records = entries.into_iter().filter_map(Record::of);
    records
        .filter(|record| {
            topics.matches(record.event.channel.as_str())
                && (fill || policies.class_of(&record.event) != RetentionClass::NONE)
        })
        .collect()
}

/// All of the journal after `head`, up to its tip.
pub(super) struct Recent {
    pub(super) records: Vec<Record>,
    pub(super) tip: u64,
}

pub(super) async fn recent(
    journal: &dyn Journal,
    shard: Shard,
    epoch: Epoch,
    head: u64,
    topics: &Topics,
    policies: &Policies,
) -> Result<Recent, LogError> {
    let (mut at, mut bytes, mut records) = (head, 0, Vec::new());
    loop {
        let page = read(journal, shard, at, Limit::new(usize::MAX, usize::MAX)).await?;
        if page.epoch != epoch || page.from != at {
            return Err(not_followed(shard));
        }
        at = page.to;
        let found = select(page.entries, topics, policies, false);
        bytes += found.iter().map(Record::bytes).sum::<usize>();
        records.extend(found);
        if at >= page.tip {
            return Ok(Recent { records, tip: at });
        }
        if page.tip - head > RECENT_ENTRIES || bytes > RECENT_BYTES {
            let behind = page.tip - head;
            return Err(LogError(format!(
                "the log of shard {shard} is {behind} entries behind; try again later"
            )));
        }
    }
}
