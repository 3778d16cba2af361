//! ring as what jsonwebtoken computes with.

use std::sync::Once;

use jsonwebtoken::crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{ErrorKind, Result};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind, EncodingKey};
use ring::rand::SystemRandom;
use ring::{hmac, signature as keys};
use signature::{Error, Signer, Verifier};

static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: signer,
    verifier_factory: verifier,
    // For making JWKs out of keys, which nobody does here.
    key_utils: KeyUtils::new_unimplemented(),
};

/// Has jsonwebtoken compute with ring. To be called before it computes anything.
pub(crate) fn install() {
    static ONCE: Once = Once::new();
    // Fails when somebody else in this process has chosen; theirs computes the same.
    ONCE.call_once(|| _ = PROVIDER.install_default().is_ok());
}

/// HS256, both ways. ring compares in constant time.
struct Mac(hmac::Key);

/// A public key of another algorithm.
struct Public(Algorithm, DecodingKey);

/// A private one.
enum Private {
    Rsa(keys::RsaKeyPair),
    Ec(keys::EcdsaKeyPair),
    Ed(keys::Ed25519KeyPair),
}

fn verifier(algorithm: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>> {
    check_family(*algorithm, key.family())?;
    match algorithm {
        Algorithm::HS256 => Ok(Box::new(Mac(hmac::Key::new(hmac::HMAC_SHA256, key.try_get_as_bytes()?)))),
        Algorithm::RS256 | Algorithm::ES256 | Algorithm::EdDSA => {
            Ok(Box::new(Public(*algorithm, key.clone())))
        }
        _ => Err(ErrorKind::UnsupportedAlgorithm.into()),
    }
}

fn signer(algorithm: &Algorithm, key: &EncodingKey) -> Result<Box<dyn JwtSigner>> {
    check_family(*algorithm, key.family())?;
    let bytes = key.as_bytes();
    let private = match algorithm {
        Algorithm::HS256 => return Ok(Box::new(Mac(hmac::Key::new(hmac::HMAC_SHA256, bytes)))),
        Algorithm::RS256 => keys::RsaKeyPair::from_der(bytes).map(Private::Rsa),
        Algorithm::ES256 => {
            let signing = &keys::ECDSA_P256_SHA256_FIXED_SIGNING;
            keys::EcdsaKeyPair::from_pkcs8(signing, bytes, &SystemRandom::new()).map(Private::Ec)
        }
        // OpenSSL leaves the public half out.
        Algorithm::EdDSA => keys::Ed25519KeyPair::from_pkcs8_maybe_unchecked(bytes).map(Private::Ed),
        _ => return Err(ErrorKind::UnsupportedAlgorithm.into()),
    };
    private
        .map(|private| Box::new(private) as Box<dyn JwtSigner>)
        .map_err(|error| ErrorKind::Provider(error.to_string()).into())
}

/// An HMAC under the text of a public key is the oldest trick there is.
fn check_family(algorithm: Algorithm, family: AlgorithmFamily) -> Result<()> {
    if algorithm.family() == family { Ok(()) } else { Err(ErrorKind::InvalidAlgorithm.into()) }
}

impl Verifier<Vec<u8>> for Mac {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> std::result::Result<(), Error> {
        hmac::verify(&self.0, message, signature).map_err(|_| Error::new())
    }
}

impl JwtVerifier for Mac {
    fn algorithm(&self) -> Algorithm {
        Algorithm::HS256
    }
}

impl Signer<Vec<u8>> for Mac {
    fn try_sign(&self, message: &[u8]) -> std::result::Result<Vec<u8>, Error> {
        Ok(hmac::sign(&self.0, message).as_ref().to_vec())
    }
}

impl JwtSigner for Mac {
    fn algorithm(&self) -> Algorithm {
        Algorithm::HS256
    }
}

impl Verifier<Vec<u8>> for Public {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> std::result::Result<(), Error> {
        let rsa = &keys::RSA_PKCS1_2048_8192_SHA256;
        let verified = match (self.0, self.1.kind()) {
            (Algorithm::RS256, DecodingKeyKind::RsaModulusExponent { n, e }) => {
                keys::RsaPublicKeyComponents { n, e }.verify(rsa, message, signature)
            }
            (Algorithm::RS256, DecodingKeyKind::SecretOrDer(key)) => {
                keys::UnparsedPublicKey::new(rsa, key).verify(message, signature)
            }
            (Algorithm::ES256, DecodingKeyKind::SecretOrDer(key)) => {
                keys::UnparsedPublicKey::new(&keys::ECDSA_P256_SHA256_FIXED, key).verify(message, signature)
            }
            (Algorithm::EdDSA, DecodingKeyKind::SecretOrDer(key)) => {
                keys::UnparsedPublicKey::new(&keys::ED25519, key).verify(message, signature)
            }
            _ => return Err(Error::new()),
        };
        verified.map_err(|_| Error::new())
    }
}

impl JwtVerifier for Public {
    fn algorithm(&self) -> Algorithm {
        self.0
    }
}

impl Signer<Vec<u8>> for Private {
    fn try_sign(&self, message: &[u8]) -> std::result::Result<Vec<u8>, Error> {
        let random = SystemRandom::new();
        match self {
            Private::Rsa(pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(&keys::RSA_PKCS1_SHA256, &random, message, &mut signature)
                    .map_err(|_| Error::new())?;
                Ok(signature)
            }
            Private::Ec(pair) => {
                pair.sign(&random, message).map(|s| s.as_ref().to_vec()).map_err(|_| Error::new())
            }
            Private::Ed(pair) => Ok(pair.sign(message).as_ref().to_vec()),
        }
    }
}

impl JwtSigner for Private {
    fn algorithm(&self) -> Algorithm {
        match self {
            Private::Rsa(_) => Algorithm::RS256,
            Private::Ec(_) => Algorithm::ES256,
            Private::Ed(_) => Algorithm::EdDSA,
        }
    }
}
