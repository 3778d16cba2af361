//! What gateways tell each other about who listens, as JSON.

use serde::{Deserialize, Serialize};

use foghorn_core::channel::Channel;
use xxhash_rust::xxh3::Xxh3;

/// What one tells the gateways that look after channels.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Report {
    /// Whose listeners they are: its name as a number.
    pub(super) gateway: u64,
    /// Whether this is all there is, or the beginning of it.
    #[serde(default)]
    pub(super) anew: bool,
    /// What has changed, or what there is.
    pub(super) changes: Vec<Change>,
    /// What all of it adds up to; none while more is to come.
    pub(super) sum: Option<u64>,
}

/// How many streams of a user listen to a channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Change {
    pub(super) channel: String,
    /// None for streams of nobody in particular.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) user: Option<String>,
    /// Of a user 1, however many they have.
    pub(super) streams: usize,
}

impl Change {
    /// About as long as it is in JSON.
    pub(super) fn bytes(&self) -> usize {
        48 + self.channel.len() + self.user.as_ref().map_or(0, |user| user.len() * 2)
    }
}

/// What is answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Heard {
    /// Whether all of it has to be told anew: it doesn't add up.
    pub(super) anew: bool,
}

/// What so many streams of a user on a channel add to a sum, by XOR; nothing for none.
pub(super) fn part_of_sum(channel: &Channel, user: Option<&str>, streams: usize) -> u64 {
    if streams == 0 {
        return 0;
    }
    let mut hash = Xxh3::new();
    hash.update(channel.as_str().as_bytes());
    // No channel has a NUL in it.
    hash.update(&[0, u8::from(user.is_some())]);
    hash.update(&(streams as u64).to_le_bytes());
    hash.update(user.unwrap_or_default().as_bytes());
    hash.digest()
}
