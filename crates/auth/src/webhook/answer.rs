//! What comes back from the webhook, good or not.

use std::time::Duration;

use serde::Deserialize;

/// Most bytes of an answer.
pub const ANSWER_BYTES_MAX: usize = 4096;

/// Why the webhook has not answered. Each refuses what was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// It can't be reached, or the exchange broke.
    #[error("it can't be reached: {0}")]
    Unreachable(String),
    /// It didn't answer within `auth.webhook.deadline`.
    #[error("no answer within {0:?} (auth.webhook.deadline)")]
    Late(Duration),
    /// It answered with another status than one of success. 403 is a refusal, and no failure.
    #[error("it answers with the status {0}")]
    Status(u16),
    /// Its answer has too many bytes.
    #[error("its answer has more than {ANSWER_BYTES_MAX} bytes")]
    Oversized,
    /// Its answer is no answer.
    #[error("its answer is not {{\"allow\": true}} or {{\"allow\": false}}, with or without a ttl: {0}")]
    Malformed(String),
    /// It has not been asked, because as many questions as may be are under way (`auth.webhook.questions`).
    #[error("too many questions are under way (auth.webhook.questions)")]
    Busy,
    /// It has not been asked, because the request has waited for another answer in vain.
    #[error("its request has waited for as long as it may take (auth.webhook.deadline)")]
    Unasked,
    /// It has not been asked, because the headers to be forwarded are too long.
    #[error("the headers to be forwarded have too many bytes")]
    TooLong,
}

impl Failure {
    /// Every word, for metrics that start at zero.
    pub(super) const WORDS: [&str; 8] =
        ["unreachable", "late", "status", "oversized", "malformed", "busy", "unasked", "too-long"];

    /// The word.
    pub(super) fn as_str(&self) -> &'static str {
        match self {
            Failure::Unreachable(_) => "unreachable",
            Failure::Late(_) => "late",
            Failure::Status(_) => "status",
            Failure::Oversized => "oversized",
            Failure::Malformed(_) => "malformed",
            Failure::Busy => "busy",
            Failure::Unasked => "unasked",
            Failure::TooLong => "too-long",
        }
    }
}

/// What a good answer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(crate) struct Said {
    pub(super) allow: bool,
    /// For how many seconds it may be given again.
    pub(super) ttl: Option<u64>,
}

/// Reads an answer. Members that it doesn't know are passed over; what it has to know is there, or nothing is granted.
pub(crate) fn read(body: &[u8]) -> Result<Said, Failure> {
    if body.len() > ANSWER_BYTES_MAX {
        return Err(Failure::Oversized);
    }
    serde_json::from_slice(body).map_err(|error| Failure::Malformed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_allowed_but_by_a_word() {
        let said = |text: &str| read(text.as_bytes()).map(|said| (said.allow, said.ttl));
        assert_eq!(said(r#"{"allow": true}"#), Ok((true, None)));
        assert_eq!(said(r#"{"allow": false, "ttl": 60, "why": "banned"}"#), Ok((false, Some(60))));
        for text in [
            "",
            "{}",
            "true",
            "<html>",
            r#"{"allow": "true"}"#,
            r#"{"allow": 1}"#,
            r#"{"allow": null}"#,
            r#"{"allowed": true}"#,
            r#"{"Allow": true}"#,
            r#"{"allow": true, "ttl": -1}"#,
            r#"{"allow": true, "ttl": "60"}"#,
            r#"{"allow": true, "ttl": 1.5}"#,
            r#"{"allow": false, "allow": true}"#,
            r#"{"allow": true} {"#,
        ] {
            assert!(matches!(said(text), Err(Failure::Malformed(_))), "{text}: {:?}", said(text));
        }
        let long = format!(r#"{{"allow": true, "pad": "{}"}}"#, "x".repeat(ANSWER_BYTES_MAX));
        assert_eq!(said(&long), Err(Failure::Oversized));
    }
}
