//! What open streams hear by the word of the webhook authoriser. It is asked again before its word ends; a stream whose
//! grant isn't renewed by then ends.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::join_all;
use futures::stream::{FuturesUnordered, StreamExt as _};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use foghorn_auth::audit::{Action, Line};
use foghorn_auth::webhook::Grant;
use foghorn_auth::{Authenticator, Refusal};
use foghorn_core::pattern::Pattern;
use foghorn_core::reason::StreamEnd;

use crate::client_id::ClientId;
use crate::http::DOOR;

/// Streams whose grants are asked for again at a time.
const RENEWED_AT_A_TIME: usize = 64;
/// How long after it was asked in vain the webhook is asked again, and up to twice as long by chance.
const RETRY: Duration = Duration::from_secs(1);

/// The grants of a gateway's streams.
#[derive(Debug)]
pub(crate) struct Grants {
    held: Mutex<Held>,
    /// Streams that are to end.
    ending: AtomicUsize,
    /// Changes whenever there are more of them.
    endings: watch::Sender<u64>,
    /// Told when something is due sooner than before.
    sooner: Notify,
}

#[derive(Debug, Default)]
struct Held {
    /// By the keys of their ids.
    streams: HashMap<u64, Stream>,
    /// When each is due, and which.
    due: BTreeSet<(Instant, u64)>,
    next_number: u64,
}

#[derive(Debug)]
struct Stream {
    id: ClientId,
    subject: Option<Arc<str>>,
    grants: Vec<Grant>,
    due: Instant,
    /// Which set of grants of all that there ever were.
    number: u64,
    end: Option<StreamEnd>,
}

/// A stream's grants while they are asked for.
struct Due {
    key: u64,
    number: u64,
    grants: Vec<Grant>,
}

impl Default for Grants {
    fn default() -> Self {
        Grants {
            held: Mutex::default(),
            ending: AtomicUsize::new(0),
            endings: watch::channel(0).0,
            sooner: Notify::new(),
        }
    }
}

impl Grants {
    /// A stream, somebody's or nobody's, hears by these from now on, and by no others.
    pub(crate) fn hears(&self, id: ClientId, subject: Option<&str>, grants: Vec<Grant>) {
        let mut held = self.held.lock();
        self.forget(&mut held, id.key());
        let Some(due) = grants.iter().map(|grant| grant.due).min() else { return };
        held.next_number += 1;
        let number = held.next_number;
        let subject = subject.map(Arc::from);
        held.streams.insert(id.key(), Stream { id, subject, grants, due, number, end: None });
        held.due.insert((due, id.key()));
        if held.due.first() == Some(&(due, id.key())) {
            self.sooner.notify_one();
        }
    }

    /// Whether a stream hears this by a grant.
    pub(crate) fn allows(&self, id: ClientId, topic: &Pattern) -> bool {
        let held = self.held.lock();
        let stream = held.streams.get(&id.key()).filter(|stream| stream.id == id && stream.end.is_none());
        stream.is_some_and(|stream| stream.grants.iter().any(|grant| grant.topic == *topic))
    }

    /// A stream is over.
    pub(crate) fn closed(&self, id: ClientId) {
        self.forget(&mut self.held.lock(), id.key());
    }

    /// Why a stream is to end, if it is.
    pub(crate) fn due_end(&self, id: ClientId) -> Option<StreamEnd> {
        if self.ending.load(Ordering::SeqCst) == 0 {
            return None;
        }
        self.held.lock().streams.get(&id.key()).filter(|stream| stream.id == id)?.end
    }

    /// Changes whenever streams are to end.
    pub(crate) fn endings(&self) -> watch::Receiver<u64> {
        self.endings.subscribe()
    }

    fn forget(&self, held: &mut Held, key: u64) {
        let Some(stream) = held.streams.remove(&key) else { return };
        held.due.remove(&(stream.due, key));
        self.ending.fetch_sub(usize::from(stream.end.is_some()), Ordering::SeqCst);
    }

    /// Asks again for what is due, until the gateway ends.
    pub(crate) async fn renew(&self, auth: &Authenticator) {
        let mut renewing = FuturesUnordered::new();
        loop {
            let room = RENEWED_AT_A_TIME - renewing.len();
            tokio::select! {
                due = self.due(room), if room > 0 => {
                    renewing.extend(due.into_iter().map(|due| self.renew_stream(auth, due)));
                }
                Some(()) = renewing.next() => {}
            }
        }
    }

    /// The streams that are due, as soon as some are, at most so many; those that are longest first. Cancel-safe.
    async fn due(&self, most: usize) -> Vec<Due> {
        loop {
            let wait = {
                let mut held = self.held.lock();
                let now = Instant::now();
                let mut due = Vec::new();
                while due.len() < most
                    && let Some((_, key)) = held.due.first().copied().filter(|(at, _)| *at <= now)
                {
                    held.due.pop_first();
                    let stream = held.streams.get(&key);
                    due.extend(stream.map(|s| Due { key, number: s.number, grants: s.grants.clone() }));
                }
                if !due.is_empty() {
                    return due;
                }
                held.due.first().map(|(at, _)| *at - now)
            };
            tokio::select! {
                () = self.sooner.notified() => {}
                () = tokio::time::sleep(wait.unwrap_or(Duration::MAX)) => {}
            }
        }
    }

    /// Asks about all of a stream's grants that are due, together, as they were asked about when it began.
    async fn renew_stream(&self, auth: &Authenticator, due: Due) {
        let Due { key, number, grants } = due;
        let asked = grants.into_iter().map(|grant| async move {
            let now = Instant::now();
            let renewed = match () {
                () if grant.due > now => None,
                // Nobody who doesn't get a turn goes on without an answer.
                () if grant.ends <= now => Some(Err(unanswered(&grant))),
                () => Some(auth.renew(&grant).await),
            };
            (grant, renewed)
        });
        let (mut grants, mut next) = (Vec::new(), None::<Instant>);
        for (grant, renewed) in join_all(asked).await {
            let now = Instant::now();
            let (grant, again) = match renewed {
                None => (grant.clone(), grant.due),
                Some(Ok(renewed)) => (renewed.clone(), renewed.due),
                Some(Err(refusal)) if refusal.passes_after().is_none() => {
                    return self.end(auth, key, number, StreamEnd::AccessWithdrawn, &refusal);
                }
                Some(Err(refusal)) if grant.ends <= now => {
                    return self.end(auth, key, number, StreamEnd::AuthoriserUnavailable, &refusal);
                }
                Some(Err(_)) => {
                    let again = now + RETRY.mul_f64(1.0 + fastrand::f64());
                    (grant.clone(), again.min(grant.ends))
                }
            };
            next = Some(next.map_or(again, |next| next.min(again)));
            grants.push(grant);
        }
        if let Some(next) = next {
            self.renewed(key, number, grants, next);
        }
    }

    fn renewed(&self, key: u64, number: u64, grants: Vec<Grant>, next: Instant) {
        let mut held = self.held.lock();
        let Held { streams, due, .. } = &mut *held;
        // Or it hears something else by now, or is over.
        let Some(stream) = streams.get_mut(&key).filter(|stream| stream.number == number) else { return };
        stream.grants = grants;
        stream.due = next;
        due.insert((next, key));
    }

    fn end(&self, auth: &Authenticator, key: u64, number: u64, end: StreamEnd, refusal: &Refusal) {
        let mut held = self.held.lock();
        let Some(stream) = held.streams.get_mut(&key).filter(|stream| stream.number == number) else {
            return;
        };
        stream.end = Some(end);
        self.ending.fetch_add(1, Ordering::SeqCst);
        let (id, subject) = (stream.id, stream.subject.clone());
        drop(held);
        if let Some(room) = auth.audit.room(Action::Refused) {
            let (stream, reason) = (id.to_string(), Some(refusal.code()));
            let on = refusal.channel().unwrap_or_default();
            let (stream, subject) = (Some(stream.as_str()), subject.as_deref());
            room.say(&Line { door: DOOR, subject, stream, on, reason, ..Line::default() });
        }
        self.endings.send_modify(|endings| *endings += 1);
    }
}

/// Whose answer ended before it could be asked for again.
fn unanswered(grant: &Grant) -> Refusal {
    Refusal::AuthoriserUnavailable { what: "listening to", to: grant.topic.to_string(), seconds: 0 }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use bytes::Bytes;
    use foghorn_auth::webhook::{Authoriser, Failure, Webhook};
    use foghorn_auth::{Caller, Requester};
    use foghorn_bus::gateways::GatewayName;
    use foghorn_core::policy::{Access, Policies, Policy};
    use foghorn_core::time::Timestamp;
    use futures::FutureExt as _;
    use futures::future::BoxFuture;

    use super::*;

    /// Allows `short` for ten seconds and everything else for five minutes, each after a quarter of a second.
    #[derive(Clone, Default)]
    struct Slow {
        denies: Arc<AtomicBool>,
        asked: Arc<AtomicUsize>,
    }

    impl Authoriser for Slow {
        fn ask(&self, question: Bytes) -> BoxFuture<'_, Result<Bytes, Failure>> {
            self.asked.fetch_add(1, Ordering::SeqCst);
            let short = question.windows(5).any(|word| word == b"short");
            let denied = short && self.denies.load(Ordering::SeqCst);
            async move {
                tokio::time::sleep(Duration::from_millis(250)).await;
                Ok(Bytes::from_static(match (denied, short) {
                    (true, _) => b"{\"allow\":false}",
                    (_, true) => b"{\"allow\":true,\"ttl\":10}",
                    _ => b"{\"allow\":true,\"ttl\":300}",
                }))
            }
            .boxed()
        }
    }

    async fn stream(
        auth: &Authenticator,
        grants: &Grants,
        topics: impl IntoIterator<Item = String>,
    ) -> ClientId {
        let policy = Policy { access: Some(Access::Webhook), ..Policy::new(Pattern::parse(">").unwrap()) };
        let policies = Policies::new(vec![policy]).unwrap();
        let by = Requester::from(Caller::Anonymous);
        let topics: Vec<_> = topics.into_iter().map(|topic| Pattern::parse(topic).unwrap()).collect();
        let granted = join_all(topics.iter().map(|topic| auth.check_listen(&by, topic, &policies))).await;
        let granted = granted.into_iter().filter_map(Result::unwrap).collect();
        let id = ClientId::random(GatewayName::new(1));
        grants.hears(id, None, granted);
        id
    }

    fn auth(authoriser: &Slow) -> Authenticator {
        let webhook = Webhook::new(&foghorn_auth::config::Webhook::default(), authoriser.clone());
        let keys = foghorn_auth::keys::Keys::default();
        Authenticator::new(&foghorn_auth::config::Config::default(), keys, false, Timestamp::default)
            .with_webhook(Some(webhook))
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_with_many_grants_goes_on_while_each_is_asked_about_in_time() {
        let (authoriser, grants) = (Slow::default(), Grants::default());
        let auth = auth(&authoriser);
        // One after the other they would take longer than their answers hold.
        let id = stream(&auth, &grants, (0..50).map(|n| format!("short.{n}"))).await;
        assert!(tokio::time::timeout(Duration::from_secs(60), grants.renew(&auth)).await.is_err());
        assert_eq!(grants.due_end(id), None);
        assert!(authoriser.asked.load(Ordering::SeqCst) > 5 * 50);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_withdrawn_ends_a_stream_in_time_whatever_else_it_may_hear() {
        let (authoriser, grants) = (Slow::default(), Grants::default());
        let auth = auth(&authoriser);
        let topics = ["short".to_owned()].into_iter().chain((0..20).map(|n| format!("long.{n}")));
        let id = stream(&auth, &grants, topics).await;
        assert!(tokio::time::timeout(Duration::from_secs(295), grants.renew(&auth)).await.is_err());
        assert_eq!(grants.due_end(id), None);
        authoriser.denies.store(true, Ordering::SeqCst);
        assert!(tokio::time::timeout(Duration::from_secs(11), grants.renew(&auth)).await.is_err());
        assert_eq!(grants.due_end(id), Some(StreamEnd::AccessWithdrawn));
    }
}
