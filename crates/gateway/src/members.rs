//! Which gateways live, as this one has heard, and which of them decides about something.
//!
//! Each says its name every second, and is taken for gone when it has been silent for five or says that it leaves.
//! Who decides about a key is found by rendezvous: of all names the one whose hash with the key is the highest. So
//! when a gateway comes or goes, only what it decides moves.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::RwLock;
use tokio::time::Instant;

use foghorn_bus::gateways::GatewayName;

/// How often a gateway says that it lives, about.
pub(crate) const BEAT: Duration = Duration::from_secs(1);
/// One that has been silent for so long is taken for gone.
pub(crate) const SILENT: Duration = Duration::from_secs(5);
/// More gateways are not known: each costs all the others a message a second.
const MEMBERS_MAX: usize = 256;

/// The gateways of the cluster.
#[derive(Debug)]
pub(crate) struct Members {
    own: GatewayName,
    /// The others, with when each was heard.
    others: RwLock<BTreeMap<GatewayName, Instant>>,
}

impl Members {
    /// Just one, which never leaves.
    pub(crate) fn new(own: GatewayName) -> Self {
        Members { own, others: RwLock::default() }
    }

    /// Whose view it is.
    pub(crate) fn own(&self) -> GatewayName {
        self.own
    }

    /// One lives. Whether it wasn't known.
    pub(crate) fn heard(&self, name: GatewayName) -> bool {
        let mut others = self.others.write();
        if name == self.own || (others.len() >= MEMBERS_MAX && !others.contains_key(&name)) {
            return false;
        }
        others.insert(name, Instant::now()).is_none()
    }

    /// One is gone. Whether it was known.
    pub(crate) fn left(&self, name: GatewayName) -> bool {
        self.others.write().remove(&name).is_some()
    }

    /// Those that have been silent for too long, which are gone from now on.
    pub(crate) fn forget_silent(&self) -> Vec<GatewayName> {
        let mut others = self.others.write();
        let is_silent = |heard: &Instant| heard.elapsed() >= SILENT;
        let silent: Vec<_> =
            others.iter().filter(|(_, heard)| is_silent(heard)).map(|(name, _)| *name).collect();
        silent.iter().for_each(|name| _ = others.remove(name));
        silent
    }

    /// All but this one.
    pub(crate) fn others(&self) -> Vec<GatewayName> {
        self.others.read().keys().copied().collect()
    }

    /// A number that two gateways have alike when they know the same ones.
    pub(crate) fn view(&self) -> u64 {
        let others = self.others.read();
        others.keys().fold(mix(self.own.get()), |view, name| view ^ mix(name.get()))
    }

    /// Which one decides about a key, and then which would if that one were gone.
    pub(crate) fn owners(&self, key: u128) -> impl Iterator<Item = GatewayName> + use<> {
        let first = self.heaviest(key, None);
        let second = first.and_then(|first| self.heaviest(key, Some(first)));
        first.into_iter().chain(second)
    }

    /// Which one decides about a key.
    pub(crate) fn owner(&self, key: u128) -> GatewayName {
        self.heaviest(key, None).unwrap_or(self.own)
    }

    fn heaviest(&self, key: u128, but: Option<GatewayName>) -> Option<GatewayName> {
        let halves = [key >> 64, key & u128::from(u64::MAX)].map(|half| u64::try_from(half).unwrap_or(0));
        let key = mix(halves[0]) ^ halves[1];
        let weight = |name: GatewayName| (mix(mix(name.get()) ^ key), name);
        let others = self.others.read();
        let all = others.keys().copied().chain([self.own]).filter(|name| Some(*name) != but);
        all.max_by_key(|name| weight(*name))
    }
}

/// Spreads a number over all of them (SplitMix64's finaliser).
fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: u64) -> GatewayName {
        GatewayName::new(number)
    }

    /// As the gateway of this number sees these others.
    fn members(own: u64, others: impl IntoIterator<Item = u64>) -> Members {
        let members = Members::new(name(own));
        others.into_iter().for_each(|other| _ = members.heard(name(other)));
        members
    }

    #[tokio::test(start_paused = true)]
    async fn all_who_know_the_same_gateways_agree_who_decides_and_only_what_one_decided_moves_when_it_goes() {
        let seen = [members(1, [2, 3, 4]), members(2, [1, 3, 4]), members(4, [3, 2, 1])];
        let mut decided = [0; 5];
        for key in 0..4000_u128 {
            let key = key.wrapping_mul(0x1234_5678_9abc_def0_1234_5678_9abc_def1);
            let owner = seen[0].owner(key);
            assert!(seen.iter().all(|view| view.owner(key) == owner));
            decided[usize::try_from(owner.get()).unwrap()] += 1;
            let both: Vec<_> = seen[0].owners(key).collect();
            let without = members(1, [2, 4]).owner(key);
            assert_eq!(both, [owner, if owner == name(3) { without } else { both[1] }]);
            assert!(owner == name(3) || without == owner, "{owner} {without}");
        }
        assert!(decided[1..].iter().all(|share| (800..1200).contains(share)), "{decided:?}");
        assert!(seen.iter().all(|view| view.view() == seen[0].view()));
        assert_ne!(members(1, [2, 4]).view(), seen[0].view());
    }

    #[tokio::test(start_paused = true)]
    async fn a_gateway_is_known_until_it_leaves_or_is_silent_for_too_long() {
        let members = Members::new(name(1));
        assert!(members.heard(name(2)) && members.heard(name(3)) && !members.heard(name(2)));
        assert!(!members.heard(name(1)), "itself it knows anyway");
        tokio::time::advance(SILENT - Duration::from_millis(1)).await;
        members.heard(name(2));
        assert_eq!(members.forget_silent(), []);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!((members.forget_silent(), members.others()), (vec![name(3)], vec![name(2)]));
        assert!(members.left(name(2)) && !members.left(name(2)) && members.others().is_empty());
        (0..500).for_each(|number| _ = members.heard(name(number)));
        assert_eq!(members.others().len(), MEMBERS_MAX);
    }
}
