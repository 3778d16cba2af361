//! Why somebody may not, as every door says it.

use foghorn_http::problem::Problem;
use http::StatusCode;

use crate::token::TokenError;

/// Why a request is refused. Nothing of a token is ever in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no credential, and one is needed.
    #[error(
        "{0} needs a credential: a token, as `Authorization: Bearer …` or in the cookie that is configured \
         for it"
    )]
    NoCredential(String),
    /// There is one, and it is not believed.
    #[error("the token is refused: {0}")]
    BadCredential(#[from] TokenError),
    /// There is a good one, and it doesn't allow this.
    #[error("the token doesn't allow {what} {to}")]
    Denied {
        /// What it doesn't allow.
        what: &'static str,
        /// On which channel or pattern.
        to: String,
    },
    /// It came in a cookie, and no page of a known origin is said to have asked.
    #[error(
        "a request that is known by its cookie has to come from a page of an allowed origin (http.origins), \
         and say so with Origin or Sec-Fetch-Site; other clients send Authorization"
    )]
    Forged,
    /// The key that would verify its token may be had later.
    #[error(
        "the token can't be verified now: its key, or whether that is still good, has to be fetched from its \
             issuer first; try again"
    )]
    KeysUnavailable {
        /// In how many seconds to try again.
        seconds: u32,
        /// Whether a fetch is on its way.
        soon: bool,
    },
}

impl Refusal {
    /// Every [`code`](Self::code), for metrics that start at zero.
    pub const CODES: [&str; 5] =
        ["unauthenticated", "bad-credential", "access-denied", "origin", "keys-unavailable"];

    /// The problem type in the catalogue (`docs/problems.md`).
    pub fn code(&self) -> &'static str {
        match self {
            Refusal::NoCredential(_) => "unauthenticated",
            Refusal::BadCredential(_) => "bad-credential",
            Refusal::Denied { .. } => "access-denied",
            Refusal::Forged => "origin",
            Refusal::KeysUnavailable { .. } => "keys-unavailable",
        }
    }

    /// The title of every problem of its type.
    pub fn title(&self) -> &'static str {
        match self {
            Refusal::NoCredential(_) => "A credential is needed",
            Refusal::BadCredential(_) => "The credential is refused",
            Refusal::Denied { .. } => "Access denied",
            Refusal::Forged => "Pages of this origin may not use this server",
            Refusal::KeysUnavailable { .. } => "The token can't be verified now",
        }
    }

    /// As HTTP answers it.
    pub fn to_problem(&self) -> Problem {
        let status = match self {
            Refusal::NoCredential(_) | Refusal::BadCredential(_) => StatusCode::UNAUTHORIZED,
            Refusal::Denied { .. } | Refusal::Forged => StatusCode::FORBIDDEN,
            Refusal::KeysUnavailable { .. } => StatusCode::SERVICE_UNAVAILABLE,
        };
        let problem = Problem::new(status, self.code(), self.title()).detail(self.to_string());
        match self {
            Refusal::NoCredential(_) => problem.challenge("Bearer"),
            Refusal::BadCredential(_) => problem.challenge("Bearer error=\"invalid_token\""),
            Refusal::Denied { to, .. } => problem.member("channel", to.as_str()),
            Refusal::Forged => problem,
            Refusal::KeysUnavailable { seconds, .. } => problem.retry_after(*seconds),
        }
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Problem {
        refusal.to_problem()
    }
}
