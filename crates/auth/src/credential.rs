//! Where a request may carry its token.

use http::{HeaderMap, header};

use crate::token::TokenError;

/// A token as it came with a request.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Credential<'a> {
    /// Unchecked.
    pub(crate) token: &'a str,
    /// Whether a browser sent it by itself, whoever's page it was that asked.
    pub(crate) by_cookie: bool,
}

/// The token of an `Authorization` header's value. None when it is `Basic`, which proxies add for reasons of
/// their own; anything else that isn't a bearer's is a bad credential, not none.
pub fn bearer(value: &str) -> Result<Option<&str>, TokenError> {
    // One without a token comes of a variable that was empty.
    let (scheme, token) = value.trim().split_once(' ').unwrap_or((value.trim(), ""));
    if scheme.eq_ignore_ascii_case("Bearer") {
        return Ok(Some(token.trim()));
    }
    if scheme.eq_ignore_ascii_case("Basic") { Ok(None) } else { Err(TokenError::Scheme) }
}

/// The first of: `Authorization: Bearer`, the cookie of that name, what the query has. One that is there
/// counts: whoever sends a bad one is not known by another.
pub(crate) fn find<'a>(
    headers: &'a HeaderMap,
    cookie: &str,
    query: Option<&'a str>,
) -> Result<Option<Credential<'a>>, TokenError> {
    if let Some(token) = authorization(headers)? {
        return Ok(Some(Credential { token, by_cookie: false }));
    }
    if !cookie.is_empty()
        && let Some(token) = self::cookie(headers, cookie)?
    {
        return Ok(Some(Credential { token, by_cookie: true }));
    }
    Ok(query.map(|token| Credential { token, by_cookie: false }))
}

/// The token of the `Authorization` headers. One that can't be read is a bad one, not none.
pub(crate) fn authorization(headers: &HeaderMap) -> Result<Option<&str>, TokenError> {
    let mut tokens = Vec::new();
    for value in headers.get_all(header::AUTHORIZATION) {
        tokens.extend(bearer(value.to_str().map_err(|_| TokenError::Scheme)?)?);
    }
    only(tokens.into_iter())
}

/// The one there is. Of two different ones nobody knows who put which: a cookie may come from a
/// neighbouring domain.
fn only<'a>(tokens: impl Iterator<Item = &'a str>) -> Result<Option<&'a str>, TokenError> {
    let mut found = None;
    for token in tokens {
        match found {
            Some(other) if other != token => return Err(TokenError::Ambiguous),
            _ => found = Some(token),
        }
    }
    Ok(found)
}

/// The values of the cookies with a name.
fn cookies<'a>(headers: &'a HeaderMap, name: &str) -> impl Iterator<Item = &'a str> {
    all_cookies(headers).filter_map(move |(key, value)| (key == name).then_some(value))
}

/// Name and value of every cookie, in the order in which they came: browsers send those that they have had for
/// longer first.
pub fn all_cookies(headers: &HeaderMap) -> impl Iterator<Item = (&str, &str)> {
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(';')).filter_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        Some((key.trim(), value.trim().trim_matches('"')))
    })
}

/// The value of a cookie, if it is there; an error when it is there twice, and differently.
pub fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, TokenError> {
    only(cookies(headers, name))
}

/// Whether a browser says that its request comes from a page that may use this server: of an origin, which
/// is checked by the [`Guard`](foghorn_http::guard::Guard) where there is one, or of the server's own.
pub(crate) fn is_from_a_page(headers: &HeaderMap) -> bool {
    headers.contains_key(header::ORIGIN)
        || headers.get("sec-fetch-site").is_some_and(|value| value.as_bytes() == b"same-origin")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn the_first_of_header_cookie_and_query_counts() {
        let found = |lines: &[(&'static str, &str)], query: Option<&'static str>| {
            let headers = headers(lines);
            find(&headers, "t", query).map(|found| found.map(|c| (c.token.to_owned(), c.by_cookie)))
        };
        let ok = |token: &str, by_cookie| Ok(Some((token.to_owned(), by_cookie)));
        let (bearer, cookie) = (("authorization", "Bearer a"), ("cookie", "x=1; t=b; y=2"));
        assert_eq!(found(&[bearer, cookie], Some("c")), ok("a", false));
        assert_eq!(found(&[cookie], Some("c")), ok("b", true));
        assert_eq!(found(&[("cookie", "tt=b; xt=b")], Some("c")), ok("c", false));
        assert_eq!(found(&[], None), Ok(None));
        assert_eq!(found(&[("authorization", "bearer   a ")], None), ok("a", false));
        // A variable that was empty.
        assert_eq!(found(&[("authorization", "Bearer")], None), ok("", false));
        assert_eq!(found(&[("authorization", "Bearer ")], None), ok("", false));
        let mut unreadable = HeaderMap::new();
        unreadable.insert("authorization", http::HeaderValue::from_bytes(b"Bearer \xff").unwrap());
        assert_eq!(find(&unreadable, "t", None).err(), Some(TokenError::Scheme));
        for value in ["", "a.b.c", "Token a.b.c"] {
            assert_eq!(found(&[("authorization", value)], None), Err(TokenError::Scheme), "{value:?}");
        }
        // Of a proxy's own; not for us.
        assert_eq!(found(&[("authorization", "Basic YTpi"), cookie], None), ok("b", true));
        // Nothing is a credential too, and a bad one.
        assert_eq!(found(&[("cookie", "t=")], Some("c")), ok("", true));
        let twice = found(&[("cookie", "t=a"), ("cookie", "t=b")], None);
        assert_eq!(twice, Err(TokenError::Ambiguous));
        assert_eq!(found(&[bearer, ("authorization", "Bearer b")], None), Err(TokenError::Ambiguous));
        assert_eq!(found(&[("cookie", "t=a; t=a")], None), ok("a", true));
    }
}
