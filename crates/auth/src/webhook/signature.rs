//! Who asks: a signature as in Standard Webhooks, so that an application can tell Foghorn's questions from others'.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;

/// What a secret begins with.
const PREFIX: &str = "whsec_";
/// Bytes that a secret may have, before base64.
const BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// The secret that an application and Foghorn share.
#[derive(Debug, Clone)]
pub struct SigningSecret(hmac::Key);

/// The headers of a signed request, by their names.
pub type Signature = [(&'static str, String); 3];

impl SigningSecret {
    /// Reads one: `whsec_`, and 24 to 64 bytes in base64. The error doesn't repeat it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let bytes = text.trim().strip_prefix(PREFIX).and_then(|rest| STANDARD.decode(rest).ok());
        let bytes = bytes.filter(|bytes| BYTES.contains(&bytes.len())).ok_or_else(|| {
            format!(
                "has to be {PREFIX} and {} to {} bytes in base64: echo {PREFIX}$(openssl rand -base64 32)",
                BYTES.start(),
                BYTES.end()
            )
        })?;
        Ok(SigningSecret(hmac::Key::new(hmac::HMAC_SHA256, &bytes)))
    }

    /// Signs a body that is sent at this second since 1970, under an id of its own.
    pub fn sign(&self, id: &str, seconds: u64, body: &[u8]) -> Signature {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(format!("{id}.{seconds}.").as_bytes());
        context.update(body);
        let signature = format!("v1,{}", STANDARD.encode(context.sign().as_ref()));
        [
            ("webhook-id", id.to_owned()),
            ("webhook-timestamp", seconds.to_string()),
            ("webhook-signature", signature),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the specification's own libraries.
    #[test]
    fn it_signs_as_standard_webhooks_do() {
        let secret = SigningSecret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n").unwrap();
        let signed = secret.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
        assert_eq!(signed[2].1, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        assert_eq!((signed[0].0, &*signed[1].1), ("webhook-id", "1614265330"));
    }

    #[test]
    fn a_weak_secret_is_none_and_is_not_repeated() {
        for text in ["", "hunter2", "whsec_", "whsec_aHVudGVyMg==", "whsec_%%%%"] {
            let error = SigningSecret::parse(text).unwrap_err();
            assert!(error.contains("openssl rand") && !error.contains("hunter2"), "{error}");
        }
    }
}
