use http::HeaderValue;

use super::*;

/// The client of a request from `peer` with these lines, where 10.0.0.0/8, fd00::/8 and 192.0.2.7 are proxies;
/// empty for nobody but them.
fn client(by: ForwardedBy, peer: &str, lines: &[&str]) -> String {
    let proxies = ["10.0.0.0/8", "fd00::/8", "192.0.2.7"].map(|text| text.parse::<Network>().unwrap());
    let mut headers = HeaderMap::new();
    for line in lines {
        headers.append(by.header(), HeaderValue::from_bytes(line.as_bytes()).unwrap());
    }
    let client = Proxies::new(proxies, by).client(peer.parse().unwrap(), &headers);
    client.map(|address| address.to_string()).unwrap_or_default()
}

#[test]
fn only_trusted_proxies_are_believed() {
    for (peer, lines, expected) in [
        ("203.0.113.1", &["198.51.100.1"][..], "203.0.113.1"),
        ("10.1.2.3", &["198.51.100.1"], "198.51.100.1"),
        ("::ffff:10.1.2.3", &["198.51.100.1"], "198.51.100.1"),
        // What stands to the left was there before, from whoever wrote it.
        ("10.1.2.3", &["1.1.1.1, 198.51.100.1"], "198.51.100.1"),
        ("10.1.2.3", &["1.1.1.1, 198.51.100.1, 192.0.2.7"], "198.51.100.1"),
        ("10.1.2.3", &["1.1.1.1", "198.51.100.1"], "198.51.100.1"),
        ("10.1.2.3", &["\u{e9}, 198.51.100.1,"], "198.51.100.1"),
        ("fd00::1", &["[2001:db8::1]:443"], "2001:db8::1"),
        ("10.1.2.3", &["198.51.100.1:4711"], "198.51.100.1"),
        // Who passes on what is no address answers for it, and not those who may have written what is left of it.
        ("10.1.2.3", &["1.1.1.1, nobody"], "10.1.2.3"),
        ("10.1.2.3", &["1.1.1.1, nobody, 192.0.2.7"], "192.0.2.7"),
        ("10.1.2.3", &["10.9.9.9"], ""),
        ("10.1.2.3", &["", ","], ""),
        ("10.1.2.3", &[], ""),
    ] {
        assert_eq!(client(ForwardedBy::XForwardedFor, peer, lines), expected, "{peer} {lines:?}");
    }
}

#[test]
fn the_standard_header_is_read_where_proxies_write_it() {
    for (lines, expected) in [
        (&["for=198.51.100.1"][..], "198.51.100.1"),
        (&["For=\"[2001:db8::1]:4711\";proto=https;by=10.1.1.1"], "2001:db8::1"),
        (&["for=1.1.1.1, proto=http;for=\"198.51.100.1:80\", for=192.0.2.7"], "198.51.100.1"),
        (&["for=1.1.1.1;by=\"a, b;for=2.2.2.2\", for=198.51.100.1"], "198.51.100.1"),
        (&["for=1.1.1.1;by=\"a \\\" b\", for=198.51.100.1"], "198.51.100.1"),
        // A quote that a client leaves open must not swallow what its proxy writes.
        (&["for=1.1.1.1;by=\", for=198.51.100.1"], "10.1.2.3"),
        (&["for=1.1.1.1;by=\"\\, for=\"[2001:db8::1]\""], "10.1.2.3"),
        (&["for=1.1.1.1, for=_hidden"], "10.1.2.3"),
        (&["for=1.1.1.1, proto=https"], "10.1.2.3"),
        (&["for=10.9.9.9"], ""),
    ] {
        assert_eq!(client(ForwardedBy::Forwarded, "10.1.2.3", lines), expected, "{lines:?}");
        assert_eq!(client(ForwardedBy::Forwarded, "203.0.113.1", lines), "203.0.113.1");
    }
    let mut other = HeaderMap::new();
    other.insert("x-forwarded-for", "1.1.1.1".parse().unwrap());
    let proxies = Proxies::new(Network::loopback(), ForwardedBy::Forwarded);
    assert_eq!(proxies.client(Ipv4Addr::LOCALHOST.into(), &other), None, "only one of the two");
}

#[test]
fn networks_are_read_as_they_are_written() {
    for bad in ["", "10.0.0.0/33", "::/129", "10.0.0/8", "a", "10.0.0.0/", "10.0.0.0/-1"] {
        assert_eq!(bad.parse::<Network>(), Err(NoNetwork), "{bad}");
    }
    let everything: Network = "0.0.0.0/0".parse().unwrap();
    assert!(everything.has([1, 2, 3, 4].into()) && !everything.has(IpAddr::from([0_u16; 8])));
    let loopback = Network::loopback();
    assert_eq!(loopback, ["127.0.0.1/8", "::1"].map(|text| text.parse().unwrap()));
    assert!(loopback[0].has([127, 9, 9, 9].into()) && !loopback[0].has([128, 0, 0, 1].into()));
}

#[test]
fn a_client_is_an_address_or_an_ipv6_network() {
    let of = |text: &str| key(text.parse().unwrap());
    assert_eq!(of("2001:db8::1"), of("2001:db8::2:3"));
    assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
    assert_ne!(of("1.2.3.4"), of("1.2.3.5"));
    assert_eq!(of("1.2.3.4"), of("::ffff:1.2.3.4"));
}

#[test]
fn a_limit_is_each_clients_own_and_not_that_of_trusted_proxies() {
    let limiter = AddressLimiter::new(Proxies::default(), Rate::per_minute(1, 2));
    let ask = |peer: &str, forwarded: &str| {
        let mut headers = HeaderMap::new();
        headers.insert("x-forwarded-for", forwarded.parse().unwrap());
        limiter.check(SocketAddr::new(peer.parse().unwrap(), 4711), &headers).is_ok()
    };
    let asked = |peer: &str, forwarded: &str| [0; 3].map(|_| ask(peer, forwarded));
    assert_eq!(asked("127.0.0.1", "203.0.113.1"), [true, true, false]);
    assert_eq!(asked("127.0.0.1", "203.0.113.2"), [true, true, false]);
    assert_eq!(asked("::1", "127.0.0.1"), [true; 3]);
    // Not trusted, it is limited itself, whatever it says; once it was told.
    assert_eq!(asked("203.0.113.3", "1.1.1.1"), [true, true, false]);
    assert!(!ask("203.0.113.3", "1.1.1.2") && limiter.told.load(Ordering::Relaxed));
}
