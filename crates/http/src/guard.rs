//! Who may ask at all: the Host a request names and the Origin it comes from.
//!
//! A server on 127.0.0.1 is reachable by every website that its user visits, directly (cross-origin
//! requests) or by a name that the attacker points there (DNS rebinding). So both are checked even there.

use http::{HeaderMap, HeaderValue, StatusCode, header};

use crate::problem::Problem;

/// Which Hosts and Origins are served.
#[derive(Debug, Clone, Default)]
pub struct Guard {
    hosts: Vec<String>,
    origins: Vec<Listed>,
    any_host: bool,
    tls: bool,
}

/// Whose request it is, as far as a browser says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asker {
    /// A page of the server's own origin, or no page at all.
    Own,
    /// A page of a listed origin, as the browser names it.
    Listed(HeaderValue),
}

/// Origins that are listed. In lower case, as browsers send them.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Listed {
    One(String),
    /// `https://*.example.com`: those of one label more, and no other.
    Below {
        /// `https://`
        scheme: String,
        /// `.example.com`, with a port if there is one.
        domain: String,
    },
}

impl Listed {
    fn new(origin: &str) -> Self {
        let origin = origin.trim_end_matches('/').to_ascii_lowercase();
        match origin.split_once("://*.") {
            Some((scheme, domain)) => {
                Listed::Below { scheme: format!("{scheme}://"), domain: format!(".{domain}") }
            }
            None => Listed::One(origin),
        }
    }

    fn is(&self, origin: &str) -> bool {
        match self {
            Listed::One(one) => one == origin,
            Listed::Below { scheme, domain } => {
                let label =
                    origin.strip_prefix(scheme.as_str()).and_then(|rest| rest.strip_suffix(domain.as_str()));
                label.is_some_and(|label| {
                    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
                    !label.is_empty() && label.bytes().all(plain)
                })
            }
        }
    }
}

impl Guard {
    /// Serves loopback names and the listed hosts (names or addresses without a port); of origins the
    /// server's own and the listed ones: `https://app.example.com`, or `https://*.example.com` for those of
    /// one label more. `*` among the hosts serves all.
    pub fn new(hosts: &[String], origins: &[String]) -> Self {
        Guard {
            hosts: hosts.iter().map(|h| h.to_ascii_lowercase()).collect(),
            origins: origins.iter().map(|origin| Listed::new(origin)).collect(),
            any_host: hosts.iter().any(|h| h == "*"),
            tls: false,
        }
    }

    /// For a listener that speaks TLS itself, if it does: the pages of `http://` on the same host are then of
    /// another origin, which whoever sits on the way can make up.
    #[must_use]
    pub fn over_tls(self, tls: bool) -> Self {
        Guard { tls, ..self }
    }

    /// Whose request it is, when it may go on.
    pub fn check(&self, headers: &HeaderMap) -> Result<Asker, Problem> {
        let host = self.check_host(headers)?;
        let mut origins = headers.get_all(header::ORIGIN).iter();
        match (origins.next(), origins.next()) {
            (None, _) => Ok(Asker::Own),
            (Some(named), None) => {
                let origin = named.to_str().unwrap_or("?").to_ascii_lowercase();
                if self.origins.iter().any(|listed| listed.is(&origin)) {
                    return Ok(Asker::Listed(named.clone()));
                }
                // Without TLS here a proxy may have it.
                let plain = origin.strip_prefix("http://").filter(|_| !self.tls);
                let authority = plain.or_else(|| origin.strip_prefix("https://"));
                let same = authority.is_some_and(|a| a.eq_ignore_ascii_case(&host));
                if same { Ok(Asker::Own) } else { Err(refused_origin(&origin)) }
            }
            (Some(_), Some(_)) => Err(refused_origin("(several)")),
        }
    }

    fn check_host(&self, headers: &HeaderMap) -> Result<String, Problem> {
        let mut hosts = headers.get_all(header::HOST).iter();
        let host = match (hosts.next(), hosts.next()) {
            (Some(host), None) => host.to_str().unwrap_or("?").to_ascii_lowercase(),
            _ => "(none or several)".to_owned(),
        };
        let name = without_port(&host);
        if is_loopback(name) || self.any_host || self.hosts.iter().any(|h| h == name) {
            return Ok(host);
        }
        Err(Problem::new(StatusCode::MISDIRECTED_REQUEST, "host", "This server doesn't answer for that Host").detail(
            format!("Host is {host:?}; add its name to http.hosts in the configuration if it is meant to be served"),
        ))
    }
}

/// Whether a request names this machine by a name that no other machine has.
pub fn names_loopback(headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    host.is_some_and(|host| is_loopback(without_port(&host.to_ascii_lowercase())))
}

fn is_loopback(name: &str) -> bool {
    matches!(name, "localhost" | "127.0.0.1" | "[::1]") || name.ends_with(".localhost")
}

fn refused_origin(origin: &str) -> Problem {
    Problem::new(StatusCode::FORBIDDEN, "origin", "Pages of this origin may not use this server")
        .detail(format!("Origin is {origin:?}; add it to http.origins in the configuration if it may"))
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') && !name.is_empty() => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn over_tls_pages_without_it_are_of_another_origin() {
        let guard = Guard::new(&["events.example.com".into()], &["http://old.example.com".into()]);
        let refused = |guard: &Guard, origin: &str| {
            guard.check(&headers("events.example.com", Some(origin))).err().map(|problem| problem.code)
        };
        let (own, bare) = ("https://events.example.com", "http://events.example.com");
        // A proxy may have spoken TLS with the browser.
        assert_eq!((refused(&guard, own), refused(&guard, bare)), (None, None));
        let guard = guard.over_tls(true);
        assert_eq!((refused(&guard, own), refused(&guard, bare)), (None, Some("origin")));
        assert_eq!(refused(&guard, "http://old.example.com"), None, "unless they are named");
    }

    fn headers(host: &str, origin: Option<&str>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().unwrap());
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, origin.parse().unwrap());
        }
        headers
    }

    #[test]
    fn other_websites_and_rebound_names_are_refused() {
        let guard = Guard::new(&["events.example.com".into()], &["https://app.example.com".into()]);
        for (host, origin, expected) in [
            ("127.0.0.1:8080", None, None),
            ("[::1]:8080", None, None),
            ("localhost", None, None),
            ("Events.Example.com", Some("https://app.example.com"), None),
            ("localhost:8080", Some("http://localhost:8080"), None),
            ("localhost:8080", Some("http://localhost:3000"), Some("origin")),
            ("localhost:8080", Some("null"), Some("origin")),
            ("localhost:8080", Some("https://evil.example"), Some("origin")),
            ("evil.example:8080", None, Some("host")),
            ("127.0.0.1.evil.example", None, Some("host")),
        ] {
            let refused = guard.check(&headers(host, origin)).err().map(|p| p.code);
            assert_eq!(refused, expected, "{host} {origin:?}");
        }
        assert_eq!(guard.check(&HeaderMap::new()).err().map(|p| p.code), Some("host"));
    }

    #[test]
    fn a_wildcard_stands_for_one_label_and_nothing_else() {
        let guard = Guard::new(&[], &["https://*.example.com".into(), "http://*.app.localhost:3000".into()]);
        for (origin, listed) in [
            ("https://a.example.com", true),
            ("https://A-1.Example.com", true),
            ("https://example.com", false),
            ("https://.example.com", false),
            ("https://a.b.example.com", false),
            ("http://a.example.com", false),
            ("https://a.example.com:8443", false),
            ("https://a.example.com.evil.example", false),
            ("https://evil.example/.example.com", false),
            ("https://evil.example?.example.com", false),
            ("https://user@.example.com", false),
            ("https://aexample.com", false),
            ("http://one.app.localhost:3000", true),
            ("http://one.app.localhost", false),
            ("null", false),
        ] {
            let asker = guard.check(&headers("localhost:8080", Some(origin))).ok();
            let expected = listed.then(|| Asker::Listed(origin.parse().unwrap()));
            assert_eq!(asker, expected, "{origin}");
        }
        // The server's own needs no leave, and gets none: another scheme would be another origin.
        let own = guard.check(&headers("localhost:8080", Some("http://localhost:8080")));
        assert_eq!(own.ok(), Some(Asker::Own));
    }
}
