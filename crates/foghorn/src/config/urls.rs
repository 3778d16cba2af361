//! Values that name a place. What is wrong with one is said without quoting it where it may hold a
//! password.

use std::net::IpAddr;

use reqwest::Url;

/// One or more NATS servers, as the bus takes them: without a scheme it is `nats`.
pub(super) fn nats(urls: &str) -> Result<(), String> {
    each(urls, "write nats://host:4222 or tls://host:4222, or several with commas between", |text| {
        let url = if text.contains("://") { Url::parse(text) } else { Url::parse(&format!("nats://{text}")) };
        let url = parsed(url)?;
        within(&url, &["nats", "tls"])
    })
}

/// One or more event logs: HTTP, or with an authority HTTPS, a host and a port, nothing else.
pub(super) fn eventlog(urls: &str, over_tls: bool) -> Result<(), String> {
    let (scheme, write) = if over_tls {
        ("https", "write https://host:50052, or several with commas between, as eventlog.ca is set")
    } else {
        ("http", "write http://host:50052, or several with commas between; https:// needs eventlog.ca")
    };
    each(urls, write, |text| {
        let url = parsed(Url::parse(text))?;
        within(&url, &[scheme])?;
        // The port as it is written: `Url` leaves out the scheme's own.
        let authority = text.split_once("://").map_or("", |(_, rest)| rest.trim_end_matches('/'));
        let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        if !has_port {
            return Err("it names no port, or more than host and port".to_owned());
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("it holds a user or a password, which event logs don't ask for".to_owned());
        }
        Ok(())
    })
}

/// A PostgreSQL database. Without a host it is the local one.
pub(super) fn postgres(url: &str) -> Result<(), String> {
    let checked = parsed(Url::parse(url)).and_then(|url| match url.scheme() {
        "postgres" | "postgresql" => Ok(()),
        _ => Err("its scheme must be postgres or postgresql".to_owned()),
    });
    checked.map_err(|what| {
        format!(
            "{what}; write postgres://user:password@host/database, with special characters percent-encoded"
        )
    })
}

/// A page's origin, as browsers send it, or those of one label more: `https://*.example.com`.
pub(super) fn origin(text: &str) -> Result<(), String> {
    let wrong = |what: &str| {
        format!("{what}; write it as browsers do: https://app.example.com, or https://*.example.com")
    };
    // The wildcard stands for a label, so with some label it has to be an origin.
    let one = text.replacen("://*.", "://label.", 1);
    if one.contains('*') {
        return Err(wrong("has a * that is not the whole first label"));
    }
    let url = parsed(Url::parse(&one)).map_err(|what| wrong(&what))?;
    within(&url, &["http", "https"]).map_err(|what| wrong(&what))?;
    // Compared as text, so it has to be what a browser makes of it: no path, no port that goes without saying.
    if !one.trim_end_matches('/').eq_ignore_ascii_case(&url.origin().ascii_serialization()) {
        return Err(wrong("is more than scheme, host and port, or names the scheme's own port"));
    }
    let domain = url.host_str().and_then(|host| host.strip_prefix("label.")).unwrap_or_default();
    if one != text && !domain.contains('.') && domain != "localhost" {
        return Err(wrong("is for every site of a top-level domain"));
    }
    Ok(())
}

/// A name that requests may have as their `Host`, without a port; or `*`.
pub(super) fn host(text: &str) -> Result<(), String> {
    let name = |text: &str| {
        !text.is_empty()
            && text.split('.').all(|label| {
                !label.is_empty()
                    && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            })
    };
    let address = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let is_v6 = address.is_some_and(|inner| matches!(inner.parse(), Ok(IpAddr::V6(_))));
    if text == "*" || is_v6 || name(text) {
        return Ok(());
    }
    Err("is not a host name; write it without scheme and port: app.example.com, 10.0.0.1, [fd00::1], or *"
        .to_owned())
}

fn each(urls: &str, write: &str, check: impl Fn(&str) -> Result<(), String>) -> Result<(), String> {
    let which =
        |number: usize| if urls.contains(',') { format!("URL {}: ", number + 1) } else { String::new() };
    urls.split(',').enumerate().try_for_each(|(number, url)| {
        check(url.trim()).map_err(|what| format!("{}{what}; {write}", which(number)))
    })
}

fn parsed<E: std::fmt::Display>(url: Result<Url, E>) -> Result<Url, String> {
    url.map_err(|error| format!("not a URL ({error})"))
}

fn within(url: &Url, schemes: &[&str]) -> Result<(), String> {
    if !schemes.contains(&url.scheme()) {
        return Err(format!("its scheme must be {}", schemes.join(" or ")));
    }
    match url.host_str() {
        Some(host) if !host.is_empty() => Ok(()),
        _ => Err("it names no host".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_that_the_services_take_pass() {
        for good in ["nats://a:4222", "a", "fog:hunter2@a:4222, tls://b", "nats://token@[::1]:1"] {
            assert_eq!(nats(good), Ok(()), "{good}");
        }
        for good in ["http://a:1", "http://a:80/", " http://127.0.0.1:1 , http://[::1]:2"] {
            assert_eq!(eventlog(good, false), Ok(()), "{good}");
        }
        for good in ["postgres://foghorn@127.0.0.1/foghorn", "postgresql:///db?host=/run/postgresql"] {
            assert_eq!(postgres(good), Ok(()), "{good}");
        }
        for good in [
            "https://app.example.com",
            "http://localhost:3000/",
            "https://App.example.com",
            "https://*.example.com",
            "http://*.localhost:3000",
        ] {
            assert_eq!(origin(good), Ok(()), "{good}");
        }
        for good in ["*", "localhost", "app.example.com", "10.0.0.1", "[::1]", "my_service"] {
            assert_eq!(host(good), Ok(()), "{good}");
        }
    }

    #[test]
    fn others_are_refused_and_not_quoted() {
        type Check = fn(&str) -> Result<(), String>;
        let cases: [(Check, &[&str]); 5] = [
            (nats, &["", "nats://", "ws://hunter2", "nats://u:hunter2@bad host:1", "nats://a,,nats://b"]),
            (
                |urls| eventlog(urls, false),
                &[
                    "",
                    "hunter2:1",
                    "http://hunter2",
                    "https://hunter2:1",
                    "http://a:1/hunter2",
                    "http://u:hunter2@a:1",
                ],
            ),
            (postgres, &["", "hunter2", "mysql://u:hunter2@a/b", "postgres://u:hunter2@bad host/x"]),
            (
                origin,
                &[
                    "",
                    "app.example.com",
                    "https://a/path",
                    "https://a:443",
                    "null",
                    "*",
                    "https://*",
                    "https://*.com",
                    "https://*.*.example.com",
                    "https://a.*.example.com",
                    "https://a*.example.com",
                    "*://app.example.com",
                    "https://*.127.0.0.1",
                ],
            ),
            (host, &["", "http://a:80", "a:80", "::1", "a b", "a..b", "*.example.com"]),
        ];
        for (check, bad) in cases {
            for text in bad {
                let error = check(text).unwrap_err();
                assert!(error.contains("write "), "{text}: {error}");
                assert!(!error.contains("hunter2"), "{text}: {error}");
            }
        }
    }
}
