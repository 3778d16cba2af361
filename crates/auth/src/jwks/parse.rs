//! What is in a set, and which of it are keys for us.

use std::collections::HashMap;

use jsonwebtoken::DecodingKey;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse};
use serde::Deserialize;
use serde_json::Value;

use crate::config::{Algorithm, ID_BYTES_MAX, Jwks};
use crate::crypto;
use crate::keys::Verifying;

/// Most bytes of an answer.
pub const ANSWER_BYTES_MAX: usize = 256 * 1024;
/// Most members of a set.
const KEYS_MAX: usize = 100;

/// What was read.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) keys: HashMap<String, Verifying>,
    /// Members that are no keys for us.
    pub(super) skipped: usize,
}

#[derive(Deserialize)]
struct Document {
    keys: Vec<Value>,
}

/// Reads an answer. The error says what is wrong with it as a whole.
pub(super) fn read(answer: &[u8], config: &Jwks) -> Result<Read, String> {
    crypto::install();
    if answer.len() > ANSWER_BYTES_MAX {
        return Err(format!("it has over {ANSWER_BYTES_MAX} bytes"));
    }
    let document: Document =
        serde_json::from_slice(answer).map_err(|error| format!("it is no JWKS: {error}"))?;
    let members = document.keys.len();
    if members > KEYS_MAX {
        return Err(format!("it has {members} keys; at most {KEYS_MAX} are taken"));
    }
    let mut keys = HashMap::new();
    for (kid, key) in document.keys.into_iter().filter_map(|member| key(member, config)) {
        // Of two with one id the first is meant as well as the second.
        keys.entry(kid).or_insert(key);
    }
    if keys.is_empty() {
        return Err(format!("none of its {members} keys has an id and is for {:?}", config.algorithms));
    }
    Ok(Read { skipped: members - keys.len(), keys })
}

/// A key that verifies tokens of a pinned algorithm, and its id.
fn key(member: Value, config: &Jwks) -> Option<(String, Verifying)> {
    // A private key that everybody can read verifies nothing.
    if member.get("d").is_some() {
        return None;
    }
    let jwk: Jwk = serde_json::from_value(member).ok()?;
    let algorithm = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => Algorithm::RS256,
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => Algorithm::ES256,
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => Algorithm::EdDSA,
        _ => return None,
    };
    let common = &jwk.common;
    let is_for_signatures =
        common.public_key_use.as_ref().is_none_or(|used| *used == PublicKeyUse::Signature)
            && common.key_operations.as_ref().is_none_or(|known| known.contains(&KeyOperations::Verify))
            && common.key_algorithm.is_none_or(|known| known == KeyAlgorithm::from(algorithm.jwa()));
    if !is_for_signatures || !config.algorithms.contains(&algorithm) {
        return None;
    }
    let kid = common.key_id.clone().filter(|kid| !kid.is_empty() && kid.len() <= ID_BYTES_MAX)?;
    let decoding = DecodingKey::from_jwk(&jwk).ok()?;
    let verifying = Verifying::published(&kid, algorithm, decoding, &config.issuer)?;
    Some((kid, verifying))
}
