//! Which policies hold, of all that objects ask for. Pure.
//!
//! An object is taken whole or not at all. Where two can't hold together, because a pattern is in both or because
//! neither is more specific than the other, the older one holds; both are told. What isn't taken leaves what held
//! before for its patterns in force: an edit that is wrong must not open what was closed.

use std::collections::HashSet;

use foghorn_bus::policies::{DOCUMENT_BYTES_MAX, Document, DocumentError, POLICIES_MAX};
use foghorn_core::policy::{Policies, Policy};

use crate::crd::{ChannelPolicySpec, PATTERNS_MAX};

/// Bytes of a document beside its policies, and then some.
const DOCUMENT_REST: usize = 64;

/// An object as it is decided upon.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Candidate {
    pub(crate) name: String,
    /// When it was created, as Kubernetes writes it: the earlier one is before the later one as text, too.
    pub(crate) created: String,
    /// The patterns that it names, as far as they can be read: also where the rest can't.
    pub(crate) patterns: Vec<String>,
    /// What it says, or why that can't be read.
    pub(crate) spec: Result<ChannelPolicySpec, String>,
}

/// What is said of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Its policies hold. Those objects don't, because of it.
    Accepted { against: Vec<String> },
    /// An older one is in its way.
    Conflict(String),
    /// It is wrong by itself.
    Invalid(String),
}

/// Decides of all objects, in the order in which they were given. `event_bytes` is the cluster's bound on an event,
/// `held` what holds until now.
pub(crate) fn resolve(
    candidates: &[Candidate],
    held: &[Policy],
    event_bytes: usize,
) -> Result<(Document, Vec<Verdict>), DocumentError> {
    let mut order: Vec<usize> = (0..candidates.len()).collect();
    order.sort_by_key(|at| (&candidates[*at].created, &candidates[*at].name));
    let mut taken = Taken::default();
    let mut verdicts = vec![Verdict::Accepted { against: Vec::new() }; candidates.len()];
    for &at in &order {
        let candidate = &candidates[at];
        let refused = match policies(candidate, event_bytes) {
            Err(why) => Verdict::Invalid(why),
            Ok(policies) => match taken.take(at, policies) {
                Ok(()) => continue,
                Err(NotTaken::Full(why)) => Verdict::Invalid(why),
                Err(NotTaken::Tie { with, theirs, ours }) => {
                    let older = &candidates[with].name;
                    if let Verdict::Accepted { against } = &mut verdicts[with] {
                        against.push(candidate.name.clone());
                    }
                    let what = match theirs == ours {
                        true => format!("{ours} is in the older {older} too"),
                        false => format!(
                            "{ours} and {theirs}, of the older {older}, both match some channels, and neither is more specific"
                        ),
                    };
                    Verdict::Conflict(format!("{what}; make one of them cover the other, or disjoint"))
                }
            },
        };
        verdicts[at] = refused;
    }
    for at in order.into_iter().filter(|at| !matches!(verdicts[*at], Verdict::Accepted { .. })) {
        let named: HashSet<&str> = candidates[at].patterns.iter().map(String::as_str).collect();
        for policy in held.iter().filter(|policy| named.contains(policy.pattern.as_str())) {
            // Unless others have a say there by now.
            let _goes_on = taken.take(at, vec![policy.clone()]).is_ok();
        }
    }
    let mut policies: Vec<Policy> = taken.policies.into_iter().map(|(_, policy)| policy).collect();
    // The same objects make the same document, whichever is read first.
    policies.sort_by_key(|policy| policy.pattern.to_string());
    Ok((Document::new(policies)?, verdicts))
}

/// The policies of one object, which are in order by themselves.
fn policies(candidate: &Candidate, event_bytes: usize) -> Result<Vec<Policy>, String> {
    let spec = candidate.spec.as_ref().map_err(Clone::clone)?;
    // Of the API's bounds, that on which the others' cost depends: the definition there may be another version's.
    if spec.patterns.is_empty() || spec.patterns.len() > PATTERNS_MAX {
        return Err(format!("spec.patterns: there are 1 to {PATTERNS_MAX} of them"));
    }
    let read = |pattern: &String| spec.policy(pattern).map_err(|error| format!("{pattern:?}: {error}"));
    let policies: Vec<Policy> = spec.patterns.iter().map(read).collect::<Result<_, _>>()?;
    Policies::new(policies.clone()).map_err(|error| error.to_string())?;
    match policies.iter().find(|policy| policy.event_bytes.is_some_and(|bytes| bytes > event_bytes)) {
        Some(policy) => Err(format!(
            "policy {}: limits.eventBytes is above the cluster's ({event_bytes})",
            policy.pattern
        )),
        None => Ok(policies),
    }
}

/// What holds so far.
#[derive(Default)]
struct Taken {
    /// And by which object.
    policies: Vec<(usize, Policy)>,
    bytes: usize,
}

enum NotTaken {
    Full(String),
    Tie { with: usize, theirs: String, ours: String },
}

impl Taken {
    fn take(&mut self, by: usize, policies: Vec<Policy>) -> Result<(), NotTaken> {
        // Before they are compared with what there is: once it is full, others cost no more than a look.
        let written =
            |policy: &Policy| serde_json::to_vec(policy).map_or(DOCUMENT_BYTES_MAX, |text| text.len() + 1);
        let bytes = self.bytes + policies.iter().map(written).sum::<usize>();
        if self.policies.len() + policies.len() > POLICIES_MAX || bytes + DOCUMENT_REST > DOCUMENT_BYTES_MAX {
            return Err(NotTaken::Full(format!(
                "all policies together would be more than {POLICIES_MAX}, or {DOCUMENT_BYTES_MAX} bytes; write wider patterns"
            )));
        }
        for ours in &policies {
            if let Some((with, theirs)) = self.policies.iter().find(|(_, theirs)| theirs.ties_with(ours)) {
                let (theirs, ours) = (theirs.pattern.to_string(), ours.pattern.to_string());
                return Err(NotTaken::Tie { with: *with, theirs, ours });
            }
        }
        self.bytes = bytes;
        self.policies.extend(policies.into_iter().map(|policy| (by, policy)));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const MOST: usize = 1000;

    fn object(name: &str, day: u32, spec: Value) -> Candidate {
        let patterns = serde_json::from_value(spec["patterns"].clone()).unwrap_or_default();
        let spec = serde_json::from_value(spec).map_err(|error| error.to_string());
        Candidate { name: name.to_owned(), created: format!("2026-01-{day:02}T00:00:00Z"), patterns, spec }
    }

    fn patterns(document: &Document) -> Vec<String> {
        document.policies().iter().map(|policy| policy.pattern.to_string()).collect()
    }

    #[test]
    fn of_two_that_cannot_hold_together_the_older_one_does_and_both_are_told() {
        let objects = [
            object("young", 3, json!({ "patterns": ["orders.>", "else"] })),
            object("old", 1, json!({ "patterns": ["orders.>"], "access": "public" })),
            object("tied", 2, json!({ "patterns": ["*.eu"] })),
            object("other", 2, json!({ "patterns": ["orders.eu"] })),
        ];
        let (document, verdicts) = resolve(&objects, &[], MOST).unwrap();
        assert_eq!(patterns(&document), ["orders.>", "orders.eu"]);
        let Verdict::Conflict(why) = &verdicts[0] else { panic!("{verdicts:?}") };
        assert!(why.contains("orders.> is in the older old too"), "{why}");
        assert_eq!(verdicts[1], Verdict::Accepted { against: vec!["tied".to_owned(), "young".to_owned()] });
        let Verdict::Conflict(why) = &verdicts[2] else { panic!("{verdicts:?}") };
        assert!(why.contains("*.eu and orders.>, of the older old"), "{why}");
        assert_eq!(verdicts[3], Verdict::Accepted { against: vec![] });
        // Of the same second, the first by name; and the same whatever order they are read in.
        let same =
            [object("b", 1, json!({ "patterns": ["a"] })), object("a", 1, json!({ "patterns": ["a"] }))];
        let (_, verdicts) = resolve(&same, &[], MOST).unwrap();
        assert_eq!(verdicts[1], Verdict::Accepted { against: vec!["b".to_owned()] });
    }

    #[test]
    fn what_is_wrong_is_invalid_and_leaves_in_force_what_held_for_its_patterns() {
        let before = [object("x", 1, json!({ "patterns": ["closed.>", "gone"], "access": "authenticated" }))];
        let (held, _) = resolve(&before, &[], MOST).unwrap();
        for (spec, words) in [
            (
                json!({ "patterns": ["closed.>"], "retention": { "age": "1s" } }),
                "between 1 minute and 10 years",
            ),
            (json!({ "patterns": ["closed.>"], "retention": { "age": "soon" } }), "closed.>"),
            (json!({ "patterns": ["closed.>"], "access": "owner" }), "user."),
            // As a newer version's definition lets through.
            (json!({ "patterns": ["closed.>"], "access": "team" }), "team"),
            (
                json!({ "patterns": ["closed.>"], "limits": { "eventBytes": 1001 } }),
                "above the cluster's (1000)",
            ),
            (json!({ "patterns": ["closed.>"], "metricTypes": ["a,b"] }), "metric_types"),
            (json!({ "patterns": ["closed.>", "closed.>"] }), "both match"),
            (
                json!({ "patterns": ["closed.>"], "coalescing": "latest", "presence": "events" }),
                "exclude each other",
            ),
            (json!({ "patterns": ["closed.>", "a..b"] }), "a..b"),
        ] {
            let objects = [object("x", 1, spec.clone()), object("y", 2, json!({ "patterns": ["open"] }))];
            let (document, verdicts) = resolve(&objects, held.policies(), MOST).unwrap();
            let Verdict::Invalid(why) = &verdicts[0] else { panic!("{spec}: {verdicts:?}") };
            assert!(why.contains(words), "{spec}: {why}");
            assert_eq!(patterns(&document), ["closed.>", "open"], "{spec}");
            assert_eq!(document.policies()[0], held.policies()[0], "{spec}");
        }
        // Nobody knows what one means that can't be read; and others may have taken the place.
        let unread = [object("x", 1, json!({ "patterns": "closed.>" }))];
        assert_eq!(patterns(&resolve(&unread, held.policies(), MOST).unwrap().0), Vec::<String>::new());
        let taken = [
            object("x", 1, json!({ "patterns": ["closed.>"], "access": "owner" })),
            object("y", 2, json!({ "patterns": ["closed.>"], "access": "public" })),
        ];
        let (document, _) = resolve(&taken, held.policies(), MOST).unwrap();
        assert_eq!(document.policies().len(), 1);
        assert_ne!(document.policies()[0], held.policies()[0]);
    }

    #[test]
    fn objects_beyond_what_a_document_holds_are_told_and_the_others_hold() {
        let many =
            |n: usize| json!({ "patterns": (0..100).map(|p| format!("c{n}.{p}")).collect::<Vec<_>>() });
        let objects: Vec<_> = (0..11).map(|n| object(&format!("o{n:02}"), 1, many(n))).collect();
        let (document, verdicts) = resolve(&objects, &[], MOST).unwrap();
        assert_eq!(document.policies().len(), POLICIES_MAX);
        assert!(matches!(&verdicts[10], Verdict::Invalid(why) if why.contains("write wider patterns")));
        let types: Vec<_> = (0..32).map(|t| format!("{t:0100}")).collect();
        let long = |n: usize| json!({ "patterns": [format!("c{n}")], "metricTypes": types });
        let objects: Vec<_> = (0..100).map(|n| object(&format!("o{n:02}"), 1, long(n))).collect();
        let (document, verdicts) = resolve(&objects, &[], MOST).unwrap();
        assert!(document.to_bytes().len() <= DOCUMENT_BYTES_MAX && document.policies().len() > 30);
        assert!(matches!(verdicts[99], Verdict::Invalid(_)));
    }
}
