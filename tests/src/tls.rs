//! The certificate of every TLS server that the harness starts, and clients that trust it and nothing else.

use std::sync::{Arc, OnceLock};

use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

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

/// For connections to servers with our certificate.
pub(crate) fn connector() -> TlsConnector {
    static CONFIG: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    let config = CONFIG.get_or_init(|| {
        let mut roots = RootCertStore::empty();
        roots.add(identity().cert.der().clone()).expect("our certificate is one");
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder =
            builder.with_safe_default_protocol_versions().expect("ring has what TLS 1.2 and 1.3 need");
        Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
    });
    TlsConnector::from(Arc::clone(config))
}

fn identity() -> &'static CertifiedKey<KeyPair> {
    static IDENTITY: OnceLock<CertifiedKey<KeyPair>> = OnceLock::new();
    IDENTITY.get_or_init(|| {
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        generate_simple_self_signed(names).expect("a certificate can be made")
    })
}
