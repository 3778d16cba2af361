//! Which users have which streams: the whole cluster's of some users, or one gateway's of all of its own.

use std::collections::HashMap;

use tokio::time::Instant;

use crate::client_id::ClientId;

/// A user: a digest of who they are.
pub(crate) type User = u128;

/// A stream of a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) stream: ClientId,
    /// When it was asked for, in milliseconds since the Unix epoch, by its own gateway's clock.
    pub(super) since: i64,
    /// When it was written down here.
    pub(super) noted: Instant,
}

/// Streams in parts, by their users: two gateways compare them part by part.
#[derive(Debug, Default)]
pub(super) struct Roll {
    users: HashMap<User, Vec<Entry>>,
}

/// How many parts there are.
pub(super) const PARTS: usize = 256;

/// The part that a user is in.
pub(super) fn part_of(user: User) -> u8 {
    user.to_be_bytes()[0]
}

impl Roll {
    /// Takes a stream in if its user has fewer than `most` by then, and says whether it did. To make room, the oldest
    /// ones are taken out into `ousted`, if that is given.
    pub(super) fn admit(
        &mut self,
        user: User,
        entry: Entry,
        most: usize,
        ousted: Option<&mut Vec<ClientId>>,
    ) -> bool {
        let entries = self.users.entry(user).or_default();
        // Asked twice.
        if entries.iter().any(|other| other.stream == entry.stream) {
            return true;
        }
        let too_many = (entries.len() + 1).saturating_sub(most);
        if too_many > 0 {
            let Some(ousted) = ousted else { return false };
            entries.sort_by_key(|entry| entry.since);
            ousted.extend(entries.drain(..too_many.min(entries.len())).map(|entry| entry.stream));
        }
        entries.push(entry);
        true
    }

    /// Takes a stream in, whatever its user may have.
    pub(super) fn add(&mut self, user: User, entry: Entry) {
        let entries = self.users.entry(user).or_default();
        if !entries.iter().any(|other| other.stream == entry.stream) {
            entries.push(entry);
        }
    }

    /// A stream is over. Whether it was there.
    pub(super) fn remove(&mut self, user: User, stream: ClientId) -> bool {
        let Some(entries) = self.users.get_mut(&user) else { return false };
        let before = entries.len();
        entries.retain(|entry| entry.stream != stream);
        let removed = entries.len() < before;
        if entries.is_empty() {
            self.users.remove(&user);
        }
        removed
    }

    /// Keeps those streams of which this says so.
    pub(super) fn retain(&mut self, keep: impl Fn(User, &Entry) -> bool) {
        self.users.retain(|user, entries| {
            entries.retain(|entry| keep(*user, entry));
            !entries.is_empty()
        });
    }

    /// How many streams there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.users.values().map(Vec::len).sum()
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = (User, &Entry)> {
        self.users.iter().flat_map(|(user, entries)| entries.iter().map(|entry| (*user, entry)))
    }
}

/// A number for each part that two sets of streams have alike if they are the same.
pub(super) fn digests(streams: impl Iterator<Item = (User, ClientId)>) -> Vec<u64> {
    let mut digests = vec![0; PARTS];
    for (user, stream) in streams {
        // Keys are random: as they are, no other set of them has the same sum, in all likelihood.
        digests[usize::from(part_of(user))] ^= stream.key();
    }
    digests
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(gateway: u64, number: u64) -> ClientId {
        ClientId::from(u128::from(gateway) << 80 | u128::from(number))
    }

    fn entry(gateway: u64, number: u64) -> Entry {
        let since = i64::try_from(number).unwrap();
        Entry { stream: stream(gateway, number), since, noted: Instant::now() }
    }

    #[test]
    fn a_user_has_no_more_streams_than_allowed_and_makes_room_by_the_oldest() {
        let mut roll = Roll::default();
        let admit = |roll: &mut Roll, number| roll.admit(7, entry(1, number), 2, None);
        assert_eq!([3, 1, 1, 2].map(|n| admit(&mut roll, n)), [true, true, true, false]);
        assert!(roll.admit(8, entry(1, 4), 2, None), "others have their own");
        let mut ousted = Vec::new();
        assert!(roll.admit(7, entry(2, 5), 2, Some(&mut ousted)));
        assert_eq!((ousted, roll.len()), (vec![stream(1, 1)], 3));
        // More than allowed came to be when nobody could be asked.
        roll.add(7, entry(3, 6));
        let mut ousted = Vec::new();
        assert!(roll.admit(7, entry(2, 7), 2, Some(&mut ousted)));
        assert_eq!(ousted, [stream(1, 3), stream(2, 5)]);
        roll.remove(7, stream(3, 6));
        roll.remove(7, stream(2, 7));
        assert_eq!(roll.len(), 1);
    }

    #[test]
    fn sets_of_streams_have_the_same_digests_where_they_are_the_same() {
        let user = |number: u64| u128::from(number) << 120;
        let streams = |numbers: Vec<u64>| digests(numbers.into_iter().map(|n| (user(n), stream(1, n + 1))));
        let all: Vec<u64> = (0..50).collect();
        assert_eq!(streams(all.clone()), streams(all.iter().rev().copied().collect()));
        let (some, all) = (streams(all.iter().copied().filter(|n| *n != 7).collect()), streams(all));
        let differing: Vec<_> = (0..PARTS).filter(|part| some[*part] != all[*part]).collect();
        assert_eq!(differing, [7]);
    }
}
