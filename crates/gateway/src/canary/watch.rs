//! Which canaries are waited for, and what becomes of them.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// Canaries that are kept in mind, the newest. More than can be waited for at a time: 60 s of one each 80 ms.
const KEPT: usize = 1024;

/// The canaries of a gateway, by their numbers.
#[derive(Debug)]
pub(super) struct Watch {
    /// By number, which rises, as does the time.
    sent: VecDeque<Sent>,
    next: u64,
    deadline: Duration,
}

#[derive(Debug)]
struct Sent {
    number: u64,
    at: Instant,
    published: bool,
    fate: Fate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Waited,
    Lost,
    Heard,
}

/// What it is to have heard one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heard {
    /// In time, so long after it was sent.
    First(Duration),
    /// It had been counted as lost.
    Late(Duration),
    /// It had been heard before.
    Again,
    /// It was never sent, or is no longer kept in mind.
    Unknown,
}

/// How far one is known to have come that was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lost {
    /// No fan-out has said that it is in the journal.
    Publish,
    /// It is in the journal.
    Delivery,
}

impl Lost {
    pub(super) const ALL: [Lost; 2] = [Lost::Publish, Lost::Delivery];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Lost::Publish => "publish",
            Lost::Delivery => "delivery",
        }
    }
}

impl Watch {
    /// Of canaries that are lost when they aren't heard within `deadline`.
    pub(super) fn new(deadline: Duration) -> Self {
        Watch { sent: VecDeque::new(), next: 0, deadline }
    }

    /// The number of the next one, which is sent now.
    pub(super) fn sent(&mut self, now: Instant) -> u64 {
        let number = self.next;
        self.next += 1;
        if self.sent.len() >= KEPT {
            self.sent.pop_front();
        }
        self.sent.push_back(Sent { number, at: now, published: false, fate: Fate::Waited });
        number
    }

    /// It is in the journal.
    pub(super) fn published(&mut self, number: u64) {
        if let Some(sent) = self.of(number) {
            sent.published = true;
        }
    }

    /// It was heard.
    pub(super) fn heard(&mut self, number: u64, now: Instant) -> Heard {
        let Some(sent) = self.of(number) else { return Heard::Unknown };
        let after = now.duration_since(sent.at);
        match std::mem::replace(&mut sent.fate, Fate::Heard) {
            Fate::Waited => Heard::First(after),
            Fate::Lost => Heard::Late(after),
            Fate::Heard => Heard::Again,
        }
    }

    /// Those that were heard may come again and be no duplicates.
    pub(super) fn forget_heard(&mut self) {
        self.sent.retain(|sent| sent.fate != Fate::Heard);
    }

    /// When the next one is lost, unless it is heard before.
    pub(super) fn due(&self) -> Option<Instant> {
        let waited = self.sent.iter().find(|sent| sent.fate == Fate::Waited);
        waited.map(|sent| sent.at + self.deadline)
    }

    /// Those that are lost by now, each once.
    pub(super) fn take_lost(&mut self, now: Instant) -> Vec<(u64, Lost)> {
        let deadline = self.deadline;
        let due = |sent: &&mut Sent| sent.fate == Fate::Waited && sent.at + deadline <= now;
        let lost = self.sent.iter_mut().filter(due).map(|sent| {
            sent.fate = Fate::Lost;
            (sent.number, if sent.published { Lost::Delivery } else { Lost::Publish })
        });
        lost.collect()
    }

    fn of(&mut self, number: u64) -> Option<&mut Sent> {
        let at = self.sent.binary_search_by_key(&number, |sent| sent.number).ok()?;
        self.sent.get_mut(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEADLINE: Duration = Duration::from_secs(10);

    #[test]
    fn one_is_heard_or_lost_and_what_comes_late_or_again_is_known_for_that() {
        let (mut watch, start) = (Watch::new(DEADLINE), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let [one, two, three] = [0, 1, 2].map(|second| watch.sent(at(second)));
        watch.published(one);
        watch.published(two);
        assert_eq!(watch.due(), Some(at(10)));
        assert_eq!(watch.heard(one, at(3)), Heard::First(Duration::from_secs(3)));
        assert_eq!(watch.heard(one, at(4)), Heard::Again);
        assert_eq!(watch.due(), Some(at(11)));
        assert_eq!(watch.take_lost(at(10)), []);
        assert_eq!(watch.take_lost(at(12)), [(two, Lost::Delivery), (three, Lost::Publish)]);
        assert_eq!((watch.take_lost(at(99)), watch.due()), (vec![], None));
        assert_eq!(watch.heard(two, at(21)), Heard::Late(Duration::from_secs(20)));
        assert_eq!(watch.heard(two, at(22)), Heard::Again);
        assert_eq!(watch.heard(77, at(22)), Heard::Unknown);
    }

    #[test]
    fn what_comes_again_after_a_reset_is_no_duplicate() {
        let (mut watch, now) = (Watch::new(DEADLINE), Instant::now());
        let [one, two] = [watch.sent(now), watch.sent(now)];
        assert_eq!(watch.heard(one, now), Heard::First(Duration::ZERO));
        watch.forget_heard();
        assert_eq!(watch.heard(one, now), Heard::Unknown);
        assert_eq!(watch.heard(two, now), Heard::First(Duration::ZERO));
        assert_eq!(watch.heard(two, now), Heard::Again);
    }

    #[test]
    fn only_the_newest_are_kept_in_mind() {
        let (mut watch, now) = (Watch::new(DEADLINE), Instant::now());
        for _ in 0..=KEPT {
            watch.sent(now);
        }
        assert_eq!((watch.sent.len(), watch.heard(0, now)), (KEPT, Heard::Unknown));
        assert_eq!(watch.heard(1, now), Heard::First(Duration::ZERO));
    }
}
