//! Standalone's page at `/`: listens with the browser's own EventSource, and publishes.

use foghorn_http::Response;
use foghorn_http::body::with_type;
use http::{HeaderValue, StatusCode, header};

/// Nothing but our own three files, and connections to ourselves.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The file at `path`, if it is one of the page's.
pub(crate) fn answer(path: &str) -> Option<Response> {
    let (media_type, text) = match path {
        "/" => ("text/html; charset=utf-8", include_str!("../assets/index.html")),
        "/assets/page.js" => ("text/javascript; charset=utf-8", include_str!("../assets/page.js")),
        "/assets/page.css" => ("text/css; charset=utf-8", include_str!("../assets/page.css")),
        _ => return None,
    };
    let mut response = with_type(StatusCode::OK, media_type, text);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    Some(response)
}
