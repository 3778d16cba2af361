//! Policies with `latest`: of what a stream is behind, only the newest event of each channel is owed.

use std::collections::HashMap;

use foghorn_core::channel::Channel;
use foghorn_core::policy::Policies;

/// Events in their order, of which a newer one takes the place of an older one of its channel where the policy
/// says so.
pub(crate) struct Newest<'a, E> {
    policies: &'a Policies,
    /// None where a newer one came.
    events: Vec<Option<E>>,
    /// Where the newest event of a channel is, of those with the policy.
    at: HashMap<Channel, usize>,
    superseded: u64,
}

impl<'a, E> Newest<'a, E> {
    pub(crate) fn new(policies: &'a Policies) -> Self {
        Newest { policies, events: Vec::new(), at: HashMap::new(), superseded: 0 }
    }

    /// Adds an event, after all that there are; gives the one whose place it takes.
    pub(crate) fn push(&mut self, channel: &Channel, event: E) -> Option<E> {
        let place = self.events.len();
        self.events.push(Some(event));
        if !self.policies.keeps_latest(channel.as_str()) {
            return None;
        }
        let older = self.events[self.at.insert(channel.clone(), place)?].take();
        self.superseded += u64::from(older.is_some());
        older
    }

    /// How many were left out.
    pub(crate) fn superseded(&self) -> u64 {
        self.superseded
    }

    /// Those that are left.
    pub(crate) fn into_events(self) -> impl Iterator<Item = E> {
        self.events.into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use foghorn_core::pattern::Pattern;
    use foghorn_core::policy::Policy;

    use super::*;

    #[test]
    fn a_newer_event_takes_the_place_of_its_channels_older_one_where_the_policy_says_so() {
        let latest = Policy { latest: true, ..Policy::new(Pattern::parse("price.*").unwrap()) };
        let policies = Policies::new(vec![latest]).unwrap();
        let mut newest = Newest::new(&policies);
        let mut replaced = Vec::new();
        let events =
            [("price.a", 1), ("order", 2), ("price.b", 3), ("price.a", 4), ("order", 5), ("price.a", 6)];
        for (channel, number) in events {
            replaced.extend(newest.push(&Channel::parse(channel).unwrap(), number));
        }
        assert_eq!((replaced, newest.superseded()), (vec![1, 4], 2));
        assert_eq!(newest.into_events().collect::<Vec<_>>(), [2, 3, 5, 6]);
    }
}
