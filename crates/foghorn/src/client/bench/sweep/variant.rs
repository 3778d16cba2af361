//! What a sweep can have that is different from one channel which everybody hears over bare HTTP/1.1.

use std::ops::Range;

use anyhow::ensure;
use serde::Serialize;

/// The channel, where there is one.
const CHANNEL: &str = "bench";
/// Where in an event's number its channel's begins; below it is the event's own in that channel.
const CHANNEL_BIT: u32 = 40;
/// The number of an event that nobody asked for.
pub(super) const UNASKED: u64 = u64::MAX;

/// Flattened into the arguments of `foghorn bench sweep`.
#[derive(Debug, Clone, clap::Args, Serialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::client::bench) struct Variant {
    /// Shards of Foghorn's journal
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=8))]
    pub(super) shards: u8,
    /// Channels that each listener hears; events are published on them in turn
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=50))]
    pub(super) channels: u8,
    /// A channel for each listener instead, on which events are published in turn
    #[arg(long, conflicts_with_all = ["channels", "types", "quiet"])]
    pub(super) own_channels: bool,
    /// How many events are published in one request, with --own-channels
    #[arg(long, value_name = "N", requires = "own_channels", default_value_t = 100,
          value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(super) batch: u16,
    /// Listeners are known by a token (JWT): all of one subject, or each of their own
    #[arg(long, value_name = "WHOSE")]
    pub(super) token: Option<Whose>,
    /// Listeners ask for a type of events; with each event comes one of another type, which nobody is to hear
    #[arg(long)]
    pub(super) types: bool,
    /// Over TLS, with a certificate that `openssl` makes
    #[arg(long)]
    pub(super) tls: bool,
    /// Over HTTP/2, so many listeners on a connection
    #[arg(long, value_name = "LISTENERS", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(super) h2: Option<u16>,
    /// Listeners take gzip; what is compressed are events from --size 1024 on
    #[arg(long)]
    pub(super) gzip: bool,
    /// Beside it a channel of 10 events a second, with 100 listeners: what do they notice of the other? Needs --rate
    #[arg(long)]
    pub(super) quiet: bool,
}

/// Whose tokens listeners have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::client::bench) enum Whose {
    /// All are of one subject
    One,
    /// Each is of a subject of its own
    Each,
}

impl Default for Variant {
    fn default() -> Self {
        Variant {
            shards: 1,
            channels: 1,
            own_channels: false,
            batch: 1,
            token: None,
            types: false,
            tls: false,
            h2: None,
            gzip: false,
            quiet: false,
        }
    }
}

impl Variant {
    /// Whether this can be measured with events at `rate`, 0 for one at a time; and whether others than the bare loop
    /// may be made to take turns.
    pub(super) fn check(&self, rate: u32, axum: bool) -> anyhow::Result<()> {
        ensure!(!self.quiet || rate > 0, "--quiet needs --rate: one event at a time keeps nobody waiting");
        ensure!(
            !axum || self.is_plain(),
            "--axum is for what a plain service does too: not with --channels, --token, --types, --tls, --h2 or --gzip"
        );
        Ok(())
    }

    /// Whether a server that knows of nothing but channels can do the same.
    pub(super) fn is_plain(&self) -> bool {
        let Variant { channels, token, types, tls, h2, gzip, .. } = self;
        *channels == 1 && token.is_none() && !types && !tls && h2.is_none() && !gzip
    }

    /// What a server is asked for that isn't Foghorn: the same deliveries, and nothing else of it.
    pub(super) fn plain(&self) -> Self {
        let Variant { own_channels, batch, quiet, .. } = *self;
        Variant { own_channels, batch, quiet, ..Variant::default() }
    }

    /// How many channels there are.
    pub(super) fn count(&self, listeners: usize) -> usize {
        if self.own_channels { listeners } else { self.channels.into() }
    }

    /// The channel of this number.
    pub(super) fn channel(&self, number: usize) -> String {
        if self.own_channels || self.channels > 1 {
            format!("{CHANNEL}-{number}")
        } else {
            CHANNEL.to_owned()
        }
    }

    /// The numbers of the channels that a listener hears.
    pub(super) fn heard_by(&self, listener: usize) -> Range<usize> {
        if self.own_channels { listener..listener + 1 } else { 0..self.channels.into() }
    }

    /// How many listeners hear an event.
    pub(super) fn listeners_of_one(&self, listeners: usize) -> usize {
        if self.own_channels { 1 } else { listeners }
    }

    /// How many events go in one request.
    pub(super) fn in_one(&self) -> usize {
        if self.own_channels { self.batch.into() } else { 1 }
    }
}

/// The channel of the event of this number, of all that are published in turn, and what it is stamped with.
pub(super) fn place(number: u64, channels: usize) -> (usize, u64) {
    let channels = channels as u64;
    let channel = number % channels;
    (usize::try_from(channel).unwrap_or_default(), channel << CHANNEL_BIT | (number / channels))
}

/// The other way round: the channel of an event with this stamp, and its number there.
pub(super) fn placed(stamp: u64) -> (usize, u64) {
    let channel = usize::try_from(stamp >> CHANNEL_BIT).unwrap_or(usize::MAX);
    (channel, stamp & ((1 << CHANNEL_BIT) - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_numbered_in_each_channel() {
        let places: Vec<_> = (0..5).map(|number| place(number, 2)).collect();
        assert_eq!(places.iter().map(|place| place.0).collect::<Vec<_>>(), [0, 1, 0, 1, 0]);
        let there: Vec<_> = places.iter().map(|place| placed(place.1)).collect();
        assert_eq!(there, [(0, 0), (1, 0), (0, 1), (1, 1), (0, 2)]);
        assert_eq!(place(7, 1), (0, 7), "with one channel the stamp is the number");
        // In no listener's channels.
        assert!(placed(UNASKED).0 > 1_000_000);
    }

    #[test]
    fn listeners_hear_all_channels_or_their_own() {
        let three = Variant { channels: 3, ..Variant::default() };
        assert_eq!((three.count(10), three.heard_by(7), three.listeners_of_one(10)), (3, 0..3, 10));
        let own = Variant { own_channels: true, batch: 50, ..Variant::default() };
        assert_eq!((own.count(10), own.heard_by(7), own.listeners_of_one(10)), (10, 7..8, 1));
        assert_eq!((own.channel(7), Variant::default().channel(0)), ("bench-7".into(), "bench".into()));
        assert_eq!((own.in_one(), three.in_one()), (50, 1));
    }

    #[test]
    fn others_are_asked_for_the_same_deliveries_and_nothing_else() {
        let all = Variant {
            token: Some(Whose::Each),
            tls: true,
            gzip: true,
            own_channels: true,
            ..Variant::default()
        };
        assert!(!all.is_plain() && all.plain().is_plain() && all.plain().own_channels);
        assert!(all.check(10, true).is_err() && all.check(10, false).is_ok());
        let quiet = Variant { quiet: true, ..Variant::default() };
        assert!(quiet.check(0, false).is_err() && quiet.check(10, true).is_ok());
    }
}
