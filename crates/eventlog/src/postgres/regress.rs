//! Where the journal and the log part: a journal that lost its end, was restored from an older copy, or
//! has given sequence numbers out again.

use std::time::Duration;

use foghorn_bus::journal::Bounds;
use foghorn_core::entry::Entry;
use foghorn_core::position::Digest;

use super::state::{Kept, WriterHead};
use super::writer::{Ended, Writer, answer, on_database};
use crate::record::Record;

/// Entries that the log has are lost to the journal when they are missing in this many looks in a row.
const LOSS_LOOKS: u32 = 8;
const LOSS_PAUSE: Duration = Duration::from_millis(500);

impl Writer {
    /// Whether the journal holds another entry at the head than the log, or has lost it. Then a new epoch
    /// begins with the first entry that differs. The bounds, where the journal has been looked at again.
    pub(super) async fn regressed(&self, head: WriterHead, bounds: Bounds) -> Result<Option<Bounds>, Ended> {
        let shard = self.shard;
        if bounds.epoch != head.epoch || head.seq < bounds.first.max(1) {
            return Ok(None);
        }
        let mut seen = bounds;
        if head.seq > bounds.last {
            seen = self.look_again(head).await?;
        }
        let differs = match seen {
            // Somebody else has noticed.
            seen if seen.epoch != head.epoch => false,
            seen if head.seq > seen.last => true,
            // It may have grown past the head meanwhile, by other entries.
            seen => self.differs(head, seen).await?,
        };
        if !differs {
            // What was looked at again may have moved.
            return Ok(Some(answer(self.journal.bounds(shard)).await?));
        }
        // Asked for anew: it may have been another that answered before.
        let bounds = answer(self.journal.bounds(shard)).await?;
        let same = self.compare(head, bounds).await?.same;
        let same = same.map_or(bounds.first.saturating_sub(1), |same| same.seq);
        self.metrics.regressed(shard);
        tracing::error!(
            %shard, epoch = %head.epoch, head = head.seq, last = bounds.last, same,
            "the journal has other entries than the log has stored (restored from a backup, or an outage of a quorum): a new epoch begins"
        );
        answer(self.journal.begin_anew(shard, head.epoch, Some(same + 1))).await?;
        Ok(Some(answer(self.journal.bounds(shard)).await?))
    }

    /// Where the log goes on in the journal's new epoch: after the last entry that both have, if the new
    /// epoch is of the same journal at all. And a seq before the new epoch's first at which the two differ, where
    /// there is one: whoever began the epoch has not noticed an earlier loss.
    pub(super) async fn kept(
        &self,
        head: WriterHead,
        bounds: Bounds,
    ) -> Result<Option<(Kept, Option<u64>)>, Ended> {
        let Some(continued) = bounds.continues.filter(|_| head.epoch.get() > 0) else { return Ok(None) };
        let before = bounds.first_seq.saturating_sub(1);
        let Compared { same, parts } = self.compare(head, bounds).await?;
        let (through, common) = match same {
            _ if continued == head.epoch => {
                let through = match same {
                    // An earlier loss may have gone unnoticed: only what both have is sure. Where they have
                    // nothing, whoever began the epoch may know what had been trimmed by then.
                    same if parts.is_some() => {
                        same.map_or(before.min(bounds.first.saturating_sub(1)), |same| same.seq)
                    }
                    Some(same) => same.seq.max(before),
                    None => before,
                };
                // Where the log has what the journal has now, somebody else may have seen what it had before.
                (through, through.min(before))
            }
            // An epoch in between that the log has never heard of: only what both have is sure. Where that epoch
            // began nobody knows any more, nor what listeners have of before it.
            Some(same) => (same.seq, 0),
            None => return Ok(None),
        };
        let digest = match same {
            _ if through >= head.seq => head.digest,
            Some(same) if same.seq == through => same.digest,
            _ => Digest::NONE,
        };
        let unnoticed = parts.filter(|parts| continued == head.epoch && *parts <= before);
        Ok(Some((Kept { through, common, head: through.min(head.seq), digest }, unnoticed)))
    }

    /// Whether the journal has another entry than the log at the log's last one.
    async fn differs(&self, head: WriterHead, bounds: Bounds) -> Result<bool, Ended> {
        if head.digest != Digest::NONE {
            return Ok(self.entry(head.seq, bounds).await?.is_some_and(|entry| entry.digest != head.digest));
        }
        // After a hole, say, only rows tell.
        let row = self.row(bounds.first.saturating_sub(1), head.seq).await?;
        let Some(row) = row else { return Ok(false) };
        Ok(self.entry(row.seq, bounds).await?.is_some_and(|entry| entry.digest != row.digest()))
    }

    /// What the journal holds that seems to end before the log's head. Looked at more than once: a new
    /// leader may not have applied yet what is committed.
    async fn look_again(&self, head: WriterHead) -> Result<Bounds, Ended> {
        let mut looks = 0;
        loop {
            tokio::time::sleep(LOSS_PAUSE).await;
            let bounds = answer(self.journal.bounds(self.shard)).await?;
            looks += 1;
            if bounds.epoch != head.epoch || bounds.last >= head.seq || looks == LOSS_LOOKS {
                return Ok(bounds);
            }
        }
    }

    /// Compares the log's rows with the journal's entries. What is lost of a journal is its end, so up to some row
    /// all are the same and after it none is: a search by halves finds it, in at most 64 steps of a row and an entry
    /// each.
    async fn compare(&self, head: WriterHead, bounds: Bounds) -> Result<Compared, Ended> {
        let (mut low, mut high) = (bounds.first.saturating_sub(1), head.seq.min(bounds.last));
        // What is never replayed has no row, and the head's digest knows it all the same.
        let head_parts = head.seq > bounds.last || self.differs(head, bounds).await?;
        let mut found = Compared { same: None, parts: head_parts.then_some(head.seq) };
        // The end first: mostly nothing is lost of what the log has.
        let mut middle = high;
        while low < high {
            match self.row(low, middle).await? {
                // Invalid entries, and those that are never replayed, have none.
                None => low = middle,
                Some(row) => {
                    let digest = row.digest();
                    if self.entry(row.seq, bounds).await?.is_some_and(|entry| entry.digest == digest) {
                        found.same = Some(Same { seq: row.seq, digest });
                        low = middle;
                    } else {
                        found.parts = Some(row.seq);
                        high = row.seq - 1;
                    }
                }
            }
            middle = low + high.saturating_sub(low).div_ceil(2);
        }
        Ok(found)
    }

    /// The newest row after `after` up to `upto`.
    async fn row(&self, after: u64, upto: u64) -> Result<Option<Record>, Ended> {
        Ok(on_database(self, async |c| c.newest_row(self.shard, after, upto).await).await?)
    }

    /// The journal's entry at a seq.
    async fn entry(&self, seq: u64, bounds: Bounds) -> Result<Option<Entry>, Ended> {
        let page = answer(self.journal.read(self.shard, seq.saturating_sub(1), 1, 1)).await?;
        if page.epoch != bounds.epoch {
            return Err(Ended::Journals(format!(
                "the journal of shard {} went from epoch {} to {} while it was compared with the log",
                self.shard, bounds.epoch, page.epoch
            )));
        }
        Ok(page.entries.into_iter().next().filter(|entry| entry.seq == seq))
    }
}

/// What log and journal have in common, as far as the journal goes back.
struct Compared {
    /// The last row that is as the journal has it; none when there is no such row.
    same: Option<Same>,
    /// The first seq known at which the log has what the journal has not.
    parts: Option<u64>,
}

/// An entry that log and journal both have.
#[derive(Debug, Clone, Copy)]
struct Same {
    seq: u64,
    digest: Digest,
}
