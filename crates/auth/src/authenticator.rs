//! What services hold: it says who somebody is.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use foghorn_core::channel::Channel;
use foghorn_core::pattern::Pattern;
use foghorn_core::policy::Policies;
use foghorn_core::secret::Secret;
use foghorn_core::time::Timestamp;
use http::HeaderMap;
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

use crate::access::{self, Caller, Granted, LISTENING, PUBLISHING};
use crate::audit::Audit;
use crate::cache::{self, Cache};
use crate::config::Config;
use crate::credential::{authorization, bearer, find, is_from_a_page};
use crate::jwks::{Jwks, Missing};
use crate::keys::{Keys, Standing, Verifier};
use crate::refusal::Refusal;
use crate::requester::Requester;
use crate::revocation::Revocations;
use crate::ticket::Pass;
use crate::token::{Identity, Rules, TokenError, named, verify};
use crate::webhook::{Context, Grant, Refused, Webhook};

/// How often at least the time of day is looked at for a token in use: it can be set.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A timer may be early by less than this.
const CLOCK_TICK: Duration = Duration::from_millis(1);
/// The longest that anybody is told to wait for a key, in seconds.
const WAIT_SECONDS_MAX: u64 = 60;

/// Knows callers by their tokens. Shared by all of a service's doors.
pub struct Authenticator {
    keys: Arc<Keys>,
    rules: Rules,
    cookie: String,
    query_token: bool,
    expiring_notice: Duration,
    leeway: Duration,
    token_life: Duration,
    ticket_life: Duration,
    revocations: Arc<Revocations>,
    /// Who did what, for those who have to know afterwards.
    pub audit: Audit,
    /// Whether those without a credential may do everything.
    open: bool,
    cache: Mutex<Cache<Arc<Identity>>>,
    /// What the cache gives up.
    forgotten: Counter,
    webhook: Option<Webhook>,
    now: Box<dyn Fn() -> Timestamp + Send + Sync>,
}

impl Authenticator {
    /// One that verifies with `keys`. With `open`, whoever has no credential may do everything; else
    /// nothing but listen to what is public.
    pub fn new(
        config: &Config,
        keys: Keys,
        open: bool,
        now: impl Fn() -> Timestamp + Send + Sync + 'static,
    ) -> Self {
        let forgotten = Counter::default();
        Authenticator {
            keys: Arc::new(keys),
            rules: Rules::new(config),
            cookie: config.cookie.clone(),
            query_token: config.query_token,
            expiring_notice: config.expiring_notice,
            leeway: config.leeway,
            token_life: config.token_life,
            ticket_life: config.ticket_life,
            revocations: Arc::default(),
            audit: Audit::new(config.audit_per_second),
            open,
            cache: Mutex::new(Cache::new(config.cache_entries, forgotten.clone())),
            forgotten,
            webhook: None,
            now: Box::new(now),
        }
    }

    /// The same, that asks this webhook where a policy leaves it to it.
    pub fn with_webhook(self, webhook: Option<Webhook>) -> Self {
        Authenticator { webhook, ..self }
    }

    /// One that lets everybody do everything, and looks at nothing.
    pub fn open() -> Self {
        Authenticator::new(&Config::default(), Keys::default(), true, Timestamp::default)
    }

    /// Registers what it counts, under `foghorn_auth_…`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("foghorn_auth");
        registry.register(
            "tokens_forgotten",
            "Verified tokens that were forgotten for want of room though they were still good",
            self.forgotten.clone(),
        );
        self.audit.register(registry);
        if let Some(webhook) = &self.webhook {
            webhook.register(registry);
        }
    }

    /// Who made a request, by its headers or the query's `token`. Its `Origin`, if it has one, has been
    /// checked.
    pub fn caller(&self, headers: &HeaderMap, query: Option<&str>) -> Result<Caller, Refusal> {
        if self.asks_nobody() {
            return Ok(Caller::Unchecked);
        }
        match find(headers, &self.cookie, query)? {
            Some(credential) if credential.by_cookie && !is_from_a_page(headers) => Err(Refusal::Forged),
            credential => self.known(credential.map(|credential| credential.token)),
        }
    }

    /// The token that [`caller`](Self::caller) knows somebody by, if it has one that can be read. For another gateway,
    /// which verifies it itself.
    pub fn token(&self, headers: &HeaderMap) -> Option<Secret> {
        let credential = find(headers, &self.cookie, None).ok().flatten();
        credential.filter(|_| !self.asks_nobody()).map(|credential| Secret::from(credential.token))
    }

    /// Who made a request that no browser makes, by its headers: cookies don't count.
    pub fn caller_of_service(&self, headers: &HeaderMap) -> Result<Caller, Refusal> {
        if self.asks_nobody() {
            return Ok(Caller::Unchecked);
        }
        self.known(authorization(headers)?)
    }

    /// Who made a request of another kind, by its `authorization`.
    pub fn caller_by(&self, value: Option<&str>) -> Result<Caller, Refusal> {
        if self.asks_nobody() {
            return Ok(Caller::Unchecked);
        }
        self.known(value.map(bearer).transpose()?.flatten())
    }

    /// Whether nothing in a request's URL counts: its headers say who made it, or nobody is asked.
    pub fn looks_past_query(&self, headers: &HeaderMap) -> bool {
        self.asks_nobody() || !matches!(find(headers, &self.cookie, None), Ok(None))
    }

    /// Who a pass is for: as with the token itself, its key is still there, its time is not over, and nobody has
    /// revoked it.
    pub fn restored(&self, pass: &Pass) -> Result<Caller, Refusal> {
        let identity = pass.identity(self.key_of(pass)?).ok_or(Refusal::BadTicket)?;
        self.check_token(&identity)?;
        Ok(Caller::Known(Arc::new(identity)))
    }

    /// Asks one of the above, and again when a key has come that the token may be verified with, if that is on its
    /// way; two seconds at most.
    pub async fn patiently(&self, ask: impl Fn() -> Result<Caller, Refusal>) -> Result<Caller, Refusal> {
        let awaits = |answer: &Result<Caller, Refusal>| {
            matches!(answer, Err(Refusal::KeysUnavailable { soon: true, .. }))
        };
        self.keys.jwks().patiently(ask, awaits).await
    }

    /// The keys that it verifies with.
    pub fn keys(&self) -> &Arc<Keys> {
        &self.keys
    }

    /// The keys that have to be fetched.
    pub fn jwks(&self) -> &Arc<Jwks> {
        self.keys.jwks()
    }

    /// Whether a token may stand in the URL.
    pub fn takes_query_token(&self) -> bool {
        self.query_token
    }

    /// How long before its token's end a stream is to be told.
    pub fn expiring_notice(&self) -> Duration {
        self.expiring_notice
    }

    /// By how much clocks may differ.
    pub fn leeway(&self) -> Duration {
        self.leeway
    }

    /// For how long a token that is good now can be taken at most.
    pub fn longest_life(&self) -> Duration {
        self.token_life.saturating_add(self.leeway * 2)
    }

    /// For how long a one-time ticket can be redeemed.
    pub fn ticket_life(&self) -> Duration {
        self.ticket_life
    }

    /// What it refuses because it was revoked.
    pub fn revocations(&self) -> &Arc<Revocations> {
        &self.revocations
    }

    /// What the webhook is told of a request with these headers, from this address, should it be asked.
    pub fn context(&self, headers: &HeaderMap, address: Option<IpAddr>) -> Context {
        let webhook = self.webhook.as_ref();
        webhook.map_or_else(Context::default, |webhook| webhook.forward().of(headers, address))
    }

    /// Whose stream it is that was opened by this identity, or without one.
    pub fn caller_of(&self, identity: Option<&Arc<Identity>>) -> Caller {
        match identity {
            Some(identity) => Caller::Known(identity.clone()),
            None if self.open => Caller::Unchecked,
            None => Caller::Anonymous,
        }
    }

    /// What claims and policies say to `caller`, who wants to listen to what `asked` matches.
    pub fn check_claims(
        &self,
        caller: &Caller,
        asked: &Pattern,
        policies: &Policies,
    ) -> Result<Granted, Refusal> {
        self.check_caller(caller)?;
        self.check_policies(caller, asked, policies)
    }

    /// The same, whether or not the caller's token is still good.
    pub fn check_policies(
        &self,
        caller: &Caller,
        asked: &Pattern,
        policies: &Policies,
    ) -> Result<Granted, Refusal> {
        let granted = access::may_listen(caller, asked, policies)?;
        // A policy may speak of one that this process hasn't got.
        if granted == Granted::IfTheWebhookAllows && self.webhook.is_none() {
            return Err(access::not_listening(caller, asked));
        }
        Ok(granted)
    }

    /// Whether `by` may listen to what `asked` matches, and by which word of the webhook's if it needs one.
    pub async fn check_listen(
        &self,
        by: &Requester,
        asked: &Pattern,
        policies: &Policies,
    ) -> Result<Option<Grant>, Refusal> {
        let granted = self.check_claims(&by.caller, asked, policies)?;
        let Some(webhook) = self.webhook.as_ref().filter(|_| granted == Granted::IfTheWebhookAllows) else {
            return Ok(None);
        };
        let answer = webhook.may_listen(by, asked).await;
        answer.map(Some).map_err(|why| by_webhook(why, LISTENING, asked.to_string()))
    }

    /// Asks the webhook again for what it has granted.
    pub async fn renew(&self, grant: &Grant) -> Result<Grant, Refusal> {
        let answer = match &self.webhook {
            Some(webhook) => webhook.renew(grant).await,
            None => Err(Refused::Unavailable),
        };
        answer.map_err(|why| by_webhook(why, LISTENING, grant.topic.to_string()))
    }

    /// Whether `by` may publish on a channel. Since they were known their time may have run out, or they were
    /// revoked.
    pub async fn check_publish(
        &self,
        by: &Requester,
        channel: &Channel,
        policies: &Policies,
    ) -> Result<(), Refusal> {
        self.check_caller(&by.caller)?;
        if access::may_publish(&by.caller, channel, policies)? == Granted::Yes {
            return Ok(());
        }
        let webhook = self.webhook.as_ref();
        let webhook = webhook.ok_or_else(|| access::not_publishing(&by.caller, channel))?;
        let answer = webhook.may_publish(by, channel).await;
        answer.map_err(|why| by_webhook(why, PUBLISHING, channel.to_string()))
    }

    /// Whether `caller` may publish anything: before its request is read.
    pub fn check_publisher(&self, caller: &Caller, policies: &Policies) -> Result<(), Refusal> {
        self.check_caller(caller)?;
        access::may_publish_something(caller, self.webhook.is_some() && policies.ask_webhook())
    }

    /// Returns once a caller's token is no longer good, with why; never for whoever has none.
    pub async fn lapsed(&self, caller: &Caller) -> Refusal {
        let Some(identity) = caller.identity() else { return std::future::pending().await };
        let mut changes = self.revocations.changes();
        loop {
            changes.mark_unchanged();
            if let Err(refusal) = self.check_token(identity) {
                return refusal;
            }
            let left = identity.expires.since((self.now)());
            tokio::select! {
                Ok(()) = changes.changed() => {}
                () = tokio::time::sleep(left.clamp(CLOCK_TICK, LOOK_EVERY)) => {}
            }
        }
    }

    fn check_caller(&self, caller: &Caller) -> Result<(), Refusal> {
        caller.identity().map_or(Ok(()), |identity| self.check_token(identity))
    }

    /// Whether a verified token is good now.
    fn check_token(&self, identity: &Identity) -> Result<(), Refusal> {
        let now = (self.now)();
        identity.check_time(now)?;
        // One that says when it was issued was looked at when it was verified.
        if identity.issued.is_none() && identity.expires > now.plus(self.longest_life()) {
            return Err(TokenError::LongLived.into());
        }
        if self.revocations.refuses(identity) {
            return Err(TokenError::Revoked.into());
        }
        match identity.verifier.standing() {
            Standing::Good => Ok(()),
            Standing::Removed => Err(TokenError::UnknownKey.into()),
            Standing::Old => Err(unavailable(false, Duration::ZERO)),
        }
    }

    /// Without keys nobody can be known; where that is meant, whatever proxies send along is not ours.
    pub fn asks_nobody(&self) -> bool {
        self.open && self.keys.is_empty()
    }

    fn known(&self, token: Option<&str>) -> Result<Caller, Refusal> {
        let Some(token) = token else {
            return Ok(if self.open { Caller::Unchecked } else { Caller::Anonymous });
        };
        let identity = self.verified(token)?;
        self.check_token(&identity)?;
        Ok(Caller::Known(identity))
    }

    /// Verified now or before. Only what is good is remembered: nobody fills the cache with guesses.
    fn verified(&self, token: &str) -> Result<Arc<Identity>, Refusal> {
        self.rules.check_length(token)?;
        let (key, now) = (cache::key(token.as_bytes()), (self.now)());
        let is_good = |identity: &Arc<Identity>| identity.expires > now;
        if let Some(known) = self.cache.lock().get(&key, is_good)
            && known.verifier.standing() == Standing::Good
        {
            return Ok(known);
        }
        let verified = verify(token, &self.keys, &self.rules);
        let identity = Arc::new(verified.map_err(|error| self.why(token, error))?);
        self.cache.lock().put(key, identity.clone(), is_good);
        Ok(identity)
    }
}

impl Authenticator {
    /// An id that no key has may be that of a key which is not here yet.
    fn why(&self, token: &str, error: TokenError) -> Refusal {
        if error == TokenError::UnknownKey
            && let Some((kid, algorithm)) = named(token)
            && let Missing::Awaited { soon, wait } = self.keys.missing(kid.as_deref(), algorithm)
        {
            return unavailable(soon, wait);
        }
        error.into()
    }

    /// The key that has verified a pass's token.
    fn key_of(&self, pass: &Pass) -> Result<Verifier, Refusal> {
        let kid = Some(pass.key_id()).filter(|id| !id.is_empty());
        let key = self.keys.of(kid).into_iter().find(|key| pass.was_verified_by(key));
        key.map(Verifier::new).ok_or_else(|| match self.keys.missing(kid, pass.algorithm()) {
            Missing::Awaited { soon, wait } => unavailable(soon, wait),
            Missing::Unknown => TokenError::UnknownKey.into(),
        })
    }
}

/// Jittered, so that those whom an authoriser keeps waiting don't come back together.
fn by_webhook(why: Refused, what: &'static str, to: String) -> Refusal {
    match why {
        Refused::Denied => Refusal::DeniedByWebhook { what, to },
        Refused::Unavailable | Refused::Unanswered => {
            Refusal::AuthoriserUnavailable { what, to, seconds: rand::random_range(1..=5) }
        }
    }
}

/// Jittered, so that those who wait for one key don't come back together.
fn unavailable(soon: bool, wait: Duration) -> Refusal {
    let seconds = u32::try_from(wait.as_secs().min(WAIT_SECONDS_MAX)).unwrap_or_default();
    Refusal::KeysUnavailable { seconds: seconds + rand::random_range(1..=3), soon }
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authenticator").field("open", &self.open).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering};

    use futures::FutureExt as _;
    use serde_json::json;

    use super::*;
    use crate::config::{Algorithm, Jwks};
    use crate::revocation::{Key, Revocation};
    use crate::testing::{KeyPair, NOW, at, claims, config, secret_key, token};

    fn authenticator(open: bool, clock: &Arc<AtomicI64>) -> Authenticator {
        let config = config(vec![secret_key("k")]);
        let keys = Keys::load(&config).unwrap();
        let clock = clock.clone();
        Authenticator::new(&config, keys, open, move || at(clock.load(Ordering::SeqCst)))
    }

    /// Where nobody else is asked.
    fn may_publish(auth: &Authenticator, caller: &Caller, channel: &Channel) -> Result<(), Refusal> {
        let (by, policies) = (Requester::from(caller.clone()), Policies::default());
        auth.check_publish(&by, channel, &policies).now_or_never().unwrap()
    }

    #[test]
    fn time_is_looked_at_each_time_and_a_cached_token_expires_too() {
        let clock = Arc::new(AtomicI64::new(NOW));
        let auth = authenticator(false, &clock);
        let header = format!("Bearer {}", token("k", &json!({ "foghorn": { "publish": ["a"] } })));
        let caller = auth.caller_by(Some(&header)).unwrap();
        let channel = Channel::parse("a").unwrap();
        assert_eq!(may_publish(&auth, &caller, &channel), Ok(()));
        assert_eq!(auth.cache.lock().len(), 1);
        assert!(auth.caller_by(Some(&header)).is_ok());
        clock.store(NOW + 90, Ordering::SeqCst);
        let expired = Refusal::BadCredential(TokenError::Expired);
        assert_eq!(auth.caller_by(Some(&header)), Err(expired.clone()));
        // One that is known for as long as a stream is open.
        assert_eq!(may_publish(&auth, &caller, &channel), Err(expired.clone()));
        let listens = auth.check_claims(&caller, &Pattern::everything(), &Policies::default());
        assert_eq!(listens, Err(expired));
    }

    #[test]
    fn what_is_revoked_is_refused_also_where_it_is_known_already() {
        let auth = authenticator(true, &Arc::new(AtomicI64::new(NOW)));
        let header = |claims| format!("Bearer {}", token("k", &claims));
        let grants = json!({ "publish": ["a"] });
        let one = header(json!({ "jti": "1", "foghorn": grants }));
        let other = header(json!({ "jti": "2", "iat": NOW + 31, "foghorn": grants }));
        let channel = Channel::parse("a").unwrap();
        let caller = auth.caller_by(Some(&one)).unwrap();
        let revoke = |key| {
            auth.revocations().apply([Revocation { key, said: at(NOW), until: at(NOW + 60) }]);
        };
        revoke(Key::token_id("1"));
        let revoked = Err(Refusal::BadCredential(TokenError::Revoked));
        assert_eq!(may_publish(&auth, &caller, &channel), revoked);
        assert_eq!(auth.check_publisher(&caller, &Policies::default()), revoked);
        assert_eq!(auth.caller_by(Some(&one)).map(|_| ()), revoked);
        assert!(auth.caller_by(Some(&other)).is_ok());
        // Issued 31 s later by a clock that may be 30 s ahead: after it.
        revoke(Key::subject("ann"));
        assert!(auth.caller_by(Some(&other)).is_ok());
        let before = header(json!({ "jti": "3", "iat": NOW + 30 }));
        assert_eq!(auth.caller_by(Some(&before)).map(|_| ()), revoked);
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_is_waited_for_until_its_token_ends_or_is_revoked() {
        let clock = Arc::new(AtomicI64::new(NOW));
        let auth = authenticator(true, &clock);
        let by = |claims| auth.caller_by(Some(&format!("Bearer {}", token("k", &claims)))).unwrap();
        let (one, other) = (by(json!({ "jti": "1" })), by(json!({ "jti": "2" })));
        let early = Duration::from_secs(3600);
        for caller in [&Caller::Unchecked, &Caller::Anonymous, &one] {
            assert!(tokio::time::timeout(early, auth.lapsed(caller)).await.is_err(), "{caller:?}");
        }
        let revoke = async {
            tokio::time::sleep(early).await;
            auth.revocations().apply([Revocation {
                key: Key::token_id("1"),
                said: at(NOW),
                until: at(NOW + 60),
            }]);
            tokio::time::Instant::now()
        };
        let (refusal, revoked) = tokio::join!(auth.lapsed(&one), revoke);
        assert_eq!(refusal, Refusal::BadCredential(TokenError::Revoked));
        assert_eq!(revoked.elapsed(), Duration::ZERO);
        clock.store(NOW + 90, Ordering::SeqCst);
        assert_eq!(auth.lapsed(&other).await, Refusal::BadCredential(TokenError::Expired));
    }

    #[test]
    fn no_token_lives_for_longer_than_a_revocation_of_its_subject_lasts() {
        let auth = authenticator(true, &Arc::new(AtomicI64::new(NOW)));
        let days = |days: i64| NOW + days * 24 * 3600;
        let by = |claims| auth.caller_by(Some(&format!("Bearer {}", token("k", &claims)))).map(|_| ());
        let long = Err(Refusal::BadCredential(TokenError::LongLived));
        assert_eq!(by(json!({ "iat": NOW, "exp": days(30) })), Ok(()));
        assert_eq!(by(json!({ "iat": NOW, "exp": days(30) + 1 })), long);
        assert_eq!(by(json!({ "exp": days(30) })), Ok(()));
        assert_eq!(by(json!({ "exp": days(31) })), long);
        assert_eq!(by(json!({ "iat": days(-40), "exp": days(1) })), long, "however little of it is left");
    }

    #[test]
    fn a_removed_key_takes_its_tokens_along_and_issuers_with_one_id_are_told_apart() {
        let pairs = [KeyPair::make(Algorithm::ES256), KeyPair::make(Algorithm::ES256)];
        let set = |issuer: &str| Jwks {
            url: format!("https://{issuer}.example/"),
            algorithms: vec![Algorithm::ES256],
            issuer: issuer.to_owned(),
            ..Jwks::default()
        };
        let config = Config { jwks: vec![set("a"), set("b")], ..config(vec![secret_key("own")]) };
        let keys = Keys::load(&config).unwrap();
        let auth = Authenticator::new(&config, keys, false, || at(NOW));
        let by = |pair: &KeyPair, kid: &str, issuer: &str| {
            let token = pair.signing().mint(kid, &claims(&json!({ "iss": issuer }))).unwrap();
            auth.caller_by(Some(&format!("Bearer {token}")))
        };
        let answer = |pair: &KeyPair, kid: &str| {
            json!({ "keys": [pair.jwk(kid), pair.jwk("own")] }).to_string().into_bytes()
        };
        assert!(matches!(by(&pairs[0], "k", "a"), Err(Refusal::KeysUnavailable { .. })));
        let sets = auth.jwks().sets();
        for (set, pair) in sets.iter().zip(&pairs) {
            set.took(&answer(pair, "k"), None).unwrap();
        }
        let known = by(&pairs[0], "k", "a").unwrap();
        assert!(by(&pairs[1], "k", "b").is_ok());
        // Each key is for its own issuer's tokens, whatever they say.
        for (pair, issuer) in [(0, "b"), (1, "a"), (0, "tests")] {
            assert!(
                matches!(by(&pairs[pair], "k", issuer), Err(Refusal::BadCredential(_))),
                "{pair} {issuer}"
            );
        }
        // What is configured goes before what is fetched.
        let own = Err(Refusal::BadCredential(TokenError::Algorithm));
        assert_eq!(by(&pairs[0], "own", "a"), own);
        assert!(auth.caller_by(Some(&format!("Bearer {}", token("own", &json!({}))))).is_ok());
        let channel = Channel::parse("a").unwrap();
        let denied = may_publish(&auth, &known, &channel);
        assert!(matches!(denied, Err(Refusal::Denied { .. })), "{denied:?}");
        sets[0].took(&answer(&pairs[0], "next"), None).unwrap();
        let removed = Err(Refusal::BadCredential(TokenError::UnknownKey));
        assert_eq!(may_publish(&auth, &known, &channel), removed, "also where it is known already");
        assert!(by(&pairs[0], "k", "a").is_err() && by(&pairs[0], "next", "a").is_ok());
        assert!(by(&pairs[1], "k", "b").is_ok());
    }

    #[test]
    fn who_has_no_credential_is_anonymous_and_a_bad_one_is_never_taken_for_none() {
        let clock = Arc::new(AtomicI64::new(NOW));
        for open in [false, true] {
            let auth = authenticator(open, &clock);
            let nobody = if open { Caller::Unchecked } else { Caller::Anonymous };
            assert_eq!(auth.caller_by(None), Ok(nobody.clone()));
            assert_eq!(auth.caller_by(Some("Basic YTpi")), Ok(nobody));
            let bad = auth.caller_by(Some("Bearer x.y.z")).unwrap_err();
            assert_eq!(bad, Refusal::BadCredential(TokenError::Malformed));
            assert_eq!(auth.cache.lock().len(), 0);
        }
        let closed = Authenticator::new(&Config::default(), Keys::default(), false, Timestamp::default);
        assert_eq!(closed.caller_by(None), Ok(Caller::Anonymous));
        assert!(closed.caller_by(Some(&format!("Bearer {}", token("k", &json!({}))))).is_err());
        assert_eq!(Authenticator::open().caller_by(Some("Bearer x")), Ok(Caller::Unchecked));
    }

    #[test]
    fn a_cookie_is_believed_only_when_a_page_is_said_to_have_asked() {
        let auth = authenticator(false, &Arc::new(AtomicI64::new(NOW)));
        let mut headers = HeaderMap::new();
        headers.insert("cookie", format!("foghorn_token={}", token("k", &json!({}))).parse().unwrap());
        assert_eq!(auth.caller(&headers, None), Err(Refusal::Forged));
        headers.insert("sec-fetch-site", "cross-site".parse().unwrap());
        assert_eq!(auth.caller(&headers, None), Err(Refusal::Forged));
        headers.insert("sec-fetch-site", "same-origin".parse().unwrap());
        assert!(matches!(auth.caller(&headers, None), Ok(Caller::Known(_))));
        headers.remove("sec-fetch-site");
        headers.insert("origin", "https://app.example.com".parse().unwrap());
        assert!(matches!(auth.caller(&headers, None), Ok(Caller::Known(_))));
    }
}
