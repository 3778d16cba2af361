//! What a connection listens to.

use std::sync::Arc;
use std::time::Duration;

use foghorn_core::batch::FeedEvent;
use foghorn_core::channel::{self, Channel};
use foghorn_core::cursor::{Cursor, SubscriptionId};
use foghorn_core::event::EventType;
use foghorn_core::pattern::Pattern;
use foghorn_core::shard::{Shard, ShardCount};

use crate::connection::{Course, cursor};
use crate::kept::{Kept, Original};

/// Topics that a listener wants from one shard.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Topics {
    /// Only channels, each once: found by the ring's index.
    Channels(Vec<Channel>),
    /// Patterns too: found by looking at every event.
    Mixed {
        /// The channels.
        channels: Vec<Channel>,
        /// The patterns.
        patterns: Vec<Pattern>,
    },
}

impl Topics {
    /// Sorts topics into channels and patterns; doubles count once, and in which order they come is all the same.
    pub fn new(topics: impl IntoIterator<Item = Pattern>) -> Self {
        let (mut channels, mut patterns) = (Vec::new(), Vec::new());
        for topic in topics {
            match topic.channel() {
                Some(channel) => channels.push(channel),
                None => patterns.push(topic),
            }
        }
        channels.sort_unstable();
        channels.dedup();
        patterns.sort_unstable();
        patterns.dedup();
        if patterns.is_empty() { Topics::Channels(channels) } else { Topics::Mixed { channels, patterns } }
    }

    /// Whether events of a channel are wanted. What is Foghorn's own is by its name alone, and not by any pattern.
    pub fn want(&self, channel: &str) -> bool {
        let among = |channels: &[Channel]| channels.iter().any(|c| c.as_str() == channel);
        match self {
            Topics::Channels(channels) => among(channels),
            Topics::Mixed { channels, patterns } => {
                among(channels)
                    || (!channel::is_reserved(channel) && patterns.iter().any(|p| p.matches(channel)))
            }
        }
    }

    /// The channels.
    pub fn channels(&self) -> &[Channel] {
        match self {
            Topics::Channels(channels) | Topics::Mixed { channels, .. } => channels,
        }
    }

    fn channels_mut(&mut self) -> &mut Vec<Channel> {
        match self {
            Topics::Channels(channels) | Topics::Mixed { channels, .. } => channels,
        }
    }

    /// The patterns.
    pub fn patterns(&self) -> &[Pattern] {
        match self {
            Topics::Channels(_) => &[],
            Topics::Mixed { patterns, .. } => patterns,
        }
    }

    /// All of them as patterns, as the event log is asked.
    pub fn to_patterns(&self) -> Arc<[Pattern]> {
        self.channels().iter().map(Pattern::from).chain(self.patterns().iter().cloned()).collect()
    }
}

/// How a connection is sent its events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Form {
    /// Each as it was published.
    Plain,
    /// Each in an envelope that names the channel.
    Envelope,
    /// All of so many milliseconds in one block.
    Batch {
        /// From the first of them on.
        millis: u32,
    },
}

impl Form {
    /// Whether each event has an envelope.
    pub(crate) fn is_envelope(self) -> bool {
        self == Form::Envelope
    }

    /// How long events are gathered, if they are.
    pub(crate) fn gathered_for(self) -> Option<Duration> {
        match self {
            Form::Plain | Form::Envelope => None,
            Form::Batch { millis } => Some(Duration::from_millis(millis.into())),
        }
    }
}

/// Everything a connection asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Subscription {
    /// The topics, by shard; only shards that have some.
    pub(crate) shards: Vec<(Shard, Topics)>,
    /// Only events of these types; empty for all.
    pub(crate) types: Vec<String>,
    /// How it is sent its events.
    pub(crate) form: Form,
    /// Whether visible `heartbeat` events are sent beside the keep-alive.
    pub(crate) heartbeat: bool,
    /// Whether it is sent compressed.
    pub(crate) gzip: bool,
    /// What the stream's URL asks to hear.
    pub(crate) original: Original,
    /// Where it hears something else by now: that, as it is kept.
    pub(crate) kept: Option<Arc<Kept>>,
}

impl Subscription {
    /// A subscription to topics; doubles count once. A channel is in its one shard, a pattern in all.
    pub(crate) fn new(topics: &[Pattern], shards: ShardCount) -> Self {
        let of_shard = |shard| {
            let here = |topic: &&Pattern| topic.channel().is_none_or(|c| shards.shard_of(&c) == shard);
            Topics::new(topics.iter().filter(here).cloned())
        };
        let shards = shards.shards().map(|shard| (shard, of_shard(shard)));
        Subscription {
            shards: shards.filter(|(_, topics)| *topics != Topics::Channels(Vec::new())).collect(),
            types: Vec::new(),
            form: Form::Plain,
            heartbeat: false,
            gzip: false,
            original: Original::default(),
            kept: None,
        }
    }

    /// The same but for one channel, which nothing else in it covers. Its shard stays among the shards, so that cursors
    /// are the same. None where it has no such channel.
    pub(crate) fn without(&self, channel: &Channel) -> Option<Self> {
        let named = |topics: &Topics| topics.channels().binary_search(channel).ok();
        let (shard, at) =
            self.shards.iter().enumerate().find_map(|(i, (_, topics))| Some((i, named(topics)?)))?;
        if self.shards[shard].1.patterns().iter().any(|pattern| pattern.matches(channel.as_str())) {
            return None;
        }
        let mut without = self.clone();
        without.shards[shard].1.channels_mut().remove(at);
        Some(without)
    }

    /// The same with one channel more, which lies in a shard that it has.
    pub(crate) fn with(&self, channel: &Channel, shard: Shard) -> Self {
        let mut with = self.clone();
        if let Some((_, topics)) = with.shards.iter_mut().find(|(other, _)| *other == shard)
            && let Err(at) = topics.channels().binary_search(channel)
        {
            topics.channels_mut().insert(at, channel.clone());
        }
        with
    }

    /// What its cursors call it, if it isn't what the stream's URL says.
    pub(crate) fn id(&self) -> Option<SubscriptionId> {
        self.kept.as_ref().map(|kept| kept.id())
    }

    /// The cursor of a stream with it at these positions.
    pub(crate) fn cursor(&self, courses: &[Course]) -> Cursor {
        cursor(courses).of(self.id())
    }

    /// Whether an event's block has the same `id:` as for every other listener of its shard, which was encoded with it.
    pub(crate) fn has_common_ids(&self) -> bool {
        self.shards.len() == 1 && self.kept.is_none()
    }

    /// What it listens to, in whichever shards. A pattern is in all of them.
    pub(crate) fn topics(&self) -> impl Iterator<Item = Pattern> {
        let channels = self.shards.iter().flat_map(|(_, topics)| topics.channels()).map(Pattern::from);
        let patterns = self.shards.first().into_iter().flat_map(|(_, topics)| topics.patterns()).cloned();
        channels.chain(patterns)
    }

    /// Whether it has this channel by its name.
    pub(crate) fn names(&self, channel: &Channel) -> bool {
        self.shards.iter().any(|(_, topics)| topics.channels().binary_search(channel).is_ok())
    }

    /// Whether the type filter lets an event pass. An event without a type is a `message`.
    pub(crate) fn wants_type(&self, event: &FeedEvent) -> bool {
        self.wants_type_named(event.event_type.as_ref().map(EventType::as_str))
    }

    /// The same of a type's name; none for an event without one.
    pub(crate) fn wants_type_named(&self, name: Option<&str>) -> bool {
        let name = name.unwrap_or("message");
        self.types.is_empty() || self.types.iter().any(|t| t == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_foghorns_own_is_wanted_by_its_name_alone() {
        let own = Channel::canary(1, 0);
        for pattern in [">", "*.>", "*.canary.*.*", "*.*.*.*"] {
            let pattern = Pattern::parse(pattern).unwrap();
            assert!(pattern.matches(own.as_str()) && !Topics::new([pattern]).want(own.as_str()));
        }
        assert!(Topics::new([Pattern::from(&own)]).want(own.as_str()));
        assert!(Topics::new([Pattern::from(&own), Pattern::everything()]).want(own.as_str()));
    }

    #[test]
    fn topics_lie_in_their_shards() {
        let four = ShardCount::new(4).unwrap();
        let pattern = |p: &str| Pattern::parse(p).unwrap();
        let channels = Subscription::new(&[pattern("a"), pattern("a")], four);
        let total: usize = channels.shards.iter().map(|(_, t)| t.channels().len()).sum();
        assert_eq!(total, 1, "a once: {channels:?}");
        let mixed = ["b", "orders.>", "a"].map(pattern);
        let turned = ["orders.>", "a", "b", "a"].map(pattern);
        assert_eq!(Subscription::new(&mixed, four), Subscription::new(&turned, four));
        let everywhere = Subscription::new(&[pattern("orders.>")], four);
        assert_eq!(everywhere.shards.len(), 4);
        assert!(everywhere.shards.iter().all(|(_, t)| t.want("orders.x")));
    }

    #[test]
    fn a_channel_taken_out_and_put_back_leaves_everything_as_it_was() {
        let channel = Channel::parse("user.ann").unwrap();
        for shards in [1, 4].map(|count| ShardCount::new(count).unwrap()) {
            for others in [&["zoo", "a"][..], &["orders.>", "a"], &[]] {
                let topics = others.iter().copied().chain(["user.ann"]);
                let topics: Vec<_> = topics.map(|topic| Pattern::parse(topic).unwrap()).collect();
                let whole = Subscription::new(&topics, shards);
                let common = whole.without(&channel).unwrap();
                let numbers = |s: &Subscription| s.shards.iter().map(|(shard, _)| *shard).collect::<Vec<_>>();
                assert_eq!(numbers(&common), numbers(&whole), "of the same shards, as its cursors are");
                assert!(!common.shards.iter().any(|(_, topics)| topics.want("user.ann")));
                assert_eq!(common.with(&channel, shards.shard_of(&channel)), whole);
            }
            let covered = ["user.*", "user.ann"].map(|topic| Pattern::parse(topic).unwrap());
            assert_eq!(
                Subscription::new(&covered, shards).without(&channel),
                None,
                "heard by its pattern too"
            );
            assert_eq!(Subscription::new(&covered[..1], shards).without(&channel), None);
        }
    }
}
