//! The keys that tokens are verified with. Each is for one algorithm and for the tokens that name it.

use std::collections::HashMap;

use jsonwebtoken::{Algorithm as Jwa, DecodingKey};

use crate::config::{Algorithm, Config, Key, SECRET_BYTES_MIN};
use crate::crypto;

/// Bytes of a public key on P-256 (both coordinates and how they are written), and of one on Ed25519.
const P256_BYTES: usize = 65;
const ED25519_BYTES: usize = 32;
/// A modulus of 2048 bits has so many; what it is wrapped in is more.
const RSA_BYTES_MIN: usize = 256;
/// Most bytes of a key file.
const FILE_BYTES_MAX: usize = 64 * 1024;

/// Keys by the `kid` of their tokens.
#[derive(Debug, Default)]
pub struct Keys(HashMap<String, Verifying>);

/// A key and what it is for.
#[derive(Debug)]
pub(crate) struct Verifying {
    pub(crate) algorithm: Jwa,
    pub(crate) key: DecodingKey,
}

impl Keys {
    /// Reads the files that `config` names. The error begins with `auth.keys` and shows nothing of them.
    pub fn load(config: &Config) -> Result<Self, String> {
        crypto::install();
        let keys = config.keys.iter().map(|key| {
            let verifying =
                Verifying::load(key).map_err(|what| format!("auth.keys: {}: {what}", key.name()))?;
            Ok((key.id.clone(), verifying))
        });
        keys.collect::<Result<_, String>>().map(Keys)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The key that a token's `kid` names. No other is ever tried.
    pub(crate) fn of(&self, kid: Option<&str>) -> Option<&Verifying> {
        self.0.get(kid.unwrap_or_default())
    }
}

impl Verifying {
    fn load(key: &Key) -> Result<Self, String> {
        let bytes = material(key)?;
        let decoding = match key.algorithm {
            // With a public key for a secret, whoever knows it would sign.
            Algorithm::HS256 if bytes.starts_with(b"-----BEGIN") => {
                return Err("the file holds a key in PEM, and HS256 takes a secret".to_owned());
            }
            Algorithm::HS256 if bytes.len() < SECRET_BYTES_MIN => {
                return Err(format!(
                    "the secret has {} bytes; it needs at least {SECRET_BYTES_MIN}",
                    bytes.len()
                ));
            }
            Algorithm::HS256 => {
                return Ok(Verifying { algorithm: Jwa::HS256, key: DecodingKey::from_secret(&bytes) });
            }
            _ if !is_public(&bytes) => {
                return Err("the file holds no public key in PEM (-----BEGIN PUBLIC KEY-----)".to_owned());
            }
            Algorithm::RS256 => DecodingKey::from_rsa_pem(&bytes),
            Algorithm::ES256 => DecodingKey::from_ec_pem(&bytes),
            Algorithm::EdDSA => DecodingKey::from_ed_pem(&bytes),
        };
        let wrong = || format!("the file's key is not one for {:?}", key.algorithm);
        let decoding = decoding.map_err(|_| wrong())?;
        let length = decoding.try_get_as_bytes().map_err(|_| wrong())?.len();
        let (algorithm, fits) = match key.algorithm {
            Algorithm::ES256 => (Jwa::ES256, length == P256_BYTES),
            Algorithm::EdDSA => (Jwa::EdDSA, length == ED25519_BYTES),
            _ => (Jwa::RS256, length > RSA_BYTES_MIN),
        };
        if fits { Ok(Verifying { algorithm, key: decoding }) } else { Err(wrong()) }
    }
}

/// A private key verifies nothing, and has no business here.
fn is_public(pem: &[u8]) -> bool {
    let text = String::from_utf8_lossy(pem);
    text.contains("PUBLIC KEY-----") && !text.contains("PRIVATE KEY-----")
}

/// What the configuration holds of a key: its secret, or what is in its file, a secret without the line break that
/// editors put at its end. The error says which file can't be read.
pub fn material(key: &Key) -> Result<Vec<u8>, String> {
    if !key.secret.is_empty() {
        return Ok(key.secret.reveal().into());
    }
    let mut bytes =
        std::fs::read(&key.file).map_err(|error| format!("{} can't be read: {error}", key.file.display()))?;
    if bytes.len() > FILE_BYTES_MAX {
        return Err(format!("{} is larger than any key", key.file.display()));
    }
    if key.algorithm == Algorithm::HS256 {
        while bytes.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
            bytes.pop();
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{KeyPair, SECRET};

    fn load(algorithm: Algorithm, file: &std::path::Path) -> Result<Keys, String> {
        let key = Key { id: "k".to_owned(), algorithm, file: file.to_owned(), ..Key::default() };
        Keys::load(&Config { keys: vec![key], ..Config::default() })
    }

    #[test]
    fn only_a_public_key_of_its_algorithm_is_taken() {
        let pairs = [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA].map(KeyPair::make);
        for pair in &pairs {
            assert!(load(pair.algorithm, &pair.public).is_ok(), "{:?}", pair.algorithm);
            let error = load(pair.algorithm, &pair.private).unwrap_err();
            assert!(
                error.starts_with("auth.keys: key \"k\": ") && error.contains("no public key"),
                "{error}"
            );
            for other in pairs.iter().filter(|other| other.algorithm != pair.algorithm) {
                let error = load(other.algorithm, &pair.public).unwrap_err();
                assert!(error.contains("is not one for"), "{error}");
            }
        }
        let short = KeyPair::of(Algorithm::RS256, &["RSA", "-pkeyopt", "rsa_keygen_bits:1024"]);
        assert!(load(Algorithm::RS256, &short.public).is_err(), "1024 bits");
        let other = KeyPair::of(Algorithm::ES256, &["EC", "-pkeyopt", "ec_paramgen_curve:P-384"]);
        assert!(load(Algorithm::ES256, &other.public).is_err(), "P-384");
    }

    #[test]
    fn a_secret_may_come_from_a_file_that_ends_with_a_line() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        std::fs::write(&file, format!("{SECRET}\n")).unwrap();
        let keys = load(Algorithm::HS256, &file).unwrap();
        assert_eq!(keys.of(Some("k")).unwrap().key.try_get_as_bytes().unwrap(), SECRET.as_bytes());
        assert!(keys.of(None).is_none() && keys.of(Some("")).is_none() && keys.of(Some("K")).is_none());
        let pair = KeyPair::make(Algorithm::ES256);
        assert!(load(Algorithm::HS256, &pair.public).unwrap_err().contains("takes a secret"));
        std::fs::write(&file, "short\n").unwrap();
        assert!(load(Algorithm::HS256, &file).unwrap_err().contains("5 bytes"));
        assert!(load(Algorithm::HS256, folder.path()).unwrap_err().contains("can't be read"));
    }
}
