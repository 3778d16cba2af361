//! The status of an object, of what is said of it.

use crate::crd::{ChannelPolicyStatus, Condition};
use crate::resolve::Verdict;

/// The status that says this; times are those of `before` where nothing has changed.
pub(crate) fn status(
    verdict: &Verdict,
    published: &Result<(), String>,
    generation: Option<i64>,
    before: &ChannelPolicyStatus,
    now: &str,
) -> ChannelPolicyStatus {
    let accepted = match verdict {
        Verdict::Accepted { against } if against.is_empty() => {
            (true, "Accepted", "its policies are taken".to_owned())
        }
        Verdict::Accepted { against } => {
            let others = against.join(", ");
            (
                true,
                "Conflict",
                format!("its policies are taken, and because it is older not those of {others}"),
            )
        }
        Verdict::Conflict(why) => (false, "Conflict", goes_on(why)),
        Verdict::Invalid(why) => (false, "Invalid", goes_on(why)),
    };
    let published = match (accepted.0, published) {
        (false, _) => (false, "NotAccepted", "only what is accepted is published".to_owned()),
        (true, Ok(())) => (true, "Published", "services take it over within a second".to_owned()),
        (true, Err(why)) => (false, "Unavailable", why.clone()),
    };
    let condition = |kind: &str, (holds, reason, message): (bool, &str, String)| {
        let status = if holds { "True" } else { "False" };
        let same = before.conditions.iter().find(|known| known.kind == kind && known.status == status);
        Condition {
            kind: kind.to_owned(),
            status: status.to_owned(),
            observed_generation: generation,
            last_transition_time: same
                .map_or_else(|| now.to_owned(), |known| known.last_transition_time.clone()),
            reason: reason.to_owned(),
            message,
        }
    };
    ChannelPolicyStatus {
        observed_generation: generation,
        conditions: vec![condition("Accepted", accepted), condition("Published", published)],
    }
}

fn goes_on(why: &str) -> String {
    format!("{why}. What held before for its patterns goes on")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_condition_is_that_of_its_last_change() {
        let accepted = Verdict::Accepted { against: Vec::new() };
        let first = status(&accepted, &Ok(()), Some(1), &ChannelPolicyStatus::default(), "one");
        let again = status(&accepted, &Ok(()), Some(1), &first, "two");
        assert_eq!(again, first);
        let wrong = status(&Verdict::Invalid("no".to_owned()), &Ok(()), Some(2), &first, "three");
        let times: Vec<_> =
            wrong.conditions.iter().map(|c| (&*c.status, &*c.reason, &*c.last_transition_time)).collect();
        assert_eq!(times, [("False", "Invalid", "three"), ("False", "NotAccepted", "three")]);
        let older = status(
            &Verdict::Accepted { against: vec!["b".to_owned()] },
            &Err("NATS".to_owned()),
            None,
            &first,
            "four",
        );
        let times: Vec<_> =
            older.conditions.iter().map(|c| (&*c.status, &*c.reason, &*c.last_transition_time)).collect();
        assert_eq!(times, [("True", "Conflict", "one"), ("False", "Unavailable", "four")]);
    }
}
