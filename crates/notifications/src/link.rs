//! What a notification may link to: a page over HTTP, or one of the site that shows it.

use url::Url;

/// Most bytes of a link.
pub(crate) const LINK_BYTES_MAX: usize = 2048;

/// What is wrong with a link, if anything.
///
/// A page puts it into an `href`, so it is read as browsers read it: they take white space out, and backslashes for
/// slashes, which could make another link of what was checked. So neither is taken.
pub(crate) fn check(link: &str) -> Result<(), String> {
    if link.is_empty() || link.len() > LINK_BYTES_MAX {
        return Err(format!("has {} bytes; it has 1 to {LINK_BYTES_MAX}, or is left out", link.len()));
    }
    if let Some(bad) = link.chars().find(|c| c.is_whitespace() || c.is_control() || *c == '\\') {
        return Err(format!(
            "has {bad:?} in it, which browsers may read as something else; percent-encode it"
        ));
    }
    match scheme(link) {
        Some(scheme) if ["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) => {
            let absolute = link[scheme.len()..].starts_with("://") && Url::parse(link).is_ok();
            if absolute { Ok(()) } else { Err("is no URL of a page: https://host/path".to_owned()) }
        }
        Some(scheme) => Err(format!("is of the scheme {scheme:?}; it is http, https, or relative")),
        None if stays(link) => Ok(()),
        None => {
            Err("leads to another site without saying by which scheme; write https://… or a path".to_owned())
        }
    }
}

/// What stands before the first colon, if that makes it a URL's scheme (RFC 3986, 3.1).
fn scheme(link: &str) -> Option<&str> {
    let (scheme, _) = link.split_once(':')?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
    (scheme.starts_with(|c: char| c.is_ascii_alphabetic()) && scheme.chars().all(plain)).then_some(scheme)
}

/// Whether a relative link stays on the site of the page that it is on.
fn stays(link: &str) -> bool {
    let Ok(page) = Url::parse("https://page.invalid/a/b") else { return false };
    page.join(link).is_ok_and(|target| target.origin() == page.origin())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_lead_to_pages_over_http_or_stay_on_the_site() {
        for link in [
            "https://shop.example/orders/1?x=1#y",
            "HTTP://shop.example",
            "/orders/1",
            "orders/1",
            "../x",
            "?page=2",
            "#top",
            "/search?q=a:b",
            "./a:b",
            "/%2F/x",
        ] {
            assert_eq!(check(link), Ok(()), "{link}");
        }
    }

    #[test]
    fn whatever_a_browser_would_run_or_take_for_another_site_is_refused() {
        for link in [
            "",
            "javascript:alert(1)",
            "JavaScript:alert(1)",
            "java\tscript:alert(1)",
            "java\nscript:alert(1)",
            " javascript:alert(1)",
            "\u{1}javascript:alert(1)",
            "data:text/html,x",
            "vbscript:x",
            "blob:https://shop.example/x",
            "mailto:ann@shop.example",
            "//evil.example",
            "///evil.example",
            "/\\evil.example",
            "\\\\evil.example",
            "/\t/evil.example",
            "https:evil.example",
            "https:/evil.example",
            "https://",
            "http://[",
            "a b",
        ] {
            assert!(check(link).is_err(), "{link:?}");
        }
        assert!(check(&format!("/{}", "x".repeat(LINK_BYTES_MAX))).is_err());
    }
}
