//! What streams were changed to hear, kept for when they come back to the URLs that they were opened with.
//!
//! A cursor of such a stream names it, by a digest over what is kept and over whose stream it was. So a record that is
//! found proves itself, another's is as good as none, and it grants nothing: what it names is checked like what a URL
//! names.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, StreamExt as _};
use parking_lot::Mutex;
use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout};

use foghorn_auth::Caller;
use foghorn_bus::backoff::Rarely;
use foghorn_bus::subscriptions::{SubscriptionError, Subscriptions};
use foghorn_core::cursor::SubscriptionId;
use foghorn_core::pattern::Pattern;

use crate::hub::Hub;
use crate::metrics::KeptOutcome;
use crate::subscription::Subscription;

/// How long a store may take. Together with a change it has to be done before whoever asked gives up.
const PATIENCE: Duration = Duration::from_millis(1500);
/// Records that are renewed at a time.
const RENEWED_AT_A_TIME: usize = 16;
/// How often it is looked which records have to be renewed, or have yet to be kept.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// What a URL asks to hear, whatever is heard unasked: a digest of its channels and types, in any order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Original(u64);

impl Original {
    pub(crate) fn of(topics: &[Pattern], types: &[String]) -> Self {
        let sorted = |texts: &mut dyn Iterator<Item = &str>| {
            let mut texts: Vec<String> = texts.map(str::to_owned).collect();
            texts.sort_unstable();
            texts.dedup();
            texts.join("\n")
        };
        let topics = sorted(&mut topics.iter().map(Pattern::as_str));
        Original(digest(&[&topics, &sorted(&mut types.iter().map(String::as_str))]))
    }
}

/// A subscription that a stream was changed to, as it is kept.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    id: SubscriptionId,
    record: Bytes,
}

/// By its id, which is a digest already.
impl Hash for Kept {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id.hash(state);
    }
}

/// What a record says.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    /// Of the URL that the stream was opened with: another one says anew what is wanted.
    original: u64,
    channels: Vec<String>,
    events: Vec<String>,
}

/// What a stream that comes back with a changed subscription is to hear.
#[derive(Debug)]
pub(crate) enum Found {
    /// This, if its caller may.
    Changed { topics: Vec<Pattern>, types: Vec<String>, kept: Arc<Kept> },
    /// What its URL says: it isn't the one that the stream was opened with.
    OtherUrl,
    /// It isn't known any more, or not to this caller.
    Gone,
}

impl Kept {
    /// Of a stream of this caller that hears this from now on.
    pub(crate) fn new(caller: &Caller, subscription: &Subscription) -> Self {
        let record = Record {
            original: subscription.original.0,
            channels: subscription.topics().map(|topic| topic.as_str().to_owned()).collect(),
            events: subscription.types.clone(),
        };
        // Strings and a number: nothing that could fail.
        let record = serde_json::to_string(&record).unwrap_or_default();
        Kept { id: id_of(caller, &record), record: record.into() }
    }

    /// What a cursor calls it.
    pub(crate) fn id(&self) -> SubscriptionId {
        self.id
    }
}

fn id_of(caller: &Caller, record: &str) -> SubscriptionId {
    let whose = caller.identity().map(|identity| identity.principal().to_string()).unwrap_or_default();
    SubscriptionId::new(digest(&[&whose, record]))
}

/// The first bits of a digest over texts, each with its length.
fn digest(texts: &[&str]) -> u64 {
    let mut context = Context::new(&SHA256);
    for text in texts {
        context.update(&(text.len() as u64).to_be_bytes());
        context.update(text.as_bytes());
    }
    let mut bits = [0; 8];
    bits.copy_from_slice(&context.finish().as_ref()[..8]);
    u64::from_be_bytes(bits)
}

/// The changed subscriptions of the streams that are here, each once.
#[derive(Debug, Default)]
pub(crate) struct Here(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    held: HashMap<SubscriptionId, Held>,
    /// How many there are to be until those that no stream has any more are forgotten.
    full: usize,
}

#[derive(Debug)]
struct Held {
    kept: Weak<Kept>,
    /// When it has to be written to the store again.
    due: Instant,
}

impl Here {
    /// What all streams with this subscription share. It is due at once where it is new here.
    pub(crate) fn share(&self, kept: Kept) -> Arc<Kept> {
        let mut state = self.0.lock();
        if let Some(shared) = state.held.get(&kept.id).and_then(|held| held.kept.upgrade())
            && *shared == kept
        {
            return shared;
        }
        if state.held.len() >= state.full {
            state.held.retain(|_, held| held.kept.strong_count() > 0);
            state.full = state.held.len() * 2 + 64;
        }
        let shared = Arc::new(kept);
        state.held.insert(shared.id, Held { kept: Arc::downgrade(&shared), due: Instant::now() });
        shared
    }

    fn find(&self, id: SubscriptionId) -> Option<Arc<Kept>> {
        self.0.lock().held.get(&id)?.kept.upgrade()
    }

    /// It was written to the store, for so long.
    fn was_kept(&self, id: SubscriptionId, ttl: Duration) {
        // Long before its end, and not all at once.
        let due = Instant::now() + ttl.mul_f64(0.25 + fastrand::f64() / 4.0);
        if let Some(held) = self.0.lock().held.get_mut(&id) {
            held.due = due;
        }
    }

    /// What has to be written now.
    fn due(&self) -> Vec<Arc<Kept>> {
        let now = Instant::now();
        let mut state = self.0.lock();
        state.held.retain(|_, held| held.kept.strong_count() > 0);
        let due = state.held.values().filter(|held| held.due <= now);
        due.filter_map(|held| held.kept.upgrade()).collect()
    }
}

/// Where changed subscriptions are kept for the whole cluster.
pub(crate) struct Keeper {
    store: Arc<dyn Subscriptions>,
    ttl: Duration,
}

impl Keeper {
    /// In this store, for so long after a stream with it was last seen.
    pub(crate) fn new(store: Arc<dyn Subscriptions>, ttl: Duration) -> Self {
        Keeper { store, ttl }
    }

    /// Keeps what a stream here was changed to. Where that fails [`renew`](Keeper::renew) tries again.
    pub(crate) async fn keep(&self, hub: &Hub, kept: &Kept) -> Result<(), SubscriptionError> {
        let done = timeout(PATIENCE, self.store.keep(kept.id, kept.record.clone(), self.ttl)).await;
        let done =
            done.unwrap_or_else(|_| Err(SubscriptionError::Unavailable("no answer in time".to_owned())));
        if done.is_ok() {
            hub.kept.was_kept(kept.id, self.ttl);
        }
        hub.metrics.kept(match &done {
            Ok(()) => KeptOutcome::Kept,
            Err(SubscriptionError::Full) => KeptOutcome::Full,
            Err(SubscriptionError::Unavailable(_)) => KeptOutcome::Unavailable,
        });
        done
    }

    /// What a stream of this caller is to hear whose cursor names a subscription and whose URL asks for `original`.
    pub(crate) async fn find(
        &self,
        hub: &Hub,
        id: SubscriptionId,
        caller: &Caller,
        original: Original,
    ) -> Result<Found, SubscriptionError> {
        let found = self.find_record(hub, id).await;
        let found =
            found.map(|record| record.map_or(Found::Gone, |record| read(hub, id, caller, original, record)));
        hub.metrics.kept(match &found {
            Ok(Found::Changed { .. }) => KeptOutcome::Resumed,
            Ok(Found::OtherUrl) => KeptOutcome::OtherUrl,
            Ok(Found::Gone) => KeptOutcome::Gone,
            Err(_) => KeptOutcome::Unavailable,
        });
        found
    }

    async fn find_record(&self, hub: &Hub, id: SubscriptionId) -> Result<Option<Bytes>, SubscriptionError> {
        if let Some(kept) = hub.kept.find(id) {
            return Ok(Some(kept.record.clone()));
        }
        let found = timeout(PATIENCE, self.store.find(id)).await;
        found.unwrap_or_else(|_| Err(SubscriptionError::Unavailable("no answer in time".to_owned())))
    }

    /// Keeps what the streams here were changed to for as long as they are here.
    pub(crate) async fn renew(&self, hub: &Hub) {
        let rarely = Rarely::default();
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let due = stream::iter(hub.kept.due());
            due.for_each_concurrent(RENEWED_AT_A_TIME, async |kept| {
                if let Err(error) = self.keep(hub, &kept).await
                    && rarely.now()
                {
                    tracing::warn!(%error, "what a stream was changed to could not be kept; trying again");
                }
            })
            .await;
        }
    }
}

/// What a record says to this caller.
fn read(hub: &Hub, id: SubscriptionId, caller: &Caller, original: Original, record: Bytes) -> Found {
    let text = std::str::from_utf8(&record).ok().filter(|text| id_of(caller, text) == id);
    let said = text.and_then(|text| serde_json::from_str::<Record>(text).ok());
    let Some(said) = said else { return Found::Gone };
    if said.original != original.0 {
        return Found::OtherUrl;
    }
    let topics = said.channels.iter().map(|text| Pattern::parse(text.as_str()));
    match topics.collect::<Result<Vec<_>, _>>() {
        Ok(topics) => {
            Found::Changed { topics, types: said.events, kept: hub.kept.share(Kept { id, record }) }
        }
        Err(_) => Found::Gone,
    }
}

#[cfg(test)]
mod tests {
    use foghorn_bus::memory::MemorySubscriptions;
    use foghorn_core::shard::ShardCount;

    use super::*;
    use crate::testing::hub;

    fn patterns(texts: &[&str]) -> Vec<Pattern> {
        texts.iter().map(|text| Pattern::parse(*text).unwrap()).collect()
    }

    fn changed(hub: &Hub, to: &str) -> Arc<Kept> {
        let mut subscription = Subscription::new(&patterns(&["broadcast", to]), ShardCount::ONE);
        subscription.original = Original::of(&patterns(&["a"]), &[]);
        hub.kept.share(Kept::new(&Caller::Anonymous, &subscription))
    }

    #[test]
    fn a_url_is_the_same_in_whatever_order_it_names_what() {
        let of = |topics: &[&str], types: &[&str]| {
            Original::of(&patterns(topics), &types.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(of(&["a", "b.*", "a"], &["x", "y"]), of(&["b.*", "a"], &["y", "x"]));
        for other in [of(&["a"], &["x", "y"]), of(&["a", "b.*"], &["x"]), of(&["a", "b.*", "x", "y"], &[])] {
            assert_ne!(of(&["a", "b.*"], &["x", "y"]), other);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_stream_hears_is_kept_for_as_long_as_it_is_there_and_some_time_after() {
        let (store, ttl, hub) =
            (Arc::new(MemorySubscriptions::default()), Duration::from_secs(3600), hub(1 << 20));
        let here = Keeper::new(store.clone(), ttl);
        let kept = changed(&hub, "b");
        here.keep(&hub, &kept).await.unwrap();
        let id = kept.id();
        let stay = tokio::time::timeout(5 * ttl, here.renew(&hub));
        assert!(stay.await.is_err());
        // At another gateway.
        let (there, other) = (crate::testing::hub(1 << 20), Keeper::new(store, ttl));
        let original = Original::of(&patterns(&["a"]), &[]);
        let found = async |caller, original| other.find(&there, id, &caller, original).await.unwrap();
        let Found::Changed { topics, types, kept: same } = found(Caller::Anonymous, original).await else {
            panic!("it is gone")
        };
        assert_eq!((topics, types, same), (patterns(&["b", "broadcast"]), vec![], kept.clone()));
        assert!(matches!(found(Caller::Anonymous, Original::default()).await, Found::OtherUrl));
        drop(kept);
        let gone = tokio::time::timeout(2 * ttl, here.renew(&hub));
        assert!(gone.await.is_err() && hub.kept.0.lock().held.is_empty());
        assert!(matches!(found(Caller::Anonymous, original).await, Found::Gone));
    }

    #[tokio::test]
    async fn anothers_record_is_as_good_as_none_and_so_is_one_that_was_changed() {
        let (store, hub) = (Arc::new(MemorySubscriptions::default()), hub(1 << 20));
        let keeper = Keeper::new(store.clone(), Duration::from_secs(60));
        let kept = changed(&hub, "b");
        let (id, original) = (kept.id(), Original::of(&patterns(&["a"]), &[]));
        keeper.keep(&hub, &kept).await.unwrap();
        let mut identity = foghorn_auth::token::Identity::default();
        "mallory".clone_into(&mut identity.subject);
        let mallory = Caller::Known(Arc::new(identity));
        assert!(matches!(keeper.find(&hub, id, &mallory, original).await, Ok(Found::Gone)));
        let text = String::from_utf8(kept.record.to_vec()).unwrap().replace("\"b\"", "\"secret\"");
        drop(kept);
        store.keep(id, text.into(), Duration::from_secs(60)).await.unwrap();
        assert!(matches!(keeper.find(&hub, id, &Caller::Anonymous, original).await, Ok(Found::Gone)));
    }
}
