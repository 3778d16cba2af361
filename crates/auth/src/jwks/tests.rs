use jsonwebtoken::Algorithm as Jwa;
use serde_json::{Value, json};
use tokio::time::{advance, timeout};

use super::*;
use crate::config::Algorithm;
use crate::testing::KeyPair;

fn config(algorithms: &[Algorithm], issuer: &str) -> config::Jwks {
    config::Jwks {
        url: "https://login.example.com/jwks".to_owned(),
        algorithms: algorithms.to_vec(),
        issuer: issuer.to_owned(),
        ..config::Jwks::default()
    }
}

fn set(algorithms: &[Algorithm]) -> Set {
    Set::new(config(algorithms, ""), KEEP)
}

const KEEP: Duration = Duration::from_secs(24 * 3600);

fn document(keys: &[Value]) -> Vec<u8> {
    json!({ "keys": keys }).to_string().into_bytes()
}

fn with(mut key: Value, name: &str, value: Value) -> Value {
    key[name] = value;
    key
}

#[test]
fn a_set_is_read_and_what_is_no_key_for_us_is_passed_over() {
    let [rsa, ec, ed] = [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA].map(KeyPair::make);
    let keys = [rsa.jwk("r"), ec.jwk("e"), with(ed.jwk("d"), "use", json!("sig"))];
    let all = [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA];
    let read = parse::read(&document(&keys), &config(&all, "a")).unwrap();
    assert_eq!((read.keys.len(), read.skipped), (3, 0));
    for (id, algorithm) in [("r", Jwa::RS256), ("e", Jwa::ES256), ("d", Jwa::EdDSA)] {
        let key = &read.keys[id];
        assert_eq!((key.algorithm, key.issuer.as_deref()), (algorithm, Some("a")));
    }
    let weak = KeyPair::of(Algorithm::RS256, &["RSA", "-pkeyopt", "rsa_keygen_bits:1024"]);
    let good = rsa.jwk("good");
    for (what, bad) in [
        ("an encryption key", with(rsa.jwk("k"), "use", json!("enc"))),
        ("of another algorithm by its alg", with(rsa.jwk("k"), "alg", json!("PS256"))),
        ("that verifies nothing", with(rsa.jwk("k"), "key_ops", json!(["sign"]))),
        ("that isn't pinned", ec.jwk("k")),
        ("on another curve", with(ec.jwk("k"), "crv", json!("P-384"))),
        ("without an id", rsa.jwk("")),
        ("with a long id", rsa.jwk(&"k".repeat(129))),
        ("a secret", json!({ "kid": "k", "kty": "oct", "k": "AAAA", "alg": "HS256" })),
        ("private", with(rsa.jwk("k"), "d", json!("AAAA"))),
        ("weak", weak.jwk("k")),
        ("no key", json!(5)),
        ("twice", rsa.jwk("good")),
        ("no base64url", with(rsa.jwk("k"), "n", json!("+!"))),
    ] {
        let read = parse::read(&document(&[good.clone(), bad]), &config(&[Algorithm::RS256], "")).unwrap();
        assert_eq!((read.keys.len(), read.skipped), (1, 1), "{what}");
        assert!(read.keys.contains_key("good"), "{what}");
    }
    for (bad, said) in [
        (b"<html>".to_vec(), "no JWKS"),
        (b"{}".to_vec(), "no JWKS"),
        (document(&[]), "none of its 0 keys"),
        (document(&[ec.jwk("e")]), "none of its 1 keys"),
        (document(&vec![json!({}); 101]), "at most 100"),
        (vec![b' '; ANSWER_BYTES_MAX + 1], "over"),
    ] {
        let error = parse::read(&bad, &config(&[Algorithm::RS256], "")).unwrap_err();
        assert!(error.contains(said), "{error}");
    }
}

/// Whether a fetch begins within this time.
async fn begins(set: &Set, within: Duration) -> bool {
    timeout(within, set.due()).await.is_ok()
}

fn ec(id: &str) -> Vec<u8> {
    document(&[KeyPair::make(Algorithm::ES256).jwk(id)])
}

#[tokio::test(start_paused = true)]
async fn a_set_is_fetched_at_once_and_again_in_time() {
    let set = set(&[Algorithm::ES256]);
    let answer = ec("a");
    for (holds, from, to) in
        [(None, 270, 301), (Some(1), 54, 61), (Some(600), 540, 601), (Some(86_400), 3240, 3601)]
    {
        assert!(begins(&set, Duration::from_secs(3601)).await);
        set.took(&answer, holds.map(Duration::from_secs)).unwrap();
        assert!(!begins(&set, Duration::from_secs(from - 1)).await, "{holds:?}");
        assert!(begins(&set, Duration::from_secs(to - from + 1)).await, "{holds:?}");
        set.took(&answer, Some(Duration::ZERO)).unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn unknown_ids_ask_for_a_fetch_at_once_and_then_no_oftener_than_the_floor() {
    let set = set(&[Algorithm::ES256]);
    assert!(matches!(set.missing("new"), Missing::Awaited { soon: true, .. }), "before the first fetch");
    set.due().await;
    set.took(&ec("a"), Some(REFRESH_MAX)).unwrap();
    let soon = Duration::from_millis(10);
    assert!(!begins(&set, soon).await, "the first fetch was for it as well");
    let mut fetches = 0;
    for second in 0..300 {
        for n in 0..10 {
            set.missing(&format!("invented-{second}-{n}"));
        }
        if begins(&set, soon).await {
            fetches += 1;
            set.took(&ec("a"), Some(REFRESH_MAX)).unwrap();
        }
        advance(Duration::from_secs(1)).await;
    }
    assert!((6..=11).contains(&fetches), "{fetches}");
    assert!(set.state.lock().unknown.len() <= UNKNOWN_MAX);
}

#[tokio::test(start_paused = true)]
async fn an_id_is_refused_for_good_only_by_a_fetch_from_after_it_was_asked_for() {
    let set = set(&[Algorithm::ES256]);
    set.due().await;
    set.took(&ec("a"), None).unwrap();
    advance(Duration::from_secs(1)).await;
    assert!(matches!(set.missing("b"), Missing::Awaited { soon: true, .. }));
    set.due().await;
    assert!(matches!(set.missing("b"), Missing::Awaited { soon: true, .. }), "while it is fetched");
    set.failed();
    assert!(matches!(set.missing("b"), Missing::Awaited { .. }), "a fetch that failed says nothing");
    advance(FLOOR * 2).await;
    set.due().await;
    set.took(&ec("a"), None).unwrap();
    assert_eq!(set.missing("b"), Missing::Unknown);
    assert!(matches!(set.missing("c"), Missing::Awaited { soon: true, .. }));
    set.due().await;
    set.took(&ec("a"), None).unwrap();
    advance(Duration::from_secs(1)).await;
    assert!(matches!(set.missing("d"), Missing::Awaited { soon: false, .. }), "the floor");
}

#[tokio::test(start_paused = true)]
async fn known_keys_serve_while_none_can_be_fetched_but_not_for_ever() {
    let set = set(&[Algorithm::ES256]);
    set.due().await;
    set.took(&ec("a"), None).unwrap();
    let key = set.state.lock().keys["a"].clone();
    let began = Instant::now();
    let mut fetches = 0;
    while began.elapsed() < KEEP - Duration::from_secs(120) {
        set.due().await;
        set.failed();
        fetches += 1;
        assert_eq!((set.len(), key.standing()), (1, Standing::Good));
    }
    // Every 30 to 60 s, once a few have failed.
    assert!((1400..3000).contains(&fetches), "{fetches}");
    while began.elapsed() <= KEEP {
        set.due().await;
        set.failed();
    }
    assert_eq!((set.len(), key.standing()), (0, Standing::Old));
    assert!(matches!(set.missing("a"), Missing::Awaited { .. }), "it may be good: nobody knows");
}

#[tokio::test(start_paused = true)]
async fn a_key_goes_on_as_long_as_it_is_in_the_set() {
    let set = set(&[Algorithm::ES256]);
    let [a, b, c] = ["a", "b", "a"].map(|id| KeyPair::make(Algorithm::ES256).jwk(id));
    set.took(&document(&[a.clone(), b.clone()]), None).unwrap();
    let key = |id: &str| set.state.lock().keys[id].clone();
    let (first, second) = (key("a"), key("b"));
    let taken = set.took(&document(&[a]), None).unwrap();
    assert_eq!((taken.keys, taken.new, taken.removed), (1, 0, 1));
    assert_eq!(set.missing("b"), Missing::Unknown, "nobody has to wait to hear that");
    assert!(Arc::ptr_eq(&first, &key("a")));
    assert_eq!((first.standing(), second.standing()), (Standing::Good, Standing::Removed));
    // Under the same id, another key is another.
    let taken = set.took(&document(&[c]), None).unwrap();
    assert_eq!((taken.new, taken.removed, first.standing()), (1, 1, Standing::Removed));
    assert!(set.took(b"{}", None).is_err() && set.len() == 1);
}

#[tokio::test(start_paused = true)]
async fn who_asks_patiently_has_the_key_as_soon_as_it_is_there_and_waits_for_no_other() {
    let jwks = Jwks::new(&Config { jwks: vec![config(&[Algorithm::ES256], "")], ..Config::default() });
    let ask = || if jwks.of("a").is_empty() { Some(jwks.missing("a", Jwa::ES256)) } else { None };
    let awaits = |found: &Option<Missing>| matches!(found, Some(Missing::Awaited { soon: true, .. }));
    let began = Instant::now();
    let fetch = async {
        jwks.sets()[0].due().await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        jwks.sets()[0].took(&ec("a"), None).unwrap();
        jwks.fetched();
    };
    let (found, ()) = tokio::join!(jwks.patiently(ask, awaits), fetch);
    assert_eq!((found, began.elapsed().as_secs()), (None, 1));
    assert_eq!(jwks.missing("x", Jwa::RS256), Missing::Unknown, "nobody's algorithm");
    let began = Instant::now();
    jwks.sets()[0].due().await;
    let found = jwks.patiently(|| Some(jwks.missing("b", Jwa::ES256)), awaits).await;
    assert!(awaits(&found));
    assert!(began.elapsed() >= PATIENCE);
}
