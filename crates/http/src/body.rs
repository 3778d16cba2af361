//! Bodies: what comes in, read within bounds, and what goes out.

use std::convert::Infallible;
use std::fmt::Display;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use tokio::time::{Instant, timeout};

use crate::Response;
use crate::problem::Problem;

/// A response body: all at once, or a stream of its own making.
pub type Body = UnsyncBoxBody<Bytes, Infallible>;

/// How long a request body may take to arrive, whatever its size.
const BODY_DEADLINE: Duration = Duration::from_secs(30);
/// How long each so many bytes of it may take. What has arrived takes up room, so whoever stops sending
/// must not keep it for long.
const STEP_DEADLINE: Duration = Duration::from_secs(10);
const STEP_BYTES: usize = 64 * 1024;

/// Makes room for a request body while it arrives.
pub trait BodyRoom: Send {
    /// Room for `bytes` more, which have arrived already and are in memory; or why there is none, which is
    /// then the request's answer. Bounds how long it waits itself. Whose room it is keeps it.
    fn grow(&mut self, bytes: usize) -> impl Future<Output = Result<(), Problem>> + Send;
}

/// For bodies of so few bytes that they need no accounting.
pub struct Unaccounted;

impl BodyRoom for Unaccounted {
    async fn grow(&mut self, _: usize) -> Result<(), Problem> {
        Ok(())
    }
}

/// A body that is all there.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).boxed_unsync()
}

/// `200` (or another status) with `value` as JSON.
pub fn json(status: StatusCode, value: &impl serde::Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(bytes) => with_type(status, "application/json", bytes),
        Err(error) => Problem::internal(format!("could not write the answer: {error}")).into_response(),
    }
}

/// `bytes` of a media type.
pub fn with_type(status: StatusCode, media_type: &'static str, bytes: impl Into<Bytes>) -> Response {
    let mut response = http::Response::new(full(bytes));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static(media_type));
    response
}

/// Reads a request body of at most `limit` bytes that says it is JSON. Requiring the media type is what
/// keeps other websites out: a browser asks before it sends `application/json` across origins.
///
/// What the head tells is refused by the head alone. Room is taken for what has arrived and not for what
/// is announced: to take up room one has to send, and at a pace.
pub async fn read_json<B>(
    request: http::Request<B>,
    limit: usize,
    room: &mut impl BodyRoom,
) -> Result<Vec<u8>, Problem>
where
    B: hyper::body::Body<Data = Bytes> + Unpin,
    B::Error: Display,
{
    check_media_type(request.headers())?;
    check_coding(request.headers())?;
    let mut body = request.into_body();
    if body.size_hint().lower() > limit as u64 {
        return Err(too_large(limit));
    }
    let (mut bytes, mut pace) = (Vec::new(), Pace::new());
    loop {
        let began = Instant::now();
        let Ok(frame) = timeout(pace.left(), body.frame()).await else { return Err(too_slow()) };
        let Some(frame) = frame else { return Ok(bytes) };
        let frame = frame.map_err(|error| cut_off(&error))?;
        let data = frame.into_data().unwrap_or_default();
        if bytes.len() + data.len() > limit {
            return Err(too_large(limit));
        }
        pace.came(data.len(), began.elapsed());
        room.grow(data.len()).await?;
        // A copy, because a frame of one byte keeps the whole buffer it was read into.
        bytes.extend_from_slice(&data);
    }
}

/// How long a body may still take. Only waiting for its sender counts.
#[derive(Debug)]
struct Pace {
    whole: Duration,
    step: Duration,
    /// Bytes to come within `step`.
    missing: usize,
}

impl Pace {
    fn new() -> Self {
        Pace { whole: BODY_DEADLINE, step: STEP_DEADLINE, missing: STEP_BYTES }
    }

    fn left(&self) -> Duration {
        self.whole.min(self.step)
    }

    fn came(&mut self, bytes: usize, after: Duration) {
        self.whole = self.whole.saturating_sub(after);
        self.step = self.step.saturating_sub(after);
        self.missing = self.missing.saturating_sub(bytes);
        if self.missing == 0 {
            (self.step, self.missing) = (STEP_DEADLINE, STEP_BYTES);
        }
    }
}

fn check_media_type(headers: &HeaderMap) -> Result<(), Problem> {
    let media_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = media_type.unwrap_or_default().split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    let title = "The request body must be application/json";
    Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "content-type", title).detail(match media_type {
        Some(other) => format!("Content-Type is {other:?}; send Content-Type: application/json"),
        None => "there is no Content-Type; send Content-Type: application/json".to_owned(),
    }))
}

/// hyper undoes `chunked`, and passes on what is below it as if there were nothing.
fn check_coding(headers: &HeaderMap) -> Result<(), Problem> {
    let lines = headers.get_all(header::TRANSFER_ENCODING).iter();
    let codings: Vec<&str> = lines.flat_map(|line| line.to_str().unwrap_or("?").split(',')).collect();
    match codings.as_slice() {
        [] => Ok(()),
        [only] if only.trim().eq_ignore_ascii_case("chunked") => Ok(()),
        _ => {
            let title = "Of transfer codings only chunked is understood";
            let detail =
                format!("Transfer-Encoding is {:?}; send chunked, or a Content-Length", codings.join(","));
            Err(Problem::new(StatusCode::NOT_IMPLEMENTED, "transfer-coding", title).detail(detail))
        }
    }
}

fn too_large(limit: usize) -> Problem {
    let detail = format!("at most {limit} bytes are read; send less at a time");
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body-too-large", "The request body is too large")
        .detail(detail)
}

fn too_slow() -> Problem {
    let detail = format!(
        "each {} KiB of it must arrive within {} s, and all of it within {} s",
        STEP_BYTES / 1024,
        STEP_DEADLINE.as_secs(),
        BODY_DEADLINE.as_secs()
    );
    let title = "The request body did not arrive in time";
    Problem::new(StatusCode::REQUEST_TIMEOUT, "body-too-slow", title).detail(detail)
}

fn cut_off(error: &impl Display) -> Problem {
    let title = "The request body could not be read";
    Problem::new(StatusCode::BAD_REQUEST, "body-cut-off", title)
        .detail(error.to_string())
        .member("retryable", true)
}

#[cfg(test)]
mod tests;
