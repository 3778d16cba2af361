//! Whether what was tried is in the journal already.
//!
//! The journal's dedupe forgets after a while (2 minutes unless configured), and an outage may last for longer.
//! So what was tried is looked for from where the journal ended before the try: in the journal, and where that
//! has been trimmed meanwhile, in the event log, which has what was trimmed.

use std::collections::{HashMap, HashSet};

use foghorn_bus::journal::{Journal, JournalError};
use foghorn_bus::log::{EventLog, HistoryQuery, LogError};
use foghorn_core::channel::Channel;
use foghorn_core::entry::Key;
use foghorn_core::event::EventId;
use foghorn_core::position::Epoch;
use foghorn_core::shard::Shard;

use crate::table::{Attempt, Tip};

/// Most entries, and about the most bytes, that are read at a time.
const PAGE_ENTRIES: usize = 4096;
const PAGE_BYTES: usize = 4 << 20;
const PAGE_EVENTS: usize = 1000;

/// Why it is not known yet.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LookupError {
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("the journal began a new epoch while it was read")]
    Epoch,
}

/// What is looked for in one shard.
#[derive(Default)]
struct Wanted {
    keys: HashMap<Key, Vec<i64>>,
    channels: HashMap<Channel, Vec<(EventId, i64)>>,
}

/// The serials of the rows that are in the journal, or were.
pub(crate) async fn find(
    journal: &dyn Journal,
    log: &dyn EventLog,
    attempt: &Attempt,
) -> Result<HashSet<i64>, LookupError> {
    let shards = journal.shards();
    let mut wanted: HashMap<Shard, Wanted> = HashMap::new();
    for row in &attempt.rows {
        // What is no event was never tried.
        let Ok(channel) = Channel::parse(row.channel.as_str()) else { continue };
        let Ok(id) = EventId::parse(row.id.as_str()) else { continue };
        let of_shard = wanted.entry(shards.shard_of(&channel)).or_default();
        of_shard.keys.entry(Key::of(&channel, &id)).or_default().push(row.serial);
        of_shard.channels.entry(channel).or_default().push((id, row.serial));
    }
    let mut found = HashSet::new();
    for (shard, wanted) in wanted {
        // Other shards, other journals: then all there is is looked at.
        let unknown = Tip { epoch: Epoch::new(0), seq: 0 };
        let tip = attempt.tips.get(shard.index()).copied().unwrap_or(unknown);
        find_in(journal, log, shard, tip, wanted, &mut found).await?;
    }
    Ok(found)
}

async fn find_in(
    journal: &dyn Journal,
    log: &dyn EventLog,
    shard: Shard,
    tip: Tip,
    wanted: Wanted,
    found: &mut HashSet<i64>,
) -> Result<(), LookupError> {
    let bounds = journal.bounds(shard).await?;
    // What was tried is after this seq.
    let start = match bounds.epoch {
        epoch if epoch == tip.epoch => tip.seq,
        _ if bounds.continues == Some(tip.epoch) => tip.seq.min(bounds.first_seq.saturating_sub(1)),
        _ => 0,
    };
    let Wanted { mut keys, channels } = wanted;
    let (mut after, mut trimmed) = (start, false);
    while !keys.is_empty() {
        let page = journal.read(shard, after, PAGE_ENTRIES, PAGE_BYTES).await?;
        if page.epoch != bounds.epoch {
            return Err(LookupError::Epoch);
        }
        trimmed |= page.from > after;
        for key in page.entries.iter().filter_map(|entry| entry.key) {
            found.extend(keys.remove(&key).unwrap_or_default());
        }
        if page.to >= page.tip || page.to <= after {
            break;
        }
        after = page.to;
    }
    if keys.is_empty() || !trimmed {
        return Ok(());
    }
    for (channel, ids) in channels {
        find_in_log(log, channel, ids, start, bounds.epoch, found).await?;
    }
    Ok(())
}

async fn find_in_log(
    log: &dyn EventLog,
    channel: Channel,
    mut ids: Vec<(EventId, i64)>,
    mut after: u64,
    epoch: Epoch,
    found: &mut HashSet<i64>,
) -> Result<(), LookupError> {
    ids.retain(|(_, serial)| !found.contains(serial));
    while !ids.is_empty() {
        let query =
            HistoryQuery { channel: channel.clone(), after: Some(after), before: None, limit: PAGE_EVENTS };
        let page = log.history(query).await?;
        if page.epoch != epoch {
            return Err(LookupError::Epoch);
        }
        let here: HashSet<&str> = page.events.iter().filter_map(|event| event.id.as_deref()).collect();
        ids.retain(|(id, serial)| {
            let is_here = here.contains(id.as_str());
            if is_here {
                found.insert(*serial);
            }
            !is_here
        });
        if !page.more || page.reached <= after {
            break;
        }
        after = page.reached;
    }
    Ok(())
}
