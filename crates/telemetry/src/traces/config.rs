//! What is configured of traces.

use std::path::PathBuf;

use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use serde::{Deserialize, Serialize};

/// Most events a second that may be configured: traces are samples.
const EVENTS_MAX: u32 = 1000;

/// What is traced, and where it is sent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where the collector takes OTLP over gRPC, `http://collector:4317` or `https://…`; empty: nothing is traced.
    pub endpoint: String,
    /// Metadata of each request to it, `name=value` separated by commas, values percent-encoded, such as a token.
    pub headers: String,
    /// PEM file of an authority by which the collector's certificate may be, beside the system's.
    pub ca: PathBuf,
    /// The share of events that are traced, 0 to 1, of those that came without `traceparent`.
    pub sample: f64,
    /// Most events a second that each stage of this process traces, 1 to 1000.
    pub events_per_second: u32,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            endpoint: String::new(),
            headers: String::new(),
            ca: PathBuf::new(),
            sample: 0.0,
            events_per_second: 100,
        }
    }
}

impl Config {
    /// What is wrong with it; begins with the key, as it is below this section.
    pub fn check(&self) -> Result<(), String> {
        self.checked_endpoint()?;
        self.metadata()?;
        if !(0.0..=1.0).contains(&self.sample) {
            return Err(format!("sample must be between 0 and 1, not {}", self.sample));
        }
        if !(1..=EVENTS_MAX).contains(&self.events_per_second) {
            return Err(format!(
                "events_per_second must be between 1 and {EVENTS_MAX}, not {}; without an endpoint nothing is traced",
                self.events_per_second
            ));
        }
        Ok(())
    }

    /// The PEM text of the authority, if there is one; an error names the key.
    pub fn authority(&self) -> Result<Option<Vec<u8>>, String> {
        if self.ca.as_os_str().is_empty() {
            return Ok(None);
        }
        let read = std::fs::read(&self.ca);
        read.map(Some).map_err(|error| format!("ca: {} can't be read: {error}", self.ca.display()))
    }

    fn checked_endpoint(&self) -> Result<(), String> {
        if self.endpoint.is_empty() {
            return Ok(());
        }
        let uri = self.endpoint.parse::<Uri>().ok();
        let fits = uri.is_some_and(|uri| {
            matches!(uri.scheme_str(), Some("http" | "https"))
                && uri.authority().is_some_and(|authority| !authority.as_str().contains('@'))
                && matches!(uri.path(), "" | "/")
                && uri.query().is_none()
        });
        // Not shown: somebody may have written a password into it.
        let what = "endpoint must be http:// or https:// and a host, with a port as a rule, like http://collector:4317; \
                    credentials go into headers";
        if fits { Ok(()) } else { Err(what.to_owned()) }
    }

    /// The metadata of each request.
    pub(super) fn metadata(&self) -> Result<HeaderMap, String> {
        let mut metadata = HeaderMap::new();
        for (number, pair) in (1..).zip(self.headers.split(',').filter(|pair| !pair.trim().is_empty())) {
            let header = pair.split_once('=').and_then(|(name, value)| {
                let name = name.trim().to_ascii_lowercase().parse::<HeaderName>().ok()?;
                Some((name, HeaderValue::from_bytes(&decoded(value.trim())?).ok()?))
            });
            // Not shown: it is a secret.
            let (name, mut value) =
                header.ok_or_else(|| format!("headers: the pair {number} is not name=value"))?;
            value.set_sensitive(true);
            metadata.append(name, value);
        }
        Ok(metadata)
    }
}

/// Percent-decoded; none when what follows a `%` isn't two digits.
fn decoded(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let mut digit = || char::from(bytes.next()?).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let (high, low) = (digit()?, digit()?);
        out.push(high * 16 + low);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_named_and_no_secret_is_shown() {
        let check = |change: fn(&mut Config)| {
            let mut config = Config::default();
            change(&mut config);
            config.check()
        };
        assert_eq!(check(|_| {}), Ok(()));
        assert_eq!(check(|config| config.endpoint = "https://collector:4317".into()), Ok(()));
        assert_eq!(check(|config| config.sample = 1.0), Ok(()));
        let wrong = [
            ("endpoint", check(|config| config.endpoint = "hunter2:4317".into())),
            ("endpoint", check(|config| config.endpoint = "http://me:hunter2@collector:4317".into())),
            ("endpoint", check(|config| config.endpoint = "http://collector:4318/v1/traces?hunter2".into())),
            ("headers", check(|config| config.headers = "authorization".into())),
            ("headers", check(|config| config.headers = "a=b,authorization: Bearer hunter2".into())),
            ("headers", check(|config| config.headers = "a=hunter2%0d%0ab".into())),
            ("sample", check(|config| config.sample = f64::NAN)),
            ("events_per_second", check(|config| config.events_per_second = 0)),
        ];
        for (key, checked) in wrong {
            let error = checked.unwrap_err();
            assert!(error.starts_with(key) && !error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn headers_are_read_as_the_standard_has_them() {
        let config =
            Config { headers: "Authorization=Bearer%20a%3Db, x-scope = 7 ,".into(), ..Config::default() };
        let metadata = config.metadata().unwrap();
        assert_eq!(metadata["authorization"], "Bearer a=b");
        assert_eq!(metadata["x-scope"], "7");
        assert!(metadata["authorization"].is_sensitive());
    }
}
