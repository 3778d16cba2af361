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
    /// The webhook authoriser doesn't allow it, and nothing else does.
    #[error("the authoriser doesn't allow {what} {to}")]
    DeniedByWebhook {
        /// What it doesn't allow.
        what: &'static str,
        /// On which channel or pattern.
        to: String,
    },
    /// Whether the webhook authoriser allows it can't be known now.
    #[error("{what} {to} is up to an authoriser that doesn't answer now; try again")]
    AuthoriserUnavailable {
        /// What it would have to allow.
        what: &'static str,
        /// On which channel or pattern.
        to: String,
        /// In how many seconds to try again.
        seconds: u32,
    },
    /// It came in a cookie, and no page of a known origin is said to have asked.
    #[error(
        "a request that is known by its cookie has to come from a page of an allowed origin (http.origins), \
         and say so with Origin or Sec-Fetch-Site; other clients send Authorization"
    )]
    Forged,
    /// Its ticket opens nothing, now or ever.
    #[error(
        "the ticket is refused: it is unknown, over, or was redeemed before; a reconnect needs the cookie that \
         came with the stream (withCredentials), everybody else a new ticket"
    )]
    BadTicket,
    /// Its ticket is for pages of another origin.
    #[error("the ticket was given to pages of another origin")]
    ForeignTicket,
    /// Whether its ticket is good can't be known now.
    #[error("tickets can't be looked up now, because NATS doesn't answer; try again")]
    TicketsUnavailable {
        /// In how many seconds to try again.
        seconds: u32,
    },
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
    pub const CODES: [&str; 8] = [
        "unauthenticated",
        "bad-credential",
        "access-denied",
        "authoriser-unavailable",
        "origin",
        "keys-unavailable",
        "bad-ticket",
        "tickets-unavailable",
    ];

    /// The problem type in the catalogue (`docs/problems.md`).
    pub fn code(&self) -> &'static str {
        match self {
            Refusal::NoCredential(_) => "unauthenticated",
            Refusal::BadCredential(_) => "bad-credential",
            Refusal::Denied { .. } | Refusal::DeniedByWebhook { .. } => "access-denied",
            Refusal::AuthoriserUnavailable { .. } => "authoriser-unavailable",
            Refusal::Forged => "origin",
            Refusal::KeysUnavailable { .. } => "keys-unavailable",
            Refusal::BadTicket => "bad-ticket",
            Refusal::ForeignTicket => "origin",
            Refusal::TicketsUnavailable { .. } => "tickets-unavailable",
        }
    }

    /// The title of every problem of its type.
    pub fn title(&self) -> &'static str {
        match self {
            Refusal::NoCredential(_) => "A credential is needed",
            Refusal::BadCredential(_) => "The credential is refused",
            Refusal::Denied { .. } | Refusal::DeniedByWebhook { .. } => "Access denied",
            Refusal::AuthoriserUnavailable { .. } => "Access can't be decided now",
            Refusal::Forged | Refusal::ForeignTicket => "Pages of this origin may not use this server",
            Refusal::BadTicket => "The ticket is refused",
            Refusal::TicketsUnavailable { .. } => "Tickets can't be kept or looked up now",
            Refusal::KeysUnavailable { .. } => "The token can't be verified now",
        }
    }

    /// As HTTP answers it.
    pub fn to_problem(&self) -> Problem {
        let status = match self {
            Refusal::NoCredential(_) | Refusal::BadCredential(_) | Refusal::BadTicket => {
                StatusCode::UNAUTHORIZED
            }
            Refusal::Denied { .. }
            | Refusal::DeniedByWebhook { .. }
            | Refusal::Forged
            | Refusal::ForeignTicket => StatusCode::FORBIDDEN,
            Refusal::KeysUnavailable { .. }
            | Refusal::TicketsUnavailable { .. }
            | Refusal::AuthoriserUnavailable { .. } => StatusCode::SERVICE_UNAVAILABLE,
        };
        let problem = Problem::new(status, self.code(), self.title()).detail(self.to_string());
        match self {
            Refusal::NoCredential(_) => problem.challenge("Bearer"),
            Refusal::BadCredential(_) | Refusal::BadTicket => {
                problem.challenge("Bearer error=\"invalid_token\"")
            }
            Refusal::Denied { to, .. } | Refusal::DeniedByWebhook { to, .. } => {
                problem.member("channel", to.as_str())
            }
            Refusal::AuthoriserUnavailable { to, seconds, .. } => {
                problem.member("channel", to.as_str()).retry_after(*seconds)
            }
            Refusal::Forged | Refusal::ForeignTicket => problem,
            Refusal::KeysUnavailable { seconds, .. } | Refusal::TicketsUnavailable { seconds } => {
                problem.retry_after(*seconds)
            }
        }
    }

    /// On which channel or pattern something is not allowed, if it is about one.
    pub fn channel(&self) -> Option<&str> {
        match self {
            Refusal::Denied { to, .. }
            | Refusal::DeniedByWebhook { to, .. }
            | Refusal::AuthoriserUnavailable { to, .. } => Some(to),
            _ => None,
        }
    }

    /// After how many seconds the same request may be granted; none when that is for ever refused.
    pub fn passes_after(&self) -> Option<u32> {
        match self {
            Refusal::KeysUnavailable { seconds, .. }
            | Refusal::TicketsUnavailable { seconds }
            | Refusal::AuthoriserUnavailable { seconds, .. } => Some(*seconds),
            _ => None,
        }
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Problem {
        refusal.to_problem()
    }
}
