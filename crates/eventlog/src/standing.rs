//! Whether a cursor can be continued: the one place that decides on a `stream-reset`. Pure.

use std::collections::BTreeSet;
use std::sync::Arc;

use foghorn_bus::log::LogError;
use foghorn_core::policy::{Policies, Policy, RetentionClass};
use foghorn_core::position::{Epoch, Position};
use foghorn_core::reason::ResetReason;

use crate::topics::Topics;

/// For more topics than this, nobody looks up which classes they are of.
const TOPICS_CLASSED: usize = 64;

/// What the log knows of a shard: what there is and what is gone.
#[derive(Debug, Clone)]
pub(crate) struct Standing {
    /// The current incarnation.
    pub(crate) epoch: Epoch,
    /// The seq before the first of this epoch, or of those that it continues.
    pub(crate) start: u64,
    /// Epochs before this one that it continues, in order.
    pub(crate) ancestors: Vec<Ancestor>,
    /// The last seq there is.
    pub(crate) tip: u64,
    /// Per class, the highest seq that retention has dropped.
    pub(crate) floors: Vec<(RetentionClass, u64)>,
    /// Ranges `(from, to]` that the journal lost before the log had them, in order.
    pub(crate) holes: Vec<(u64, u64)>,
    /// The writer's: another one where a writer took over, also one that found the database put back.
    pub(crate) term: u64,
    /// Which policies held since when, in order: they say in which class a channel's events lie.
    pub(crate) eras: Vec<Era>,
}

/// An epoch whose first entries are the current one's too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ancestor {
    pub(crate) epoch: Epoch,
    /// The last seq up to which its rows are the current epoch's.
    pub(crate) upto: u64,
    /// The last seq up to which its positions are: whoever was given one has nothing that is wrong.
    pub(crate) common: u64,
}

/// A time between two changes of the policies.
#[derive(Debug, Clone)]
pub(crate) struct Era {
    /// Events after this seq were classed by these policies.
    pub(crate) since: u64,
    pub(crate) policies: Arc<Policies>,
}

/// What can be answered to a cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Everything in `(after, upto]` is there that should be.
    Serve { after: u64, upto: u64 },
    /// Something is truly gone.
    Reset { reason: ResetReason, after: u64 },
}

impl Standing {
    /// A shard of which nothing has been stored.
    pub(crate) fn empty(epoch: Epoch, start: u64) -> Self {
        let ancestors = Vec::new();
        Standing {
            epoch,
            start,
            ancestors,
            tip: start,
            floors: Vec::new(),
            holes: Vec::new(),
            term: 0,
            eras: Vec::new(),
        }
    }

    /// Whether a position of an earlier epoch is the same in this one.
    pub(crate) fn keeps(&self, position: Position) -> bool {
        let of = |ancestor: &Ancestor| ancestor.epoch == position.epoch && position.seq <= ancestor.common;
        self.ancestors.iter().any(of)
    }

    /// What to answer to the cursor `(epoch, after)` of a reader of `topics`.
    pub(crate) fn judge(&self, epoch: Epoch, after: u64, topics: &Topics) -> Verdict {
        if epoch != self.epoch {
            return Verdict::Reset {
                reason: ResetReason::Epoch,
                after: self.after_epoch(epoch, after, topics),
            };
        }
        let after = after.max(self.start);
        if after > self.tip {
            // A future that never was: of what the reader has seen nothing is known.
            return Verdict::Reset { reason: ResetReason::Cursor, after: self.beginning(topics) };
        }
        let earliest = self.earliest(after, topics);
        if earliest > after {
            let expired = self.expired_through(after, topics) > after;
            let reason = if expired { ResetReason::Expired } else { ResetReason::Hole };
            return Verdict::Reset { reason, after: earliest };
        }
        let next_hole = self.holes.iter().map(|(from, _)| *from).find(|from| *from >= after);
        Verdict::Serve { after, upto: next_hole.unwrap_or(self.tip).min(self.tip) }
    }

    /// Where a reader at `after` of another epoch goes on: where it is, as far as that is the same in this
    /// epoch. It is reset all the same: what came after that in its epoch it will never get.
    fn after_epoch(&self, epoch: Epoch, after: u64, topics: &Topics) -> u64 {
        match self.ancestors.iter().find(|ancestor| ancestor.epoch == epoch) {
            Some(ancestor) => self.earliest(after.min(ancestor.common).max(self.start), topics),
            None => self.beginning(topics),
        }
    }

    /// The position just before the earliest event there is for `topics`.
    pub(crate) fn beginning(&self, topics: &Topics) -> u64 {
        self.earliest(self.start, topics)
    }

    /// The classes that events of `topics` are of, whenever they were stored; none when that is not on
    /// record, or takes longer to find out than it saves.
    pub(crate) fn classes(&self, topics: &Topics) -> Option<BTreeSet<RetentionClass>> {
        let known = self.eras.first().is_some_and(|era| era.since <= self.start);
        if !known || topics.count() > TOPICS_CLASSED {
            return None;
        }
        Some(self.eras.iter().flat_map(|era| topics.classes(&era.policies)).collect())
    }

    /// The first position from `after` on that a reader can continue from without a reset. It is past
    /// the floors of *all* classes that its topics have events in: from an earlier one the next page
    /// would be reset again.
    fn earliest(&self, after: u64, topics: &Topics) -> u64 {
        let mut after = after;
        loop {
            let hole = self.holes.iter().find(|(from, to)| (*from..*to).contains(&after));
            let next = self.expired_through(after, topics).max(hole.map_or(after, |(_, to)| *to));
            if next <= after {
                return after;
            }
            after = next;
        }
    }

    /// The last seq after `after` that retention may have taken from `topics`; `after` or less when
    /// there is none.
    fn expired_through(&self, after: u64, topics: &Topics) -> u64 {
        let mut through = 0;
        for &(class, floor) in self.floors.iter().filter(|(_, floor)| *floor > after) {
            // Before the first era on record nobody knows what was in which class.
            let first = self.eras.first().map_or(u64::MAX, |era| era.since);
            if after < first {
                through = through.max(floor.min(first));
            }
            for (at, era) in self.eras.iter().enumerate() {
                let until = self.eras.get(at + 1).map_or(u64::MAX, |next| next.since);
                if after < until && era.since < floor && topics.concerns(class, &era.policies) {
                    through = through.max(floor.min(until));
                }
            }
        }
        through
    }
}

/// The text that an era is stored as: only what decides about classes, so that a change of anything
/// else begins no new era.
pub(crate) fn era_text(policies: &Policies) -> Result<String, LogError> {
    let classes: Vec<Policy> = policies
        .all()
        .iter()
        .map(|policy| Policy {
            retention: policy.retention,
            replay: policy.replay,
            ..Policy::new(policy.pattern.clone())
        })
        .collect();
    serde_json::to_string(&classes).map_err(|error| LogError(format!("policies can't be stored: {error}")))
}

/// Reads what [`era_text`] wrote.
pub(crate) fn parse_era(since: u64, text: &str) -> Result<Era, LogError> {
    let damaged = |error: String| LogError(format!("the stored policies are damaged: {error}"));
    let classes: Vec<Policy> = serde_json::from_str(text).map_err(|error| damaged(error.to_string()))?;
    let policies = Policies::new(classes).map_err(|error| damaged(error.to_string()))?;
    Ok(Era { since, policies: Arc::new(policies) })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::time::Duration;

    use foghorn_core::pattern::Pattern;
    use proptest::prelude::*;

    use super::*;

    const EPOCH: Epoch = Epoch::new(7);
    const SHORT: RetentionClass = RetentionClass(60);
    const LONG: RetentionClass = RetentionClass(3600);

    fn topics(asked: &[&str]) -> Topics {
        Topics::new(&asked.iter().map(|topic| Pattern::parse(*topic).unwrap()).collect())
    }

    fn policies(classes: &[(&str, RetentionClass)]) -> Arc<Policies> {
        let policies = classes.iter().map(|(pattern, class)| Policy {
            retention: class.age().max(Duration::from_secs(60)),
            replay: *class != RetentionClass::NONE,
            ..Policy::new(Pattern::parse(*pattern).unwrap())
        });
        Arc::new(Policies::new(policies.collect()).unwrap())
    }

    fn era(since: u64, classes: &[(&str, RetentionClass)]) -> Era {
        Era { since, policies: policies(classes) }
    }

    fn standing() -> Standing {
        Standing {
            tip: 100,
            floors: vec![(SHORT, 40), (LONG, 10)],
            holes: vec![(60, 70)],
            eras: vec![era(0, &[(">", LONG), ("s", SHORT)])],
            ..Standing::empty(EPOCH, 0)
        }
    }

    #[test]
    fn a_floor_counts_for_the_topics_of_its_class_alone() {
        let s = standing();
        let reset = |after| Verdict::Reset { reason: ResetReason::Expired, after };
        assert_eq!(s.judge(EPOCH, 9, &topics(&["l"])), reset(10));
        assert_eq!(s.judge(EPOCH, 10, &topics(&["l"])), Verdict::Serve { after: 10, upto: 60 });
        assert_eq!(s.judge(EPOCH, 39, &topics(&["s"])), reset(40));
        assert_eq!(s.judge(EPOCH, 39, &topics(&["*"])), reset(40));
        assert_eq!(s.judge(EPOCH, 40, &topics(&["s", "l"])), Verdict::Serve { after: 40, upto: 60 });
    }

    #[test]
    fn a_page_ends_at_a_hole_and_then_the_hole_is_told() {
        let s = standing();
        for after in [60, 69] {
            let hole = Verdict::Reset { reason: ResetReason::Hole, after: 70 };
            assert_eq!(s.judge(EPOCH, after, &topics(&["l"])), hole);
        }
        assert_eq!(s.judge(EPOCH, 70, &topics(&["l"])), Verdict::Serve { after: 70, upto: 100 });
    }

    #[test]
    fn foreign_epochs_and_futures_begin_at_the_earliest() {
        let s = standing();
        let epoch = Verdict::Reset { reason: ResetReason::Epoch, after: 10 };
        assert_eq!(s.judge(Epoch::new(6), 50, &topics(&["l"])), epoch);
        let cursor = Verdict::Reset { reason: ResetReason::Cursor, after: 10 };
        assert_eq!(s.judge(EPOCH, 101, &topics(&["l"])), cursor);
        assert_eq!(s.judge(EPOCH, 100, &topics(&["l"])), Verdict::Serve { after: 100, upto: 100 });
    }

    #[test]
    fn a_cursor_of_an_ancestor_goes_on_where_it_is_the_same() {
        let mut s = standing();
        let ancestor = |epoch, common| Ancestor { epoch: Epoch::new(epoch), upto: 90, common };
        s.ancestors = vec![ancestor(5, 20), ancestor(6, 50)];
        let reset = |after| Verdict::Reset { reason: ResetReason::Epoch, after };
        let topics = topics(&["l"]);
        assert_eq!(s.judge(Epoch::new(6), 30, &topics), reset(30));
        assert_eq!(s.judge(Epoch::new(6), 80, &topics), reset(50));
        assert_eq!(s.judge(Epoch::new(5), 30, &topics), reset(20));
        assert_eq!(s.judge(Epoch::new(6), 5, &topics), reset(10), "not before what is still there");
        assert_eq!(s.judge(Epoch::new(4), 30, &topics), reset(10), "nobody knows that one");
        s.ancestors[1].common = 65;
        assert_eq!(s.judge(Epoch::new(6), 80, &topics), reset(70), "past a hole");
    }

    #[test]
    fn events_classed_by_older_policies_expire_by_those() {
        // `a` was short-lived until 30, long-lived since; short-lived events are gone up to 40.
        let mut s = standing();
        s.eras = vec![era(0, &[(">", LONG), ("a", SHORT)]), era(30, &[(">", LONG)])];
        let reset = Verdict::Reset { reason: ResetReason::Expired, after: 30 };
        assert_eq!(s.judge(EPOCH, 20, &topics(&["a"])), reset);
        assert_eq!(s.judge(EPOCH, 20, &topics(&["b"])), Verdict::Serve { after: 20, upto: 60 });
        assert_eq!(s.judge(EPOCH, 30, &topics(&["a"])), Verdict::Serve { after: 30, upto: 60 });
        // When the record of the first era is lost, its events may have been in any class.
        s.eras.remove(0);
        assert_eq!(s.judge(EPOCH, 20, &topics(&["b"])), reset);
    }

    #[test]
    fn the_classes_of_topics_are_those_of_all_times() {
        let mut s = standing();
        s.eras =
            vec![era(0, &[(">", LONG), ("a", SHORT)]), era(30, &[(">", LONG), ("n", RetentionClass::NONE)])];
        let classes =
            |s: &Standing, asked: &[&str]| s.classes(&topics(asked)).map(|c| c.into_iter().collect());
        assert_eq!(classes(&s, &["b"]), Some(vec![LONG]));
        assert_eq!(classes(&s, &["a"]), Some(vec![SHORT, LONG]));
        assert_eq!(classes(&s, &["n"]), Some(vec![RetentionClass::NONE, LONG]));
        assert_eq!(classes(&s, &["*"]), Some(vec![RetentionClass::NONE, SHORT, LONG]));
        s.eras.remove(0);
        assert_eq!(classes(&s, &["b"]), None, "nobody knows what came before");
    }

    #[test]
    fn eras_survive_storage() {
        let policies = policies(&[("a.>", SHORT), ("a.b", LONG), ("c", RetentionClass::NONE)]);
        let back = parse_era(5, &era_text(&policies).unwrap()).unwrap();
        for channel in ["a.x", "a.b", "c", "else"] {
            assert_eq!(back.policies.of(channel).class(), policies.of(channel).class());
        }
    }

    proptest! {
        /// Against a model that knows every event: a page is served only when nothing owed is gone,
        /// and where a reset says to go on, it can be gone on from.
        #[test]
        fn nothing_is_gone_in_silence(
            events in prop::collection::vec((prop::sample::select(vec!["s", "l", "a"]), 0u8..3), 1..60),
            short in 0usize..60, long in 0usize..60, change in 0usize..60, hole in 0usize..60, hole_len in 0usize..5,
            after in 0u64..70, asked in prop::sample::subsequence(vec!["s", "l", "a", "*"], 1..3),
        ) {
            let before = [(">", LONG), ("s", SHORT), ("a", SHORT)];
            let since = [(">", LONG), ("s", SHORT)];
            let tip = events.len() as u64;
            let change = (change as u64).min(tip);
            let (from, to) = ((hole as u64).min(tip), ((hole + hole_len) as u64).min(tip));
            let (old, new) = (policies(&before), policies(&since));
            let mut gone = HashSet::new();
            let mut floors = [(SHORT, 0), (LONG, 0)];
            for (at, (channel, _)) in events.iter().enumerate() {
                let seq = at as u64 + 1;
                if seq > from && seq <= to { gone.insert(seq); continue }
                let class = if seq <= change { old.of(channel).class() } else { new.of(channel).class() };
                for ((floored, floor), through) in floors.iter_mut().zip([short, long]) {
                    if class == *floored && at < through { *floor = seq; gone.insert(seq); }
                }
            }
            let s = Standing {
                tip, floors: floors.to_vec(),
                holes: if from < to { vec![(from, to)] } else { vec![] },
                eras: vec![era(0, &before), era(change, &since)],
                ..Standing::empty(EPOCH, 0)
            };
            let topics = topics(&asked);
            match s.judge(EPOCH, after, &topics) {
                Verdict::Serve { after, upto } => {
                    for seq in after + 1..=upto {
                        let owed = topics.matches(events[seq as usize - 1].0);
                        prop_assert!(!(owed && gone.contains(&seq)), "{seq} is gone in silence");
                    }
                    prop_assert!(upto > after || after == tip || s.holes[0].0 == after);
                }
                Verdict::Reset { reason, after: next } => {
                    if reason == ResetReason::Cursor {
                        prop_assert!(after > tip);
                    } else {
                        prop_assert!(next > after);
                        prop_assert!((after + 1..=next).any(|seq| gone.contains(&seq)), "a reset for nothing");
                    }
                    let again = s.judge(EPOCH, next, &topics);
                    let serves = matches!(again, Verdict::Serve { .. });
                    prop_assert!(serves, "reset again: {:?}", again);
                }
            }
        }
    }
}
