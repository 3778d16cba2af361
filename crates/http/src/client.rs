//! Whose request it is by address, through proxies that are trusted to say so; and how much comes from one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::{HeaderMap, HeaderName, header};

use crate::limit::{Exceeded, Limiter, Rate};

/// Of an IPv6 address this is a network, in which a machine has as many addresses as it likes.
const NETWORK_BITS: u32 = 64;

/// In which header proxies say whose request it is. They write one and pass the other on as it came, so only one
/// can be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ForwardedBy {
    /// `X-Forwarded-For: 203.0.113.9, 10.1.2.3`
    XForwardedFor,
    /// `Forwarded: for=203.0.113.9, for="[2001:db8::1]:4711"` (RFC 7239)
    Forwarded,
}

/// The proxies that are believed about whom they ask for. Anybody else can say anything.
#[derive(Debug, Clone)]
pub struct Proxies {
    networks: Arc<[Network]>,
    by: ForwardedBy,
}

/// A range of addresses, written `10.0.0.0/8`, or one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    /// IPv4 as IPv6 has it.
    address: u128,
    /// How many of the 128 bits count.
    bits: u32,
}

/// Not an address, or one with too long a prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is no network; write it as 10.0.0.0/8 or fd00::/8, or as an address")]
pub struct NoNetwork;

/// Limits what comes from each client address.
#[derive(Debug)]
pub struct AddressLimiter {
    proxies: Proxies,
    limiter: Limiter,
    /// Whether it was said that somebody may be a proxy.
    told: AtomicBool,
}

impl FromStr for Network {
    type Err = NoNetwork;

    fn from_str(text: &str) -> Result<Self, NoNetwork> {
        let (address, bits) =
            text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let address: IpAddr = address.parse().map_err(|_| NoNetwork)?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(most), str::parse).map_err(|_| NoNetwork)?;
        if bits > most {
            return Err(NoNetwork);
        }
        Ok(Network { address: wide(address), bits: bits + 128 - most })
    }
}

impl Network {
    /// Whether an address is one of its.
    pub fn has(self, address: IpAddr) -> bool {
        let differ = self.address ^ wide(address);
        differ.leading_zeros() >= self.bits
    }

    fn loopback() -> [Network; 2] {
        let four = Network { address: wide(Ipv4Addr::LOCALHOST.into()), bits: 96 + 8 };
        [four, Network { address: wide(Ipv6Addr::LOCALHOST.into()), bits: 128 }]
    }
}

impl Default for Proxies {
    /// This machine.
    fn default() -> Self {
        Proxies::new(Network::loopback(), ForwardedBy::XForwardedFor)
    }
}

impl Proxies {
    /// Those of these networks, who say it so.
    pub fn new(networks: impl IntoIterator<Item = Network>, by: ForwardedBy) -> Self {
        Proxies { networks: networks.into_iter().collect(), by }
    }

    fn trusts(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|network| network.has(address))
    }

    /// Whose request it is: of who connected, or, if that is a proxy, of whom it names, and so on to the first
    /// that is none. What a proxy names that is no address is the proxy's own request. `None` where every one
    /// of them is trusted.
    pub fn client(&self, peer: IpAddr, headers: &HeaderMap) -> Option<IpAddr> {
        let mut nearest = peer;
        if !self.trusts(nearest) {
            return Some(nearest);
        }
        let lines = headers.get_all(self.by.header()).iter().rev();
        for hop in lines.flat_map(|line| self.by.hops(line.as_bytes()).into_iter().rev()) {
            match hop {
                Some(address) if self.trusts(address) => nearest = address,
                Some(address) => return Some(address),
                None => return Some(nearest),
            }
        }
        None
    }
}

impl ForwardedBy {
    fn header(self) -> HeaderName {
        match self {
            ForwardedBy::XForwardedFor => HeaderName::from_static("x-forwarded-for"),
            ForwardedBy::Forwarded => header::FORWARDED,
        }
    }

    /// Whom a line names, the nearest last. What is empty between commas is nothing.
    fn hops(self, line: &[u8]) -> Vec<Option<IpAddr>> {
        // What is to the left may be anybody's, and not even text; only it must not hide what is to the right.
        let line = String::from_utf8_lossy(line);
        match self {
            ForwardedBy::XForwardedFor => named(line.split(','), hop),
            ForwardedBy::Forwarded => match outside_quotes(&line, ',') {
                Some(elements) => named(elements, forwarded_for),
                None => vec![None],
            },
        }
    }
}

fn named<'a>(
    elements: impl IntoIterator<Item = &'a str>,
    read: impl Fn(&str) -> Option<IpAddr>,
) -> Vec<Option<IpAddr>> {
    elements.into_iter().map(str::trim).filter(|element| !element.is_empty()).map(read).collect()
}

/// The parts of a text, separators within quotes aside. None when a quote has no end: then nobody can say which
/// commas are a proxy's.
fn outside_quotes(text: &str, separator: char) -> Option<Vec<&str>> {
    let (mut quoted, mut escaped) = (false, false);
    let separates = |c: char| {
        let literal = escaped;
        escaped = quoted && c == '\\' && !literal;
        quoted ^= c == '"' && !literal;
        c == separator && !quoted
    };
    let parts: Vec<_> = text.split(separates).collect();
    (!quoted).then_some(parts)
}

/// The address in `for=203.0.113.9;proto=https`.
fn forwarded_for(element: &str) -> Option<IpAddr> {
    let pairs = outside_quotes(element, ';')?;
    let mut named = pairs.into_iter().filter_map(|pair| pair.trim().split_once('='));
    let (_, value) = named.find(|(name, _)| name.eq_ignore_ascii_case("for"))?;
    hop(value.trim_matches('"'))
}

/// An address, perhaps with a port or in brackets.
fn hop(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.split_once(']')).map_or(text, |(inner, _)| inner);
    bare.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()))
}

impl AddressLimiter {
    /// Allows each client address this much, by what `proxies` say.
    pub fn new(proxies: Proxies, rate: Rate) -> Self {
        AddressLimiter { proxies, limiter: Limiter::new(rate), told: AtomicBool::new(false) }
    }

    /// Counts a request. Who asks through nothing but trusted proxies is one of them, and may.
    pub fn check(&self, peer: SocketAddr, headers: &HeaderMap) -> Result<(), Exceeded> {
        let Some(address) = self.proxies.client(peer.ip(), headers) else { return Ok(()) };
        self.limiter.check(key(address)).inspect_err(|_| self.tell(peer.ip(), headers))
    }

    /// Whose request it is. None where nobody but trusted proxies is named.
    pub fn client(&self, peer: SocketAddr, headers: &HeaderMap) -> Option<IpAddr> {
        self.proxies.client(peer.ip(), headers)
    }

    /// Says once that it may be a proxy's clients who are limited together.
    fn tell(&self, peer: IpAddr, headers: &HeaderMap) {
        let forwards = !self.proxies.trusts(peer) && headers.contains_key(self.proxies.by.header());
        if forwards && !self.told.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                %peer,
                "an address is limited that says it asks for others; if it is your proxy, name it in \
                 http.trusted_proxies, or its clients share one limit"
            );
        }
    }
}

/// What of an address is one client's: of an IPv6 address its network.
pub fn key(address: IpAddr) -> u128 {
    match address.to_canonical() {
        IpAddr::V4(four) => wide(four.into()),
        IpAddr::V6(six) => six.to_bits() >> (128 - NETWORK_BITS),
    }
}

fn wide(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(four) => four.to_ipv6_mapped().to_bits(),
        IpAddr::V6(six) => six.to_bits(),
    }
}

#[cfg(test)]
mod tests;
