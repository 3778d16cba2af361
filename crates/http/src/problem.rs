//! Errors as a client sees them (RFC 9457). The types are a catalogue: `docs/problems.md`.

use http::{HeaderName, HeaderValue, StatusCode, header};
use serde_json::{Map, Value};

use crate::Response;
use crate::body::full;

/// What a problem type's name is appended to.
pub const PROBLEM_BASE: &str = "https://foghorn.dev/problems/";

/// An error answer: what was wrong, where, what to do.
#[derive(Debug, Clone)]
pub struct Problem {
    /// The HTTP status.
    pub status: StatusCode,
    /// The type's name in the catalogue.
    pub code: &'static str,
    title: &'static str,
    detail: Option<String>,
    subject: Option<String>,
    members: Map<String, Value>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Problem {
    /// A problem of a type. The title is the same for every problem of the type.
    pub fn new(status: StatusCode, code: &'static str, title: &'static str) -> Self {
        Problem { status, code, title, detail: None, subject: None, members: Map::new(), headers: Vec::new() }
    }

    /// Something that should not happen. The cause is logged, not told.
    pub fn internal(cause: impl std::fmt::Display) -> Self {
        tracing::error!(%cause, "request failed");
        Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "Something broke that should not; the server's log says what",
        )
    }

    /// There is nothing at this path.
    pub fn not_found(path: &str) -> Self {
        Problem::new(StatusCode::NOT_FOUND, "not-found", "There is nothing at this path").detail(path)
    }

    /// The path is right, the method is not.
    pub fn method(allowed: &'static str) -> Self {
        let mut problem =
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method", "This path doesn't answer that method");
        problem.headers.push((header::ALLOW, HeaderValue::from_static(allowed)));
        problem.detail(format!("use {allowed}"))
    }

    /// What exactly was wrong here.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Whose request it was, for logs. It isn't told.
    #[must_use]
    pub fn of(mut self, subject: Option<&str>) -> Self {
        self.subject = subject.map(str::to_owned);
        self
    }

    /// Whose request it was, if that is known.
    pub fn subject(&self) -> Option<&str> {
        self.subject.as_deref()
    }

    /// A member that is a text.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.members.get(name).and_then(Value::as_str)
    }

    /// A further member of the JSON object. `retryable` is one that every problem has; here it can be said
    /// where the status doesn't tell.
    #[must_use]
    pub fn member(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.members.insert(name.to_owned(), value.into());
        self
    }

    /// After how many seconds to try again.
    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.headers.push((header::RETRY_AFTER, HeaderValue::from(seconds)));
        self
    }

    /// How to authenticate, for those who did not.
    #[must_use]
    pub fn challenge(mut self, scheme: &'static str) -> Self {
        self.headers.push((header::WWW_AUTHENTICATE, HeaderValue::from_static(scheme)));
        self
    }

    /// The JSON object.
    pub fn to_json(&self) -> Value {
        let mut object = Map::new();
        object.insert("type".into(), format!("{PROBLEM_BASE}{}", self.code).into());
        object.insert("title".into(), self.title.into());
        object.insert("status".into(), self.status.as_u16().into());
        object.insert("retryable".into(), passes(self.status).into());
        if let Some(detail) = &self.detail {
            object.insert("detail".into(), detail.as_str().into());
        }
        object.extend(self.members.clone());
        Value::Object(object)
    }

    /// The answer.
    pub fn into_response(self) -> Response {
        let mut response = http::Response::new(full(self.to_json().to_string()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.extend(self.headers);
        response
    }
}

/// Whether the same request can succeed later, as far as the status tells.
fn passes(status: StatusCode) -> bool {
    let never = [StatusCode::NOT_IMPLEMENTED, StatusCode::BAD_GATEWAY];
    let later = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS];
    later.contains(&status) || status.is_server_error() && !never.contains(&status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_says_whether_to_try_again() {
        for (status, retryable) in
            [(400, false), (408, true), (413, false), (421, false), (429, true), (503, true)]
        {
            let problem = Problem::new(StatusCode::from_u16(status).unwrap(), "x", "X");
            assert_eq!(problem.to_json()["retryable"], retryable, "{status}");
            let otherwise = problem.member("retryable", !retryable);
            assert_eq!(otherwise.to_json()["retryable"], !retryable, "{status}");
        }
    }
}
