//! Keys that an issuer publishes by URL (JWKS, RFC 7517): what is known of them, and when to fetch them again.
//! Nothing here fetches; whoever does asks [`Set::due`], and says with [`Set::took`] or [`Set::failed`] what came.

mod parse;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::config::{self, Config};
use crate::keys::{Standing, Verifying};

pub use parse::ANSWER_BYTES_MAX;

/// How often a set is fetched when its answers don't say how long they hold, and the bounds where they do.
const REFRESH: Duration = Duration::from_secs(5 * 60);
const REFRESH_MIN: Duration = Duration::from_secs(60);
const REFRESH_MAX: Duration = Duration::from_secs(3600);
/// How long after a fetch that failed the next comes: from, doubled each time, to.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);
/// At least so long is between two fetches that unknown ids ask for, and half as much more by chance.
const FLOOR: Duration = Duration::from_secs(30);
/// How long a request waits for a fetch that may bring its key.
const PATIENCE: Duration = Duration::from_secs(2);
/// Most ids that are known to be unknown.
const UNKNOWN_MAX: usize = 1024;

/// All sets that are configured.
#[derive(Debug)]
pub struct Jwks {
    sets: Vec<Arc<Set>>,
    /// Counts the fetches that have ended, of every set.
    ended: watch::Sender<u64>,
}

/// The keys behind one URL.
pub struct Set {
    config: config::Jwks,
    /// For how long keys go on serving while none can be fetched.
    keep: Duration,
    state: Mutex<State>,
    asked: Notify,
}

/// Why an id has no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Missing {
    /// No issuer has it: a set that was fetched after it was first asked for doesn't.
    Unknown,
    /// It may come with the next fetch.
    Awaited {
        /// Whether that is on its way.
        soon: bool,
        /// When it is.
        wait: Duration,
    },
}

/// What a fetch brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// Keys that are used from now on.
    pub keys: usize,
    /// Members of the set that are none for us.
    pub skipped: usize,
    /// Of the keys, those that were not there before.
    pub new: usize,
    /// Keys that were there before, and verify nothing any more.
    pub removed: usize,
}

#[derive(Default)]
struct State {
    keys: HashMap<String, Arc<Verifying>>,
    /// When the fetch began that brought them. None: there are none.
    good: Option<Instant>,
    /// When the fetch began that is on its way.
    fetching: Option<Instant>,
    /// When it is time for the next one; none for at once.
    next: Option<Instant>,
    /// Whether an unknown id asks for one, and from when on it may.
    wanted: bool,
    may_want: Option<Instant>,
    failures: u32,
    /// Ids without a key, and when they were first asked for.
    unknown: HashMap<String, Instant>,
}

impl Default for Jwks {
    fn default() -> Self {
        Jwks { sets: Vec::new(), ended: watch::Sender::new(0) }
    }
}

impl Jwks {
    pub(crate) fn new(config: &Config) -> Self {
        let set = |jwks: &config::Jwks| Arc::new(Set::new(jwks.clone(), config.jwks_keep));
        Jwks { sets: config.jwks.iter().map(set).collect(), ..Jwks::default() }
    }

    /// One for each URL.
    pub fn sets(&self) -> &[Arc<Set>] {
        &self.sets
    }

    /// A fetch is over, whatever came of it: who waits for one looks again.
    pub fn fetched(&self) {
        self.ended.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// The keys of an id, one of a set at most.
    pub(crate) fn of(&self, kid: &str) -> Vec<Arc<Verifying>> {
        self.sets.iter().filter_map(|set| set.state.lock().keys.get(kid).cloned()).collect()
    }

    /// Why an id has no key that tokens of this algorithm are verified with; asks for a fetch that may bring it.
    pub(crate) fn missing(&self, kid: &str, algorithm: jsonwebtoken::Algorithm) -> Missing {
        let sets = self.sets.iter().filter(|set| set.takes(algorithm));
        let mut found = Missing::Unknown;
        for set in sets {
            let missing = set.missing(kid);
            found = match (found, missing) {
                (Missing::Awaited { soon: a, wait: b }, Missing::Awaited { soon, wait }) => {
                    Missing::Awaited { soon: a || soon, wait: b.min(wait) }
                }
                (Missing::Unknown, other) | (other, Missing::Unknown) => other,
            };
        }
        found
    }

    /// Asks once more whenever a fetch has ended, while `awaits` says of the answer that one may help; not for long.
    pub(crate) async fn patiently<T>(&self, ask: impl Fn() -> T, awaits: impl Fn(&T) -> bool) -> T {
        let answer = ask();
        if !awaits(&answer) {
            return answer;
        }
        let deadline = Instant::now() + PATIENCE;
        let mut ended = self.ended.subscribe();
        loop {
            ended.mark_unchanged();
            let answer = ask();
            if !awaits(&answer)
                || !matches!(tokio::time::timeout_at(deadline, ended.changed()).await, Ok(Ok(())))
            {
                return answer;
            }
        }
    }
}

impl Set {
    fn new(config: config::Jwks, keep: Duration) -> Self {
        Set { config, keep, state: Mutex::default(), asked: Notify::new() }
    }

    /// Where it is, and what is taken of it.
    pub fn config(&self) -> &config::Jwks {
        &self.config
    }

    fn takes(&self, algorithm: jsonwebtoken::Algorithm) -> bool {
        self.config.algorithms.iter().any(|taken| taken.jwa() == algorithm)
    }

    /// Returns when the set is to be fetched, which then is on its way: once it is time, or an unknown id asks for
    /// it. Meanwhile keys that have served for too long without being fetched are forgotten.
    pub async fn due(&self) {
        loop {
            let now = Instant::now();
            let until = {
                let mut state = self.state.lock();
                state.forget_old(now, self.keep);
                if let Some(left) = state.left(now) {
                    state
                        .good
                        .map_or(left, |good| left.min((good + self.keep).saturating_duration_since(now)))
                } else {
                    state.begin(now);
                    return;
                }
            };
            tokio::select! {
                () = tokio::time::sleep(until) => {}
                () = self.asked.notified() => {}
            }
        }
    }

    /// Takes in what the URL answered, and how long that says to hold. An error when it is no set with a key for
    /// us: then nothing changes, and it counts as a fetch that failed.
    pub fn took(&self, answer: &[u8], holds: Option<Duration>) -> Result<Taken, String> {
        let read = parse::read(answer, &self.config).inspect_err(|_| self.failed())?;
        let refresh = holds.unwrap_or(REFRESH).clamp(REFRESH_MIN, REFRESH_MAX);
        let mut state = self.state.lock();
        let now = Instant::now();
        let began = state.fetching.take().unwrap_or(now);
        state.failures = 0;
        state.good = Some(began);
        state.next = Some(now + refresh.mul_f64(rand::random_range(0.9..1.0)));
        let (new, removed) = state.replace(read.keys, began);
        Ok(Taken { keys: state.keys.len(), skipped: read.skipped, new, removed })
    }

    /// The URL could not be read. What is known goes on serving.
    pub fn failed(&self) {
        let mut state = self.state.lock();
        state.fetching = None;
        let wait = RETRY_MIN.saturating_mul(1 << state.failures.min(10)).min(RETRY_MAX);
        state.failures = state.failures.saturating_add(1);
        state.next = Some(Instant::now() + wait.mul_f64(rand::random_range(0.5..1.0)));
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.state.lock().keys.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn missing(&self, kid: &str) -> Missing {
        let now = Instant::now();
        let mut state = self.state.lock();
        let is_final = state.is_unknown(kid, now);
        if state.fetching.is_none() && !state.wanted {
            state.wanted = true;
            self.asked.notify_one();
        }
        if is_final {
            return Missing::Unknown;
        }
        let wait =
            if state.fetching.is_some() { Duration::ZERO } else { state.left(now).unwrap_or_default() };
        Missing::Awaited { soon: wait.is_zero(), wait }
    }
}

impl State {
    /// How long until the next fetch; none when it is time.
    fn left(&self, now: Instant) -> Option<Duration> {
        let wanted = if self.wanted { Some(self.may_want.unwrap_or(now)) } else { None };
        let next = self.next.unwrap_or(now);
        let at = wanted.map_or(next, |wanted| wanted.min(next));
        Some(at.saturating_duration_since(now)).filter(|left| !left.is_zero())
    }

    fn begin(&mut self, now: Instant) {
        // One whose time has come costs nothing that would not be spent anyway.
        if self.next.is_some_and(|next| next > now) {
            self.may_want = Some(now + FLOOR.mul_f64(rand::random_range(1.0..1.5)));
        }
        self.wanted = false;
        self.fetching = Some(now);
    }

    /// Whether there is nothing to wait for: a good fetch that began after an id was first asked for didn't bring
    /// it. When no more ids can be remembered, an id is waited for.
    fn is_unknown(&mut self, kid: &str, now: Instant) -> bool {
        let Some(good) = self.good else { return false };
        if let Some(first) = self.unknown.get(kid) {
            return *first <= good;
        }
        self.remember(kid, now);
        false
    }

    fn remember(&mut self, kid: &str, first: Instant) {
        if self.unknown.len() >= UNKNOWN_MAX {
            // Those that were told can be asked for again.
            let good = self.good;
            self.unknown.retain(|_, first| good.is_none_or(|good| *first > good));
        }
        if self.unknown.len() < UNKNOWN_MAX {
            self.unknown.insert(kid.to_owned(), first);
        }
    }

    /// Takes over these keys, which a fetch has brought that began then. One that was there already goes on, and with
    /// it the tokens that it has verified.
    fn replace(&mut self, keys: HashMap<String, Verifying>, began: Instant) -> (usize, usize) {
        let mut before = std::mem::take(&mut self.keys);
        let mut new = 0;
        for (kid, key) in keys {
            let key = match before.remove(&kid) {
                Some(same) if same.is_same(&key) => same,
                other => {
                    new += 1;
                    if let Some(other) = other {
                        before.insert(kid.clone(), other);
                    }
                    Arc::new(key)
                }
            };
            self.unknown.remove(&kid);
            self.keys.insert(kid, key);
        }
        for (kid, key) in &before {
            key.set(Standing::Removed);
            // Nobody has to ask the issuer about one that it had a moment ago.
            if !self.keys.contains_key(kid) {
                self.remember(kid, began);
            }
        }
        (new, before.len())
    }

    fn forget_old(&mut self, now: Instant, keep: Duration) {
        if self.good.is_some_and(|good| now >= good + keep) {
            tracing::error!(
                "the keys of a JWKS have not been fetched for auth.jwks_keep; they verify nothing any more"
            );
            self.keys.drain().for_each(|(_, key)| key.set(Standing::Old));
            self.unknown.clear();
            self.good = None;
        }
    }
}

impl fmt::Debug for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Set").field("url", &self.config.url).finish_non_exhaustive()
    }
}

/// Of a configuration: what is wrong with its sets. The error begins with the key.
pub(crate) fn check(sets: &[config::Jwks], keep: Duration) -> Result<(), String> {
    if sets.len() > config::JWKS_MAX {
        return Err(format!("auth.jwks can have at most {} sets", config::JWKS_MAX));
    }
    if !(Duration::from_secs(60)..=Duration::from_secs(30 * 24 * 3600)).contains(&keep) {
        return Err("auth.jwks_keep must be between 1m and 30days".to_owned());
    }
    let mut issuers = HashSet::new();
    for set in sets {
        set.check().map_err(|what| format!("auth.jwks: {:?} {what}", set.url))?;
        // Ids are the issuers' to choose, so that two may choose the same: the tokens' `iss` tells them apart.
        if sets.len() > 1 && (set.issuer.is_empty() || !issuers.insert(&set.issuer)) {
            return Err(format!(
                "auth.jwks: {:?} needs an issuer of its own: with several sets each is for the tokens of one",
                set.url
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
