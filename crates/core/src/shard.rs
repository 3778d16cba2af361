//! Shards: which totally ordered sequence a channel belongs to.

use std::fmt;

use crate::channel::Channel;

/// The most shards a cluster may have. A cursor holds a position per shard and must stay within
/// [`crate::cursor::CURSOR_BYTES_MAX`], which is what sets this.
pub const SHARDS_MAX: u8 = 8;

/// How many shards the cluster has, `1..=8`. Changing it is a new epoch for every shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ShardCount(u8);

/// One totally ordered sequence of events, `0..ShardCount`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Shard(u8);

/// A number of shards outside `1..=8`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the number of shards must be 1 to {SHARDS_MAX}, not {0}")]
pub struct ShardCountError(pub u64);

impl ShardCount {
    /// The default: one sequence for everything.
    pub const ONE: ShardCount = ShardCount(1);

    /// `count` shards; an error outside `1..=8`.
    pub fn new(count: u64) -> Result<Self, ShardCountError> {
        match u8::try_from(count) {
            Ok(n) if (1..=SHARDS_MAX).contains(&n) => Ok(ShardCount(n)),
            _ => Err(ShardCountError(count)),
        }
    }

    /// The number itself.
    pub fn get(self) -> u8 {
        self.0
    }

    /// Every shard, in order.
    pub fn shards(self) -> impl ExactSizeIterator<Item = Shard> + Clone {
        (0..self.0).map(Shard)
    }

    /// The shard with this number, if the cluster has it.
    pub fn shard(self, number: u64) -> Option<Shard> {
        u8::try_from(number).ok().filter(|n| *n < self.0).map(Shard)
    }

    /// The shard of a channel: FNV-1a-64 of its bytes, mod the count. Other languages check
    /// themselves against `docs/shard-vectors.json`.
    pub fn shard_of(self, channel: &Channel) -> Shard {
        self.shard_of_str(channel.as_str())
    }

    /// [`shard_of`](Self::shard_of) for a name that is not yet known to be a channel.
    pub fn shard_of_str(self, channel: &str) -> Shard {
        // The remainder is below 8.
        #[expect(clippy::cast_possible_truncation, reason = "the remainder is below 8")]
        Shard((fnv1a_64(channel.as_bytes()) % u64::from(self.0)) as u8)
    }
}

impl Shard {
    /// The first shard, the only one when the count is 1.
    pub const ZERO: Shard = Shard(0);

    /// Its number.
    pub fn get(self) -> u8 {
        self.0
    }

    /// Its number as an index into a table with an entry per shard.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// FNV-1a, 64 bits (offset basis and prime of draft-eastlake-fnv).
pub fn fnv1a_64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fnv_agrees_with_the_published_vectors() {
        assert_eq!(fnv1a_64(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a_64(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a_64(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn the_count_is_bounded() {
        assert_eq!(ShardCount::new(0), Err(ShardCountError(0)));
        assert_eq!(ShardCount::new(9), Err(ShardCountError(9)));
        assert_eq!(ShardCount::new(8).unwrap().shards().len(), 8);
    }

    #[test]
    fn the_vectors_for_other_languages_hold() {
        let vectors: serde_json::Value =
            serde_json::from_str(include_str!("../../../docs/shard-vectors.json")).unwrap();
        let vectors = vectors["vectors"].as_array().unwrap();
        assert!(vectors.len() >= 20);
        for vector in vectors {
            let channel = Channel::parse(vector["channel"].as_str().unwrap()).unwrap();
            let hash = vector["fnv1a64"].as_str().unwrap();
            assert_eq!(
                format!("{:016x}", fnv1a_64(channel.as_str().as_bytes())),
                hash.trim_start_matches("0x"),
                "{channel}"
            );
            for count in 1..=u64::from(SHARDS_MAX) {
                let shard = ShardCount::new(count).unwrap().shard_of(&channel).get();
                let expected = &vector["shards"][count.to_string()];
                assert_eq!(expected.as_u64(), Some(u64::from(shard)), "{channel} of {count}");
            }
        }
    }
}
