//! What the doctor has found.

use std::fmt;

use serde::Serialize;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    /// As it should be.
    Ok,
    /// It works, and could be better.
    Advice,
    /// Listeners suffer from it.
    Wrong,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    /// What, in a word.
    pub(super) check: &'static str,
    pub(super) verdict: Verdict,
    /// What was seen.
    pub(super) seen: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) mend: Option<&'static str>,
}

impl Finding {
    pub(super) fn ok(check: &'static str, seen: impl Into<String>) -> Self {
        Finding { check, verdict: Verdict::Ok, seen: seen.into(), mend: None }
    }

    pub(super) fn advice(check: &'static str, seen: impl Into<String>, mend: &'static str) -> Self {
        Finding { check, verdict: Verdict::Advice, seen: seen.into(), mend: Some(mend) }
    }

    pub(super) fn wrong(check: &'static str, seen: impl Into<String>, mend: &'static str) -> Self {
        Finding { check, verdict: Verdict::Wrong, seen: seen.into(), mend: Some(mend) }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match self.verdict {
            Verdict::Ok => "ok",
            Verdict::Advice => "advice",
            Verdict::Wrong => "WRONG",
        };
        write!(f, "{verdict:<7} {:<12} {}", self.check, self.seen)?;
        match self.mend {
            Some(mend) => write!(f, "\n{:>20} mend: {mend}", ""),
            None => Ok(()),
        }
    }
}
