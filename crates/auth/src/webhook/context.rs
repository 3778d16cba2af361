//! What the webhook is told of a request, beside what its token says.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, header};
use serde::{Deserialize, Serialize};

use crate::config::Webhook as Config;
use crate::credential::is_from_a_page;

/// Most bytes of names and values of the headers that are forwarded.
const HEADERS_BYTES_MAX: usize = 4096;

/// What the webhook is told of a request: nothing where none is asked. Shows itself in no log.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Context(Option<Arc<Told>>);

#[derive(Default, PartialEq, Eq, Serialize, Deserialize)]
struct Told {
    #[serde(default)]
    address: Option<IpAddr>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
}

/// What of a request is told.
#[derive(Debug)]
pub(crate) struct Forward {
    names: Vec<HeaderName>,
    address: bool,
}

impl Forward {
    pub(crate) fn new(config: &Config) -> Self {
        let names = config.forward.iter().filter_map(|name| name.parse().ok()).collect();
        Forward { names, address: config.address }
    }

    /// Of a request with these headers, from this address.
    pub(crate) fn of(&self, headers: &HeaderMap, address: Option<IpAddr>) -> Context {
        let told =
            self.names.iter().filter_map(|name| Some((name.as_str().to_owned(), value(headers, name)?)));
        Context(Some(Arc::new(Told { address: address.filter(|_| self.address), headers: told.collect() })))
    }
}

/// All values of a name in one. A browser sends cookies by itself, whoever's page it was that asked: they are told only
/// when the page may use this server, as tokens in cookies count only then.
fn value(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    if name == header::COOKIE && !is_from_a_page(headers) {
        return None;
    }
    let between = if name == header::COOKIE { "; " } else { ", " };
    let values: Vec<_> = headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect();
    (!values.is_empty()).then(|| values.join(between))
}

impl Context {
    pub(super) fn address(&self) -> Option<IpAddr> {
        self.0.as_ref().and_then(|told| told.address)
    }

    pub(super) fn headers(&self) -> Option<&BTreeMap<String, String>> {
        self.0.as_ref().map(|told| &told.headers).filter(|headers| !headers.is_empty())
    }

    pub(super) fn is_too_long(&self) -> bool {
        let bytes = |(name, value): (&String, &String)| name.len() + value.len();
        self.headers().is_some_and(|headers| headers.iter().map(bytes).sum::<usize>() > HEADERS_BYTES_MAX)
    }

    /// For another gateway, which asks about the same request; none when there is nothing to tell.
    pub fn to_text(&self) -> Option<String> {
        let told = self.0.as_ref().filter(|told| ***told != Told::default())?;
        serde_json::to_string(&**told).ok()
    }

    /// What another gateway was told. One that can't be read tells nothing.
    pub fn from_text(text: &str) -> Self {
        Context(serde_json::from_str(text).ok().map(Arc::new))
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Context(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(forward: &[&str], lines: &[(&'static str, &str)]) -> Context {
        let config = Config {
            forward: forward.iter().map(|name| (*name).to_owned()).collect(),
            address: true,
            ..Config::default()
        };
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().unwrap());
        }
        Forward::new(&config).of(&headers, Some([203, 0, 113, 9].into()))
    }

    #[test]
    fn what_is_listed_is_told_and_cookies_only_of_pages_that_may_use_this_server() {
        let lines = [("cookie", "a=1"), ("cookie", "b=2"), ("x-tenant", "t"), ("authorization", "Basic x")];
        let headers = |context: &Context| {
            let headers = context.headers().cloned().unwrap_or_default();
            headers.into_iter().map(|(name, value)| format!("{name}: {value}")).collect::<Vec<_>>()
        };
        let forward = ["Cookie", "x-tenant", "x-missing"];
        assert_eq!(headers(&told(&forward, &lines)), ["x-tenant: t"]);
        for page in [("origin", "https://app.example"), ("sec-fetch-site", "same-origin")] {
            let context = told(&forward, &[&lines[..], &[page]].concat());
            assert_eq!(headers(&context), ["cookie: a=1; b=2", "x-tenant: t"]);
            assert_eq!(
                Context::from_text(&context.to_text().unwrap()),
                context,
                "as other gateways are told"
            );
        }
        let elsewhere = [&lines[..], &[("sec-fetch-site", "cross-site")]].concat();
        assert_eq!(headers(&told(&forward, &elsewhere)), ["x-tenant: t"]);
        assert!(told(&[], &lines).headers().is_none());
        assert_eq!(Context::default().to_text(), None);
        assert!(!told(&forward, &lines).is_too_long());
        assert!(told(&forward, &[("x-tenant", &"x".repeat(HEADERS_BYTES_MAX))]).is_too_long());
        assert_eq!(format!("{:?}", told(&forward, &lines)), "Context(hidden)");
    }
}
