//! `[auth]` in the configuration.

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::Duration;

use foghorn_core::secret::Secret;
use http::{HeaderName, Uri};
use serde::{Deserialize, Serialize};

use crate::jwks;
use crate::webhook::SigningSecret;

/// Bytes of the shortest secret that HS256 may have: those of its output (RFC 7518, 3.2).
pub const SECRET_BYTES_MIN: usize = 32;
/// Most bytes of a key's name: it is looked up for whatever a token says.
pub(crate) const ID_BYTES_MAX: usize = 128;
/// Most sets of keys by URL.
pub(crate) const JWKS_MAX: usize = 4;

/// Most headers that the webhook is told of.
const FORWARD_MAX: usize = 16;

/// How callers are known.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// What a token's `iss` has to be; empty for whatever it is.
    pub issuer: String,
    /// What a token's `aud` has to be or to list. Empty: tokens that are for somebody are refused, as they
    /// are for somebody else.
    pub audience: String,
    /// By how much clocks may differ: a token is taken so much before its `nbf` and after its `exp`.
    #[serde(with = "humantime_serde")]
    pub leeway: Duration,
    /// How long before its token's end a stream is told `stream-expiring`.
    #[serde(with = "humantime_serde")]
    pub expiring_notice: Duration,
    /// How long a token may live at most, and how long a revocation of a subject is known.
    #[serde(with = "humantime_serde")]
    pub token_life: Duration,
    /// The cookie that may hold a token; empty for none.
    pub cookie: String,
    /// Whether a token may stand in the URL (`?token=`), where every proxy on the way may log it.
    pub query_token: bool,
    /// For how long a one-time ticket can be redeemed.
    #[serde(with = "humantime_serde")]
    pub ticket_life: Duration,
    /// Most bytes of a token.
    pub token_bytes: usize,
    /// Most tokens that are remembered as verified.
    pub cache_entries: usize,
    /// The keys that tokens are verified with.
    pub keys: Vec<Key>,
    /// Sets of keys by URL, at most 4. A key of `keys` goes before one of theirs with the same id.
    pub jwks: Vec<Jwks>,
    /// For how long the keys of a set go on serving while it can't be fetched.
    #[serde(with = "humantime_serde")]
    pub jwks_keep: Duration,
    /// The application that is asked where a policy leaves it to it.
    pub webhook: Webhook,
    /// Most lines a second that the audit log has of each kind, in each process; 0 for no audit log.
    pub audit_per_second: u32,
}

/// A set of keys that an issuer publishes (JWKS, RFC 7517).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Jwks {
    /// Where: `https://`, or `http://` to an address of loopback.
    pub url: String,
    /// What its keys are for, HS256 excepted. Those for anything else are passed over.
    pub algorithms: Vec<Algorithm>,
    /// What the `iss` of its tokens has to be, instead of the `issuer` of `[auth]`. Needed when there are several
    /// sets.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub issuer: String,
    /// A PEM file of the authorities that are trusted for `url`, instead of the system's.
    #[serde(default, skip_serializing_if = "no_path")]
    pub ca: PathBuf,
}

/// The webhook authoriser. Without a URL there is none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Webhook {
    /// Where it is asked: `https://`, or `http://` to an address of loopback.
    pub url: String,
    /// What questions are signed with: `whsec_` and 24 to 64 bytes in base64. Without one they aren't.
    pub secret: Secret,
    /// A file with that.
    pub secret_file: PathBuf,
    /// A PEM file of the authorities that are trusted for `url`, instead of the system's.
    pub ca: PathBuf,
    /// Names of the headers of a request that are part of the question.
    pub forward: Vec<String>,
    /// Whether the client's address is.
    pub address: bool,
    /// How long an answer may take, waiting for a turn included.
    #[serde(with = "humantime_serde")]
    pub deadline: Duration,
    /// For how long an answer holds that doesn't say.
    #[serde(with = "humantime_serde")]
    pub ttl: Duration,
    /// For how long one may hold at most.
    #[serde(with = "humantime_serde")]
    pub ttl_max: Duration,
    /// Most answers that are remembered.
    pub cache_entries: usize,
    /// Most questions at a time.
    pub questions: usize,
}

/// A key, of the one algorithm that it is for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Key {
    /// The `kid` of its tokens. Empty for the tokens that have none.
    #[serde(default)]
    pub id: String,
    /// How its tokens are signed.
    pub algorithm: Algorithm,
    /// HS256: the secret itself, at least 32 bytes.
    #[serde(default, skip_serializing_if = "Secret::is_empty")]
    pub secret: Secret,
    /// A file with the secret (HS256), or with the public key in PEM.
    #[serde(default, skip_serializing_if = "no_path")]
    pub file: PathBuf,
}

/// What tokens can be signed with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Algorithm {
    /// HMAC with SHA-256: the secret both signs and verifies.
    #[default]
    HS256,
    /// RSA (2048 bits or more) with PKCS #1 1.5 and SHA-256.
    RS256,
    /// ECDSA on P-256 with SHA-256.
    ES256,
    /// Ed25519.
    EdDSA,
}

fn no_path(path: &std::path::Path) -> bool {
    path.as_os_str().is_empty()
}

impl Default for Config {
    fn default() -> Self {
        Config {
            issuer: String::new(),
            audience: String::new(),
            leeway: Duration::from_secs(30),
            expiring_notice: Duration::from_secs(30),
            token_life: Duration::from_secs(30 * 24 * 3600),
            cookie: "foghorn_token".to_owned(),
            query_token: false,
            ticket_life: Duration::from_secs(30),
            token_bytes: 8192,
            cache_entries: 10_000,
            keys: Vec::new(),
            jwks: Vec::new(),
            webhook: Webhook::default(),
            audit_per_second: 10,
            jwks_keep: Duration::from_secs(24 * 3600),
        }
    }
}

impl Default for Webhook {
    fn default() -> Self {
        Webhook {
            url: String::new(),
            secret: Secret::default(),
            secret_file: PathBuf::new(),
            ca: PathBuf::new(),
            forward: Vec::new(),
            address: false,
            deadline: Duration::from_secs(2),
            ttl: Duration::from_secs(10),
            ttl_max: Duration::from_secs(300),
            cache_entries: 10_000,
            questions: 64,
        }
    }
}

impl Config {
    /// Whether callers can be known, or are asked about, at all.
    pub fn is_configured(&self) -> bool {
        self.knows_tokens() || self.webhook.is_configured()
    }

    /// Whether any token can be verified.
    pub fn knows_tokens(&self) -> bool {
        !self.keys.is_empty() || !self.jwks.is_empty()
    }

    /// What is wrong with it, naming the key. Files are looked at by [`Keys::load`](crate::keys::Keys::load).
    pub fn check(&self) -> Result<(), String> {
        let cookie = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        let rules = [
            (self.leeway <= Duration::from_secs(300), "leeway can be at most 5m"),
            (self.expiring_notice <= Duration::from_secs(3600), "expiring_notice can be at most 1h"),
            (self.audit_per_second <= 100_000, "audit_per_second can be at most 100000"),
            (
                (Duration::from_secs(60)..=Duration::from_secs(3650 * 24 * 3600)).contains(&self.token_life),
                "token_life must be between 1m and 3650days",
            ),
            (
                (Duration::from_secs(1)..=Duration::from_secs(300)).contains(&self.ticket_life),
                "ticket_life must be between 1s and 5m",
            ),
            (self.cookie.bytes().all(cookie), "cookie is not the name of a cookie, such as foghorn_token"),
            ((512..=16_384).contains(&self.token_bytes), "token_bytes must be between 512 and 16384"),
            ((1..=1_000_000).contains(&self.cache_entries), "cache_entries must be between 1 and 1000000"),
        ];
        if let Some((_, what)) = rules.iter().find(|(holds, _)| !holds) {
            return Err(format!("auth.{what}"));
        }
        jwks::check(&self.jwks, self.jwks_keep)?;
        self.webhook.check().map_err(|what| format!("auth.webhook.{what}"))?;
        let mut seen = HashSet::new();
        for key in &self.keys {
            key.check().map_err(|what| format!("auth.keys: {} {what}", key.name()))?;
            if !seen.insert(key.id.as_str()) {
                return Err(format!("auth.keys: {} is there twice; ids tell keys apart", key.name()));
            }
        }
        Ok(())
    }
}

impl Algorithm {
    /// As tokens call it.
    pub(crate) fn jwa(self) -> jsonwebtoken::Algorithm {
        match self {
            Algorithm::HS256 => jsonwebtoken::Algorithm::HS256,
            Algorithm::RS256 => jsonwebtoken::Algorithm::RS256,
            Algorithm::ES256 => jsonwebtoken::Algorithm::ES256,
            Algorithm::EdDSA => jsonwebtoken::Algorithm::EdDSA,
        }
    }
}

impl Jwks {
    pub(crate) fn check(&self) -> Result<(), String> {
        check_url(&self.url, "login.example.com/jwks.json", "whoever is on the way would choose the keys")?;
        if self.algorithms.is_empty() {
            return Err("needs algorithms, such as [\"RS256\"]: what its keys are for".to_owned());
        }
        if self.algorithms.contains(&Algorithm::HS256) {
            return Err("can't have HS256 in its algorithms: a secret isn't published".to_owned());
        }
        Ok(())
    }
}

impl Webhook {
    /// Whether there is one.
    pub fn is_configured(&self) -> bool {
        !self.url.is_empty()
    }

    /// What questions are signed with, if with anything. The error begins with the key.
    pub fn signing_secret(&self) -> Result<Option<SigningSecret>, String> {
        if !no_path(&self.secret_file) {
            let shown = self.secret_file.display();
            let text = std::fs::read_to_string(&self.secret_file)
                .map_err(|error| format!("secret_file: {shown} can't be read: {error}"))?;
            return SigningSecret::parse(&text)
                .map(Some)
                .map_err(|what| format!("secret_file: {shown} {what}"));
        }
        if self.secret.is_empty() {
            return Ok(None);
        }
        SigningSecret::parse(self.secret.reveal()).map(Some).map_err(|what| format!("secret {what}"))
    }

    fn check(&self) -> Result<(), String> {
        if !self.is_configured() {
            return Ok(());
        }
        check_url(&self.url, "app.example.com/authorise", "whoever is on the way could allow anything")
            .map_err(|what| format!("url: {:?} {what}", self.url))?;
        if !self.secret.is_empty() && !no_path(&self.secret_file) {
            return Err("secret and auth.webhook.secret_file are both given: give one of them".to_owned());
        }
        if !self.secret.is_empty() {
            self.signing_secret()?;
        }
        for name in &self.forward {
            let is_name = name.parse::<HeaderName>().is_ok();
            is_name.then_some(()).ok_or_else(|| format!("forward: {name:?} is not the name of a header"))?;
        }
        let milliseconds = |from, to| Duration::from_millis(from)..=Duration::from_millis(to);
        let rules = [
            (self.forward.len() <= FORWARD_MAX, "forward can have at most 16 names"),
            (milliseconds(100, 10_000).contains(&self.deadline), "deadline must be between 100ms and 10s"),
            (milliseconds(0, 86_400_000).contains(&self.ttl_max), "ttl_max can be at most 1day"),
            (self.ttl <= self.ttl_max, "ttl can be at most auth.webhook.ttl_max"),
            ((1..=1_000_000).contains(&self.cache_entries), "cache_entries must be between 1 and 1000000"),
            ((1..=1024).contains(&self.questions), "questions must be between 1 and 1024"),
        ];
        rules.iter().find(|(holds, _)| !holds).map_or(Ok(()), |(_, what)| Err((*what).to_owned()))
    }
}

/// What is wrong with a URL that services ask by themselves.
fn check_url(url: &str, example: &str, why: &str) -> Result<(), String> {
    let uri: Option<Uri> = url.parse().ok().filter(|uri: &Uri| uri.host().is_some());
    let uri = uri.ok_or_else(|| format!("is no URL; write it as https://{example}"))?;
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err("has a user or password, which nobody is sent".to_owned());
    }
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let is_loopback = host.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback());
    match uri.scheme_str() {
        Some("https") => Ok(()),
        Some("http") if is_loopback => Ok(()),
        _ => Err(format!("has to begin with https://: {why}")),
    }
}

impl Key {
    /// How errors call it.
    pub(crate) fn name(&self) -> String {
        if self.id.is_empty() { "the key without an id".to_owned() } else { format!("key {:?}", self.id) }
    }

    fn check(&self) -> Result<(), String> {
        if self.id.len() > ID_BYTES_MAX {
            return Err(format!("has an id of over {ID_BYTES_MAX} bytes"));
        }
        let (secret, file) = (!self.secret.is_empty(), !no_path(&self.file));
        match (self.algorithm, secret, file) {
            (_, true, true) => Err("has both secret and file: give one of them".to_owned()),
            (Algorithm::HS256, false, false) => Err("needs a secret, or a file with one".to_owned()),
            (Algorithm::HS256, true, _) if self.secret.reveal().len() < SECRET_BYTES_MIN => Err(format!(
                "has a secret of {} bytes; HS256 needs at least {SECRET_BYTES_MIN} (openssl rand -hex 32)",
                self.secret.reveal().len()
            )),
            (Algorithm::HS256, ..) => Ok(()),
            (algorithm, true, _) => Err(format!(
                "has a secret, but {algorithm:?} is verified with a public key: name its PEM file with file"
            )),
            (_, _, false) => Err("needs a file with the public key in PEM".to_owned()),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: &str, algorithm: Algorithm, secret: &str, file: &str) -> Key {
        Key { id: id.to_owned(), algorithm, secret: secret.into(), file: file.into() }
    }

    #[test]
    fn sets_are_had_safely_and_each_is_for_one_issuer() {
        let set = |url: &str, algorithm, issuer: &str| Jwks {
            url: url.to_owned(),
            algorithms: vec![algorithm],
            issuer: issuer.to_owned(),
            ca: PathBuf::new(),
        };
        let check = |jwks| Config { jwks, ..Config::default() }.check();
        let good = |issuer| set("https://login.example.com/jwks", Algorithm::RS256, issuer);
        for (sets, said) in [
            (vec![set("login.example.com/jwks", Algorithm::RS256, "")], "is no URL"),
            (vec![set("http://login.example.com/jwks", Algorithm::RS256, "")], "https://"),
            (vec![set("http://localhost/jwks", Algorithm::RS256, "")], "https://"),
            (vec![set("ftp://127.0.0.1/jwks", Algorithm::RS256, "")], "https://"),
            (vec![set("https://a:b@login.example.com/", Algorithm::RS256, "")], "password"),
            (vec![set("https://login.example.com/", Algorithm::HS256, "")], "HS256"),
            (vec![Jwks { algorithms: Vec::new(), ..good("") }], "needs algorithms"),
            (vec![good("a"), good("")], "issuer of its own"),
            (vec![good("a"), good("a")], "issuer of its own"),
            (["a", "b", "c", "d", "e"].map(good).to_vec(), "at most 4"),
        ] {
            let error = check(sets).unwrap_err();
            assert!(error.starts_with("auth.jwks") && error.contains(said), "{error}");
        }
        assert_eq!(check(vec![good("a"), good("b")]), Ok(()));
        for loopback in ["http://127.0.0.1:9/jwks", "http://[::1]:9/jwks"] {
            assert_eq!(check(vec![set(loopback, Algorithm::EdDSA, "")]), Ok(()));
        }
        assert!(Config { jwks: vec![good("")], ..Config::default() }.is_configured());
    }

    #[test]
    fn a_webhook_is_asked_safely_and_its_secret_is_shown_to_nobody() {
        let url = "https://app.example.com/authorise".to_owned();
        let good = Webhook { url, ..Webhook::default() };
        let secret = format!("whsec_{}", "aHVudGVyMg".repeat(4));
        let with = |webhook| Config { webhook, ..Config::default() };
        for (webhook, key, said) in [
            (Webhook { url: "http://app.example.com/".to_owned(), ..good.clone() }, "url", "https://"),
            (Webhook { url: "app.example.com/a".to_owned(), ..good.clone() }, "url", "is no URL"),
            (Webhook { secret: "hunter2".into(), ..good.clone() }, "secret", "openssl rand"),
            (
                Webhook { secret: secret.as_str().into(), secret_file: "f".into(), ..good.clone() },
                "secret",
                "give one of them",
            ),
            (Webhook { forward: vec!["a b".to_owned()], ..good.clone() }, "forward", "a b"),
            (Webhook { forward: vec!["a".to_owned(); 17], ..good.clone() }, "forward", "at most 16"),
            (Webhook { deadline: Duration::ZERO, ..good.clone() }, "deadline", "between"),
            (Webhook { ttl: Duration::from_secs(301), ..good.clone() }, "ttl", "ttl_max"),
            (Webhook { questions: 0, ..good.clone() }, "questions", "between"),
            (Webhook { cache_entries: 0, ..good.clone() }, "cache_entries", "between"),
        ] {
            let error = with(webhook).check().unwrap_err();
            assert!(error.starts_with(&format!("auth.webhook.{key}")) && error.contains(said), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
        let signed = with(Webhook { secret: secret.as_str().into(), ..good });
        assert_eq!(signed.check(), Ok(()));
        assert!(signed.is_configured() && !Config::default().is_configured());
        assert!(!format!("{signed:?}").contains(&secret));
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        let of_file = Webhook { secret_file: file.clone(), ..Webhook::default() };
        assert!(of_file.signing_secret().unwrap_err().starts_with("secret_file: "));
        std::fs::write(&file, secret + "\n").unwrap();
        assert!(of_file.signing_secret().unwrap().is_some());
    }

    #[test]
    fn what_cannot_work_is_named_and_no_secret_is_shown() {
        let secret = "hunter2-hunter2-hunter2-hunter2-hunter2";
        for (keys, said) in [
            (vec![key("a", Algorithm::HS256, "hunter2", "")], "7 bytes"),
            (vec![key("a", Algorithm::HS256, "", "")], "needs a secret"),
            (vec![key("a", Algorithm::HS256, secret, "f")], "both secret and file"),
            (vec![key("a", Algorithm::ES256, secret, "")], "public key"),
            (vec![key("", Algorithm::EdDSA, "", "")], "the key without an id needs a file"),
            (vec![key("a", Algorithm::HS256, secret, ""), key("a", Algorithm::RS256, "", "f")], "twice"),
        ] {
            let error = Config { keys, ..Config::default() }.check().unwrap_err();
            assert!(error.starts_with("auth.keys: ") && error.contains(said), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
        let odd = Config { cookie: "a=b".to_owned(), ..Config::default() };
        assert!(odd.check().unwrap_err().starts_with("auth.cookie"));
        let keys = vec![key("a", Algorithm::HS256, secret, ""), key("", Algorithm::EdDSA, "", "f")];
        let good = Config { keys, ..Config::default() };
        assert_eq!(good.check(), Ok(()));
        assert!(!format!("{good:?}").contains("hunter2"));
    }
}
