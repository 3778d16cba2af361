//! Bodies: what comes in, read within bounds, and what goes out.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;

use crate::Response;
use crate::problem::Problem;

/// A response body: all at once, or a stream of its own making.
pub type Body = UnsyncBoxBody<Bytes, Infallible>;

/// How long a request body may take to arrive, whatever its size.
const BODY_DEADLINE: Duration = Duration::from_secs(30);

/// A body that is all there.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).boxed_unsync()
}

/// `200` (or another status) with `value` as JSON.
pub fn json(status: http::StatusCode, value: &impl serde::Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(bytes) => with_type(status, "application/json", bytes),
        Err(error) => Problem::internal(format!("could not write the answer: {error}")).into_response(),
    }
}

/// `bytes` of a media type.
pub fn with_type(status: http::StatusCode, media_type: &'static str, bytes: impl Into<Bytes>) -> Response {
    let mut response = http::Response::new(full(bytes));
    *response.status_mut() = status;
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(media_type));
    response
}

/// Reads a request body of at most `limit` bytes that says it is JSON. Requiring the media type is what
/// keeps other websites out: a browser asks before it sends `application/json` across origins.
pub async fn read_json(request: http::Request<Incoming>, limit: usize) -> Result<Bytes, Problem> {
    let media_type = request.headers().get(http::header::CONTENT_TYPE).and_then(|v| v.to_str().ok());
    let essence = media_type.unwrap_or_default().split(';').next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case("application/json") {
        return Err(Problem::new(
            http::StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "content-type",
            "The request body must be application/json",
        )
        .detail(match media_type {
            Some(other) => format!("Content-Type is {other:?}; send Content-Type: application/json"),
            None => "there is no Content-Type; send Content-Type: application/json".to_owned(),
        }));
    }
    let collected = tokio::time::timeout(BODY_DEADLINE, Limited::new(request.into_body(), limit).collect());
    match collected.await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Problem::new(
            http::StatusCode::PAYLOAD_TOO_LARGE,
            "body-too-large",
            "The request body is too large",
        )
        .detail(format!("at most {limit} bytes are read; send fewer events at a time"))),
        Ok(Err(error)) => Err(Problem::new(
            http::StatusCode::BAD_REQUEST,
            "body-cut-off",
            "The request body could not be read",
        )
        .detail(error.to_string())),
        Err(_) => Err(Problem::new(
            http::StatusCode::REQUEST_TIMEOUT,
            "body-too-slow",
            "The request body did not arrive in time",
        )
        .detail(format!("it must be complete within {} s", BODY_DEADLINE.as_secs()))),
    }
}
