//! What operators have revoked before its time: a subject's tokens, a token, a stream. Pure memory; where it
//! is kept for longer, and how processes hear of it, is a [`Store`]'s.
//!
//! What is revoked is known by digests alone: no token and no name lies in memory or in a store for it.

use std::collections::HashMap;
use std::fmt;
use std::pin::Pin;

use foghorn_core::time::Timestamp;
use parking_lot::{Mutex, RwLock};
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::token::Identity;

/// Most revocations that are known at a time; one more is refused until an old one has ended.
pub const REVOCATIONS_MAX: usize = 100_000;
/// Most that wait to be kept because streams were closed by their ids. Past it a stream's token is refused by
/// this process alone.
const UNSAID_MAX: usize = 10_000;

/// What kind of thing is revoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Subject,
    TokenId,
    Token,
    Stream,
}

impl Kind {
    const ALL: [Kind; 4] = [Kind::Subject, Kind::TokenId, Kind::Token, Kind::Stream];

    const fn as_str(self) -> &'static str {
        match self {
            Kind::Subject => "subject",
            Kind::TokenId => "token-id",
            Kind::Token => "token",
            Kind::Stream => "stream",
        }
    }
}

/// What is revoked. Shown as `subject.<32 hexadecimal digits>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    kind: Kind,
    digest: [u8; 16],
}

impl Key {
    /// All tokens of a subject that were issued until then.
    pub fn subject(subject: &str) -> Self {
        Key::of(Kind::Subject, subject)
    }

    /// The tokens with this `jti`.
    pub fn token_id(id: &str) -> Self {
        Key::of(Kind::TokenId, id)
    }

    /// The token with this head and these claims, which are all that is signed of it.
    pub(crate) fn token(signed: &str) -> Self {
        Key::of(Kind::Token, signed)
    }

    /// The stream that calls itself by this client id.
    pub fn stream(client_id: u128) -> Self {
        Key { kind: Kind::Stream, digest: client_id.to_be_bytes() }
    }

    fn of(kind: Kind, text: &str) -> Self {
        let mut key = Key { kind, digest: [0; 16] };
        key.digest.copy_from_slice(&digest(&SHA256, text.as_bytes()).as_ref()[..16]);
        key
    }

    fn parse(text: &str) -> Option<Self> {
        let (kind, digits) = text.split_once('.')?;
        let kind = Kind::ALL.into_iter().find(|known| known.as_str() == kind)?;
        let plain = digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = u128::from_str_radix(digits, 16).ok().filter(|_| plain)?;
        Some(Key { kind, digest: number.to_be_bytes() })
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:032x}", self.kind.as_str(), u128::from_be_bytes(self.digest))
    }
}

/// That something is revoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Revocation {
    /// What.
    pub key: Key,
    /// When that was said.
    pub said: Timestamp,
    /// Until when it has to be known: then what it refuses has expired by itself.
    pub until: Timestamp,
}

/// A revocation's times, as they are kept: microseconds since the Unix epoch.
#[derive(Serialize, Deserialize)]
struct Kept {
    said: i64,
    until: i64,
}

impl Revocation {
    /// What is kept under its key.
    pub fn value(&self) -> String {
        format!("{{\"said\":{},\"until\":{}}}", self.said.as_micros(), self.until.as_micros())
    }

    /// What is kept under a key; none when it is nothing that this version knows.
    pub fn parse(key: &str, value: &[u8]) -> Option<Self> {
        let Kept { said, until } = serde_json::from_slice(value).ok()?;
        let [said, until] = [said, until].map(Timestamp::from_micros);
        Some(Revocation { key: Key::parse(key)?, said, until })
    }
}

/// Why a revocation could not be kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// There are as many as may be.
    #[error("there are {REVOCATIONS_MAX} revocations already; the oldest end by themselves")]
    Full,
    /// It can't be reached, and may or may not have kept it.
    #[error("{0}")]
    Unavailable(String),
}

/// Whether a revocation is kept, once that is known.
pub type Keeping<'a> = Pin<Box<dyn Future<Output = Result<(), StoreError>> + Send + 'a>>;

/// Where revocations outlive the process, and from where others hear of them.
pub trait Store: Send + Sync + 'static {
    /// Keeps one. Then it holds in every process, in each as soon as it looks.
    fn keep(&self, revocation: Revocation) -> Keeping<'_>;
}

/// Keeps nothing: revocations are gone with the process, as everything else of it is.
#[derive(Debug)]
pub struct InMemory;

impl Store for InMemory {
    fn keep(&self, _: Revocation) -> Keeping<'_> {
        Box::pin(std::future::ready(Ok(())))
    }
}

/// What a process knows to be revoked.
#[derive(Debug)]
pub struct Revocations {
    known: RwLock<HashMap<Key, Span>>,
    /// Closed streams' tokens, which others are to hear of.
    unsaid: Mutex<Vec<Revocation>>,
    changes: watch::Sender<u64>,
}

#[derive(Debug, Clone, Copy)]
struct Span {
    said: Timestamp,
    until: Timestamp,
}

impl Default for Revocations {
    fn default() -> Self {
        let (known, unsaid) = (RwLock::default(), Mutex::default());
        Revocations { known, unsaid, changes: watch::channel(0).0 }
    }
}

impl Revocations {
    /// These hold from now on.
    pub fn apply(&self, revocations: impl IntoIterator<Item = Revocation>) {
        let mut news = false;
        let mut known = self.known.write();
        for Revocation { key, said, until } in revocations {
            let span = known.entry(key).or_insert_with(|| {
                news = true;
                Span { said, until }
            });
            news |= span.said < said;
            *span = Span { said: span.said.max(said), until: span.until.max(until) };
        }
        drop(known);
        if news {
            self.changes.send_modify(|changes| *changes += 1);
        }
    }

    /// Forgets those that refuse nothing any more.
    pub fn forget_ended(&self, now: Timestamp) {
        self.known.write().retain(|_, span| span.until > now);
    }

    /// How many are known.
    pub fn len(&self) -> usize {
        self.known.read().len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All that are known.
    pub fn all(&self) -> Vec<Revocation> {
        let known = self.known.read();
        known.iter().map(|(key, span)| Revocation { key: *key, said: span.said, until: span.until }).collect()
    }

    /// Grows with every new one.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Whether a token is refused, by its subject, its id or itself.
    pub fn refuses(&self, identity: &Identity) -> bool {
        let known = self.known.read();
        !known.is_empty() && refuses(&known, identity)
    }

    /// Whether a stream is to be closed: by its client id, or with the token that it was opened with.
    pub fn closes(&self, client_id: u128, identity: Option<&Identity>) -> bool {
        let known = self.known.read();
        if known.is_empty() {
            return false;
        }
        known.contains_key(&Key::stream(client_id)) || identity.is_some_and(|it| refuses(&known, it))
    }

    /// A stream was closed by its id: refuses its token too, and has others hear of that.
    pub fn refuse(&self, identity: &Identity, now: Timestamp) {
        let Some(key) = identity.revocable.token.filter(|_| !self.refuses(identity)) else { return };
        let revocation = Revocation { key, said: now, until: identity.expires };
        self.apply([revocation]);
        self.say_later([revocation]);
    }

    /// To be kept when the store can.
    pub fn say_later(&self, revocations: impl IntoIterator<Item = Revocation>) {
        let mut unsaid = self.unsaid.lock();
        let room = UNSAID_MAX.saturating_sub(unsaid.len());
        let mut revocations = revocations.into_iter();
        unsaid.extend(revocations.by_ref().take(room));
        if revocations.next().is_some() {
            tracing::warn!("too many revocations wait to be kept; some hold in this process alone");
        }
    }

    /// What is to be kept.
    pub fn take_unsaid(&self) -> Vec<Revocation> {
        std::mem::take(&mut self.unsaid.lock())
    }
}

fn refuses(known: &HashMap<Key, Span>, identity: &Identity) -> bool {
    let has = |key: Option<Key>| key.and_then(|key| known.get(&key));
    let keys = &identity.revocable;
    // A token without a time of issue may be from before.
    let before = |said: Timestamp| identity.issued.is_none_or(|issued| issued <= said);
    has(keys.subject).is_some_and(|span| before(span.said))
        || has(keys.token_id).is_some()
        || has(keys.token).is_some()
}

/// What a token can be revoked by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Revocable {
    pub(crate) subject: Option<Key>,
    pub(crate) token_id: Option<Key>,
    pub(crate) token: Option<Key>,
}

impl Revocable {
    /// The digests of a token's id, and of the token.
    pub(crate) fn digests(&self) -> [Option<[u8; 16]>; 2] {
        [self.token_id, self.token].map(|key| key.map(|key| key.digest))
    }

    /// The same again, of a subject's token with these digests.
    pub(crate) fn of(subject: &str, [token_id, token]: [Option<[u8; 16]>; 2]) -> Self {
        Revocable {
            subject: Some(Key::subject(subject)),
            token_id: token_id.map(|digest| Key { kind: Kind::TokenId, digest }),
            token: token.map(|digest| Key { kind: Kind::Token, digest }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{NOW, at};

    fn identity(subject: &str, id: &str, issued: Option<i64>) -> Identity {
        let revocable = Revocable {
            subject: Some(Key::subject(subject)),
            token_id: Some(Key::token_id(id)),
            token: Some(Key::token(&format!("{subject}.{id}"))),
        };
        Identity { issued: issued.map(at), revocable, expires: at(NOW + 60), ..Identity::default() }
    }

    fn said(key: Key) -> Revocation {
        Revocation { key, said: at(NOW), until: at(NOW + 60) }
    }

    #[test]
    fn a_subject_is_refused_what_it_had_and_not_what_it_gets() {
        let revocations = Revocations::default();
        revocations.apply([said(Key::subject("ann"))]);
        for (issued, refused) in
            [(Some(NOW - 1), true), (Some(NOW), true), (None, true), (Some(NOW + 1), false)]
        {
            assert_eq!(revocations.refuses(&identity("ann", "1", issued)), refused, "{issued:?}");
        }
        assert!(!revocations.refuses(&identity("bob", "1", None)));
        // Said again, it is about what was issued since too; heard late, an earlier one changes nothing.
        let again = Revocation { said: at(NOW + 5), ..said(Key::subject("ann")) };
        revocations.apply([again]);
        revocations.apply([said(Key::subject("ann"))]);
        assert!(revocations.refuses(&identity("ann", "1", Some(NOW + 1))));
        revocations.forget_ended(at(NOW + 60));
        assert!(!revocations.refuses(&identity("ann", "1", None)) && revocations.is_empty());
    }

    #[test]
    fn a_stream_is_closed_by_its_id_and_its_token_is_refused_by_itself() {
        let revocations = Revocations::default();
        let (one, other) = (identity("ann", "1", None), identity("ann", "2", None));
        let mut changes = revocations.changes();
        changes.mark_unchanged();
        revocations.apply([said(Key::stream(7))]);
        assert!(changes.has_changed().unwrap());
        assert!(revocations.closes(7, Some(&one)) && revocations.closes(7, None));
        assert!(!revocations.closes(8, Some(&one)) && !revocations.refuses(&one));
        revocations.refuse(&one, at(NOW));
        assert!(revocations.refuses(&one) && revocations.closes(8, Some(&one)));
        assert!(!revocations.refuses(&other));
        let unsaid = revocations.take_unsaid();
        assert_eq!(unsaid.len(), 1);
        revocations.refuse(&one, at(NOW));
        assert!(revocations.take_unsaid().is_empty(), "once");
        revocations.apply([said(Key::token_id("2"))]);
        assert!(revocations.refuses(&other));
    }

    #[test]
    fn what_is_kept_is_read_again_and_nothing_else() {
        for key in [Key::subject("ann"), Key::token_id("*.>"), Key::stream(7), Key::token("a.b")] {
            let revocation = said(key);
            let (name, value) = (key.to_string(), revocation.value());
            assert_eq!(Revocation::parse(&name, value.as_bytes()), Some(revocation), "{name}");
            assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-')));
            assert_eq!(Revocation::parse(&name, b"{}"), None);
        }
        let value = said(Key::stream(7)).value();
        for name in ["", "stream", "stream.7", "other.00000000000000000000000000000007"] {
            assert_eq!(Revocation::parse(name, value.as_bytes()), None, "{name}");
        }
        let signed = format!("stream.+{:031x}", 7);
        assert_eq!(Revocation::parse(&signed, value.as_bytes()), None);
    }
}
