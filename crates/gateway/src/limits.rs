//! How often somebody may ask: by where they are, by who they are, and all of them together.

use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;

use foghorn_auth::Caller;
use foghorn_http::client::{AddressLimiter, Proxies};
use foghorn_http::limit::{Budget, Exceeded, Limiter};

use crate::config::Config;

/// By what somebody is known who asks too often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    Address,
    Subject,
    /// By nothing: the gateway has as many as it can take.
    Gateway,
}

/// Somebody has to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limited {
    pub(crate) by: By,
    pub(crate) exceeded: Exceeded,
}

/// A gateway's limits.
#[derive(Debug)]
pub(crate) struct Limits {
    addresses: AddressLimiter,
    subjects: Limiter,
    streams: Budget,
}

impl Limits {
    /// Requests for each client address, by what `proxies` say, and streams opened for each subject.
    pub(crate) fn new(proxies: Proxies, config: &Config) -> Self {
        let addresses = AddressLimiter::new(proxies, config.address_rate());
        Limits {
            addresses,
            subjects: Limiter::new(config.subject_rate()),
            streams: Budget::new(config.stream_rate()),
        }
    }

    /// Counts a request.
    pub(crate) fn check_address(&self, peer: SocketAddr, headers: &HeaderMap) -> Result<(), Limited> {
        let checked = self.addresses.check(peer, headers);
        checked.map_err(|exceeded| Limited { by: By::Address, exceeded })
    }

    /// Whose request it is.
    pub(crate) fn client(&self, peer: SocketAddr, headers: &HeaderMap) -> Option<IpAddr> {
        self.addresses.client(peer, headers)
    }

    /// Counts a stream. Who has no token is known by the address alone.
    pub(crate) fn check_subject(&self, caller: &Caller) -> Result<(), Limited> {
        let Some(identity) = caller.identity() else { return Ok(()) };
        let checked = self.subjects.check(identity.subject.as_str());
        checked.map_err(|exceeded| Limited { by: By::Subject, exceeded })
    }

    /// Counts a stream that is about to begin, whoever asked for it.
    pub(crate) fn check_streams(&self) -> Result<(), Limited> {
        self.streams.check().map_err(|exceeded| Limited { by: By::Gateway, exceeded })
    }
}

impl By {
    pub(crate) const ALL: [By; 3] = [By::Address, By::Subject, By::Gateway];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            By::Address => "address",
            By::Subject => "subject",
            By::Gateway => "gateway",
        }
    }
}
