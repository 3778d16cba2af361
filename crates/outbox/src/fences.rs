//! Fences: what keeps out of the journal whatever an earlier try has on its way.
//!
//! A publisher that is stopped may have an event in a queue between here and the journal, and neither its lease
//! nor any check of its own is asked again before that is sent: the journal itself has to refuse it. So
//! everything is appended behind a fence, and whoever tries again raises the fence first.

use std::collections::HashMap;
use std::time::Duration;

use foghorn_bus::journal::{AppendError, Fence, Journal};
use foghorn_core::channel::Channel;
use foghorn_core::shard::{Shard, ShardCount, fnv1a_64};
use parking_lot::Mutex;
use tokio::time::Instant;

/// Fences over all shards, each with the appends of its share of the channels, one at a time. All processes of an
/// outbox must agree on it.
pub(crate) const LANES: usize = 64;
/// For how long one is used. The journal forgets it with its other entries, an hour later or earlier, and then
/// refuses what is appended behind it.
const STANDS: Duration = Duration::from_secs(10 * 60);

/// The channels of one fence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Lane {
    shard: Shard,
    number: usize,
}

/// The fences of an outbox, as far as they were raised here.
#[derive(Debug)]
pub(crate) struct Fences {
    shards: ShardCount,
    /// By shard and number.
    channels: Vec<Vec<Channel>>,
    standing: Mutex<HashMap<Lane, (Fence, Instant)>>,
}

impl Fences {
    /// Of the outbox with this name, in a journal of so many shards.
    pub(crate) fn new(name: &str, shards: ShardCount) -> Self {
        let per_shard = LANES / usize::from(shards.get());
        let mut channels = vec![Vec::with_capacity(per_shard); usize::from(shards.get())];
        // Which shard a channel is of is as good as random, so that this goes over some more than `LANES`.
        for number in 0u32.. {
            let Ok(channel) = Channel::fence(name, number) else { break };
            let of_shard = &mut channels[shards.shard_of(&channel).index()];
            if of_shard.len() < per_shard {
                of_shard.push(channel);
            }
            if channels.iter().all(|of_shard| of_shard.len() == per_shard) {
                break;
            }
        }
        Fences { shards, channels, standing: Mutex::default() }
    }

    /// The lane of a channel.
    pub(crate) fn lane(&self, channel: &Channel) -> Lane {
        let shard = self.shards.shard_of(channel);
        let hash = fnv1a_64(channel.as_str().as_bytes()) / u64::from(self.shards.get());
        let number = usize::try_from(hash % self.channels[shard.index()].len() as u64).unwrap_or(0);
        Lane { shard, number }
    }

    /// The lane's fence as it stands, raised if need be.
    pub(crate) async fn standing(&self, journal: &dyn Journal, lane: Lane) -> Result<Fence, AppendError> {
        if let Some((fence, raised)) = self.standing.lock().get(&lane)
            && raised.elapsed() < STANDS
        {
            return Ok(fence.clone());
        }
        self.raise(journal, lane).await
    }

    /// Raises a lane's fence: whatever was to be appended on its channels is in the journal by now, or never
    /// will be.
    pub(crate) async fn raise(&self, journal: &dyn Journal, lane: Lane) -> Result<Fence, AppendError> {
        let raised = Instant::now();
        let fence = journal.raise(self.channels[lane.shard.index()][lane.number].clone()).await?;
        self.standing.lock().insert(lane, (fence.clone(), raised));
        Ok(fence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_lane_has_a_fence_in_the_shard_of_its_channels() {
        for count in 1..=8 {
            let shards = ShardCount::new(count).unwrap();
            let fences = Fences::new("0b3c7d0e-9f52-4c0e-8a55-0a1b2c3d4e5f", shards);
            let mut used = std::collections::HashSet::new();
            for number in 0..2000 {
                let channel = Channel::parse(format!("orders.{number}")).unwrap();
                let lane = fences.lane(&channel);
                let fence = &fences.channels[lane.shard.index()][lane.number];
                assert_eq!(shards.shard_of(fence), shards.shard_of(&channel), "{count} shards");
                used.insert(fence.clone());
            }
            let all = LANES / usize::try_from(count).unwrap() * usize::try_from(count).unwrap();
            assert_eq!(used.len(), all, "{count} shards");
        }
    }
}
