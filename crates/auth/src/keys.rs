//! The keys that tokens are verified with. Each is for one algorithm and for the tokens that name it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use parking_lot::{Mutex, RwLock};

use jsonwebtoken::{Algorithm as Jwa, DecodingKey, DecodingKeyKind};
use ring::digest::{Context, SHA256};

use crate::config::{Algorithm, Config, ID_BYTES_MAX, Key, SECRET_BYTES_MIN};
use crate::crypto;
use crate::jwks::{Jwks, Missing};

/// Bytes of a public key on P-256 (both coordinates and how they are written), and of one on Ed25519.
const P256_BYTES: usize = 65;
const ED25519_BYTES: usize = 32;
/// A modulus of 2048 bits has so many; what it is wrapped in is more.
const RSA_BYTES_MIN: usize = 256;
/// Most bytes of a key file.
const FILE_BYTES_MAX: usize = 64 * 1024;

/// Keys by the `kid` of their tokens: those that are configured, and those that issuers publish.
#[derive(Debug, Default)]
pub struct Keys {
    own: RwLock<HashMap<String, Arc<Verifying>>>,
    /// Those of them that are in files.
    files: Vec<Key>,
    /// What was in them at the last look, where that is another key than the one that counts.
    changing: Mutex<HashMap<String, Verifying>>,
    jwks: Arc<Jwks>,
}

/// What came of reading a key's file again.
#[derive(Debug, PartialEq, Eq)]
pub enum Reread {
    /// It holds the same key, or another that it didn't at the last look: it may be half written.
    Same,
    /// It holds another key, which counts from now on; tokens of the one before are refused.
    Taken,
    /// It can't be read, or holds no key for this. The one before goes on.
    Refused(String),
}

/// A key and what it is for.
#[derive(Debug)]
pub(crate) struct Verifying {
    /// The `kid` of its tokens; empty for the tokens that have none.
    pub(crate) id: String,
    pub(crate) algorithm: Jwa,
    pub(crate) key: DecodingKey,
    /// Whose tokens it is for, instead of the configured issuer's.
    pub(crate) issuer: Option<String>,
    standing: AtomicU8,
}

/// Whether a key, and what it has verified, is still good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Standing {
    /// It is.
    Good,
    /// Its issuer publishes it no more.
    Removed,
    /// Whether its issuer does isn't known for too long.
    Old,
}

/// The key that has verified a token. Nobody's is good for ever.
#[derive(Debug, Clone, Default)]
pub(crate) struct Verifier(Option<Arc<Verifying>>);

/// Whether it is the same key, not one like it.
impl PartialEq for Verifier {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (one, other) => one.is_none() && other.is_none(),
        }
    }
}

impl Eq for Verifier {}

impl Verifier {
    pub(crate) fn new(key: Arc<Verifying>) -> Self {
        Verifier(Some(key))
    }

    pub(crate) fn standing(&self) -> Standing {
        self.0.as_ref().map_or(Standing::Good, |key| key.standing())
    }

    /// None: nothing has verified what claims to be verified.
    pub(crate) fn key(&self) -> Option<&Verifying> {
        self.0.as_deref()
    }
}

impl Keys {
    /// Reads the files that `config` names. The error begins with `auth.keys` and shows nothing of them. What is
    /// had by URL is not there yet: see [`jwks`](Self::jwks).
    pub fn load(config: &Config) -> Result<Self, String> {
        crypto::install();
        let keys = config.keys.iter().map(|key| {
            let verifying =
                Verifying::load(key).map_err(|what| format!("auth.keys: {}: {what}", key.name()))?;
            Ok((key.id.clone(), Arc::new(verifying)))
        });
        let own = keys.collect::<Result<_, String>>()?;
        let files = config.keys.iter().filter(|key| key.secret.is_empty()).cloned().collect();
        Ok(Keys {
            own: RwLock::new(own),
            files,
            changing: Mutex::default(),
            jwks: Arc::new(Jwks::new(config)),
        })
    }

    /// Whether there is anything to [read again](Self::reread).
    pub fn has_files(&self) -> bool {
        !self.files.is_empty()
    }

    /// Reads every file again. Each key by what messages call it, with what came of it.
    pub fn reread(&self) -> Vec<(String, Reread)> {
        let reread = |key: &Key| match Verifying::load(key) {
            Err(error) => Reread::Refused(error),
            Ok(fresh) => {
                let before = self.own.read().get(&key.id).cloned();
                if before.as_ref().is_some_and(|before| before.is_same(&fresh)) {
                    return Reread::Same;
                }
                let mut changing = self.changing.lock();
                if !changing.remove(&key.id).is_some_and(|seen| seen.is_same(&fresh)) {
                    changing.insert(key.id.clone(), fresh);
                    return Reread::Same;
                }
                self.own.write().insert(key.id.clone(), Arc::new(fresh));
                // What it has verified is looked at again, wherever it is remembered.
                before.iter().for_each(|before| before.set(Standing::Removed));
                Reread::Taken
            }
        };
        self.files.iter().map(|key| (key.name(), reread(key))).collect()
    }

    /// Whether there are none, and never will be.
    pub fn is_empty(&self) -> bool {
        self.own.read().is_empty() && self.jwks.sets().is_empty()
    }

    /// What is to be fetched.
    pub fn jwks(&self) -> &Arc<Jwks> {
        &self.jwks
    }

    /// The key that a token's `kid` names; no other is ever tried. Several only when issuers have chosen the same
    /// id: each is for the tokens of its own.
    pub(crate) fn of(&self, kid: Option<&str>) -> Vec<Arc<Verifying>> {
        match self.own.read().get(kid.unwrap_or_default()) {
            Some(own) => vec![own.clone()],
            None => kid.map_or_else(Vec::new, |kid| self.jwks.of(kid)),
        }
    }

    /// Why a token's `kid` names none.
    pub(crate) fn missing(&self, kid: Option<&str>, algorithm: Jwa) -> Missing {
        match kid {
            Some(kid) if !kid.is_empty() && kid.len() <= ID_BYTES_MAX => self.jwks.missing(kid, algorithm),
            _ => Missing::Unknown,
        }
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
                return Ok(Verifying::new(&key.id, Algorithm::HS256, DecodingKey::from_secret(&bytes)));
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
        let fits = match key.algorithm {
            Algorithm::ES256 => length == P256_BYTES,
            Algorithm::EdDSA => length == ED25519_BYTES,
            _ => length > RSA_BYTES_MIN,
        };
        if fits { Ok(Verifying::new(&key.id, key.algorithm, decoding)) } else { Err(wrong()) }
    }

    /// One that an issuer publishes, for its own tokens if it is named. None when it is too weak, or none.
    pub(crate) fn published(id: &str, algorithm: Algorithm, key: DecodingKey, issuer: &str) -> Option<Self> {
        let fits = match (algorithm, key.kind()) {
            (Algorithm::ES256, DecodingKeyKind::SecretOrDer(bytes)) => bytes.len() == P256_BYTES,
            (Algorithm::EdDSA, DecodingKeyKind::SecretOrDer(bytes)) => bytes.len() == ED25519_BYTES,
            (Algorithm::RS256, DecodingKeyKind::RsaModulusExponent { n, .. }) => {
                n.iter().skip_while(|byte| **byte == 0).count() >= RSA_BYTES_MIN
            }
            _ => false,
        };
        let issuer = Some(issuer.to_owned()).filter(|issuer| !issuer.is_empty());
        fits.then(|| Verifying { issuer, ..Verifying::new(id, algorithm, key) })
    }

    fn new(id: &str, algorithm: Algorithm, key: DecodingKey) -> Self {
        let standing = AtomicU8::new(Standing::Good as u8);
        Verifying { id: id.to_owned(), algorithm: algorithm.jwa(), key, issuer: None, standing }
    }

    /// Tells it from another key under the same id; 64 bits of a digest.
    pub(crate) fn print(&self) -> u64 {
        let mut context = Context::new(&SHA256);
        match self.key.kind() {
            DecodingKeyKind::SecretOrDer(bytes) => context.update(bytes),
            DecodingKeyKind::RsaModulusExponent { n, e } => {
                context.update(n);
                context.update(e);
            }
        }
        let mut print = [0; 8];
        print.copy_from_slice(&context.finish().as_ref()[..8]);
        u64::from_be_bytes(print)
    }

    /// Whether the other verifies the same tokens.
    pub(crate) fn is_same(&self, other: &Verifying) -> bool {
        let same = match (self.key.kind(), other.key.kind()) {
            (DecodingKeyKind::SecretOrDer(one), DecodingKeyKind::SecretOrDer(other)) => one == other,
            (
                DecodingKeyKind::RsaModulusExponent { n, e },
                DecodingKeyKind::RsaModulusExponent { n: other_n, e: other_e },
            ) => n == other_n && e == other_e,
            _ => false,
        };
        same && self.algorithm == other.algorithm && self.issuer == other.issuer
    }

    pub(crate) fn standing(&self) -> Standing {
        match self.standing.load(Ordering::Acquire) {
            0 => Standing::Good,
            1 => Standing::Removed,
            _ => Standing::Old,
        }
    }

    pub(crate) fn set(&self, standing: Standing) {
        self.standing.store(standing as u8, Ordering::Release);
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
    fn a_file_that_changes_is_another_key_and_one_that_is_wrong_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        std::fs::write(&file, SECRET).unwrap();
        let keys = load(Algorithm::HS256, &file).unwrap();
        assert!(keys.has_files());
        let before = keys.of(Some("k")).remove(0);
        let reread = |keys: &Keys| keys.reread().remove(0).1;
        assert_eq!(reread(&keys), Reread::Same);
        std::fs::write(&file, "short").unwrap();
        assert!(matches!(reread(&keys), Reread::Refused(error) if error.contains("5 bytes")));
        assert!(Arc::ptr_eq(&before, &keys.of(Some("k"))[0]) && before.standing() == Standing::Good);
        std::fs::write(&file, format!("another {SECRET}")).unwrap();
        assert_eq!(reread(&keys), Reread::Same, "it may be half of one");
        assert_eq!(reread(&keys), Reread::Taken);
        assert_eq!(before.standing(), Standing::Removed);
        assert!(!before.is_same(&keys.of(Some("k"))[0]));
        // One in the configuration itself is not read again.
        let given = Key { id: "k".to_owned(), secret: SECRET.into(), ..Key::default() };
        let keys = Keys::load(&Config { keys: vec![given], ..Config::default() }).unwrap();
        assert!(!keys.has_files() && keys.reread().is_empty());
    }

    #[test]
    fn a_secret_may_come_from_a_file_that_ends_with_a_line() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        std::fs::write(&file, format!("{SECRET}\n")).unwrap();
        let keys = load(Algorithm::HS256, &file).unwrap();
        assert_eq!(keys.of(Some("k"))[0].key.try_get_as_bytes().unwrap(), SECRET.as_bytes());
        assert!([None, Some(""), Some("K")].into_iter().all(|kid| keys.of(kid).is_empty()));
        let pair = KeyPair::make(Algorithm::ES256);
        assert!(load(Algorithm::HS256, &pair.public).unwrap_err().contains("takes a secret"));
        std::fs::write(&file, "short\n").unwrap();
        assert!(load(Algorithm::HS256, &file).unwrap_err().contains("5 bytes"));
        assert!(load(Algorithm::HS256, folder.path()).unwrap_err().contains("can't be read"));
    }
}
