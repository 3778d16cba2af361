//! One GET over HTTP/1.1, of a document that is small and comes soon.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use foghorn_auth::config::Jwks;
use foghorn_auth::jwks::ANSWER_BYTES_MAX;

/// A URL that keys are behind.
pub(super) struct Source {
    uri: Uri,
    host: String,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

/// What it answered.
pub(super) struct Answer {
    pub(super) body: Bytes,
    /// For how long, as far as it says.
    pub(super) holds: Option<Duration>,
}

impl Source {
    /// Reads what is trusted for it. The error begins with `auth.jwks`.
    pub(super) fn new(jwks: &Jwks) -> Result<Self, String> {
        let wrong = |what: String| format!("auth.jwks: {:?}: {what}", jwks.url);
        let uri: Uri = jwks.url.parse().map_err(|error| wrong(format!("{error}")))?;
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let is_tls = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let tls = if is_tls {
            let name = ServerName::try_from(host.clone()).map_err(|error| wrong(error.to_string()))?;
            let provider = Arc::new(ring::default_provider());
            let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
            let config = config.map_err(|error| wrong(error.to_string()))?;
            let roots = roots(&jwks.ca).map_err(wrong)?;
            let config = config.with_root_certificates(roots).with_no_client_auth();
            Some((TlsConnector::from(Arc::new(config)), name))
        } else {
            None
        };
        Ok(Source { uri, host, port, tls })
    }

    /// Its URL without scheme and query.
    pub(super) fn name(&self) -> String {
        format!("{}{}", self.uri.authority().map_or("", |authority| authority.as_str()), self.uri.path())
    }

    /// Fetches it. Redirects are not followed: who may choose the keys is who is configured. Takes as long as it
    /// takes; the caller has a deadline.
    pub(super) async fn fetch(&self) -> Result<Answer, String> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await;
        let stream = stream.map_err(|error| format!("can't connect: {error}"))?;
        match &self.tls {
            None => self.ask(stream).await,
            Some((connector, name)) => {
                let stream = connector.connect(name.clone(), stream).await;
                self.ask(stream.map_err(|error| format!("TLS: {error}"))?).await
            }
        }
    }

    async fn ask(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ) -> Result<Answer, String> {
        let (mut sender, mut connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
        let mut exchange = std::pin::pin!(async {
            let request = Request::get(self.uri.path_and_query().map_or("/", |path| path.as_str()))
                .header(header::HOST, self.uri.authority().map_or("", |authority| authority.as_str()))
                .header(header::ACCEPT, "application/jwk-set+json, application/json")
                .header(header::USER_AGENT, concat!("foghorn/", env!("CARGO_PKG_VERSION")))
                .header(header::CONNECTION, "close")
                .body(Empty::<Bytes>::new())
                .map_err(|error| error.to_string())?;
            let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
            if response.status() != StatusCode::OK {
                return Err(format!("it answers {}", response.status()));
            }
            let holds = max_age(response.headers());
            let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
            let body = body.map_err(|error| format!("its answer can't be read: {error}"))?.to_bytes();
            Ok(Answer { body, holds })
        });
        tokio::select! {
            biased;
            done = &mut exchange => done,
            // What it has read is still to be had of it.
            _ = &mut connection => exchange.await,
        }
    }
}

/// The authorities of a file, or the system's.
fn roots(ca: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    if ca.as_os_str().is_empty() {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        return match roots.is_empty() {
            true => Err("this system has no certificates of authorities; name some with ca".to_owned()),
            false => Ok(roots),
        };
    }
    let shown = ca.display();
    let pem = std::fs::read(ca).map_err(|error| format!("{shown} can't be read: {error}"))?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let certificates = certificates.map_err(|error| format!("{shown} is not PEM: {error}"))?;
    if roots.add_parsable_certificates(certificates).0 == 0 {
        return Err(format!("{shown} holds no certificate; it begins with -----BEGIN CERTIFICATE-----"));
    }
    Ok(roots)
}

/// `Cache-Control: max-age`, in whatever company. What may not be stored holds for no time.
fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let lines = headers.get_all(header::CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    let directives: Vec<_> =
        lines.flat_map(|line| line.split(',')).map(|part| part.trim().to_lowercase()).collect();
    if directives.iter().any(|directive| directive == "no-store" || directive == "no-cache") {
        return Some(Duration::ZERO);
    }
    let seconds = directives.iter().find_map(|directive| directive.strip_prefix("max-age="))?;
    seconds.trim_matches('"').parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_answer_says_of_its_age_is_read() {
        for (value, expected) in [
            ("public, Max-Age=300", Some(300)),
            ("max-age=\"60\", must-revalidate", Some(60)),
            ("no-store, max-age=300", Some(0)),
            ("max-age=soon", None),
            ("s-maxage=300", None),
            ("", None),
        ] {
            let headers = HeaderMap::from_iter([(header::CACHE_CONTROL, value.parse().unwrap())]);
            assert_eq!(max_age(&headers), expected.map(Duration::from_secs), "{value}");
        }
        assert_eq!(max_age(&HeaderMap::new()), None);
    }

    #[test]
    fn an_authority_that_is_named_has_to_be_one() {
        let folder = tempfile::tempdir().unwrap();
        let ca = folder.path().join("ca.pem");
        let jwks = Jwks { url: "https://login.example.com/".to_owned(), ca: ca.clone(), ..Jwks::default() };
        let error = || Source::new(&jwks).map(|_| ()).unwrap_err();
        assert!(error().starts_with("auth.jwks: ") && error().contains("can't be read"), "{}", error());
        std::fs::write(&ca, "no PEM").unwrap();
        assert!(error().contains("holds no certificate"), "{}", error());
    }
}
