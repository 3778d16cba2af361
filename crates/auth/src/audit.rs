//! The audit log: who connected, was refused, published and revoked, for those who have to know afterwards.
//!
//! Its lines go where all of the log goes, with the target `audit`, and have the same fields whatever they are about.
//! There are so many a second of each kind, or whoever asks a lot could fill a disk; what finds no room is counted,
//! and the next line of the kind says how many those were.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// What time is divided into.
const SECOND: Duration = Duration::from_secs(1);
/// Most bytes of a text from outside: subjects and channels may be longer than a line should be.
const TEXT_BYTES: usize = 256;

/// What somebody did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Opened a stream.
    Connected,
    /// Wanted to do something that they may not.
    Refused,
    /// Gave an event to be published.
    Published,
    /// Revoked something.
    Revoked,
    /// Had a user's data erased.
    Erased,
    /// Asked what others do, as an operator.
    Inspected,
}

impl Action {
    /// Every action, for metrics that start at zero.
    pub const ALL: [Action; 6] = [
        Action::Connected,
        Action::Refused,
        Action::Published,
        Action::Revoked,
        Action::Erased,
        Action::Inspected,
    ];

    /// The word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Action::Connected => "connected",
            Action::Refused => "refused",
            Action::Published => "published",
            Action::Revoked => "revoked",
            Action::Erased => "erased",
            Action::Inspected => "inspected",
        }
    }
}

/// A line. Nothing of a credential is ever in it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Line<'a> {
    /// By which door: `http`, `grpc`, `nats`.
    pub door: &'static str,
    /// The subject of whose token; none: nobody is known.
    pub subject: Option<&'a str>,
    /// The address of who asked, where the door knows one.
    pub address: Option<IpAddr>,
    /// The `clientId` of the stream that it is about.
    pub stream: Option<&'a str>,
    /// On what: channels, or what was revoked, or the path that was asked for.
    pub on: &'a str,
    /// Why, if it was refused: the problem's type.
    pub reason: Option<&'static str>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ActionLabel {
    action: &'static str,
}

/// Says what is to be known afterwards.
#[derive(Debug)]
pub struct Audit {
    /// Of each kind; 0 for none.
    per_second: u32,
    kinds: [Mutex<Kind>; Action::ALL.len()],
    suppressed: Family<ActionLabel, Counter>,
}

#[derive(Debug)]
struct Kind {
    /// The second that is counted.
    began: Instant,
    said: u32,
    suppressed: u64,
    /// All that ever were, looked up once: it may be a line for each event that is published.
    counted: Counter,
}

impl Audit {
    /// At most so many lines of each kind a second; 0 for none at all.
    pub fn new(per_second: u32) -> Self {
        let suppressed = Family::<ActionLabel, Counter>::default();
        let kind = |action: Action| {
            let counted = suppressed.get_or_create(&ActionLabel { action: action.as_str() }).clone();
            Mutex::new(Kind { began: Instant::now(), said: 0, suppressed: 0, counted })
        };
        let kinds = Action::ALL.map(kind);
        Audit { per_second, kinds, suppressed }
    }

    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register(
            "audit_suppressed",
            "Lines of the audit log that found no room, by what they would have been about",
            self.suppressed.clone(),
        );
    }

    /// Room for a line about this, if there is any now. Nothing need be made of one that isn't said.
    pub fn room(&self, action: Action) -> Option<Room> {
        let suppressed = self.room_at(action, Instant::now())?;
        Some(Room { action, suppressed })
    }

    /// How many found none since the last, if there is room for one.
    fn room_at(&self, action: Action, now: Instant) -> Option<u64> {
        if self.per_second == 0 {
            return None;
        }
        let mut kind = self.kinds[action as usize].lock();
        if now.saturating_duration_since(kind.began) >= SECOND {
            (kind.began, kind.said) = (now, 0);
        }
        if kind.said < self.per_second {
            kind.said += 1;
            return Some(std::mem::take(&mut kind.suppressed));
        }
        kind.suppressed += 1;
        kind.counted.inc();
        None
    }
}

/// Room for a line.
#[derive(Debug)]
#[must_use]
pub struct Room {
    action: Action,
    suppressed: u64,
}

impl Room {
    /// Says it.
    pub fn say(self, line: &Line<'_>) {
        let Line { door, subject, address, stream, on, reason } = *line;
        tracing::info!(
            target: "audit",
            action = self.action.as_str(),
            door,
            subject = subject.map(shortened),
            address = address.map(tracing::field::display),
            client_id = stream,
            on = shortened(on),
            reason,
            suppressed = (self.suppressed > 0).then_some(self.suppressed),
            "audit"
        );
    }
}

/// The beginning of a text.
fn shortened(text: &str) -> &str {
    &text[..text.floor_char_boundary(TEXT_BYTES)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_lines_of_a_kind_are_said_in_a_second_and_the_next_one_says_how_many_were_not() {
        let audit = Audit::new(2);
        let began = Instant::now();
        let room = |action, seconds| audit.room_at(action, began + SECOND * seconds);
        let published = |seconds| room(Action::Published, seconds);
        assert_eq!([1, 1, 1, 1, 1].map(published), [Some(0), Some(0), None, None, None]);
        assert_eq!(room(Action::Revoked, 1), Some(0), "other kinds have their own room");
        assert_eq!([2, 2, 2].map(published), [Some(3), Some(0), None]);
        assert_eq!(published(9), Some(1));
        let count = audit.suppressed.get_or_create(&ActionLabel { action: "published" }).get();
        assert_eq!(count, 4);
        assert_eq!(Audit::new(0).room_at(Action::Revoked, began), None);
    }

    #[test]
    fn texts_are_cut_between_characters() {
        assert_eq!(shortened("short"), "short");
        assert_eq!(shortened(&"é".repeat(200)).len(), TEXT_BYTES);
        assert_eq!(shortened(&format!("x{}", "é".repeat(200))).len(), TEXT_BYTES - 1);
    }
}
