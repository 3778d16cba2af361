//! HTTP as the commands use it: one server, known by its base URL, and its refusals in its own words.

use std::error::Error as _;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use foghorn_core::secret::Secret;
use reqwest::{Certificate, Client, ClientBuilder, Response, StatusCode, Url, header};
use rustls::CertificateError;
use serde_json::Value;

/// How long a connection may take to be made.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// Bytes read of an answer that is not an event stream.
pub(super) const ANSWER_BYTES_MAX: usize = 8 << 20;

/// Which server a command speaks to.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ServerArgs {
    /// The server's address, with a path if it is not at the top
    #[arg(long, env = "FOGHORN_URL", default_value = "http://127.0.0.1:8080", value_parser = base_url)]
    pub(super) url: Url,
    /// Trust the certificates in this PEM file, and no others: for a server whose own certificate is
    /// self-signed, or of an authority that this machine doesn't know
    #[arg(long, value_name = "FILE")]
    pub(super) ca: Option<PathBuf>,
    /// The token to be known by. Better given in the environment: other users of this machine see arguments
    #[arg(long, env = "FOGHORN_TOKEN", hide_env_values = true)]
    pub(super) token: Option<Secret>,
}

/// A server and the connections to it.
#[derive(Debug, Clone)]
pub(super) struct Server {
    base: Url,
    pub(super) client: Client,
}

impl Server {
    /// Nothing is connected yet.
    pub(super) fn new(args: &ServerArgs) -> anyhow::Result<Self> {
        Server::with(args, ClientBuilder::http1_only)
    }

    /// The same, over HTTP/2 where a server agrees on it by TLS, as with a browser.
    pub(super) fn of_browsers(args: &ServerArgs) -> anyhow::Result<Self> {
        Server::with(args, |builder| builder)
    }

    fn with(args: &ServerArgs, spoken: fn(ClientBuilder) -> ClientBuilder) -> anyhow::Result<Self> {
        // Fails only when one is installed already, which is as good.
        let _installed = rustls::crypto::ring::default_provider().install_default().is_ok();
        let mut builder = spoken(Client::builder())
            .user_agent(concat!("foghorn/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_DEADLINE)
            .tcp_nodelay(true)
            // A redirected POST comes out as a GET; better to say where the server really is.
            .redirect(reqwest::redirect::Policy::none());
        if let Some(path) = &args.ca {
            builder = builder.tls_certs_only(certificates(path)?);
        } else if args.url.scheme() == "http" {
            // Without TLS no certificates are needed, and a slim container has none to load.
            builder = builder.tls_certs_only([]);
        }
        if is_loopback(&args.url) {
            builder = builder.no_proxy();
        }
        if let Some(token) = &args.token {
            let value = header::HeaderValue::from_str(&format!("Bearer {}", token.reveal()));
            let mut value =
                value.map_err(|_| anyhow::anyhow!("--token: it has characters that no token has"))?;
            value.set_sensitive(true);
            builder = builder.default_headers([(header::AUTHORIZATION, value)].into_iter().collect());
        }
        let client = builder.build().map_err(|error| anyhow::anyhow!("{}", explain(&error)));
        Ok(Server { base: args.url.clone(), client: client.context("can't set up HTTP")? })
    }

    /// Why an exchange with it failed.
    pub(super) fn explain(&self, error: &reqwest::Error) -> String {
        format!("{}: {}", self.base.origin().ascii_serialization(), explain(error))
    }

    /// The URL of a path below the base, given without a leading slash.
    pub(super) fn at(&self, path: &str) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("{}{path}", self.base.path()));
        url
    }
}

/// The certificates of a PEM file; at least one.
fn certificates(path: &Path) -> anyhow::Result<Vec<Certificate>> {
    let read =
        || -> anyhow::Result<Vec<Certificate>> { Ok(Certificate::from_pem_bundle(&std::fs::read(path)?)?) };
    let found = read().with_context(|| format!("--ca: can't read certificates from {}", path.display()))?;
    anyhow::ensure!(!found.is_empty(), "--ca: {} holds no certificate in PEM", path.display());
    Ok(found)
}

/// A server's base URL; its path ends with a slash.
pub(super) fn base_url(text: &str) -> Result<Url, String> {
    let mut url = Url::parse(text).map_err(|error| format!("{error}; give it like http://127.0.0.1:8080"))?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(format!("it must begin with http:// or https://; did you mean http://{text}?"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("only the address and a path, without ? or #".to_owned());
    }
    if !url.path().ends_with('/') {
        url.set_path(&format!("{}/", url.path()));
    }
    Ok(url)
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    host == "localhost"
        || host.ends_with(".localhost")
        || host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Why an exchange failed, causes included: reqwest's own text stops at "error sending request".
pub(crate) fn explain(error: &reqwest::Error) -> String {
    let mut text = if error.is_timeout() && !error.is_connect() {
        "no answer in time".to_owned()
    } else if let Some(tls) = tls_error(error) {
        return tls_words(tls);
    } else if error.is_connect() {
        "can't connect (does a server listen there?)".to_owned()
    } else if error.is_request() || error.is_body() || error.is_decode() {
        "the connection broke".to_owned()
    } else {
        error.to_string()
    };
    // The innermost cause is the one that says something; those between repeat it or wrap it.
    let mut cause = error.source();
    let mut last = None;
    while let Some(inner) = cause {
        last = Some(inner.to_string());
        cause = inner.source();
    }
    if let Some(last) = last.filter(|last| !text.contains(last.as_str())) {
        text = format!("{text}: {last}");
    }
    text
}

/// Whether the same would happen again: a server's certificate is no better a second later.
pub(super) fn is_final(error: &reqwest::Error) -> bool {
    matches!(tls_error(error), Some(rustls::Error::InvalidCertificate(_)))
}

/// What TLS says, if it was that.
fn tls_error(error: &reqwest::Error) -> Option<&rustls::Error> {
    let mut cause = error.source();
    while let Some(inner) = cause {
        if let Some(tls) = inner.downcast_ref() {
            return Some(tls);
        }
        // What an I/O error wraps, another one often, is not among its sources.
        cause = match inner.downcast_ref::<io::Error>() {
            Some(wrapping) => wrapping.get_ref().map(|wrapped| wrapped as &(dyn std::error::Error + 'static)),
            None => inner.source(),
        };
    }
    None
}

fn tls_words(error: &rustls::Error) -> String {
    use CertificateError::{
        Expired, ExpiredContext, NotValidForName, NotValidForNameContext, NotValidYet, NotValidYetContext,
    };
    match error {
        rustls::Error::InvalidCertificate(
            why @ (Expired
            | ExpiredContext { .. }
            | NotValidYet
            | NotValidYetContext { .. }
            | NotValidForName
            | NotValidForNameContext { .. }),
        ) => format!("the server's certificate can't be used: {why}"),
        rustls::Error::InvalidCertificate(why) => format!(
            "this machine doesn't trust the server's certificate ({why}); if it is the right one, give it (or \
             its authority's) with --ca FILE"
        ),
        rustls::Error::InvalidMessage(_) => {
            "what answers there does not speak TLS; is it http:// rather than https://?".to_owned()
        }
        other => format!("no TLS connection: {other}"),
    }
}

/// An answer other than the one hoped for.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    /// What the server says: a problem's title and detail, or else the status.
    pub(super) text: String,
    /// When it wants to be asked again.
    pub(super) retry_after: Option<Duration>,
    /// Whether the same request may succeed later.
    pub(super) passes: bool,
}

impl Refusal {
    /// Reads what the server says.
    pub(super) async fn read(response: Response) -> Self {
        let head = Head::of(&response);
        // The status tells enough if the rest doesn't come.
        let body = read_body(response).await.unwrap_or_default();
        Refusal::new(&head, &body)
    }

    /// From what has been read already.
    pub(super) fn new(head: &Head, body: &[u8]) -> Self {
        let status = head.status;
        let problem: Value = serde_json::from_slice(body).unwrap_or_default();
        let mut text = status.to_string();
        if status.is_redirection() {
            let to = head.location.as_deref().unwrap_or("somewhere else");
            text = format!("{text}: the server says to go to {to}; give that as --url");
        } else if let Some(said) = problem_text(&problem) {
            text = format!("{text}: {said}");
        }
        let passes =
            problem.get("retryable").and_then(Value::as_bool).unwrap_or_else(|| passes_by_status(status));
        Refusal { status, text, retry_after: head.retry_after, passes }
    }
}

fn passes_by_status(status: StatusCode) -> bool {
    status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED
        || matches!(
            status,
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS
        )
}

/// What a refusal needs of a response's head.
#[derive(Debug, Clone)]
pub(super) struct Head {
    pub(super) status: StatusCode,
    location: Option<String>,
    retry_after: Option<Duration>,
}

impl Head {
    /// Copies it.
    pub(super) fn of(response: &Response) -> Self {
        let text = |name| response.headers().get(name).and_then(|v| v.to_str().ok());
        Head {
            status: response.status(),
            location: text(header::LOCATION).map(str::to_owned),
            retry_after: text(header::RETRY_AFTER).and_then(|s| s.parse().ok()).map(Duration::from_secs),
        }
    }
}

/// A body of at most [`ANSWER_BYTES_MAX`]; what is beyond is left.
pub(super) async fn read_body(mut response: Response) -> Result<Vec<u8>, reqwest::Error> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        let room = ANSWER_BYTES_MAX - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if chunk.len() >= room {
            break;
        }
    }
    Ok(body)
}

/// The title and detail of a problem (RFC 9457), or a plain error's message.
pub(super) fn problem_text(problem: &Value) -> Option<String> {
    let text = |key| problem.get(key).and_then(Value::as_str);
    match (text("title").or_else(|| text("code")), text("detail").or_else(|| text("message"))) {
        (Some(title), Some(detail)) => Some(format!("{title}: {detail}")),
        (one, other) => one.or(other).map(str::to_owned),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_url_is_checked_and_extended() {
        for (text, path) in [
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080/api/publish"),
            ("https://events.example.com/push", "https://events.example.com/push/api/publish"),
            ("http://[::1]:1/a/", "http://[::1]:1/a/api/publish"),
        ] {
            let server =
                Server::new(&ServerArgs { url: base_url(text).unwrap(), ca: None, token: None }).unwrap();
            assert_eq!(server.at("api/publish").as_str(), path);
        }
        for (bad, hint) in [
            ("localhost:8080", "did you mean http://localhost:8080?"),
            ("127.0.0.1:8080", "like http://"),
            ("http://a/?x=1", "without ?"),
        ] {
            assert!(base_url(bad).unwrap_err().contains(hint), "{bad}: {:?}", base_url(bad));
        }
    }

    #[test]
    fn what_is_no_certificate_is_said_with_its_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let url = base_url("https://a").unwrap();
        for path in [file.path(), Path::new("/nonexistent.pem")] {
            let error = Server::new(&ServerArgs { url: url.clone(), ca: Some(path.to_owned()), token: None })
                .unwrap_err();
            let words = error.to_string();
            assert!(words.contains("--ca") && words.contains(path.to_str().unwrap()), "{words}");
        }
    }

    #[test]
    fn a_refusal_speaks_the_servers_words() {
        let head = |status, location: Option<&str>| Head {
            status: StatusCode::from_u16(status).unwrap(),
            location: location.map(str::to_owned),
            retry_after: None,
        };
        let problem = br#"{"type":"x","title":"Not a channel","status":400,"detail":"token 2 is empty"}"#;
        let refusal = Refusal::new(&head(400, None), problem);
        assert_eq!(refusal.text, "400 Bad Request: Not a channel: token 2 is empty");
        assert!(!refusal.passes);
        assert_eq!(Refusal::new(&head(502, None), b"<html>").text, "502 Bad Gateway");
        assert!(Refusal::new(&head(503, None), b"").passes);
        let moved = Refusal::new(&head(301, Some("https://a/")), b"");
        assert!(moved.text.contains("https://a/; give that as --url"), "{}", moved.text);
    }
}
