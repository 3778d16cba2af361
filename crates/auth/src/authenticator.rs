//! What services hold: it says who somebody is.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use foghorn_core::channel::Channel;
use foghorn_core::pattern::Pattern;
use foghorn_core::policy::Policies;
use foghorn_core::time::Timestamp;
use http::HeaderMap;
use parking_lot::Mutex;

use crate::access::{self, Caller};
use crate::cache::Cache;
use crate::config::Config;
use crate::credential::{authorization, bearer, find, is_from_a_page};
use crate::keys::Keys;
use crate::refusal::Refusal;
use crate::token::{Identity, Rules, verify};

/// Knows callers by their tokens. Shared by all of a service's doors.
pub struct Authenticator {
    keys: Keys,
    rules: Rules,
    cookie: String,
    query_token: bool,
    expiring_notice: Duration,
    /// Whether those without a credential may do everything.
    open: bool,
    cache: Mutex<Cache>,
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
        Authenticator {
            keys,
            rules: Rules::new(config),
            cookie: config.cookie.clone(),
            query_token: config.query_token,
            expiring_notice: config.expiring_notice,
            open,
            cache: Mutex::new(Cache::new(config.cache_entries)),
            now: Box::new(now),
        }
    }

    /// One that lets everybody do everything, and looks at nothing.
    pub fn open() -> Self {
        Authenticator::new(&Config::default(), Keys::default(), true, Timestamp::default)
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

    /// Whether a token may stand in the URL.
    pub fn takes_query_token(&self) -> bool {
        self.query_token
    }

    /// How long before its token's end a stream is to be told.
    pub fn expiring_notice(&self) -> Duration {
        self.expiring_notice
    }

    /// Whether `caller` may listen to what `asked` matches.
    pub fn check_listen(&self, caller: &Caller, asked: &Pattern, policies: &Policies) -> Result<(), Refusal> {
        self.check_time(caller)?;
        access::may_listen(caller, asked, policies)
    }

    /// Whether `caller` may publish on a channel. A caller's time may have run out since it was known.
    pub fn check_publish(&self, caller: &Caller, channel: &Channel) -> Result<(), Refusal> {
        self.check_time(caller)?;
        access::may_publish(caller, channel)
    }

    /// Whether `caller` may publish anything: before its request is read.
    pub fn check_publisher(&self, caller: &Caller) -> Result<(), Refusal> {
        self.check_time(caller)?;
        access::may_publish_something(caller)
    }

    fn check_time(&self, caller: &Caller) -> Result<(), Refusal> {
        match caller {
            Caller::Known(identity) => Ok(identity.check_time((self.now)())?),
            Caller::Unchecked | Caller::Anonymous => Ok(()),
        }
    }

    /// Without keys nobody can be known; where that is meant, whatever proxies send along is not ours.
    fn asks_nobody(&self) -> bool {
        self.open && self.keys.is_empty()
    }

    fn known(&self, token: Option<&str>) -> Result<Caller, Refusal> {
        let Some(token) = token else {
            return Ok(if self.open { Caller::Unchecked } else { Caller::Anonymous });
        };
        let identity = self.verified(token)?;
        identity.check_time((self.now)())?;
        Ok(Caller::Known(identity))
    }

    /// Verified now or before. Only what is good is remembered: nobody fills the cache with guesses.
    fn verified(&self, token: &str) -> Result<Arc<Identity>, Refusal> {
        self.rules.check_length(token)?;
        let key = Cache::key(token);
        if let Some(known) = self.cache.lock().get(&key) {
            return Ok(known);
        }
        let identity = Arc::new(verify(token, &self.keys, &self.rules)?);
        self.cache.lock().put(key, identity.clone());
        Ok(identity)
    }
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authenticator").field("open", &self.open).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering};

    use serde_json::json;

    use super::*;
    use crate::testing::{NOW, at, config, secret_key, token};
    use crate::token::TokenError;

    fn authenticator(open: bool, clock: &Arc<AtomicI64>) -> Authenticator {
        let config = config(vec![secret_key("k")]);
        let keys = Keys::load(&config).unwrap();
        let clock = clock.clone();
        Authenticator::new(&config, keys, open, move || at(clock.load(Ordering::SeqCst)))
    }

    #[test]
    fn time_is_looked_at_each_time_and_a_cached_token_expires_too() {
        let clock = Arc::new(AtomicI64::new(NOW));
        let auth = authenticator(false, &clock);
        let header = format!("Bearer {}", token("k", &json!({ "foghorn": { "publish": ["a"] } })));
        let caller = auth.caller_by(Some(&header)).unwrap();
        let channel = Channel::parse("a").unwrap();
        assert_eq!(auth.check_publish(&caller, &channel), Ok(()));
        assert_eq!(auth.cache.lock().len(), 1);
        assert!(auth.caller_by(Some(&header)).is_ok());
        clock.store(NOW + 90, Ordering::SeqCst);
        let expired = Refusal::BadCredential(TokenError::Expired);
        assert_eq!(auth.caller_by(Some(&header)), Err(expired.clone()));
        // One that is known for as long as a stream is open.
        assert_eq!(auth.check_publish(&caller, &channel), Err(expired.clone()));
        assert_eq!(auth.check_listen(&caller, &Pattern::everything(), &Policies::default()), Err(expired));
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
