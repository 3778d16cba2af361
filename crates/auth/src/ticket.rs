//! One-time tickets: what opens one stream, once, in the name of whoever asked for it, and what its reconnects are
//! known by. Pure; where tickets wait to be redeemed is the bus's.
//!
//! A ticket is 256 random bits, and nobody keeps them. Under a digest of them the bus keeps a **pass**: what its
//! caller's token says, sealed. Whoever redeems the ticket takes the pass, and gives it back as the value of a
//! cookie that is named by the ticket. Both are sealed with keys that are made of the ticket and of a secret that
//! all gateways share: what is stored can't be read without the ticket, the cookie opens nothing but the
//! URL with its ticket, and that URL nothing without the cookie.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use foghorn_core::channel::Channel;
use foghorn_core::pattern::Pattern;
use foghorn_core::time::Timestamp;
use jsonwebtoken::Algorithm as Jwa;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::digest::{SHA256, digest};
use ring::hmac;
use serde::{Deserialize, Serialize};

use crate::keys::{Verifier, Verifying};
use crate::revocation::Revocable;
use crate::token::Identity;

/// What the name of a ticket's cookie begins with.
pub const COOKIE_PREFIX: &str = "foghorn_ticket_";
/// Most bytes of a pass as a cookie's value. Browsers keep cookies of 4,096 bytes, name and attributes included.
pub const COOKIE_BYTES_MAX: usize = 3500;
/// How long a ticket is in a URL.
const TEXT_BYTES: usize = 43;
/// How many bytes of its ticket's digest are in a cookie's name: enough that no two are alike.
const COOKIE_NAME_BYTES: usize = 12;

/// A ticket. Shows itself in no log.
#[derive(Clone, PartialEq, Eq)]
pub struct Ticket([u8; 32]);

impl Ticket {
    /// A new one.
    pub fn random() -> Self {
        Ticket(rand::random())
    }

    /// As it stands in a URL; none when it is no ticket.
    pub fn parse(text: &str) -> Option<Self> {
        let text = Some(text).filter(|text| text.len() == TEXT_BYTES)?;
        URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok().map(Ticket)
    }

    /// For the URL: characters of `[A-Za-z0-9_-]`.
    pub fn reveal(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.0)
    }

    /// What it is kept under: its SHA-256.
    pub fn id(&self) -> [u8; 32] {
        let mut id = [0; 32];
        id.copy_from_slice(digest(&SHA256, &self.0).as_ref());
        id
    }

    /// The name of its cookie.
    pub fn cookie(&self) -> String {
        format!("{COOKIE_PREFIX}{}", URL_SAFE_NO_PAD.encode(&self.id()[..COOKIE_NAME_BYTES]))
    }
}

impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ticket(hidden)")
    }
}

/// What a pass is sealed for. One for the one is none for the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// To wait for its ticket.
    Record,
    /// To go with the browser.
    Cookie,
}

impl Purpose {
    const fn as_bytes(self) -> &'static [u8] {
        match self {
            Purpose::Record => b"foghorn ticket record",
            Purpose::Cookie => b"foghorn ticket cookie",
        }
    }
}

/// Seals passes with a secret that all gateways share.
#[derive(Debug)]
pub struct Sealer(hmac::Key);

impl Sealer {
    /// With this secret.
    pub fn new(secret: &[u8; 32]) -> Self {
        Sealer(hmac::Key::new(hmac::HMAC_SHA256, secret))
    }

    /// A pass, to be kept until its ticket is redeemed. None when it can't be sealed, which it always can.
    pub fn record(&self, pass: &Pass, ticket: &Ticket) -> Option<Vec<u8>> {
        self.seal(pass, ticket, Purpose::Record)
    }

    /// The pass that was kept for a ticket; none when it is no such.
    pub fn open_record(&self, sealed: &[u8], ticket: &Ticket) -> Option<Pass> {
        self.open(sealed, ticket, Purpose::Record)
    }

    /// A pass as the value of its ticket's cookie.
    pub fn cookie(&self, pass: &Pass, ticket: &Ticket) -> Option<String> {
        self.seal(pass, ticket, Purpose::Cookie).map(|sealed| URL_SAFE_NO_PAD.encode(sealed))
    }

    /// The pass that a ticket's cookie holds; none when it holds none.
    pub fn open_cookie(&self, value: &str, ticket: &Ticket) -> Option<Pass> {
        self.open(&URL_SAFE_NO_PAD.decode(value).ok()?, ticket, Purpose::Cookie)
    }

    fn seal(&self, pass: &Pass, ticket: &Ticket, purpose: Purpose) -> Option<Vec<u8>> {
        let mut bytes = serde_json::to_vec(pass).ok()?;
        let nonce: [u8; NONCE_LEN] = rand::random();
        let key = self.key(ticket, purpose)?;
        key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut bytes).ok()?;
        Some([&nonce[..], &bytes].concat())
    }

    fn open(&self, sealed: &[u8], ticket: &Ticket, purpose: Purpose) -> Option<Pass> {
        let (nonce, bytes) = sealed.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut bytes = bytes.to_vec();
        let pass = self.key(ticket, purpose)?.open_in_place(nonce, Aad::empty(), &mut bytes).ok()?;
        serde_json::from_slice(pass).ok()
    }

    /// One of its own for each ticket and purpose: nonces of one key hardly ever meet.
    fn key(&self, ticket: &Ticket, purpose: Purpose) -> Option<LessSafeKey> {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(&ticket.0);
        context.update(purpose.as_bytes());
        UnboundKey::new(&AES_256_GCM, context.sign().as_ref()).ok().map(LessSafeKey::new)
    }
}

/// What a ticket is good for: its caller's token, as far as listening needs it. Names are short because it goes
/// with every request of a browser.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pass {
    #[serde(rename = "s")]
    subject: String,
    #[serde(rename = "g", default, skip_serializing_if = "Option::is_none")]
    subscribe: Option<Vec<Pattern>>,
    /// What was asked for; none for whatever its caller may hear.
    #[serde(rename = "c", default, skip_serializing_if = "Option::is_none")]
    channels: Option<Vec<Pattern>>,
    /// The listed origin of the page that asked for it; none for the server's own and for what is no page.
    #[serde(rename = "o", default, skip_serializing_if = "Option::is_none")]
    origin: Option<String>,
    /// In microseconds since the Unix epoch, as the next two.
    #[serde(rename = "e")]
    expires: i64,
    #[serde(rename = "n", default, skip_serializing_if = "Option::is_none")]
    not_before: Option<i64>,
    #[serde(rename = "i", default, skip_serializing_if = "Option::is_none")]
    issued: Option<i64>,
    /// Digests of the token's id and of the token, to be revoked by.
    #[serde(rename = "r")]
    revocable: [Option<String>; 2],
    /// The key that has verified the token: its id, what it is for, and which it is.
    #[serde(rename = "k")]
    key: (String, Jwa, u64),
}

impl Pass {
    /// One for whom a token speaks, for what it was asked for, and by whom. None when nothing has verified the
    /// token.
    pub fn new(identity: &Identity, channels: Option<Vec<Pattern>>, origin: Option<String>) -> Option<Self> {
        let key = identity.verifier.key()?;
        let never = Timestamp::from_micros(i64::MIN);
        Some(Pass {
            subject: identity.subject.clone(),
            subscribe: identity.subscribe.clone(),
            channels,
            origin,
            expires: identity.expires.as_micros(),
            not_before: Some(identity.not_before).filter(|time| *time > never).map(Timestamp::as_micros),
            issued: identity.issued.map(Timestamp::as_micros),
            revocable: identity.revocable.digests().map(|digest| digest.map(|d| URL_SAFE_NO_PAD.encode(d))),
            key: (key.id.clone(), key.algorithm, key.print()),
        })
    }

    /// The listed origin whose pages it is for; none for the server's own and for what is no page.
    pub fn origin(&self) -> Option<&str> {
        self.origin.as_deref()
    }

    /// Until when it is good.
    pub fn expires(&self) -> Timestamp {
        Timestamp::from_micros(self.expires)
    }

    pub(crate) fn key_id(&self) -> &str {
        &self.key.0
    }

    pub(crate) fn algorithm(&self) -> Jwa {
        self.key.1
    }

    pub(crate) fn was_verified_by(&self, key: &Verifying) -> bool {
        key.algorithm == self.key.1 && key.print() == self.key.2
    }

    /// For whom it is, and no more than listening needs.
    pub(crate) fn identity(&self, verifier: Verifier) -> Option<Identity> {
        let [token_id, token] = self.revocable.each_ref().map(|digest| {
            digest.as_ref().map(|text| {
                let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
                <[u8; 16]>::try_from(bytes).ok()
            })
        });
        // One that can't be read could not be revoked.
        let digests = [token_id, token].map(|digest| digest.map_or(Some(None), |read| read.map(Some)));
        let [Some(token_id), Some(token)] = digests else { return None };
        let micros = Timestamp::from_micros;
        Some(Identity {
            own: Channel::user(&self.subject).ok(),
            revocable: Revocable::of(&self.subject, [token_id, token]),
            subject: self.subject.clone(),
            subscribe: self.subscribe.clone(),
            publish: None,
            admin: false,
            confined: self.channels.clone(),
            not_before: micros(self.not_before.unwrap_or(i64::MIN)),
            expires: micros(self.expires),
            issued: self.issued.map(micros),
            verifier,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicI64, Ordering};

    use foghorn_core::policy::Policies;
    use serde_json::{Value, json};

    use super::*;
    use crate::Authenticator;
    use crate::keys::Keys;
    use crate::refusal::Refusal;
    use crate::revocation::{Key, Revocation};
    use crate::testing::{NOW, at, config, secret_key, token};
    use crate::token::TokenError;

    fn authenticator(key: &str, clock: &Arc<AtomicI64>) -> Authenticator {
        let config = config(vec![secret_key(key)]);
        let clock = clock.clone();
        let now = move || at(clock.load(Ordering::SeqCst));
        Authenticator::new(&config, Keys::load(&config).unwrap(), false, now)
    }

    fn pass(auth: &Authenticator, claims: &Value, channels: Option<&[&str]>) -> Pass {
        let caller = auth.caller_by(Some(&format!("Bearer {}", token("k", claims)))).unwrap();
        let channels = channels.map(|list| list.iter().map(|text| Pattern::parse(*text).unwrap()).collect());
        Pass::new(caller.identity().unwrap(), channels, None).unwrap()
    }

    #[test]
    fn a_ticket_is_read_as_it_was_written_and_shown_to_nobody() {
        let ticket = Ticket::random();
        let text = ticket.reveal();
        assert_eq!((text.len(), Ticket::parse(&text)), (43, Some(ticket.clone())));
        assert!(!format!("{ticket:?}{}", ticket.cookie()).contains(&text));
        for other in ["", "a", &text[1..], &format!("{text}A"), &format!("{}=", &text[..42])] {
            assert_eq!(Ticket::parse(other), None, "{other}");
        }
    }

    #[test]
    fn what_is_sealed_opens_with_its_own_ticket_purpose_and_secret_alone() {
        let auth = authenticator("k", &Arc::new(AtomicI64::new(NOW)));
        let pass = pass(&auth, &json!({ "jti": "7" }), Some(&["a.*"]));
        let (ticket, sealer) = (Ticket::random(), Sealer::new(&[1; 32]));
        let sealed = sealer.seal(&pass, &ticket, Purpose::Cookie).unwrap();
        assert_eq!(sealer.open(&sealed, &ticket, Purpose::Cookie), Some(pass));
        assert_eq!(sealer.open(&sealed, &Ticket::random(), Purpose::Cookie), None);
        assert_eq!(sealer.open(&sealed, &ticket, Purpose::Record), None);
        assert_eq!(Sealer::new(&[2; 32]).open(&sealed, &ticket, Purpose::Cookie), None);
        for at in 0..sealed.len() {
            let mut forged = sealed.clone();
            forged[at] ^= 1;
            assert_eq!(sealer.open(&forged, &ticket, Purpose::Cookie), None, "byte {at}");
            assert_eq!(sealer.open(&sealed[..at], &ticket, Purpose::Cookie), None, "{at} bytes");
        }
        assert!(!String::from_utf8_lossy(&sealed).contains("ann"));
    }

    #[test]
    fn a_pass_is_refused_whenever_its_token_is_and_grants_listening_alone() {
        let clock = Arc::new(AtomicI64::new(NOW));
        let auth = authenticator("k", &clock);
        let claims = json!({ "jti": "7", "iat": NOW, "nbf": NOW,
            "foghorn": { "subscribe": ["a.>"], "publish": [">"], "role": "admin" } });
        let pass = pass(&auth, &claims, Some(&["a.b.*"]));
        let caller = auth.restored(&pass).unwrap();
        let hears = |asked: &str| {
            auth.check_claims(&caller, &Pattern::parse(asked).unwrap(), &Policies::default()).is_ok()
        };
        assert_eq!(["a.b.c", "a.b.*", "user.ann", "broadcast"].map(hears), [true; 4]);
        assert_eq!(["a.b", "a.>", "b.b.c", "user.bob"].map(hears), [false; 4]);
        assert!(
            caller.check_admin().is_err() && auth.check_publisher(&caller, &Policies::default()).is_err()
        );

        for key in [Key::subject("ann"), Key::token_id("7")] {
            let auth = authenticator("k", &clock);
            auth.revocations().apply([Revocation { key, said: at(NOW), until: at(NOW + 60) }]);
            assert_eq!(auth.restored(&pass), Err(Refusal::BadCredential(TokenError::Revoked)), "{key}");
        }
        // A stream that is closed by its id takes its token with it, however that is shown.
        auth.revocations().refuse(caller.identity().unwrap(), at(NOW));
        assert_eq!(auth.restored(&pass), Err(Refusal::BadCredential(TokenError::Revoked)));
        let renamed = authenticator("other", &clock).restored(&pass);
        assert_eq!(renamed, Err(Refusal::BadCredential(TokenError::UnknownKey)));
        clock.store(NOW + 90, Ordering::SeqCst);
        let expired = authenticator("k", &clock).restored(&pass);
        assert_eq!(expired, Err(Refusal::BadCredential(TokenError::Expired)));
    }
}
