//! Query strings: every key known, each at most once, errors that name the near match.

use http::StatusCode;

use crate::hint::{near_match, shown};
use crate::problem::Problem;

/// The pairs of a query string, percent-decoded.
#[derive(Debug, Default)]
pub struct Query {
    pairs: Vec<(String, String)>,
}

impl Query {
    /// Parses `query` (without the `?`); only keys in `known` may occur, each once.
    pub fn parse(query: Option<&str>, known: &[&str]) -> Result<Self, Problem> {
        let mut pairs: Vec<(String, String)> = Vec::new();
        for (key, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            if !known.contains(&&*key) {
                return Err(unknown_key(&key, known));
            }
            if pairs.iter().any(|(seen, _)| *seen == key) {
                return Err(bad_value(&key, "is given twice; give it once, values separated by commas"));
            }
            pairs.push((key.into_owned(), value.into_owned()));
        }
        Ok(Query { pairs })
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.pairs.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// Whether `key` is on: `1` or `true`; `0`, `false` and absence are off.
    pub fn flag(&self, key: &str) -> Result<bool, Problem> {
        match self.get(key) {
            None | Some("0" | "false") => Ok(false),
            Some("1" | "true" | "") => Ok(true),
            Some(other) => Err(bad_value(key, &format!("is {other:?}; it is 1 or 0, true or false"))),
        }
    }

    /// The number that `key` has, between `least` and `most`.
    pub fn number(&self, key: &str, least: u64, most: u64) -> Result<Option<u64>, Problem> {
        let Some(text) = self.get(key) else { return Ok(None) };
        match text.parse() {
            Ok(number) if (least..=most).contains(&number) => Ok(Some(number)),
            _ => Err(bad_value(key, &format!("is {text:?}; it is a whole number from {least} to {most}"))),
        }
    }
}

/// The problem with the value of a query key.
pub fn bad_value(key: &str, what: &str) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "bad-query", "The query string is wrong")
        .detail(format!("{key} {what}"))
        .member("key", key)
}

fn unknown_key(key: &str, known: &[&str]) -> Problem {
    let hint = match near_match(key, known) {
        Some(near) => format!("did you mean {near}?"),
        None => format!("known are {}", known.join(", ")),
    };
    bad_value(&shown(key), &format!("is not a key of this path; {hint}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[&str] = &["channels", "lastEventId", "envelope"];

    #[test]
    fn unknown_keys_name_their_near_match() {
        let detail = |q: &str| Query::parse(Some(q), KNOWN).err().map(|p| p.to_json()["detail"].to_string());
        assert!(detail("channel=a").unwrap().contains("did you mean channels?"));
        assert!(detail("last_event_id=1").unwrap().contains("did you mean lastEventId?"));
        assert!(detail("zzz=1").unwrap().contains("known are channels"));
        let long = detail(&format!("{}=1", "channels".repeat(1000))).unwrap();
        assert!(long.contains("known are channels") && long.len() < 300, "{long}");
        assert!(detail("channels=a&channels=b").unwrap().contains("given twice"));
        let query = Query::parse(Some("channels=a%2Cb&envelope=1"), KNOWN).unwrap();
        assert_eq!(query.get("channels"), Some("a,b"));
        assert!(query.flag("envelope").unwrap());
    }
}
