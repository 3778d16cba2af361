//! A listener's certificate and key: read, checked against each other, and read again when they change.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

/// HTTP/2, as ALPN calls it.
pub(crate) const H2: &[u8] = b"h2";
const HTTP_1_1: &[u8] = b"http/1.1";

/// How often the files are read again. Whoever renews certificates does so days before the old one ends.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Who a listener is, by files that may change while it runs.
pub struct Identity {
    certificate: PathBuf,
    key: PathBuf,
    current: RwLock<Loaded>,
}

struct Loaded {
    /// What the files held. The key's bytes are no more secret here than in what was made of them.
    files: [Vec<u8>; 2],
    config: Arc<ServerConfig>,
}

/// Without the key.
impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

impl Identity {
    /// Reads a certificate with its chain, the server's own first, and its private key, both in PEM. The
    /// error begins with the configuration's key, and says what to do.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, String> {
        let files = read(certificate, key)?;
        let config = config(certificate, key, &files)?;
        let current = RwLock::new(Loaded { files, config });
        Ok(Identity { certificate: certificate.to_owned(), key: key.to_owned(), current })
    }

    /// For the next connection.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        self.current.read().unwrap_or_else(PoisonError::into_inner).config.clone().into()
    }

    /// Takes over what the files hold whenever that changes; never returns. Connections that stand keep
    /// what they were made with. Files that don't go together, as while they are being replaced, are told
    /// in the log once, and the old certificate is served meanwhile.
    pub(crate) async fn follow(&self) {
        let mut told = None;
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            match self.look() {
                Ok(false) => {}
                Ok(true) => {
                    told = None;
                    tracing::info!(certificate = %self.certificate.display(), "serving a new certificate");
                }
                Err(error) => {
                    if told.as_ref() != Some(&error) {
                        tracing::error!(
                            error,
                            "the certificate can't be renewed; serving the one from before"
                        );
                    }
                    told = Some(error);
                }
            }
        }
    }

    /// Whether there was something new.
    fn look(&self) -> Result<bool, String> {
        let files = read(&self.certificate, &self.key)?;
        if self.current.read().unwrap_or_else(PoisonError::into_inner).files == files {
            return Ok(false);
        }
        let config = config(&self.certificate, &self.key, &files)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Loaded { files, config };
        Ok(true)
    }
}

fn read(certificate: &Path, key: &Path) -> Result<[Vec<u8>; 2], String> {
    let read = |name: &str, path: &Path| {
        std::fs::read(path)
            .map_err(|error| format!("http.tls.{name}: {} can't be read: {error}", path.display()))
    };
    Ok([read("certificate", certificate)?, read("key", key)?])
}

fn config(certificate: &Path, key: &Path, files: &[Vec<u8>; 2]) -> Result<Arc<ServerConfig>, String> {
    let [pem, key_pem] = files;
    let shown = certificate.display();
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let chain = chain.map_err(|error| format!("http.tls.certificate: {shown} is not PEM: {error}"))?;
    if chain.is_empty() {
        return Err(format!(
            "http.tls.certificate: {shown} holds no certificate; it begins with -----BEGIN CERTIFICATE-----"
        ));
    }
    let private = PrivateKeyDer::from_pem_slice(key_pem).map_err(|error| {
        format!(
            "http.tls.key: {} holds no private key in PEM ({error}); without a passphrase it begins with \
             -----BEGIN PRIVATE KEY-----",
            key.display()
        )
    })?;
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| format!("http.tls: {error}"))?;
    let mut config = builder.with_no_client_auth().with_single_cert(chain, private).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => format!(
            "http.tls.key: {} is not the key of the first certificate in {shown}: put the server's own certificate \
             first, or give the key that it was made with",
            key.display()
        ),
        error => format!("http.tls.certificate: {shown} with {} can't be used: {error}", key.display()),
    })?;
    config.alpn_protocols = [H2, HTTP_1_1].map(<[u8]>::to_vec).into();
    // A client that comes back, as all do after a restart of what was in between, needs no signature of ours,
    // and nothing is kept for it.
    config.ticketer = ring::Ticketer::new().map_err(|error| format!("http.tls: {error}"))?;
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};

    use super::*;

    fn made() -> CertifiedKey<KeyPair> {
        generate_simple_self_signed(["localhost".to_owned()]).unwrap()
    }

    #[test]
    fn files_that_can_not_be_used_are_told_with_their_path_and_a_way_out() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (made(), made());
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let certificate = file("tls.crt", &one.cert.pem());
        let key = file("tls.key", &one.signing_key.serialize_pem());
        let wrong = file("other.key", &other.signing_key.serialize_pem());
        let empty = file("empty", "");
        let absent = folder.path().join("absent");
        assert!(Identity::load(&certificate, &key).is_ok());
        for (certificate, key, begins, at, hint) in [
            (&absent, &key, "http.tls.certificate: ", &absent, "can't be read"),
            (&certificate, &absent, "http.tls.key: ", &absent, "can't be read"),
            (&empty, &key, "http.tls.certificate: ", &empty, "BEGIN CERTIFICATE"),
            (&key, &key, "http.tls.certificate: ", &key, "BEGIN CERTIFICATE"),
            (&certificate, &certificate, "http.tls.key: ", &certificate, "BEGIN PRIVATE KEY"),
            (&certificate, &wrong, "http.tls.key: ", &wrong, "is not the key of the first certificate"),
        ] {
            let error = Identity::load(certificate, key).unwrap_err();
            assert!(
                error.starts_with(begins) && error.contains(at.to_str().unwrap()) && error.contains(hint),
                "{error}"
            );
        }
    }

    #[test]
    fn a_renewed_certificate_is_taken_over_and_a_half_renewed_one_waits() {
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = (folder.path().join("tls.crt"), folder.path().join("tls.key"));
        let (one, other) = (made(), made());
        let write = |made: &CertifiedKey<KeyPair>| {
            std::fs::write(&certificate, made.cert.pem()).unwrap();
            std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        };
        write(&one);
        let identity = Identity::load(&certificate, &key).unwrap();
        let serving = || identity.current.read().unwrap().config.clone();
        let first = serving();
        assert_eq!(identity.look(), Ok(false));
        std::fs::write(&certificate, other.cert.pem()).unwrap();
        assert!(identity.look().is_err());
        assert!(Arc::ptr_eq(&first, &serving()), "the old one goes on");
        write(&other);
        assert_eq!(identity.look(), Ok(true));
        assert!(!Arc::ptr_eq(&first, &serving()));
        assert_eq!(identity.look(), Ok(false));
    }
}
