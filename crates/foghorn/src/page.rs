//! Standalone's page at `/`: listens with the browser's own EventSource, and publishes.

use foghorn_http::Response;
use foghorn_http::body::with_type;
use http::{HeaderValue, StatusCode, header};

pub(crate) const HTML: &str = "text/html; charset=utf-8";
pub(crate) const SCRIPT: &str = "text/javascript; charset=utf-8";
pub(crate) const STYLE: &str = "text/css; charset=utf-8";

/// Nothing but our own files, and connections to ourselves.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The file at `path`, if it is one of the page's.
pub(crate) fn answer(path: &str) -> Option<Response> {
    Some(match path {
        "/" => asset(HTML, include_str!("../assets/index.html")),
        "/assets/page.js" => asset(SCRIPT, include_str!("../assets/page.js")),
        "/assets/page.css" => asset(STYLE, include_str!("../assets/page.css")),
        _ => return None,
    })
}

/// A file of ours, that may use nothing but our own.
pub(crate) fn asset(media_type: &'static str, text: &'static str) -> Response {
    let mut response = with_type(StatusCode::OK, media_type, text);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}
