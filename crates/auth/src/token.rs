//! Tokens: JWTs, and what is believed of one.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use foghorn_core::channel::Channel;
use foghorn_core::pattern::Pattern;
use foghorn_core::time::Timestamp;
use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::{Validation, decode, decode_header};
use ring::digest::{SHA256, digest};
use serde::Deserialize;

use crate::config::Config;
use crate::keys::{Keys, Verifier, Verifying};
use crate::revocation::{Key, Revocable};

/// Most bytes of what is said about wrong claims, which are whoever's who made the token.
const DETAIL_BYTES: usize = 200;

/// What has to hold of every token.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    issuer: String,
    audience: String,
    leeway: Duration,
    life: Duration,
    token_bytes: usize,
}

/// Whom a token speaks for, and what it says that they may.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// Its `sub`.
    pub subject: String,
    /// `foghorn.subscribe`: what may be listened to. None: as policies say.
    pub subscribe: Option<Vec<Pattern>>,
    /// `foghorn.publish`: what may be published on. None: nothing.
    pub publish: Option<Vec<Pattern>>,
    /// Whether `foghorn.role` is `admin`.
    pub admin: bool,
    /// What its ticket was asked for, and nothing else; none for a token's own caller.
    pub confined: Option<Vec<Pattern>>,
    /// The subject's own channel, when it can have one.
    pub own: Option<Channel>,
    /// It is good from here on, leeway included.
    pub not_before: Timestamp,
    /// And until here.
    pub expires: Timestamp,
    /// When it was issued at the earliest, leeway included. None: it doesn't say.
    pub issued: Option<Timestamp>,
    /// What it can be revoked by.
    pub(crate) revocable: Revocable,
    /// What has verified it.
    pub(crate) verifier: Verifier,
}

/// Why a token is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Above the configured bound.
    #[error("the token is longer than auth.token_bytes allows")]
    TooLong,
    /// Not three parts of base64url and JSON, or signed in a way that nobody knows (`none` among them).
    #[error("it is not a JWT signed with HS256, RS256, ES256 or EdDSA")]
    Malformed,
    /// An `Authorization` that is of another scheme, or unreadable.
    #[error("the header Authorization has to be `Bearer <token>`")]
    Scheme,
    /// Its `kid` names none of the keys.
    #[error("no key has the id that its kid names (a token without a kid is for the key without an id)")]
    UnknownKey,
    /// Signed by another algorithm than the key is for.
    #[error("it is not signed with the algorithm of its key")]
    Algorithm,
    /// The signature is not that of its key.
    #[error("its signature is wrong")]
    Signature,
    /// Its time is over.
    #[error("it has expired")]
    Expired,
    /// Its time has not come.
    #[error("it is not valid yet")]
    NotYet,
    /// It lives for longer than a revocation would last.
    #[error("it lives for longer than auth.token_life allows")]
    LongLived,
    /// An operator has revoked it, or all of its subject's.
    #[error("it has been revoked")]
    Revoked,
    /// It is for somebody else.
    #[error("its aud is not this server's (auth.audience)")]
    Audience,
    /// It is from somebody else.
    #[error("its iss is not the one that is trusted (auth.issuer)")]
    Issuer,
    /// A claim is missing or not what it should be.
    #[error("its claims are not what they should be: {0}")]
    Claims(String),
    /// Given in a way that leaves open what is meant.
    #[error("it is given twice, and differently")]
    Ambiguous,
}

impl Rules {
    pub(crate) fn new(config: &Config) -> Self {
        Rules {
            issuer: config.issuer.clone(),
            audience: config.audience.clone(),
            leeway: config.leeway,
            life: config.token_life,
            token_bytes: config.token_bytes,
        }
    }

    /// An error for what is too long to be looked at.
    pub(crate) fn check_length(&self, token: &str) -> Result<(), TokenError> {
        if token.len() > self.token_bytes { Err(TokenError::TooLong) } else { Ok(()) }
    }
}

impl Identity {
    /// Whether another token is for the same subject, and from the same issuer.
    pub fn is_of_same_principal(&self, other: &Identity) -> bool {
        let issuer = |identity: &Identity| identity.verifier.key().and_then(|key| key.issuer.clone());
        self.subject == other.subject && issuer(self) == issuer(other)
    }

    /// A digest of the subject and its issuer, the same in every process.
    pub fn principal(&self) -> u128 {
        let issuer = self.verifier.key().and_then(|key| key.issuer.clone()).unwrap_or_default();
        // The length says where the one ends, so that no other two make the same text.
        let text = format!("{}.{issuer}{}", issuer.len(), self.subject);
        let mut first = [0; 16];
        first.copy_from_slice(&digest(&SHA256, text.as_bytes()).as_ref()[..16]);
        u128::from_be_bytes(first)
    }
}

/// What is read of the claims. `iss` and `aud` are the library's.
#[derive(Deserialize)]
struct Claims {
    sub: String,
    exp: f64,
    nbf: Option<f64>,
    iat: Option<f64>,
    jti: Option<String>,
    #[serde(default)]
    foghorn: Grants,
}

/// Unknown members are refused: what was meant by a mistyped one would not hold.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Grants {
    subscribe: Option<Vec<Pattern>>,
    publish: Option<Vec<Pattern>>,
    role: Option<Role>,
}

#[derive(PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Role {
    Admin,
}

/// What a token says, if its key signed it and it is for this server. Whether its time has come and is not
/// over, [`Identity::check_time`] says, each time.
pub(crate) fn verify(token: &str, keys: &Keys, rules: &Rules) -> Result<Identity, TokenError> {
    rules.check_length(token)?;
    let header = decode_header(token).map_err(|_| TokenError::Malformed)?;
    // What it lists has to be understood, and nothing is.
    if header.crit.is_some() {
        return Err(TokenError::Malformed);
    }
    // The header chooses the key, and the key the algorithm.
    let mut error = TokenError::UnknownKey;
    for key in keys.of(header.kid.as_deref()) {
        match verify_by(token, &key, rules) {
            Ok(identity) => return Ok(identity),
            Err(why) => error = why,
        }
    }
    Err(error)
}

/// The `kid` of a token, and the algorithm that it says it is signed with. None when it is no token.
pub(crate) fn named(token: &str) -> Option<(Option<String>, jsonwebtoken::Algorithm)> {
    decode_header(token).ok().map(|header| (header.kid, header.alg))
}

fn verify_by(token: &str, key: &Arc<Verifying>, rules: &Rules) -> Result<Identity, TokenError> {
    let issuer = key.issuer.as_ref().unwrap_or(&rules.issuer);
    let mut validation = Validation::new(key.algorithm);
    validation.required_spec_claims = required(issuer, rules);
    // By our own clock, and again whenever the token is used.
    (validation.validate_exp, validation.validate_nbf) = (false, false);
    if !issuer.is_empty() {
        validation.set_issuer(&[issuer]);
    }
    if !rules.audience.is_empty() {
        validation.set_audience(&[&rules.audience]);
    }
    let claims = decode::<Claims>(token, &key.key, &validation).map_err(refused)?.claims;
    if claims.sub.is_empty() {
        return Err(TokenError::Claims("sub is empty".to_owned()));
    }
    if claims.iat.is_some_and(|iat| time(claims.exp) > time(iat).plus(rules.life)) {
        return Err(TokenError::LongLived);
    }
    let signed = token.rsplit_once('.').map_or(token, |(signed, _)| signed);
    Ok(Identity {
        issued: claims.iat.map(|iat| time(iat).minus(rules.leeway)),
        revocable: Revocable {
            subject: Some(Key::subject(&claims.sub)),
            token_id: claims.jti.as_deref().map(Key::token_id),
            token: Some(Key::token(signed)),
        },
        own: Channel::user(&claims.sub).ok(),
        subject: claims.sub,
        subscribe: claims.foghorn.subscribe,
        publish: claims.foghorn.publish,
        admin: claims.foghorn.role == Some(Role::Admin),
        confined: None,
        not_before: claims.nbf.map_or(Timestamp::from_micros(i64::MIN), |nbf| time(nbf).minus(rules.leeway)),
        expires: time(claims.exp).plus(rules.leeway),
        verifier: Verifier::new(key.clone()),
    })
}

impl Identity {
    /// Whether it is good at this time.
    pub fn check_time(&self, now: Timestamp) -> Result<(), TokenError> {
        if now >= self.expires {
            return Err(TokenError::Expired);
        }
        if now < self.not_before {
            return Err(TokenError::NotYet);
        }
        Ok(())
    }
}

fn required(issuer: &str, rules: &Rules) -> HashSet<String> {
    let mut claims = vec!["exp", "sub"];
    if !issuer.is_empty() {
        claims.push("iss");
    }
    if !rules.audience.is_empty() {
        claims.push("aud");
    }
    claims.into_iter().map(str::to_owned).collect()
}

fn refused(error: Error) -> TokenError {
    match error.into_kind() {
        ErrorKind::InvalidAlgorithm | ErrorKind::UnsupportedAlgorithm => TokenError::Algorithm,
        ErrorKind::InvalidSignature => TokenError::Signature,
        ErrorKind::InvalidAudience => TokenError::Audience,
        ErrorKind::InvalidIssuer => TokenError::Issuer,
        ErrorKind::MissingRequiredClaim(claim) => TokenError::Claims(format!("{claim} is missing")),
        ErrorKind::InvalidClaimFormat(claim) => TokenError::Claims(format!("{claim} is malformed")),
        ErrorKind::Json(error) => {
            let mut what = error.to_string();
            what.truncate(what.floor_char_boundary(DETAIL_BYTES));
            TokenError::Claims(what)
        }
        _ => TokenError::Malformed,
    }
}

/// Seconds since the epoch, which may have a fraction. Saturates.
#[expect(clippy::cast_possible_truncation, reason = "saturates, and NaN is no JSON")]
fn time(seconds: f64) -> Timestamp {
    Timestamp::from_micros((seconds * 1e6) as i64)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::config::Algorithm;
    use crate::mint::SigningKey;
    use crate::testing::{KeyPair, NOW, SECRET, at, base64url, claims, config, secret_key, token};

    fn encoded(value: &Value) -> String {
        base64url(value.to_string().as_bytes())
    }

    fn check(keys: Vec<crate::config::Key>, token: &str) -> Result<Identity, TokenError> {
        let config = config(keys);
        let identity = verify(token, &Keys::load(&config).unwrap(), &Rules::new(&config))?;
        identity.check_time(at(NOW))?;
        Ok(identity)
    }

    fn of_secret(changes: &Value) -> Result<Identity, TokenError> {
        check(vec![secret_key("k")], &token("k", changes))
    }

    #[test]
    fn every_algorithm_verifies_what_it_signed_and_nothing_else() {
        let pairs = [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA].map(KeyPair::make);
        for pair in &pairs {
            let good = pair.signing().mint("k", &claims(&json!({}))).unwrap();
            assert_eq!(check(vec![pair.key("k")], &good).unwrap().subject, "ann", "{:?}", pair.algorithm);
            let another = KeyPair::make(pair.algorithm).signing().mint("k", &claims(&json!({}))).unwrap();
            assert_eq!(check(vec![pair.key("k")], &another), Err(TokenError::Signature));
            let (signed, signature) = good.rsplit_once('.').unwrap();
            let (head, _) = signed.split_once('.').unwrap();
            let forged = format!("{head}.{}.{signature}", encoded(&claims(&json!({ "sub": "root" }))));
            assert_eq!(check(vec![pair.key("k")], &forged), Err(TokenError::Signature));
            assert_eq!(check(vec![secret_key("k")], &good), Err(TokenError::Algorithm));
        }
        assert_eq!(of_secret(&json!({})).unwrap().subject, "ann");
    }

    #[test]
    fn the_key_chooses_the_algorithm_and_the_kid_the_key() {
        let pair = KeyPair::make(Algorithm::RS256);
        let keys = || vec![pair.key("rsa"), secret_key("mac")];
        // The text of the public key as an HMAC secret.
        let public = std::fs::read(&pair.public).unwrap();
        let confused = SigningKey::new(Algorithm::HS256, &public).unwrap();
        let confused = confused.mint("rsa", &claims(&json!({}))).unwrap();
        assert_eq!(check(keys(), &confused), Err(TokenError::Algorithm));
        // A good signature of the one key under the name of the other.
        assert_eq!(check(keys(), &token("rsa", &json!({}))), Err(TokenError::Algorithm));
        assert!(check(keys(), &token("mac", &json!({}))).is_ok());
        for id in ["", "MAC", "other", "../mac"] {
            assert_eq!(check(keys(), &token(id, &json!({}))), Err(TokenError::UnknownKey), "{id}");
        }
        assert!(check(vec![secret_key("")], &token("", &json!({}))).is_ok());
        assert_eq!(check(vec![secret_key("")], &token("k", &json!({}))), Err(TokenError::UnknownKey));
        for (alg, why) in [
            ("none", TokenError::Malformed),
            ("None", TokenError::Malformed),
            ("HS384", TokenError::Algorithm),
            ("PS256", TokenError::Algorithm),
        ] {
            let head = encoded(&json!({ "alg": alg, "kid": "mac", "typ": "JWT" }));
            for signature in ["", "AAAA"] {
                let unsigned = format!("{head}.{}.{signature}", encoded(&claims(&json!({}))));
                assert_eq!(check(keys(), &unsigned), Err(why.clone()), "{alg}");
            }
        }
        let critical = encoded(&json!({ "alg": "HS256", "kid": "mac", "crit": ["b64"], "b64": false }));
        assert_eq!(check(keys(), &format!("{critical}.e30.AAAA")), Err(TokenError::Malformed));
    }

    #[test]
    fn claims_are_checked_one_by_one() {
        let missing = |claim: &str| Err(TokenError::Claims(format!("{claim} is missing")));
        for (changes, expected) in [
            (json!({ "exp": NOW - 29 }), Ok(())),
            (json!({ "exp": NOW - 30 }), Err(TokenError::Expired)),
            (json!({ "exp": NOW as f64 + 0.5 }), Ok(())),
            (json!({ "nbf": NOW + 30 }), Ok(())),
            (json!({ "nbf": NOW + 31 }), Err(TokenError::NotYet)),
            (json!({ "aud": "other" }), Err(TokenError::Audience)),
            (json!({ "aud": ["other", "foghorn"] }), Ok(())),
            (json!({ "aud": [] }), Err(TokenError::Audience)),
            (json!({ "aud": null }), missing("aud")),
            (json!({ "iss": "other" }), Err(TokenError::Issuer)),
            (json!({ "iss": null }), missing("iss")),
        ] {
            let got = of_secret(&changes).map(|_| ());
            assert_eq!(got, expected, "{changes}");
        }
        for changes in [
            json!({ "exp": null }),
            json!({ "exp": "1800000060" }),
            json!({ "exp": {} }),
            json!({ "nbf": "soon" }),
            json!({ "sub": null }),
            json!({ "sub": "" }),
            json!({ "sub": 5 }),
            json!({ "foghorn": { "subcribe": ["a"] } }),
            json!({ "foghorn": { "subscribe": "a" } }),
            json!({ "foghorn": { "subscribe": ["a..b"] } }),
            json!({ "foghorn": { "publish": ["a.>.b"] } }),
            json!({ "foghorn": { "role": "root" } }),
        ] {
            let error = of_secret(&changes).unwrap_err();
            assert!(matches!(error, TokenError::Claims(_)), "{changes}: {error:?}");
        }
        let granted = json!({ "foghorn": { "subscribe": ["a.*"], "publish": [], "role": "admin" } });
        let granted = of_secret(&granted).unwrap();
        assert_eq!(granted.subscribe.unwrap()[0].as_str(), "a.*");
        assert!(granted.publish.unwrap().is_empty() && granted.admin);
        let plain = of_secret(&json!({})).unwrap();
        assert_eq!((plain.subscribe, plain.publish, plain.admin), (None, None, false));
    }

    #[test]
    fn a_token_for_somebody_is_refused_where_nobody_says_who_that_is() {
        let config =
            Config { issuer: String::new(), audience: String::new(), ..config(vec![secret_key("")]) };
        let keys = Keys::load(&config).unwrap();
        let check = |changes: Value| verify(&token("", &changes), &keys, &Rules::new(&config)).map(|_| ());
        assert_eq!(check(json!({})), Err(TokenError::Audience));
        assert_eq!(check(json!({ "aud": null, "iss": "whoever" })), Ok(()));
        assert_eq!(check(json!({ "aud": null, "iss": null })), Ok(()));
    }

    #[test]
    fn what_is_no_token_is_refused_and_long_ones_unread() {
        let keys = || vec![secret_key("")];
        for text in ["", ".", "..", "a.b", "a.b.c", "a.b.c.d", "\0", "e30.e30.", &SECRET[..20]] {
            assert_eq!(check(keys(), text), Err(TokenError::Malformed), "{text:?}");
        }
        let long = token("", &json!({ "padding": "x".repeat(8192) }));
        assert_eq!(check(keys(), &long), Err(TokenError::TooLong));
    }
}
