//! Policies: what holds for the channels under a pattern.

use std::time::Duration;

use crate::channel;
use crate::event::{Event, EventError, EventType, FRAME_BYTES_MAX};
use crate::pattern::Pattern;

/// How long events are kept when no policy says otherwise.
pub const RETENTION_DEFAULT: Duration = Duration::from_secs(24 * 3600);
/// The shortest retention by age: the log is trimmed in steps, and a client must have time to come back.
pub const RETENTION_MIN: Duration = Duration::from_secs(60);
/// The longest retention by age: ten years.
pub const RETENTION_MAX: Duration = Duration::from_secs(10 * 366 * 86_400);
/// The smallest event that is compressed when no policy says otherwise: a smaller one is a packet in any case.
pub const COMPRESS_FROM_DEFAULT: usize = 1024;
/// Most event types that a policy may list for metrics, as each is a label.
pub const METRIC_TYPES_MAX: usize = 32;

/// One `[[policy]]` of the configuration. What is left out has the default's value, not that of a
/// wider policy.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Which channels it is for.
    pub pattern: Pattern,
    /// Events are replayed for at least this long: `5m`, `24h`, `30days`.
    #[serde(default = "retention_default", with = "humantime_serde")]
    pub retention: Duration,
    /// Of each channel, only this many newest events are replayed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention_count: Option<u32>,
    /// Most bytes of an event as an SSE frame; at most the cluster's `limits.event_bytes`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_bytes: Option<usize>,
    /// Whether events can be replayed at all. Without it, who isn't listening doesn't hear them.
    #[serde(default = "yes")]
    pub replay: bool,
    /// Whether a listener that is behind, or is sent batches, is owed only the newest event of each channel.
    #[serde(default, skip_serializing_if = "is_off")]
    pub latest: bool,
    /// Bytes of the smallest event that compressed streams are sent compressed, as an SSE frame; 0 for none.
    #[serde(default = "compress_from_default", skip_serializing_if = "is_compress_from_default")]
    pub compress_from: usize,
    /// Bytes of the smallest data that are stored and sent as `{"compressed":true,"payload":"…"}`, gzip in base64; 0 for
    /// none.
    #[serde(default, skip_serializing_if = "is_none")]
    pub compress_data_from: usize,
    /// Whether it is known who listens.
    #[serde(default, skip_serializing_if = "Presence::is_off")]
    pub presence: Presence,
    /// Event types that metrics count by name; all others are counted as `other`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub metric_types: Vec<String>,
    /// Who may listen. Left out, it is whoever has a credential, but for channels under `user.`: these are
    /// their user's, and those credentials' that name them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<Access>,
}

/// Whether it is known who listens to a channel: `false`, `"counts"` (or `true`), `"events"`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Presence {
    /// It isn't.
    #[default]
    Off,
    /// To whoever asks, how many.
    Counts,
    /// Beside that, listeners are told who comes and goes.
    Events,
}

impl Presence {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
    fn is_off(&self) -> bool {
        *self == Presence::Off
    }
}

/// As versions that know no events write it, where it is what they know.
impl serde::Serialize for Presence {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Presence::Off => serializer.serialize_bool(false),
            Presence::Counts => serializer.serialize_bool(true),
            Presence::Events => serializer.serialize_str("events"),
        }
    }
}

impl<'de> serde::Deserialize<'de> for Presence {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Word;
        impl serde::de::Visitor<'_> for Word {
            type Value = Presence;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("true, false, \"counts\" or \"events\"")
            }

            fn visit_bool<E>(self, on: bool) -> Result<Presence, E> {
                Ok(if on { Presence::Counts } else { Presence::Off })
            }

            fn visit_str<E: serde::de::Error>(self, word: &str) -> Result<Presence, E> {
                match word {
                    "counts" => Ok(Presence::Counts),
                    "events" => Ok(Presence::Events),
                    _ => Err(E::invalid_value(serde::de::Unexpected::Str(word), &self)),
                }
            }
        }
        deserializer.deserialize_any(Word)
    }
}

/// Who may listen to the channels under a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// Anybody, without a credential too.
    Public,
    /// Whoever has a credential, within what it says.
    Authenticated,
    /// `user.<id>` and what is below: the user of that id, nobody else whatever their credential says.
    Owner,
    /// Whoever's credential names it, and whom the webhook authoriser allows it. The only one by which a webhook may
    /// grant anything, listening and publishing alike.
    Webhook,
}

fn retention_default() -> Duration {
    RETENTION_DEFAULT
}

fn compress_from_default() -> usize {
    COMPRESS_FROM_DEFAULT
}

/// What is as it is by default isn't written down: stored policies are read by versions that don't know the key.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_off(on: &bool) -> bool {
    !on
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_compress_from_default(bytes: &usize) -> bool {
    *bytes == COMPRESS_FROM_DEFAULT
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_none(bytes: &usize) -> bool {
    *bytes == 0
}

fn yes() -> bool {
    true
}

/// How long the log keeps an event, in whole seconds: rows of one class lie together and are dropped
/// together. The class *is* the age, so that it means the same after policies change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RetentionClass(pub u32);

impl RetentionClass {
    /// Events that are never replayed, and so not kept.
    pub const NONE: RetentionClass = RetentionClass(0);

    /// The age up to which its events are kept.
    pub fn age(self) -> Duration {
        Duration::from_secs(u64::from(self.0))
    }
}

/// What is wrong with a set of policies.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Two policies for the same channels, neither more specific.
    #[error(
        "policies {0} and {1} both match some channels and neither is more specific; make one of them cover the other, or disjoint"
    )]
    Tie(Pattern, Pattern),
    /// The age is out of range.
    #[error("policy {0}: retention must be between 1 minute and 10 years")]
    Retention(Pattern),
    /// The count is zero.
    #[error("policy {0}: retention_count must be at least 1; use replay = false for no replay")]
    Count(Pattern),
    /// The size is out of range.
    #[error("policy {0}: event_bytes must be between 64 and {FRAME_BYTES_MAX}")]
    Size(Pattern),
    /// Too many types.
    #[error("policy {0}: metric_types lists more than {METRIC_TYPES_MAX} types; each is a metric label")]
    MetricTypes(Pattern),
    /// A type that no event can have.
    #[error("policy {pattern}: metric_types: {name:?}: {why}")]
    MetricType {
        /// The policy's.
        pattern: Pattern,
        /// What was given.
        name: String,
        /// What is wrong with it.
        why: EventError,
    },
    /// Channels that have no owner.
    #[error("policy {0}: access = \"owner\" is for channels under user. alone, such as user.*")]
    Owner(Pattern),
    /// Events of who listens would take the place of the channel's state.
    #[error(
        "policy {0}: latest and presence = \"events\" exclude each other; presence = \"counts\" goes with latest"
    )]
    LatestPresence(Pattern),
}

/// All policies, and the default for channels that none matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policies {
    /// Most specific first: the first that matches a channel is its policy. Ends with the default.
    sorted: Vec<Policy>,
    /// That of channels that are Foghorn's own, whatever the others say.
    reserved: Policy,
}

impl Default for Policies {
    fn default() -> Self {
        Policies { sorted: vec![Policy::new(Pattern::everything())], reserved: Policy::reserved() }
    }
}

impl Policy {
    /// A policy with every default.
    pub fn new(pattern: Pattern) -> Self {
        Policy {
            pattern,
            retention: RETENTION_DEFAULT,
            retention_count: None,
            event_bytes: None,
            replay: true,
            latest: false,
            compress_from: COMPRESS_FROM_DEFAULT,
            compress_data_from: 0,
            presence: Presence::Off,
            metric_types: Vec::new(),
            access: None,
        }
    }

    /// That of channels that are Foghorn's own: what is said there is for who listens then.
    fn reserved() -> Self {
        Policy { replay: false, ..Policy::new(Pattern::reserved()) }
    }

    /// The class of its events.
    pub fn class(&self) -> RetentionClass {
        let seconds = u32::try_from(self.retention.as_secs()).unwrap_or(u32::MAX);
        if self.replay { RetentionClass(seconds) } else { RetentionClass::NONE }
    }

    /// Whether both match some channels and neither is more specific, so that they can't hold together.
    pub fn ties_with(&self, other: &Policy) -> bool {
        match self.pattern.specificity(&other.pattern) {
            Some(order) => order.is_eq(),
            None => self.pattern.intersects(&other.pattern),
        }
    }

    fn check(&self) -> Result<(), PolicyError> {
        let pattern = || self.pattern.clone();
        if !(RETENTION_MIN..=RETENTION_MAX).contains(&self.retention) {
            return Err(PolicyError::Retention(pattern()));
        }
        if self.retention_count == Some(0) {
            return Err(PolicyError::Count(pattern()));
        }
        if self.event_bytes.is_some_and(|bytes| !(64..=FRAME_BYTES_MAX).contains(&bytes)) {
            return Err(PolicyError::Size(pattern()));
        }
        if self.metric_types.len() > METRIC_TYPES_MAX {
            return Err(PolicyError::MetricTypes(pattern()));
        }
        for name in &self.metric_types {
            EventType::parse(name.as_str()).map_err(|why| PolicyError::MetricType {
                pattern: pattern(),
                name: name.clone(),
                why,
            })?;
        }
        if self.access == Some(Access::Owner) && !Pattern::users().covers(&self.pattern) {
            return Err(PolicyError::Owner(pattern()));
        }
        if self.latest && self.presence == Presence::Events {
            return Err(PolicyError::LatestPresence(pattern()));
        }
        Ok(())
    }
}

impl Policies {
    /// Checks and orders `policies`. One for `>` replaces the default.
    pub fn new(policies: Vec<Policy>) -> Result<Self, PolicyError> {
        for (at, policy) in policies.iter().enumerate() {
            policy.check()?;
            if let Some(other) = policies[..at].iter().find(|other| policy.ties_with(other)) {
                return Err(PolicyError::Tie(other.pattern.clone(), policy.pattern.clone()));
            }
        }
        let mut sorted = policies;
        if !sorted.iter().any(|p| p.pattern == Pattern::everything()) {
            sorted.push(Policy::new(Pattern::everything()));
        }
        // A pattern that covers another matches more; how many others a pattern covers orders each
        // chain of coverage, and patterns outside one chain never match the same channel.
        let patterns: Vec<Pattern> = sorted.iter().map(|p| p.pattern.clone()).collect();
        sorted.sort_by_key(|policy| patterns.iter().filter(|other| policy.pattern.covers(other)).count());
        Ok(Policies { sorted, reserved: Policy::reserved() })
    }

    /// The policy of a channel.
    pub fn of(&self, channel: &str) -> &Policy {
        if channel::is_reserved(channel) {
            return &self.reserved;
        }
        // The last one is `>` and matches everything.
        self.sorted.iter().find(|p| p.pattern.matches(channel)).unwrap_or(&self.sorted[self.sorted.len() - 1])
    }

    /// Most bytes of an event's frame on a channel, where the cluster has so many at most.
    pub fn event_bytes(&self, channel: &str, cluster: usize) -> usize {
        self.of(channel).event_bytes.map_or(cluster, |bytes| bytes.min(cluster))
    }

    /// Whether it is known who listens to a channel.
    pub fn counts_presence(&self, channel: &str) -> bool {
        // Nearly nobody says so.
        let counts = |policy: &Policy| policy.presence != Presence::Off;
        self.sorted.iter().any(counts) && counts(self.of(channel))
    }

    /// Whether listeners of a channel are told who comes and goes.
    pub fn tells_presence(&self, channel: &str) -> bool {
        self.tell_presence() && self.of(channel).presence == Presence::Events
    }

    /// Whether those of any channel are.
    pub fn tell_presence(&self) -> bool {
        self.sorted.iter().any(|policy| policy.presence == Presence::Events)
    }

    /// The class of an event. Who came and went is for whoever listens then: it would push out what publishers gave.
    pub fn class_of(&self, event: &Event) -> RetentionClass {
        if event.event_type.as_ref().is_some_and(EventType::is_presence) {
            return RetentionClass::NONE;
        }
        self.of(event.channel.as_str()).class()
    }

    /// Whether there are events of publishers that are not kept.
    pub fn have_unkept(&self) -> bool {
        self.tell_presence() || self.sorted.iter().any(|policy| !policy.replay)
    }

    /// Whether a webhook is asked about some channels.
    pub fn ask_webhook(&self) -> bool {
        self.sorted.iter().any(|policy| policy.access == Some(Access::Webhook))
    }

    /// Whether only the newest event of a channel is owed to who is behind.
    pub fn keeps_latest(&self, channel: &str) -> bool {
        // Nearly nobody says so.
        self.sorted.iter().any(|policy| policy.latest) && self.of(channel).latest
    }

    /// Every policy that holds for some channel under `pattern`.
    pub fn intersecting<'a>(&'a self, pattern: &'a Pattern) -> impl Iterator<Item = &'a Policy> {
        // Those less specific than one that covers the whole pattern hold for nothing under it.
        let covering = self.sorted.iter().position(|p| p.pattern.covers(pattern));
        let until = covering.map_or(self.sorted.len(), |at| at + 1);
        self.sorted[..until].iter().filter(move |p| p.pattern.intersects(pattern))
    }

    /// Every policy, most specific first; the default is last.
    pub fn all(&self) -> &[Policy] {
        &self.sorted
    }

    /// Every retention class in use, shortest first.
    pub fn classes(&self) -> Vec<RetentionClass> {
        let mut classes: Vec<_> =
            self.sorted.iter().map(Policy::class).filter(|c| *c != RetentionClass::NONE).collect();
        classes.sort_unstable();
        classes.dedup();
        classes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::Channel;

    fn policy(pattern: &str, minutes: u64) -> Policy {
        Policy {
            retention: Duration::from_secs(60 * minutes),
            ..Policy::new(Pattern::parse(pattern).unwrap())
        }
    }

    #[test]
    fn the_most_specific_policy_wins() {
        let policies =
            Policies::new(vec![policy("orders.>", 2), policy("orders.eu.*", 3), policy("orders.eu.vip", 4)])
                .unwrap();
        for (channel, minutes) in
            [("orders.us", 2), ("orders.eu.1", 3), ("orders.eu.vip", 4), ("else", 24 * 60)]
        {
            assert_eq!(policies.of(channel).retention, Duration::from_secs(60 * minutes), "{channel}");
        }
        let under = |p: &str| {
            let pattern = Pattern::parse(p).unwrap();
            policies.intersecting(&pattern).map(|p| p.pattern.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(under("orders.eu.vip"), ["orders.eu.vip"]);
        assert_eq!(under("orders.*.*"), ["orders.eu.vip", "orders.eu.*", "orders.>"]);
        assert_eq!(under("news"), [">"]);
    }

    #[test]
    fn what_is_foghorns_own_is_not_kept_nor_left_out_for_newer_ones_whatever_policies_say() {
        let all = Policy { latest: true, presence: Presence::Counts, ..policy(">", 5) };
        let policies = Policies::new(vec![all]).unwrap();
        let canary = Event::new(Channel::canary(1, 0), "1");
        assert_eq!(policies.class_of(&canary), RetentionClass::NONE);
        let name = canary.channel.as_str();
        assert!(!policies.keeps_latest(name) && !policies.counts_presence(name));
        assert!(policies.keeps_latest("a") && policies.counts_presence("a"));
    }

    #[test]
    fn ties_and_absurd_values_are_errors() {
        let tie = Policies::new(vec![policy("orders.*", 2), policy("*.eu", 3)]);
        assert!(matches!(tie, Err(PolicyError::Tie(_, _))));
        assert!(matches!(Policies::new(vec![policy("a", 2), policy("a", 3)]), Err(PolicyError::Tie(_, _))));
        assert!(matches!(Policies::new(vec![policy("a", 0)]), Err(PolicyError::Retention(_))));
        let mut none = policy("a", 2);
        none.retention_count = Some(0);
        assert!(matches!(Policies::new(vec![none]), Err(PolicyError::Count(_))));
        let owned =
            |pattern: &str| Policies::new(vec![Policy { access: Some(Access::Owner), ..policy(pattern, 2) }]);
        assert!(owned("user.*").is_ok() && owned("user.>").is_ok());
        for pattern in ["user", "*.eu", ">", "users.*"] {
            assert!(matches!(owned(pattern), Err(PolicyError::Owner(_))), "{pattern}");
        }
        let both = Policy { latest: true, presence: Presence::Events, ..policy("a", 2) };
        assert!(matches!(Policies::new(vec![both]), Err(PolicyError::LatestPresence(_))));
    }

    #[test]
    fn presence_is_a_word_or_as_it_was_before_there_were_events() {
        let read = |text: &str| serde_json::from_str::<Presence>(text);
        let known = [("false", Presence::Off), ("true", Presence::Counts), ("\"counts\"", Presence::Counts)];
        for (text, presence) in known.into_iter().chain([("\"events\"", Presence::Events)]) {
            assert_eq!(read(text).unwrap(), presence);
            assert_eq!(read(&serde_json::to_string(&presence).unwrap()).unwrap(), presence);
        }
        let why = read("\"all\"").unwrap_err().to_string();
        assert!(why.contains("expected true, false, \"counts\" or \"events\""), "{why}");
    }

    #[test]
    fn who_came_and_went_is_not_kept_whatever_else_of_the_channel_is() {
        let told = Policy { presence: Presence::Events, ..policy("room.*", 2) };
        let policies = Policies::new(vec![told]).unwrap();
        let mut event = Event::new(Channel::parse("room.a").unwrap(), "x");
        assert_eq!(policies.class_of(&event), RetentionClass(120));
        event.event_type = Some(EventType::presence());
        assert_eq!(policies.class_of(&event), RetentionClass::NONE);
        assert!(policies.tells_presence("room.a") && !policies.tells_presence("other"));
        assert!(policies.have_unkept() && !Policies::default().have_unkept());
    }
}
