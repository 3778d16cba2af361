//! Certificates and keys from files: a listener's, read again when they change, and a client's.

use std::convert::Infallible;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;

/// HTTP/2, as ALPN calls it.
pub(crate) const H2: &[u8] = b"h2";
const HTTP_1_1: &[u8] = b"http/1.1";

/// How often the files are read again. Whoever renews certificates does so days before the old one ends.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Who a listener is, by files that may change while it runs.
pub struct Identity {
    files: Files,
    current: RwLock<Loaded>,
}

/// What a listener serves, and by which authority its clients have to be.
#[derive(Debug, Clone)]
struct Files {
    /// The configuration's table, as errors name it.
    table: &'static str,
    certificate: PathBuf,
    key: PathBuf,
    authority: Option<PathBuf>,
}

struct Loaded {
    pems: Pems,
    config: Arc<ServerConfig>,
}

/// What the files held. The key's bytes are no more secret here than in what was made of them.
#[derive(PartialEq, Eq)]
struct Pems {
    certificate: Vec<u8>,
    key: Vec<u8>,
    authority: Option<Vec<u8>>,
}

/// Without the key.
impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("certificate", &self.files.certificate).finish_non_exhaustive()
    }
}

impl Identity {
    /// Of the HTTP listener (`http.tls`): reads a certificate with its chain, the server's own first, and its
    /// private key, both in PEM. The error begins with the configuration's key, and says what to do.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, String> {
        let (certificate, key) = (certificate.to_owned(), key.to_owned());
        Identity::of(Files { table: "http.tls", certificate, key, authority: None })
    }

    /// Of the gRPC listener (`grpc.tls`), the same. With an authority only clients are served that show a certificate
    /// by it.
    pub fn load_grpc(certificate: &Path, key: &Path, authority: Option<&Path>) -> Result<Self, String> {
        let (certificate, key) = (certificate.to_owned(), key.to_owned());
        Identity::of(Files { table: "grpc.tls", certificate, key, authority: authority.map(Path::to_owned) })
    }

    fn of(files: Files) -> Result<Self, String> {
        let pems = files.read()?;
        let config = files.config(&pems)?;
        Ok(Identity { files, current: RwLock::new(Loaded { pems, config }) })
    }

    /// For the next connection.
    pub fn acceptor(&self) -> TlsAcceptor {
        self.current.read().unwrap_or_else(PoisonError::into_inner).config.clone().into()
    }

    /// Takes over what the files hold whenever that changes; never returns. Connections that stand keep
    /// what they were made with. Files that don't go together, as while they are being replaced, are told
    /// in the log once, and the old certificate is served meanwhile.
    async fn follow(&self) -> Infallible {
        let mut told = None;
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            match self.look() {
                Ok(false) => {}
                Ok(true) => {
                    told = None;
                    tracing::info!(certificate = %self.files.certificate.display(), "serving a new certificate");
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
        let pems = self.files.read()?;
        if self.current.read().unwrap_or_else(PoisonError::into_inner).pems == pems {
            return Ok(false);
        }
        let config = self.files.config(&pems)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Loaded { pems, config };
        Ok(true)
    }
}

/// [`Identity::follow`], where there is one; never returns.
pub async fn follow(identity: Option<&Identity>) -> Infallible {
    match identity {
        Some(identity) => identity.follow().await,
        None => std::future::pending().await,
    }
}

impl Files {
    fn read(&self) -> Result<Pems, String> {
        let table = self.table;
        Ok(Pems {
            certificate: read(&format!("{table}.certificate"), &self.certificate)?,
            key: read(&format!("{table}.key"), &self.key)?,
            authority: self
                .authority
                .as_deref()
                .map(|path| read(&format!("{table}.client_ca"), path))
                .transpose()?,
        })
    }

    fn config(&self, pems: &Pems) -> Result<Arc<ServerConfig>, String> {
        let Files { table, certificate, key, authority } = self;
        let provider = Arc::new(ring::default_provider());
        let builder =
            ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
        let builder = builder.map_err(|error| format!("{table}: {error}"))?;
        let builder = match (authority, &pems.authority) {
            (Some(path), Some(pem)) => {
                let name = format!("{table}.client_ca");
                let roots = Arc::new(roots(&name, path, pem)?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider).build();
                builder.with_client_cert_verifier(verifier.map_err(|error| format!("{name}: {error}"))?)
            }
            _ => builder.with_no_client_auth(),
        };
        let chain = chain(&format!("{table}.certificate"), certificate, &pems.certificate)?;
        let private = private(&format!("{table}.key"), key, &pems.key)?;
        let made = builder.with_single_cert(chain, private);
        let mut config = made.map_err(|error| mismatch(table, certificate, key, error))?;
        config.alpn_protocols =
            if *table == "grpc.tls" { vec![H2.to_vec()] } else { [H2, HTTP_1_1].map(<[u8]>::to_vec).into() };
        // A client that comes back, as all do after a restart of what was in between, needs no signature of ours,
        // and nothing is kept for it.
        config.ticketer = ring::Ticketer::new().map_err(|error| format!("{table}: {error}"))?;
        Ok(Arc::new(config))
    }
}

/// Who a client is, and by which authority its servers have to be. The files are read for each connection, so what
/// a renewal puts there is used from the next one on.
#[derive(Debug, Clone)]
pub struct ClientFiles {
    /// The configuration's table, as errors name it.
    pub table: &'static str,
    /// PEM file of the authority, the only one that is trusted.
    pub authority: PathBuf,
    /// PEM files of the client's certificate with its chain, and of its key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

impl ClientFiles {
    /// What a connection is made with: HTTP/2, TLS 1.2 or 1.3. The error begins with the configuration's key.
    pub fn config(&self) -> Result<Arc<ClientConfig>, String> {
        let table = self.table;
        let name = format!("{table}.ca");
        let roots = roots(&name, &self.authority, &read(&name, &self.authority)?)?;
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder =
            builder.with_safe_default_protocol_versions().map_err(|error| format!("{table}: {error}"))?;
        let builder = builder.with_root_certificates(roots);
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let (name, key_name) = (format!("{table}.certificate"), format!("{table}.key"));
                let chain = chain(&name, certificate, &read(&name, certificate)?)?;
                let private = private(&key_name, key, &read(&key_name, key)?)?;
                let made = builder.with_client_auth_cert(chain, private);
                made.map_err(|error| mismatch(table, certificate, key, error))?
            }
        };
        config.alpn_protocols = vec![H2.to_vec()];
        Ok(Arc::new(config))
    }
}

fn read(name: &str, path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("{name}: {} can't be read: {error}", path.display()))
}

fn chain(name: &str, path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let shown = path.display();
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let chain = chain.map_err(|error| format!("{name}: {shown} is not PEM: {error}"))?;
    if chain.is_empty() {
        return Err(format!(
            "{name}: {shown} holds no certificate; it begins with -----BEGIN CERTIFICATE-----"
        ));
    }
    Ok(chain)
}

fn private(name: &str, path: &Path, pem: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| {
        format!(
            "{name}: {} holds no private key in PEM ({error}); without a passphrase it begins with \
             -----BEGIN PRIVATE KEY-----",
            path.display()
        )
    })
}

fn roots(name: &str, path: &Path, pem: &[u8]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in chain(name, path, pem)? {
        let added = roots.add(certificate);
        added.map_err(|error| format!("{name}: {} is no authority: {error}", path.display()))?;
    }
    Ok(roots)
}

fn mismatch(table: &str, certificate: &Path, key: &Path, error: rustls::Error) -> String {
    let (shown, key) = (certificate.display(), key.display());
    match error {
        rustls::Error::InconsistentKeys(_) => format!(
            "{table}.key: {key} is not the key of the first certificate in {shown}: put the server's own certificate \
             first, or give the key that it was made with"
        ),
        error => format!("{table}.certificate: {shown} with {key} can't be used: {error}"),
    }
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
