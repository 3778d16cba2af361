//! Which streams are open, and what is asked of them.
//!
//! Whoever serves a stream looks here when it is told to, and when it takes one on: so what is asked of a stream
//! that is just on its way from one to another is found by whoever has it then.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::change::Ask;
use crate::client_id::ClientId;
use crate::hub::Waiter;

/// So that those who open and close streams seldom wait for each other.
const PARTS: usize = 16;
/// Changes of one stream that wait to be made.
const ASKS_MAX: usize = 4;

/// The streams of a gateway.
#[derive(Default)]
pub(crate) struct Directory {
    parts: [Mutex<Part>; PARTS],
    /// Asks that nobody has taken yet.
    waiting: AtomicUsize,
    /// Grows with every ask.
    made: AtomicU64,
}

/// By the keys of their ids.
#[derive(Default)]
struct Part {
    open: HashSet<u64>,
    /// Those that tasks serve, which can be told; reactors look for theirs by themselves.
    in_tasks: HashMap<u64, Arc<Waiter>>,
    asks: HashMap<u64, VecDeque<Ask>>,
}

/// Why a stream can't be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotAsked {
    /// There is none of this id.
    Unknown,
    /// It has been asked enough.
    Busy,
}

impl Directory {
    fn part(&self, id: ClientId) -> &Mutex<Part> {
        &self.parts[usize::try_from(id.key() % PARTS as u64).unwrap_or_default()]
    }

    pub(crate) fn opened(&self, id: ClientId) {
        self.part(id).lock().open.insert(id.key());
    }

    /// It is over; what is asked of it has no answer.
    pub(crate) fn closed(&self, id: ClientId) {
        let mut part = self.part(id).lock();
        part.open.remove(&id.key());
        let asks = part.asks.remove(&id.key()).map_or(0, |asks| asks.len());
        self.waiting.fetch_sub(asks, Ordering::SeqCst);
    }

    /// A task serves it from now on.
    pub(crate) fn taken_on(&self, id: ClientId, waiter: &Arc<Waiter>) {
        self.part(id).lock().in_tasks.insert(id.key(), waiter.clone());
    }

    /// The task with this waiter doesn't any more.
    pub(crate) fn let_off(&self, id: ClientId, waiter: &Arc<Waiter>) {
        if let Entry::Occupied(entry) = self.part(id).lock().in_tasks.entry(id.key())
            && Arc::ptr_eq(entry.get(), waiter)
        {
            entry.remove();
        }
    }

    /// Asks something of a stream. Who is to be told, if a task serves it.
    pub(crate) fn ask(&self, ask: Ask) -> Result<Option<Arc<Waiter>>, NotAsked> {
        let (id, key) = (ask.client_id, ask.client_id.key());
        let mut part = self.part(id).lock();
        if !part.open.contains(&key) {
            return Err(NotAsked::Unknown);
        }
        let asks = part.asks.entry(key).or_default();
        let before = asks.len();
        asks.retain(Ask::is_awaited);
        let (given_up, busy) = (before - asks.len(), asks.len() >= ASKS_MAX);
        if !busy {
            asks.push_back(ask);
            self.waiting.fetch_add(1, Ordering::SeqCst);
            self.made.fetch_add(1, Ordering::SeqCst);
        }
        self.waiting.fetch_sub(given_up, Ordering::SeqCst);
        if busy { Err(NotAsked::Busy) } else { Ok(part.in_tasks.get(&key).cloned()) }
    }

    /// Whether something is asked of a stream.
    pub(crate) fn is_asked(&self, id: ClientId) -> bool {
        self.waiting.load(Ordering::SeqCst) > 0 && self.part(id).lock().asks.contains_key(&id.key())
    }

    /// Takes what is asked of a stream, the oldest first.
    pub(crate) fn take(&self, id: ClientId) -> Option<Ask> {
        if self.waiting.load(Ordering::SeqCst) == 0 {
            return None;
        }
        let mut part = self.part(id).lock();
        let Entry::Occupied(mut asks) = part.asks.entry(id.key()) else { return None };
        let mut found = None;
        while found.is_none()
            && let Some(ask) = asks.get_mut().pop_front()
        {
            self.waiting.fetch_sub(1, Ordering::SeqCst);
            // Nobody waits for one whose id is another's but for the key: dropped, it is answered as unknown.
            found = (ask.client_id == id && ask.is_awaited()).then_some(ask);
        }
        if asks.get().is_empty() {
            asks.remove();
        }
        found
    }

    /// Drops what is asked of a stream and awaited by nobody.
    pub(crate) fn forget_given_up(&self, id: ClientId) {
        let mut part = self.part(id).lock();
        let Entry::Occupied(mut asks) = part.asks.entry(id.key()) else { return };
        let before = asks.get().len();
        asks.get_mut().retain(Ask::is_awaited);
        self.waiting.fetch_sub(before - asks.get().len(), Ordering::SeqCst);
        if asks.get().is_empty() {
            asks.remove();
        }
    }

    /// How many asks there have been.
    pub(crate) fn asks_made(&self) -> u64 {
        self.made.load(Ordering::SeqCst)
    }

    /// The keys of the streams of which something is asked, in order.
    pub(crate) fn asked(&self) -> Vec<u64> {
        let mut keys = Vec::new();
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.parts.iter().for_each(|part| keys.extend(part.lock().asks.keys().copied()));
        }
        keys.sort_unstable();
        keys
    }
}

impl std::fmt::Debug for Directory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Directory").field("waiting", &self.waiting).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use foghorn_auth::{Authenticator, Caller};
    use foghorn_http::problem::Problem;
    use tokio::sync::oneshot;

    use super::*;
    use crate::change::Changed;

    type Answer = oneshot::Receiver<Result<Changed, Problem>>;

    fn ask(id: u128) -> (Ask, Answer) {
        let (answer, answered) = oneshot::channel();
        let (client_id, auth) = (ClientId::from(id), Arc::new(Authenticator::open()));
        (
            Ask {
                client_id,
                caller: Caller::Unchecked,
                shards: None,
                types: None,
                grants: None,
                auth,
                answer,
            },
            answered,
        )
    }

    #[test]
    fn what_is_asked_of_a_stream_waits_within_bounds_until_it_is_taken_or_the_stream_is_over() {
        let directory = Directory::default();
        let (id, other) = (ClientId::from(7), ClientId::from(8));
        let made = |id| {
            let (ask, answered) = ask(id);
            directory.ask(ask).map(|_| answered)
        };
        assert_eq!(made(7).map(|_| ()), Err(NotAsked::Unknown));
        directory.opened(id);
        directory.opened(other);
        let mut answers: Vec<Answer> = (0..ASKS_MAX).map(|_| made(7).unwrap()).collect();
        assert_eq!(made(7).map(|_| ()), Err(NotAsked::Busy));
        assert_eq!((directory.asked(), directory.asks_made()), (vec![7], 4));
        assert!(directory.is_asked(id) && !directory.is_asked(other) && directory.take(other).is_none());
        // Nobody waits for it any more.
        drop(answers.remove(1));
        answers.push(made(7).unwrap());
        directory.take(id).unwrap().answer(Err(crate::change::unknown()));
        assert!(answers.remove(0).try_recv().unwrap().is_err());
        // One of another id that differs in what isn't looked at here.
        let mut strange = made(7 | 1 << 64).unwrap();
        for _ in 0..3 {
            assert!(directory.take(id).is_some());
        }
        assert!(directory.take(id).is_none() && strange.try_recv().is_err() && directory.asked().is_empty());
        drop(made(7).unwrap());
        let mut last = made(7).unwrap();
        drop(made(7));
        directory.forget_given_up(id);
        assert_eq!(directory.waiting.load(Ordering::SeqCst), 1);
        directory.closed(id);
        assert_eq!(last.try_recv().err(), Some(oneshot::error::TryRecvError::Closed));
        assert_eq!(
            (directory.waiting.load(Ordering::SeqCst), made(7).map(|_| ())),
            (0, Err(NotAsked::Unknown))
        );
    }
}
