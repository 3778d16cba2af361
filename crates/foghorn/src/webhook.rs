//! The webhook authoriser as it is asked: one POST a question, over connections that are kept.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use reqwest::{Certificate, Client, Url, header};

use foghorn_auth::Webhook;
use foghorn_auth::config::{Config, Webhook as Settings};
use foghorn_auth::webhook::{ANSWER_BYTES_MAX, Authoriser, Failure, SigningSecret};

use crate::client;

/// How long a connection is kept that nobody asks anything over.
const IDLE: Duration = Duration::from_secs(60);

/// An application behind a URL.
struct Application {
    client: Client,
    url: Url,
    secret: Option<SigningSecret>,
}

/// Who is asked where policies leave it to a webhook, if one is configured. The error begins with `auth.webhook`.
pub(crate) fn of(config: &Config) -> Result<Option<Webhook>, String> {
    let settings = &config.webhook;
    if !settings.is_configured() {
        return Ok(None);
    }
    let application = Application::new(settings).map_err(|what| format!("auth.webhook.{what}"))?;
    Ok(Some(Webhook::new(settings, application)))
}

impl Application {
    fn new(settings: &Settings) -> Result<Self, String> {
        let url: Url = settings.url.parse().map_err(|error| format!("url: {error}"))?;
        // Fails only when one is installed already, which is as good.
        let _installed = rustls::crypto::ring::default_provider().install_default().is_ok();
        let mut builder = Client::builder()
            .user_agent(concat!("foghorn/", env!("CARGO_PKG_VERSION")))
            .tcp_nodelay(true)
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(settings.questions)
            // Who may allow something is who is configured, reached as is configured.
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy();
        if !settings.ca.as_os_str().is_empty() {
            builder = builder.tls_certs_only(authorities(&settings.ca)?);
        } else if url.scheme() == "http" {
            // Without TLS no certificates are needed, and a slim container has none to load.
            builder = builder.tls_certs_only([]);
        }
        let client = builder.build().map_err(|error| format!("url: {}", client::http::explain(&error)))?;
        Ok(Application { client, url, secret: settings.signing_secret()? })
    }

    async fn ask_now(&self, question: Bytes) -> Result<Bytes, Failure> {
        let unreachable = |error: reqwest::Error| Failure::Unreachable(client::http::explain(&error));
        let mut request = self.client.post(self.url.clone()).header(header::CONTENT_TYPE, "application/json");
        request = request.header(header::ACCEPT, "application/json");
        for (name, value) in self.sign(&question).into_iter().flatten() {
            request = request.header(name, value);
        }
        let mut response = request.body(question).send().await.map_err(unreachable)?;
        if !response.status().is_success() {
            return Err(Failure::Status(response.status().as_u16()));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
            if body.len() + chunk.len() > ANSWER_BYTES_MAX {
                return Err(Failure::Oversized);
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body.into())
    }

    fn sign(&self, question: &[u8]) -> Option<foghorn_auth::webhook::Signature> {
        let secret = self.secret.as_ref()?;
        let id = format!("msg_{:032x}", rand::random::<u128>());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        Some(secret.sign(&id, now, question))
    }
}

impl Authoriser for Application {
    fn ask(&self, question: Bytes) -> BoxFuture<'_, Result<Bytes, Failure>> {
        self.ask_now(question).boxed()
    }
}

/// The certificates of a PEM file; at least one.
fn authorities(path: &Path) -> Result<Vec<Certificate>, String> {
    let shown = path.display();
    let pem = std::fs::read(path).map_err(|error| format!("ca: {shown} can't be read: {error}"))?;
    let found = Certificate::from_pem_bundle(&pem).map_err(|error| format!("ca: {shown}: {error}"))?;
    if found.is_empty() {
        return Err(format!("ca: {shown} holds no certificate; it begins with -----BEGIN CERTIFICATE-----"));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_that_is_named_has_to_be_one() {
        let folder = tempfile::tempdir().unwrap();
        let ca = folder.path().join("ca.pem");
        let url = "https://app.example.com/authorise".to_owned();
        let webhook = Settings { url, ca: ca.clone(), ..Settings::default() };
        let config = Config { webhook, ..Config::default() };
        let error = || of(&config).map(|_| ()).unwrap_err();
        assert!(error().starts_with("auth.webhook.ca: ") && error().contains("can't be read"), "{}", error());
        std::fs::write(&ca, "no PEM").unwrap();
        assert!(error().contains("holds no certificate"), "{}", error());
        assert!(of(&Config::default()).unwrap().is_none());
    }
}
