//! Keys as OpenSSL makes them, and tokens signed with them.

use std::path::PathBuf;
use std::process::Command;

use foghorn_core::time::Timestamp;
use serde_json::{Value, json};

use crate::config::{Algorithm, Config, Key};
use crate::mint::SigningKey;

pub(crate) const SECRET: &str = "a secret of tests, long enough for HS256";
/// What counts as now: seconds since the epoch.
pub(crate) const NOW: i64 = 1_800_000_000;

pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_micros(seconds * 1_000_000)
}

/// A private key and its public half, as files.
pub(crate) struct KeyPair {
    pub(crate) algorithm: Algorithm,
    pub(crate) private: PathBuf,
    pub(crate) public: PathBuf,
    _folder: tempfile::TempDir,
}

impl KeyPair {
    pub(crate) fn make(algorithm: Algorithm) -> Self {
        KeyPair::of(
            algorithm,
            match algorithm {
                Algorithm::RS256 => &["RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
                Algorithm::ES256 => &["EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
                _ => &["ED25519"],
            },
        )
    }

    pub(crate) fn of(algorithm: Algorithm, options: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (private, public) = (folder.path().join("private.pem"), folder.path().join("public.pem"));
        let openssl = |arguments: &[&std::ffi::OsStr]| {
            let output = Command::new("openssl").args(arguments).output().unwrap();
            assert!(output.status.success(), "{output:?}");
        };
        let make: Vec<_> = [&["genpkey", "-algorithm"], options].concat();
        let make = make.into_iter().chain(["-out"]).map(AsRef::as_ref).chain([private.as_os_str()]);
        openssl(&make.collect::<Vec<_>>());
        openssl(&[
            "pkey".as_ref(),
            "-pubout".as_ref(),
            "-in".as_ref(),
            private.as_ref(),
            "-out".as_ref(),
            public.as_ref(),
        ]);
        KeyPair { algorithm, private, public, _folder: folder }
    }

    pub(crate) fn key(&self, id: &str) -> Key {
        Key { id: id.to_owned(), algorithm: self.algorithm, file: self.public.clone(), ..Key::default() }
    }

    /// The public half as a set has it.
    pub(crate) fn jwk(&self, id: &str) -> Value {
        let output = Command::new("openssl")
            .args(["pkey", "-pubin", "-outform", "DER", "-in"])
            .arg(&self.public)
            .output()
            .unwrap();
        let der = output.stdout;
        let last = |from: usize, to: usize| base64url(&der[der.len() - from..der.len() - to]);
        match self.algorithm {
            Algorithm::ES256 => {
                json!({ "kid": id, "kty": "EC", "crv": "P-256", "x": last(64, 32), "y": last(32, 0) })
            }
            Algorithm::EdDSA => json!({ "kid": id, "kty": "OKP", "crv": "Ed25519", "x": last(32, 0) }),
            // Behind the modulus stands the exponent, 65537: type, length and three bytes.
            _ => {
                let bytes = if der.len() < 200 { 128 } else { 256 };
                json!({ "kid": id, "kty": "RSA", "n": last(bytes + 5, 5), "e": last(3, 0) })
            }
        }
    }

    pub(crate) fn signing(&self) -> SigningKey {
        SigningKey::new(self.algorithm, &std::fs::read(&self.private).unwrap()).unwrap()
    }
}

/// As JWTs have it: no crate more for tests.
pub(crate) fn base64url(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let bits = three.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte));
        let bits = bits << (8 * (3 - three.len()));
        for at in 0..=three.len() {
            text.push(ALPHABET[(bits >> (18 - 6 * at)) as usize & 63] as char);
        }
    }
    text
}

pub(crate) fn secret_key(id: &str) -> Key {
    Key { id: id.to_owned(), algorithm: Algorithm::HS256, secret: SECRET.into(), ..Key::default() }
}

pub(crate) fn config(keys: Vec<Key>) -> Config {
    Config { issuer: "tests".to_owned(), audience: "foghorn".to_owned(), keys, ..Config::default() }
}

/// Good claims, with `changes` laid over them.
pub(crate) fn claims(changes: &Value) -> Value {
    let mut claims = json!({ "sub": "ann", "iss": "tests", "aud": "foghorn", "exp": NOW + 60 });
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => _ = claims.as_object_mut().unwrap().remove(name),
            value => claims[name] = value.clone(),
        }
    }
    claims
}

/// A token under [`SECRET`].
pub(crate) fn token(id: &str, changes: &Value) -> String {
    SigningKey::new(Algorithm::HS256, SECRET.as_bytes()).unwrap().mint(id, &claims(changes)).unwrap()
}
