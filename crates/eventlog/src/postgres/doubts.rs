//! Cursors that are ahead of the journal, as it looks from here. Mostly it is the look that is wrong: a new
//! leader may not have applied yet what is committed, and this process hears of a new epoch a moment later
//! than others. A reset can't be taken back, so such a cursor is told to wait until many looks agree.

use std::collections::HashMap;
use std::time::Duration;

use foghorn_core::position::Epoch;
use foghorn_core::shard::Shard;
use parking_lot::Mutex;
use tokio::time::Instant;

/// How long a position beyond the tip must have been there: more than a leader takes to catch up.
pub(super) const TIP_PATIENCE: Duration = Duration::from_millis(1500);
/// How long an entry that a gateway has must have been gone before a new epoch begins: more than a new leader
/// takes to apply what it has, on a busy machine.
pub(super) const LOSS_PATIENCE: Duration = Duration::from_secs(4);
/// How long an epoch must have been unknown: the journal looks at its record every 5 s without a reason.
pub(super) const EPOCH_PATIENCE: Duration = Duration::from_secs(6);
/// How many looks must agree, besides.
const LOOKS: u32 = 3;
/// A doubt that nobody had for this long begins anew; above the longest wait of one who asks again.
const FORGOTTEN: Duration = Duration::from_secs(15);
/// Most doubts that are remembered. Beyond, everybody is told to wait.
const MOST: usize = 1024;

/// A position that nobody here has heard of. Seq 0 stands for the epoch as a whole.
pub(super) type Unknown = (Shard, Epoch, u64);

/// What is in doubt, of all shards.
#[derive(Debug, Default)]
pub(super) struct Doubts(Mutex<HashMap<Unknown, Doubt>>);

#[derive(Debug)]
struct Doubt {
    first: Instant,
    last: Instant,
    looks: u32,
}

impl Doubts {
    /// Takes note of a look at `now` that didn't find `unknown`. Whether it is certain by now that it
    /// isn't there.
    pub(super) fn confirmed(&self, unknown: Unknown, patience: Duration, now: Instant) -> bool {
        let mut doubts = self.0.lock();
        let is_fresh = |doubt: &Doubt| now.saturating_duration_since(doubt.last) < FORGOTTEN;
        if doubts.len() >= MOST && !doubts.contains_key(&unknown) {
            doubts.retain(|_, doubt| is_fresh(doubt));
            if doubts.len() >= MOST {
                return false;
            }
        }
        let new = || Doubt { first: now, last: now, looks: 0 };
        let doubt = doubts.entry(unknown).or_insert_with(new);
        if !is_fresh(doubt) {
            *doubt = new();
        }
        doubt.last = now;
        doubt.looks = doubt.looks.saturating_add(1);
        doubt.looks >= LOOKS && now.saturating_duration_since(doubt.first) >= patience
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(500);

    fn unknown(seq: u64) -> Unknown {
        (Shard::ZERO, Epoch::new(7), seq)
    }

    #[test]
    fn what_several_looks_agree_on_for_long_enough_is_certain() {
        let (doubts, begin) = (Doubts::default(), Instant::now());
        let look = |seq, after| doubts.confirmed(unknown(seq), TIP_PATIENCE, begin + after);
        assert!(!look(5, Duration::ZERO));
        assert!(!look(5, SOON * 4), "two looks are not enough");
        assert!(look(5, SOON * 5));
        assert!(look(5, SOON * 6));
        assert!(!look(6, SOON * 6), "another position is another doubt");
        assert!(!look(6, SOON * 7) && !look(6, SOON * 8), "not for long enough");
        assert!(look(6, SOON * 9));
        assert!(!look(5, SOON * 6 + FORGOTTEN), "what was so once may not be so now");
    }

    #[test]
    fn a_flood_of_doubts_is_bounded_and_confirms_nothing() {
        let (doubts, now) = (Doubts::default(), Instant::now());
        for seq in 0..MOST as u64 + 10 {
            assert!(!doubts.confirmed(unknown(seq), SOON, now));
        }
        assert_eq!(doubts.0.lock().len(), MOST);
        assert!(!doubts.confirmed(unknown(MOST as u64 + 1), SOON, now + SOON));
        assert!(!doubts.confirmed(unknown(MOST as u64 + 1), SOON, now + FORGOTTEN), "there is room again");
        assert_eq!(doubts.0.lock().len(), 1);
    }
}
