//! Why an event was not published, in the terms of every door.

use foghorn_auth::Refusal;
use foghorn_bus::journal::AppendError;
use foghorn_core::event::EventError;
use foghorn_http::limit::Exceeded;
use foghorn_http::problem::Problem;
use http::StatusCode;
use tonic::{Code, Status};

/// The metadata key under which a gRPC status says its problem type.
pub const PROBLEM_METADATA: &str = "foghorn-problem";

/// Why an event (or a whole request) was refused: what was wrong, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct PublishError {
    /// The problem type in the catalogue (`docs/problems.md`), such as `bad-channel`.
    pub code: &'static str,
    /// What was wrong, where, and what to do.
    pub message: String,
    /// Whether the same request can succeed later.
    pub retryable: bool,
    /// The JSON key that is wrong, where there is one.
    pub key: Option<String>,
    kind: Kind,
    /// Whoever may not, and why.
    refusal: Option<Refusal>,
}

/// What a door answers with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Unknown,
    Forbidden,
    Invalid,
    TooLarge,
    Overloaded,
    Limited(Exceeded),
    Draining,
    Full,
    Unavailable,
    Refused,
    Lost,
}

impl PublishError {
    /// The request itself is not what it should be.
    pub(crate) fn invalid(code: &'static str, message: impl Into<String>) -> Self {
        PublishError::new(Kind::Invalid, code, message, false)
    }

    /// More than fits one request.
    pub(crate) fn too_large(code: &'static str, message: impl Into<String>) -> Self {
        PublishError::new(Kind::TooLarge, code, message, false)
    }

    /// As many events are being published as may be.
    pub(crate) fn overloaded() -> Self {
        let message = "as many events are being published as this server takes at a time; retry later";
        PublishError::new(Kind::Overloaded, "overloaded", message, true)
    }

    /// Whoever publishes does so too fast, which a key says the limit of.
    pub(crate) fn limited(key: &str, exceeded: Exceeded) -> Self {
        let message =
            format!("nothing of this request is published: it is more than {key} allows; retry later");
        PublishError::new(Kind::Limited(exceeded), "rate-limited", message, true)
    }

    /// The server is stopping.
    pub(crate) fn draining() -> Self {
        let message = "this server is stopping; publish through another, or retry";
        PublishError::new(Kind::Draining, "draining", message, true)
    }

    /// Nobody answered within the deadline.
    pub(crate) fn no_ack(deadline: std::time::Duration) -> Self {
        AppendError::Unavailable(format!("no ack within {deadline:?}")).into()
    }

    /// The journal acked the event and lost it.
    pub(crate) fn lost(position: foghorn_core::position::Position) -> Self {
        let message =
            format!("the journal lost the event after accepting it at {position}; publish it again");
        PublishError::new(Kind::Lost, "journal-lost", message, true)
    }

    /// This event was not tried, because of what became of an earlier one: so they keep their order when
    /// both are published again.
    pub(crate) fn not_tried(&self) -> Self {
        let message = format!(
            "not tried, because an event before it was not stored ({}); publish both again, in order",
            self.message
        );
        PublishError { message, ..self.clone() }
    }

    /// Names the wrong key.
    pub(crate) fn at(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    fn new(kind: Kind, code: &'static str, message: impl Into<String>, retryable: bool) -> Self {
        PublishError { code, message: message.into(), retryable, key: None, kind, refusal: None }
    }

    /// Whether it is for who asks, and not for what they ask.
    pub(crate) fn is_of_who_asks(&self) -> bool {
        matches!(self.kind, Kind::Unknown | Kind::Forbidden)
            || matches!(self.refusal, Some(Refusal::AuthoriserUnavailable { .. }))
    }

    /// The channel, if it is one that who asks may not publish on, or nobody knows whether they may.
    pub(crate) fn denied(&self) -> Option<&str> {
        self.refusal.as_ref().and_then(Refusal::channel)
    }

    /// What metrics count it as.
    pub(crate) fn outcome(&self) -> &'static str {
        match self.kind {
            Kind::Unknown => "unauthenticated",
            Kind::Forbidden => "denied",
            Kind::Invalid | Kind::TooLarge => "invalid",
            Kind::Overloaded => "overloaded",
            Kind::Limited(_) => "limited",
            Kind::Draining => "draining",
            Kind::Full => "full",
            Kind::Unavailable => "unavailable",
            Kind::Refused => "refused",
            Kind::Lost => "lost",
        }
    }

    /// As HTTP (and NATS) answer it. Retry-After is jittered, so that those refused together do not come
    /// back together.
    pub fn to_problem(&self) -> Problem {
        if let Some(refusal) = &self.refusal {
            return refusal.to_problem();
        }
        let (status, wait) = match self.kind {
            Kind::Unknown => (StatusCode::UNAUTHORIZED, None),
            Kind::Forbidden => (StatusCode::FORBIDDEN, None),
            Kind::Invalid => (StatusCode::BAD_REQUEST, None),
            Kind::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, None),
            Kind::Overloaded => (StatusCode::TOO_MANY_REQUESTS, Some(1..=3)),
            Kind::Limited(exceeded) => (StatusCode::TOO_MANY_REQUESTS, Some(exceeded.retry_after())),
            Kind::Full => (StatusCode::TOO_MANY_REQUESTS, Some(5..=15)),
            Kind::Draining | Kind::Unavailable | Kind::Lost => (StatusCode::SERVICE_UNAVAILABLE, Some(1..=3)),
            Kind::Refused => (StatusCode::BAD_GATEWAY, None),
        };
        let mut problem = Problem::new(status, self.code, title(self.code)).detail(self.message.clone());
        problem = problem.member("retryable", self.retryable);
        if let Some(key) = &self.key {
            problem = problem.member("key", key.as_str());
        }
        match wait {
            Some(seconds) => problem.retry_after(rand::random_range(seconds)),
            None => problem,
        }
    }

    /// As gRPC answers it; the problem type is in the metadata `foghorn-problem`.
    pub fn to_status(&self) -> Status {
        let code = match self.kind {
            Kind::Unknown => Code::Unauthenticated,
            Kind::Forbidden => Code::PermissionDenied,
            Kind::Invalid | Kind::TooLarge => Code::InvalidArgument,
            Kind::Overloaded | Kind::Limited(_) | Kind::Full => Code::ResourceExhausted,
            Kind::Draining | Kind::Unavailable | Kind::Lost => Code::Unavailable,
            Kind::Refused => Code::FailedPrecondition,
        };
        let mut status = Status::new(code, self.message.clone());
        let value = tonic::metadata::MetadataValue::from_static(self.code);
        status.metadata_mut().insert(PROBLEM_METADATA, value);
        status
    }
}

impl From<EventError> for PublishError {
    fn from(error: EventError) -> Self {
        let kind = match error {
            EventError::TooLarge { .. } => Kind::TooLarge,
            _ => Kind::Invalid,
        };
        let key = match error {
            EventError::Channel(_) => "channel",
            EventError::EventType(_) | EventError::Reserved(_) => "event",
            EventError::Id(_) => "id",
            EventError::Ttl => "ttl",
            EventError::NotUtf8 { .. } | EventError::TooLarge { .. } => "data",
        };
        PublishError::new(kind, error.code(), error.to_string(), false).at(key)
    }
}

impl From<Refusal> for PublishError {
    fn from(refusal: Refusal) -> Self {
        let kind = match refusal {
            Refusal::NoCredential(_) | Refusal::BadCredential(_) | Refusal::BadTicket => Kind::Unknown,
            Refusal::Denied { .. }
            | Refusal::DeniedByWebhook { .. }
            | Refusal::Forged
            | Refusal::ForeignTicket => Kind::Forbidden,
            Refusal::KeysUnavailable { .. }
            | Refusal::TicketsUnavailable { .. }
            | Refusal::AuthoriserUnavailable { .. } => Kind::Unavailable,
        };
        let retryable = matches!(kind, Kind::Unavailable);
        let error = PublishError::new(kind, refusal.code(), refusal.to_string(), retryable);
        PublishError { refusal: Some(refusal), ..error }
    }
}

impl From<AppendError> for PublishError {
    fn from(error: AppendError) -> Self {
        let (kind, code, retryable) = match error {
            AppendError::Full(_) => (Kind::Full, "journal-full", true),
            // Nothing of a fan-out's is appended behind a fence.
            AppendError::Unavailable(_) | AppendError::Fenced => {
                (Kind::Unavailable, "journal-unavailable", true)
            }
            AppendError::Refused(_) => (Kind::Refused, "journal-refused", false),
        };
        PublishError::new(kind, code, error.to_string(), retryable)
    }
}

/// The title of every problem of a type.
fn title(code: &str) -> &'static str {
    match code {
        "bad-channel" => "The channel is malformed",
        "bad-event-type" => "The event type is malformed",
        "reserved-event-type" => "The event type is reserved",
        "bad-event-id" => "The id is malformed",
        "bad-ttl" => "The ttl is malformed",
        "bad-ack" => "The ack class is unknown",
        "not-utf8" => "The data are not UTF-8",
        "event-too-large" => "The event is too large",
        "too-many-events" => "Too many events in one request",
        "bad-json" => "The body is not JSON",
        "bad-event" => "The event is malformed",
        "overloaded" => "Too much is being published at a time",
        "rate-limited" => "Too many requests",
        "draining" => "This server is stopping",
        "journal-full" => "The journal is full",
        "journal-unavailable" => "The journal can't be reached",
        "journal-refused" => "The journal refused the event",
        "journal-lost" => "The journal lost the event",
        _ => "The event was not published",
    }
}
