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

    pub(crate) fn signing(&self) -> SigningKey {
        SigningKey::new(self.algorithm, &std::fs::read(&self.private).unwrap()).unwrap()
    }
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
