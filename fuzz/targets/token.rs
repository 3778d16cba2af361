//! A token, as `Authorization` brings it. The first line of the input is the token's header, the second its claims: both
//! are signed with the key, so that nothing but what they say decides. What follows is a header's value, as it comes.

#![no_main]

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use libfuzzer_sys::fuzz_target;
use ring::hmac;
use serde_json::Value;

use foghorn_auth::config::{Algorithm, Config, Key};
use foghorn_auth::keys::Keys;
use foghorn_auth::{Authenticator, Caller, Refusal};
use foghorn_core::time::Timestamp;
use foghorn_fuzz::first_line;

const SECRET: &str = "a secret of the fuzz target, long enough for HS256";
/// The time of day, in seconds.
const NOW: i64 = 1_800_000_000;
/// By how much clocks may differ, in seconds: the default.
const LEEWAY: f64 = 30.0;

/// Knows one key, which is for HS256 and called `k`.
static AUTHENTICATOR: LazyLock<Authenticator> = LazyLock::new(|| {
    let key =
        Key { id: "k".to_owned(), algorithm: Algorithm::HS256, secret: SECRET.into(), ..Key::default() };
    let config = Config {
        issuer: "https://login.example".to_owned(),
        audience: "foghorn".to_owned(),
        keys: vec![key],
        // Each is looked at anew.
        cache_entries: 1,
        ..Config::default()
    };
    let keys = Keys::load(&config).expect("a good key");
    assert_eq!(config.leeway.as_secs_f64(), LEEWAY);
    Authenticator::new(&config, keys, false, || Timestamp::from_micros(NOW * 1_000_000))
});

fuzz_target!(|input: &[u8]| {
    let (header, rest) = first_line(input);
    let (claims, value) = first_line(rest.unwrap_or_default());
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    let signature = URL_SAFE_NO_PAD.encode(hmac::sign(&key, signed.as_bytes()));
    let authorization = format!("Bearer {signed}.{signature}");
    // It is parsed more than once, and what an error says of it is bounded.
    let known = || AUTHENTICATOR.caller_by(Some(&authorization));
    match foghorn_fuzz::within_memory(input.len() + 1000, 100, known) {
        Ok(Caller::Known(identity)) => {
            check_header(header);
            check_claims(claims, &identity.subject, identity.admin);
            // It is nobody else's word: with another signature it is nothing.
            let forged = format!("Bearer {signed}.{}", URL_SAFE_NO_PAD.encode([0; 32]));
            assert!(AUTHENTICATOR.caller_by(Some(&forged)).is_err());
        }
        Ok(other) => panic!("{other:?} with a token"),
        Err(why) => check_refusal(&why, input.len()),
    }

    // Nobody who has not the key is anybody.
    let Some(Ok(value)) = value.map(std::str::from_utf8) else { return };
    match AUTHENTICATOR.caller_by(Some(value)) {
        Ok(Caller::Anonymous) => {
            let value = value.trim();
            assert!(value.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case("Basic")), "{value:?}");
        }
        Ok(other) => panic!("{other:?} by {value:?}"),
        Err(why) => check_refusal(&why, input.len()),
    }
});

/// What both can read: what a reader passes over need not be text, nor its numbers within bounds.
fn read(json: &[u8]) -> Option<Value> {
    serde_json::from_slice(json).ok()
}

/// Only the key's own algorithm, under the key's name, and nothing that would have to be understood.
fn check_header(header: &[u8]) {
    let Some(said) = read(header) else { return };
    assert_eq!((&said["alg"], &said["kid"]), (&Value::from("HS256"), &Value::from("k")));
    assert!(said.get("crit").is_none_or(Value::is_null), "{said}");
}

fn check_claims(claims: &[u8], subject: &str, admin: bool) {
    let Some(said) = read(claims) else { return };
    assert!(!subject.is_empty() && said["sub"] == subject, "{said}");
    assert_eq!(said["foghorn"]["role"] == "admin", admin, "{said}");
    let names = |claim: &Value, name: &str| match claim {
        Value::Array(all) => all.iter().any(|one| one == name),
        one => one == name,
    };
    assert!(names(&said["iss"], "https://login.example") && names(&said["aud"], "foghorn"), "{said}");
    let now = Value::from(NOW).as_f64().expect("a number");
    assert!(said["exp"].as_f64().is_some_and(|exp| exp + LEEWAY > now), "{said}");
    assert!(said["nbf"].as_f64().is_none_or(|nbf| nbf - LEEWAY <= now + 1e-3), "{said}");
}

/// A refusal is the client's fault, and no larger than what it sent warrants.
fn check_refusal(why: &Refusal, input: usize) {
    let problem = why.to_problem();
    assert!(problem.status.is_client_error(), "{why:?}");
    let json = problem.to_json().to_string();
    assert!(json.len() <= 1000 + 12 * input, "{input} bytes answered with {}", json.len());
}
