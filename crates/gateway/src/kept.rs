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
use foghorn_bus::subscriptions::{Revision, SubscriptionError, Subscriptions, Written};
use foghorn_core::cursor::SubscriptionId;
use foghorn_core::pattern::Pattern;

use crate::hub::Hub;
use crate::metrics::KeptOutcome;
use crate::subscription::Subscription;

/// How long a store may take. Together with a change it has to be done before whoever asked gives up.
const PATIENCE: Duration = Duration::from_millis(1500);
/// Records that are renewed at a time.
const RENEWED_AT_A_TIME: usize = 16;
/// How long a record is kept that all streams with it were changed from: one of them may come back by a cursor of before.
const LEFT_FOR: Duration = Duration::from_secs(120);
/// Such records that wait to be shortened. Of more, those that find no room are kept for as long as any.
const LEFT_MAX: usize = 4096;
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
    /// What nobody comes back for, as far as this gateway knows.
    left: Vec<Left>,
    /// How many there are to be until those that no stream has any more are forgotten.
    full: usize,
}

#[derive(Debug)]
struct Held {
    kept: Weak<Kept>,
    record: Bytes,
    /// When it has to be written to the store again.
    due: Instant,
    /// Its last write from here.
    revision: Option<Revision>,
    /// Whether it was written from elsewhere too: then others may need it.
    by_others: bool,
    /// Streams that have had it here, less those that hear something else by now.
    streams: usize,
}

/// A record that all streams with it were changed from, all here.
#[derive(Debug)]
struct Left {
    id: SubscriptionId,
    record: Bytes,
    revision: Revision,
}

impl State {
    fn forget_unheld(&mut self) {
        let left = &mut self.left;
        self.held.retain(|id, held| {
            if held.kept.strong_count() > 0 {
                return true;
            }
            if held.streams == 0
                && !held.by_others
                && left.len() < LEFT_MAX
                && let Some(revision) = held.revision
            {
                left.push(Left { id: *id, record: held.record.clone(), revision });
            }
            false
        });
    }
}

impl Here {
    /// What all streams with this subscription share, one more from now on. It is due at once where it is new here.
    pub(crate) fn share(&self, kept: Kept) -> Arc<Kept> {
        let mut state = self.0.lock();
        if let Some(held) = state.held.get_mut(&kept.id)
            && let Some(shared) = held.kept.upgrade()
            && *shared == kept
        {
            held.streams += 1;
            return shared;
        }
        if state.held.len() >= state.full {
            state.forget_unheld();
            state.full = state.held.len() * 2 + 64;
        }
        let shared = Arc::new(kept);
        let held = Held {
            kept: Arc::downgrade(&shared),
            record: shared.record.clone(),
            due: Instant::now(),
            revision: None,
            by_others: false,
            streams: 1,
        };
        state.held.insert(shared.id, held);
        shared
    }

    /// A stream with it hears something else from now on.
    pub(crate) fn left(&self, kept: &Kept) {
        if let Some(held) = self.0.lock().held.get_mut(&kept.id) {
            held.streams = held.streams.saturating_sub(1);
        }
    }

    fn find(&self, id: SubscriptionId) -> Option<Arc<Kept>> {
        self.0.lock().held.get(&id)?.kept.upgrade()
    }

    /// Its last write from here.
    fn revision(&self, id: SubscriptionId) -> Option<Revision> {
        self.0.lock().held.get(&id)?.revision
    }

    /// It was written to the store, for so long.
    fn was_kept(&self, id: SubscriptionId, ttl: Duration, written: Written) {
        // Long before its end, and not all at once.
        let due = Instant::now() + ttl.mul_f64(0.25 + fastrand::f64() / 4.0);
        if let Some(held) = self.0.lock().held.get_mut(&id) {
            held.due = due;
            held.revision = Some(written.revision);
            held.by_others |= !written.alone;
        }
    }

    /// What has to be written now, and what need not be kept for long any more.
    fn due(&self) -> (Vec<Arc<Kept>>, Vec<Left>) {
        let now = Instant::now();
        let mut state = self.0.lock();
        state.forget_unheld();
        let due = state.held.values().filter(|held| held.due <= now);
        (due.filter_map(|held| held.kept.upgrade()).collect(), std::mem::take(&mut state.left))
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
        let last = hub.kept.revision(kept.id);
        let done = timeout(PATIENCE, self.store.keep(kept.id, kept.record.clone(), self.ttl, last)).await;
        let done =
            done.unwrap_or_else(|_| Err(SubscriptionError::Unavailable("no answer in time".to_owned())));
        if let Ok(written) = done {
            hub.kept.was_kept(kept.id, self.ttl, written);
        }
        hub.metrics.kept(match &done {
            Ok(_) => KeptOutcome::Kept,
            Err(SubscriptionError::Full) => KeptOutcome::Full,
            Err(SubscriptionError::Unavailable(_)) => KeptOutcome::Unavailable,
        });
        done.map(|_| ())
    }

    /// Keeps for a short while only what all streams with it were changed from. Where that fails it stays as it is.
    async fn shorten(&self, left: Left) {
        let Left { id, record, revision } = left;
        let shortened = self.store.shorten(id, record, LEFT_FOR.min(self.ttl), revision);
        match timeout(PATIENCE, shortened).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "what a stream was changed from is kept for longer"),
            Err(_) => tracing::debug!("what a stream was changed from is kept for longer: no answer in time"),
        }
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
            let (due, left) = hub.kept.due();
            stream::iter(left).for_each_concurrent(RENEWED_AT_A_TIME, |left| self.shorten(left)).await;
            stream::iter(due).for_each_concurrent(RENEWED_AT_A_TIME, async |kept| {
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

    /// What is there for who comes back so long after all streams here were changed away, or ended.
    async fn is_kept_after(
        rest: Duration,
        store: &Arc<MemorySubscriptions>,
        here: &Hub,
        id: SubscriptionId,
    ) -> bool {
        let keeper = Keeper::new(store.clone(), Duration::from_secs(3600));
        assert!(tokio::time::timeout(rest, keeper.renew(here)).await.is_err());
        store.find(id).await.unwrap().is_some()
    }

    #[tokio::test(start_paused = true)]
    async fn what_all_streams_were_changed_from_is_kept_for_a_short_while_only() {
        let (store, soon) = (Arc::new(MemorySubscriptions::default()), LEFT_FOR + 2 * LOOK_EVERY);
        let keeper = Keeper::new(store.clone(), Duration::from_secs(3600));
        let (here, there) = (hub(1 << 20), hub(1 << 20));
        let original = Original::of(&patterns(&["a"]), &[]);
        // A stream that is changed again, and again.
        for to in ["b", "c", "d"] {
            let kept = changed(&here, to);
            keeper.keep(&here, &kept).await.unwrap();
            here.kept.left(&kept);
            let id = kept.id();
            drop(kept);
            assert!(
                is_kept_after(LEFT_FOR - LOOK_EVERY, &store, &here, id).await,
                "a cursor may still name it"
            );
            assert!(!is_kept_after(3 * LOOK_EVERY, &store, &here, id).await);
        }
        // One of two streams ends and may come back.
        let (kept, same) = (changed(&here, "e"), changed(&here, "e"));
        keeper.keep(&here, &kept).await.unwrap();
        here.kept.left(&kept);
        let id = kept.id();
        drop((kept, same));
        assert!(is_kept_after(soon, &store, &here, id).await);
        // It comes back to another gateway, which isn't to lose it by what is changed here.
        let kept = changed(&here, "f");
        keeper.keep(&here, &kept).await.unwrap();
        let id = kept.id();
        let found = keeper.find(&there, id, &Caller::Anonymous, original).await;
        let Ok(Found::Changed { kept: found, .. }) = found else { panic!("it is gone") };
        keeper.keep(&there, &found).await.unwrap();
        here.kept.left(&kept);
        drop(kept);
        assert!(is_kept_after(soon, &store, &here, id).await);
        there.kept.left(&found);
        drop(found);
        assert!(is_kept_after(soon, &store, &there, id).await, "here somebody may need it too");
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
        store.keep(id, text.into(), Duration::from_secs(60), None).await.unwrap();
        assert!(matches!(keeper.find(&hub, id, &Caller::Anonymous, original).await, Ok(Found::Gone)));
    }
}
