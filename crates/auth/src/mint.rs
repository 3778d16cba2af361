//! Making tokens: for development and tests. In production the application's own login does.

use jsonwebtoken::{Algorithm as Jwa, EncodingKey, Header};
use serde_json::Value;

use crate::config::Algorithm;
use crate::crypto;

/// A key that signs.
#[derive(Debug)]
pub struct SigningKey {
    algorithm: Jwa,
    key: EncodingKey,
}

impl SigningKey {
    /// From a secret (HS256) or a private key in PEM (PKCS #8; RSA's own form too).
    pub fn new(algorithm: Algorithm, bytes: &[u8]) -> Result<Self, String> {
        crypto::install();
        let (algorithm, key) = match algorithm {
            Algorithm::HS256 => (Jwa::HS256, Ok(EncodingKey::from_secret(bytes))),
            Algorithm::RS256 => (Jwa::RS256, EncodingKey::from_rsa_pem(bytes)),
            Algorithm::ES256 => (Jwa::ES256, EncodingKey::from_ec_pem(bytes)),
            Algorithm::EdDSA => (Jwa::EdDSA, EncodingKey::from_ed_pem(bytes)),
        };
        let key = key.map_err(|_| format!("no private key in PEM that signs {algorithm:?}"))?;
        Ok(SigningKey { algorithm, key })
    }

    /// A token with these claims, for the key of this `kid`; without an id for the key that has none.
    pub fn mint(&self, id: &str, claims: &Value) -> Result<String, String> {
        let mut header = Header::new(self.algorithm);
        header.kid = (!id.is_empty()).then(|| id.to_owned());
        jsonwebtoken::encode(&header, claims, &self.key)
            .map_err(|error| format!("the key doesn't sign: {error}"))
    }
}

/// What a token says, header and claims, without a look at whether any of it is true.
pub fn peek(token: &str) -> Result<(Value, Value), String> {
    let no_token = |_| "this is not a JWT: three parts of base64url with dots between".to_owned();
    let seen = jsonwebtoken::dangerous::insecure_decode::<Value>(token).map_err(no_token)?;
    let header = serde_json::to_value(seen.header).map_err(|error| error.to_string())?;
    Ok((header, seen.claims))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{claims, token};

    #[test]
    fn a_token_shows_what_it_says() {
        let (header, said) = peek(&token("k", &json!({ "sub": "bob" }))).unwrap();
        assert_eq!((&header["alg"], &header["kid"]), (&json!("HS256"), &json!("k")));
        assert_eq!(said, claims(&json!({ "sub": "bob" })));
        assert!(peek("a.b.c").unwrap_err().contains("not a JWT"));
        assert!(SigningKey::new(Algorithm::RS256, b"no key").unwrap_err().contains("private key"));
    }
}
