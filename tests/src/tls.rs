//! The certificate of every TLS server that the harness starts, and clients that trust it and nothing else.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedKey, DnType, IsCa, Issuer, KeyPair,
    generate_simple_self_signed,
};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// What names the files to a Foghorn.
pub(crate) const CERTIFICATE: &str = "FOGHORN_HTTP_TLS_CERTIFICATE";
const KEY: &str = "FOGHORN_HTTP_TLS_KEY";

/// The certificate, for `localhost` and 127.0.0.1, as PEM. One for the test program.
#[must_use]
pub fn certificate_pem() -> String {
    identity().cert.pem()
}

/// Its private key, as PEM.
#[must_use]
pub fn key_pem() -> String {
    identity().signing_key.serialize_pem()
}

/// The variables with which a Foghorn speaks TLS over HTTP, with this certificate, from files in `folder`.
#[must_use]
pub fn variables(folder: &Path) -> [(&'static str, String); 2] {
    let write = |name: &str, pem: String| {
        let path = folder.join(name);
        std::fs::write(&path, pem).unwrap_or_else(|error| panic!("writing {}: {error}", path.display()));
        path.display().to_string()
    };
    [(CERTIFICATE, write("tls.crt", certificate_pem())), (KEY, write("tls.key", key_pem()))]
}

/// Such variables as a process is given them.
#[must_use]
pub fn borrowed<'a, const N: usize>(
    variables: &'a [(&'static str, String); N],
) -> [(&'static str, &'a str); N] {
    variables.each_ref().map(|(name, value)| (*name, value.as_str()))
}

/// For a server with our certificate.
///
/// # Panics
///
/// When it is none.
#[must_use]
pub fn acceptor() -> TlsAcceptor {
    let key = PrivateKeyDer::try_from(identity().signing_key.serialize_der()).expect("our key is one");
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().expect("ring has what TLS 1.2 and 1.3 need");
    let config = builder.with_no_client_auth().with_single_cert(vec![identity().cert.der().clone()], key);
    TlsAcceptor::from(Arc::new(config.expect("our certificate is one")))
}

/// For connections to servers with our certificate, on which these protocols are offered (ALPN).
#[must_use]
pub fn connector(protocols: &[&str]) -> TlsConnector {
    connector_trusting(identity(), protocols)
}

/// The same for servers with another certificate.
///
/// # Panics
///
/// When it is none.
#[must_use]
pub fn connector_trusting(certified: &CertifiedKey<KeyPair>, protocols: &[&str]) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(certified.cert.der().clone()).expect("our certificate is one");
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().expect("ring has what TLS 1.2 and 1.3 need");
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    TlsConnector::from(Arc::new(config))
}

/// A certificate like ours, that nobody trusts yet.
///
/// # Panics
///
/// When none can be made.
#[must_use]
pub fn another() -> CertifiedKey<KeyPair> {
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    generate_simple_self_signed(names).expect("a certificate can be made")
}

/// An authority, and the certificate that it gave a server on this machine; all as PEM.
#[derive(Debug)]
pub struct Authority {
    /// The authority's own certificate.
    pub ca: String,
    /// The server's, for `localhost` and 127.0.0.1.
    pub certificate: String,
    /// Its private key.
    pub key: String,
}

/// An authority that nobody trusts yet.
///
/// # Panics
///
/// When none can be made.
#[must_use]
pub fn authority() -> Authority {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let parameters = |names: &[&str]| {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        CertificateParams::new(names).expect("our names are good")
    };
    let mut own = parameters(&[]);
    // A name of its own: one that is taken for another is found by its name.
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    own.distinguished_name.push(DnType::CommonName, format!("authority {number} of tests"));
    own.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let pair = || KeyPair::generate().expect("a key can be made");
    let (signing, key) = (pair(), pair());
    let ca = own.self_signed(&signing).expect("it can sign for itself").pem();
    let certificate = parameters(&["localhost", "127.0.0.1"]).signed_by(&key, &Issuer::new(own, signing));
    Authority { ca, certificate: certificate.expect("it can sign").pem(), key: key.serialize_pem() }
}

fn identity() -> &'static CertifiedKey<KeyPair> {
    static IDENTITY: OnceLock<CertifiedKey<KeyPair>> = OnceLock::new();
    IDENTITY.get_or_init(another)
}
