//! Token buckets: one for everybody, and for as many keys as there are in memory of one size.
//!
//! A key has no bucket of its own: in each of four rows its hash names one, which it shares with others, and it
//! is refused when none of the four has anything left. So whoever uses up theirs is refused, as with a bucket of
//! their own; who has a bucket in common with them has three others; and however many keys somebody makes up,
//! nothing grows.

use std::hash::{BuildHasher as _, Hash, RandomState};
use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::time::Duration;

use governor::clock::{Clock as _, DefaultClock};
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed, StateStore};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

/// In seconds.
const HOUR: u32 = 3600;
const ROWS: u64 = 4;
/// Buckets of a row, so that 16 bits of a hash name one: 512 KiB.
const BUCKETS: u64 = 1 << 16;

/// How much may be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// How much over time; 0 for no limit.
    pub count: u32,
    /// In which time.
    pub per: Duration,
    /// How much at once.
    pub burst: u32,
}

impl Rate {
    /// The largest number in a rate. More is no limit to speak of, and its times would not fit.
    pub const MOST: u32 = 1_000_000;

    /// So much a second.
    pub const fn per_second(count: u32, burst: u32) -> Self {
        Rate { count, per: Duration::from_secs(1), burst }
    }

    /// So much a minute.
    pub const fn per_minute(count: u32, burst: u32) -> Self {
        Rate { count, per: Duration::from_secs(60), burst }
    }

    /// What is wrong with it, naming that one of the keys by which it is configured.
    pub fn check(&self, count: &str, burst: &str) -> Result<(), String> {
        let most = Rate::MOST;
        if self.count > most {
            return Err(format!("{count} must be at most {most}, not {}; 0 is no limit", self.count));
        }
        if !(1..=most).contains(&self.burst) {
            return Err(format!("{burst} must be between 1 and {most}, not {}", self.burst));
        }
        Ok(())
    }

    /// None for no limit.
    fn quota(self) -> Option<Quota> {
        let interval = self.per.checked_div(self.count)?;
        Some(
            Quota::with_period(interval)?.allow_burst(NonZeroU32::new(self.burst).unwrap_or(NonZeroU32::MIN)),
        )
    }
}

/// Somebody does too much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exceeded {
    /// How long they have to wait at least.
    pub wait: Duration,
}

/// Says when all together do too much. Shared by all who ask.
#[derive(Debug)]
pub struct Budget(Option<DefaultDirectRateLimiter>);

impl Budget {
    /// One of this much.
    pub fn new(rate: Rate) -> Self {
        Budget(rate.quota().map(RateLimiter::direct))
    }

    /// Counts one.
    pub fn check(&self) -> Result<(), Exceeded> {
        let Some(limiter) = &self.0 else { return Ok(()) };
        limiter.check().map_err(|until| Exceeded { wait: until.wait_time_from(limiter.clock().now()) })
    }
}

/// Says who does too much. Shared by all who ask.
#[derive(Debug)]
pub struct Limiter(Option<Limited>);

#[derive(Debug)]
struct Limited {
    limiter: RateLimiter<u64, Sketch, DefaultClock>,
    burst: u32,
    /// Seeded at random: nobody can choose whose buckets they use up.
    hasher: RandomState,
}

/// The rows, one after another.
#[derive(Debug)]
struct Sketch(Vec<InMemoryState>);

impl Exceeded {
    /// From how many to how many seconds on the next attempt may be told to come: rounded up, an hour at most, and
    /// a range, so that those refused together don't come back together.
    pub fn retry_after(self) -> RangeInclusive<u32> {
        let whole = u32::try_from(self.wait.as_secs()).unwrap_or(HOUR).min(HOUR);
        whole + 1..=whole + 3
    }
}

impl Limiter {
    /// One that allows each key this much.
    pub fn new(rate: Rate) -> Self {
        let Some(quota) = rate.quota() else { return Limiter(None) };
        let sketch = Sketch((0..ROWS * BUCKETS).map(|_| InMemoryState::default()).collect());
        let limiter = RateLimiter::new(quota, sketch, DefaultClock::default());
        Limiter(Some(Limited { limiter, burst: quota.burst_size().get(), hasher: RandomState::new() }))
    }

    /// Counts one for `key`.
    pub fn check(&self, key: impl Hash) -> Result<(), Exceeded> {
        self.check_all(key, 1)
    }

    /// Counts so many for `key`, all or none of them. What is above the burst would never pass, and is counted as
    /// the burst.
    pub fn check_all(&self, key: impl Hash, count: u32) -> Result<(), Exceeded> {
        let Some(Limited { limiter, burst, hasher }) = &self.0 else { return Ok(()) };
        let Some(count) = NonZeroU32::new(count.min(*burst)) else { return Ok(()) };
        match limiter.check_key_n(&hasher.hash_one(key), count) {
            Ok(Err(until)) => Err(Exceeded { wait: until.wait_time_from(limiter.clock().now()) }),
            Ok(Ok(())) | Err(_) => Ok(()),
        }
    }
}

impl StateStore for Sketch {
    type Key = u64;

    fn measure_and_replace<T, F, E>(&self, key: &u64, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let ask = |row: u64| {
            let bucket = row * BUCKETS + (key >> (16 * row)) % BUCKETS;
            // Always one of them.
            self.0[usize::try_from(bucket).unwrap_or_default()]
                .measure_and_replace(&NotKeyed::NonKey, &decide)
        };
        // All of them, also after one had something: they have to stay alike.
        (1..ROWS).fold(ask(0), |answer, row| ask(row).or(answer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_has_its_burst_and_those_who_use_theirs_up_take_nothing_from_others() {
        let limiter = Limiter::new(Rate::per_second(1, 20));
        for greedy in 0..1000 {
            let passed = (0..60).filter(|_| limiter.check(greedy).is_ok()).count();
            // It may have had a second meanwhile, or have found others' in all of its buckets.
            assert!((15..=25).contains(&passed), "{greedy}: {passed}");
        }
        let wait = limiter.check(0).unwrap_err().wait;
        assert!(wait <= Duration::from_secs(1), "{wait:?}");
        let honest = (1000..2000).filter(|key| limiter.check(key).is_ok()).count();
        assert!(honest >= 999, "{honest} of 1000");
    }

    #[test]
    fn many_pass_together_or_not_at_all() {
        let limiter = Limiter::new(Rate::per_minute(1, 10));
        assert_eq!(limiter.check_all("a", 7), Ok(()));
        assert!(limiter.check_all("a", 7).is_err());
        assert_eq!(limiter.check_all("a", 3), Ok(()), "nothing was taken by those that did not pass");
        let wait = limiter.check("a").unwrap_err().wait;
        assert!(wait > Duration::from_secs(50) && wait <= Duration::from_secs(60), "{wait:?}");
        assert_eq!(limiter.check_all("b", 1000), Ok(()), "as many as ever pass");
        assert!(limiter.check("b").is_err());
    }

    #[test]
    fn who_is_refused_is_told_to_wait_long_enough_and_an_hour_at_most() {
        let after = |wait| Exceeded { wait: Duration::from_millis(wait) }.retry_after();
        assert_eq!(after(0), 1..=3);
        assert_eq!(after(2500), 3..=5);
        assert_eq!(after(u64::MAX), 3601..=3603);
    }

    #[test]
    fn a_budget_is_everybodys() {
        let budget = Budget::new(Rate::per_minute(1, 3));
        assert!((0..3).all(|_| budget.check().is_ok()));
        let wait = budget.check().unwrap_err().wait;
        assert!(wait > Duration::from_secs(50) && wait <= Duration::from_secs(60), "{wait:?}");
        let none = Budget::new(Rate::per_second(0, 1));
        assert!((0..1000).all(|_| none.check().is_ok()));
    }

    #[test]
    fn no_rate_is_no_limit() {
        let limiter = Limiter::new(Rate::per_minute(0, 1));
        assert!((0..100_000).all(|_| limiter.check("a").is_ok()));
    }

    #[test]
    fn the_largest_rates_can_be_worked_with() {
        for rate in [Rate::per_minute(1, Rate::MOST), Rate::per_second(Rate::MOST, Rate::MOST)] {
            assert_eq!(rate.check("count", "burst"), Ok(()));
            assert_eq!(Limiter::new(rate).check_all("a", u32::MAX), Ok(()));
        }
        for (wrong, key) in
            [(Rate::per_minute(1, 0), "burst "), (Rate::per_minute(Rate::MOST + 1, 1), "count ")]
        {
            assert!(wrong.check("count", "burst").unwrap_err().starts_with(key), "{wrong:?}");
        }
    }
}
