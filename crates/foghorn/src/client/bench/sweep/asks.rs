//! What listeners ask a server for, and how they reach it.

use std::fmt::Write as _;
use std::sync::Arc;

use rustls::ClientConfig;

use super::variant::Variant;

/// The type that listeners ask for who ask for one.
pub(super) const TYPE: &str = "bench";

/// Of all listeners that an audience has.
#[derive(Default)]
pub(in crate::client::bench) struct Asks {
    pub(super) variant: Variant,
    /// The channel, if it isn't the variant's.
    pub(super) channel: Option<&'static str>,
    /// Their tokens: none, one for all, or one for each.
    pub(super) tokens: Vec<String>,
    /// With which they connect; none without TLS.
    pub(super) tls: Option<Arc<ClientConfig>>,
}

impl Asks {
    /// Path and query of a listener.
    pub(super) fn path(&self, listener: usize) -> String {
        let mut path = "/api/events?channels=".to_owned();
        match self.channel {
            Some(channel) => path.push_str(channel),
            None => {
                let names: Vec<_> =
                    self.variant.heard_by(listener).map(|number| self.variant.channel(number)).collect();
                path.push_str(&names.join(","));
            }
        }
        if self.variant.types {
            path.push_str("&events=");
            path.push_str(TYPE);
        }
        path
    }

    /// The token of a listener.
    pub(super) fn token(&self, listener: usize) -> Option<&str> {
        self.tokens.get(listener % self.tokens.len().max(1)).map(String::as_str)
    }

    /// All of it, as HTTP/1.1.
    pub(super) fn request(&self, listener: usize) -> String {
        let mut request = format!("GET {} HTTP/1.1\r\nHost: localhost\r\n", self.path(listener));
        request.push_str("Accept: text/event-stream\r\n");
        if let Some(token) = self.token(listener) {
            // Writing to a string fails never.
            write!(request, "Authorization: Bearer {token}\r\n").unwrap_or_default();
        }
        if self.variant.gzip {
            request.push_str("Accept-Encoding: gzip\r\n");
        }
        request.push_str("\r\n");
        request
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_what_the_variant_says() {
        let plain = Asks::default().request(3);
        assert_eq!(
            plain,
            "GET /api/events?channels=bench HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n"
        );
        let variant = Variant { channels: 2, types: true, gzip: true, ..Variant::default() };
        let asks = Asks { variant, tokens: vec!["a".into(), "b".into()], ..Asks::default() };
        let request = asks.request(3);
        assert!(request.starts_with("GET /api/events?channels=bench-0,bench-1&events=bench HTTP/1.1\r\n"));
        assert!(request.contains("Authorization: Bearer b\r\nAccept-Encoding: gzip\r\n\r\n"), "{request}");
    }
}
